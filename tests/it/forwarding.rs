//! Promise 1 for ordinary requests: what the client sends is what arrives, and what upstream answers is what it gets.
#![allow(clippy::disallowed_methods)] // a test's own tasks

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_standin::{Client, Fault, Options, Protocol, Seen};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::scripted::{Scripted, Step, chunk};
use crate::support::{DEADLINE, Node, Setup, TestBody, config_map};

const BOTH: [Protocol; 2] = [Protocol::Http2, Protocol::Http1];

/// A client that goes through edgehold and one that does not, with the same certificate.
fn through_and_direct(node: &Node, protocol: Protocol) -> (Client, Client) {
    let direct = Client::new(node.api.addr(), node.api.ca_pem(), Some(&node.pair("kubelet")));
    (node.kubelet().protocol(protocol), direct.protocol(protocol))
}

/// What arrived, without edgehold's own probes.
fn requests(node: &Node) -> Vec<Seen> {
    let all = node.api.requests().into_iter();
    all.filter(|seen| seen.target != "/readyz").collect()
}

fn body(frames: impl IntoIterator<Item = Frame<Bytes>, IntoIter: Send + 'static>) -> TestBody {
    StreamBody::new(stream::iter(frames.into_iter().map(Ok::<_, Infallible>))).boxed_unsync()
}

async fn read_json(response: http::Response<hyper::body::Incoming>) -> Value {
    let read = tokio::time::timeout(DEADLINE, response.into_body().collect());
    serde_json::from_slice(&read.await.unwrap().unwrap().to_bytes()).unwrap()
}

/// Reads from a bare connection until `end` holds.
async fn read_until(stream: &mut (impl tokio::io::AsyncRead + Unpin), end: impl Fn(&str) -> bool) -> String {
    let mut all = Vec::new();
    let reading = async {
        loop {
            let text = String::from_utf8_lossy(&all).into_owned();
            if end(&text) || !matches!(stream.read_buf(&mut all).await, Ok(1..)) {
                return text;
            }
        }
    };
    tokio::time::timeout(DEADLINE, reading)
        .await
        .expect("an answer in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_arrives_with_its_body() {
    let node = Node::start().await;
    for protocol in BOTH {
        let client = node.kubelet().protocol(protocol);
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"] {
            for length in [0, 5, 200_000] {
                let answer = client.send(method, "/debug/echo", vec![7; length]).await.unwrap();
                let echo = answer.json();
                assert_eq!(
                    (answer.status, &echo["method"], &echo["bodyLength"]),
                    (200, &json!(method), &json!(length)),
                    "{protocol:?}"
                );
            }
        }
        let head = client.send("HEAD", "/debug/echo", "").await.unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0));
        let seen = node.api.wait_for(|seen| seen.method == "HEAD").await;
        assert_eq!(seen.target, "/debug/echo");
        node.api.forget_requests();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn path_and_query_arrive_byte_for_byte() {
    let node = Node::start().await;
    for protocol in BOTH {
        let client = node.kubelet().protocol(protocol);
        for target in [
            "/a%2Fb/c",
            "/api/v1/namespaces/a%2fb/pods/x",
            "//api//v1//pods",
            "/api/v1/pods/",
            "/a;b=c/d;e",
            "/a+b%2Bc",
            "/%7E~%41",
            "/a/./b/../c/%2e%2e",
            "/api/v1/namespaces/n/services/https:x:443/proxy/a%20b//c?x=%zz",
            "/?",
            "/x??a=?b&&",
            "/x?empty=&none&twice=1&twice=2&twice=1",
            "/x?q=%2F%2f/:@+%20&labelSelector=%21a%2Cb+in+%28c%29&pipe=a|b{c}",
            "/api/v1/pods?limit=x&watch=0&unknown=%7E",
        ] {
            client.get(target).await;
            let seen = requests(&node).pop().unwrap();
            assert_eq!(seen.target, target, "{protocol:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authority_is_upstreams_on_every_pair_of_protocols() {
    for alpn in [vec!["h2", "http/1.1"], vec!["http/1.1"]] {
        let options = Options {
            alpn: alpn.clone(),
            ..Options::default()
        };
        let node = Node::with(options, Setup::default()).await;
        for protocol in BOTH {
            node.kubelet().protocol(protocol).get("/debug/echo?host").await;
            let seen = node.api.wait_for(|seen| seen.target == "/debug/echo?host").await;
            assert_eq!(
                seen.authority,
                node.api.addr().to_string(),
                "{protocol:?} to {alpn:?}"
            );
            assert_eq!(seen.protocol == Protocol::Http2, alpn[0] == "h2");
            node.api.forget_requests();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn request_headers_arrive_without_those_of_the_connection() {
    let node = Node::start().await;
    let mut stream = node.kubelet_tls("http/1.1").await;
    let request = "POST /debug/echo HTTP/1.1\r\nHost: edge\r\nConnection: close, X-Private\r\nX-Private: 1\r\n\
        Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nTE: gzip\r\n\
        Transfer-Encoding: chunked\r\nX-Twice: a\r\nX-Twice: b\r\nX-Empty:\r\nAudit-ID: mine\r\n\
        traceparent: 00-1-2-03\r\nX-Remote-User: root\r\nX-Remote-Group: system:masters\r\n\
        Accept: application/json;as=Table, */*\r\nUser-Agent: kubelet/v1 (linux/amd64)\r\n\r\n\
        3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    let echo: Value = serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap();
    assert_eq!(echo["bodyLength"], 5);
    assert_eq!(
        echo["headers"],
        json!({
            "accept": ["application/json;as=Table, */*"], "audit-id": ["mine"], "traceparent": ["00-1-2-03"],
            "user-agent": ["kubelet/v1 (linux/amd64)"], "x-empty": [""], "x-twice": ["a", "b"],
        })
    );
}

/// An upstream that answers every request but a probe with these bytes, whatever they are.
async fn scripted(node: &Node, answer: &'static [u8]) -> std::net::SocketAddr {
    let pair = node.api.pki().server(&["localhost", "127.0.0.1"]);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pair.chain(), pair.key())
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                loop {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        match stream.read_u8().await {
                            Ok(byte) => head.push(byte),
                            Err(_) => return,
                        }
                    }
                    let probe = head.starts_with(b"GET /readyz ");
                    let ready = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".as_slice();
                    if stream
                        .write_all(if probe { ready } else { answer })
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn response_headers_arrive_without_those_of_the_connection() {
    let mut node = Node::start().await;
    let upstream = scripted(
        &node,
        b"HTTP/1.1 103 Early Hints\r\nLink: </style>\r\n\r\nHTTP/1.1 418 I'm odd\r\nConnection: X-Private\r\n\
          X-Private: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy-Authenticate: Basic\r\n\
          X-Twice: a\r\nX-Twice: b\r\nX-Empty:\r\nRetry-After: 7\r\nWarning: 299 - \"deprecated\"\r\nAudit-Id: theirs\r\n\
          Date: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Length: 3\r\n\r\nodd",
    )
    .await;
    node.relaunch_towards(upstream).await;
    for protocol in BOTH {
        let client = node.kubelet().protocol(protocol);
        for method in ["GET", "POST"] {
            let answer = client.send(method, "/odd", "").await.unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (418, "odd"));
            let mut headers: Vec<_> = answer
                .headers
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
                .collect();
            headers.sort();
            assert_eq!(
                headers,
                [
                    "audit-id: theirs",
                    "content-length: 3",
                    "date: Thu, 01 Jan 2026 00:00:00 GMT",
                    "retry-after: 7",
                    "warning: 299 - \"deprecated\"",
                    "x-empty: ",
                    "x-twice: a",
                    "x-twice: b",
                ],
                "{protocol:?} {method}"
            );
        }
    }
}

/// Status, headers, body and trailers must be equal; `Date` may tick.
async fn assert_same(node: &Node, method: &str, target: &str, headers: &[(&'static str, &str)]) -> u16 {
    let mut status = 0;
    for protocol in BOTH {
        let (mut through, mut direct) = through_and_direct(node, protocol);
        for (name, value) in headers.iter().chain(&[("audit-id", "same")]) {
            (through, direct) = (through.header(name, value), direct.header(name, value));
        }
        let mut answers = Vec::new();
        for client in [&direct, &through] {
            let mut answer = client.send(method, target, "").await.unwrap();
            answer.headers.remove("date").expect("a date");
            answers.push((
                answer.status,
                sorted(&answer.headers),
                answer.body,
                answer.trailers,
            ));
        }
        assert_eq!(answers[0], answers[1], "{protocol:?} {method} {target}");
        status = answers[0].0;
    }
    status
}

fn sorted(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut all: Vec<_> = headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect();
    all.sort();
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_the_same_with_edgehold_and_without() {
    let node = Node::start().await;
    for n in 0..300 {
        node.api
            .put(config_map("shop", &format!("c-{n:03}"), &"v".repeat(1000)));
    }
    let list = "/api/v1/namespaces/shop/configmaps";
    let proto = [("accept", "application/vnd.kubernetes.protobuf, */*")];
    let gzip = [("accept-encoding", "gzip")];
    assert_eq!(assert_same(&node, "GET", list, &[]).await, 200);
    assert_eq!(assert_same(&node, "GET", list, &proto).await, 200);
    assert_eq!(assert_same(&node, "GET", list, &gzip).await, 200);
    assert_eq!(assert_same(&node, "HEAD", list, &[]).await, 200);
    assert_eq!(
        assert_same(&node, "GET", &format!("{list}?limit=7"), &[]).await,
        200
    );
    assert_eq!(
        assert_same(&node, "GET", &format!("{list}/c-001"), &proto).await,
        200
    );
    assert_eq!(
        assert_same(&node, "HEAD", &format!("{list}/c-001"), &[]).await,
        200
    );
    assert_eq!(assert_same(&node, "GET", &format!("{list}/none"), &[]).await, 404);
    assert_eq!(assert_same(&node, "POST", list, &[]).await, 400);
    assert_eq!(assert_same(&node, "PUT", "/version", &[]).await, 404);
    assert_eq!(
        assert_same(&node, "GET", "/apis/none/v1/things", &proto).await,
        404
    );
    assert_eq!(assert_same(&node, "GET", "/apis", &gzip).await, 200);
    assert_eq!(assert_same(&node, "GET", "/healthz", &[]).await, 200);
    assert_eq!(
        assert_same(&node, "GET", list, &[("accept", "text/html")]).await,
        406
    );
    let legacy = format!(
        "{list}?watch=1&timeoutSeconds=1&resourceVersion={}",
        node.api.revision()
    );
    assert_eq!(assert_same(&node, "GET", &legacy, &[]).await, 200);
    for protocol in [[].as_slice(), &[("te", "trailers")]] {
        assert_eq!(assert_same(&node, "GET", "/debug/trailers", protocol).await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_has_not_changed_is_304_with_its_headers() {
    let node = Node::start().await;
    let target = "/openapi/v3";
    let etag = node.kubelet().get(target).await.header("etag").to_owned();
    assert!(!etag.is_empty());
    let conditional = [("if-none-match", etag.as_str())];
    assert_eq!(assert_same(&node, "GET", target, &conditional).await, 304);
    assert_eq!(
        assert_same(&node, "GET", target, &[("if-none-match", "\"other\"")]).await,
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_pass_unchanged_when_nothing_is_cached() {
    let node = Node::start().await;
    let list = "/api/v1/namespaces/shop/configmaps";
    for code in [400, 401, 403, 404, 409, 410, 422, 429, 500, 502, 503, 504] {
        node.api.fault(Fault::Status(code).on("/api"));
        for (method, target) in [
            ("GET", list.to_owned()),
            ("GET", format!("{list}/only-{code}")),
            ("GET", format!("{list}?watch=1")),
            ("POST", list.to_owned()),
            ("DELETE", format!("{list}/only-{code}")),
        ] {
            assert_eq!(assert_same(&node, method, &target, &[]).await, code);
        }
        node.api.clear_faults();
    }
    node.api.fault(Fault::Status(429).on("/api"));
    assert_eq!(node.kubelet().get(list).await.header("retry-after"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_page_passes_unchanged_when_nothing_is_cached() {
    let node = Node::start().await;
    for code in [502, 503, 504] {
        node.api.fault(Fault::GatewayPage(code).on("/api"));
        for method in ["GET", "POST"] {
            assert_eq!(assert_same(&node, method, "/api/v1/pods", &[]).await, code);
        }
        node.api.clear_faults();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_pass_both_ways() {
    let node = Node::start().await;
    let mut sender = node.kubelet_http2().await;
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", "abc".parse().unwrap());
    let request = Request::post("https://edge/debug/echo")
        .body(body([
            Frame::data(Bytes::from_static(b"data")),
            Frame::trailers(trailers),
        ]))
        .unwrap();
    let echo = read_json(sender.send_request(request).await.unwrap()).await;
    assert_eq!(
        (&echo["bodyLength"], &echo["trailers"]),
        (&json!(4), &json!({"x-checksum": ["abc"]}))
    );

    let mut stream = node.kubelet_tls("http/1.1").await;
    let request = "POST /debug/echo HTTP/1.1\r\nHost: edge\r\nConnection: close\r\nTrailer: x-checksum\r\n\
        Transfer-Encoding: chunked\r\n\r\n4\r\ndata\r\n0\r\nx-checksum: abc\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    let echo: Value = serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap();
    assert_eq!(echo["trailers"], json!({"x-checksum": ["abc"]}), "over HTTP/1.1");

    for client in [
        node.kubelet(),
        node.kubelet().protocol(Protocol::Http1).header("te", "trailers"),
    ] {
        let answer = client.get("/debug/trailers").await;
        assert_eq!(answer.text(), "body before trailers\n");
        assert_eq!(
            (&answer.trailers["x-checksum"], &answer.trailers["x-status"]),
            (&"abc".parse().unwrap(), &"done".parse().unwrap())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_100_continue_gets_it_and_upstream_does_not_see_it() {
    let node = Node::start().await;
    let mut stream = node.kubelet_tls("http/1.1").await;
    let head = "PUT /debug/echo HTTP/1.1\r\nHost: edge\r\nConnection: close\r\nContent-Length: 5\r\n\
        Expect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let interim = read_until(&mut stream, |text| text.ends_with("\r\n\r\n")).await;
    assert!(interim.starts_with("HTTP/1.1 100 "), "{interim}");
    stream.write_all(b"abcde").await.unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let echo: Value = serde_json::from_str(answer.rsplit("\r\n\r\n").next().unwrap()).unwrap();
    assert_eq!(
        (&echo["bodyLength"], &echo["headers"]["expect"]),
        (&json!(5), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_waits_for_an_upstream_that_does_not_read_and_then_arrives_whole() {
    const SIZE: usize = 50 << 20;
    const CHUNK: usize = 64 << 10;
    const PAUSE: Duration = Duration::from_secs(2);
    // What flow control and buffers of three HTTP connections may hold.
    const BUFFERS: usize = 8 << 20;
    let node = Node::start().await;
    for alpn in ["h2", "http/1.1"] {
        node.api.fault(Fault::Delay(PAUSE).on("/debug/echo"));
        let sent = Arc::new(AtomicUsize::new(0));
        let own = Arc::clone(&sent);
        let started = Instant::now();
        let crossed = Arc::new(parking_lot::Mutex::new(None));
        let crossed_at = Arc::clone(&crossed);
        let chunks = stream::iter(0..SIZE / CHUNK).map(move |_| {
            let so_far = own.fetch_add(CHUNK, Ordering::Relaxed);
            if so_far >= BUFFERS {
                crossed_at.lock().get_or_insert_with(Instant::now);
            }
            Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[7; CHUNK])))
        });
        let request = Request::builder()
            .method(Method::POST)
            .uri(if alpn == "h2" {
                "https://edge/debug/echo"
            } else {
                "/debug/echo"
            })
            .header("host", "edge")
            .body(StreamBody::new(chunks).boxed_unsync())
            .unwrap();
        let io = hyper_util::rt::TokioIo::new(node.kubelet_tls(alpn).await);
        let response = if alpn == "h2" {
            node.kubelet_http2().await.send_request(request).await.unwrap()
        } else {
            let (mut sender, driver) = hyper::client::conn::http1::handshake(io).await.unwrap();
            tokio::spawn(driver);
            sender.send_request(request).await.unwrap()
        };
        let echo = read_json(response).await;
        assert_eq!(echo["bodyLength"], SIZE, "{alpn}");
        let held_back = crossed.lock().unwrap() - started;
        assert!(
            held_back >= PAUSE,
            "{alpn}: {BUFFERS} bytes were taken in {held_back:?}"
        );
        node.api.clear_faults();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_is_not_taken_from_upstream_before_the_client_reads_it() {
    let node = Node::start().await;
    let size = 50 << 20;
    for protocol in BOTH {
        let mut connection = node.kubelet().protocol(protocol).connect().await.unwrap();
        let target = format!("/debug/blob?size={size}");
        let response = connection.open("GET", &target, "").await.unwrap();
        let all_taken = node.api.wait_counters(|counters| counters.streams_open == 0);
        let early = tokio::time::timeout(Duration::from_secs(1), all_taken).await;
        assert!(early.is_err(), "{protocol:?}: edgehold took everything at once");
        let read = tokio::time::timeout(3 * DEADLINE, response.into_body().collect());
        let length = read.await.unwrap().unwrap().to_bytes().len();
        assert!(length > size * 9 / 10, "{protocol:?}: {length}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn gzip_is_for_the_link_and_for_clients_that_asked_for_it() {
    let node = Node::start().await;
    for n in 0..300 {
        node.api
            .put(config_map("shop", &format!("c-{n:03}"), &"v".repeat(1000)));
    }
    let list = "/api/v1/namespaces/shop/configmaps";
    let plain = node.kubelet().get(list).await;
    assert_eq!(plain.header("content-encoding"), "");
    assert_eq!(plain.json()["items"].as_array().unwrap().len(), 300);
    let asked = node.api.wait_for(|seen| seen.target == list).await;
    assert_eq!(
        asked.header("accept-encoding"),
        Some("gzip"),
        "the link is spared"
    );
    let metrics = node.running().metrics_text().unwrap();
    let saved = metrics
        .lines()
        .find_map(|line| line.strip_prefix("edgehold_upstream_gzip_saved_bytes_total "));
    let saved: usize = saved.unwrap().parse().unwrap();
    assert!(saved > plain.body.len() / 2, "{saved} of {}", plain.body.len());
    let packed = node.kubelet().header("accept-encoding", "gzip").get(list).await;
    assert_eq!(packed.header("content-encoding"), "gzip");
    assert!(packed.body.len() < plain.body.len() / 2);
    for own in ["identity", "gzip;q=0", "br", "gzip;q=1"] {
        let answer = node.kubelet().header("accept-encoding", own).get(list).await;
        let expected = if own == "gzip;q=1" { &packed } else { &plain };
        assert_eq!(answer.body, expected.body, "{own}");
        assert_eq!(answer.header("vary"), expected.header("vary"), "{own}");
        let asked = node.api.requests().into_iter().next_back().unwrap();
        assert_eq!(asked.header("accept-encoding"), Some("gzip"), "{own}");
    }
    node.cut().await;
    for client in [node.kubelet(), node.kubelet().header("accept-encoding", "gzip")] {
        let cached = client.get(list).await;
        assert_eq!(
            (cached.header("content-encoding"), &cached.body),
            ("", &plain.body)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_of_one_client_share_a_connection_and_leave_none_behind() {
    let node = Node::start().await;
    for n in 0..100 {
        assert_eq!(node.kubelet().get(&format!("/debug/echo?{n}")).await.status, 200);
    }
    let used: BTreeSet<_> = requests(&node).iter().map(|seen| seen.connection_id).collect();
    assert_eq!(used.len(), 1);
    node.api
        .wait_counters(|counters| counters.connections_open == 1)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_request_or_a_target_that_is_no_path_is_refused() {
    let node = Node::start().await;
    let mut stream = node.kubelet_tls("http/1.1").await;
    stream
        .write_all(b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let mut stream = node.kubelet_tls("http/1.1").await;
    stream
        .write_all(b"OPTIONS * HTTP/1.1\r\nHost: edge\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let answer = read_until(&mut stream, |_| false).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(requests(&node).is_empty());
}

/// linkerd/linkerd2#15199, hyperium/hyper#3686: hyper's client takes 16 KiB of headers on HTTP/2, Go's 10 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_large_headers_passes_and_its_server_is_not_suspected() {
    let node = Node::start().await;
    let client = node.kubelet().protocol(Protocol::Http1);
    let answer = client.get("/debug/head?count=6&each=4000").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.header("x-5").len(), 4000);
    // A failure that was never counted has no line.
    let metrics = node.running().metrics_text().unwrap();
    assert!(
        !metrics.contains("edgehold_upstream_failures_total{"),
        "{metrics}"
    );
}

/// hyperium/hyper#3283, h2o/h2o#1733: hyper's client takes 100 headers on HTTP/1.1.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_many_headers_passes_from_an_upstream_of_http1() {
    let options = Options {
        alpn: vec!["http/1.1"],
        ..Options::default()
    };
    let node = Node::with(options, Setup::default()).await;
    let answer = node.kubelet().get("/debug/head?count=150&each=2").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    assert_eq!(answer.header("x-149"), "vv");
}

/// hyperium/hyper#1614, envoyproxy/envoy#9797: who asks in HTTP/1.0 to keep the connection must be told that it is kept, or must
/// see it end; else it waits for the end (`ab -k`).
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_http_1_0_is_told_that_its_connection_is_kept() {
    let node = Node::start().await;
    let mut stream = node.kubelet_tls("http/1.1").await;
    let request = "GET /debug/echo HTTP/1.0\r\nHost: edge\r\nConnection: keep-alive\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, |text| text.contains("bodySha256")).await;
    let (head, _) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.to_lowercase().contains("connection: keep-alive"), "{head}");
}

/// aspnet/Proxy#30, chimurai/http-proxy-middleware#447; RFC 9112 section 6.3: a length beside chunks does not count, and goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_length_beside_chunks_of_an_upstream_cuts_nothing_off() {
    let cloud = Scripted::start(|_| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAudit-Id: 1\r\nContent-Length: 3\r\n\
            Transfer-Encoding: chunked\r\n\r\n";
        vec![
            Step::Send(head.into()),
            Step::Send(chunk("{\"paths\":[]}")),
            Step::Send(b"0\r\n\r\n".to_vec()),
        ]
    })
    .await;
    for protocol in BOTH {
        let answer = cloud.client().protocol(protocol).get("/apis").await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "{\"paths\":[]}"),
            "{protocol:?}"
        );
    }
}

/// rackerlabs/repose#792, golang/go#77843: Go's HTTP/2 server resets the stream of a path with a broken escape, its HTTP/1.1 server says 400.
/// Passed on, it looks as if the server had broken the connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_a_broken_escape_is_refused_and_blamed_on_nobody_else() {
    let node = Node::start().await;
    for protocol in BOTH {
        for path in [
            "/api/v1/namespaces/shop/configmaps/%zz",
            "/api/v1/namespaces/shop/configmaps/a%2",
        ] {
            let answer = node.kubelet().protocol(protocol).get(path).await;
            assert_eq!(answer.status, 400, "{protocol:?} {path}");
        }
    }
    assert_eq!(requests(&node).len(), 0);
}

/// RFC 9112 section 3.2: a request of HTTP/1.1 names one host, or two who read it may take it for two requests.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_a_host_or_with_two_is_refused() {
    let node = Node::start().await;
    for hosts in ["", "Host: edge\r\nHost: other\r\n"] {
        let mut stream = node.kubelet_tls("http/1.1").await;
        let request = format!("GET /debug/echo HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let answer = read_until(&mut stream, |text| text.contains("\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{hosts:?}: {answer}");
    }
    assert!(requests(&node).is_empty());
}
