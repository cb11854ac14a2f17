//! The clients that run in pods, by the requests that they are known to send, with a token of their own: EdgeMesh, a CNI
//! helper, flannel, CoreDNS, kube-rs.

use std::time::Duration;

use apiserver_standin::{Client, Lines, Rbac, Rule, Subject};
use edgehold::runtime::clock;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::ListParams;
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Config};
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, HIT, Node, change, ends_initial, event, names, offline_list, version, watch_from, watch_list,
};

/// What client-go asks for with a typed client.
const TYPED: &str = "application/vnd.kubernetes.protobuf,application/json";

/// Label selector of EdgeMesh's informers.
const MESHED: &str = "labelSelector=%21service.edgemesh.kubeedge.io%2Fservice-proxy-name%2C%21service.kubernetes.io%2Fheadless";

/// Every collection that EdgeMesh lists and watches.
fn meshed() -> Vec<String> {
    let mut all = Vec::new();
    for resource in ["services", "endpoints"] {
        all.push(format!("/api/v1/{resource}?{MESHED}"));
        all.push(format!("/api/v1/{resource}"));
    }
    all.push("/api/v1/namespaces".into());
    for resource in ["destinationrules", "gateways", "virtualservices"] {
        all.push(format!("/apis/networking.istio.io/v1alpha3/{resource}"));
    }
    for selector in ["spec.nodeName%3Dedge-1", "status.podIP%3D10.0.0.7"] {
        all.push(format!("/api/v1/pods?fieldSelector={selector}"));
    }
    all
}

/// A cluster with something in each of them.
fn populate(node: &Node) {
    let core = |kind: &str, name: &str, labels: Value| {
        node.api.put(json!({"apiVersion": "v1", "kind": kind,
            "metadata": {"namespace": "shop", "name": name, "labels": labels}}));
    };
    for kind in ["Service", "Endpoints"] {
        core(kind, "web", json!({"app": "web"}));
        core(kind, "plain", json!({"service.kubernetes.io/headless": ""}));
    }
    node.api
        .put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}));
    node.api.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-1"}, "spec": {"podCIDR": "10.244.1.0/24"}}));
    for kind in ["DestinationRule", "Gateway", "VirtualService"] {
        node.api
            .put(json!({"apiVersion": "networking.istio.io/v1alpha3", "kind": kind,
            "metadata": {"namespace": "shop", "name": "web"}, "spec": {"host": "web"}}));
    }
    for (name, host, ip) in [("a", "edge-1", "10.0.0.7"), ("b", "edge-2", "10.0.0.8")] {
        node.api.put(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
            "spec": {"nodeName": host}, "status": {"podIP": ip}}),
        );
    }
}

/// Replays EdgeMesh: online, offline, after an offline restart, and one watch through all but the restart.
async fn edgemesh(client: impl Fn(&Node) -> Client) {
    let mut node = Node::start().await;
    populate(&node);
    let mut connection = client(&node).connect().await.unwrap();
    let mut watch = connection.lines(&watch_list("/api/v1/services")).await.unwrap();
    while !ends_initial(&event(&mut watch).await) {}

    let typed = |node: &Node| client(node).header("accept", TYPED);
    let mut online = Vec::new();
    for target in meshed() {
        let answer = typed(&node).get(&target).await;
        let protobuf = !target.contains("istio");
        let wanted = if protobuf {
            "application/vnd.kubernetes.protobuf"
        } else {
            "application/json"
        };
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (200, wanted),
            "{target}"
        );
        online.push((target, answer.body));
    }
    let selected = client(&node)
        .get(&format!("/api/v1/services?{MESHED}"))
        .await
        .json();
    assert_eq!(names(&selected), ["web"]);
    let edge = typed(&node).get("/api/v1/nodes/edge-1").await;
    assert_eq!(edge.status, 200);

    node.cut().await;
    for restarted in [false, true] {
        if restarted {
            drop(connection);
            node.restart().await;
            connection = client(&node).connect().await.unwrap();
        }
        for (target, body) in &online {
            let cached = typed(&node).get(target).await;
            assert_eq!(
                (cached.status, cached.header("cache-status")),
                (200, HIT),
                "{target}: {}",
                cached.text()
            );
            assert_eq!(cached.body, *body, "{target}");
        }
        assert_eq!(typed(&node).get("/api/v1/nodes/edge-1").await.body, edge.body);
        let by_ip = client(&node)
            .get("/api/v1/pods?fieldSelector=status.podIP%3D10.0.0.99")
            .await;
        assert_eq!(by_ip.status, 503, "never asked before: unknown, not empty");
    }
    let mut held = connection.lines(&watch_list("/api/v1/services")).await.unwrap();
    assert_eq!(held.response.headers()["cache-status"], HIT);
    while !ends_initial(&event(&mut held).await) {}
    node.heal().await;
    node.api.put(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "new"}}),
    );
    assert_eq!(change(&mut held).await, ("ADDED".into(), "new".into()));
    drop(watch);
}

#[tokio::test(flavor = "multi_thread")]
async fn edgemesh_in_one_way_mode_shows_a_token_alone() {
    edgemesh(|node| {
        let token = token_of(node, "edgemesh-agent");
        node.token_client(&token)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edgemesh_in_mutual_mode_shows_a_certificate_without_a_name_and_a_token() {
    edgemesh(|node| {
        let token = token_of(node, "edgemesh-agent");
        let nameless = node.api.pki().client(None, &[]);
        node.client(Some(&nameless)).token(&token)
    })
    .await;
}

/// A token of one service account, the same each time.
fn token_of(node: &Node, account: &str) -> String {
    let file = node.dir.path().join(format!("{account}.token"));
    if let Ok(token) = std::fs::read_to_string(&file) {
        return token;
    }
    let token = node.api.service_account_token("kubeedge", account);
    let written = std::fs::File::create(&file)
        .and_then(|mut file| std::io::Write::write_all(&mut file, token.as_bytes()));
    written.unwrap();
    token
}

const PODS: &str = "/api/v1/pods";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/cni-leader";

#[tokio::test(flavor = "multi_thread")]
async fn a_cni_helper_keeps_its_own_rights_and_learns_at_once_that_it_leads_no_more() {
    let node = Node::start().await;
    populate(&node);
    node.api.put(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"namespace": "kube-system", "name": "cni-leader"}, "spec": {"holderIdentity": "edge-1", "leaseDurationSeconds": 15}}));
    let own = Subject::User("system:serviceaccount:kubeedge:cni".into());
    node.api.set_rbac(
        Rbac::deny_all()
            .with(Rule::allow(own.clone(), &["get", "list", "watch"], &["pods"]))
            .with(Rule::allow(own, &["get", "update"], &["leases"])),
    );
    let helper = node.token_client(&token_of(&node, "cni"));
    assert_eq!(names(&helper.get(PODS).await.json()), ["a", "b"]);
    assert_eq!(
        helper.get("/api/v1/secrets").await.status,
        403,
        "edgehold adds no rights"
    );
    let lease = helper.get(LEASE).await;
    assert_eq!(lease.status, 200);
    assert_eq!(
        helper
            .send("PUT", LEASE, lease.body.clone())
            .await
            .unwrap()
            .status,
        200
    );

    node.cut().await;
    let started = clock::now();
    assert_eq!(
        helper.get(LEASE).await.status,
        503,
        "the past of a lease elects nobody"
    );
    let renewed = helper.send("PUT", LEASE, lease.body).await.unwrap();
    assert_eq!((renewed.status, renewed.header("retry-after")), (503, ""));
    assert!(
        clock::now() - started < Duration::from_secs(5),
        "well before the lease has run out"
    );
    assert_eq!(names(&offline_list(&helper, PODS).await), ["a", "b"]);
    let other = node.token_client(&token_of(&node, "other"));
    assert_eq!(
        other.get(PODS).await.status,
        503,
        "what one account has read is not another's"
    );
    assert_eq!(helper.get("/api/v1/secrets").await.status, 503);
    node.heal().await;
    assert_eq!(node.asked("PUT", LEASE), 1, "nothing was queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn flannel_watches_nodes_and_writes_its_own_when_it_can() {
    let node = Node::start().await;
    populate(&node);
    let flannel = node.token_client(&token_of(&node, "flannel"));
    let nodes = "/api/v1/nodes?limit=500&resourceVersion=0";
    let list = flannel.get(nodes).await.json();
    assert_eq!(names(&list), ["edge-1"]);
    let mut connection = flannel.connect().await.unwrap();
    let watch = format!(
        "{}&timeoutSeconds=414&timeout=6m54s",
        watch_from("/api/v1/nodes", &version(&list))
    );
    let mut watch = connection.lines(&watch).await.unwrap();
    let patch = |mac: &str| {
        let value = format!(
            r#"{{"metadata":{{"annotations":{{"flannel.alpha.coreos.com/backend-data":"{mac}"}}}}}}"#
        );
        let flannel = flannel
            .clone()
            .header("content-type", "application/strategic-merge-patch+json");
        async move {
            flannel
                .send("PATCH", "/api/v1/nodes/edge-1/status", value)
                .await
                .unwrap()
                .status
        }
    };
    assert_eq!(patch("a").await, 200);
    assert_eq!(backend(&mut watch).await, "a");

    node.cut().await;
    assert_eq!(names(&offline_list(&flannel, nodes).await), ["edge-1"]);
    let one = flannel.get("/api/v1/nodes/edge-1").await;
    assert_eq!(
        (
            one.status,
            one.json()["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-data"].clone()
        ),
        (200, json!("a"))
    );
    assert_eq!(patch("b").await, 503);
    node.heal().await;
    assert_eq!(patch("c").await, 200);
    assert_eq!(
        backend(&mut watch).await,
        "c",
        "the same stream, and nothing of the refused write"
    );
}

/// The annotation of flannel in the next event.
async fn backend(watch: &mut Lines) -> String {
    let event = event(watch).await;
    assert_eq!(event["type"], "MODIFIED", "{event}");
    let annotation = &event["object"]["metadata"]["annotations"]["flannel.alpha.coreos.com/backend-data"];
    annotation.as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn coredns_starts_offline_on_what_it_had_read() {
    let mut node = Node::start().await;
    populate(&node);
    node.api.put(
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"namespace": "shop", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.7"]}], "ports": []}),
    );
    let token = token_of(&node, "coredns");
    let collections = [
        ("/api/v1/services", 2),
        ("/apis/discovery.k8s.io/v1/endpointslices", 1),
        ("/api/v1/namespaces", 1),
    ];
    for online in [true, false] {
        if !online {
            node.cut().await;
            node.restart().await;
        }
        for (collection, count) in collections {
            let mut connection = node.token_client(&token).connect().await.unwrap();
            let mut watch = connection.lines(&watch_list(collection)).await.unwrap();
            for _ in 0..count {
                assert_eq!(change(&mut watch).await.0, "ADDED", "{collection}");
            }
            assert!(ends_initial(&event(&mut watch).await), "{collection}");
            let listed = node
                .token_client(&token)
                .get(&format!("{collection}?limit=500&resourceVersion=0"))
                .await;
            assert_eq!(names(&listed.json()).len(), count, "{collection}");
        }
    }
}

/// As `Config::incluster` makes it: host and port, the CA of the pod's volume, its token.
fn in_cluster(node: &Node, token: &str) -> kube::Client {
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let address = node.running().addresses()[0];
    let mut config = Config::new(format!("https://{address}").parse().unwrap());
    let ca: rustls_pki_types::CertificateDer<'static> =
        rustls_pki_types::pem::PemObject::from_pem_slice(node.api.ca_pem().as_bytes()).unwrap();
    config.root_cert = Some(vec![ca.to_vec()]);
    config.auth_info.token = Some(token.to_owned().into());
    config.default_retry = false;
    kube::Client::try_from(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn kube_rs_in_a_pod_reads_and_watches_through_an_outage() {
    let mut node = Node::start().await;
    populate(&node);
    let token = token_of(&node, "controller");
    let services: Api<Service> = Api::all(in_cluster(&node, &token));
    let mut seen = watcher(services, watcher::Config::default())
        .applied_objects()
        .boxed();
    for _ in 0..2 {
        next_name(&mut seen).await;
    }
    let pods: Api<Pod> = Api::namespaced(in_cluster(&node, &token), "shop");
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 2);
    node.cut().await;
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 2);
    assert_eq!(pods.get("a").await.unwrap().metadata.name.as_deref(), Some("a"));
    node.heal().await;
    node.api.put(
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "shop", "name": "new"}}),
    );
    assert_eq!(next_name(&mut seen).await, "new");
    drop(seen);
    node.cut().await;
    node.restart().await;
    let pods: Api<Pod> = Api::namespaced(in_cluster(&node, &token), "shop");
    assert_eq!(pods.list(&ListParams::default()).await.unwrap().items.len(), 2);
}

async fn next_name(
    seen: &mut futures_util::stream::BoxStream<'_, Result<Service, watcher::Error>>,
) -> String {
    let next = tokio::time::timeout(DEADLINE, seen.next()).await;
    let service = next.expect("in time").expect("no end").expect("no error");
    service.metadata.name.unwrap()
}
