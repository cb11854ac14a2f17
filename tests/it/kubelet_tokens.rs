//! Tokens for the pods of a node, as kubelet asks for them: online from the cloud, offline what the cloud has issued.

use apiserver_standin::{Answer, Client, Fault, Rbac, Rule, Subject};
use serde_json::{Value, json};

use crate::support::{HIT, KUBELET, Node, PROTOBUF, PROTOCOLS, STALE, is_on_disk};

const TOKEN: &str = "/api/v1/namespaces/shop/serviceaccounts/default/token";
const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1";

/// A node with one pod of the service account `shop/default`, whose UID it gives.
async fn node() -> (Node, String) {
    let node = Node::start().await;
    node.api
        .put(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"namespace": "shop", "name": "default"}}));
    let uid = put_pod(&node, "web-0");
    assert_eq!(kubelet(&node, PROTOBUF).get(PODS).await.status, 200);
    (node, uid)
}

fn put_pod(node: &Node, name: &str) -> String {
    let pod = node.api.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name}, "spec": {"nodeName": "edge-1"}}));
    pod["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn kubelet(node: &Node, accept: &str) -> Client {
    node.kubelet().header("accept", accept)
}

fn request(pod: &str, uid: &str) -> Value {
    json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": {}, "spec": {
        "audiences": null, "expirationSeconds": 3607,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}}})
}

async fn post_json(client: Client, body: &Value) -> Answer {
    let client = client.header("content-type", "application/json");
    client.send("POST", TOKEN, body.to_string()).await.unwrap()
}

/// kubelet's own request: protobuf, in the order of the real serializer.
fn protobuf_request(pod: &str, uid: &str) -> Vec<u8> {
    let field =
        |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    let reference = [
        field(1, b"Pod"),
        field(2, b"v1"),
        field(3, pod.as_bytes()),
        field(4, uid.as_bytes()),
    ]
    .concat();
    let spec = [field(3, &reference), vec![0x20, 0x97, 0x1c]].concat();
    let metadata = [
        field(1, b""),
        field(2, b""),
        field(3, b""),
        field(5, b""),
        field(6, b""),
        vec![0x38, 0],
        field(8, b""),
    ];
    let status = [field(1, b""), field(2, b"")].concat();
    let message = [field(1, &metadata.concat()), field(2, &spec), field(3, &status)].concat();
    let types = [field(1, b"authentication.k8s.io/v1"), field(2, b"TokenRequest")].concat();
    [
        b"k8s\0".to_vec(),
        field(1, &types),
        field(2, &message),
        vec![0x1a, 0, 0x22, 0],
    ]
    .concat()
}

async fn post_protobuf(client: Client, pod: &str, uid: &str) -> Answer {
    let client = client.header("content-type", PROTOBUF);
    client
        .send("POST", TOKEN, protobuf_request(pod, uid))
        .await
        .unwrap()
}

fn assert_refused(answer: &Answer, what: &str) {
    assert_eq!(
        (
            answer.status,
            answer.header("retry-after"),
            answer.header("cache-status")
        ),
        (503, "", ""),
        "{what}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_pod_survives_a_reboot_without_the_cloud_on_both_protocols() {
    for protocol in PROTOCOLS {
        let (mut node, uid) = node().await;
        let client = |node: &Node| kubelet(node, &format!("{PROTOBUF},application/json")).protocol(protocol);
        let online = post_protobuf(client(&node), "web-0", &uid).await;
        assert_eq!((online.status, online.header("cache-status")), (201, ""));

        node.cut().await;
        let offline = post_protobuf(client(&node), "web-0", &uid).await;
        assert_eq!((offline.status, offline.header("cache-status")), (201, HIT));
        assert_eq!(offline.header("content-type"), PROTOBUF);
        assert_eq!(offline.body, online.body, "the very bytes of the cloud");

        node.restart().await;
        node.wait_link(edgehold::upstream::LinkState::Offline).await;
        let rebooted = post_protobuf(client(&node), "web-0", &uid).await;
        assert_eq!((rebooted.status, rebooted.body), (201, online.body));

        node.heal().await;
        let asked = node.asked("POST", TOKEN);
        let renewed = post_protobuf(client(&node), "web-0", &uid).await;
        assert_eq!((renewed.status, renewed.header("cache-status")), (201, ""));
        assert_eq!(node.asked("POST", TOKEN), asked + 1, "online the cloud is asked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_answered_before_or_not_to_this_client_is_503_at_once() {
    let (node, uid) = node().await;
    let other = put_pod(&node, "web-1");
    assert_eq!(kubelet(&node, PROTOBUF).get(PODS).await.status, 200);
    let json = || kubelet(&node, "application/json");
    assert_eq!(post_json(json(), &request("web-0", &uid)).await.status, 201);
    node.cut().await;
    assert_eq!(post_json(json(), &request("web-0", &uid)).await.status, 201);

    assert_refused(&post_json(json(), &request("web-1", &other)).await, "another pod");
    assert_refused(&post_json(json(), &request("web-0", &other)).await, "another UID");
    let mut vault = request("web-0", &uid);
    vault["spec"]["audiences"] = json!(["vault"]);
    assert_refused(&post_json(json(), &vault).await, "another audience");
    let protobuf = post_protobuf(kubelet(&node, PROTOBUF), "web-0", &uid).await;
    assert_refused(&protobuf, "another encoding");
    let proxy = node
        .client(Some(&node.pair("kube-proxy")))
        .header("accept", "application/json");
    assert_refused(&post_json(proxy, &request("web-0", &uid)).await, "another client");
    let nobody = node.client(None).header("accept", "application/json");
    assert_refused(&post_json(nobody, &request("web-0", &uid)).await, "nobody");
    let impersonating = json().header("impersonate-user", KUBELET);
    assert_refused(
        &post_json(impersonating, &request("web-0", &uid)).await,
        "impersonation",
    );
    let plain = json().header("content-type", "application/json");
    for path in [
        format!("{TOKEN}?dryRun=All"),
        TOKEN.replace("/default/", "//default/"),
        format!("{TOKEN}/"),
    ] {
        let answer = plain
            .send("POST", &path, request("web-0", &uid).to_string())
            .await
            .unwrap();
        assert_refused(&answer, &path);
    }
    let put = plain
        .send("PUT", TOKEN, request("web-0", &uid).to_string())
        .await
        .unwrap();
    assert_refused(&put, "another method");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spec_in_json_and_in_protobuf_is_one_request() {
    let (node, uid) = node().await;
    let online = post_json(kubelet(&node, PROTOBUF), &request("web-0", &uid)).await;
    assert_eq!(online.status, 201);
    node.cut().await;
    let offline = post_protobuf(kubelet(&node, PROTOBUF), "web-0", &uid).await;
    assert_eq!((offline.status, offline.body), (201, online.body));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_goes_with_its_pod_and_with_a_refusal() {
    let (node, uid) = node().await;
    let leaving = put_pod(&node, "web-1");
    let list = || async { assert_eq!(kubelet(&node, PROTOBUF).get(PODS).await.status, 200) };
    list().await;
    let json = || kubelet(&node, "application/json");
    for (pod, uid) in [("web-0", &uid), ("web-1", &leaving)] {
        assert_eq!(post_json(json(), &request(pod, uid)).await.status, 201);
    }
    node.api.delete("Pod", "shop", "web-1");
    list().await;
    node.cut().await;
    assert_refused(
        &post_json(json(), &request("web-1", &leaving)).await,
        "a pod that left",
    );
    assert_eq!(post_json(json(), &request("web-0", &uid)).await.status, 201);

    node.heal().await;
    node.api
        .set_rbac(Rbac::deny_all().with(Rule::allow(Subject::Everyone, &["get", "list"], &["pods"])));
    assert_eq!(post_json(json(), &request("web-0", &uid)).await.status, 403);
    node.cut().await;
    assert_refused(
        &post_json(json(), &request("web-0", &uid)).await,
        "refused before the outage",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_refusal_takes_nothing_back_and_no_token_is_plain_on_disk() {
    let (node, uid) = node().await;
    let json = || kubelet(&node, "application/json");
    let online = post_json(json(), &request("web-0", &uid)).await;
    node.api.fault(Fault::GatewayPage(404).on(TOKEN).times(1));
    // No apiserver has said so: it gets what an apiserver said.
    let again = post_json(json(), &request("web-0", &uid)).await;
    assert_eq!(
        (again.status, again.header("cache-status"), &again.body),
        (201, STALE, &online.body)
    );
    node.cut().await;
    let offline = post_json(json(), &request("web-0", &uid)).await;
    assert_eq!((offline.status, &offline.body), (201, &online.body));
    let token = online.json()["status"]["token"].as_str().unwrap().to_owned();
    for part in token.split('.') {
        assert!(!is_on_disk(&node.cache_dir(), part));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_too_large_to_be_kept_still_reaches_the_cloud() {
    let (node, uid) = node().await;
    let mut large = request("web-0", &uid);
    large["metadata"]["annotations"] = json!({"filler": "x".repeat(100 << 10)});
    let online = post_json(kubelet(&node, "application/json"), &large).await;
    assert_eq!(online.status, 201);
    node.cut().await;
    assert_refused(
        &post_json(kubelet(&node, "application/json"), &large).await,
        "too large to be kept",
    );
}
