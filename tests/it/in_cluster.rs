//! What clients of a node see of `default/kubernetes`: online, offline, after an offline restart, in watches.

use apiserver_standin::{Answer, Client, Lines, Options};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, HIT, METADATA, Node, PROTOBUF, PROTOCOLS, Setup, TABLE, ends_initial, event, eventually,
    is_on_disk, offline_list, version, watch_from, watch_list,
};
use crate::websocket::Watch;

const OURS: &str = "169.254.20.11";
const THEIRS: &str = "10.255.255.1";
const CLUSTER_IP: &str = "10.96.0.1";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
const SERVICES: &str = "/api/v1/services";
const SERVICE: &str = "/api/v1/namespaces/default/services/kubernetes";
const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";

fn setup() -> Setup {
    Setup {
        in_cluster: Some(
            "{address: \"169.254.20.11:51003\", serviceFor: [\"system:node:edge-1\"], endpointsFor: \
             [\"system:kube-proxy\", \"system:serviceaccount:kube-system:coredns\"]}",
        ),
        ..Setup::default()
    }
}

/// The endpoints of the apiserver as it writes them; `trace` makes one version differ from the next.
fn slice(name: &str, service: &str, trace: &str) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": service}, "annotations": {"trace": trace}},
        "addressType": "IPv4", "endpoints": [{"addresses": [THEIRS], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "protocol": "TCP", "port": 6443}]})
}

async fn node() -> Node {
    let node = Node::with(Options::default(), setup()).await;
    node.api.put(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": "kubernetes"},
        "spec": {"clusterIP": CLUSTER_IP, "clusterIPs": [CLUSTER_IP], "ipFamilies": ["IPv4"], "type": "ClusterIP",
            "ports": [{"name": "https", "protocol": "TCP", "port": 443, "targetPort": 6443}]}}));
    node.api.put(json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"namespace": "default", "name": "kubernetes"},
        "subsets": [{"addresses": [{"ip": THEIRS}], "ports": [{"name": "https", "port": 6443, "protocol": "TCP"}]}]}));
    node.api.put(slice("kubernetes", "kubernetes", "1"));
    node.api.put(slice("web", "web", "1"));
    node
}

fn kube_proxy(node: &Node) -> Client {
    node.client(Some(&node.pair("kube-proxy")))
}

fn in_protobuf(client: Client) -> Client {
    client.header("accept", PROTOBUF)
}

/// A text as protobuf writes it: behind its length.
fn is_in(body: &[u8], text: &str) -> bool {
    let needle = [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    body.windows(needle.len()).any(|part| part == needle)
}

/// The slice of an answer or event has our endpoint and nothing else.
#[track_caller]
fn assert_ours(slice: &Value) {
    let (endpoints, ports) = (&slice["endpoints"], &slice["ports"]);
    assert_eq!(
        *endpoints,
        json!([{"addresses": [OURS], "conditions": {"ready": true}}]),
        "{slice}"
    );
    assert_eq!(
        *ports,
        json!([{"name": "https", "protocol": "TCP", "port": 51003}])
    );
}

/// Both slices of a list: the one of `kubernetes` is ours, the other as it was.
#[track_caller]
fn assert_list(list: &Answer) {
    let list = list.json();
    assert_ours(&list["items"][0]);
    assert_eq!(list["items"][1]["endpoints"][0]["addresses"], json!([THEIRS]));
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_proxy_sees_only_the_local_endpoint_online_offline_and_after_a_restart() {
    let mut node = node().await;
    let online = kube_proxy(&node).get(SLICES).await;
    assert_list(&online);
    assert_ours(&kube_proxy(&node).get(SLICE).await.json());
    let endpoints = kube_proxy(&node).get(ENDPOINTS).await.json();
    assert_eq!(
        endpoints["subsets"],
        json!([{"addresses": [{"ip": OURS}], "ports": [{"name": "https", "port": 51003, "protocol": "TCP"}]}])
    );
    let truth = node.direct().get(SLICES).await;
    assert_eq!(
        node.kubelet().get(SLICES).await.body,
        truth.body,
        "another client sees the original"
    );

    node.cut().await;
    offline_list(&kube_proxy(&node), SLICES).await;
    for restarts in 0..2 {
        let cached = kube_proxy(&node).get(SLICES).await;
        assert_eq!(cached.header("cache-status"), HIT);
        assert_eq!(cached.body, online.body, "after {restarts} restarts");
        assert_ours(&kube_proxy(&node).get(SLICE).await.json());
        assert_eq!(
            kube_proxy(&node).get(ENDPOINTS).await.json()["subsets"],
            endpoints["subsets"]
        );
        assert_eq!(node.kubelet().get(SLICES).await.body, truth.body);
        assert!(is_on_disk(&node.cache_dir(), THEIRS) && !is_on_disk(&node.cache_dir(), OURS));
        node.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_the_local_endpoint_before_during_and_after_an_outage() {
    let node = node().await;
    let mut connection = kube_proxy(&node).connect().await.unwrap();
    let mut watch = connection.lines(&watch_list(SLICES)).await.unwrap();
    let own = initial(&mut watch).await;
    assert_ours(&own["object"]);
    node.api.put(slice("kubernetes", "kubernetes", "2"));
    let modified = event(&mut watch).await;
    assert_eq!(
        (
            &modified["type"],
            &modified["object"]["metadata"]["annotations"]["trace"]
        ),
        (&json!("MODIFIED"), &json!("2"))
    );
    assert_ours(&modified["object"]);

    node.cut().await;
    let mut other = kube_proxy(&node).connect().await.unwrap();
    let mut held = other.lines(&watch_list(SLICES)).await.unwrap();
    assert_eq!(held.response.headers()["cache-status"], HIT);
    assert_eq!(
        initial(&mut held).await["object"],
        modified["object"],
        "from the cache as from the cloud"
    );

    node.api.put(slice("kubernetes", "kubernetes", "3"));
    node.heal().await;
    for watch in [&mut watch, &mut held] {
        let resumed = event(watch).await;
        assert_eq!(resumed["object"]["metadata"]["annotations"]["trace"], "3");
        assert_ours(&resumed["object"]);
    }
    node.api.delete("EndpointSlice", "default", "kubernetes");
    let deleted = event(&mut watch).await;
    assert_eq!(deleted["type"], "DELETED");
    assert_ours(&deleted["object"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_over_websocket_shows_it_too() {
    let node = node().await;
    let mut watch = Watch::open(kube_proxy(&node), &watch_list(SLICES)).await;
    assert_ours(&watch.event().await["object"]);
    let other = watch.event().await;
    assert_eq!(other["object"]["endpoints"][0]["addresses"], json!([THEIRS]));
}

/// The initial event of `kubernetes`, once all initial events have come.
async fn initial(watch: &mut Lines) -> Value {
    let own = event(watch).await;
    assert_eq!(own["object"]["metadata"]["name"], "kubernetes");
    assert_eq!(
        event(watch).await["object"]["endpoints"][0]["addresses"],
        json!([THEIRS])
    );
    assert!(ends_initial(&event(watch).await));
    own
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_clients_see_it_too() {
    let mut node = node().await;
    let proxy = |node: &Node| in_protobuf(kube_proxy(node));
    let targets = [SLICE, ENDPOINTS];
    let mut online = Vec::new();
    for target in targets {
        let answer = proxy(&node).get(target).await;
        assert_eq!(answer.header("content-type"), PROTOBUF);
        assert!(
            is_in(&answer.body, OURS) && !is_in(&answer.body, THEIRS),
            "{target}"
        );
        online.push(answer.body);
    }
    let list = proxy(&node).get(SLICES).await;
    assert!(
        is_in(&list.body, OURS) && is_in(&list.body, THEIRS),
        "the other slice stays"
    );
    let truth = in_protobuf(node.direct()).get(SLICE).await;
    assert!(is_in(&truth.body, THEIRS));
    let kubelet = in_protobuf(node.kubelet()).get(SERVICE).await;
    assert!(is_in(&kubelet.body, OURS) && !is_in(&kubelet.body, CLUSTER_IP));

    let mut connection = proxy(&node).connect().await.unwrap();
    let by_name = format!("{SLICES}?fieldSelector=metadata.name%3Dkubernetes");
    let mut watch = connection.open("GET", &watch_list(&by_name), "").await.unwrap();
    let first = frames(&mut watch, 2).await;
    assert!(is_in(&first[0], OURS) && !is_in(&first[0], THEIRS));

    node.cut().await;
    node.restart().await;
    for (target, online) in targets.iter().zip(online) {
        assert_eq!(proxy(&node).get(target).await.body, online);
    }
    assert_eq!(proxy(&node).get(SLICES).await.body, list.body);
    let mut connection = proxy(&node).connect().await.unwrap();
    let mut held = connection.open("GET", &watch_list(&by_name), "").await.unwrap();
    assert_eq!(held.headers()["cache-status"], HIT);
    assert_eq!(frames(&mut held, 2).await[0], first[0]);
}

/// The next frames of a protobuf watch.
async fn frames(watch: &mut http::Response<hyper::body::Incoming>, count: usize) -> Vec<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut found = Vec::new();
    while found.len() < count {
        if let Some(length) = bytes.first_chunk::<4>() {
            let end = 4 + u32::from_be_bytes(*length) as usize;
            if bytes.len() >= end {
                found.push(bytes.drain(..end).collect());
                continue;
            }
        }
        let frame = tokio::time::timeout(DEADLINE, watch.body_mut().frame());
        let frame = frame.await.expect("in time").expect("not the end").unwrap();
        bytes.extend_from_slice(&frame.into_data().unwrap());
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn kubelet_gives_pods_the_local_host_and_port() {
    let mut node = node().await;
    let online = node.kubelet().get(SERVICE).await.json();
    assert_eq!(online["spec"]["clusterIP"], OURS);
    assert_eq!(online["spec"]["clusterIPs"], json!([OURS]));
    assert_eq!(
        online["spec"]["ports"],
        json!([{"name": "https", "protocol": "TCP", "port": 51003, "targetPort": 6443}])
    );
    assert_eq!(
        version(&online),
        version(&node.direct().get(SERVICE).await.json())
    );
    let list = node.kubelet().get(SERVICES).await;
    assert_eq!(
        kube_proxy(&node).get(SERVICE).await.json()["spec"]["clusterIP"],
        CLUSTER_IP
    );

    node.cut().await;
    node.restart().await;
    assert_eq!(node.kubelet().get(SERVICE).await.json(), online);
    assert_eq!(node.kubelet().get(SERVICES).await.body, list.body);
    assert_eq!(list.json()["items"][0]["spec"], online["spec"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_is_known_by_its_token() {
    let mut node = node().await;
    let coredns = node.api.service_account_token("kube-system", "coredns");
    let other = node.api.service_account_token("kube-system", "other");
    let online = node.token_client(&coredns).get(SLICES).await;
    assert_list(&online);
    assert_eq!(
        node.token_client(&other).get(SLICES).await.body,
        node.direct().get(SLICES).await.body
    );
    node.cut().await;
    node.restart().await;
    assert_eq!(node.token_client(&coredns).get(SLICES).await.body, online.body);
    assert_eq!(
        node.token_client(&other).get(SLICES).await.json()["items"][0]["endpoints"][0]["addresses"],
        json!([THEIRS])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_paged_and_fixed_length_answers_are_rewritten() {
    let node = Node::with(
        Options {
            gzip_above: 16,
            ..Options::default()
        },
        setup(),
    )
    .await;
    node.api.put(slice("kubernetes", "kubernetes", &"x".repeat(4000)));
    node.api.put(slice("web", "web", "1"));
    for protocol in PROTOCOLS {
        let client = kube_proxy(&node)
            .protocol(protocol)
            .header("accept-encoding", "gzip");
        let list = client.get(SLICES).await;
        assert_eq!((list.status, list.header("content-encoding")), (200, ""));
        assert_list(&list);
        assert_ours(&client.get(SLICE).await.json());
        let head = client.send("HEAD", SLICE, "").await.unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0));
        let page = client.get(&format!("{SLICES}?limit=1")).await.json();
        assert_ours(&page["items"][0]);
        let token = page["metadata"]["continue"].as_str().unwrap();
        let next = client
            .get(&format!("{SLICES}?limit=1&continue={token}"))
            .await
            .json();
        assert_eq!(next["items"][0]["endpoints"][0]["addresses"], json!([THEIRS]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_metadata_and_errors_pass_as_they_are() {
    let node = node().await;
    for accept in [TABLE, METADATA, "application/yaml"] {
        // Tables say how old an object is: a second may begin between the two.
        eventually(accept, || async {
            let through = kube_proxy(&node).header("accept", accept).get(SLICES).await;
            let direct = node.direct().header("accept", accept).get(SLICES).await;
            (through.status, through.body) == (direct.status, direct.body)
        })
        .await;
    }
    let missing = kube_proxy(&node).get(&SLICE.replace("kubernetes", "none")).await;
    assert_eq!(
        (missing.status, missing.json()["kind"].clone()),
        (404, json!("Status"))
    );
}

/// How many objects of a kind had this outcome so far.
fn counted(node: &Node, kind: &str, outcome: &str) -> u64 {
    let text = node.running().metrics_text().unwrap();
    let name = format!("edgehold_filtered_objects_total{{kind=\"{kind}\",outcome=\"{outcome}\"}} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_object_that_comes_by_is_counted_by_what_became_of_it() {
    let node = node().await;
    for (name, field, value) in [
        ("kubernetes-v6", "addressType", json!("IPv6")),
        ("kubernetes-strange", "ports", json!("none")),
    ] {
        let mut other = slice(name, "kubernetes", "1");
        other[field] = value;
        node.api.put(other);
    }
    let all = |node: &Node| {
        ["rewritten", "kept", "unreadable"].map(|outcome| counted(node, "EndpointSlice", outcome))
    };
    kube_proxy(&node).get(SLICES).await;
    assert_eq!(all(&node), [1, 1, 1]);
    node.cut().await;
    offline_list(&kube_proxy(&node), SLICES).await;
    let [rewritten, kept, unreadable] = all(&node);
    assert!(rewritten > 1, "cached ones too");
    assert_eq!((kept, unreadable), (rewritten, rewritten));
    node.kubelet().get(SLICES).await;
    assert_eq!(all(&node)[0], rewritten, "others see the original");
    assert_eq!(counted(&node, "Service", "rewritten"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_rewritten_is_not_written_back() {
    let node = node().await;
    let seen = kube_proxy(&node).get(SLICE).await;
    let refused = kube_proxy(&node)
        .send("PUT", SLICE, seen.body.clone())
        .await
        .unwrap();
    assert_eq!(refused.status, 403, "{}", refused.text());
    assert!(refused.text().contains("inCluster"), "{}", refused.text());
    assert_eq!(node.asked("PUT", SLICE), 0);
    // Others, and other objects, may.
    let web = SLICE.replace("kubernetes", "web");
    let own = kube_proxy(&node).get(&web).await;
    assert_eq!(
        kube_proxy(&node)
            .send("PUT", &web, own.body)
            .await
            .unwrap()
            .status,
        200
    );
    let truth = node.kubelet().get(SLICE).await;
    assert_eq!(
        node.kubelet()
            .send("PUT", SLICE, truth.body)
            .await
            .unwrap()
            .status,
        200
    );
    // A patch holds what the client means to change; its answer is upstream's.
    let patch = r#"{"metadata":{"annotations":{"by":"kube-proxy"}}}"#;
    let client = kube_proxy(&node).header("content-type", "application/merge-patch+json");
    let patched = client.send("PATCH", SLICE, patch).await.unwrap();
    assert_eq!(patched.status, 200);
    assert_eq!(patched.json()["endpoints"][0]["addresses"], json!([THEIRS]));
    assert_ours(&kube_proxy(&node).get(SLICE).await.json());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_from_a_version_on_is_rewritten_over_http1_as_well() {
    let node = node().await;
    let from = version(&kube_proxy(&node).get(SLICES).await.json());
    for protocol in PROTOCOLS {
        let mut connection = kube_proxy(&node).protocol(protocol).connect().await.unwrap();
        let mut watch = connection.lines(&watch_from(SLICES, &from)).await.unwrap();
        node.api
            .put(slice("kubernetes", "kubernetes", &format!("{protocol:?}")));
        assert_ours(&event(&mut watch).await["object"]);
    }
}
