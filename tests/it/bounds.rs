//! What the node's clients may cost it: descriptors, and who loses what when there is too much.

#![allow(clippy::disallowed_methods)] // a full disk is made here

use std::process::Command;
use std::time::Duration;

use apiserver_standin::{Client, Existing, Fault, ServiceAccountToken};
use serde_json::json;
use tokio::net::TcpStream;

use crate::process::Process;
use crate::support::{
    DEADLINE, Node, change, config_map, eventually, files_below, names, version, watch_from,
};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

/// More selectors than views may be open.
const SELECTORS: usize = 400;

fn descriptors(process: &Process) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    open.count()
}

fn selected(n: usize) -> String {
    format!("{LIST}?labelSelector=job%3D{n}")
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_with_a_selector_of_their_own_leave_few_descriptors_and_all_are_answered_offline() {
    let mut node = Node::start().await;
    node.stop().await;
    for n in [0, SELECTORS - 1] {
        let mut object = config_map("shop", &format!("of-{n}"), "1");
        object["metadata"]["labels"] = json!({"job": n.to_string()});
        node.api.put(object);
    }
    let process = Process::run(&node.write_config());
    let client = Client::new(
        process.address().await,
        node.api.ca_pem(),
        Some(&node.pair("kubelet")),
    );
    let mut connection = client.connect().await.unwrap();
    let before = descriptors(&process);
    for n in 0..SELECTORS {
        assert_eq!(
            connection.send("GET", &selected(n), "").await.unwrap().status,
            200
        );
    }
    eventually("few descriptors are left", || async {
        descriptors(&process) < before + 280
    })
    .await;

    node.api.fault(Fault::Refuse(Existing::Cut));
    for n in [0, SELECTORS - 1] {
        let target = selected(n);
        eventually("the cloud is seen to be away", || async {
            let answer = client.get(&target).await;
            answer.status == 200 && !answer.header("age").is_empty()
        })
        .await;
        let kept = client.get(&target).await;
        assert_eq!(names(&kept.json()), [format!("of-{n}")]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_descriptors_is_raised_to_what_is_allowed() {
    let mut node = Node::start().await;
    node.stop().await;
    let mut process = Process::run_after("ulimit -S -n 300; ulimit -H -n 2000", &node.write_config());
    process.address().await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.id())).unwrap();
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))
        .unwrap();
    let limits: Vec<&str> = line.split_whitespace().skip(3).take(2).collect();
    assert_eq!(limits, ["2000", "2000"], "soft and hard");
    process
        .logged(&["few descriptors", "before=", "300", "2000"])
        .await;
    process.signal("TERM");
    process.end_within(Duration::from_secs(8)).await;
}

/// What this node lacks says nothing of the cloud, and takes nothing away from who is connected.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_descriptor_left_the_link_is_what_it_was_and_who_is_connected_is_served() {
    const FEW: usize = 120;
    let mut node = Node::start().await;
    node.stop().await;
    node.api.put(config_map("shop", "a", "1"));
    let shell =
        format!("ulimit -S -n {FEW}; ulimit -H -n {FEW}; export EDGEHOLD_LOG=info,edgehold::upstream=debug");
    let process = Process::run_after(&shell, &node.write_config());
    let address = process.address().await;
    let client = Client::new(address, node.api.ca_pem(), Some(&node.pair("kubelet")));
    let object = format!("{LIST}/a");
    let mut kubelet = client.connect().await.unwrap();
    assert_eq!(kubelet.send("GET", &object, "").await.unwrap().status, 200);
    let mut watching = client.connect().await.unwrap();
    let target = watch_from(LIST, &node.api.revision().to_string());
    let mut watch = watching.lines(&target).await.unwrap();

    let mut strangers = Vec::new();
    for _ in 0..2 * FEW {
        // Those beyond what may wait to be accepted are not waited for.
        let connecting = TcpStream::connect(address);
        if let Ok(Ok(stranger)) = tokio::time::timeout(Duration::from_millis(50), connecting).await {
            strangers.push(stranger);
        }
    }
    process.logged(&["WARN", "cannot accept connections"]).await;
    for n in 0..20 {
        let answer = kubelet.send("GET", &object, "").await.unwrap();
        assert_eq!((answer.status, answer.header("cache-status")), (200, ""), "{n}");
        let name = format!("b-{n}");
        node.api.put(config_map("shop", &name, "1"));
        assert_eq!(change(&mut watch).await, ("ADDED".to_owned(), name));
    }
    // A list takes a connection of its own to the cloud. One of the strangers may have just gone.
    let list = kubelet.send("GET", LIST, "").await.unwrap();
    let is_told = list.status == 503 && list.text().contains("no descriptor");
    assert!(list.status == 200 || is_told, "{}: {}", list.status, list.text());
    drop(strangers);
    eventually("there is room again", || async {
        kubelet_lists(&client).await == Some(200)
    })
    .await;
    let log = process.log();
    assert!(
        log.contains("edgehold::upstream"),
        "it says what becomes of the link"
    );
    assert!(
        !log.contains("may be away") && !log.contains("cloud is away"),
        "{log}"
    );
}

async fn kubelet_lists(client: &Client) -> Option<u16> {
    Some(client.send("GET", LIST, "").await.ok()?.status)
}

/// Logs that were evicted and are open still.
fn deleted_but_open(process: &Process) -> usize {
    let open = std::fs::read_dir(format!("/proc/{}/fd", process.id())).unwrap();
    let links = open.filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok());
    links
        .filter(|link| {
            let link = link.to_string_lossy();
            link.contains("/cache/") && link.ends_with(" (deleted)")
        })
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_its_size_the_cache_lets_go_of_what_nobody_works_with_and_the_disk_has_it_back() {
    const SIZE: u64 = 1 << 20;
    let mut node = Node::start().await;
    node.stop().await;
    let large = "x".repeat(400 << 10);
    let list = |namespace: &str| format!("/api/v1/namespaces/{namespace}/configmaps");
    let namespaces = ["watched", "idle-1", "idle-2", "of-kubelet"];
    for namespace in namespaces {
        node.api.put(config_map(namespace, "a", &large));
    }
    let config = node.write_config();
    let text = node.config_text();
    let bounded = text.replace("{store: file,", "{store: file, maxSize: 1MiB,");
    assert_ne!(bounded, text);
    std::fs::write(&config, bounded).unwrap();
    let process = Process::run(&config);
    let address = process.address().await;
    let token = node.api.issue(&ServiceAccountToken::new("shop", "web"));
    let pod = Client::new(address, node.api.ca_pem(), None).token(&token);
    let kubelet = Client::new(address, node.api.ca_pem(), Some(&node.pair("kubelet")));
    assert_eq!(pod.get("/version").await.status, 200);
    assert_eq!(kubelet.get(&list("of-kubelet")).await.status, 200);
    // It is the one used longest ago, and watched.
    let watched = pod.get(&list("watched")).await;
    let target = watch_from(&list("watched"), &version(&watched.json()));
    let mut watching = pod.connect().await.unwrap();
    let mut watch = watching.lines(&target).await.unwrap();
    for namespace in ["idle-1", "idle-2"] {
        assert_eq!(pod.get(&list(namespace)).await.status, 200);
    }
    // It is looked at every half minute.
    let evicting = async {
        while !process.log().contains("evicted: the cache is larger") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(4 * DEADLINE, evicting)
        .await
        .expect("something is evicted");
    eventually("the disk has the bytes back", || async {
        let files = files_below(&node.cache_dir()).into_iter();
        let bytes: u64 = files
            .map(|file| std::fs::metadata(file).map_or(0, |file| file.len()))
            .sum();
        bytes <= SIZE && deleted_but_open(&process) == 0
    })
    .await;
    let log = process.log();
    let evicted: Vec<&str> = log.lines().filter(|line| line.contains("evicted: ")).collect();
    for namespace in ["watched", "of-kubelet"] {
        assert!(
            !evicted.iter().any(|line| line.contains(namespace)),
            "{evicted:?}"
        );
    }

    node.api.put(config_map("watched", "b", "1"));
    assert_eq!(change(&mut watch).await, ("ADDED".to_owned(), "b".to_owned()));
    node.api.fault(Fault::Refuse(Existing::Cut));
    eventually("the cloud is seen to be away", || async {
        !kubelet.get(&list("of-kubelet")).await.header("age").is_empty()
    })
    .await;
    assert_eq!(kubelet.get(&list("of-kubelet")).await.status, 200);
    let kept = pod.get(&list("watched")).await;
    assert_eq!(
        (kept.status, names(&kept.json())),
        (200, vec!["a".to_owned(), "b".to_owned()])
    );
    let gone = pod.get(&list("idle-1")).await;
    assert_eq!(gone.status, 503, "{}", gone.text());
}

/// Whether this process may make mount namespaces; says so if it may not.
fn may_mount() -> bool {
    let made = Command::new("unshare").args(["-m", "true"]).status();
    let may = made.is_ok_and(|status| status.success());
    if !may {
        eprintln!("SKIPPED: no mount namespace can be made here");
    }
    may
}

/// Runs edgehold in a mount namespace of its own, after these commands.
fn in_namespace(commands: &str) -> String {
    format!("exec unshare -m sh -c '{commands}\nexec \"$0\" run --config \"$1\"' \"$0\" \"$1\"")
}

async fn answered_from_cache(client: &Client, what: &str) {
    eventually(what, || async {
        let answer = client.get(LIST).await;
        answer.status == 200 && !answer.header("age").is_empty() && names(&answer.json()) == ["a"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_cache_on_a_full_disk_is_in_memory_until_the_disk_has_room() {
    if !may_mount() {
        return;
    }
    let mut node = Node::start().await;
    node.stop().await;
    node.api.put(config_map("shop", "a", "1"));
    let cache = node.cache_dir().display().to_string();
    let socket = node.dir.path().join("notify.sock");
    let manager = tokio::net::UnixDatagram::bind(&socket).unwrap();
    let told = |wanted: &'static str| {
        let manager = &manager;
        async move {
            let mut message = [0; 512];
            loop {
                let received = tokio::time::timeout(DEADLINE, manager.recv(&mut message)).await;
                let length = received.expect("it says how it is").unwrap();
                let status = String::from_utf8_lossy(&message[..length]).into_owned();
                if status.starts_with("STATUS=") && status.contains("in memory") == (wanted == "memory") {
                    return;
                }
            }
        }
    };
    let full = format!(
        "export NOTIFY_SOCKET={}\nmount -t tmpfs -o size=2m full {cache}\nhead -c 4m /dev/zero >{cache}/full 2>/dev/null",
        socket.display()
    );
    let process = Process::run_after(&in_namespace(&full), &node.write_config());
    let client = Client::new(
        process.address().await,
        node.api.ca_pem(),
        Some(&node.pair("kubelet")),
    );
    process.logged(&["ERROR", "in memory only"]).await;
    told("memory").await;
    assert_eq!(client.get(LIST).await.status, 200);
    node.api.fault(Fault::Refuse(Existing::Cut));
    answered_from_cache(&client, "it is answered from memory").await;

    let seen = format!("/proc/{}/root{cache}", process.id());
    std::fs::remove_file(format!("{seen}/full")).unwrap();
    process.logged(&["on disk from now on"]).await;
    told("disk").await;
    answered_from_cache(&client, "it is answered from the disk").await;
    let owners = std::fs::read_dir(seen).unwrap().filter(|entry| {
        let entry = entry.as_ref().unwrap();
        entry.file_type().unwrap().is_dir() && std::fs::read_dir(entry.path()).unwrap().count() > 0
    });
    assert!(owners.count() >= 2, "the node's own logs and kubelet's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_on_a_read_only_disk_is_read_and_what_it_cannot_take_is_said() {
    if !may_mount() {
        return;
    }
    let mut node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    node.stop().await;
    let cache = node.cache_dir().display().to_string();
    let read_only = format!("mount --bind {cache} {cache}\nmount -o remount,bind,ro {cache}");
    let process = Process::run_after(&in_namespace(&read_only), &node.write_config());
    let client = Client::new(
        process.address().await,
        node.api.ca_pem(),
        Some(&node.pair("kubelet")),
    );
    assert_eq!(client.get("/api/v1/namespaces/shop/secrets").await.status, 200);
    process.logged(&["WARN", "secrets", "Read-only"]).await;
    node.api.fault(Fault::Refuse(Existing::Cut));
    answered_from_cache(&client, "what was there is told").await;
}
