//! A view that has lost its place is made whole while its client watches, and the client notices nothing.
#![allow(clippy::disallowed_methods)] // it plays the outside: files

use std::collections::HashMap;
use std::path::Path;

use apiserver_standin::{Client, Connection, Existing, Fault, Lines};
use edgehold::upstream::LinkState;

use crate::durable::SmallDisk;
use crate::support::{
    HIT, METADATA, Node, PROTOBUF, TABLE, change, config_map, ends_initial, event, eventually, names,
    offline_list, told, version, watch_from, watch_list,
};
use crate::watches::Frames;

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

fn put(node: &Node, name: &str, value: &str) -> String {
    version(&node.api.put(config_map("shop", name, value)))
}

async fn open(connection: &mut Connection, target: &str) -> Lines {
    let watch = connection.lines(target).await.unwrap();
    assert_eq!(watch.response.status(), 200, "{target}");
    watch
}

/// How many lists of edgehold's own had this outcome.
fn lists(node: &Node, outcome: &str) -> usize {
    let text = node.running().metrics_text().unwrap();
    let name = format!("edgehold_healing_lists_total{{outcome=\"{outcome}\"}} ");
    let found = text.lines().find_map(|line| line.strip_prefix(&name));
    found.map_or(0, |number| number.parse().unwrap())
}

async fn healed(node: &Node, views: usize) {
    eventually("the views are whole", || async { lists(node, "whole") >= views }).await;
}

/// The lists that the cloud was asked for, without the ones of `kubectl` and the like.
fn asked(node: &Node) -> Vec<String> {
    let requests = node.api.requests().into_iter();
    let lists = requests.filter(|seen| seen.path() == LIST && !seen.is_watch());
    lists.map(|seen| seen.target).collect()
}

/// Cuts the node off and starts it again: what it then answers must be this.
async fn newest_after_an_offline_restart(node: &mut Node, target: &str, expected: &[&str], at: &str) {
    node.cut().await;
    node.restart().await;
    node.wait_link(LinkState::Offline).await;
    let answer = node.kubelet().get(target).await;
    assert_eq!(
        (answer.status, answer.header("cache-status")),
        (200, HIT),
        "{}",
        answer.text()
    );
    let list = answer.json();
    assert_eq!(
        (names(&list), version(&list)),
        (expected.iter().map(ToString::to_string).collect(), at.to_owned())
    );
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_version_that_the_cache_does_not_have_makes_its_view() {
    let mut node = Node::start().await;
    put(&node, "a", "1");
    let at = put(&node, "b", "1");
    let selected = format!("{LIST}?fieldSelector=metadata.name%21%3Dx&labelSelector=app%3Dweb");
    let mut connection = node.kubelet().connect().await.unwrap();
    let target = format!("{}&timeoutSeconds=600", watch_from(&selected, &at));
    let mut watch = open(&mut connection, &target).await;
    let last = put(&node, "c", "1");
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "c".into()));
    healed(&node, 1).await;
    assert_eq!(
        asked(&node),
        std::slice::from_ref(&selected),
        "the same selection, whole and consistent"
    );
    let own = node
        .api
        .wait_for(|seen| !seen.is_watch() && seen.target == selected)
        .await;
    assert_eq!(own.peer_cn.as_deref(), Some(crate::support::KUBELET));
    // The stream carries the view on from there.
    let last_of_all = put(&node, "a", "2");
    assert_ne!(last, last_of_all);
    assert_eq!(change(&mut watch).await, ("MODIFIED".into(), "a".into()));
    newest_after_an_offline_restart(&mut node, &selected, &["a", "b", "c"], &last_of_all).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protobuf_watch_whose_view_is_behind_heals_it_in_protobuf() {
    let node = Node::start().await;
    put(&node, "a", "1");
    let client = node.kubelet().header("accept", PROTOBUF);
    client.get(LIST).await;
    node.settle().await;
    // Seen somewhere else, as after a kill of edgehold.
    put(&node, "b", "1");
    let position = put(&node, "a", "2");
    let mut connection = client.connect().await.unwrap();
    let mut watch = Frames::open(&mut connection, &watch_from(LIST, &position)).await;
    healed(&node, 1).await;
    let last = put(&node, "c", "1");
    assert_eq!(
        watch.next().await.unwrap(),
        ("ADDED".into(), "c".into(), last.clone()),
        "nothing twice"
    );
    node.cut().await;
    let mut held = Frames::open(&mut connection, &watch_list(LIST)).await;
    for name in ["a", "b", "c"] {
        assert_eq!(held.next().await.unwrap().1, name);
    }
    assert_eq!(held.next().await.unwrap(), ("END".into(), String::new(), last));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_is_gone_at_a_restart_is_made_anew_while_its_clients_watch() {
    let mut node = Node::start().await;
    put(&node, "a", "1");
    let listed = version(&node.kubelet().get(LIST).await.json());
    let position = put(&node, "b", "1");
    node.stop().await;
    std::fs::remove_dir_all(node.cache_dir()).unwrap();
    node.launch().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_from(LIST, &position)).await;
    let mut slower = open(&mut connection, &watch_from(LIST, &listed)).await;
    healed(&node, 1).await;
    let last = put(&node, "c", "1");
    assert_eq!(
        told(&event(&mut watch).await),
        ("ADDED".into(), "c".into(), last.clone())
    );
    assert_eq!(change(&mut slower).await.1, "b");
    assert_eq!(change(&mut slower).await.1, "c");
    newest_after_an_offline_restart(&mut node, LIST, &["a", "b", "c"], &last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_began_offline_ahead_of_its_view_heals_it_when_the_cloud_is_back() {
    let mut node = Node::start().await;
    put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    node.settle().await;
    let position = put(&node, "b", "1");
    node.cut().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_from(LIST, &position)).await;
    assert_eq!(
        lists(&node, "failed"),
        0,
        "nothing is asked for while the cloud is away"
    );
    node.heal().await;
    healed(&node, 1).await;
    let last = put(&node, "c", "1");
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "c".into()));
    newest_after_an_offline_restart(&mut node, LIST, &["a", "b", "c"], &last).await;
}

/// Its view cannot follow it before it is listed, which fails; the wider view that it began from is of before.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_older_is_told_than_a_watch_has_told_whose_view_is_not_whole_yet() {
    let selected = format!("{LIST}?labelSelector=app%3Dweb");
    let web = |name: &str, value: &str| {
        let mut object = config_map("shop", name, value);
        object["metadata"]["labels"]["app"] = "web".into();
        object
    };
    let mut node = Node::start().await;
    for name in ["changed", "deleted", "same"] {
        node.api.put(web(name, "1"));
    }
    node.kubelet().get("/api/v1/configmaps").await;
    node.cut().await;
    let derived = version(&offline_list(&node.kubelet(), &selected).await);
    let mut connection = node.kubelet().connect().await.unwrap();
    let target = format!("{LIST}?watch=true&resourceVersion={derived}&labelSelector=app%3Dweb");
    let mut watch = open(&mut connection, &target).await;
    node.heal().await;
    node.api.fault(Fault::Status(500).on(&selected));
    node.api.put(web("changed", "2"));
    node.api.delete("ConfigMap", "shop", "deleted");
    node.api.put(web("new", "1"));
    let mut told = Vec::new();
    while told.len() < 3 {
        told.push(change(&mut watch).await.1);
    }
    assert_eq!(told, ["changed", "deleted", "new"]);
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
        }
        node.cut().await;
        for name in told.iter().map(String::as_str) {
            let answer = node.kubelet().get(&format!("{LIST}/{name}")).await;
            assert_eq!(
                answer.status,
                503,
                "{name}, restarted: {restarted}: {}",
                answer.text()
            );
        }
        assert_eq!(node.status(&format!("{LIST}/same")).await, 200);
        assert_eq!(node.status(&format!("{LIST}/never")).await, 404);
    }
}

/// `for event in watch.stream(...)`: neither version nor list, and no bookmarks that would tell where the state ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_without_version_makes_its_view_before_anything_changes() {
    let empty = "/api/v1/namespaces/empty/configmaps";
    let mut node = Node::start().await;
    put(&node, "a", "1");
    let at = put(&node, "b", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &format!("{LIST}?watch=True")).await;
    let mut silent = open(&mut connection, &format!("{empty}?watch=True")).await;
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "a".into()));
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "b".into()));
    healed(&node, 2).await;
    node.cut().await;
    for (target, expected) in [(LIST, &["a", "b"][..]), (empty, &[])] {
        let list = offline_list(&node.kubelet(), target).await;
        assert_eq!(
            (names(&list), version(&list)),
            (expected.iter().map(ToString::to_string).collect(), at.clone())
        );
    }
    drop((watch, silent));
    node.heal().await;
    // What is only added is in the view, too.
    watch = open(&mut connection, &format!("{LIST}?watch=True")).await;
    healed(&node, 3).await;
    let last = put(&node, "c", "1");
    while change(&mut watch).await.1 != "c" {}
    silent = open(&mut connection, &format!("{empty}?watch=True")).await;
    newest_after_an_offline_restart(&mut node, LIST, &["a", "b", "c"], &last).await;
    drop(silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_a_full_disk_has_left_behind_heals_when_there_is_space_again() {
    let mut node = Node::start().await;
    let Some(disk) = SmallDisk::under(&mut node).await else {
        return;
    };
    put(&node, "a", "1");
    let listed = version(&node.kubelet().get(LIST).await.json());
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_from(LIST, &listed)).await;
    node.settle().await;
    let filler = disk.fill();
    let large = "x".repeat(200_000);
    for n in 0..5 {
        let value = format!("{n}{large}");
        let at = put(&node, "a", &value);
        assert_eq!(told(&event(&mut watch).await).2, at, "the client gets it all");
    }
    eventually("a list finds no room", || async { lists(&node, "unkept") >= 1 }).await;
    std::fs::remove_file(filler).unwrap();
    healed(&node, 1).await;
    let last = put(&node, "b", "1");
    assert_eq!(told(&event(&mut watch).await).2, last);
    newest_after_an_offline_restart(&mut node, LIST, &["a", "b"], &last).await;
    node.stop().await;
    drop(disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_every_view_is_listed_once_and_no_event_waits_for_it() {
    const VIEWS: usize = 150;
    let mut node = Node::start().await;
    put(&node, "a", "1");
    let collection = |view: usize| format!("{LIST}?labelSelector=view%21%3D{view}");
    let mut connection = node.kubelet().connect().await.unwrap();
    for view in 0..VIEWS {
        assert_eq!(
            connection
                .send("GET", &collection(view), "")
                .await
                .unwrap()
                .status,
            200
        );
    }
    node.settle().await;
    node.stop().await;
    // What is on disk is older than what its clients have seen.
    let position = put(&node, "b", "1");
    node.api.forget_requests();
    node.launch().await;
    let (mut connections, mut watches) = (Vec::new(), Vec::new());
    for n in 0..VIEWS * 2 {
        if n % 50 == 0 {
            connections.push(node.kubelet().connect().await.unwrap());
        }
        // Each view has two watches.
        let target = watch_from(&collection(n % VIEWS), &position);
        watches.push(open(connections.last_mut().unwrap(), &target).await);
    }
    let during = put(&node, "c", "1");
    for watch in &mut watches {
        assert_eq!(
            told(&event(watch).await),
            ("ADDED".into(), "c".into(), during.clone()),
            "first and once"
        );
    }
    healed(&node, VIEWS).await;
    let requests = node.api.requests();
    let (asked, lists): (Vec<_>, Vec<_>) = requests
        .iter()
        .filter(|seen| seen.path() == LIST)
        .partition(|seen| seen.is_watch());
    // Each from where its client stands, at once: no event comes by way of what the view has missed.
    assert_eq!(asked.len(), VIEWS * 2);
    assert!(
        asked
            .iter()
            .all(|seen| seen.query("resourceVersion").as_ref() == Some(&position))
    );
    let mut times: HashMap<&str, usize> = HashMap::new();
    for seen in &lists {
        *times.entry(&seen.target).or_default() += 1;
    }
    assert_eq!(times.len(), VIEWS);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
    let last = put(&node, "d", "1");
    for watch in &mut watches {
        assert_eq!(told(&event(watch).await).2, last);
    }
    node.cut().await;
    for view in 0..VIEWS {
        let list = offline_list(&node.kubelet(), &collection(view)).await;
        assert_eq!((names(&list).len(), version(&list)), (4, last.clone()), "{view}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_was_killed_among_events_is_carried_on_from_its_past() {
    let mut node = Node::start().await;
    put(&node, "gone", "1");
    let listed = put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    node.settle().await;
    let past = node.dir.path().join("past");
    copy(&node.cache_dir(), &past);
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_from(LIST, &listed)).await;
    node.api.delete("ConfigMap", "shop", "gone");
    let position = put(&node, "b", "1");
    while told(&event(&mut watch).await).2 != position {}
    drop((watch, connection));
    node.stop().await;
    std::fs::remove_dir_all(node.cache_dir()).unwrap();
    copy(&past, &node.cache_dir());
    node.launch().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let _watch = open(&mut connection, &watch_from(LIST, &position)).await;
    healed(&node, 1).await;
    newest_after_an_offline_restart(&mut node, LIST, &["a", "b"], &position).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_metadata_alone_heals_its_view_with_a_list_of_metadata() {
    let mut node = Node::start().await;
    let at = put(&node, "a", "1");
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json";
    let client = node.kubelet().header("accept", metadata);
    let mut connection = client.connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_from(LIST, &at)).await;
    healed(&node, 1).await;
    let last = put(&node, "b", "1");
    assert_eq!(told(&event(&mut watch).await).2, last);
    node.cut().await;
    node.restart().await;
    let lister = node.kubelet().header("accept", METADATA);
    let list = offline_list(&lister, LIST).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!((names(&list).len(), version(&list)), (2, last));
}

/// A node whose kubelet watches from a version that the cache does not have, and whose lists are answered so.
async fn node_with(fault: Fault, times: usize) -> (Node, Connection, Lines) {
    let node = Node::start().await;
    let at = put(&node, "a", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let watch = open(&mut connection, &watch_from(LIST, &at)).await;
    node.api.fault(fault.on(LIST).times(times));
    (node, connection, watch)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_forbidden_is_not_asked_for_again_soon_and_takes_away_what_is_kept() {
    let node = Node::start().await;
    put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    node.settle().await;
    let at = put(&node, "b", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_from(LIST, &at)).await;
    node.api.fault(Fault::Status(403).on(LIST));
    eventually("the list is refused", || async { lists(&node, "refused") == 1 }).await;
    put(&node, "c", "1");
    assert_eq!(
        change(&mut watch).await,
        ("ADDED".into(), "c".into()),
        "the stream goes on"
    );
    node.cut().await;
    assert_eq!(node.status(LIST).await, 503);
    assert_eq!(asked(&node).len(), 2, "the client's own, and one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_fails_or_breaks_off_is_asked_for_again() {
    for fault in [
        Fault::Status(500),
        Fault::CutBody { after_bytes: 20 },
        Fault::Reset,
    ] {
        let (node, _connection, mut watch) = node_with(fault, 2).await;
        healed(&node, 1).await;
        assert!(asked(&node).len() >= 2, "{fault:?}");
        let last = put(&node, "b", "1");
        assert_eq!(told(&event(&mut watch).await).2, last, "{fault:?}");
        node.cut().await;
        assert_eq!(version(&offline_list(&node.kubelet(), LIST).await), last);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_watch_of_the_view_takes_over_from_a_client_that_leaves() {
    let (node, connection, watch) = node_with(Fault::Stall, 1).await;
    eventually("a list is asked for", || async { asked(&node).len() == 1 }).await;
    let mut other = node.kubelet().connect().await.unwrap();
    let at = put(&node, "b", "1");
    let mut second = open(&mut other, &watch_from(LIST, &at)).await;
    drop((watch, connection));
    healed(&node, 1).await;
    let last = put(&node, "c", "1");
    assert_eq!(told(&event(&mut second).await).2, last);
    node.cut().await;
    assert_eq!(version(&offline_list(&node.kubelet(), LIST).await), last);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_client_that_leaves_ends_the_healing() {
    let (node, connection, watch) = node_with(Fault::Stall, usize::MAX).await;
    eventually("a list is asked for", || async { asked(&node).len() == 1 }).await;
    drop((watch, connection));
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
    assert_eq!(asked(&node).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_heals_by_itself_or_is_not_kept_is_not_listed() {
    let node = Node::start().await;
    let at = put(&node, "a", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut own = open(&mut connection, &watch_list(&format!("{LIST}?labelSelector=own"))).await;
    while !ends_initial(&event(&mut own).await) {}
    let table: Client = node.kubelet().header("accept", TABLE);
    let mut tables = table.connect().await.unwrap();
    let rows = open(
        &mut tables,
        &watch_from(&format!("{LIST}?labelSelector=table"), &at),
    )
    .await;
    // Healed after them.
    let last = open(&mut connection, &watch_from(LIST, &at)).await;
    healed(&node, 1).await;
    assert_eq!(asked(&node), [LIST]);
    node.api.fault(Fault::Refuse(Existing::Cut));
    drop((own, rows, last));
}
