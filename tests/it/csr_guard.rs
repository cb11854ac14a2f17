//! kubelet renews its certificate through edgehold: whatever is wrong on the way, it never hears 401, 403 or 404 but from
//! an apiserver. One of these and an expired certificate end kubelet (wire contract 7.4).

use apiserver_standin::{Answer, Client, Fault, Pair, Protocol, Rbac};
use serde_json::json;

use crate::support::{KUBELET, Node, PROTOBUF, PROTOCOLS};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// What kubelet's certificate manager asks, in its own forms, and what other clients may.
const ASKED: [(&str, &str); 8] = [
    ("POST", "?timeout=10s"),
    ("GET", "/node-csr-1?timeout=10s"),
    (
        "GET",
        "?fieldSelector=metadata.name%3Dnode-csr-1&limit=500&resourceVersion=0",
    ),
    (
        "GET",
        "?allowWatchBookmarks=true&fieldSelector=metadata.name%3Dnode-csr-1&resourceVersion=7&timeout=9m3s\
         &timeoutSeconds=543&watch=true",
    ),
    (
        "GET",
        "?allowWatchBookmarks=true&fieldSelector=metadata.name%3Dnode-csr-1&resourceVersionMatch=NotOlderThan\
         &sendInitialEvents=true&timeoutSeconds=543&watch=true",
    ),
    ("GET", "?watch=true&resourceVersion=7"),
    ("PUT", "/node-csr-1/approval"),
    ("HEAD", "/node-csr-1"),
];

/// A request for a certificate as kubelet encodes it: its envelope is enough, nobody here reads on.
const SENT: &[u8] = b"k8s\0\x0a\x35\x0a\x16certificates.k8s.io/v1\x12\x19CertificateSigningRequest";

fn kubelet_of(client: Client, protocol: Protocol) -> Client {
    client
        .protocol(protocol)
        .header("accept", &format!("{PROTOBUF},application/json"))
        .header("content-type", PROTOBUF)
}

async fn ask(client: &Client, method: &str, rest: &str) -> Answer {
    let body: &[u8] = if matches!(method, "POST" | "PUT") {
        SENT
    } else {
        b""
    };
    let target = format!("{PATH}{rest}");
    let asked = client.send(method, &target, body).await;
    asked.unwrap_or_else(|error| panic!("{method} {target}: {error}"))
}

/// All questions of this client are answered with a 503 that a protobuf client reads.
async fn assert_unavailable(client: Client, what: &str) {
    for protocol in PROTOCOLS {
        let client = kubelet_of(client.clone(), protocol);
        for (method, rest) in ASKED {
            let answer = ask(&client, method, rest).await;
            let what = format!("{what}: {method} {rest} on {protocol:?}: {}", answer.text());
            assert_eq!(
                (
                    answer.status,
                    answer.header("retry-after"),
                    answer.header("content-type")
                ),
                (503, "", PROTOBUF),
                "{what}"
            );
            if method != "HEAD" {
                assert!(answer.text().contains("ServiceUnavailable"), "{what}");
            }
        }
    }
}

fn put_request(node: &Node) {
    node.api.put(json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "node-csr-1"},
        "spec": {"request": "", "signerName": "kubernetes.io/kube-apiserver-client-kubelet", "usages": ["client auth"]}
    }));
}

/// Whoever may ask for a certificate: kubelet by its own, and a node that joins by a token.
fn callers(node: &Node) -> [(&'static str, Client); 4] {
    [
        ("kubelet", node.kubelet()),
        ("a known token", node.token_client("abcdef.0123456789abcdef")),
        ("an unknown token", node.token_client("fedcba.0123456789abcdef")),
        ("nobody", node.client(None)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_for_a_certificate_is_never_answered_without_the_cloud() {
    let mut node = Node::start().await;
    put_request(&node);
    node.api.add_token(
        "abcdef.0123456789abcdef",
        "system:bootstrap:abcdef",
        &["system:bootstrappers"],
    );
    // What could be remembered of it has been seen: the object, the list, an absence, a refusal.
    for (_, client) in callers(&node) {
        for rest in ["", "/node-csr-1", "/node-csr-2"] {
            client.get(&format!("{PATH}{rest}")).await;
        }
    }
    node.api.set_rbac(Rbac::deny_all());
    let refused = node.kubelet().get(&format!("{PATH}/node-csr-1")).await;
    assert_eq!(refused.status, 403, "an apiserver's own word is passed on");
    assert_eq!(refused.json()["reason"], "Forbidden");

    node.cut().await;
    for (name, client) in callers(&node) {
        assert_unavailable(client, name).await;
    }
    node.restart().await;
    node.wait_link(edgehold::upstream::LinkState::Offline).await;
    for (name, client) in callers(&node) {
        assert_unavailable(client, &format!("{name}, after a start")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_request_that_finds_the_cloud_gone_gets_503_too() {
    let node = Node::start().await;
    for (method, rest) in ASKED {
        node.api.fault(Fault::Refuse(apiserver_standin::Existing::Cut));
        let answer = ask(&kubelet_of(node.kubelet(), Protocol::Http2), method, rest).await;
        assert!(
            matches!(answer.status, 503 | 504),
            "{method} {rest}: {}",
            answer.text()
        );
        node.heal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_page_refuses_no_request_for_a_certificate() {
    let node = Node::start().await;
    for code in [401, 403, 404] {
        node.api.clear_faults();
        node.api.fault(Fault::GatewayPage(code).on(PATH));
        for (name, client) in callers(&node) {
            for (method, rest) in ASKED {
                let answer = ask(&kubelet_of(client.clone(), Protocol::Http2), method, rest).await;
                assert_eq!(answer.status, 502, "{name}, a gateway's {code}: {method} {rest}");
            }
        }
    }
    // Nor is an apiserver's own refusal changed.
    node.api.clear_faults();
    for code in [401, 403, 404] {
        node.api.fault(Fault::Status(code).on(PATH).times(1));
        let answer = node.kubelet().get(&format!("{PATH}/node-csr-1")).await;
        assert_eq!(answer.status, code);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_edgehold_has_no_pair_for_gets_503_for_its_request() {
    let mut node = Node::start().await;
    let pki = node.api.pki().clone();
    let foreign: Pair = pki.client(Some("system:node:edge-2"), &["system:nodes"]);
    let other_groups: Pair = pki.client(Some(KUBELET), &["system:masters"]);
    for (pair, says) in [
        (&foreign, "clients[].commonName"),
        (&other_groups, "organizations"),
    ] {
        let client = node.client(Some(pair));
        assert_eq!(client.get("/api/v1/nodes/edge-2").await.status, 403, "otherwise");
        assert_unavailable(client.clone(), says).await;
        let told = client.get(&format!("{PATH}/node-csr-1")).await;
        assert_eq!(told.json()["code"], 503);
        assert!(
            told.text().contains(says),
            "the way out is named: {}",
            told.text()
        );
    }
    // A configured client whose pair is not there: nothing can be asked in its name.
    node.stop().await;
    let pair = node.pair("kubelet");
    for file in ["kubelet.crt", "kubelet.key"] {
        #[allow(clippy::disallowed_methods)] // a test's own files
        std::fs::remove_file(node.dir.path().join(file)).unwrap();
    }
    node.launch().await;
    let client = node.client(Some(&pair));
    assert_unavailable(client, "no pair loaded").await;
}
