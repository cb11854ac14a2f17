//! Content coding between the cloud and edgehold: asked for on edgehold's own account, taken off before anything else reads a
//! watch (wire contract section 10).

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apiserver_standin::{Client, Connection, Lines, Options, Protocol};
use bytes::Bytes;
use edgehold::kube::media::Encoding;
use edgehold::wire::coding::Gunzip;
use edgehold::wire::collection::Collection;
use edgehold::wire::watch::{FrameReader, WatchEvent, read_event};
use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::scripted::{Scripted, Step};
use crate::support::{
    DEADLINE, HIT, Node, PROTOCOLS, Setup, change, config_map, ends_initial, event, eventually, names,
    offline_list, version, watch_list,
};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

fn put(node: &Node, name: &str) -> String {
    version(&node.api.put(config_map("shop", name, "1")))
}

async fn open(connection: &mut Connection, target: &str) -> Lines {
    let watch = connection.lines(target).await.unwrap();
    let headers = &watch.response.headers();
    assert_eq!(watch.response.status(), 200, "{target}");
    assert!(!headers.contains_key("content-encoding"), "{headers:?}");
    assert!(!headers.contains_key("vary"), "{headers:?}");
    watch
}

/// Reads up to the end of the initial events.
async fn initial(watch: &mut Lines) -> Vec<String> {
    let mut names = Vec::new();
    loop {
        let event = event(watch).await;
        if ends_initial(&event) {
            return names;
        }
        names.push(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
    }
}

/// A counter of a node's metrics.
fn counted(text: &str, series: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0, |value| value.trim().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_watch_is_plain_for_every_client_and_spares_the_link() {
    for upstream in ["h2", "http/1.1"] {
        let options = Options {
            alpn: vec![upstream],
            ..Options::default()
        };
        let node = Node::with(options, Setup::default()).await;
        let expected: Vec<String> = (0..40).map(|n| format!("a{n:02}")).collect();
        for name in &expected {
            put(&node, name);
        }
        for protocol in [Protocol::Http2, Protocol::Http1] {
            let plain = node.kubelet().protocol(protocol);
            let zipping = plain.clone().header("accept-encoding", "gzip");
            for client in [plain, zipping] {
                node.api.forget_requests();
                let mut connection = client.connect().await.unwrap();
                let mut watch = open(&mut connection, &watch_list(LIST)).await;
                assert_eq!(initial(&mut watch).await, expected);
                put(&node, "later");
                assert_eq!(change(&mut watch).await.1, "later");
                node.api.delete("ConfigMap", "shop", "later");
                assert_eq!(change(&mut watch).await, ("DELETED".into(), "later".into()));
                let asked = node.api.wait_for(|seen| seen.is_watch()).await;
                assert_eq!(asked.header("accept-encoding"), Some("gzip"));
            }
        }
        let metrics = node.running().metrics_text().unwrap();
        let received = counted(&metrics, "edgehold_upstream_gzip_received_bytes_total");
        let saved = counted(&metrics, "edgehold_upstream_gzip_saved_bytes_total");
        assert!(
            received > 0 && saved > received,
            "{received} received, {saved} saved"
        );
    }
}

/// What a client that takes gzip itself receives until the end of the initial events.
async fn received_directly(node: &Node) -> u64 {
    let client = node.direct().header("accept-encoding", "gzip");
    let mut connection = client.connect().await.unwrap();
    let response = connection.open("GET", &watch_list(LIST), "").await.unwrap();
    assert_eq!(response.headers()["content-encoding"], "gzip");
    let (mut body, mut gunzip) = (response.into_body(), Gunzip::default());
    let (mut received, mut text) = (0, Vec::new());
    while !text.windows(18).any(|part| part == b"initial-events-end") {
        text.clear();
        let frame = tokio::time::timeout(DEADLINE, body.frame()).await.unwrap();
        let mut packed = frame.unwrap().unwrap().into_data().unwrap();
        received += packed.len() as u64;
        while let Some(piece) = gunzip.unpack(&mut packed).unwrap() {
            text.extend_from_slice(&piece);
        }
    }
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_takes_no_more_of_the_link_than_one_of_a_client_that_takes_gzip() {
    let node = Node::start().await;
    for n in 0..500 {
        put(&node, &format!("a{n:03}"));
    }
    let direct = received_directly(&node).await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_list(LIST)).await;
    assert_eq!(initial(&mut watch).await.len(), 500);
    let metrics = node.running().metrics_text().unwrap();
    let received = counted(&metrics, "edgehold_upstream_gzip_received_bytes_total");
    assert!(received <= direct, "{received} bytes, and {direct} directly");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_watch_is_held_goes_on_plain_and_is_known_after_a_restart() {
    let mut node = Node::start().await;
    for name in ["a", "b", "c", "d"] {
        put(&node, name);
    }
    let client = node.kubelet().header("accept-encoding", "gzip");
    let mut connection = client.connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_list(LIST)).await;
    assert_eq!(initial(&mut watch).await, ["a", "b", "c", "d"]);
    let known = put(&node, "e");
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "e".into()));
    node.cut().await;
    let list = offline_list(&node.kubelet(), LIST).await;
    assert_eq!(names(&list), ["a", "b", "c", "d", "e"]);
    put(&node, "f");
    node.api.forget_requests();
    node.heal().await;
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "f".into()));
    let resumed = node.api.wait_for(|seen| seen.is_watch()).await;
    assert_eq!(resumed.query("resourceVersion"), Some(known));
    assert_eq!(
        (
            resumed.query("sendInitialEvents"),
            resumed.header("accept-encoding")
        ),
        (None, None),
        "a plain watch"
    );
    node.cut().await;
    node.restart().await;
    let client = node.kubelet().header("accept-encoding", "gzip");
    let list = offline_list(&client, LIST).await;
    assert_eq!(names(&list), ["a", "b", "c", "d", "e", "f"]);
    let mut connection = client.connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_list(LIST)).await;
    assert_eq!(initial(&mut watch).await, ["a", "b", "c", "d", "e", "f"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_compression_nothing_is_asked_for_compressed() {
    let mut node = Node::start().await;
    let text = node.config_text();
    let off = text.replace("upstream:\n", "upstream:\n  compression: off\n");
    node.stop().await;
    node.launch_text(&off).await;
    for n in 0..300 {
        node.api
            .put(config_map("shop", &format!("c-{n:03}"), &"v".repeat(1000)));
    }
    node.api.forget_requests();
    let client = node.kubelet().header("accept-encoding", "gzip");
    let list = client.get(LIST).await;
    assert_eq!(list.json()["items"].as_array().unwrap().len(), 300);
    let mut connection = client.connect().await.unwrap();
    let mut watch = open(&mut connection, &watch_list(LIST)).await;
    assert_eq!(initial(&mut watch).await.len(), 300);
    let asked = node.api.requests();
    let asked: Vec<_> = asked.iter().filter(|seen| seen.path() == LIST).collect();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|seen| seen.header("accept-encoding").is_none()));
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |place: usize| u8::from_str_radix(&text[place..place + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(digit).collect()
}

/// The event ADDED of an object at resourceVersion 10, and again at 50 (wire contract A.1, A.2, A.4).
fn added(encoding: Encoding) -> [Vec<u8>; 2] {
    let (frame, version) = match encoding {
        Encoding::Protobuf => (
            hex(
                "000000510a05414444454412480a466b3873000a0f0a0276311209436f6e6669674d6170122b0a210a016112001a036e733122\
                 002a03752d3132023130380042005a060a017812017912060a016b1201761a002200",
            ),
            &b"\x32\x0210"[..],
        ),
        Encoding::Cbor => (
            hex(
                "d9d9f7a24474797065454144444544466f626a656374d9d9f7a44464617461a1416b4176446b696e6449436f6e6669674d6170\
                 486d65746164617461a54375696443752d31446e616d654161466c6162656c73a141784179496e616d65737061636543\
                 6e73314f7265736f7572636556657273696f6e4231304a61706956657273696f6e427631",
            ),
            &b"\x4210"[..],
        ),
        _ => (
            br#"{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"ns1","uid":"u-1","resourceVersion":"10"}}}"#
                .iter()
                .chain(b"\n")
                .copied()
                .collect(),
            &b"\"10"[..],
        ),
    };
    let at = frame
        .windows(version.len())
        .position(|part| part == version)
        .unwrap();
    let mut later = frame.clone();
    later[at + version.len() - 2] = b'5';
    [frame, later]
}

/// The end of the initial events, at 42.
fn bookmark(encoding: Encoding, added: &[u8]) -> Vec<u8> {
    let Ok(WatchEvent::Item { object, .. }) = read_event(encoding, added) else {
        panic!("no event");
    };
    Collection::from_object(&object).bookmark("42", true)
}

fn member(data: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.flush().unwrap();
    encoder.finish().unwrap()
}

fn media(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        Encoding::Cbor => "application/cbor-seq",
        _ => "application/json",
    }
}

fn head(encoding: Encoding, coding: &str) -> Step {
    let coding = match coding {
        "" => String::new(),
        coding => format!("Content-Encoding: {coding}\r\nVary: Accept-Encoding\r\n"),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nAudit-Id: 1\r\n{coding}Transfer-Encoding: chunked\r\n\r\n",
        media(encoding)
    );
    Step::Send(head.into_bytes())
}

fn chunk(piece: &[u8]) -> Step {
    Step::Send([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat())
}

/// So many bytes of a body.
async fn read(body: &mut Incoming, length: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < length {
        let frame = tokio::time::timeout(DEADLINE, body.frame()).await.unwrap();
        all.extend_from_slice(&frame.expect("more").unwrap().into_data().unwrap());
    }
    all
}

/// Opens the watch-list of `collection`; the body and what its headers say of coding.
async fn watched(client: &Client, encoding: Encoding, collection: &str) -> (Connection, Incoming) {
    let accept = media(encoding).replace("-seq", "");
    let client = client
        .clone()
        .header("accept", &accept)
        .header("accept-encoding", "gzip");
    let mut connection = client.connect().await.unwrap();
    let response = connection.open("GET", &watch_list(collection), "").await.unwrap();
    assert_eq!(response.status(), 200, "{collection}");
    for name in ["content-encoding", "vary"] {
        assert!(!response.headers().contains_key(name), "{:?}", response.headers());
    }
    (connection, response.into_body())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_every_encoding_it_is_cut_anywhere_held_resumed_and_answered_offline() {
    for encoding in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor] {
        let [first, later] = added(encoding);
        let bookmark = bookmark(encoding, &first);
        let known = [first.clone(), bookmark.clone()].concat();
        let (script_known, script_later) = (known.clone(), later.clone());
        let cloud = Scripted::start(move |target| {
            if !target.contains("sendInitialEvents") {
                assert!(target.contains("resourceVersion=42"), "{target}");
                return vec![head(encoding, ""), chunk(&script_later), Step::Wait];
            }
            let mut steps = vec![head(encoding, "gzip")];
            // Two members, then the beginning of a third.
            let (a, b) = script_known.split_at(script_known.len() / 2);
            steps.extend([member(a), member(b)].concat().chunks(7).map(chunk));
            let torn = member(&script_later);
            steps.push(chunk(&torn[..torn.len() / 2]));
            steps.push(Step::Wait);
            steps
        })
        .await;
        let (connection, mut body) = watched(&cloud.client(), encoding, LIST).await;
        assert_eq!(read(&mut body, known.len()).await, known, "{encoding:?}");
        cloud.cut().await;
        cloud.heal().await;
        assert_eq!(read(&mut body, later.len()).await, later, "{encoding:?}");
        cloud.cut().await;
        let accept = media(encoding).split(';').next().unwrap().replace("-seq", "");
        let list = cloud.client().header("accept", &accept).get(LIST).await;
        assert_eq!(
            (list.status, list.header("cache-status")),
            (200, HIT),
            "{encoding:?}"
        );
        assert!(list.body.windows(2).any(|part| part == b"50"), "{encoding:?}");
        drop((connection, body));
    }
}

/// What follows two good members, and why the stream cannot be read any further.
fn broken() -> Vec<(&'static str, Vec<u8>)> {
    let packed = member(&added(Encoding::Json)[1]);
    let mut flipped = packed.clone();
    *flipped.last_mut().unwrap() ^= 1;
    vec![
        ("malformed", flipped),
        ("malformed", b"no gzip".to_vec()),
        ("malformed", added(Encoding::Json)[1].clone()),
        ("truncated", packed[..packed.len() - 1].to_vec()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_unpacked_is_as_a_broken_connection_and_counted() {
    for (reason, rest) in broken() {
        let [first, later] = added(Encoding::Json);
        let known = [first.clone(), bookmark(Encoding::Json, &first)].concat();
        let script = (known.clone(), later.clone());
        let cloud = Scripted::start(move |target| {
            let (known, later) = &script;
            if target.contains("sendInitialEvents") {
                let end = b"0\r\n\r\n".to_vec();
                let packed = [member(known), rest.clone()].concat();
                return vec![head(Encoding::Json, "gzip"), chunk(&packed), Step::Send(end)];
            }
            vec![head(Encoding::Json, ""), chunk(later), Step::Wait]
        })
        .await;
        // What came before the fault has passed; the event comes again by the plain watch only if it had not.
        let expected = [known, later].concat();
        let series = format!("edgehold_upstream_unreadable_total{{reason=\"{reason}\"}}");
        for (times, protocol) in (1..).zip(PROTOCOLS) {
            let client = cloud.client().protocol(protocol);
            let (connection, mut body) = watched(&client, Encoding::Json, LIST).await;
            assert_eq!(read(&mut body, expected.len()).await, expected, "{reason}");
            eventually("it is counted", || async {
                counted(&cloud.metrics(), &series) == times
            })
            .await;
            drop((connection, body));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_coding_is_no_answer_and_a_held_watch_asks_again() {
    let is_known = Arc::new(AtomicBool::new(false));
    let (knows, [first, later]) = (Arc::clone(&is_known), added(Encoding::Json));
    let known = [first.clone(), bookmark(Encoding::Json, &first)].concat();
    let script = (known.clone(), later.clone());
    let cloud = Scripted::start(move |target| {
        let (known, later) = &script;
        if target.starts_with("/api/v1/pods") {
            return vec![head(Encoding::Json, "zstd"), chunk(b"(\xb5/\xfd"), Step::Wait];
        }
        if target.contains("sendInitialEvents") {
            return vec![head(Encoding::Json, "gzip"), chunk(&member(known)), Step::Wait];
        }
        let coding = if knows.load(Ordering::Relaxed) { "" } else { "zstd" };
        vec![head(Encoding::Json, coding), chunk(later), Step::Wait]
    })
    .await;
    let client = cloud.client();
    let refused = client.get(&watch_list("/api/v1/pods")).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, ""));
    let (connection, mut body) = watched(&client, Encoding::Json, LIST).await;
    assert_eq!(read(&mut body, known.len()).await, known);
    cloud.cut().await;
    let series = "edgehold_upstream_unreadable_total{reason=\"unknown-coding\"}";
    assert_eq!(counted(&cloud.metrics(), series), 1);
    cloud.heal().await;
    // A request may be sent again before its answer is read, so it is not the requests that count.
    eventually("the watch has asked in vain", || async {
        counted(&cloud.metrics(), series) > 1
    })
    .await;
    is_known.store(true, Ordering::Relaxed);
    assert_eq!(read(&mut body, later.len()).await, later);
    drop((connection, body));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_unpacks_to_more_than_any_client_takes_breaks_the_stream_off() {
    let cloud = Scripted::start(|_| {
        let bomb = [&br#"{"type":"ADDED","object":{"x":""#[..], &vec![b'x'; 20 << 20]].concat();
        let mut steps = vec![head(Encoding::Json, "gzip")];
        steps.extend(member(&bomb).chunks(4096).map(chunk));
        steps.push(Step::Wait);
        steps
    })
    .await;
    let series = "edgehold_upstream_unreadable_total{reason=\"too-large\"}";
    for (times, protocol) in (1..).zip(PROTOCOLS) {
        let client = cloud.client().protocol(protocol);
        let (connection, mut body) = watched(&client, Encoding::Json, LIST).await;
        let frame = tokio::time::timeout(DEADLINE, body.frame()).await.unwrap();
        assert!(frame.is_some_and(|frame| frame.is_err()), "broken off, not ended");
        assert_eq!(counted(&cloud.metrics(), series), times);
        drop(connection);
    }
}

/// What kube-apiserver 1.37 sent: one member for each flush, and whole events in each.
#[test]
fn recorded_watch_lists_are_events_in_any_pieces() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kube-apiserver-1.37");
    for (name, encoding) in [
        ("cm-watchlist.gzip.json", Encoding::Json),
        ("cm-watchlist.gzip.proto", Encoding::Protobuf),
        ("gauges-watchlist.gzip.json", Encoding::Json),
    ] {
        let packed = std::fs::read(dir.join(format!("{name}.body"))).unwrap();
        let mut whole = Vec::new();
        for piece in [packed.len(), 7, 1] {
            let (mut gunzip, mut reader) = (Gunzip::default(), FrameReader::new(encoding).unwrap());
            let (mut frames, mut ends) = (Vec::new(), 0);
            for chunk in packed.chunks(piece) {
                let mut input = Bytes::copy_from_slice(chunk);
                while let Some(plain) = gunzip.unpack(&mut input).unwrap() {
                    reader.push(plain);
                }
                while let Some(frame) = reader.next().unwrap() {
                    if let WatchEvent::Bookmark(bookmark) = read_event(encoding, &frame).unwrap() {
                        ends += usize::from(bookmark.initial_events_end);
                    }
                    frames.extend_from_slice(&frame);
                }
            }
            gunzip.finish().unwrap();
            assert_eq!((ends, reader.pending()), (1, 0), "{name}");
            if whole.is_empty() {
                whole.clone_from(&frames);
            }
            assert!(frames == whole && frames.len() > packed.len(), "{name}");
        }
    }
}
