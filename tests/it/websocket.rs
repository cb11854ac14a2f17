//! Watches over WebSocket: live, held, from the cache, refused; and what is left to kube-apiserver to judge.

use std::time::Duration;

use apiserver_standin::{Answer, Client, Protocol, Rbac, Rule, Subject, read, secrets};
use bytes::Bytes;
use edgehold::kube::media::Encoding;
use edgehold::wire::watch::{FrameReader, WatchEvent, read_event};
use futures_util::{SinkExt as _, StreamExt as _};
use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::{
    DEADLINE, HIT, KUBELET, Node, PROTOBUF, config_map, eventually, names, offline_list, told, version,
    watch_from, watch_list,
};

const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";
const LIST: &str = "/api/v1/namespaces/shop/configmaps";

/// A client that asks for every watch as fabric8 does.
fn websocket(client: Client) -> Client {
    client
        .protocol(Protocol::Http1)
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("origin", "https://127.0.0.1:51003")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13")
}

/// A watch as its client sees it.
pub struct Watch {
    handshake: http::HeaderMap,
    socket: WebSocketStream<TokioIo<Upgraded>>,
}

async fn asked(client: &Client, target: &str) -> Response<Incoming> {
    client
        .connect()
        .await
        .unwrap()
        .open("GET", target, "")
        .await
        .unwrap()
}

async fn refused(client: &Client, target: &str) -> Answer {
    read(asked(&websocket(client.clone()), target).await)
        .await
        .unwrap()
}

impl Watch {
    /// Opens one that is not refused.
    pub async fn open(client: Client, target: &str) -> Self {
        let mut response = asked(&websocket(client), target).await;
        assert_eq!(response.status(), 101, "{target}");
        let handshake = std::mem::take(response.headers_mut());
        let upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        Self {
            handshake,
            socket: WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await,
        }
    }

    async fn message(&mut self) -> Option<Message> {
        let next = tokio::time::timeout(DEADLINE, self.socket.next()).await;
        next.expect("a message in time")
            .map(|message| message.expect("a message"))
    }

    /// The next event of a JSON watch.
    pub async fn event(&mut self) -> Value {
        match self.message().await {
            Some(Message::Text(text)) => serde_json::from_str(&text).unwrap(),
            other => panic!("no event: {other:?}"),
        }
    }

    /// Type and name of the next change; a bookmark may come at any time before it.
    async fn change(&mut self) -> (String, String) {
        loop {
            let (change, name, _) = told(&self.event().await);
            if change != "BOOKMARK" {
                return (change, name);
            }
        }
    }

    /// What is left up to the closing handshake.
    async fn rest(&mut self) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            match self.message().await {
                Some(Message::Text(text)) => events.push(serde_json::from_str(&text).unwrap()),
                Some(Message::Close(frame)) => {
                    assert_eq!(u16::from(frame.expect("a code").code), 1000);
                    return events;
                }
                other => panic!("no clean end: {other:?}"),
            }
        }
    }
}

async fn node() -> (Node, String) {
    let node = Node::start().await;
    let at = put(&node, "a");
    (node, at)
}

fn put(node: &Node, name: &str) -> String {
    version(&node.api.put(config_map("shop", name, "1")))
}

fn now(change: &str, name: &str) -> (String, String) {
    (change.to_owned(), name.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_one_a_message_from_an_ordinary_watch_upstream() {
    let (node, at) = node().await;
    let target = watch_from(LIST, &at);
    let client = node
        .kubelet()
        .header("sec-websocket-protocol", "base64.binary.k8s.io")
        .header("sec-websocket-extensions", "permessage-deflate");
    let mut watch = Watch::open(client, &target).await;
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("sec-websocket-protocol", "base64.binary.k8s.io"),
    ] {
        assert_eq!(watch.handshake[name], value);
    }
    for unsaid in ["sec-websocket-extensions", "content-type", "transfer-encoding"] {
        assert!(!watch.handshake.contains_key(unsaid), "{unsaid}");
    }
    let seen = node.api.wait_for(|seen| seen.target == target).await;
    assert_eq!(
        (seen.protocol, seen.peer_cn.as_deref()),
        (Protocol::Http2, Some(KUBELET))
    );
    for ours in [
        "upgrade",
        "sec-websocket-key",
        "sec-websocket-version",
        "sec-websocket-protocol",
    ] {
        assert_eq!(seen.header(ours), None, "{ours}");
    }
    assert_eq!(seen.header("origin"), Some("https://127.0.0.1:51003"));

    for name in ["b", "c"] {
        put(&node, name);
        assert_eq!(watch.change().await, now("ADDED", name));
    }
    let large = "x".repeat(300_000);
    node.api.put(config_map("shop", "large", &large));
    let event = watch.event().await;
    assert_eq!(event["object"]["data"]["k"], large);

    watch
        .socket
        .send(Message::Ping(Bytes::from_static(b"?")))
        .await
        .unwrap();
    assert_eq!(
        watch.message().await,
        Some(Message::Pong(Bytes::from_static(b"?")))
    );
    watch.socket.send(Message::text("not looked at")).await.unwrap();
    node.api.delete("ConfigMap", "shop", "b");
    assert_eq!(watch.change().await, now("DELETED", "b"));

    watch.socket.close(None).await.unwrap();
    assert!(matches!(watch.message().await, Some(Message::Close(_)) | None));
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_initial_events_end_with_their_bookmark() {
    let (node, at) = node().await;
    let mut watch = Watch::open(node.kubelet(), &watch_list(LIST)).await;
    assert_eq!(
        told(&watch.event().await),
        ("ADDED".into(), "a".into(), at.clone())
    );
    let end = watch.event().await;
    assert_eq!(told(&end), ("BOOKMARK".into(), String::new(), at));
    assert!(crate::support::ends_initial(&end));
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_is_binary_and_without_its_length() {
    let (node, at) = node().await;
    let client = node.kubelet().header("accept", PROTOBUF);
    let mut watch = Watch::open(client, &watch_from(LIST, &at)).await;
    put(&node, "b");
    let Some(Message::Binary(message)) = watch.message().await else {
        panic!("no binary message");
    };
    let framed = [&u32::try_from(message.len()).unwrap().to_be_bytes()[..], &message].concat();
    let mut frames = FrameReader::new(Encoding::Protobuf).unwrap();
    frames.push(framed.into());
    let frame = frames.next().unwrap().expect("one whole event");
    let Ok(WatchEvent::Item { object, .. }) = read_event(Encoding::Protobuf, &frame) else {
        panic!("no event");
    };
    assert_eq!(object.meta.name, "b");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_told_is_recorded_and_an_outage_is_not_noticed() {
    let (node, _) = node().await;
    let list = node.kubelet().get(LIST).await.json();
    let mut watch = Watch::open(node.kubelet(), &watch_from(LIST, &version(&list))).await;
    put(&node, "b");
    assert_eq!(watch.change().await, now("ADDED", "b"));
    node.api.delete("ConfigMap", "shop", "a");
    assert_eq!(watch.change().await, now("DELETED", "a"));
    node.cut().await;
    assert_eq!(names(&offline_list(&node.kubelet(), LIST).await), ["b"]);
    put(&node, "c");
    node.heal().await;
    assert_eq!(watch.change().await, now("ADDED", "c"));
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_it_starts_from_the_cache_and_ends_cleanly() {
    let (mut node, at) = node().await;
    node.kubelet().get(LIST).await;
    node.cut().await;
    node.restart().await;
    node.wait_link(edgehold::upstream::LinkState::Offline).await;
    let from = |version: &str| format!("{}&timeoutSeconds=2", watch_from(LIST, version));
    let mut watch = Watch::open(node.kubelet(), &from(&at)).await;
    assert_eq!(watch.handshake["cache-status"], HIT);
    let events = watch.rest().await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(told(&events[0]), ("BOOKMARK".into(), String::new(), at.clone()));

    let older = (at.parse::<u64>().unwrap() - 1).to_string();
    let mut behind = Watch::open(node.kubelet(), &from(&older)).await;
    let events = behind.rest().await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(
        (&events[0]["type"], &events[0]["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );

    let mut going_on = Watch::open(node.kubelet(), &watch_from(LIST, &at)).await;
    put(&node, "b");
    node.heal().await;
    assert_eq!(going_on.change().await, now("ADDED", "b"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_is_too_old_upstream_is_told_after_the_upgrade() {
    let (node, at) = node().await;
    put(&node, "b");
    node.api.compact();
    let mut watch = Watch::open(node.kubelet(), &watch_from(LIST, &at)).await;
    let events = watch.rest().await;
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["object"]["reason"], "Expired");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_comes_before_the_upgrade_and_the_connection_serves_on() {
    let (node, at) = node().await;
    let target = watch_from(LIST, &at);
    let none = Rule::allow(Subject::User(KUBELET.into()), &["get"], &["pods"]);
    node.api.set_rbac(Rbac::deny_all().with(none));
    let mut connection = websocket(node.kubelet()).connect().await.unwrap();
    for _ in 0..2 {
        let forbidden = connection.send("GET", &target, "").await.unwrap();
        assert_eq!(
            (forbidden.status, &forbidden.json()["reason"]),
            (403, &json!("Forbidden"))
        );
    }
    node.cut().await;
    let unknown = refused(
        &node.kubelet(),
        &watch_list("/api/v1/namespaces/other/configmaps"),
    )
    .await;
    assert_eq!((unknown.status, &unknown.json()["kind"]), (503, &json!("Status")));
    let stranger = refused(&node.client(None), &watch_list(LIST)).await;
    assert_eq!(stranger.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_subprotocol_counts_as_one_in_authorization() {
    let (node, at) = node().await;
    let token = node.api.service_account_token("shop", "default");
    let with = |token: &str| {
        use base64::Engine as _;
        let encoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(token);
        secrets::register("a token in a subprotocol", &encoded);
        let protocols = format!("{BEARER_PROTOCOL}{encoded}, base64.binary.k8s.io");
        node.client(None).header("sec-websocket-protocol", &protocols)
    };
    assert_eq!(node.token_client(&token).get(LIST).await.status, 200);
    let target = watch_from(LIST, &at);
    let mut watch = Watch::open(with(&token), &target).await;
    assert_eq!(watch.handshake["sec-websocket-protocol"], "base64.binary.k8s.io");
    let seen = node.api.wait_for(|seen| seen.target == target).await;
    assert_eq!(seen.peer_cn, None);
    assert_eq!(seen.header("sec-websocket-protocol"), None);
    put(&node, "b");
    assert_eq!(watch.change().await, now("ADDED", "b"));

    let forged = with("forged-token");
    assert_eq!(refused(&forged, &target).await.status, 401);
    node.cut().await;
    let known = offline_list(&node.token_client(&token), LIST).await;
    assert_eq!(names(&known), ["a", "b"], "recorded as who the token is");
    assert_eq!(refused(&forged, &target).await.status, 503);
    let held = Watch::open(with(&token), &watch_from(LIST, &version(&known))).await;
    assert_eq!(held.handshake["cache-status"], HIT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_kube_apiserver_refuses_is_left_to_it() {
    let (node, at) = node().await;
    let target = watch_from(LIST, &at);
    for (name, value) in [
        ("origin", "null"),
        ("sec-websocket-version", "8"),
        ("sec-websocket-protocol", "a, b"),
        ("upgrade", "SPDY/3.1"),
    ] {
        let before = node.api.requests().len();
        let client = websocket(node.kubelet()).header(name, value);
        let passed = tokio::time::timeout(DEADLINE, asked(&client, &target))
            .await
            .unwrap();
        assert_ne!(passed.status(), 101, "{name}: {value}");
        let seen = node.api.requests().split_off(before);
        assert!(
            seen.iter()
                .any(|seen| seen.target == target && seen.header("upgrade").is_some()),
            "{name}: {value}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_it_with_a_goodbye() {
    let (mut node, at) = node().await;
    let mut watch = Watch::open(node.kubelet(), &watch_from(LIST, &at)).await;
    let (_, events) = tokio::join!(node.stop(), watch.rest());
    assert!(events.is_empty(), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_takes_its_upstream_stream_along() {
    let (node, at) = node().await;
    for _ in 0..3 {
        drop(Watch::open(node.kubelet(), &watch_from(LIST, &at)).await);
    }
    let mut shouting = Watch::open(node.kubelet(), &watch_from(LIST, &at)).await;
    let shout = shouting.socket.send(Message::binary(vec![0; 1 << 20]));
    let _broken = tokio::time::timeout(Duration::from_secs(5), shout).await;
    eventually("nothing is open upstream", || async {
        node.api.counters().streams_open == 0
    })
    .await;
}
