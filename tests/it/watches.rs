//! Watches without the cloud and across its absence: table 5.7 and section 5.8 of the wire contract.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_standin::{Connection, Fault, Lines, Options, Protocol};
use edgehold::kube::event::EventType;
use edgehold::kube::media::Encoding;
use edgehold::runtime::clock;
use edgehold::upstream::Purpose;
use edgehold::wire::watch::{FrameReader, WatchEvent, read_event};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;

use crate::scripted::{Scripted, Step, chunk, head};
use crate::support::{
    DEADLINE, KUBELET, Node, Setup, change, config_map, ends_initial, event, names, offline_list, rest, told,
    version, watch_from, watch_list,
};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn put(node: &Node, name: &str, value: &str) -> String {
    version(&node.api.put(config_map("shop", name, value)))
}

async fn open(connection: &mut Connection, target: &str) -> Lines {
    let watch = connection.lines(target).await.unwrap();
    assert_eq!(watch.response.status(), 200, "{target}");
    watch
}

/// A node whose kubelet has listed `a` and `b`, offline. Gives the view's version.
async fn offline_node() -> (Node, u64) {
    let node = Node::start().await;
    put(&node, "b", "1");
    let listed = put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    node.cut().await;
    offline_list(&node.kubelet(), LIST).await;
    (node, listed.parse().unwrap())
}

fn bookmarks(events: &[serde_json::Value]) -> Vec<String> {
    let of = |event: &serde_json::Value| (event["type"] == "BOOKMARK").then(|| told(event).2);
    events.iter().filter_map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_watch_at_the_views_version_is_held_to_its_timeout_and_told_where_it_stands() {
    let (node, at) = offline_node().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let started = clock::now();
    let target = format!("{}&timeoutSeconds=3", watch_from(LIST, &at.to_string()));
    let mut watch = open(&mut connection, &target).await;
    assert_eq!(
        watch.response.headers()["cache-status"],
        "edgehold; hit; detail=offline"
    );
    assert!(clock::now() - started < Duration::from_secs(2), "headers at once");
    let events = rest(&mut watch).await;
    assert!(clock::now() - started >= Duration::from_secs(3), "held");
    assert_eq!(
        (events.len(), bookmarks(&events)),
        (1, vec![at.to_string()]),
        "{events:?}"
    );
    assert_eq!(events[0]["object"]["kind"], "ConfigMap");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_client_that_is_ahead_is_held_and_never_told_less_than_it_knows() {
    let (node, at) = offline_node().await;
    let ahead = (at + 50).to_string();
    let mut connection = node.kubelet().connect().await.unwrap();
    let plain = format!("{LIST}?watch=true&resourceVersion={ahead}&timeoutSeconds=2");
    let marked = format!("{}&timeoutSeconds=3", watch_from(LIST, &ahead));
    let mut silent = open(&mut connection, &plain).await;
    let mut watch = open(&mut connection, &marked).await;
    let told: Vec<String> = bookmarks(&rest(&mut watch).await);
    assert_eq!(told, std::slice::from_ref(&ahead));
    assert!(
        rest(&mut silent).await.is_empty(),
        "bookmarks only for those who ask"
    );

    let initial = watch_list(LIST).replace("&timeoutSeconds=600", "");
    let refused = node
        .kubelet()
        .get(&format!("{initial}&resourceVersion={ahead}"))
        .await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_client_that_is_behind_is_told_410() {
    let (node, at) = offline_node().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_from(LIST, &(at - 1).to_string())).await;
    let events = rest(&mut watch).await;
    assert_eq!(events.len(), 1, "{events:?}");
    let status = &events[0]["object"];
    assert_eq!(
        (&events[0]["type"], &status["kind"]),
        (&json!("ERROR"), &json!("Status"))
    );
    assert_eq!(
        (&status["code"], &status["reason"]),
        (&json!(410), &json!("Expired"))
    );
    assert_eq!(
        status["message"],
        format!("too old resource version: {} ({at})", at - 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_initial_events_come_in_key_order_with_an_end_only_for_those_who_ask() {
    let node = Node::start().await;
    for (namespace, name) in [
        ("a0", "x"),
        ("a", "x"),
        ("a-b", "x"),
        ("a", "x-1"),
        ("a.b", "x"),
        ("ab", "x"),
    ] {
        node.api.put(config_map(namespace, name, "1"));
    }
    let all = "/api/v1/configmaps";
    let online = node.kubelet().get(all).await.json();
    let at = version(&online);
    node.cut().await;
    offline_list(&node.kubelet(), all).await;
    let mut connection = node.kubelet().connect().await.unwrap();
    for (target, marked) in [
        (watch_list(all), true),
        (
            watch_list(all).replace("allowWatchBookmarks=true", "allowWatchBookmarks=false"),
            false,
        ),
        (
            format!("{all}?watch=true&resourceVersion=0&allowWatchBookmarks=true"),
            true,
        ),
        (format!("{all}?watch=true"), false),
        ("/api/v1/watch/configmaps?resourceVersion=0".to_owned(), false),
    ] {
        let target = format!("{}&timeoutSeconds=1", target.replace("&timeoutSeconds=600", ""));
        let target = if target.contains('?') {
            target
        } else {
            target.replacen('&', "?", 1)
        };
        let mut watch = open(&mut connection, &target).await;
        let events = rest(&mut watch).await;
        let keys: Vec<String> = events
            .iter()
            .filter(|event| event["type"] == "ADDED")
            .map(|event| {
                let text = |field: &str| event["object"]["metadata"][field].as_str().unwrap().to_owned();
                format!("{}/{}", text("namespace"), text("name"))
            })
            .collect();
        assert_eq!(
            keys,
            ["a-b/x", "a.b/x", "a/x", "a/x-1", "a0/x", "ab/x"],
            "{target}"
        );
        let ends: Vec<&serde_json::Value> = events.iter().filter(|event| ends_initial(event)).collect();
        assert_eq!(ends.len(), usize::from(marked), "{target}");
        if marked {
            assert_eq!(told(ends[0]).2, at);
            assert!(
                ends_initial(&events[6]),
                "the end comes right after the items: {events:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_without_a_view_only_a_client_that_knows_something_is_held() {
    let (node, _) = offline_node().await;
    let unknown = "/api/v1/namespaces/shop/secrets";
    let mut connection = node.kubelet().connect().await.unwrap();
    let target = format!("{}&timeoutSeconds=1", watch_from(unknown, "15"));
    let mut watch = open(&mut connection, &target).await;
    assert!(rest(&mut watch).await.is_empty());
    for target in [
        format!("{unknown}?watch=true"),
        format!("{unknown}?watch=true&resourceVersion=0"),
        watch_list(unknown),
        unknown.to_owned(),
        format!("{unknown}/a"),
        "/api/v1/watch/namespaces/shop/secrets".to_owned(),
    ] {
        let answer = node.kubelet().get(&target).await;
        assert_eq!(
            (
                answer.status,
                answer.header("retry-after"),
                &answer.json()["kind"]
            ),
            (503, "", &json!("Status")),
            "{target}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_legacy_watch_path_is_the_same_watch_live_held_and_resumed() {
    let node = Node::start().await;
    put(&node, "b", "1");
    let at = put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let legacy = format!("/api/v1/watch/namespaces/shop/configmaps?resourceVersion={at}");
    let mut watch = open(&mut connection, &legacy).await;
    put(&node, "c", "1");
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "c".into()));
    node.cut().await;
    let list = offline_list(&node.kubelet(), LIST).await;
    assert_eq!(names(&list), ["a", "b", "c"], "one view, whatever the path");
    put(&node, "d", "1");
    node.heal().await;
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "d".into()));
    let one = format!("/api/v1/watch/namespaces/shop/configmaps/a?resourceVersion={at}");
    let mut watch = open(&mut connection, &one).await;
    put(&node, "b", "2");
    put(&node, "a", "2");
    assert_eq!(change(&mut watch).await, ("MODIFIED".into(), "a".into()));
}

/// The frames of a protobuf watch.
pub struct Frames {
    body: Incoming,
    reader: FrameReader,
}

impl Frames {
    pub async fn open(connection: &mut Connection, target: &str) -> Self {
        let response = connection.open("GET", target, "").await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(
            response.headers()["content-type"],
            "application/vnd.kubernetes.protobuf;stream=watch"
        );
        Self {
            body: response.into_body(),
            reader: FrameReader::new(Encoding::Protobuf).unwrap(),
        }
    }

    /// Type, name and version of the next event; `None` at a clean end.
    pub async fn next(&mut self) -> Option<(String, String, String)> {
        loop {
            if let Some(frame) = self.reader.next().unwrap() {
                return Some(match read_event(Encoding::Protobuf, &frame).unwrap() {
                    WatchEvent::Item { change, object } => (
                        EventType::as_str(change).to_owned(),
                        object.meta.name.clone(),
                        object.meta.resource_version.clone(),
                    ),
                    WatchEvent::Bookmark(bookmark) => {
                        assert_eq!(bookmark.type_meta.kind, "ConfigMap");
                        let kind = if bookmark.initial_events_end {
                            "END"
                        } else {
                            "BOOKMARK"
                        };
                        (kind.to_owned(), String::new(), bookmark.resource_version)
                    }
                    WatchEvent::Error(status) => ("ERROR".into(), String::new(), status.code.to_string()),
                    other => panic!("{other:?}"),
                });
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame()).await.unwrap();
            match frame {
                None => {
                    assert_eq!(self.reader.pending(), 0, "ended inside a frame");
                    return None;
                }
                Some(frame) => self.reader.push(frame.unwrap().into_data().unwrap_or_default()),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protobuf_watch_is_recorded_held_resumed_and_answered_offline() {
    let node = Node::start().await;
    put(&node, "a", "1");
    let client = node.kubelet().header("accept", PROTOBUF);
    let mut connection = client.connect().await.unwrap();
    let mut watch = Frames::open(&mut connection, &watch_list(LIST)).await;
    assert_eq!(watch.next().await.unwrap().1, "a");
    assert_eq!(watch.next().await.unwrap().0, "END");
    let at = put(&node, "b", "1");
    assert_eq!(
        watch.next().await.unwrap(),
        ("ADDED".into(), "b".into(), at.clone())
    );

    node.cut().await;
    let short = |target: &str, seconds: u32| {
        format!(
            "{}&timeoutSeconds={seconds}",
            target.replace("&timeoutSeconds=600", "")
        )
    };
    let mut held = Frames::open(&mut connection, &short(&watch_list(LIST), 3)).await;
    for expected in [("ADDED", "a"), ("ADDED", "b"), ("END", ""), ("BOOKMARK", "")] {
        let (kind, name, _) = held.next().await.unwrap();
        assert_eq!((kind.as_str(), name.as_str()), expected);
    }
    assert_eq!(held.next().await, None);
    let mut behind = Frames::open(&mut connection, &watch_from(LIST, "50")).await;
    assert_eq!(
        behind.next().await.unwrap(),
        ("ERROR".into(), String::new(), "410".into())
    );
    assert_eq!(behind.next().await, None);

    let gone = node.api.delete("ConfigMap", "shop", "a").unwrap();
    node.heal().await;
    assert_eq!(
        watch.next().await.unwrap(),
        ("DELETED".into(), "a".into(), version(&gone))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metadata_watch_is_a_view_of_its_own() {
    let node = Node::start().await;
    put(&node, "a", "1");
    let metadata = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let client = node.kubelet().header("accept", metadata);
    let mut connection = client.connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_list(LIST)).await;
    assert_eq!(event(&mut watch).await["object"]["kind"], "PartialObjectMetadata");
    assert!(ends_initial(&event(&mut watch).await));
    let at = put(&node, "b", "1");
    assert_eq!(told(&event(&mut watch).await).2, at);
    node.cut().await;
    let list = offline_list(&client, LIST).await;
    assert_eq!(
        (&list["kind"], names(&list)),
        (&json!("PartialObjectMetadataList"), vec!["a".into(), "b".into()])
    );
    let target = format!("{}&timeoutSeconds=3", watch_from(LIST, &at));
    let mut held = open(&mut connection, &target).await;
    let events = rest(&mut held).await;
    assert_eq!(bookmarks(&events), [at]);
    assert_eq!(events[0]["object"]["kind"], "PartialObjectMetadata");
    let whole = node.kubelet().get(LIST).await;
    assert_eq!(whole.status, 503, "metadata alone is no object");
}

fn frame(change: &str, name: &str, version: u32) -> String {
    json!({"type": change, "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name,
        "namespace": "shop", "resourceVersion": version.to_string()}}})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_20_and_21_a_frame_that_is_cut_in_the_middle_never_reaches_the_client() {
    let node = Scripted::of_watches(|target| {
        let half = frame("ADDED", "c", 13);
        let mut steps = vec![Step::Send(head())];
        if target.contains("resourceVersion=11") {
            steps.push(Step::Send(chunk(&(frame("ADDED", "b", 12) + "\n"))));
            steps.push(Step::Send(chunk(&half[..half.len() / 2])));
        } else {
            assert!(target.contains("resourceVersion=12"), "{target}");
            steps.push(Step::Send(chunk(&(half + "\n"))));
        }
        steps.push(Step::Wait);
        steps
    })
    .await;
    let mut connection = node.client().connect().await.unwrap();
    let mut response = connection
        .open("GET", &format!("{LIST}?watch=true&resourceVersion=11"), "")
        .await
        .unwrap();
    let mut received = Vec::new();
    let whole = frame("ADDED", "b", 12) + "\n";
    while received.len() < whole.len() {
        let data = response
            .body_mut()
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_data()
            .unwrap();
        received.extend_from_slice(&data);
    }
    node.cut().await;
    node.heal().await;
    let all = whole.clone() + &frame("ADDED", "c", 13) + "\n";
    while received.len() < all.len() {
        let data = tokio::time::timeout(DEADLINE, response.body_mut().frame())
            .await
            .unwrap();
        received.extend_from_slice(&data.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!(String::from_utf8(received).unwrap(), all);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_has_its_own_line_also_where_upstreams_line_break_was_cut_off() {
    let node = Scripted::of_watches(|target| {
        let piece = if target.contains("resourceVersion=11") {
            frame("ADDED", "b", 12)
        } else {
            frame("ADDED", "c", 13) + "\n"
        };
        vec![Step::Send(head()), Step::Send(chunk(&piece)), Step::Wait]
    })
    .await;
    let mut connection = node.client().connect().await.unwrap();
    let mut response = connection
        .open("GET", &format!("{LIST}?watch=true&resourceVersion=11"), "")
        .await
        .unwrap();
    let first = response
        .body_mut()
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    assert_eq!(
        first,
        frame("ADDED", "b", 12),
        "an event does not wait for its line break"
    );
    node.cut().await;
    node.heal().await;
    let mut more = Vec::new();
    while more.iter().filter(|byte| **byte == b'\n').count() < 2 {
        let data = tokio::time::timeout(DEADLINE, response.body_mut().frame())
            .await
            .unwrap();
        more.extend_from_slice(&data.unwrap().unwrap().into_data().unwrap());
    }
    assert_eq!(
        String::from_utf8(more).unwrap(),
        format!("\n{}\n", frame("ADDED", "c", 13))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_watch_goes_through_several_cuts_and_nothing_is_lost_or_doubled() {
    let node = Node::start().await;
    put(&node, "gone", "1");
    let mut at = put(&node, "changed", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(
        &mut connection,
        &format!("{}&timeoutSeconds=600", watch_from(LIST, &at)),
    )
    .await;
    for round in 0..4 {
        let name = format!("live-{round}");
        at = put(&node, &name, "1");
        assert_eq!(told(&event(&mut watch).await), ("ADDED".into(), name, at.clone()));
        node.cut().await;
        let changed = put(&node, "changed", &format!("round {round}"));
        let gone = version(&node.api.delete("ConfigMap", "shop", "gone").unwrap());
        at = put(&node, "gone", "1");
        node.api.forget_requests();
        node.heal().await;
        for (kind, name, version) in [
            ("MODIFIED", "changed", &changed),
            ("DELETED", "gone", &gone),
            ("ADDED", "gone", &at),
        ] {
            assert_eq!(
                told(&event(&mut watch).await),
                (kind.to_owned(), name.to_owned(), version.clone())
            );
        }
        let resumed = node.api.wait_for(|seen| seen.is_watch()).await;
        let left: u64 = resumed.query("timeoutSeconds").unwrap().parse().unwrap();
        assert!(
            (500..=600).contains(&left),
            "the rest of the client's time, not {left} s"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_upstream_has_forgotten_during_the_outage_is_told_410() {
    let node = Node::start().await;
    let at = put(&node, "a", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_from(LIST, &at)).await;
    put(&node, "b", "1");
    assert_eq!(change(&mut watch).await.1, "b");
    node.cut().await;
    put(&node, "c", "1");
    node.api.compact();
    node.heal().await;
    let events = rest(&mut watch).await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["object"]["code"], 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_watch_that_had_no_event_yet_still_gets_its_bookmark() {
    let node = Node::start().await;
    let at = put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let target = format!("{}&timeoutSeconds=4", watch_from(LIST, &at));
    let mut watch = open(&mut connection, &target).await;
    node.cut().await;
    assert_eq!(bookmarks(&rest(&mut watch).await), [at]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_list_that_is_cut_during_its_initial_events_ends_and_is_not_held() {
    let node = Node::start().await;
    for n in 0..50 {
        put(&node, &format!("a{n:02}"), "1");
    }
    node.api.fault(
        Fault::CutBody { after_bytes: 3000 }
            .on(LIST)
            .containing("watch=true"),
    );
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_list(LIST)).await;
    let events = rest(&mut watch).await;
    assert!(!events.is_empty() && !events.iter().any(ends_initial));
    let answer = node.kubelet().get(LIST).await;
    assert_eq!(answer.header("cache-status"), "", "the link is up");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_held_watches_return_one_by_one_and_none_is_lost() {
    const WATCHES: usize = 200;
    /// The pace of returning watches, as app.rs sets it.
    const INTERVAL: Duration = Duration::from_millis(25);
    let node = Node::start().await;
    let at = put(&node, "a", "1");
    let mut connections = Vec::new();
    let mut watches = Vec::new();
    for n in 0..WATCHES {
        if n % 50 == 0 {
            connections.push(node.kubelet().connect().await.unwrap());
        }
        let connection = connections.last_mut().unwrap();
        watches.push(open(connection, &watch_from(LIST, &at)).await);
    }
    node.cut().await;
    let added = put(&node, "b", "1");
    node.api.forget_requests();
    let started = clock::now();
    node.heal().await;
    let events = join_all(watches.iter_mut().map(event)).await;
    let took = clock::now() - started;
    assert!(events.iter().all(|event| told(event).2 == added));
    assert!(
        took >= INTERVAL * u32::try_from(WATCHES - 1).unwrap(),
        "all were back after {took:?}"
    );
    let resumed = node.api.requests().iter().filter(|seen| seen.is_watch()).count();
    assert_eq!(resumed, WATCHES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_moves_to_the_new_certificate_and_the_client_does_not_notice() {
    let node = Node::start().await;
    let at = put(&node, "a", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_from(LIST, &at)).await;
    let before = node.api.wait_for(|seen| seen.is_watch()).await;
    node.api.forget_requests();
    node.api
        .pki()
        .client(Some(KUBELET), &["system:nodes"])
        .write_to(node.dir.path(), "kubelet");
    let after = node.api.wait_for(|seen| seen.is_watch()).await;
    assert_ne!(before.connection_id, after.connection_id);
    assert_eq!(after.query("resourceVersion"), Some(at));
    let added = put(&node, "b", "1");
    assert_eq!(told(&event(&mut watch).await).2, added);
    node.api
        .wait_counters(|counters| counters.streams_open == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_live_and_held_watches_cleanly_and_soon() {
    let mut node = Node::start().await;
    let at = put(&node, "a", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut live = open(&mut connection, &watch_from(LIST, &at)).await;
    let last = put(&node, "b", "1");
    assert_eq!(change(&mut live).await.1, "b");
    let started = clock::now();
    node.stop().await;
    let parting = rest(&mut live).await;
    assert_eq!(
        (parting.len(), bookmarks(&parting)),
        (1, vec![last]),
        "{parting:?}"
    );
    // The drain would break off what is left after ten seconds.
    assert!(clock::now() - started < Duration::from_secs(8));

    node.launch().await;
    node.kubelet().get(LIST).await;
    node.cut().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut held = open(&mut connection, &watch_list(LIST)).await;
    while !ends_initial(&event(&mut held).await) {}
    node.stop().await;
    let parting = rest(&mut held).await;
    assert_eq!(parting.len(), bookmarks(&parting).len(), "{parting:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_client_that_leaves_frees_its_watch_upstream() {
    let node = Node::start().await;
    let at = put(&node, "a", "1");
    for protocol in [Protocol::Http2, Protocol::Http1] {
        let mut connections = Vec::new();
        for _ in 0..5 {
            let mut connection = node.kubelet().protocol(protocol).connect().await.unwrap();
            let watch = open(&mut connection, &watch_from(LIST, &at)).await;
            connections.push((watch, connection));
        }
        node.api
            .wait_counters(|counters| counters.streams_open >= 5)
            .await;
        drop(connections);
        node.api
            .wait_counters(|counters| counters.streams_open == 0)
            .await;
    }
    let transport = node.running().proxy().transports().named(KUBELET).unwrap();
    let (_, streams) = transport.usage()[&Purpose::Watch];
    assert_eq!(streams, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_stops_reading_holds_up_nobody_else() {
    let options = Options {
        history: 10_000,
        ..Options::default()
    };
    let node = Node::with(options, Setup::default()).await;
    let at = put(&node, "a", "1");
    let mut lazy_connection = node.kubelet().connect().await.unwrap();
    let lazy = open(&mut lazy_connection, &watch_from(LIST, &at)).await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_list(LIST)).await;
    while !ends_initial(&event(&mut watch).await) {}
    let large = "x".repeat(50_000);
    for n in 0..400 {
        let added = put(&node, "large", &format!("{n}{large}"));
        assert_eq!(told(&event(&mut watch).await).2, added);
    }
    node.cut().await;
    let list = offline_list(&node.kubelet(), LIST).await;
    assert_eq!(
        version(&list),
        node.api.revision().to_string(),
        "the view follows whoever is furthest"
    );
    node.heal().await;
    let last = put(&node, "last", "1");
    assert_eq!(told(&event(&mut watch).await).2, last);
    drop((lazy, lazy_connection, watch, connection));
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_one_view_resume_each_at_its_own_position() {
    let node = Node::start().await;
    let old = put(&node, "a", "1");
    let newer = put(&node, "b", "1");
    let newest = put(&node, "c", "1");
    node.kubelet().get(LIST).await;
    let selected = format!("{LIST}?labelSelector=app%3Dweb");
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    let mut first = node.kubelet().connect().await.unwrap();
    let mut second = proxy.connect().await.unwrap();
    // These are ahead of what is in the cache, or have selectors, or are another principal's.
    let ahead = (newest.parse::<u64>().unwrap() + 2).to_string();
    let mut watches = vec![
        open(&mut first, &watch_from(LIST, &newest)).await,
        open(&mut first, &watch_from(&selected, &newest)).await,
        open(&mut second, &watch_from(LIST, &newest)).await,
        open(&mut first, &watch_from(LIST, &ahead)).await,
    ];
    let mut behind = open(&mut first, &watch_from(LIST, &old)).await;
    assert_eq!(told(&event(&mut behind).await).2, newer);
    assert_eq!(told(&event(&mut behind).await).2, newest);
    watches.push(behind);
    node.cut().await;
    let mut added = Vec::new();
    for name in ["d", "e", "f"] {
        added.push(put(&node, name, "1"));
    }
    node.heal().await;
    for (index, watch) in watches.iter_mut().enumerate() {
        let expected = if index == 3 { &added[2..] } else { &added[..] };
        for version in expected {
            assert_eq!(&told(&event(watch).await).2, version, "watch {index}");
        }
    }
    node.cut().await;
    let list = offline_list(&node.kubelet(), LIST).await;
    assert_eq!(names(&list), ["a", "b", "c", "d", "e", "f"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_breaks_as_soon_as_it_is_open_is_not_tried_in_a_loop() {
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let node = Scripted::of_watches(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        // Ends inside a frame each time.
        vec![Step::Send(head()), Step::Send(chunk("{\"type\":"))]
    })
    .await;
    let mut connection = node.client().connect().await.unwrap();
    let target = format!("{LIST}?watch=true&resourceVersion=11&timeoutSeconds=3");
    let mut watch = open(&mut connection, &target).await;
    assert!(rest(&mut watch).await.is_empty());
    let tries = tries.load(Ordering::Relaxed);
    assert!((2..=4).contains(&tries), "{tries} tries in three seconds");
}

/// As kr8s does it, without a pause.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_for_what_is_gone_asks_ever_more_slowly_and_nobody_else_does() {
    let node = Node::start().await;
    let at = put(&node, "a", "1");
    let now = put(&node, "b", "1");
    node.api.compact();
    let gone = watch_from(LIST, &at);
    let mut connection = node.kubelet().connect().await.unwrap();
    let started = clock::now();
    for _ in 0..5 {
        let mut watch = open(&mut connection, &gone).await;
        assert_eq!(rest(&mut watch).await[0]["object"]["code"], 410);
    }
    let pauses = [100, 200, 400, 800].map(Duration::from_millis);
    assert!(clock::now() - started >= pauses.iter().sum::<Duration>());
    assert_eq!(node.asked("GET", &gone), 5, "each is asked");

    let mut other = open(&mut connection, &watch_from(LIST, &now)).await;
    put(&node, "c", "1");
    assert_eq!(change(&mut other).await, ("ADDED".into(), "c".into()));
}
