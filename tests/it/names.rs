//! A server given by name, whose name comes to lead elsewhere. In a namespace of its own with a hosts file of its own: needs
//! root, unshare(1), mount(8) and ip(8), and skips visibly without.
#![allow(clippy::disallowed_methods)] // it edits the hosts file

use std::process::Command;

use apiserver_standin::{Options, Standin};

use crate::support::{Node, change, config_map, eventually, version, watch_from};

/// Set in the process that has a hosts file of its own: where that is.
const HOSTS: &str = "EDGEHOLD_TEST_NAMES_HOSTS";
const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const NAME: &str = "connections_leave_an_address_that_the_name_has_left";

#[tokio::test(flavor = "multi_thread")]
async fn connections_leave_an_address_that_the_name_has_left() {
    if let Ok(hosts) = std::env::var(HOSTS) {
        return node(&hosts).await;
    }
    let unshare = ["--net", "--mount"];
    let probe = Command::new("unshare")
        .args(unshare)
        .args(["ip", "link"])
        .output();
    if !probe.is_ok_and(|done| done.status.success()) {
        eprintln!("SKIPPED {NAME}: no namespaces without root, unshare(1) and ip(8) of iproute2");
        return;
    }
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let script = format!("ip link set lo up && mount --bind \"${HOSTS}\" /etc/hosts && exec \"$0\" \"$@\"");
    let done = Command::new("unshare")
        .args(unshare)
        .args(["sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("names::{NAME}"), "--nocapture"])
        .env(HOSTS, hosts.path())
        .output()
        .unwrap();
    let text = [done.stdout, done.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(done.status.success() && text.contains("1 passed"), "{text}");
}

async fn node(hosts: &str) {
    let mut node = Node::start().await;
    node.stop().await;
    let server = |address: &str, port: u16| {
        Standin::start(Options {
            listen: format!("{address}:{port}").parse().unwrap(),
            cluster: Some(node.api.cluster()),
            serving: Some(node.api.pki().server(&["kube.test"])),
            ..Options::default()
        })
    };
    let old = server("127.0.0.2", 0);
    let port = old.addr().port();
    let new = server("127.0.0.3", port);
    // Written in place: another file would not be the one that is mounted.
    std::fs::write(hosts, "127.0.0.2 kube.test\n").unwrap();
    let named = format!("https://kube.test:{port}");
    let text = node.config_text().replace(&node.api.url(), &named);
    node.launch_text(&text).await;
    let kubelet = node.kubelet();
    let listed = kubelet.get(LIST).await.json();
    let mut connection = kubelet.connect().await.unwrap();
    let mut watch = connection
        .lines(&watch_from(LIST, &version(&listed)))
        .await
        .unwrap();
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(change(&mut watch).await.1, "a");
    assert!(old.counters().connections_open > 0);

    std::fs::write(hosts, "127.0.0.3 kube.test\n").unwrap();
    new.wait_for(|seen| seen.is_watch()).await;
    eventually("the old address has no connection", || async {
        old.counters().connections_open == 0
    })
    .await;
    node.api.put(config_map("shop", "b", "1"));
    assert_eq!(change(&mut watch).await.1, "b");
}
