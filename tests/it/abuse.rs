//! Clients that are stuck or mean no good: what they hold is bounded, and others do not notice.

use std::convert::Infallible;
use std::time::Duration;

use apiserver_standin::{Fault, Options, Pki, Protocol};
use bytes::Bytes;
use edgehold::upstream::LinkState;
use futures_util::{StreamExt as _, stream};
use http::Request;
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::listener::{Front, read_to_close};
use crate::support::{
    DEADLINE, KUBELET, Node, PROTOCOLS, Setup, TestBody, change, config_map, event, eventually, version,
    watch_from,
};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const BLOB: &str = "/debug/blob?size=20000000";

/// A node whose clients have to take something every second.
async fn hasty_node() -> Node {
    impatient_node("1s").await
}

/// A node with this for a `listen.writeTimeout`.
async fn impatient_node(patience: &str) -> Node {
    let mut node = Node::with(Options::default(), Setup::default()).await;
    node.stop().await;
    let text = node
        .config_text()
        .replacen("listen:\n", &format!("listen:\n  writeTimeout: {patience}\n"), 1);
    node.launch_text(&text).await;
    node
}

async fn get(sender: &SendRequest<TestBody>, target: &str) -> http::Response<hyper::body::Incoming> {
    let request = Request::get(format!("https://edgehold{target}"))
        .body(Full::new(Bytes::new()).boxed_unsync())
        .unwrap();
    let answer = tokio::time::timeout(DEADLINE, sender.clone().send_request(request)).await;
    answer.expect("an answer").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_nobody_reads_are_reset_and_the_others_of_their_connection_go_on() {
    const STALLED: u64 = 64;
    let node = hasty_node().await;
    let revision = version(&node.api.put(config_map("shop", "a", "1")));
    // All on one connection, whose window has room for more than all of them.
    let mut client = hyper::client::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
    let stream = TokioIo::new(node.kubelet_tls("h2").await);
    client.initial_connection_window_size(1 << 30);
    let (sender, driver) = client.handshake(stream).await.unwrap();
    #[allow(clippy::disallowed_methods)] // a test's own task
    tokio::spawn(driver);
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut other = connection.lines(&watch_from(LIST, &revision)).await.unwrap();
    let idle = get(&sender, &watch_from(LIST, &revision)).await;
    let mut stalled = Vec::new();
    for n in 0..STALLED {
        stalled.push(get(&sender, &format!("{BLOB}&n={n}")).await);
    }
    let metrics = node.running().metrics();
    eventually("all are given up", || async { metrics.stalled.get() == STALLED }).await;
    for response in stalled {
        let rest = tokio::time::timeout(DEADLINE, response.into_body().collect()).await;
        assert!(rest.expect("an end").is_err(), "it is cut, not finished");
    }
    assert_eq!(get(&sender, "/version").await.status(), 200);
    node.api.put(config_map("shop", "b", "1"));
    assert_eq!(event(&mut other).await["type"], "ADDED");
    let mut idle = idle.into_body();
    let first = tokio::time::timeout(DEADLINE, idle.frame()).await.unwrap();
    assert!(first.unwrap().is_ok(), "a watch without events is not stuck");
    assert_eq!(metrics.open.get(), 2);
    node.api
        .wait_counters(|counters| counters.streams_open == 2)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_nobody_reads_is_closed_and_an_idle_one_is_not() {
    let node = hasty_node().await;
    let mut idle = node.kubelet().protocol(Protocol::Http1).connect().await.unwrap();
    assert_eq!(idle.send("GET", "/version", "").await.unwrap().status, 200);
    let mut stuck = node.kubelet_tls("http/1.1").await;
    let request = format!("GET {BLOB} HTTP/1.1\r\nHost: x\r\n\r\n");
    stuck.write_all(request.as_bytes()).await.unwrap();
    let metrics = node.running().metrics();
    eventually("it is given up", || async { metrics.stalled.get() == 1 }).await;
    let answer = read_to_close(&mut stuck).await;
    assert!(answer.len() < 20_000_000, "it was not waited for");
    assert_eq!(idle.send("GET", "/version", "").await.unwrap().status, 200);
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
}

/// The status of a write on a connection of its own that gives no more of its body than so much; `None` if the connection
/// broke before the answer could be read.
async fn write_part(node: &Node, alpn: &str, length: usize, given: usize) -> Option<u16> {
    let given = Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b' '; given])));
    let frames = stream::iter([given]).chain(stream::pending());
    let request = Request::post(format!("https://edgehold{LIST}"))
        .header("host", "edgehold")
        .header("content-type", "application/json")
        .header("content-length", length)
        .body(StreamBody::new(frames).boxed_unsync())
        .unwrap();
    let answering = async {
        if alpn == "h2" {
            return node.kubelet_http2().await.send_request(request).await;
        }
        let io = TokioIo::new(node.kubelet_tls(alpn).await);
        let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
        #[allow(clippy::disallowed_methods)] // a test's own task
        tokio::spawn(driver);
        sender.send_request(request).await
    };
    let answer = tokio::time::timeout(DEADLINE, answering).await;
    Some(answer.expect("an end").ok()?.status().as_u16())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gives_only_a_part_of_a_body_holds_no_stream_to_the_cloud() {
    let node = impatient_node("3s").await;
    for alpn in ["h2", "http/1.1"] {
        assert_eq!(write_part(&node, alpn, 1000, 500).await, Some(400), "{alpn}");
        node.api
            .wait_counters(|counters| counters.streams_open == 0)
            .await;
    }
    assert_eq!(node.asked("POST", LIST), 2, "the test is void: nothing was begun");
    let servers = node.running().way().servers();
    assert_eq!(servers[0].1, LinkState::Online, "it is not the cloud's fault");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_takes_only_a_part_of_a_body_is_given_up_and_the_write_never_repeated() {
    // More than all windows and buffers hold.
    const SIZE: usize = 50 << 20;
    let node = impatient_node("3s").await;
    node.api.fault(Fault::Delay(Duration::from_secs(3600)).on(LIST));
    assert_eq!(write_part(&node, "h2", SIZE, SIZE).await, Some(504));
    // On HTTP/1.1 a connection that is closed in the midst of an upload may take the answer with it.
    let answer = write_part(&node, "http/1.1", SIZE, SIZE).await;
    assert!(matches!(answer, None | Some(504)), "{answer:?}");
    assert_eq!(node.asked("POST", LIST), 2);
    assert_eq!(node.kubelet().get("/version").await.status, 200, "others go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_beyond_the_limit_are_refused_on_both_protocols() {
    let node = Node::start().await;
    let large = "x".repeat(1_200_000);
    for protocol in PROTOCOLS {
        let client = node.kubelet().protocol(protocol);
        let answer = client
            .clone()
            .header("x-large", &large)
            .send("GET", "/version", "")
            .await;
        // A connection may also be closed while the rest of the header is still on its way.
        if let Ok(answer) = answer {
            assert_eq!(answer.status, 431, "{protocol:?}");
        }
        let fitting = client.clone().header("x-large", &large[..100_000]);
        assert_eq!(fitting.get("/version").await.status, 200, "{protocol:?}");
    }
    assert!(node.api.requests().iter().all(|seen| seen.headers.len() < 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_for_longer_than_clocks_go_is_held_like_any_other() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let at = version(&node.kubelet().get(LIST).await.json());
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watches = Vec::new();
    let forever = [
        "9223372036854775807",
        "9223372036854775",
        "18446744073709551615",
        "0",
    ];
    for online in [true, false] {
        if !online {
            node.cut().await;
        }
        for seconds in forever {
            let target = format!("{}&timeoutSeconds={seconds}", watch_from(LIST, &at));
            // What the apiserver refuses itself is not kept.
            if let Ok(watch) = connection.lines(&target).await
                && watch.response.status() == 200
            {
                watches.push(watch);
            }
        }
    }
    assert!(watches.len() >= 6, "{}", watches.len());
    node.heal().await;
    node.api.put(config_map("shop", "c", "1"));
    for mut watch in watches {
        assert_eq!(change(&mut watch).await, ("ADDED".to_owned(), "c".to_owned()));
    }
}

/// The HTTP library's own limit; an apiserver takes 1 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_url_passes_and_one_beyond_64_kib_is_refused_alone() {
    let node = Node::start().await;
    let url = |length: usize| format!("/version?x={}", "x".repeat(length - "/version?x=".len()));
    for protocol in PROTOCOLS {
        let client = node.kubelet().protocol(protocol);
        assert_eq!(client.get(&url(65_500)).await.status, 200, "{protocol:?}");
    }
    let mut stream = node.kubelet_tls("http/1.1").await;
    let head = format!("GET {}&y HTTP/1.1\r\nhost: edgehold\r\n\r\n", url(65_534));
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 414");
    assert_eq!(node.asked("GET", &url(65_500)), 2);
}

/// A frame of HTTP/2 (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: u8 = 4;

/// Reads one frame: its kind and payload.
async fn read_frame(stream: &mut (impl AsyncReadExt + Unpin)) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], payload)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_how_much_it_may_have_under_way() {
    let front = Front::start(|_| {}).await;
    let mut stream = front.shake("h2").await;
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    let (kind, payload) = read_frame(&mut stream).await;
    assert_eq!(kind, SETTINGS);
    let settings: std::collections::BTreeMap<u16, u32> = payload
        .chunks(6)
        .map(|s| {
            (
                u16::from_be_bytes([s[0], s[1]]),
                u32::from_be_bytes([s[2], s[3], s[4], s[5]]),
            )
        })
        .collect();
    // Streams at once, window of a stream, and bytes of headers.
    assert_eq!(
        [3, 4, 6].map(|name| settings.get(&name).copied()),
        [Some(250), Some(256 << 10), Some(64 << 10)]
    );
    // Uploads that stand still fill their own windows, and 64 of them before that of the connection is full.
    let window = loop {
        let (kind, payload) = read_frame(&mut stream).await;
        if kind == 8 {
            break u32::from_be_bytes(payload.try_into().unwrap()) + 65_535;
        }
    };
    assert_eq!(window, 16 << 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_ends_its_connection_and_no_other() {
    let front = Front::start(|_| {}).await;
    let mut good = front.shake("http/1.1").await;
    let mut flood = front.shake("h2").await;
    // GET https://x/version, from the static table of HPACK.
    let mut header = vec![0x82, 0x87, 0x41, 1, b'x', 0x04, 8];
    header.extend(b"/version");
    let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
    for n in 0..20_000_u32 {
        let stream = 2 * n + 1;
        bytes.extend(frame(1, 0x5, stream, &header));
        bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let (mut reader, mut writer) = tokio::io::split(&mut flood);
    let writing = async {
        // The rest finds the connection closed.
        let _closed = writer.write_all(&bytes).await;
        std::future::pending::<()>().await
    };
    let answer = tokio::select! {
        answer = read_to_close(&mut reader) => answer,
        () = writing => Vec::new(),
    };
    // GOAWAY with ENHANCE_YOUR_CALM.
    let calm = 0xb_u32.to_be_bytes();
    assert!(
        answer.windows(17).any(|w| w[3] == 7 && w[13..17] == calm),
        "no GOAWAY in {} bytes",
        answer.len()
    );
    good.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(read_to_close(&mut good).await.starts_with(b"HTTP/1.1 503"));
    eventually("nothing is left", || async { front.metrics.open.get() == 0 }).await;
}

/// A kubelet's exec over WebSocket.
async fn exec(client: &apiserver_standin::Client) -> TokioIo<hyper::upgrade::Upgraded> {
    let client = client
        .clone()
        .protocol(Protocol::Http1)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "v5.channel.k8s.io");
    let mut connection = client.connect().await.unwrap();
    let target = "/api/v1/namespaces/shop/pods/web/exec?command=sh&stdin=true";
    let response = connection.open("GET", target, "").await.unwrap();
    assert_eq!(response.status(), 101);
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_counts_as_open_and_a_removed_authority_ends_it() {
    let mut node = Node::start().await;
    node.stop().await;
    let (old, new) = (Pki::named("old"), Pki::named("new"));
    old.write_ca(node.dir.path(), "clients");
    let text = node.config_text();
    let shared = format!("clientCAFile: {}", node.dir.path().join("ca.crt").display());
    let own = format!("clientCAFile: {}", node.dir.path().join("clients.crt").display());
    node.launch_text(&text.replace(&shared, &own)).await;
    node.api.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "web"}, "spec": {}}));
    let client = node.client(Some(&old.client(Some(KUBELET), &["system:nodes"])));
    let open = || node.running().metrics().open.get();

    let mut first = exec(&client).await;
    assert_eq!(open(), 1);
    first.write_all(b"hello").await.unwrap();
    let mut echo = [0; 5];
    first.read_exact(&mut echo).await.unwrap();
    assert_eq!(open(), 1, "it is still a client's connection");
    drop(first);
    eventually("it is counted until its end", || async { open() == 0 }).await;

    let mut second = exec(&client).await;
    new.write_ca(node.dir.path(), "clients");
    // Within the ten seconds of a drain.
    read_to_close(&mut second).await;
    eventually("it is counted no more", || async { open() == 0 }).await;
}
