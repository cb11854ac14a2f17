//! The configuration file changes while edgehold runs: what is safe is put in force, and nothing that was read is lost.
#![allow(clippy::disallowed_methods)] // it plays the person who edits the file

use std::path::{Path, PathBuf};

use apiserver_standin::{Client, Existing, Fault, Options, Pki, Standin};
use edgehold::admin;
use edgehold::app::App;
use edgehold::config;
use edgehold::upstream::LinkState;

use crate::process::Process;
use crate::support::{DEADLINE, HIT, Node, change, config_map, eventually, names, watch_from};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

/// A node that follows its file.
async fn following() -> (Node, PathBuf) {
    let mut node = Node::start().await;
    node.stop().await;
    let path = node.write_config();
    relaunch(&mut node, &path).await;
    node.api.put(config_map("shop", "a", "1"));
    (node, path)
}

async fn relaunch(node: &mut Node, path: &Path) {
    let app = App::bind(config::load(path).unwrap()).await.unwrap();
    node.run(app);
}

/// As an editor does it: a new file takes the place of the old one.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

fn servers(node: &Node) -> Vec<String> {
    let servers = node.running().way().servers().into_iter();
    servers.map(|(name, _)| name).collect()
}

async fn has_servers(node: &Node, wanted: &[&Standin]) {
    let wanted: Vec<String> = wanted.iter().map(|api| api.addr().to_string()).collect();
    eventually("the servers are those of the file", || async {
        servers(node) == wanted
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_in_the_file_gets_the_requests_and_the_cache_and_watches_stay() {
    let (node, path) = following().await;
    let second = Standin::start(Options {
        cluster: Some(node.api.cluster()),
        ..Options::default()
    });
    let kubelet = node.kubelet();
    assert_eq!(kubelet.get(LIST).await.status, 200);
    let mut connection = kubelet.connect().await.unwrap();
    let version = node.api.revision().to_string();
    let mut watch = connection.lines(&watch_from(LIST, &version)).await.unwrap();
    node.api.put(config_map("shop", "b", "1"));
    assert_eq!(change(&mut watch).await.1, "b");

    let text = node.config_text().replace(&node.api.url(), &second.url());
    replace(&path, &text);
    has_servers(&node, &[&second]).await;
    second.wait_for(|seen| seen.is_watch()).await;
    node.api
        .wait_counters(|counters| counters.connections_open == 0)
        .await;
    node.api.put(config_map("shop", "c", "1"));
    assert_eq!(change(&mut watch).await.1, "c");
    assert_eq!(names(&kubelet.get(LIST).await.json()), ["a", "b", "c"]);
    assert_eq!(
        second.requests().last().unwrap().authority,
        second.addr().to_string()
    );

    node.settle().await;
    second.fault(Fault::Refuse(Existing::Cut));
    let answer = kubelet.get(LIST).await;
    assert_eq!(answer.status, 200);
    let cached = answer.header("cache-status");
    assert!(cached.starts_with("edgehold; hit"), "{cached}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_changes_nothing_and_the_next_good_one_counts() {
    let (node, path) = following().await;
    let second = Standin::start(Options {
        cluster: Some(node.api.cluster()),
        ..Options::default()
    });
    let good = node.config_text();
    let both = format!("{}\", \"{}", node.api.url(), second.url());
    replace(&path, &good.replace("servers:", "serverz:"));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    // A file that is gone is as good as a broken one.
    std::fs::remove_file(&path).unwrap();
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    assert_eq!(servers(&node), [node.api.addr().to_string()]);
    eventually("that the file is not right is said", || is_said(&node)).await;
    replace(&path, &good.replace(&node.api.url(), &both));
    has_servers(&node, &[&node.api, &second]).await;
    eventually("and not any more", || async { !is_said(&node).await }).await;
}

/// Whether the file counts as a problem.
async fn is_said(node: &Node) -> bool {
    let address = node.running().admin_address().unwrap();
    let said = admin::client::get(address, "/status", None).await.unwrap();
    let status: admin::Status = serde_json::from_slice(&said).unwrap();
    status.problems.iter().any(|problem| problem.code == "EH060")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_a_new_authority_is_trusted_when_the_file_names_it() {
    let (node, path) = following().await;
    let kubelet = node.kubelet();
    assert_eq!(kubelet.get(LIST).await.status, 200);
    node.settle().await;
    // The same cluster behind a certificate of another authority; it still knows the old clients.
    let other = Pki::named("another");
    let second = Standin::start(Options {
        cluster: Some(node.api.cluster()),
        serving: Some(other.server(&[])),
        ..Options::default()
    });
    other.write_ca(node.dir.path(), "other");
    let moved = node.config_text().replace(&node.api.url(), &second.url());
    replace(&path, &moved);
    node.wait_link(LinkState::Offline).await;
    assert_eq!(kubelet.get(LIST).await.header("cache-status"), HIT);
    let ca = |name: &str| format!("caFile: {}", node.dir.path().join(name).display());
    let (old, new) = (ca("ca.crt"), ca("other.crt"));
    replace(
        &path,
        &moved.replacen(&format!("  {old}"), &format!("  {new}"), 1),
    );
    node.wait_link(LinkState::Online).await;
    let answer = kubelet.get(LIST).await;
    assert_eq!((answer.status, answer.header("cache-status")), (200, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_clients_change_with_the_file_and_what_is_open_stays() {
    let (node, path) = following().await;
    let kubelet = node.kubelet();
    let version = node.api.revision().to_string();
    let mut connection = kubelet.connect().await.unwrap();
    let mut watch = connection.lines(&watch_from(LIST, &version)).await.unwrap();
    let free = node.config_text();
    let pair = format!("keyFile: {}", node.dir.path().join("kubelet.key").display());
    let limited = format!("{pair}, limits: {{qps: 0.001, burst: 1}}");
    replace(&path, &free.replacen(&pair, &limited, 1));
    eventually("the kubelet is limited", || async {
        kubelet.get(LIST).await.status == 429
    })
    .await;
    let other = node.client(Some(&node.pair("kube-proxy")));
    assert_eq!(other.get("/version").await.status, 200, "and nobody else");
    replace(&path, &free);
    eventually("the kubelet is free", || async {
        kubelet.get(LIST).await.status == 200
    })
    .await;
    for _ in 0..10 {
        assert_eq!(kubelet.get(LIST).await.status, 200);
    }
    node.api.put(config_map("shop", "b", "1"));
    assert_eq!(change(&mut watch).await.1, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_manager_is_told_when_a_reload_begins_and_when_it_is_done() {
    let node = Node::start().await;
    let text = node.config_text().replace(
        &format!("store: file, path: {}", node.cache_dir().display()),
        "store: memory",
    );
    let path = node.dir.path().join("process.yaml");
    replace(&path, &text);
    let socket = node.dir.path().join("notify.sock");
    let manager = tokio::net::UnixDatagram::bind(&socket).unwrap();
    let said = || async {
        let mut message = [0; 256];
        let received = tokio::time::timeout(DEADLINE, manager.recv(&mut message)).await;
        let length = received.expect("it says something").unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let said = &said;
    let told = || async move {
        loop {
            let message = said().await;
            if !message.starts_with("STATUS=") {
                return message;
            }
        }
    };
    let told = &told;
    let process = Process::run_after(&format!("export NOTIFY_SOCKET={}", socket.display()), &path);
    assert_eq!(told().await.trim(), "READY=1");
    let reload = |expected: &'static str| async move {
        let begun = told().await;
        let mut lines = begun.lines();
        assert_eq!(lines.next(), Some("RELOADING=1"), "{begun}");
        let moment = lines.next().and_then(|line| line.strip_prefix("MONOTONIC_USEC="));
        let moment: u64 = moment.expect("the moment").parse().unwrap();
        assert_eq!(told().await.trim(), expected);
        moment
    };
    process.signal("HUP");
    let first = reload("READY=1").await;
    process.signal("HUP");
    assert!(reload("READY=1").await > first);
    // A file that is not right ends the reload as failed: what was in force still is.
    replace(&path, &text.replace("servers:", "serverz:"));
    reload("READY=1\nERRNO=22").await;
    process.logged(&["not right"]).await;
    replace(&path, &text);
    reload("READY=1").await;
    // And how the link is, which `systemctl status` shows.
    let address = process.address().await;
    let client = Client::new(address, node.api.ca_pem(), Some(&node.pair("kubelet")));
    node.api.fault(Fault::Refuse(Existing::Cut));
    let _unanswered = client.send("GET", "/version", "").await;
    let away = format!(
        "STATUS=offline: the cloud is away, answering from the cache ({}: connection refused, since ",
        node.api.addr()
    );
    while !said().await.starts_with(&away) {}
    node.api.clear_faults();
    while said().await.trim() != "STATUS=online: the cloud can be reached" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_file_again_and_the_log_says_what_is_wrong_and_what_needs_a_restart() {
    let node = Node::start().await;
    let text = node.config_text().replace("path: ", "path: /nowhere").replace(
        &format!("store: file, path: /nowhere{}", node.cache_dir().display()),
        "store: memory",
    );
    let path = node.dir.path().join("process.yaml");
    replace(&path, &text);
    let process = Process::run(&path);
    process.address().await;
    process.signal("HUP");
    process.logged(&["reading the configuration again"]).await;
    replace(&path, &text.replace("servers:", "serverz:"));
    process
        .logged(&["not right", "upstream.serverz", "did you mean `servers`"])
        .await;
    replace(&path, &format!("{text}certificates: {{retryInterval: 7s}}\n"));
    process.logged(&["after a restart", "certificates"]).await;
    replace(&path, &text.replace("responseTimeout: 5s", "responseTimeout: 6s"));
    process
        .logged(&["changed with the configuration file", "upstream.responseTimeout"])
        .await;
}
