//! Upgrades: exec, attach and port-forward over WebSocket and SPDY, byte for byte, and their refusals.

use apiserver_standin::{Client, Fault, Options, Protocol, Rbac, Rule, Subject, read};
use edgehold::upstream::LinkState;
use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{DEADLINE, KUBELET, Node, Setup};

const EXEC: &str = "/api/v1/namespaces/n/pods/p/exec?command=sh&stdin=true";

async fn node() -> Node {
    let node = Node::start().await;
    node.api.put(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "n", "name": "p"}, "spec": {}}),
    );
    node
}

fn upgrading(client: Client, protocol: &str) -> Client {
    client
        .protocol(Protocol::Http1)
        .header("connection", "Upgrade")
        .header("upgrade", protocol)
}

fn websocket(node: &Node) -> Client {
    upgrading(node.kubelet(), "websocket")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io")
}

fn spdy(node: &Node) -> Client {
    upgrading(node.kubelet(), "SPDY/3.1").header("x-stream-protocol-version", "v4.channel.k8s.io")
}

async fn open(client: &Client, method: &str, target: &str) -> Response<Incoming> {
    let mut connection = client.connect().await.unwrap();
    connection.open(method, target, "").await.unwrap()
}

async fn upgraded(response: Response<Incoming>) -> TokioIo<Upgraded> {
    assert_eq!(response.status(), 101);
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_exec_carries_its_headers_and_bytes_both_ways() {
    let node = node().await;
    let response = open(&websocket(&node), "GET", EXEC).await;
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", "websocket"),
        ("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
        ("sec-websocket-protocol", "v5.channel.k8s.io"),
    ] {
        assert_eq!(response.headers()[name], value);
    }
    let seen = node.api.wait_for(|seen| seen.target == EXEC).await;
    assert_eq!(
        (seen.protocol, seen.peer_cn.as_deref()),
        (Protocol::Http1, Some(KUBELET))
    );
    assert_eq!(seen.authority, node.api.addr().to_string());
    assert_eq!(seen.header("sec-websocket-version"), Some("13"));
    assert_eq!(
        seen.header("sec-websocket-protocol"),
        Some("v5.channel.k8s.io, v4.channel.k8s.io")
    );
    let mut stream = upgraded(response).await;
    for message in [&b"hello \xff\x00"[..], &[0; 100_000], b"x"] {
        stream.write_all(message).await.unwrap();
        let mut back = vec![0; message.len()];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut back))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(back, message);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_spdy_exec_works_although_upstream_prefers_http2() {
    let node = node().await;
    // The same client has an HTTP/2 connection upstream already.
    assert_eq!(
        node.kubelet().get("/api/v1/namespaces/n/pods/p").await.status,
        200
    );
    for method in ["POST", "GET"] {
        let response = open(&spdy(&node), method, EXEC).await;
        assert_eq!(
            response.headers()["x-stream-protocol-version"],
            "v4.channel.k8s.io"
        );
        assert_eq!(response.headers()["upgrade"], "SPDY/3.1");
        let mut stream = upgraded(response).await;
        stream.write_all(b"\x80\x03\x00\x01").await.unwrap();
        let mut back = [0; 4];
        stream.read_exact(&mut back).await.unwrap();
        assert_eq!(&back, b"\x80\x03\x00\x01");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_one_direction_leaves_the_other_open() {
    let node = node().await;
    for client in [websocket(&node), spdy(&node)] {
        let stream = upgraded(open(&client, "GET", EXEC).await).await;
        let (mut reading, mut writing) = tokio::io::split(stream);
        // The echo comes back while we still write, and its rest after our end.
        let sent = vec![7; 5_000_000];
        let expected = sent.clone();
        let write = async move {
            writing.write_all(&sent).await.unwrap();
            writing.shutdown().await.unwrap();
            writing
        };
        let read = async {
            let mut back = Vec::new();
            reading.read_to_end(&mut back).await.unwrap();
            back
        };
        let (_writing, back) = tokio::time::timeout(DEADLINE, async { tokio::join!(write, read) })
            .await
            .unwrap();
        assert!(
            back == expected,
            "{} of {} bytes came back",
            back.len(),
            expected.len()
        );
    }
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_takes_its_upstream_connection_along() {
    let node = node().await;
    let before = node.api.counters().connections_open;
    for _ in 0..5 {
        let mut stream = upgraded(open(&spdy(&node), "POST", EXEC).await).await;
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
    node.api
        .wait_counters(|counters| counters.connections_open <= before)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_vanishes_ends_the_clients_stream() {
    let node = node().await;
    let mut stream = upgraded(open(&spdy(&node), "POST", EXEC).await).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    node.api.cut_connections();
    let ended = tokio::time::timeout(DEADLINE, stream.read_u8()).await;
    assert!(ended.expect("the stream ends").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_passed_on_as_it_is_and_the_connection_serves_on() {
    let node = node().await;
    let none = "/api/v1/namespaces/n/pods/none/exec?command=sh";
    let direct = Client::new(node.api.addr(), node.api.ca_pem(), Some(&node.pair("kubelet")));
    for protocol in ["websocket", "SPDY/3.1", "h2c"] {
        for (target, status) in [(none, 404), ("/api/v1/namespaces/n/pods/p/exec", 0)] {
            if status == 0 && protocol != "h2c" {
                continue;
            }
            let through = upgrading(node.kubelet(), protocol).header("audit-id", "same");
            let mut connection = through.connect().await.unwrap();
            let refused = read(connection.open("GET", target, "").await.unwrap())
                .await
                .unwrap();
            let direct = upgrading(direct.clone(), protocol).header("audit-id", "same");
            let expected = direct.send("GET", target, "").await.unwrap();
            assert!(refused.status >= 400 && (status == 0 || refused.status == status));
            assert_eq!((refused.status, &refused.body), (expected.status, &expected.body));
            for name in expected.headers.keys().filter(|name| *name != "date") {
                assert_eq!(refused.headers.get(name), expected.headers.get(name), "{name}");
            }
            let again = read(connection.open("GET", target, "").await.unwrap())
                .await
                .unwrap();
            assert_eq!(again.status, refused.status, "the connection is still good");
        }
    }
    let attach = Rule::allow(Subject::User(KUBELET.into()), &["get"], &["pods"]);
    node.api.set_rbac(Rbac::deny_all().with(attach));
    let forbidden = read(open(&websocket(&node), "GET", EXEC).await).await.unwrap();
    assert_eq!(
        (forbidden.status, &forbidden.json()["reason"]),
        (403, &json!("Forbidden"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_upstream_is_an_honest_status_before_any_101() {
    let node = node().await;
    node.api
        .fault(Fault::Status(503).on("/api/v1/namespaces/n/pods/p/exec"));
    let busy = read(open(&spdy(&node), "POST", EXEC).await).await.unwrap();
    assert_eq!(
        (busy.status, &busy.json()["message"]),
        (
            503,
            &json!("the server is currently unable to handle the request")
        )
    );
    node.api.clear_faults();
    node.api
        .fault(Fault::Reset.on("/api/v1/namespaces/n/pods/p/exec").times(1));
    let broken = read(open(&spdy(&node), "POST", EXEC).await).await.unwrap();
    assert_eq!((broken.status, &broken.json()["kind"]), (504, &json!("Status")));
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_an_upgrade_is_refused_with_503_and_back_online_it_works() {
    let node = node().await;
    node.cut().await;
    for client in [websocket(&node), spdy(&node)] {
        let refused = read(open(&client, "GET", EXEC).await).await.unwrap();
        assert_eq!((refused.status, &refused.json()["kind"]), (503, &json!("Status")));
        assert_eq!(
            (refused.header("upgrade"), refused.header("retry-after")),
            ("", "")
        );
    }
    node.heal().await;
    let mut stream = upgraded(open(&spdy(&node), "POST", EXEC).await).await;
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_without_a_credential_opens_no_connection_to_the_cloud() {
    let node = node().await;
    let nobody = [
        upgrading(node.client(None), "websocket"),
        upgrading(node.client(None), "SPDY/3.1").header("x-remote-user", KUBELET),
    ];
    for client in &nobody {
        for target in [EXEC, "/api/v1/namespaces/n/pods/p/portforward"] {
            let refused = read(open(client, "POST", target).await).await.unwrap();
            assert_eq!((refused.status, &refused.json()["kind"]), (401, &json!("Status")));
        }
    }
    assert_eq!(node.asked("POST", "/api/v1/namespaces/n/pods/p/"), 0);
    node.cut().await;
    for client in &nobody {
        assert_eq!(open(client, "POST", EXEC).await.status(), 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_asked_for_over_http2_is_a_clean_error_and_harms_no_other_stream() {
    let node = node().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut log = connection
        .open("GET", "/api/v1/namespaces/n/pods/p/log?follow=true", "")
        .await
        .unwrap();
    // HTTP/2 has no Connection and Upgrade headers: what is left is an exec without an upgrade.
    let refused = connection.send("GET", EXEC, "").await.unwrap();
    assert_eq!((refused.status, &refused.json()["kind"]), (400, &json!("Status")));
    node.api.log_line("n", "p", "still here");
    let line = tokio::time::timeout(DEADLINE, http_body_util::BodyExt::frame(log.body_mut()));
    assert_eq!(
        line.await.unwrap().unwrap().unwrap().into_data().unwrap(),
        "still here\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgraded_connection_ends_when_the_cloud_is_known_to_be_away() {
    let setup = Setup {
        response_timeout: "200ms",
        connect_timeout: "300ms",
        probe_timeout: "300ms",
        ..Setup::default()
    };
    let node = Node::with(Options::default(), setup).await;
    node.api.put(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "n", "name": "p"}, "spec": {}}),
    );
    let mut stream = upgraded(open(&websocket(&node), "GET", EXEC).await).await;
    node.api.fault(Fault::BlackHole);
    let kubelet = node.kubelet();
    let asking = kubelet.send("GET", "/version", "");
    let mut byte = [0];
    let (_, read) = tokio::join!(asking, tokio::time::timeout(DEADLINE, stream.read(&mut byte)));
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    assert_eq!(*node.running().link().borrow(), LinkState::Offline);
}
