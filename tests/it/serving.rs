//! The serving certificate by CertificateSigningRequest: asked for, approved, kept, renewed, refused.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use apiserver_standin::{Options, Pki, Rbac, Rule, Subject, Validity};
use edgehold::tls::{AltName, ServingLeaf};
use serde_json::{Value, json};

use crate::support::{KUBELET, Node, Setup, eventually, tls};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// A node that asks its cluster for the serving certificate; `files`: it has one from files until then.
async fn node(files: Files) -> (Node, String) {
    let mut node = Node::with(Options::default(), Setup::default()).await;
    node.stop().await;
    node.api.put(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "kubernetes"},
        "spec": {"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"]}}));
    let text = config(&node, files);
    node.launch_text(&text).await;
    (node, text)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Files {
    Absent,
    Given,
}

fn config(node: &Node, files: Files) -> String {
    let text = node.config_text();
    let csr = format!(
        "clientCAFile: {}, csr: {{client: \"{KUBELET}\"}}",
        node.dir.path().join("ca.crt").display()
    );
    let ca = format!("clientCAFile: {}", node.dir.path().join("ca.crt").display());
    let text = text.replacen(&ca, &csr, 1);
    if files == Files::Given {
        return text;
    }
    let (start, rest) = text.split_once("{certFile: ").unwrap();
    let (_, end) = rest.split_once("clientCAFile").unwrap();
    format!("{start}{{clientCAFile{end}")
}

fn folder(node: &Node) -> PathBuf {
    node.cache_dir().join("serving")
}

fn current(node: &Node) -> Option<ServingLeaf> {
    ServingLeaf::load(&folder(node).join("serving-current.pem")).ok()
}

fn names(names: &[&str]) -> BTreeSet<AltName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// The names of all requests that the cluster has.
fn requests(node: &Node) -> BTreeSet<String> {
    let all = node.api.list("CertificateSigningRequest", "");
    all.iter()
        .map(|csr| csr["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The name of a request that is none of `known`, when it is there.
async fn new_request(node: &Node, known: &BTreeSet<String>) -> String {
    let found = || requests(node).difference(known).next().cloned();
    eventually("another request", || async { found().is_some() }).await;
    found().unwrap()
}

fn counted(node: &Node, outcome: &str) -> u64 {
    let metrics = node.running().metrics_text().unwrap();
    let line = format!("edgehold_serving_csr_total{{outcome=\"{outcome}\"}} ");
    let count = metrics.lines().find_map(|text| text.strip_prefix(&line));
    count.map_or(0, |count| count.parse().unwrap())
}

/// SHA-256 of the leaf that a new connection is shown, if there is one.
async fn shown(node: &Node) -> Option<String> {
    let address = node.running().addresses()[0];
    let ca = node.api.ca_pem().to_owned();
    // A connection that is closed before the handshake fails the task.
    #[allow(clippy::disallowed_methods)]
    let shaken = tokio::spawn(async move { tls(address, &ca, None, "h2").await })
        .await
        .ok()?;
    let leaf = shaken.get_ref().1.peer_certificates()?[0].clone();
    Some(edgehold::tls::CertificateInfo::parse(&leaf).unwrap().fingerprint)
}

async fn serves_issued(node: &Node) {
    eventually("the issued certificate is shown", || async {
        let issued = current(node).map(|leaf| leaf.info.fingerprint);
        issued.is_some() && shown(node).await == issued
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_certificate_serves_from_the_moment_its_request_is_approved() {
    let (mut node, text) = node(Files::Absent).await;
    let name = new_request(&node, &BTreeSet::new()).await;
    assert!(name.starts_with("edgehold-serving-edge-1-"), "{name}");
    assert_eq!(shown(&node).await, None, "nothing is made up meanwhile");
    let csr = node.api.get("CertificateSigningRequest", "", &name).unwrap();
    assert_eq!(csr["spec"]["signerName"], "kubernetes.io/kubelet-serving");
    assert_eq!(csr["spec"]["usages"], json!(["digital signature", "server auth"]));
    let seen = node
        .api
        .wait_for(|seen| seen.method == "POST" && seen.path() == PATH)
        .await;
    assert_eq!(seen.peer_cn.as_deref(), Some(KUBELET));
    let key = folder(&node).join("serving-pending.key");
    assert_eq!(
        std::fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );

    node.api.approve_csr(&name, Validity::GOOD);
    serves_issued(&node).await;
    let leaf = current(&node).unwrap();
    assert_eq!(
        leaf.names,
        names(&[
            "127.0.0.1",
            "10.96.0.1",
            "fd00:96::1",
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ])
    );
    assert_eq!(leaf.info.common_name.as_deref(), Some(KUBELET));
    let file = folder(&node).join("serving-current.pem");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(!key.exists(), "the key is in one place");
    eventually("it is counted", || async { counted(&node, "issued") == 1 }).await;

    // A start without the cloud serves with it, and nobody asks for another.
    assert_eq!(node.kubelet().get("/version").await.status, 200);
    node.cut().await;
    node.stop().await;
    node.launch_text(&text).await;
    assert_eq!(shown(&node).await, Some(leaf.info.fingerprint));
    node.heal().await;
    let service = "/api/v1/namespaces/default/services/kubernetes";
    eventually("the ClusterIP is read again", || async {
        node.asked("GET", service) >= 2
    })
    .await;
    assert_eq!(requests(&node).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_under_way_is_found_again_after_a_restart() {
    let (mut node, text) = node(Files::Absent).await;
    let name = new_request(&node, &BTreeSet::new()).await;
    node.stop().await;
    node.api.approve_csr(&name, Validity::GOOD);
    node.launch_text(&text).await;
    serves_issued(&node).await;
    assert_eq!(requests(&node), BTreeSet::from([name]), "it was not asked twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_due_certificate_serves_on_until_its_successor_is_there() {
    let (mut node, text) = node(Files::Absent).await;
    let first = new_request(&node, &BTreeSet::new()).await;
    // More than nine tenths of its life are over.
    node.api.approve_csr(&first, Validity::for_seconds(300));
    serves_issued(&node).await;
    let old = shown(&node).await;
    node.stop().await;
    node.launch_text(&text).await;
    let second = new_request(&node, &BTreeSet::from([first])).await;
    assert_eq!(shown(&node).await, old);
    node.api.approve_csr(&second, Validity::GOOD);
    eventually("the successor", || async { shown(&node).await != old }).await;
    serves_issued(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_listen_address_asks_for_a_certificate_that_has_it() {
    let (mut node, text) = node(Files::Absent).await;
    let first = new_request(&node, &BTreeSet::new()).await;
    node.api.approve_csr(&first, Validity::GOOD);
    serves_issued(&node).await;
    node.stop().await;
    let text = text.replace("[\"127.0.0.1:0\"]", "[\"127.0.0.1:0\", \"127.0.0.2:0\"]");
    node.launch_text(&text).await;
    let second = new_request(&node, &BTreeSet::from([first])).await;
    node.api.approve_csr(&second, Validity::GOOD);
    eventually("a certificate for both", || async {
        current(&node).is_some_and(|leaf| leaf.names.is_superset(&names(&["127.0.0.1", "127.0.0.2"])))
    })
    .await;
    serves_issued(&node).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_request_is_counted_and_the_files_serve_on() {
    let (node, _) = node(Files::Given).await;
    let name = new_request(&node, &BTreeSet::new()).await;
    assert!(shown(&node).await.is_some(), "from the files");
    node.api.deny_csr(&name, "not this node");
    eventually("the denial is counted", || async {
        counted(&node, "denied") == 1
    })
    .await;
    eventually("the key is given up", || async {
        !folder(&node).join("serving-pending.key").exists()
    })
    .await;
    assert_eq!(node.kubelet().get("/version").await.status, 200);
    assert_eq!(
        requests(&node).len(),
        1,
        "a person decided: not asked again at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issued_certificate_takes_over_from_the_files() {
    let (node, _) = node(Files::Given).await;
    let name = new_request(&node, &BTreeSet::new()).await;
    node.api.approve_csr(&name, Validity::GOOD);
    serves_issued(&node).await;
    assert_eq!(node.kubelet().get("/version").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_for_another_key_is_not_taken() {
    let (node, _) = node(Files::Given).await;
    let before = shown(&node).await;
    let name = new_request(&node, &BTreeSet::new()).await;
    node.api.issue_csr(&name, &Pki::new().server(&[]).cert_pem);
    eventually("it is counted", || async { counted(&node, "unusable") == 1 }).await;
    assert!(current(&node).is_none());
    assert_eq!(shown(&node).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_signer_refuses_is_counted_as_failed() {
    let (mut node, text) = node(Files::Given).await;
    node.stop().await;
    let known = requests(&node);
    let text = text.replace("csr: {", "csr: {usages: [\"server auth\", \"client auth\"], ");
    node.launch_text(&text).await;
    let name = new_request(&node, &known).await;
    node.api.approve_csr(&name, Validity::GOOD);
    eventually("it is counted", || async { counted(&node, "failed") == 1 }).await;
    assert!(shown(&node).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_may_not_ask_says_so_and_one_that_may_not_read_the_service_does_without() {
    let (mut node, text) = node(Files::Given).await;
    node.stop().await;
    let known = requests(&node);
    let kubelet = || Subject::User(KUBELET.into());
    node.api.set_rbac(Rbac::deny_all());
    node.launch_text(&text.replace("csr: {", "csr: {names: [edge-1.example], "))
        .await;
    eventually("the refusal is counted", || async {
        counted(&node, "refused") > 0
    })
    .await;
    assert!(shown(&node).await.is_some(), "edgehold serves all the same");

    let rule = Rule::allow(kubelet(), &["create", "get"], &["certificatesigningrequests"]);
    node.api.set_rbac(Rbac::deny_all().with(rule));
    let name = new_request(&node, &known).await;
    node.api.approve_csr(&name, Validity::GOOD);
    serves_issued(&node).await;
    let issued = current(&node).unwrap().names;
    assert!(
        issued.is_superset(&names(&["127.0.0.1", "kubernetes", "edge-1.example"])),
        "{issued:?}"
    );
    assert!(issued.is_disjoint(&names(&["10.96.0.1"])), "{issued:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_removed_is_sent_again() {
    let (node, _) = node(Files::Absent).await;
    let name = new_request(&node, &BTreeSet::new()).await;
    let first: Value = node.api.delete("CertificateSigningRequest", "", &name).unwrap();
    let uid = |csr: &Value| csr["metadata"]["uid"].clone();
    eventually("another object of that name", || async {
        let again = node.api.get("CertificateSigningRequest", "", &name);
        again.is_some_and(|again| uid(&again) != uid(&first))
    })
    .await;
    node.api.approve_csr(&name, Validity::GOOD);
    serves_issued(&node).await;
}
