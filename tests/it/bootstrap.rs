//! A node that joins through edgehold: no client certificate anywhere yet, kubelet comes with a bootstrap token.

use std::time::Duration;

use apiserver_standin::{Rbac, Rule, Subject, Validity};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use edgehold::runtime::clock;
use edgehold::tls::{RequestKey, RequestSubject};
use serde_json::{Value, json};

use crate::support::{KUBELET, Node, Setup, eventually, version};

const PATH: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const TOKEN: &str = "07401b.f395accd246ae52d";
const USER: &str = "system:bootstrap:07401b";

/// A node whose kubelet has no certificate, in a cluster that lets bootstrappers ask for one and nothing else.
async fn new_node() -> Node {
    let mut node = Node::with(Default::default(), Setup::default()).await;
    node.stop().await;
    for name in ["kubelet.crt", "kubelet.key", "kube-proxy.crt", "kube-proxy.key"] {
        let path = node.dir.path().join(name);
        #[allow(clippy::disallowed_methods)] // a test's own files
        std::fs::remove_file(path).unwrap();
    }
    let group = "system:bootstrappers";
    node.api.add_token(TOKEN, USER, &[group]);
    let asks = Rule::allow(
        Subject::Group(group.into()),
        &["create", "get", "list", "watch"],
        &["certificatesigningrequests"],
    );
    let works = Rule::allow(Subject::User(KUBELET.into()), &["get"], &["nodes"]);
    node.api.set_rbac(Rbac::deny_all().with(asks).with(works));
    node.launch().await;
    node
}

fn order(key: &RequestKey) -> Value {
    let subject = RequestSubject {
        common_name: KUBELET.to_owned(),
        organization: Some("system:nodes".to_owned()),
        names: Default::default(),
    };
    let request = key.request(&subject).unwrap();
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "node-csr-1"},
        "spec": {"request": STANDARD.encode(request), "signerName": "kubernetes.io/kube-apiserver-client-kubelet",
            "usages": ["digital signature", "client auth"]}})
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_joins_with_a_bootstrap_token_and_is_itself_as_soon_as_its_pair_is_there() {
    let node = new_node().await;
    let kubelet = node.token_client(TOKEN);
    let key = RequestKey::generate().unwrap();

    // As kubelet's certificate manager does: create, watch by name, read the certificate.
    // As long as it takes: on a busy machine the first probe may fail, and kubelet tries again too.
    eventually("the request is there", || async {
        let created = kubelet.send("POST", PATH, order(&key).to_string()).await.unwrap();
        matches!(created.status, 201 | 409)
    })
    .await;
    let seen = node
        .api
        .wait_for(|seen| seen.method == "POST" && seen.path() == PATH)
        .await;
    assert_eq!((seen.user.as_deref(), seen.peer_cn), (Some(USER), None));
    let version = version(&kubelet.get(&format!("{PATH}/node-csr-1")).await.json());
    let watch =
        format!("{PATH}?watch=true&fieldSelector=metadata.name%3Dnode-csr-1&resourceVersion={version}");
    let mut connection = kubelet.connect().await.unwrap();
    let mut events = connection.lines(&watch).await.unwrap();

    let issued = node.api.pki().client(Some(KUBELET), &["system:nodes"]);
    node.api.approve_csr("node-csr-1", Validity::GOOD);
    let event = events.next().await.unwrap().unwrap();
    assert_eq!(event["type"], "MODIFIED");
    assert!(event["object"]["status"]["certificate"].is_string(), "{event}");
    let read = kubelet.get(&format!("{PATH}/node-csr-1")).await;
    assert_eq!(read.status, 200);
    let forbidden = kubelet.get("/api/v1/nodes/edge-1").await;
    assert_eq!(
        forbidden.status, 403,
        "a bootstrap token may do no more than the cluster lets it"
    );

    // kubelet writes its pair and speaks with it from now on.
    node.api
        .put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-1"}}));
    issued.write_to(node.dir.path(), "kubelet");
    let written = clock::now();
    let itself = node.client(Some(&issued));
    eventually("kubelet speaks as itself", || async {
        itself.get("/api/v1/nodes/edge-1").await.status == 200
    })
    .await;
    let took = written.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    let seen = node
        .api
        .wait_for(|seen| seen.path() == "/api/v1/nodes/edge-1" && seen.peer_cn.is_some())
        .await;
    assert_eq!(seen.peer_cn.as_deref(), Some(KUBELET));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_serving_certificate_is_asked_for_as_soon_as_kubelet_has_joined() {
    let mut node = new_node().await;
    node.stop().await;
    let ca = format!("clientCAFile: {}", node.dir.path().join("ca.crt").display());
    let csr = format!("{ca}, csr: {{client: \"{KUBELET}\"}}");
    let asks = Rule::allow(
        Subject::User(KUBELET.into()),
        &["create", "get"],
        &["certificatesigningrequests"],
    );
    node.api.set_rbac(Rbac::deny_all().with(asks));
    let text = node.config_text().replacen(&ca, &csr, 1);
    node.launch_text(&text).await;
    assert!(
        node.api.list("CertificateSigningRequest", "").is_empty(),
        "there is nobody to ask as"
    );
    let pair = node.api.pki().client(Some(KUBELET), &["system:nodes"]);
    pair.write_to(node.dir.path(), "kubelet");
    eventually("the request", || async {
        !node.api.list("CertificateSigningRequest", "").is_empty()
    })
    .await;
}
