//! The table of attacks: each row is tried with the cloud there and away, on HTTP/1.1 and HTTP/2. docs/security.md has the
//! same rows in words.

use apiserver_standin::{Client, Pki, Protocol, Rbac, Rule, ServiceAccountToken, Standin, Subject};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{DEADLINE, HIT, KUBELET, Node, config_map};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1";
const SECRET: &str = "sauerkraut";

/// What the attacker gets.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Got {
    /// No connection.
    NoHandshake,
    /// An answer of this status, a `Status` without any of the data.
    Status(u16),
    /// Some refusal: an answer of 400 or more, or none.
    Refusal,
}

/// Who the apiserver was asked as.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Asked {
    /// It was not.
    Nobody,
    /// A user; `None`: it did not know the credential.
    As(Option<&'static str>),
}

struct Row {
    name: &'static str,
    attacker: Client,
    online: (Got, Asked),
    offline: Got,
}

const ANONYMOUS: Asked = Asked::As(Some("system:anonymous"));
const UNKNOWN: Asked = Asked::As(None);

/// A node on which the kubelet and one service account have read the list, and nobody else may.
async fn scene() -> (Node, String, (Value, Vec<u8>)) {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", SECRET));
    node.api.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": "web-0", "uid": "pu"}, "spec": {"nodeName": "edge-1"}}));
    let good = node.api.issue(&account());
    for client in [node.kubelet(), node.token_client(&good)] {
        assert_eq!(client.get(LIST).await.status, 200);
    }
    assert_eq!(node.kubelet().get(PODS).await.status, 200);
    for document in ["/.well-known/openid-configuration", "/openid/v1/jwks"] {
        assert_eq!(node.kubelet().get(document).await.status, 200);
    }
    let key = public_key(&node).await;
    let kubelet = Rule::allow(Subject::User(KUBELET.into()), &["*"], &["*"]);
    node.api.set_rbac(Rbac::deny_all().with(kubelet));
    (node, good, key)
}

fn account() -> ServiceAccountToken {
    ServiceAccountToken {
        uid: Some("su".into()),
        pod: Some(("web-0".into(), "pu".into())),
        ..ServiceAccountToken::new("shop", "default")
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// The claims of a token under another header, with the signature that `sign` makes.
fn resigned(token: &str, header: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let claims = token.split('.').nth(1).unwrap();
    let signed = format!("{}.{claims}", part(header));
    let signature = URL_SAFE_NO_PAD.encode(sign(signed.as_bytes()));
    format!("{signed}.{signature}")
}

async fn public_key(node: &Node) -> (Value, Vec<u8>) {
    let keys = node.kubelet().get("/openid/v1/jwks").await.json();
    let key = keys["keys"][0].clone();
    let secret = key["x"].as_str().unwrap().as_bytes().to_vec();
    (key["kid"].clone(), secret)
}

fn certificates(node: &Node) -> Vec<Row> {
    let pki = node.api.pki();
    let agent = "kubelet/v1.36.2 (linux/amd64) kubernetes/abc";
    let row = |name, attacker, online, offline| Row {
        name,
        attacker,
        online,
        offline,
    };
    let masters = ["system:masters"];
    vec![
        row(
            "no credential",
            node.client(None),
            (Got::Status(403), ANONYMOUS),
            Got::Status(503),
        ),
        row(
            "another configured common name",
            node.client(Some(&node.pair("kube-proxy"))),
            (Got::Status(403), Asked::As(Some("system:kube-proxy"))),
            Got::Status(503),
        ),
        row(
            "a common name that is not configured",
            node.client(Some(&pki.client(Some("admin"), &masters))),
            (Got::Status(403), Asked::Nobody),
            Got::Status(403),
        ),
        row(
            "the kubelet's name by another authority",
            node.client(Some(
                &Pki::named("kubernetes").client(Some(KUBELET), &["system:nodes"]),
            )),
            (Got::NoHandshake, Asked::Nobody),
            Got::NoHandshake,
        ),
        row(
            "the kubelet's name in other groups",
            node.client(Some(&pki.client(Some(KUBELET), &masters))),
            (Got::Status(403), Asked::Nobody),
            Got::Status(503),
        ),
        row(
            "a copied User-Agent",
            node.client(None).header("user-agent", agent),
            (Got::Status(403), ANONYMOUS),
            Got::Status(503),
        ),
        row(
            "X-Remote-User",
            node.client(None)
                .header("x-remote-user", KUBELET)
                .header("x-remote-group", "system:nodes"),
            (Got::Status(403), ANONYMOUS),
            Got::Status(503),
        ),
        row(
            "impersonation without a credential",
            node.client(None).header("impersonate-user", KUBELET),
            (Got::Status(403), ANONYMOUS),
            Got::Status(503),
        ),
    ]
}

/// Who may read something, but not as the kubelet.
fn impersonators(node: &Node, good: &str) -> Vec<Row> {
    let as_kubelet = |client: Client| {
        client
            .header("impersonate-user", KUBELET)
            .header("impersonate-group", "system:nodes")
    };
    vec![
        Row {
            name: "impersonation by another configured client",
            attacker: as_kubelet(node.client(Some(&node.pair("kube-proxy")))),
            online: (Got::Status(403), Asked::As(Some("system:kube-proxy"))),
            offline: Got::Status(503),
        },
        Row {
            name: "impersonation by a service account that has the data itself",
            attacker: as_kubelet(node.token_client(good)),
            online: (
                Got::Status(403),
                Asked::As(Some("system:serviceaccount:shop:default")),
            ),
            offline: Got::Status(503),
        },
        Row {
            name: "X-Remote-User beside another client's certificate",
            attacker: node
                .client(Some(&node.pair("kube-proxy")))
                .header("x-remote-user", KUBELET)
                .header("x-remote-group", "system:nodes"),
            online: (Got::Status(403), Asked::As(Some("system:kube-proxy"))),
            offline: Got::Status(503),
        },
    ]
}

fn tokens(node: &Node, good: &str, (kid, public): (Value, Vec<u8>)) -> Vec<Row> {
    let revoked = |token: ServiceAccountToken| {
        let token = node.api.issue(&token);
        node.api.revoke_token(&token);
        token
    };
    let signed_by_nobody = resigned(good, &json!({"alg": "none", "kid": kid}), |_| Vec::new());
    let symmetric = resigned(good, &json!({"alg": "HS256", "kid": kid}), |signed| {
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &public);
        aws_lc_rs::hmac::sign(&key, signed).as_ref().to_vec()
    });
    let other_cluster = Standin::start(apiserver_standin::Options::default());
    [
        ("forged", other_cluster.issue(&account())),
        (
            "expired",
            node.api.issue(&ServiceAccountToken {
                expires_in: -120,
                ..account()
            }),
        ),
        (
            "for another audience",
            revoked(ServiceAccountToken {
                audiences: vec!["vault".into()],
                ..account()
            }),
        ),
        (
            "of a deleted pod",
            revoked(ServiceAccountToken {
                pod: Some(("web-0".into(), "before".into())),
                ..account()
            }),
        ),
        ("refused with 401 before", revoked(account())),
        ("alg: none", signed_by_nobody),
        ("HS256 with the public key", symmetric),
        ("truncated", good[..good.len() - 10].to_owned()),
        (
            "without its signature",
            good.rsplit_once('.').unwrap().0.to_owned(),
        ),
        ("opaque", "0123456789abcdef".to_owned()),
        ("of a bootstrap", "abcdef.0123456789abcdef".to_owned()),
    ]
    .into_iter()
    .map(|(name, token)| Row {
        name,
        attacker: node.token_client(&token),
        online: (Got::Status(401), UNKNOWN),
        offline: Got::Status(503),
    })
    .chain([Row {
        name: "a token of 1 MB",
        attacker: node.token_client(&"a".repeat(1 << 20)),
        online: (Got::Refusal, Asked::Nobody),
        offline: Got::Refusal,
    }])
    .collect()
}

async fn assert_got(row: &Row, client: &Client, expected: Got) {
    let name = row.name;
    let answer = client.send("GET", LIST, "").await;
    match (expected, answer) {
        (Got::NoHandshake, answer) => assert!(answer.is_err(), "{name}: {answer:?}"),
        (Got::Refusal, Err(_)) => {}
        (Got::Refusal, Ok(answer)) => {
            assert!(answer.status >= 400, "{name}: {}", answer.status);
            assert!(!answer.text().contains(SECRET), "{name}");
        }
        (Got::Status(expected), answer) => {
            let answer = answer.unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(answer.status, expected, "{name}: {}", answer.text());
            assert_eq!(answer.json()["kind"], "Status", "{name}");
            assert!(!answer.text().contains(SECRET), "{name}");
        }
    }
}

fn asked(node: &Node) -> Vec<(Option<String>, bool)> {
    let seen = node.api.requests().into_iter().filter(|seen| seen.target == LIST);
    let mut seen: Vec<_> = seen
        .map(|seen| {
            let claims = seen
                .headers
                .keys()
                .any(|name| name.as_str().starts_with("x-remote-"));
            (seen.user, claims)
        })
        .collect();
    // A read may be sent again, on another connection when one breaks: always as the same.
    seen.dedup();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_the_table_fails_safely_online_and_offline_on_both_protocols() {
    let (mut node, good, key) = scene().await;
    let mut rows = certificates(&node);
    rows.extend(impersonators(&node, &good));
    rows.extend(tokens(&node, &good, key));
    for row in &rows {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            node.api.forget_requests();
            let (got, expected) = row.online;
            assert_got(row, &row.attacker.clone().protocol(protocol), got).await;
            let seen = asked(&node);
            match expected {
                Asked::Nobody => assert_eq!(seen, [], "{} {protocol:?}", row.name),
                Asked::As(user) => {
                    let user = user.map(str::to_owned);
                    assert_eq!(seen, [(user, false)], "{} {protocol:?}", row.name);
                }
            }
        }
    }
    node.cut().await;
    for row in &rows {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            assert_got(row, &row.attacker.clone().protocol(protocol), row.offline).await;
        }
    }
    // Whose data it is gets it all the while: no attack has taken it away.
    for owner in [node.kubelet(), node.token_client(&good)] {
        let answer = owner.get(LIST).await;
        assert!(
            answer.status == 200 && answer.text().contains(SECRET),
            "{}",
            answer.text()
        );
    }
    node.restart().await;
    node.wait_link(edgehold::upstream::LinkState::Offline).await;
    // It has another port now.
    let address = node.running().addresses()[0];
    for row in &rows {
        assert_got(row, &row.attacker.clone().at(address), row.offline).await;
    }
}

/// Spellings of a path that mean the same to somebody on the way, or nothing at all.
const SPELLINGS: [&str; 12] = [
    "/api/v1//namespaces/shop/secrets",
    "//api/v1/namespaces/shop/secrets",
    "/api/v1/namespaces/shop/secrets/",
    "/api/v1/namespaces/shop/%73ecrets",
    "/api/v1/namespaces/shop%2Fsecrets",
    "/api/v1/namespaces/x/../shop/secrets",
    "/api/v1/namespaces/./shop/secrets",
    "/api/v1/namespaces/shop/secrets;v=1",
    "/API/v1/namespaces/shop/secrets",
    "/api/v1/namespaces/SHOP/secrets",
    "/api/v1/namespaces/shop/secrets?fieldSelector=metadata.name%3Dnone&fieldSelector=",
    "/api/v1/namespaces/shop/secrets?labelSelector=a%3Dnone&labelSelector=",
];

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_of_a_path_is_kept_under_the_plain_one_or_changed_on_the_way() {
    let node = Node::start().await;
    node.api.put(json!({"apiVersion": "v1", "kind": "Secret",
        "metadata": {"namespace": "shop", "name": "s"}, "data": {"k": "czNjcjN0"}}));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let kubelet = node.kubelet().protocol(protocol);
        for target in SPELLINGS {
            node.api.forget_requests();
            kubelet.get(target).await;
            let seen = node.api.requests().into_iter().map(|seen| seen.target);
            // The link is probed beside it.
            let seen: Vec<String> = seen.filter(|target| target != "/readyz").collect();
            assert_eq!(seen, [target], "{protocol:?}");
        }
    }
    node.cut().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let kubelet = node.kubelet().protocol(protocol);
        let plain = kubelet.get("/api/v1/namespaces/shop/secrets").await;
        assert_eq!(plain.status, 503, "nobody has read it: {}", plain.text());
        for target in SPELLINGS {
            let answer = kubelet.get(target).await;
            assert!(!answer.text().contains("czNjcjN0"), "{target}");
            if target.contains('?') {
                continue;
            }
            // Another namespace is a plain path of its own.
            let expected = if target.contains("SHOP") { 200 } else { 503 };
            assert_eq!(answer.status, expected, "{target}: {}", answer.text());
        }
    }
}

/// What a lenient parser would take for two requests, or for one with another body.
const AMBIGUOUS: [(&str, &str); 6] = [
    (
        "chunked with a length beside it",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n",
    ),
    ("two lengths", "Content-Length: 4\r\nContent-Length: 200\r\n\r\n"),
    (
        "a folded line",
        "Content-Length: 200\r\nTransfer-Encoding:\r\n chunked\r\n\r\n",
    ),
    (
        "a blank before the colon",
        "Content-Length: 200\r\nTransfer-Encoding : chunked\r\n\r\n",
    ),
    (
        "a coding that is not known",
        "Transfer-Encoding: xchunked\r\n\r\n",
    ),
    ("a length that is no number", "Content-Length: +4\r\n\r\n"),
];

/// Sends what may be taken for two requests, the second of which reads `hidden`.
async fn smuggle(node: &Node, hidden: &str) {
    let second = format!("GET {hidden} HTTP/1.1\r\nHost: x\r\n\r\n");
    for (name, headers) in AMBIGUOUS {
        let mut stream = node.kubelet_tls("http/1.1").await;
        let chunk = format!("{:x}\r\n{second}\r\n0\r\n\r\n", second.len());
        let request = format!("POST /debug/echo?outer HTTP/1.1\r\nHost: x\r\n{headers}{chunk}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let _half_closed = stream.shutdown().await;
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{name}: the connection stays open");
        let answer = String::from_utf8_lossy(&answer);
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(answers <= 1, "{name}: {answers} answers");
        assert!(!answer.contains(SECRET), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_smuggled_in_the_body_of_another_with_the_cloud_or_without() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", SECRET));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    let hidden = "/debug/echo?smuggled";
    smuggle(&node, hidden).await;
    assert_eq!(node.asked("GET", hidden), 0);
    node.cut().await;
    // What is there to be had: the same client may read it.
    assert!(node.kubelet().get(LIST).await.text().contains(SECRET));
    smuggle(&node, LIST).await;
}

/// HTTP/2 frames what it carries, so there is less to be ambiguous: a length that is not the body's, and a name of the
/// server that is not the one of the request.
#[tokio::test(flavor = "multi_thread")]
async fn on_http2_neither_a_false_length_nor_another_authority_passes() {
    let node = Node::start().await;
    for length in [4, 200] {
        let mut sender = h2_of(&node).await;
        let request = http::Request::post("https://edgehold/debug/echo?length")
            .header("content-length", length)
            .body(())
            .unwrap();
        let (answer, mut body) = sender.send_request(request, false).unwrap();
        // More than was said, or less.
        let _refused = body.send_data(bytes::Bytes::from_static(b"0123456789"), true);
        let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap();
        let is_refused = answer
            .as_ref()
            .map_or(true, |answer| answer.status().as_u16() >= 400);
        assert!(is_refused, "{length}: {answer:?}");
    }
    let mut sender = h2_of(&node).await;
    let request = http::Request::get("https://evil.example/debug/echo?authority")
        .header("host", "other.example")
        .body(())
        .unwrap();
    let (answer, _) = sender.send_request(request, true).unwrap();
    let _any = tokio::time::timeout(DEADLINE, answer).await.unwrap();
    let own = node.api.addr().to_string();
    for seen in node.api.requests() {
        for host in seen.headers.get_all("host") {
            assert_eq!(host, own.as_str(), "{}", seen.target);
        }
    }
}

async fn h2_of(node: &Node) -> h2::client::SendRequest<bytes::Bytes> {
    let stream = node.kubelet_tls("h2").await;
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    #[allow(clippy::disallowed_methods)] // a test's own task
    tokio::spawn(connection);
    sender.ready().await.unwrap()
}

/// How somebody else may have asked for the same path: target, and headers beside it.
const VARIATIONS: [(&str, &[(&str, &str)]); 11] = [
    ("", &[]),
    ("", &[("accept", "application/vnd.kubernetes.protobuf")]),
    ("", &[("accept", crate::support::TABLE)]),
    ("", &[("accept", crate::support::METADATA)]),
    ("", &[("accept-encoding", "gzip")]),
    (
        "",
        &[("user-agent", "kubelet/v1.36.2 (linux/amd64) kubernetes/abc")],
    ),
    (
        "",
        &[
            ("impersonate-user", KUBELET),
            ("impersonate-group", "system:nodes"),
        ],
    ),
    (
        "",
        &[("x-remote-user", KUBELET), ("x-forwarded-host", "evil.example")],
    ),
    ("?labelSelector=app%3Dnone", &[]),
    ("?fieldSelector=metadata.name%3Dnone", &[]),
    ("?limit=1", &[]),
];

async fn vary(client: &Client) {
    for (query, headers) in VARIATIONS {
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let mut client = client.clone().protocol(protocol);
            for (name, value) in headers {
                client = client.header(name, value);
            }
            let answer = client.get(&format!("{LIST}{query}")).await;
            assert_eq!(answer.status, 200, "{query} {headers:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_poisons_what_another_is_answered_under_the_same_path() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let (kubelet, proxy) = (node.kubelet(), node.client(Some(&node.pair("kube-proxy"))));
    vary(&proxy).await;
    vary(&node.client(None)).await;
    node.cut().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let answer = kubelet.clone().protocol(protocol).get(LIST).await;
        assert_eq!(answer.status, 503, "it has read nothing: {}", answer.text());
    }
    node.heal().await;
    let own = kubelet.get(LIST).await;
    assert_eq!(own.status, 200);
    // What the others read now is another list; its own narrower and other reads are views of their own.
    node.api.put(config_map("shop", "b", "2"));
    vary(&proxy).await;
    vary(&node.client(None)).await;
    let others = VARIATIONS.iter().filter(|(query, headers)| {
        !query.is_empty() || headers.iter().any(|(name, _)| *name == "impersonate-user")
    });
    for (query, headers) in others {
        let mut client = kubelet.clone();
        for (name, value) in *headers {
            client = client.header(name, value);
        }
        // As somebody else it is not the same reader.
        client.get(&format!("{LIST}{query}")).await;
    }
    node.cut().await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let answer = kubelet.clone().protocol(protocol).get(LIST).await;
        assert_eq!((answer.status, answer.header("cache-status")), (200, HIT));
        assert_eq!(answer.text(), own.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_an_absolute_target_nor_any_host_sends_a_request_elsewhere() {
    let node = Node::start().await;
    for (target, hosts) in [
        ("https://evil.example/debug/echo?absolute", "Host: x\r\n"),
        (
            "/debug/echo?hosts",
            "Host: evil.example\r\nHost: other.example\r\n",
        ),
    ] {
        let mut stream = node.kubelet_tls("http/1.1").await;
        let request = format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{target}");
    }
    let own = node.api.addr().to_string();
    for seen in node.api.requests() {
        assert!(seen.target.starts_with('/'), "{}", seen.target);
        let hosts: Vec<_> = seen.headers.get_all("host").iter().collect();
        assert!(
            hosts.iter().all(|host| *host == own.as_str()),
            "{}: {hosts:?}",
            seen.target
        );
    }
}
