//! Recorded answers of a real kube-apiserver through edgehold: byte-identical online, equal offline.

use std::path::PathBuf;

use apiserver_standin::{Answer, Client, Options};
use edgehold::runtime::clock;
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

/// Each is recorded under the same names (docs/kubernetes-versions.md).
const VERSIONS: [&str; 2] = ["1.36", "1.37"];

fn dir(version: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/kube-apiserver-{version}"))
}

fn recordings(version: &str) -> Vec<Recording> {
    let dir = dir(version);
    let index = std::fs::read(dir.join("index.json")).unwrap();
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
                body: std::fs::read(dir.join(format!("{}.body", text("name")))).unwrap(),
            }
        })
        .collect();
    assert!(all.len() >= 73, "{}", all.len());
    all
}

fn recording(version: &str, name: &str) -> Recording {
    recordings(version)
        .into_iter()
        .find(|recording| recording.name == name)
        .unwrap()
}

async fn node(version: &str) -> Node {
    Node::with(Options::fixtures(dir(version)), Setup::default()).await
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

    /// Whether the apiserver did what it was asked for.
    fn is_compressed(&self) -> bool {
        self.body.starts_with(&[0x1f, 0x8b])
    }

    /// The recorded body without its compression.
    fn plain_body(&self) -> Vec<u8> {
        let mut plain = Vec::new();
        if self.is_compressed() {
            std::io::copy(&mut flate2::read::MultiGzDecoder::new(&self.body[..]), &mut plain).unwrap();
        } else {
            plain.clone_from(&self.body);
        }
        plain
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recording_arrives_byte_for_byte() {
    for version in VERSIONS {
        let node = node(version).await;
        let direct = Client::new(node.api.addr(), node.api.ca_pem(), Some(&node.pair("kubelet")));
        for recording in recordings(version) {
            let mut expected = recording.ask(&node, direct.clone()).await;
            let mut answer = recording.ask(&node, node.kubelet()).await;
            let name = format!("{version} {}", recording.name);
            // Two answers, between which a second may begin.
            for headers in [&mut answer.headers, &mut expected.headers] {
                let date = headers.remove("date");
                let date = date.and_then(|date| clock::parse_http_date(date.to_str().ok()?));
                assert!(date.is_some(), "{name}: no date");
            }
            assert_eq!(expected.body, recording.body, "{name}");
            if recording.is_watch() && recording.is_compressed() {
                // A watch's coding ends here.
                expected.body = recording.plain_body().into();
                expected.headers.remove("content-encoding");
                expected.headers.remove("vary");
            }
            if recording.is_watch() && recording.gzip && !recording.is_compressed() {
                // Upstream is not asked to pack a watch without initial events: another recording may be the answer.
                answer.headers.remove("audit-id");
                expected.headers.remove("audit-id");
            }
            assert!(answer.body == expected.body, "{name}: the body differs");
            assert_eq!(
                (answer.status, answer.headers),
                (expected.status, expected.headers),
                "{name}"
            );
        }
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
    let of = |version| {
        let reads = recordings(version)
            .into_iter()
            .filter(|recording| !recording.is_watch());
        reads.map(move |recording| (version, recording))
    };
    let checks = stream::iter(VERSIONS.into_iter().flat_map(of))
        .map(|(version, recording)| answered_equally_after_a_cut(version, recording));
    checks.buffer_unordered(8).collect::<()>().await;
}

async fn answered_equally_after_a_cut(version: &str, recording: Recording) {
    let node = node(version).await;
    let name = &format!("{version} {}", recording.name);
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
async fn replayed_then_cut(version: &str, order: &[&str], last: &str) -> (Answer, Recording) {
    let node = node(version).await;
    for name in order {
        let answer = recording(version, name).ask(&node, node.kubelet()).await;
        assert_eq!(
            answer.status,
            200,
            "{name}: {}",
            String::from_utf8_lossy(&answer.body)
        );
    }
    node.cut().await;
    let last = recording(version, last);
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
    for version in VERSIONS {
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
            (&["cm-watchlist.gzip.json"], "cm-list-ns-after.json"),
            (&["cm-watchlist.gzip.proto"], "cm-list-ns-after.proto"),
            (&["gauges-watchlist.gzip.json"], "gauges-list-after.json"),
            (&["cm-watchlist.proto"], "cm-list-ns-after.proto"),
            (&["gauges-watchlist.json"], "gauges-list-after.json"),
            // No bookmark: the first event that is not ADDED marks the end of the initial ones.
            (&["cm-watch-rv0.json"], "cm-list-ns-after.json"),
            (&["cm-watch-rv0.proto"], "cm-list-ns-after.proto"),
        ] {
            if version == "1.36" && order.iter().any(|name| name.contains("watchlist.gzip")) {
                // No watch was compressed then.
                continue;
            }
            let (answer, expected) = replayed_then_cut(version, order, last).await;
            assert_same_items(&answer, &expected.body, &format!("{version} {order:?}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_metadata_watch_moves_its_list_too() {
    for version in VERSIONS {
        let (answer, _) = replayed_then_cut(
            version,
            &["cm-meta-list.json", "cm-watch-meta.json"],
            "cm-meta-list.json",
        )
        .await;
        let after: Value = serde_json::from_slice(&recording(version, "cm-list-ns-after.json").body).unwrap();
        assert_eq!((answer.status, names(&answer.json())), (200, names(&after)));
        let (answer, before) = replayed_then_cut(
            version,
            &["cm-meta-list.proto", "cm-watch-meta.proto"],
            "cm-meta-list.proto",
        )
        .await;
        assert_eq!(answer.status, 200);
        assert!(answer.body != before.body, "the watch changed the list");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_watches_that_prove_no_whole_list_answer_none() {
    for version in VERSIONS {
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
            let (answer, _) = replayed_then_cut(version, &[watch], list).await;
            assert_eq!(answer.status, 503, "{watch}: {}", answer.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_pages_together_are_the_whole_list() {
    for version in VERSIONS {
        let pages = [
            "cm-page1.json",
            "cm-page2.json",
            "cm-page3.json",
            "cm-page4.json",
            "cm-page5.json",
            "cm-page6.json",
        ];
        let (answer, expected) = replayed_then_cut(version, &pages, "cm-list-all.json").await;
        let (mut one, mut other) = (
            answer.json(),
            serde_json::from_slice::<Value>(&expected.body).unwrap(),
        );
        assert_eq!(one["metadata"]["continue"], Value::Null);
        one["metadata"].take();
        other["metadata"].take();
        assert_eq!(one, other);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_recorded_fallback_to_json_is_a_view_of_its_own_right() {
    for version in VERSIONS {
        let (answer, _) = replayed_then_cut(version, &["gauges-list-fallback"], "gauges-list.json").await;
        assert_eq!(
            answer.status, 200,
            "JSON was recorded, whatever was asked for first"
        );
        let (answer, _) =
            replayed_then_cut(version, &["gauges-list.json"], "gauges-list-proto-refused").await;
        assert_eq!(answer.status, 503, "protobuf only cannot be had of it");
    }
}
