//! Certificates from Secrets, authorities from ConfigMaps: taken, followed, kept for a start without the cloud.

use apiserver_standin::{Options, Pair, Pki, Rbac, Rule, Standin, Subject, Validity};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgehold::tls::{CertificateKind, CertificateStatus};
use serde_json::{Value, json};

use crate::support::{KUBELET, Node, Setup, eventually, is_on_disk};

const PROXY: &str = "system:kube-proxy";
const SECRET: &str = "secretRef: {namespace: edge, name: proxy, client: \"system:node:edge-1\"}";

fn secret(name: &str, cert: &str, key: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"namespace": "edge", "name": name},
        "data": {"tls.crt": STANDARD.encode(cert), "tls.key": STANDARD.encode(key)}})
}

fn secret_of(name: &str, pair: &Pair) -> Value {
    secret(name, &pair.cert_pem, &pair.key_pem)
}

/// A node that is not started, and the configuration in which kube-proxy's pair comes from a Secret.
async fn node() -> (Node, String) {
    let mut node = Node::with(Options::default(), Setup::default()).await;
    node.stop().await;
    let file = |ending: &str| {
        node.dir
            .path()
            .join(format!("kube-proxy.{ending}"))
            .display()
            .to_string()
    };
    let files = format!("certFile: {}, keyFile: {}", file("crt"), file("key"));
    let text = node.config_text();
    assert!(text.contains(&files), "{text}");
    let text = text.replace(&files, SECRET);
    (node, text)
}

fn status(node: &Node, kind: CertificateKind, name: &str) -> CertificateStatus {
    let all = node.running().certificates().statuses();
    all.into_iter()
        .find(|status| status.kind == kind && status.name == name)
        .unwrap()
}

fn fingerprint(node: &Node) -> Option<String> {
    status(node, CertificateKind::Client, PROXY).fingerprint
}

fn fingerprint_of(pair: &Pair) -> Option<String> {
    let leaf = edgehold::tls::CertificateInfo::parse(&pair.chain()[0]).unwrap();
    Some(leaf.fingerprint)
}

async fn uses(node: &Node, pair: &Pair) {
    eventually("the Secret's pair is in use", || async {
        fingerprint(node) == fingerprint_of(pair)
    })
    .await;
}

/// Who the cloud takes kube-proxy for.
async fn seen_as(node: &Node) -> Option<String> {
    node.api.forget_requests();
    let client = node.client(Some(&node.pair("kube-proxy")));
    let answer = client.get("/api/v1/nodes?who").await;
    if answer.status != 200 {
        return None;
    }
    let seen = node.api.wait_for(|seen| seen.target.contains("who")).await;
    seen.peer_cn
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_speaks_with_the_pair_of_its_secret_and_also_after_a_start_without_the_cloud() {
    let (mut node, text) = node().await;
    let pair = node.api.pki().client(Some(PROXY), &[]);
    let may = |verbs: &[&str]| Rule::allow(Subject::User(KUBELET.into()), verbs, &["secrets"]);
    let proxy = Rule::allow(Subject::User(PROXY.into()), &["list"], &["nodes"]);
    node.api
        .set_rbac(Rbac::deny_all().with(may(&["get", "watch"])).with(proxy));
    node.launch_text(&text).await;
    assert_eq!(
        fingerprint(&node),
        None,
        "a Secret that is not there yet is normal"
    );
    assert_eq!(seen_as(&node).await, None);

    node.api.put(secret_of("proxy", &pair));
    uses(&node, &pair).await;
    eventually("kube-proxy is itself", || async {
        seen_as(&node).await.as_deref() == Some(PROXY)
    })
    .await;
    let line = pair.key_pem.lines().nth(1).unwrap();
    assert!(!is_on_disk(&node.cache_dir(), line), "the key is sealed");

    node.cut().await;
    node.stop().await;
    node.launch_text(&text).await;
    assert_eq!(fingerprint(&node), fingerprint_of(&pair));
    node.api.delete("Secret", "edge", "proxy");
    node.heal().await;
    assert_eq!(seen_as(&node).await.as_deref(), Some(PROXY));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_secret_is_taken_at_once_and_a_bad_one_never() {
    let (mut node, text) = node().await;
    let pki = node.api.pki().clone();
    let issue = |name: &str| pki.client(Some(name), &[]);
    let (first, second, third) = (issue(PROXY), issue(PROXY), issue(PROXY));
    node.api.put(secret_of("proxy", &first));
    node.launch_text(&text).await;
    uses(&node, &first).await;
    let watch = node
        .api
        .wait_for(|seen| seen.is_watch() && seen.path().ends_with("/secrets"))
        .await;
    assert!(
        watch.target.contains("fieldSelector=metadata.name%3Dproxy"),
        "{}",
        watch.target
    );
    assert_eq!(watch.peer_cn.as_deref(), Some(KUBELET));
    node.api.put(secret_of("proxy", &second));
    uses(&node, &second).await;

    let expired = pki.client_valid(Some(PROXY), &[], Validity::EXPIRED);
    for bad in [
        secret("proxy", &first.cert_pem, &second.key_pem),
        secret("proxy", "", ""),
        secret("proxy", "no PEM", "no PEM"),
        secret_of("proxy", &issue("system:somebody-else")),
        secret_of("proxy", &expired),
    ] {
        node.api.forget_requests();
        node.api.put(bad);
        // It was read and judged when it is watched again.
        let secrets = "/api/v1/namespaces/edge/secrets";
        node.api
            .wait_for(|seen| seen.is_watch() && seen.path() == secrets)
            .await;
        assert_eq!(fingerprint(&node), fingerprint_of(&second));
    }
    node.stop().await;
    node.launch_text(&text).await;
    assert_eq!(
        fingerprint(&node),
        fingerprint_of(&second),
        "what was kept is the good one"
    );
    node.api.put(secret_of("proxy", &third));
    uses(&node, &third).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_serving_pair_of_a_secret_takes_over_from_the_files() {
    let mut node = Node::start().await;
    node.stop().await;
    let ca = format!("clientCAFile: {}", node.dir.path().join("ca.crt").display());
    let text = node.config_text().replacen(
        &ca,
        &format!("{ca}, {}", SECRET.replace("name: proxy", "name: serving")),
        1,
    );
    node.launch_text(&text).await;
    assert_eq!(node.kubelet().get("/version").await.status, 200, "with the files");
    let pair = node.api.pki().server(&[]);
    node.api.put(secret_of("serving", &pair));
    eventually("the Secret's pair is served", || async {
        status(&node, CertificateKind::Serving, "serving").fingerprint == fingerprint_of(&pair)
    })
    .await;
    assert_eq!(node.kubelet().get("/version").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn authorities_of_a_config_map_are_added_to_those_of_the_file() {
    let mut node = Node::start().await;
    node.stop().await;
    let other = Pki::named("other");
    let moved = Standin::start(Options {
        pki: Some(node.api.pki().clone()),
        serving: Some(other.server(&[])),
        ..Options::default()
    });
    let plain = node.config_text();
    let from = "caConfigMapRef: {namespace: default, name: kube-root-ca.crt, client: \"system:node:edge-1\"}";
    let text = plain.replace("  connectTimeout", &format!("  {from}\n  connectTimeout"));
    let towards = |text: &str| text.replace(&node.api.addr().to_string(), &moved.addr().to_string());
    let (plain, there) = (towards(&plain), towards(&text));

    node.launch_text(&plain).await;
    assert_ne!(
        node.kubelet().get("/version").await.status,
        200,
        "the file alone does not do"
    );
    node.stop().await;
    node.launch_text(&text).await;
    let before = status(&node, CertificateKind::UpstreamCa, "upstream-ca").fingerprint;
    node.api.put(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "default", "name": "kube-root-ca.crt"},
        "data": {"ca.crt": format!("{}{}", node.api.ca_pem(), other.ca_pem())}}));
    eventually("the bundle has grown", || async {
        status(&node, CertificateKind::UpstreamCa, "upstream-ca").fingerprint != before
    })
    .await;
    assert_eq!(
        node.kubelet().get("/version").await.status,
        200,
        "the old authority is still good"
    );
    node.stop().await;
    node.launch_text(&there).await;
    eventually("the cloud with the new authority answers", || async {
        node.kubelet().get("/version").await.status == 200
    })
    .await;
}
