//! The cache encrypted at rest, as a node has it: on disk, over restarts, with a changed and with a lost key.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use edgehold::upstream::LinkState;
use serde_json::json;

use crate::support::{HIT, Node, config_map, files_below, is_on_disk, write_secret};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const SECRET: &str = "/api/v1/namespaces/shop/secrets/db";

fn key(digit: &str) -> String {
    digit.repeat(64)
}

fn key_file(node: &Node) -> PathBuf {
    node.dir.path().join("cache.key")
}

/// The configuration with the cache encrypted.
fn encrypted(node: &Node) -> String {
    let encryption = format!(
        ", encryption: {{keyFile: {}}}}}\nclients:",
        key_file(node).display()
    );
    node.config_text().replace("}\nclients:", &encryption)
}

/// A node whose cache is encrypted with this key, and which has read a list and a Secret.
async fn node() -> Node {
    let mut node = Node::start().await;
    node.stop().await;
    fs::remove_dir_all(node.cache_dir()).unwrap();
    restart_with(&mut node, &[&key("1")]).await;
    node.api.put(config_map("shop", "a", "sauerkraut"));
    node.api.put(json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": "shop", "name": "db"}, "data": {"password": "c2F1ZXJrcmF1dA=="}}));
    assert_eq!(node.status(LIST).await, 200);
    assert_eq!(node.status(SECRET).await, 200);
    assert_eq!(node.status("/version").await, 200);
    node.settle().await;
    node
}

async fn restart_with(node: &mut Node, keys: &[&str]) {
    node.stop().await;
    write_secret(&key_file(node), &keys.join("\n"));
    let text = encrypted(node);
    node.launch_text(&text).await;
}

async fn cut(node: &Node) {
    node.cut().await;
    node.wait_link(LinkState::Offline).await;
}

async fn assert_known(node: &Node, what: &str) {
    for target in [LIST, SECRET, "/version"] {
        let answer = node.kubelet().get(target).await;
        assert_eq!(
            (answer.status, answer.header("cache-status")),
            (200, HIT),
            "{what}: {target}"
        );
    }
}

fn readable(dir: &Path) -> Vec<&'static str> {
    let needles = [
        "sauerkraut",
        "c2F1ZXJrcmF1dA",
        "configmaps",
        "system:node",
        "shop",
        "gitVersion",
    ];
    needles
        .into_iter()
        .filter(|needle| is_on_disk(dir, needle))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_an_encrypted_cache_is_readable_and_all_of_it_survives_a_reboot() {
    let mut node = node().await;
    cut(&node).await;
    assert_eq!(readable(&node.cache_dir()), [""; 0]);
    assert_known(&node, "offline").await;
    restart_with(&mut node, &[&key("1")]).await;
    node.wait_link(LinkState::Offline).await;
    assert_known(&node, "rebooted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_cache_is_kept_and_encrypted_when_a_key_is_configured() {
    let mut node = Node::start().await;
    node.api.put(config_map("shop", "a", "sauerkraut"));
    assert_eq!(node.status(LIST).await, 200);
    cut(&node).await;
    assert!(readable(&node.cache_dir()).contains(&"sauerkraut"));
    restart_with(&mut node, &[&key("1")]).await;
    node.wait_link(LinkState::Offline).await;
    let answer = node.kubelet().get(LIST).await;
    assert_eq!((answer.status, answer.header("cache-status")), (200, HIT));
    assert!(
        !is_on_disk(&node.cache_dir(), "sauerkraut"),
        "what was used is rewritten"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_can_be_changed_and_a_lost_one_costs_the_cache_but_not_the_service() {
    let mut node = node().await;
    cut(&node).await;
    restart_with(&mut node, &[&key("2"), &key("1")]).await;
    node.wait_link(LinkState::Offline).await;
    assert_known(&node, "both keys").await;

    // The wrong key: empty, serving, and unharmed.
    restart_with(&mut node, &[&key("3")]).await;
    node.wait_link(LinkState::Offline).await;
    for target in [LIST, SECRET, "/version"] {
        assert_eq!(node.status(target).await, 503, "{target}");
    }
    restart_with(&mut node, &[&key("2")]).await;
    node.wait_link(LinkState::Offline).await;
    assert_known(&node, "the right key again").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_read_leaves_the_disk_alone_and_the_service_up() {
    let mut node = node().await;
    node.stop().await;
    let bytes = || {
        let files = files_below(&node.cache_dir()).into_iter();
        files
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = bytes();
    for content in [None, Some("not a key"), Some("")] {
        let mut text = encrypted(&node);
        match content {
            None => text = text.replace("cache.key", "missing.key"),
            Some(content) => write_secret(&key_file(&node), content),
        }
        node.launch_text(&text).await;
        assert_eq!(node.status(LIST).await, 200, "{content:?}");
        cut(&node).await;
        assert_known_list_only(&node).await;
        node.stop().await;
        node.api.clear_faults();
        let now: std::collections::BTreeMap<_, _> = files_below(&node.cache_dir())
            .into_iter()
            .map(|path| (path.clone(), fs::read(path).unwrap()))
            .collect();
        assert!(now == before, "{content:?}: the files have changed");
    }
}

/// What was read in this run is known, what was read before it is not.
async fn assert_known_list_only(node: &Node) {
    let answer = node.kubelet().get(LIST).await;
    assert_eq!((answer.status, answer.header("cache-status")), (200, HIT));
    assert_eq!(node.status(SECRET).await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_everybody_can_read_is_used_with_a_warning() {
    let mut node = node().await;
    fs::set_permissions(key_file(&node), Permissions::from_mode(0o644)).unwrap();
    node.stop().await;
    let text = encrypted(&node);
    node.launch_text(&text).await;
    cut(&node).await;
    assert_known(&node, "world-readable").await;
}
