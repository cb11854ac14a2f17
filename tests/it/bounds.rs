//! What the node's clients may cost it: descriptors, and who loses what when there is too much.

#![allow(clippy::disallowed_methods)] // a full disk is made here

use std::process::Command;
use std::time::Duration;

use apiserver_standin::{Client, Existing, Fault};
use serde_json::json;

use crate::process::Process;
use crate::support::{DEADLINE, Node, config_map, eventually, names};

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
