//! What callers who share a transport leave each other of the way to the cloud, where the cloud speaks HTTP/1.1 only: each request
//! and each watch takes a connection there.
#![allow(clippy::disallowed_methods)] // a test's own tasks

use apiserver_standin::{Client, Connection, Fault, Lines, Options};
use edgehold::upstream::{LinkState, Purpose};
use tokio::task::JoinSet;

use crate::support::{Node, PROTOCOLS, Setup, change, config_map, eventually, get_on_both};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const STALLED: &str = "/api/v1/namespaces/shop/secrets/";

async fn node() -> Node {
    let options = Options {
        alpn: vec!["http/1.1"],
        ..Options::default()
    };
    let setup = Setup {
        // So that whoever waits for long is seen to have waited.
        response_timeout: "1s",
        ..Setup::default()
    };
    let node = Node::with(options, setup).await;
    node.api.put(config_map("shop", "a", "1"));
    node
}

/// A client with the token of a service account that the apiserver has accepted, and the collection's version.
async fn account(node: &Node, name: &str) -> (Client, String) {
    let client = node.token_client(&node.api.service_account_token("shop", name));
    let list = client.get(LIST).await;
    assert_eq!(list.status, 200);
    let version = list.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    (client, version)
}

fn watch(version: &str, n: usize) -> String {
    format!("{LIST}?watch=1&resourceVersion={version}&labelSelector=app%21%3Dx{n}")
}

/// Opens so many watches at once, each on a connection of its own, every other over HTTP/1.1.
async fn watches(client: &Client, version: &str, count: usize) -> Vec<(Connection, Lines)> {
    let mut opening = JoinSet::new();
    for n in 0..count {
        let client = client.clone().protocol(PROTOCOLS[n % 2]);
        let target = watch(version, n);
        opening.spawn(async move {
            let mut connection = client.connect().await.unwrap();
            let watch = connection.lines(&target).await.unwrap();
            (connection, watch)
        });
    }
    opening.join_all().await
}

async fn all_see(watches: &mut [(Connection, Lines)], name: &str) {
    for (_, watch) in watches {
        assert_eq!(watch.response.status(), 200);
        assert_eq!(change(watch).await.1, name);
    }
}

/// Asks for more than a caller's share that nobody answers, every other time over HTTP/1.1; what is over has been
/// refused.
async fn unanswered(node: &Node, many: &Client) -> JoinSet<u16> {
    node.api.fault(Fault::Stall.on(STALLED));
    let mut asking = JoinSet::new();
    for n in 0..230 {
        let many = many.clone().protocol(PROTOCOLS[n % 2]);
        asking.spawn(async move { many.get(&format!("{STALLED}{n}")).await.status });
    }
    for _ in 0..30 {
        assert_eq!(asking.join_next().await.unwrap().unwrap(), 429);
    }
    asking
}

/// Fails if the link is anything but online from now on.
fn always_online(node: &Node) -> tokio::task::JoinHandle<()> {
    let mut link = node.running().link();
    tokio::spawn(async move {
        let left = link.wait_for(|state| *state != LinkState::Online).await;
        panic!("the link became {:?}", left.map(|state| *state));
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_watches_of_one_caller_are_live_and_others_read_and_watch_beside_them() {
    let node = node().await;
    let online = always_online(&node);
    let (many, version) = account(&node, "many").await;
    let mut greedy = watches(&many, &version, 100).await;
    let (other, version) = account(&node, "other").await;
    let mut others = watches(&other, &version, 5).await;
    others.extend(watches(&node.kubelet(), &version, 5).await);
    for client in [&other, &node.kubelet()] {
        assert_eq!(get_on_both(client, LIST).await.status, 200);
        assert_eq!(get_on_both(client, "/version").await.status, 200);
    }
    node.api.put(config_map("shop", "news", "1"));
    all_see(&mut greedy, "news").await;
    all_see(&mut others, "news").await;
    assert!(!online.is_finished(), "the server was blamed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_has_its_share_gets_429_and_not_a_watch_that_is_not_live() {
    let node = node().await;
    let online = always_online(&node);
    let (many, version) = account(&node, "many").await;
    let mut opened = watches(&many, &version, 230).await;
    let refused = opened
        .extract_if(.., |(_, watch)| watch.response.status() == 429)
        .collect::<Vec<_>>();
    assert_eq!((opened.len(), refused.len()), (200, 30), "half of what there is");
    for (_, mut watch) in refused {
        assert_eq!(watch.response.headers()["retry-after"], "1");
        let status = watch.next().await.unwrap().unwrap();
        assert_eq!(status["reason"], "TooManyRequests");
    }
    assert_eq!(
        get_on_both(&many, "/version").await.status,
        200,
        "short requests have a lane of their own"
    );

    let (other, version) = account(&node, "other").await;
    let mut others = watches(&other, &version, 20).await;
    node.api.put(config_map("shop", "news", "1"));
    all_see(&mut opened, "news").await;
    all_see(&mut others, "news").await;
    assert!(!online.is_finished(), "the server was blamed");

    drop(opened);
    eventually("there is room again", || async {
        let mut again = watches(&many, &version, 1).await;
        let (_, watch) = again.remove(0);
        watch.response.status() == 200
    })
    .await;
    let transports = node.running().proxy().transports();
    let (connections, _) = transports.default_transport().usage()[&Purpose::Watch];
    assert!(connections <= 400, "{connections}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_an_outage_what_goes_on_is_live_and_what_has_no_room_ends() {
    let node = node().await;
    let (many, version) = account(&node, "many").await;
    let mut held = watches(&many, &version, 60).await;
    node.cut().await;
    // Held as well: offline nothing is needed for it.
    held.extend(watches(&many, &version, 180).await);
    for (_, watch) in &held {
        assert_eq!(watch.response.status(), 200);
    }
    node.heal().await;
    let usage = || node.running().proxy().transports().default_transport().usage()[&Purpose::Watch].1;
    eventually("they are live", || async { usage() == 200 }).await;
    node.api.put(config_map("shop", "news", "1"));
    let mut live = 0;
    for (_, watch) in &mut held {
        if let Some(event) = watch.next().await.expect("an event or a clean end") {
            assert_eq!(event["object"]["metadata"]["name"], "news");
            live += 1;
        }
    }
    assert_eq!(live, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_answers_of_one_caller_leaves_room_for_others() {
    let node = node().await;
    let (many, _) = account(&node, "many").await;
    let (other, _) = account(&node, "other").await;
    let _asking = unanswered(&node, &many).await;
    for client in [&other, &node.kubelet()] {
        assert_eq!(get_on_both(client, &format!("{LIST}/a")).await.status, 200);
    }
    node.api.clear_faults();
}

/// Over HTTP/2: there kube-apiserver ends the connection of whoever begins and gives up too much, with all that others have on it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_has_given_up_counts_until_the_cloud_is_done_with_it() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let (many, _) = account(&node, "many").await;
    let (other, _) = account(&node, "other").await;
    let mut asking = unanswered(&node, &many).await;
    eventually("the rest is with the cloud", || async {
        node.asked("GET", STALLED) >= 200
    })
    .await;
    asking.shutdown().await;
    eventually("edgehold knows that they have gone", || async {
        node.running().metrics().open.get() == 0
    })
    .await;
    let object = format!("{LIST}/a");
    assert_eq!(get_on_both(&many, &object).await.status, 429);
    assert_eq!(get_on_both(&other, &object).await.status, 200);
    eventually("but not for ever", || async {
        many.get(&object).await.status == 200
    })
    .await;
}
