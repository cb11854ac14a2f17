//! The dummy interface under a whole node, in a network namespace of its own: needs root, and skips visibly without.

use std::net::SocketAddr;
use std::process::Command;

use apiserver_standin::Client;

use crate::support::{DEADLINE, Node, eventually};

/// Set in the process that runs inside the namespace.
const INSIDE: &str = "EDGEHOLD_TEST_NAMESPACE";

/// Runs the test `name` of this binary again in a network namespace of its own, with the loopback up. `false` if this
/// is the process inside, which must do the work.
fn is_outer(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return false;
    }
    let probe = Command::new("unshare").args(["--net", "ip", "link"]).output();
    if !probe.is_ok_and(|done| done.status.success()) {
        eprintln!("SKIPPED {name}: no network namespace without root, unshare(1) and ip(8)");
        return true;
    }
    let done = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("interface::{name}"), "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    assert!(done.status.success() && text.contains("1 passed"), "{text}");
    let skipped = text.lines().filter(|line| line.starts_with("SKIPPED"));
    skipped.for_each(|line| eprintln!("{line}"));
    true
}

fn ip(arguments: &str) -> bool {
    let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    done.status.success()
}

/// A node with `127.0.0.1` and the two addresses of a dummy interface.
async fn node_with_interface(on_exit: &str) -> Node {
    let mut node = Node::start().await;
    node.stop().await;
    let names = ["127.0.0.1", "169.254.20.11", "fd00::11"];
    node.api.pki().server(&names).write_to(node.dir.path(), "serving");
    let text = node.config_text().replace(
        "  addresses: [\"127.0.0.1:0\"]\n",
        &format!(
            "  addresses: [\"127.0.0.1:0\", \"169.254.20.11:51003\", \"[fd00::11]:51003\"]\n  dummyInterface: {{name: \
             edgehold0, addresses: [169.254.20.11, \"fd00::11\"], removeOnExit: {on_exit}}}\n"
        ),
    );
    node.launch_text(&text).await;
    node
}

fn at(node: &Node, address: &str) -> Client {
    let address: SocketAddr = address.parse().unwrap();
    Client::new(address, node.api.ca_pem(), Some(&node.pair("kubelet")))
}

async fn answers(client: &Client) -> bool {
    let asked = tokio::time::timeout(DEADLINE, client.send("GET", "/version", "")).await;
    matches!(asked, Ok(Ok(answer)) if answer.status == 200)
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_reach_edgehold_on_the_interface_and_again_after_it_was_removed() {
    if is_outer("pods_reach_edgehold_on_the_interface_and_again_after_it_was_removed") {
        return;
    }
    if !(ip("link add probe0 type dummy") && ip("link del probe0")) {
        eprintln!("SKIPPED: the kernel has no dummy interfaces");
        return;
    }
    let mut node = node_with_interface("true").await;
    let pods = [at(&node, "169.254.20.11:51003"), at(&node, "[fd00::11]:51003")];
    for pod in &pods {
        eventually("an answer on the interface", || answers(pod)).await;
    }
    assert!(ip("link del edgehold0"));
    for pod in &pods {
        eventually("an answer on the interface made again", || answers(pod)).await;
    }
    node.stop().await;
    assert!(!ip("link show edgehold0"), "removed on exit");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_serves_although_its_interface_cannot_be_made_and_takes_the_address_when_it_comes() {
    if is_outer("a_node_serves_although_its_interface_cannot_be_made_and_takes_the_address_when_it_comes") {
        return;
    }
    // Somebody else's.
    assert!(ip("link add edgehold0 type bridge"));
    let mut node = node_with_interface("true").await;
    assert!(answers(&node.kubelet()).await, "the other address works");
    let pod = at(&node, "169.254.20.11:51003");
    assert!(!answers(&pod).await, "there is no such address yet");
    let metrics = node.running().metrics_text().unwrap();
    assert!(metrics.contains("edgehold_dummy_interface_ready 0"), "{metrics}");

    assert!(ip("addr add 169.254.20.11/32 dev lo"));
    assert!(answers(&pod).await, "without a restart");
    assert!(ip("addr del 169.254.20.11/32 dev lo") && ip("addr add 169.254.20.11/32 dev lo"));
    assert!(answers(&pod).await, "after it went and came back");
    node.stop().await;
    assert!(ip("link show edgehold0"), "not ours to remove");
}
