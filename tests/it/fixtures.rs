//! Recorded answers of a real kube-apiserver through edgehold: byte-identical online, equal offline.

use std::path::PathBuf;

use apiserver_standin::{Answer, Client, Options};
use futures_util::{StreamExt as _, stream};
use serde_json::Value;

use crate::support::{Node, Setup, names};

/// One line of the index, with what was recorded for it.
#[derive(Clone)]
struct Recording {
    name: String,
    method: String,
    target: String,
    accept: String,
    gzip: bool,
    body: Vec<u8>,
}

fn dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kube-apiserver-1.36")
}

fn recordings() -> Vec<Recording> {
    let index = std::fs::read(dir().join("index.json")).unwrap();
    let index: Vec<Value> = serde_json::from_slice(&index).unwrap();
    let all: Vec<_> = index
        .iter()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap().to_owned();
            Recording {
                name: text("name"),
                method: text("method"),
                target: text("path"),
                accept: text("accept"),
                gzip: entry["request_headers"].to_string().contains("gzip"),
                body: std::fs::read(dir().join(format!("{}.body", text("name")))).unwrap(),
            }
        })
        .collect();
    assert!(all.len() >= 73, "{}", all.len());
    all
}

fn recording(name: &str) -> Recording {
    recordings()
        .into_iter()
        .find(|recording| recording.name == name)
        .unwrap()
}

async fn node() -> Node {
    Node::with(Options::fixtures(dir()), Setup::default()).await
}

impl Recording {
    async fn ask(&self, node: &Node, client: Client) -> Answer {
        node.api.prefer_recordings(&self.name);
        let mut client = client.header("accept", &self.accept).header("audit-id", "same");
        if self.gzip {
            client = client.header("accept-encoding", "gzip");
        }
        client.send(&self.method, &self.target, "").await.unwrap()
    }

    fn is_watch(&self) -> bool {
        self.target.contains("watch=true")
    }

    /// The recorded body without its compression.
    fn plain_body(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        if self.gzip {
            std::io::copy(&mut flate2::read::MultiGzDecoder::new(&self.body[..]), &mut plain).unwrap();
        } else {
            plain.clone_from(&self.body);
        }
        plain
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recording_arrives_byte_for_byte() {
    let node = node().await;
    let direct = Client::new(node.api.addr(), node.api.ca_pem(), Some(&node.pair("kubelet")));
    for recording in recordings() {
        let expected = recording.ask(&node, direct.clone()).await;
        let answer = recording.ask(&node, node.kubelet()).await;
        let name = &recording.name;
        assert!(answer.body == recording.body, "{name}: the body differs");
        assert_eq!(
            (answer.status, answer.headers),
            (expected.status, expected.headers),
            "{name}"
        );
    }
}

/// What the cache can say after one recorded answer.
#[derive(Debug, PartialEq)]
enum Offline {
    /// The same body.
    Same,
    /// Nothing: 503.
    Unknown,
    /// 404, worded as the apiserver did.
    Absent,
    /// 410: a list that was begun online has to be begun again.
    Expired,
}

fn expected_offline(recording: &Recording) -> Offline {
    match recording.name.as_str() {
        "notfound.json" | "notfound.proto" => Offline::Absent,
        // 406 (the key set is no application/json), and 404 for a resource that is not served: neither says anything
        // about objects.
        "gauges-list-proto-refused" | "jwks" | "unknown-resource" => Offline::Unknown,
        // A page is not a list, and a page token means nothing here.
        name if name.starts_with("cm-page") && recording.target.contains("continue=") => Offline::Expired,
        name if name.starts_with("cm-page") => Offline::Unknown,
        // Tokens are kept for pods of the node only, and there is no view of those.
        "token-request-response.json" => Offline::Unknown,
        _ => Offline::Same,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_read_is_answered_equally_after_a_cut() {
    let reads = recordings().into_iter().filter(|recording| !recording.is_watch());
    let checks = stream::iter(reads).map(answered_equally_after_a_cut);
    checks.buffer_unordered(8).collect::<()>().await;
}

async fn answered_equally_after_a_cut(recording: Recording) {
    let node = node().await;
    let name = &recording.name;
    let online = recording.ask(&node, node.kubelet()).await;
    node.cut().await;
    let offline = recording.ask(&node, node.kubelet()).await;
    match expected_offline(&recording) {
        Offline::Unknown => assert_eq!(offline.status, 503, "{name}"),
        Offline::Expired => assert_eq!(offline.status, 410, "{name}"),
        Offline::Absent => assert_eq!((offline.status, &offline.body), (404, &online.body), "{name}"),
        Offline::Same => {
            assert_eq!((offline.status, online.status), (200, 200), "{name}");
            assert_eq!(
                offline.header("content-type"),
                online.header("content-type"),
                "{name}"
            );
            assert_eq!(offline.header("etag"), online.header("etag"), "{name}");
            assert_eq!(offline.header("cache-status"), "edgehold; hit; detail=offline");
            let expected = recording.plain_body();
            if expected.starts_with(b"{\n") && offline.body.starts_with(b"{\"") && recording.gzip {
                // Recorded with indentation: views are put together without.
                assert_eq!(
                    offline.json(),
                    serde_json::from_slice::<Value>(&expected).unwrap(),
                    "{name}"
                );
                return;
            }
            let difference = first_difference(&offline.body, &expected);
            assert!(offline.body == expected, "{name}: {difference}");
        }
    }
}

fn first_difference(one: &[u8], other: &[u8]) -> String {
    let at = one.iter().zip(other).take_while(|(a, b)| a == b).count();
    let around = |bytes: &[u8]| {
        let end = bytes.len().min(at + 60);
        String::from_utf8_lossy(&bytes[at.saturating_sub(60).min(end)..end]).into_owned()
    };
    format!("from byte {at}:\n{}\nrecorded:\n{}", around(one), around(other))
}

/// Asks for these recordings in turn, cuts, and asks for the last again.
async fn replayed_then_cut(order: &[&str], last: &str) -> (Answer, Recording) {
    let node = node().await;
    for name in order {
        let answer = recording(name).ask(&node, node.kubelet()).await;
        assert_eq!(answer.status, 200, "{name}");
    }
    node.cut().await;
    let last = recording(last);
    (last.ask(&node, node.kubelet()).await, last)
}

/// The lists are those of different moments, so their resourceVersions may differ; nothing else.
fn assert_same_items(answer: &Answer, expected: &[u8], name: &str) {
    assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    if answer.header("content-type").contains("json") {
        let (mut one, mut other) = (answer.json(), serde_json::from_slice::<Value>(expected).unwrap());
        let version = |list: &Value| -> u64 {
            list["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap()
        };
        assert!(
            version(&one) <= version(&other),
            "{name}: a version from the future"
        );
        one["metadata"].take();
        other["metadata"].take();
        assert_eq!(one, other, "{name}");
    } else {
        assert_eq!(answer.body.len(), expected.len(), "{name}");
        let differing: Vec<usize> = (0..expected.len())
            .filter(|at| answer.body[*at] != expected[*at])
            .collect();
        let digits = differing.iter().all(|at| answer.body[*at].is_ascii_digit());
        assert!(differing.len() <= 3 && digits, "{name}: {differing:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_watch_moves_its_recorded_list_to_the_state_after() {
    for (order, last) in [
        (
            ["cm-list-ns.json", "cm-watch.json"].as_slice(),
            "cm-list-ns-after.json",
        ),
        (&["cm-list-ns.proto", "cm-watch.proto"], "cm-list-ns-after.proto"),
        (
            &["cm-list-label.json", "cm-watch-label.json"],
            "cm-list-label-after.json",
        ),
        (
            &["cm-list-label.proto", "cm-watch-label.proto"],
            "cm-list-label-after.proto",
        ),
        (&["cm-watchlist.json"], "cm-list-ns-after.json"),
        (&["cm-watchlist.proto"], "cm-list-ns-after.proto"),
        (&["gauges-watchlist.json"], "gauges-list-after.json"),
        // No bookmark: the first event that is not ADDED marks the end of the initial ones.
        (&["cm-watch-rv0.json"], "cm-list-ns-after.json"),
        (&["cm-watch-rv0.proto"], "cm-list-ns-after.proto"),
    ] {
        let (answer, expected) = replayed_then_cut(order, last).await;
        assert_same_items(&answer, &expected.body, &format!("{order:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_metadata_watch_moves_its_list_too() {
    let (answer, _) =
        replayed_then_cut(&["cm-meta-list.json", "cm-watch-meta.json"], "cm-meta-list.json").await;
    let after: Value = serde_json::from_slice(&recording("cm-list-ns-after.json").body).unwrap();
    assert_eq!((answer.status, names(&answer.json())), (200, names(&after)));
    let (answer, before) = replayed_then_cut(
        &["cm-meta-list.proto", "cm-watch-meta.proto"],
        "cm-meta-list.proto",
    )
    .await;
    assert_eq!(answer.status, 200);
    assert!(answer.body != before.body, "the watch changed the list");
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_watches_that_prove_no_whole_list_answer_none() {
    for (watch, list) in [
        // Changes of a list that was never read.
        ("cm-watch.json", "cm-list-ns.json"),
        ("cm-watch.proto", "cm-list-ns.proto"),
        ("cm-watch-label.json", "cm-list-label.json"),
        ("cm-watch-label.proto", "cm-list-label.proto"),
        ("cm-watch-meta.json", "cm-meta-list.json"),
        ("cm-watch-meta.proto", "cm-meta-list.proto"),
        ("cm-watch-table.json", "cm-list-ns.json"),
        // An ERROR event: the history is gone.
        ("watch-too-old", "cm-list-all.json"),
    ] {
        let (answer, _) = replayed_then_cut(&[watch], list).await;
        assert_eq!(answer.status, 503, "{watch}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_pages_together_are_the_whole_list() {
    let pages = [
        "cm-page1.json",
        "cm-page2.json",
        "cm-page3.json",
        "cm-page4.json",
        "cm-page5.json",
        "cm-page6.json",
    ];
    let (answer, expected) = replayed_then_cut(&pages, "cm-list-all.json").await;
    let (mut one, mut other) = (
        answer.json(),
        serde_json::from_slice::<Value>(&expected.body).unwrap(),
    );
    assert_eq!(one["metadata"]["continue"], Value::Null);
    one["metadata"].take();
    other["metadata"].take();
    assert_eq!(one, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_fallback_to_json_is_a_view_of_its_own_right() {
    let (answer, _) = replayed_then_cut(&["gauges-list-fallback"], "gauges-list.json").await;
    assert_eq!(
        answer.status, 200,
        "JSON was recorded, whatever was asked for first"
    );
    let (answer, _) = replayed_then_cut(&["gauges-list.json"], "gauges-list-proto-refused").await;
    assert_eq!(answer.status, 503, "protobuf only cannot be had of it");
}
