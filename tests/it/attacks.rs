//! The table of attacks: each row is tried with the cloud there and away, on HTTP/1.1 and HTTP/2. docs/security.md has the
//! same rows in words.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use apiserver_standin::{Client, Pki, Rbac, Rule, ServiceAccountToken, Standin, Subject};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{
    DEADLINE, HIT, KUBELET, Node, PROTOCOLS, Setup, change, config_map, eventually, files_below, rest, tls,
    version, watch_from, watch_list,
};

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
        for protocol in PROTOCOLS {
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
        for protocol in PROTOCOLS {
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

/// What a request without certificate may write beside a token that nobody has issued, so that the apiserver does not see it.
const HIDING: [(&str, &str); 7] = [
    ("authorization", ""),
    ("AUTHORIZATION, keep-alive", ""),
    ("host", ""),
    ("content-type", "Content-Type: application/json\r\n"),
    ("impersonate-user", "Impersonate-User: x\r\n"),
    ("x-remote-user", "X-Remote-User: x\r\n"),
    ("Upgrade, sec-websocket-protocol", "Upgrade: websocket\r\n"),
];

async fn hide(node: &Node, token: &str) {
    let address = node.running().addresses()[0];
    let subprotocol = format!(
        "base64url.bearer.authorization.k8s.io.{}",
        URL_SAFE_NO_PAD.encode(token)
    );
    for (named, more) in HIDING {
        let mut stream = tls(address, node.api.ca_pem(), None, "http/1.1").await;
        let credential = if named.contains("sec-") {
            format!("Sec-WebSocket-Protocol: {subprotocol}, v4.channel.k8s.io")
        } else {
            format!("Authorization: Bearer {token}")
        };
        let request = format!(
            "GET /version?hidden HTTP/1.1\r\nHost: x\r\n{credential}\r\n{more}Connection: close\r\nConnection: {named}\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{named}: the connection stays open");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{named}: {answer}");
    }
    let answer = hide_on_http2(address, node, token).await;
    // RST_STREAM or GOAWAY: a request with `Connection` is malformed there (RFC 9113, section 8.2.2).
    assert!(matches!(answer, 3 | 7), "frame of type {answer}");
    assert_eq!(node.asked("GET", "/version?hidden"), 0);
}

/// Writes the same on HTTP/2, which no library would send; gives the type of the frame that answers.
async fn hide_on_http2(address: std::net::SocketAddr, node: &Node, token: &str) -> u8 {
    let mut stream = tls(address, node.api.ca_pem(), None, "h2").await;
    let authorization = format!("Bearer {token}");
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/version?hidden"),
        (":authority", "x"),
        ("authorization", &authorization),
        ("connection", "authorization"),
    ] {
        // A literal that is not indexed (RFC 7541, section 6.2.2), in the long form of its lengths (section 5.1).
        block.push(0);
        for text in [name, value] {
            match text.len().checked_sub(127) {
                None => block.push(u8::try_from(text.len()).unwrap()),
                Some(mut rest) => {
                    block.push(127);
                    while rest >= 128 {
                        block.push(u8::try_from(rest % 128).unwrap() | 128);
                        rest /= 128;
                    }
                    block.push(u8::try_from(rest).unwrap());
                }
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00".to_vec();
    bytes.extend_from_slice(&u32::try_from(block.len()).unwrap().to_be_bytes()[1..]);
    bytes.extend_from_slice(&[1, 5, 0, 0, 0, 1]);
    bytes.extend_from_slice(&block);
    stream.write_all(&bytes).await.unwrap();
    loop {
        let mut head = [0; 9];
        let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut head)).await;
        read.expect("an answer").expect("a frame");
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut payload).await.unwrap();
        // SETTINGS, PING and WINDOW_UPDATE are of the connection.
        if !matches!(head[3], 4 | 6 | 8) {
            return head[3];
        }
    }
}

/// What is answered before anybody is authenticated, or without the credential, makes nobody out of a made-up token.
#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_token_is_proved_by_nothing() {
    let (node, good, _) = scene().await;
    let other_cluster = Standin::start(apiserver_standin::Options::default());
    let forged = other_cluster.issue(&account());
    hide(&node, &forged).await;
    for protocol in PROTOCOLS {
        let page = node
            .token_client(&forged)
            .header("origin", "https://evil.example");
        let preflight = page.protocol(protocol).send("OPTIONS", LIST, "").await.unwrap();
        assert_eq!(preflight.status, 204);
    }
    node.cut().await;
    hide(&node, &forged).await;
    for protocol in PROTOCOLS {
        let forger = node.token_client(&forged).protocol(protocol);
        let preflight = forger.clone().header("origin", "https://evil.example");
        let preflight = preflight.send("OPTIONS", LIST, "").await.unwrap();
        assert_eq!(preflight.status, 503, "{}", preflight.text());
        for target in [LIST, "/version"] {
            let answer = forger.get(target).await;
            assert_eq!(answer.status, 503, "{target}: {}", answer.text());
        }
        let owner = node.token_client(&good).protocol(protocol).get(LIST).await;
        assert!(owner.text().contains(SECRET), "{}", owner.text());
    }
}

/// While the cloud is away nothing is lent to the other groups of a configured name, and nothing is when it comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_held_for_other_groups_does_not_go_upstream_with_the_configured_pair() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", SECRET));
    let target = watch_from(LIST, &node.api.revision().to_string());
    let masters = node.client(Some(&node.api.pki().client(Some(KUBELET), &["system:masters"])));
    node.cut().await;
    let mut held = Vec::new();
    for protocol in PROTOCOLS {
        let mut connection = masters.clone().protocol(protocol).connect().await.unwrap();
        let watch = connection.lines(&target).await.unwrap();
        assert_eq!(watch.response.status(), 200, "held from its own position");
        held.push((connection, watch));
    }
    node.heal().await;
    node.api.put(config_map("shop", "b", SECRET));
    for (_connection, watch) in &mut held {
        let told = rest(watch).await;
        assert!(told.iter().all(|event| event["type"] == "BOOKMARK"), "{told:?}");
    }
    assert_eq!(node.asked("GET", LIST), 0);
}

/// kube-apiserver ends the HTTP/2 connection on which it has answered somebody whom it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn whom_the_apiserver_does_not_know_ends_no_connection_that_others_use() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", SECRET));
    let pod = node.token_client(&node.api.issue(&account()));
    let list = pod.get(LIST).await;
    assert_eq!(list.status, 200);
    node.api.forget_requests();
    let target = watch_from(LIST, &version(&list.json()));
    let mut watching = pod.connect().await.unwrap();
    let mut watch = watching.lines(&target).await.unwrap();
    for n in 0..20 {
        let protocol = PROTOCOLS[n % 2];
        let forger = node.token_client(&format!("made-up-{n}")).protocol(protocol);
        for asked in [LIST, target.as_str()] {
            assert_eq!(forger.get(asked).await.status, 401);
        }
        let nobody = node.client(None).protocol(protocol);
        assert_eq!(nobody.get(LIST).await.status, 200);
        assert_eq!(pod.clone().protocol(protocol).get(LIST).await.status, 200);
    }
    let user = "system:serviceaccount:shop:default";
    let its_own = node.api.requests().into_iter();
    let its_own = its_own.filter(|seen| seen.user.as_deref() == Some(user));
    let connections = its_own.map(|seen| (seen.target, seen.connection_id));
    let connections: BTreeSet<(String, u64)> = connections.collect();
    assert_eq!(connections.len(), 2, "one of each purpose: {connections:?}");
    node.api.put(config_map("shop", "b", SECRET));
    assert_eq!(change(&mut watch).await.1, "b");
}

/// The whole of it is 401 of the apiserver: no view, no folder, no limit of its own for each.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_tokens_leave_nothing_behind_and_share_one_limit() {
    const READS: usize = 30;
    let setup = Setup {
        default_limits: Some("{qps: 0.001, burst: 30}"),
        ..Setup::default()
    };
    let node = Node::with(apiserver_standin::Options::default(), setup).await;
    node.api.put(config_map("shop", "a", SECRET));
    let good = node.api.issue(&account());
    assert_eq!(node.token_client(&good).get(LIST).await.status, 200);
    node.settle().await;
    let other_cluster = Standin::start(apiserver_standin::Options::default());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    // Whose files there are; edgehold writes its own whenever it has something to note.
    let owners = || -> BTreeSet<PathBuf> {
        let files = files_below(&node.cache_dir()).into_iter();
        files.filter_map(|file| Some(file.parent()?.to_owned())).collect()
    };
    let (before, known) = (tasks(), owners());
    let mut over = 0;
    for n in 0..2 * READS + 20 {
        let made_up = other_cluster.issue(&ServiceAccountToken {
            uid: Some(format!("made-up-{n}")),
            ..account()
        });
        let protocol = PROTOCOLS[n % 2];
        let target = [LIST, &watch_list(LIST)][n / 2 % 2].to_owned();
        match node
            .token_client(&made_up)
            .protocol(protocol)
            .get(&target)
            .await
            .status
        {
            429 => over += 1,
            status => assert_eq!(status, 401, "{n}"),
        }
    }
    // Half of them were watches, which are not counted; the good one was a stranger too at first.
    assert_eq!(over, READS / 3 + 1);
    eventually("nothing runs for them", || async { tasks() < before + READS }).await;
    node.settle().await;
    assert_eq!(owners(), known);
    assert_eq!(
        node.token_client(&good).get(LIST).await.status,
        200,
        "nobody else's limit"
    );
    node.cut().await;
    for n in 0..2 * READS {
        let made_up = other_cluster.issue(&account());
        let protocol = PROTOCOLS[n % 2];
        let forger = node.token_client(&made_up).protocol(protocol);
        let target = [LIST, &watch_list(LIST)][n / 2 % 2].to_owned();
        let status = forger.get(&target).await.status;
        assert!(matches!(status, 429 | 503), "{n}: {status}");
    }
    node.settle().await;
    assert_eq!(owners(), known);
    assert_eq!(node.token_client(&good).get(LIST).await.status, 200);
}

/// Spellings of a path that mean the same to somebody on the way, or nothing at all.
const SPELLINGS: [&str; 11] = [
    "/api/v1//namespaces/shop/secrets",
    "//api/v1/namespaces/shop/secrets",
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
    for protocol in PROTOCOLS {
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
    for protocol in PROTOCOLS {
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
    for (is_away, length) in [(false, 4), (false, 200), (true, 4), (true, 200)] {
        if is_away && length == 4 {
            node.cut().await;
        }
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
    for is_away in [true, false] {
        if !is_away {
            node.heal().await;
        }
        let mut sender = h2_of(&node).await;
        let request = http::Request::get("https://evil.example/debug/echo?authority")
            .header("host", "other.example")
            .body(())
            .unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        let answer = tokio::time::timeout(DEADLINE, answer).await.unwrap();
        let is_answered = answer.is_ok_and(|answer| answer.status() == 200);
        assert!(!(is_away && is_answered), "by whom?");
    }
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
        for protocol in PROTOCOLS {
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
    for protocol in PROTOCOLS {
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
    for protocol in PROTOCOLS {
        let answer = kubelet.clone().protocol(protocol).get(LIST).await;
        assert_eq!((answer.status, answer.header("cache-status")), (200, HIT));
        assert_eq!(answer.text(), own.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_an_absolute_target_nor_any_host_sends_a_request_elsewhere() {
    let node = Node::start().await;
    let absolute = ("https://evil.example/debug/echo?absolute", "Host: x\r\n");
    let hosts = (
        "/debug/echo?hosts",
        "Host: evil.example\r\nHost: other.example\r\n",
    );
    for (is_away, (target, hosts)) in [(false, absolute), (false, hosts), (true, absolute), (true, hosts)] {
        if is_away && target == absolute.0 {
            node.cut().await;
        }
        let mut stream = node.kubelet_tls("http/1.1").await;
        let request = format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
        assert!(read.is_ok(), "{target}");
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            !(is_away && answer.starts_with("HTTP/1.1 200 ")),
            "{target}: {answer}"
        );
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

#[tokio::test(flavor = "multi_thread")]
async fn large_headers_of_strangers_are_bounded_and_leave_room_for_others() {
    const HEADERS: usize = 56 << 10;
    const ASKED: &str = "/api/v1/namespaces/shop/secrets";
    let node = Node::start().await;
    let stranger = node.client(None);
    for protocol in PROTOCOLS {
        let large = |size: usize| {
            let filler = "x".repeat(size / 2);
            let stranger = stranger.clone().protocol(protocol);
            stranger.header("x-one", &filler).header("x-other", &filler)
        };
        let refused = large(80 << 10).send("GET", ASKED, "").await;
        assert!(refused.is_err() || refused.unwrap().status == 431, "{protocol:?}");
        // Late ones of the round before have a name or a query.
        assert!(node.api.requests().iter().all(|seen| seen.target != ASKED));

        node.api.fault(apiserver_standin::Fault::Stall.on(ASKED));
        let mut asking = tokio::task::JoinSet::new();
        for n in 0..360 {
            let (client, kind) = (large(HEADERS), ["/", "?"][n % 2]);
            asking.spawn(async move {
                // What is admitted is not answered. So many handshakes at once are too many where they are slow.
                loop {
                    match client.send("GET", &format!("{ASKED}{kind}{n}"), "").await {
                        Ok(answer) => return answer.status == 429,
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
            });
        }
        // Half of 32 MiB is 272 of these, with what else is kept of each; the rest hears at once that there is no room.
        let mut over = 0;
        while over < 40 {
            let ended = tokio::time::timeout(6 * DEADLINE, asking.join_next()).await;
            over += usize::from(ended.unwrap().expect("more are over").unwrap());
        }
        for client in [
            node.kubelet(),
            node.token_client(&node.api.service_account_token("shop", "default")),
        ] {
            let answer = client
                .protocol(protocol)
                .header("x-other", &"x".repeat(50 << 10))
                .get("/version")
                .await;
            assert_eq!(answer.status, 200, "{protocol:?}");
        }
        asking.shutdown().await;
        node.api.clear_faults();
        eventually("there is room again", || async {
            large(HEADERS).get("/version").await.status == 200
        })
        .await;
        node.api.forget_requests();
    }
    node.cut().await;
    for protocol in PROTOCOLS {
        for (size, expected) in [(80 << 10, 431), (HEADERS, 503)] {
            let filler = "x".repeat(size / 2);
            let large = stranger.clone().protocol(protocol);
            let large = large.header("x-one", &filler).header("x-other", &filler);
            match large.send("GET", ASKED, "").await {
                Ok(answer) => assert_eq!(answer.status, expected, "{protocol:?}"),
                Err(error) => assert_eq!(expected, 431, "{protocol:?}: {error}"),
            }
        }
    }
}
