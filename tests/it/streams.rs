//! Many streams at once: watches apart from short requests, readers that stop, GOAWAY, and nothing left behind.
#![allow(clippy::disallowed_methods)] // a test's own tasks

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_standin::{Options, Protocol};
use bytes::Bytes;
use edgehold::upstream::Purpose;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{DEADLINE, KUBELET, Node, Setup, TestBody, config_map, eventually, names};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

async fn get(sender: &SendRequest<TestBody>, target: &str) -> Response<Incoming> {
    let request = Request::get(format!("https://edge{target}"))
        .body(Empty::new().boxed_unsync())
        .unwrap();
    let sending = sender.clone().send_request(request);
    tokio::time::timeout(DEADLINE, async { Box::pin(sending).await })
        .await
        .unwrap_or_else(|_| panic!("no answer to {target}"))
        .unwrap_or_else(|error| panic!("{target}: {error:?}"))
}

async fn get_whole(sender: &SendRequest<TestBody>, target: &str) -> (u16, Bytes) {
    let response = get(sender, target).await;
    let status = response.status().as_u16();
    let read = tokio::time::timeout(DEADLINE, response.into_body().collect());
    (status, read.await.unwrap().unwrap().to_bytes())
}

/// Reads a watch up to an event about this object.
async fn saw(mut watch: Response<Incoming>, name: &str) -> Response<Incoming> {
    let mut seen = String::new();
    let reading = async {
        while !seen.contains(&format!("\"name\":\"{name}\"")) {
            let frame = watch
                .body_mut()
                .frame()
                .await
                .expect("the watch goes on")
                .unwrap();
            seen.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap()));
        }
    };
    tokio::time::timeout(DEADLINE, reading)
        .await
        .unwrap_or_else(|_| panic!("{name} did not come"));
    watch
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_allows_few_streams_gets_more_connections_and_every_watch_is_live() {
    const WATCHES: usize = 60;
    const ALLOWED: usize = 20;
    let options = Options {
        max_concurrent_streams: 20,
        ..Options::default()
    };
    let node = Node::with(options, Setup::default()).await;
    let sender = node.kubelet_http2().await;
    let mut opening = JoinSet::new();
    for n in 0..WATCHES {
        let (sender, revision) = (sender.clone(), node.api.revision());
        opening.spawn(async move {
            let target = format!("{LIST}?watch=1&resourceVersion={revision}&labelSelector=app%21%3Dx{n}");
            get(&sender, &target).await
        });
    }
    let watches = opening.join_all().await;
    node.api.put(config_map("shop", "news", "1"));
    let mut reading = JoinSet::new();
    for watch in watches {
        reading.spawn(saw(watch, "news"));
    }
    assert_eq!(reading.join_all().await.len(), WATCHES);
    let mut streams: BTreeMap<u64, usize> = BTreeMap::new();
    for seen in node.api.requests().iter().filter(|seen| seen.is_watch()) {
        *streams.entry(seen.connection_id).or_default() += 1;
    }
    assert!(streams.values().all(|count| *count <= ALLOWED), "{streams:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_watches_and_short_requests_flow_on_one_client_connection() {
    const WATCHES: usize = 500;
    let node = Node::start().await;
    let sender = node.kubelet_http2().await;
    let mut opening = JoinSet::new();
    for n in 0..WATCHES {
        let (sender, revision) = (sender.clone(), node.api.revision());
        opening.spawn(async move {
            let selector = format!("labelSelector=app%3Dweb%2Ckind+notin+%28x{}%29", n % 20);
            let target = format!("{LIST}?watch=1&resourceVersion={revision}&{selector}");
            let watch = get(&sender, &target).await;
            assert_eq!(watch.status(), 200);
            watch
        });
    }
    let watches = opening.join_all().await;
    let mut short = JoinSet::new();
    for n in 0..200 {
        let sender = sender.clone();
        short.spawn(async move { get_whole(&sender, &format!("/debug/echo?short={n}")).await.0 });
    }
    assert!(short.join_all().await.iter().all(|status| *status == 200));

    node.api.put(config_map("shop", "news", "1"));
    let mut reading = JoinSet::new();
    for watch in watches {
        reading.spawn(saw(watch, "news"));
    }
    assert_eq!(reading.join_all().await.len(), WATCHES);

    let mut streams: BTreeMap<u64, usize> = BTreeMap::new();
    let mut shorts = BTreeSet::new();
    for seen in node.api.requests().iter().filter(|seen| seen.target != "/readyz") {
        if seen.is_watch() {
            *streams.entry(seen.connection_id).or_default() += 1;
        } else {
            shorts.insert(seen.connection_id);
        }
    }
    assert!(streams.values().all(|count| *count <= 100), "{streams:?}");
    assert!(streams.len() <= 2 * WATCHES / 100, "{streams:?}");
    assert!(
        streams.keys().all(|connection| !shorts.contains(connection)),
        "short requests shared a connection with watches: {shorts:?} {streams:?}"
    );
    drop(sender);
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_do_not_starve_others_of_the_same_upstream_connection() {
    const STALLED: usize = 64;
    let node = Node::with(Options::huge(20_000, 1000), Setup::default()).await;
    let stuck = node.kubelet_http2().await;
    let mut stalled = Vec::new();
    for n in 0..STALLED {
        let target = match n % 2 {
            0 => format!("/debug/blob?size=20000000&n={n}"),
            _ => format!("/api/v1/namespaces/huge/configmaps?n={n}"),
        };
        let response = get(&stuck, &target).await;
        assert_eq!(response.status(), 200);
        stalled.push(response);
    }
    let other = node.kubelet_http2().await;
    for n in 0..100 {
        let (status, body) = get_whole(&other, &format!("/debug/blob?size=300000&short={n}")).await;
        assert_eq!(status, 200);
        assert!(body.len() > 250_000);
    }
    let on = |part: &str| -> BTreeSet<u64> {
        let all = node.api.requests().into_iter();
        let fitting = all.filter(|seen| seen.target.contains(part));
        fitting.map(|seen| seen.connection_id).collect()
    };
    assert!(
        on("&short=").intersection(&on("?n=")).next().is_some(),
        "the test is void: nothing was shared"
    );
    // What stood still goes on, whole.
    drop(stalled.split_off(1));
    let first = stalled.pop().unwrap().into_body().collect();
    let first = tokio::time::timeout(2 * DEADLINE, first)
        .await
        .unwrap()
        .unwrap()
        .to_bytes();
    assert!(first.len() > 19_000_000);
    drop(stuck);
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_not_read_starves_no_other_watch() {
    let node = Node::with(Options::huge(20_000, 1000), Setup::default()).await;
    let stuck = node.kubelet_http2().await;
    let mut stalled = Vec::new();
    for n in 0..20 {
        let target = format!(
            "/api/v1/namespaces/huge/configmaps?watch=1&sendInitialEvents=true\
             &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds={}",
            300 + n
        );
        stalled.push(get(&stuck, &target).await);
    }
    let other = node.kubelet_http2().await;
    let revision = node.api.revision();
    let mut watch = get(&other, &format!("{LIST}?watch=1&resourceVersion={revision}")).await;
    for n in 0..50 {
        let name = format!("c-{n}");
        node.api.put(config_map("shop", &name, "1"));
        watch = saw(watch, &name).await;
    }
    drop((stalled, stuck, watch, other));
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn goaway_in_the_midst_of_traffic_fails_no_request_and_ends_no_watch() {
    let node = Node::start().await;
    let sender = node.kubelet_http2().await;
    let revision = node.api.revision();
    let watch = get(&sender, &format!("{LIST}?watch=1&resourceVersion={revision}")).await;
    let running = Arc::new(AtomicBool::new(true));
    let done = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for worker in 0..8 {
        let (sender, running, done) = (sender.clone(), Arc::clone(&running), Arc::clone(&done));
        let client = node.kubelet();
        workers.spawn(async move {
            let mut connection = client.connect().await.unwrap();
            let mut round = 0;
            while running.load(Ordering::Relaxed) {
                round += 1;
                let (status, _) = get_whole(&sender, &format!("{LIST}?x={worker}-{round}")).await;
                assert_eq!(status, 200);
                let object = config_map("shop", &format!("c-{worker}-{round}"), "1").to_string();
                let made = connection.send("POST", LIST, object).await.unwrap();
                assert_eq!(made.status, 201, "{}", made.text());
                done.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    for round in 1..=20 {
        let target = done.load(Ordering::Relaxed) + 16;
        node.api.go_away();
        eventually(&format!("progress after GOAWAY {round}"), || {
            if let Some(ended) = workers.try_join_next() {
                ended.unwrap();
            }
            std::future::ready(done.load(Ordering::Relaxed) >= target)
        })
        .await;
    }
    running.store(false, Ordering::Relaxed);
    while let Some(joined) = workers.join_next().await {
        joined.unwrap();
    }
    node.api.put(config_map("shop", "last", "1"));
    drop(saw(watch, "last").await);
    let watches = node.api.requests().iter().filter(|seen| seen.is_watch()).count();
    assert_eq!(watches, 1, "the client's watch was never re-opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_behind_by_many_cuts() {
    const WATCHES: usize = 5;
    let setup = Setup {
        probe_interval: "20ms",
        ..Setup::default()
    };
    let node = Node::with(Options::default(), setup).await;
    node.api.put(config_map("shop", "a", "1"));
    let sender = node.kubelet_http2().await;
    let list: Value = serde_json::from_slice(&get_whole(&sender, LIST).await.1).unwrap();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        watches.push(get(&sender, &format!("{LIST}?watch=1&resourceVersion={revision}")).await);
    }
    // A watch that broke soon after it was opened waits two seconds, so each round takes as long.
    for round in 0..15 {
        node.cut().await;
        assert_eq!(get_whole(&sender, LIST).await.0, 200);
        node.heal().await;
        assert_eq!(get_whole(&sender, "/debug/echo").await.0, 200);
        // Every watch is live again before the next cut.
        let name = format!("r-{round}");
        node.api.put(config_map("shop", &name, "1"));
        let mut live = Vec::new();
        for watch in watches {
            live.push(saw(watch, &name).await);
        }
        watches = live;
    }
    // One connection for the short requests and one for the watches.
    node.api
        .wait_counters(|counters| counters.streams_open == WATCHES as u64 && counters.connections_open <= 3)
        .await;
    let kubelet = node.running().proxy().transports().named(KUBELET).unwrap();
    assert_eq!(kubelet.usage()[&Purpose::Watch], (1, WATCHES));
    assert!(kubelet.usage()[&Purpose::Short].0 <= 1);
    drop(watches);
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
    wait(|| kubelet.usage()[&Purpose::Watch].1 == 0).await;
    drop(sender);
    wait(|| node.running().metrics().open.get() == 0).await;
}

/// Waits for something that nobody announces.
async fn wait(holds: impl Fn() -> bool) {
    let polling = async {
        let mut pause = tokio::time::interval(Duration::from_millis(5));
        while !holds() {
            pause.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, polling)
        .await
        .expect("it came true in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_of_http1_only_carries_more_requests_than_it_gets_connections() {
    let options = Options {
        alpn: vec!["http/1.1"],
        ..Options::default()
    };
    let node = Node::with(options, Setup::default()).await;
    let sender = node.kubelet_http2().await;
    let mut requests = JoinSet::new();
    for n in 0..300 {
        let sender = sender.clone();
        requests.spawn(async move {
            get_whole(&sender, &format!("/debug/blob?size=10000&n={n}"))
                .await
                .0
        });
    }
    assert!(requests.join_all().await.iter().all(|status| *status == 200));
    let used: BTreeSet<_> = node
        .api
        .requests()
        .iter()
        .map(|seen| seen.connection_id)
        .collect();
    // 32 and the probe's, more only where none is free for two seconds.
    assert!(used.len() <= 150, "{} connections", used.len());
    let before = node.api.counters().connections_total;
    for n in 0..50 {
        assert_eq!(get_whole(&sender, &format!("/debug/echo?n={n}")).await.0, 200);
    }
    assert_eq!(
        node.api.counters().connections_total,
        before,
        "idle connections are used again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_opens_no_connections() {
    let node = Node::start().await;
    for pair in ["kubelet", "kube-proxy"] {
        for protocol in [Protocol::Http2, Protocol::Http1] {
            let client = node.client(Some(&node.pair(pair))).protocol(protocol);
            assert_eq!(client.get("/debug/echo").await.status, 200);
        }
    }
    let settled = node
        .api
        .wait_counters(|counters| counters.connections_open == 2)
        .await;
    let more = node
        .api
        .wait_counters(|counters| counters.connections_total > settled.connections_total);
    let waited = tokio::time::timeout(Duration::from_secs(3), more).await;
    assert!(waited.is_err(), "a connection was opened for nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_fails_does_not_stop_a_live_watch_or_a_list() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let sender = node.kubelet_http2().await;
    let target = format!(
        "{LIST}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = saw(get(&sender, &target).await, "a").await;
    node.settle().await;
    // A file where the directory was: nothing can be made there any more.
    std::fs::remove_dir_all(node.cache_dir()).unwrap();
    std::fs::write(node.cache_dir(), "").unwrap();
    for n in 0..200 {
        let name = format!("c-{n}");
        node.api.put(config_map("shop", &name, &"v".repeat(20_000)));
        watch = saw(watch, &name).await;
        if n % 20 == 0 {
            let (status, list) = get_whole(&sender, LIST).await;
            let list: Value = serde_json::from_slice(&list).unwrap();
            assert_eq!((status, names(&list).len()), (200, n + 2));
            assert_eq!(list["kind"], json!("ConfigMapList"));
            assert_eq!(get_whole(&sender, &format!("{LIST}/{name}")).await.0, 200);
            assert_eq!(get_whole(&sender, "/version").await.0, 200);
        }
    }
}
