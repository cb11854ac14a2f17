//! The real binary: exit codes, what it says, and how it ends.
#![allow(clippy::disallowed_methods)] // configuration files are written here

use std::time::Duration;

use apiserver_standin::{Client, Existing, Fault, Protocol, secrets};
use assert_cmd::Command;
use serde_json::json;

use crate::process::Process;
use crate::support::{DEADLINE, Node, PROTOCOLS, config_map, eventually, names};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

fn edgehold(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_edgehold"))
        .args(args)
        .timeout(DEADLINE)
        .output()
        .unwrap();
    secrets::search("standard output", &output.stdout);
    secrets::search("standard error", &output.stderr);
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

/// A node whose files are there and whose edgehold does not run in this process.
async fn stopped_node() -> Node {
    let mut node = Node::start().await;
    node.stop().await;
    node
}

fn kubelet(node: &Node, address: std::net::SocketAddr) -> Client {
    Client::new(address, node.api.ca_pem(), Some(&node.pair("kubelet")))
}

#[test]
fn version_is_one_line_on_stdout() {
    let (code, out, err) = edgehold(&["version"]);
    let expected = format!(
        "edgehold {} ({} {})\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH
    );
    assert_eq!((code, out, err), (0, expected, String::new()));
}

#[test]
fn bash_completes_commands_and_options() {
    let (code, script, err) = edgehold(&["completions", "bash"]);
    assert_eq!((code, err.as_str()), (0, ""));
    // As bash would: the words so far, and then what the function offers.
    let offered = |words: &str| {
        let ask = format!(
            "{script}\nCOMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))\n\
             _edgehold edgehold \"${{COMP_WORDS[COMP_CWORD]}}\" \"${{COMP_WORDS[COMP_CWORD-1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash")
            .args(["--norc", "-c", &ask])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        said.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(offered("edgehold un"), ["uninstall"]);
    assert_eq!(offered("edgehold check --off"), ["--offline"]);
    assert_eq!(offered("edgehold install --dry"), ["--dry-run"]);
}

#[test]
fn every_shell_gets_a_script_with_every_command_and_others_are_refused() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = edgehold(&["completions", shell]);
        assert_eq!(code, 0, "{shell}");
        for word in [
            "run",
            "check",
            "install",
            "uninstall",
            "version",
            "status",
            "certs",
            "cache",
            "offline",
            "dry-run",
        ] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let (code, out, err) = edgehold(&["completions", "csh"]);
    assert_eq!((code, out.as_str()), (64, ""));
    assert!(err.contains("bash, zsh, fish"), "{err}");
}

#[test]
fn there_is_a_manual_page_for_each_command() {
    let (code, page, err) = edgehold(&["man"]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(
        page.contains(".TH edgehold 1") && page.contains("Exit codes"),
        "{page}"
    );
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().display().to_string();
    assert_eq!(edgehold(&["man", "--directory", &path]).0, 0);
    for command in ["check", "install", "run", "status", "cache-ls"] {
        let page = std::fs::read_to_string(directory.path().join(format!("edgehold-{command}.1"))).unwrap();
        assert!(
            page.contains("edgehold") && page.contains("\\-\\-help"),
            "{command}: {page}"
        );
    }
    let (code, _, err) = edgehold(&["man", "--directory", "/dev/null"]);
    assert!(code == 1 && err.contains("/dev/null"), "{code} {err}");
}

#[test]
fn a_wrong_command_line_exits_64() {
    for args in [&["rum"][..], &[], &["run", "--confg", "x"]] {
        let (code, out, err) = edgehold(args);
        assert_eq!((code, out.as_str()), (64, ""), "{args:?}");
        assert!(!err.is_empty(), "{args:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_accepts_a_good_file_and_names_the_line_of_a_mistake() {
    let node = stopped_node().await;
    let path = node.write_config();
    let file = path.to_str().unwrap();
    let (code, out, err) = edgehold(&["check", "--config", file]);
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.starts_with(&format!("{file}: ok\n")), "{out}");
    assert!(out.contains("client system:node:edge-1"), "{out}");

    let text = node.config_text();
    let line = 1 + text
        .lines()
        .position(|line| line.trim_start().starts_with("connectTimeout"))
        .unwrap();
    std::fs::write(&path, text.replace("connectTimeout", "connectTimeOut")).unwrap();
    for command in ["check", "run"] {
        let (code, out, err) = edgehold(&[command, "--config", file]);
        assert_eq!((code, out.as_str()), (64, ""), "{command}");
        assert!(err.contains(&format!("{file}:{line}:")), "{command}: {err}");
        assert!(err.contains("did you mean `connectTimeout`?"), "{command}: {err}");
    }
    let (code, _, err) = edgehold(&["check", "--config", "/nowhere/edgehold.yaml"]);
    assert_eq!(code, 64);
    assert!(err.contains("/nowhere/edgehold.yaml"), "{err}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_once_and_clearly() {
    let node = stopped_node().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let path = node.write_config();
    std::fs::write(&path, node.config_text().replace("127.0.0.1:0", &address)).unwrap();
    let (code, out, err) = edgehold(&["run", "--config", path.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert_eq!(
        err,
        format!("edgehold: cannot listen on {address}: Address already in use (os error 98)\n")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_another_process_uses_is_not_touched_and_named() {
    let node = Node::start().await;
    let path = node.write_config();
    let (code, out, err) = edgehold(&["run", "--config", path.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""));
    let cache = node.cache_dir().display().to_string();
    assert_eq!(err.lines().count(), 1, "{err}");
    assert!(
        err.starts_with("edgehold: ") && err.contains(&cache) && err.contains("another process uses"),
        "{err}"
    );
    assert_eq!(
        node.kubelet().get("/version").await.status,
        200,
        "the first one goes on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_open_watches_cleanly_writes_everything_down_and_exits_0() {
    let mut node = stopped_node().await;
    node.api.put(config_map("shop", "a", "1"));
    let mut process = Process::run(&node.write_config());
    let client = kubelet(&node, process.address().await);
    let version = client.get(LIST).await.json()["metadata"]["resourceVersion"].clone();
    let mut connection = client.connect().await.unwrap();
    let target = format!("{LIST}?watch=true&resourceVersion={}", version.as_str().unwrap());
    let mut watch = connection.lines(&target).await.unwrap();
    node.api.put(config_map("shop", "b", "2"));
    assert_eq!(watch.next().await.unwrap().unwrap()["type"], json!("ADDED"));

    process.signal("TERM");
    assert_eq!(
        watch.next().await,
        Ok(None),
        "the watch ends as upstream would end it"
    );
    // The drain itself is given ten seconds; nothing here has any use for them.
    let status = process.end_within(Duration::from_secs(8)).await;
    assert_eq!(status.code(), Some(0), "{}", process.log());

    node.api.fault(Fault::Refuse(Existing::Cut));
    node.launch().await;
    let kept = node.kubelet().get(LIST).await;
    assert_eq!(
        (kept.status, names(&kept.json())),
        (200, vec!["a".into(), "b".into()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait_for_what_is_under_way() {
    let node = stopped_node().await;
    node.api.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "web"}, "spec": {"containers": [{"name": "web", "image": "i"}]}}));
    let mut process = Process::run(&node.write_config());
    let client = kubelet(&node, process.address().await);
    let mut connection = client.connect().await.unwrap();
    let target = "/api/v1/namespaces/shop/pods/web/log?follow=true";
    let followed = connection.open("GET", target, "").await.unwrap();
    assert_eq!(followed.status(), 200);

    process.signal("TERM");
    process.logged(&["stopping"]).await;
    assert!(process.ended().is_none(), "it waits for the log to end");
    process.signal("INT");
    // Well below the ten seconds that the log would be waited for.
    let status = process.end_within(Duration::from_secs(5)).await;
    assert!(process.log().contains("aborted"), "{}", process.log());
    assert_eq!(status.code(), Some(1), "it is no orderly end");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_when_it_serves_lives_and_stops() {
    let node = stopped_node().await;
    let path = node.dir.path().join("notify.sock");
    let socket = tokio::net::UnixDatagram::bind(&path).unwrap();
    let told = || async {
        loop {
            let mut message = [0; 256];
            let received = tokio::time::timeout(DEADLINE, socket.recv(&mut message)).await;
            let length = received.expect("it says something").unwrap();
            let message = String::from_utf8_lossy(&message[..length]).trim().to_owned();
            if !message.starts_with("STATUS=") {
                return message;
            }
        }
    };
    let environment = format!(
        "export NOTIFY_SOCKET={} WATCHDOG_USEC=600000; unset WATCHDOG_PID",
        path.display()
    );
    let mut process = Process::run_after(&environment, &node.write_config());
    assert_eq!(told().await, "READY=1");
    let address = process.address().await;
    assert_eq!(kubelet(&node, address).get("/version").await.status, 200);
    for _ in 0..3 {
        assert_eq!(told().await, "WATCHDOG=1");
    }
    process.signal("TERM");
    while told().await != "STOPPING=1" {}
    let status = process.end_within(Duration::from_secs(8)).await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_finishes_what_is_under_way_and_takes_nothing_new() {
    let node = stopped_node().await;
    node.api.put(config_map("shop", "a", "1"));
    let mut process = Process::run(&node.write_config());
    let address = process.address().await;
    let client = kubelet(&node, address);
    node.api.fault(Fault::Delay(Duration::from_secs(1)).on(LIST));
    for protocol in PROTOCOLS {
        let mut connection = client.clone().protocol(protocol).connect().await.unwrap();
        let asking = connection.send("GET", LIST, "");
        let before = node.asked("GET", LIST);
        let stopping = async {
            eventually("this request is under way", || async {
                node.asked("GET", LIST) > before
            })
            .await;
            process.signal("TERM");
            process.logged(&["stopping"]).await;
            eventually("nobody listens any more", || async {
                tokio::net::TcpStream::connect(address).await.is_err()
            })
            .await;
        };
        if protocol == Protocol::Http1 {
            assert_eq!(asking.await.unwrap().status, 200);
            continue;
        }
        let (answer, ()) = tokio::join!(asking, stopping);
        assert_eq!(answer.unwrap().status, 200);
        assert!(connection.send("GET", "/version", "").await.is_err());
    }
    let status = process.end_within(Duration::from_secs(8)).await;
    assert_eq!(status.code(), Some(0), "{}", process.log());
}

/// Whatever the cloud has carried out is answered, whichever of the two comes first: the answer or the end of the process.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_to_a_write_is_lost_at_a_stop() {
    const ROUNDS: usize = 10;
    const WRITES: usize = 4;
    let node = stopped_node().await;
    node.api.fault(Fault::Delay(Duration::from_millis(150)).on(LIST));
    let sent = || {
        let all = node.api.requests();
        all.iter().filter(|seen| seen.method == "POST").count()
    };
    for round in 0..ROUNDS {
        let before = sent();
        let protocol = [Protocol::Http2, Protocol::Http1][round % 2];
        let mut process = Process::run(&node.write_config());
        let client = kubelet(&node, process.address().await)
            .protocol(protocol)
            .header("content-type", "application/json");
        eventually("edgehold has found the cloud", || async {
            client.get("/version").await.status == 200
        })
        .await;
        let writes = (0..WRITES).map(|n| {
            let client = client.clone();
            async move {
                let name = format!("r{round}-{n}");
                let object = config_map("shop", &name, "1").to_string();
                let answer = client.send("POST", LIST, object).await;
                (name, answer)
            }
        });
        let stopping = async {
            eventually("a write is under way", || async { sent() > before }).await;
            process.signal("TERM");
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(writes), stopping);
        let status = process.end_within(Duration::from_secs(8)).await;
        assert_eq!(status.code(), Some(0), "{}", process.log());
        for (name, answer) in answers {
            let there = node.api.get("ConfigMap", "shop", &name).is_some();
            let answered = answer.as_ref().is_ok_and(|answer| answer.status == 201);
            assert_eq!(
                there,
                answered,
                "round {round}, {name}: {answer:?}; {}",
                process.log()
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_no_terminal_reads_has_no_colours_and_no_secrets() {
    let node = stopped_node().await;
    let config = node.write_config();
    std::fs::write(&config, node.config_text() + "log: {level: debug}\n").unwrap();
    let token = node.api.service_account_token("shop", "default");
    node.api.put(config_map("shop", "a", "sauerkraut"));
    let process = Process::run(&config);
    let address = process.address().await;
    let client = Client::new(address, node.api.ca_pem(), None).token(&token);
    assert_eq!(client.get(LIST).await.status, 200);
    let words = [
        "request client=\"default\" verb=\"list\" resource=\"configmaps\"",
        LIST,
        "route=\"read\"",
        "took=",
        "audit_id=",
    ];
    process.logged(&words).await;
    let log = process.log();
    assert!(!log.contains('\u{1b}'), "{log:?}");
    assert!(!log.contains(&token) && !log.contains("sauerkraut"), "{log}");
    for key in ["serving", "kubelet"] {
        let pem = node.pair(key).key_pem;
        let secret = pem.lines().nth(1).unwrap();
        assert!(!log.contains(secret), "the key of {key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_leaves_no_core_file() {
    use std::os::unix::process::ExitStatusExt;
    let node = stopped_node().await;
    let mut process = Process::run_after("ulimit -S -c $(ulimit -H -c)", &node.write_config());
    process.address().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let limits: Vec<&str> = line.split_whitespace().skip(4).take(2).collect();
    assert_eq!(limits, ["1", "1"], "soft and hard");
    process.signal("ABRT");
    let status = process.end_within(DEADLINE).await;
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}
