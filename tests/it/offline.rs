//! What is answered when the cloud cannot answer: how fast, from what, and what never.
#![allow(clippy::disallowed_methods)] // it plays the outside: files, clocks, processes

use std::time::{Duration, Instant};

use apiserver_standin::{Answer, Client, Existing, Fault, Options, Pki, Rbac};
use edgehold::upstream::LinkState;
use serde_json::{Value, json};

use crate::support::{HIT, METADATA, Node, PROTOBUF, STALE, Setup, TABLE, config_map, files_below, names};

const SHOP: &str = "/api/v1/namespaces/shop/configmaps";

/// Response timeout of the tests that wait for it: long against everything else, so that waiting shows.
const PATIENT: &str = "3s";
const WAITED: Duration = Duration::from_millis(2900);

#[tokio::test(flavor = "multi_thread")]
async fn what_is_never_kept_is_called_what_it_is() {
    let node = Node::start().await;
    node.cut().await;
    for (target, says) in [
        (
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/x",
            "leases are never answered from the cache",
        ),
        (
            "/apis/certificates.k8s.io/v1/certificatesigningrequests?watch=true",
            "certificate signing requests are never",
        ),
        ("/apis/metrics.k8s.io/v1beta1/nodes", "metrics are never"),
        (
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/a/pods/x/y",
            "metrics are never",
        ),
        ("/healthz", "requests of this kind are never"),
        (
            "/api/v1/namespaces/shop/configmap%73",
            "requests of this kind are never",
        ),
        (
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/x",
            "this client has not read it before",
        ),
        (SHOP, "this client has not read it before"),
    ] {
        let refused = node.kubelet().get(target).await;
        let message = refused.json()["message"].as_str().unwrap().to_owned();
        assert!(
            refused.status == 503 && message.contains(says),
            "{target}: {message}"
        );
    }
    let impersonating = node.kubelet().header("impersonate-user", "alice");
    assert!(
        impersonating
            .get(SHOP)
            .await
            .text()
            .contains("requests of this kind are never")
    );
}

/// What a client that takes this is told of what is not answered: the word for it, and the message.
async fn missed(client: &Client, target: &str) -> (String, String) {
    let answer = client.get(target).await;
    assert_refused(&answer, 503, target);
    let detail = answer.header("cache-status").strip_prefix("edgehold; detail=");
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    (detail.unwrap_or_default().to_owned(), message)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_for_no_answer_is_said_and_counted() {
    let mut node = Node::start().await;
    node.api.put(pod("mine", "edge-1", "web"));
    for name in ["a", "b", "c"] {
        node.api.put(config_map("shop", name, "1"));
        node.api.put(config_map("bank", name, "1"));
        node.api.put(config_map("park", name, "sauerkraut"));
    }
    let tables = || node.kubelet().header("accept", TABLE);
    let bank = "/api/v1/namespaces/bank/configmaps";
    let park = "/api/v1/namespaces/park/configmaps";
    let secrets = "/api/v1/namespaces/shop/secrets";
    let by_node = "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1";
    let shop = node.kubelet().get(SHOP).await;
    for target in [by_node, park, secrets, &*format!("{SHOP}/a")] {
        assert_eq!(node.status(target).await, 200, "{target}");
    }
    assert_eq!(tables().get(&format!("{bank}?limit=500")).await.status, 200);
    node.settle().await;
    node.api.set_rbac(Rbac::deny_all());
    assert_eq!(node.status(secrets).await, 403);
    node.cut().await;

    let version: u64 = shop.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    let newer = format!("{SHOP}?resourceVersion={}", version + 1000);
    let in_no_json = node.kubelet().header("accept", METADATA);
    let plain = node.kubelet();
    for (client, target, word, says) in [
        (
            &plain,
            "/api/v1/services",
            "not_read",
            "this client has not read it before, or it was not kept (EH001)",
        ),
        (&in_no_json, SHOP, "other_form", "has read it before only in JSON"),
        (
            &in_no_json,
            &*format!("{SHOP}/a"),
            "other_form",
            "has read it before only in JSON",
        ),
        (&plain, bank, "other_form", "has read it before only as a table"),
        (
            &plain,
            &*format!("{bank}/a"),
            "other_form",
            "has read it before only as a table",
        ),
        (
            &plain,
            "/api/v1/pods",
            "other_part",
            "selects namespaces, labels and names",
        ),
        (&plain, &*newer, "too_old", "older than what this client knows"),
        (
            &plain,
            secrets,
            "withdrawn",
            "refused it to this client since it was read (403)",
        ),
    ] {
        let (detail, message) = missed(client, target).await;
        assert!(
            detail == word && message.contains(says),
            "{target}: {detail}: {message}"
        );
        assert!(message.ends_with(" (EH001)"), "{message}");
        let counted = format!("edgehold_cache_misses_total{{reason=\"{word}\"}} ");
        assert!(
            node.running().metrics_text().unwrap().contains(&counted),
            "{counted}"
        );
    }
    // A watch that knows nothing yet is told the same.
    let (detail, _) = missed(&plain, "/api/v1/pods?watch=true").await;
    assert_eq!(detail, "other_part");
    // Another principal learns nothing of all this.
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    for target in [SHOP, bank, park, secrets, "/api/v1/pods"] {
        let (detail, message) = missed(&proxy, target).await;
        assert!(
            detail == "not_read" && message.contains("has not read it before"),
            "{target}: {message}"
        );
    }

    node.stop().await;
    for file in files_below(&node.cache_dir()) {
        let mut bytes = std::fs::read(&file).unwrap();
        if let Some(at) = bytes.windows(10).position(|part| part == b"sauerkraut") {
            bytes[at] ^= 0x10;
            std::fs::write(&file, &bytes).unwrap();
        }
    }
    node.launch().await;
    node.wait_link(LinkState::Offline).await;
    let (detail, message) = missed(&node.kubelet(), park).await;
    assert_eq!(detail, "damaged", "{message}");
    assert!(
        message.ends_with("cannot be read from the disk of this node (EH001, EH032)"),
        "{message}"
    );
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    assert_eq!(missed(&proxy, park).await.0, "not_read");
}

fn pod(name: &str, node: &str, app: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "labels": {"app": app}},
        "spec": {"nodeName": node, "containers": []}})
}

fn csi_node(name: &str) -> Value {
    json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSINode", "metadata": {"name": name}, "spec": {"drivers": []}})
}

fn assert_cached(answer: &Answer, what: &str) {
    assert_cached_as(&[HIT], answer, what);
}

/// In place of an answer while the cloud may be there, or is known not to be.
fn assert_instead(answer: &Answer, what: &str) {
    assert_cached_as(&[STALE, HIT], answer, what);
}

fn assert_cached_as(marks: &[&str], answer: &Answer, what: &str) {
    assert!(
        answer.status == 200 && marks.contains(&answer.header("cache-status")),
        "{what}: {} {:?} {}",
        answer.status,
        answer.header("cache-status"),
        answer.text()
    );
    assert!(answer.header("age").parse::<u64>().is_ok(), "{what}: Age");
    assert!(!answer.header("audit-id").is_empty(), "{what}: Audit-Id");
}

fn assert_refused(answer: &Answer, code: u16, what: &str) {
    assert_eq!(
        (
            answer.status,
            answer.header("retry-after"),
            answer.header("cache-status").contains("hit")
        ),
        (code, "", false),
        "{what}: {}",
        answer.text()
    );
}

async fn known_node(setup: Setup) -> Node {
    let node = Node::with(Options::default(), setup).await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.status(SHOP).await, 200);
    assert_eq!(node.status(&format!("{SHOP}/a")).await, 200);
    node.settle().await;
    node
}

fn patient() -> Setup {
    Setup {
        response_timeout: PATIENT,
        connect_timeout: "1s",
        probe_timeout: "1s",
        ..Setup::default()
    }
}

/// The first read may wait; everything after it must not.
async fn answers_at_once_after_the_first(node: &Node, what: &str) {
    assert_instead(&node.kubelet().get(SHOP).await, what);
    let started = Instant::now();
    for _ in 0..5 {
        assert_instead(&node.kubelet().get(SHOP).await, what);
        assert_instead(&node.kubelet().get(&format!("{SHOP}/a")).await, what);
    }
    assert!(
        started.elapsed() < WAITED,
        "{what}: ten answers took {:?}",
        started.elapsed()
    );
    node.wait_link(LinkState::Offline).await;
    let started = Instant::now();
    let unknown = node.kubelet().get("/api/v1/namespaces/shop/pods").await;
    assert_refused(&unknown, 503, what);
    assert!(started.elapsed() < WAITED, "{what}: unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_refuses_connections() {
    let node = known_node(patient()).await;
    node.api.fault(Fault::Refuse(Existing::Cut));
    let started = Instant::now();
    answers_at_once_after_the_first(&node, "refused").await;
    assert!(started.elapsed() < WAITED, "not even the first one waits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_vanished() {
    let node = known_node(patient()).await;
    node.api.fault(Fault::BlackHole);
    answers_at_once_after_the_first(&node, "black hole").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_whose_handshake_stalls() {
    let node = known_node(patient()).await;
    node.api.fault(Fault::StallHandshake);
    node.api.cut_connections();
    answers_at_once_after_the_first(&node, "handshake").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_stalls() {
    let node = known_node(patient()).await;
    node.api.fault(Fault::Stall);
    answers_at_once_after_the_first(&node, "stall").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_resets_every_request() {
    let node = known_node(patient()).await;
    node.api.fault(Fault::Reset);
    answers_at_once_after_the_first(&node, "reset").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_ends_every_request() {
    let node = known_node(patient()).await;
    node.api.fault(Fault::ResetStream);
    answers_at_once_after_the_first(&node, "end").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_in_the_place_of_the_cloud_is_not_believed() {
    let mut node = known_node(patient()).await;
    // The same port, another authority with the same name.
    let listen = node.api.addr();
    let serving = Pki::named("kubernetes").server(&[]);
    let foreign = node.replace_cloud(Options {
        listen,
        serving: Some(serving),
        pki: Some(node.api.pki().clone()),
        ..Options::default()
    });
    foreign.shutdown().await;
    answers_at_once_after_the_first(&node, "foreign").await;
    assert_eq!(node.api.requests().len(), 0, "nothing was told to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_gateways_and_of_the_apiserver_itself_are_answered_from_the_cache() {
    let node = known_node(Setup::default()).await;
    for code in [502, 503, 504] {
        for fault in [
            Fault::GatewayPage(code),
            Fault::Status(code),
            Fault::PassedPage(code),
        ] {
            node.api.fault(fault);
            assert_cached_as(&[STALE], &node.kubelet().get(SHOP).await, &format!("{fault:?}"));
            assert_cached_as(
                &[STALE],
                &node.kubelet().get(&format!("{SHOP}/a")).await,
                &format!("{fault:?}"),
            );
            node.heal().await;
            node.api.fault(fault.on("/api/v1/namespaces/unknown"));
            let unknown = node.kubelet().get("/api/v1/namespaces/unknown/pods").await;
            assert!(
                (502..=504).contains(&unknown.status),
                "{fault:?}: {}",
                unknown.status
            );
            assert_eq!(unknown.header("cache-status"), "", "{fault:?}");
            node.heal().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_is_passed_on() {
    let node = known_node(Setup::default()).await;
    node.api.fault(Fault::Status(429).on(SHOP));
    let answer = node.kubelet().get(SHOP).await;
    assert_eq!(
        (
            answer.status,
            answer.header("retry-after"),
            answer.header("cache-status")
        ),
        (429, "1", "")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_at_once_in_the_clients_encoding_and_never_sent_later() {
    let node = known_node(Setup::default()).await;
    node.cut().await;
    node.api.forget_requests();
    let body = config_map("shop", "new", "1").to_string();
    for (accept, content_type) in [("application/json", "application/json"), (PROTOBUF, PROTOBUF)] {
        let client = node
            .kubelet()
            .header("accept", accept)
            .header("content-type", "application/json");
        for (method, target) in [
            ("POST", SHOP.to_owned()),
            ("PUT", format!("{SHOP}/a")),
            ("PATCH", format!("{SHOP}/a")),
            ("DELETE", format!("{SHOP}/a")),
            ("DELETE", SHOP.to_owned()),
            ("POST", "/apis/authentication.k8s.io/v1/tokenreviews".to_owned()),
            ("POST", "/api/v1/namespaces/shop/events".to_owned()),
        ] {
            let answer = client.send(method, &target, body.clone()).await.unwrap();
            assert_refused(&answer, 503, &format!("{method} {target}"));
            assert_eq!(answer.header("content-type"), content_type);
            assert!(!answer.header("audit-id").is_empty());
            match accept {
                PROTOBUF => assert!(answer.body.starts_with(b"k8s\0")),
                _ => assert_eq!(
                    (
                        &answer.json()["kind"],
                        &answer.json()["reason"],
                        &answer.json()["code"]
                    ),
                    (&json!("Status"), &json!("ServiceUnavailable"), &json!(503))
                ),
            }
        }
    }
    node.heal().await;
    assert_eq!(node.status(SHOP).await, 200);
    let writes = node
        .api
        .requests()
        .into_iter()
        .filter(|seen| seen.method != "GET");
    assert_eq!(writes.count(), 0, "nothing was queued");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_is_lost_is_504_and_was_sent_once() {
    let node = known_node(Setup::default()).await;
    let body = config_map("shop", "new", "1").to_string();
    let client = node.kubelet().header("content-type", "application/json");
    for fault in [Fault::Reset, Fault::ResetStream] {
        for (method, target) in [("POST", SHOP.to_owned()), ("PUT", format!("{SHOP}/a"))] {
            node.api.forget_requests();
            node.api.fault(fault.on(SHOP));
            let answer = client.send(method, &target, body.clone()).await.unwrap();
            assert_refused(&answer, 504, &format!("{fault:?} {method}"));
            assert_eq!(answer.json()["reason"], "Timeout");
            assert_eq!(node.asked(method, SHOP), 1, "{fault:?} {method}");
            node.heal().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_an_apiserver_or_a_gateway_fails_is_passed_on() {
    let node = known_node(Setup::default()).await;
    for fault in [Fault::Status(503), Fault::GatewayPage(502), Fault::Status(409)] {
        node.api.forget_requests();
        node.api.fault(fault.on(SHOP));
        let answer = node
            .kubelet()
            .send("DELETE", &format!("{SHOP}/a"), "")
            .await
            .unwrap();
        let (Fault::Status(code) | Fault::GatewayPage(code)) = fault else {
            unreachable!()
        };
        assert_eq!((answer.status, answer.header("cache-status")), (code, ""));
        assert_eq!(node.asked("DELETE", SHOP), 1);
        node.heal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_options_offline() {
    let node = Node::start().await;
    for n in 0..7 {
        node.api.put(config_map("shop", &format!("n{n}"), "1"));
    }
    let online = node.kubelet().get(SHOP).await;
    let version: u64 = online.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    node.cut().await;
    let get = async |query: &str| node.kubelet().get(&format!("{SHOP}?{query}")).await;

    for query in [
        "limit=2".to_owned(),
        "limit=500&resourceVersion=0".to_owned(),
        "resourceVersion=0".to_owned(),
        "resourceVersion=0&resourceVersionMatch=NotOlderThan".to_owned(),
        format!("resourceVersion={version}"),
        format!("resourceVersion={version}&resourceVersionMatch=Exact"),
        format!(
            "resourceVersion={}&resourceVersionMatch=NotOlderThan",
            version - 1
        ),
    ] {
        let answer = get(&query).await;
        assert_cached(&answer, &query);
        assert_eq!(answer.body, online.body, "{query}");
    }
    for query in [
        "limit=2&continue=eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MTUsInN0YXJ0IjoibnMxL2FcdTAwMDAifQ".to_owned(),
        format!("resourceVersion={}&resourceVersionMatch=Exact", version - 1),
    ] {
        let gone = get(&query).await;
        assert_refused(&gone, 410, &query);
        assert_eq!(gone.json()["reason"], "Expired", "{query}");
    }
    for query in [
        format!("resourceVersion={}", version + 1),
        format!(
            "resourceVersion={}&resourceVersionMatch=NotOlderThan",
            version + 1
        ),
    ] {
        assert_refused(&get(&query).await, 503, &query);
    }
    for query in [
        "resourceVersionMatch=Exact",
        "resourceVersionMatch=NotOlderThan",
        "resourceVersion=0&resourceVersionMatch=Exact",
        "resourceVersion=1&resourceVersionMatch=Sometimes",
        "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
        "sendInitialEvents=true",
    ] {
        let invalid = get(query).await;
        assert_refused(&invalid, 422, query);
        assert_eq!(invalid.json()["reason"], "Invalid", "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_derived_from_views_where_that_is_sound() {
    let node = Node::start().await;
    for object in [
        pod("mine", "edge-1", "web"),
        pod("other", "edge-2", "web"),
        config_map("shop", "a", "1"),
        config_map("bank", "b", "2"),
    ] {
        node.api.put(object);
    }
    let mut tagged = config_map("shop", "c", "3");
    tagged["metadata"]["labels"] = json!({"app": "db", "tier": "back"});
    node.api.put(tagged);
    let direct = node.direct();
    let truth = |target: String| {
        let direct = direct.clone();
        async move { (direct.get(&target).await, target) }
    };
    let mut expected = Vec::new();
    for target in [
        SHOP.to_owned(),
        "/api/v1/namespaces/bank/configmaps".to_owned(),
        "/api/v1/namespaces/empty/configmaps".to_owned(),
        format!("{SHOP}?labelSelector=app%3Dweb"),
        format!("{SHOP}?labelSelector=app+in+%28db%2Cx%29%2C%21none"),
        format!("{SHOP}?labelSelector=tier"),
        "/api/v1/configmaps?labelSelector=app%21%3Dweb".to_owned(),
        format!("{SHOP}?fieldSelector=metadata.name%3Da"),
        "/api/v1/configmaps?fieldSelector=metadata.namespace%3Dbank".to_owned(),
    ] {
        expected.push(truth(target).await);
    }
    let (a, mine) = (
        direct.get(&format!("{SHOP}/a")).await,
        direct.get("/api/v1/namespaces/shop/pods/mine").await,
    );
    assert_eq!(node.status("/api/v1/configmaps").await, 200);
    let by_node = "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1";
    assert_eq!(node.status(by_node).await, 200);

    node.cut().await;
    for (online, target) in expected {
        let offline = node.kubelet().get(&target).await;
        assert_cached(&offline, &target);
        let (offline, online) = (offline.json(), online.json());
        assert_eq!(offline["items"], online["items"], "{target}");
        assert_eq!(
            offline["metadata"]["resourceVersion"], online["metadata"]["resourceVersion"],
            "{target}"
        );
    }
    assert_eq!(node.kubelet().get(&format!("{SHOP}/a")).await.json(), a.json());
    let held = node.kubelet().get("/api/v1/namespaces/shop/pods/mine").await;
    assert_eq!(held.json(), mine.json());
    // kubectl takes JSON where there is no Table.
    let tables = node.kubelet().header("accept", TABLE);
    assert_eq!(tables.get(SHOP).await.json()["kind"], "ConfigMapList");
    assert_eq!(tables.get(&format!("{SHOP}/a")).await.json()["kind"], "ConfigMap");

    // Known to be absent by a complete view; never by a selected one, and never in a form that was not read.
    let gone = node.kubelet().get(&format!("{SHOP}/none")).await;
    assert_refused(&gone, 404, "absent");
    for (target, accept) in [
        ("/api/v1/namespaces/shop/pods/other", "application/json"),
        ("/api/v1/namespaces/shop/pods/none", "application/json"),
        ("/api/v1/namespaces/shop/pods", "application/json"),
        ("/api/v1/pods", "application/json"),
        (
            "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-2",
            "application/json",
        ),
        ("/api/v1/configmaps?fieldSelector=data.k%3D1", "application/json"),
        ("/api/v1/configmaps", PROTOBUF),
        ("/api/v1/configmaps", METADATA),
        ("/apis/apps/v1/configmaps", "application/json"),
    ] {
        let answer = node.kubelet().header("accept", accept).get(target).await;
        assert_refused(&answer, 503, &format!("{accept} {target}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn election_leases_are_never_cached_and_the_nodes_own_is() {
    let node = Node::start().await;
    let lease = |namespace: &str, name: &str| {
        json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"namespace": namespace, "name": name}, "spec": {"holderIdentity": "me"}})
    };
    node.api.put(lease("kube-system", "controller"));
    node.api.put(lease("kube-node-lease", "edge-1"));
    let base = "/apis/coordination.k8s.io/v1";
    let never = [
        format!("{base}/namespaces/kube-system/leases/controller"),
        format!("{base}/namespaces/kube-system/leases"),
        format!("{base}/leases"),
    ];
    let own = format!("{base}/namespaces/kube-node-lease/leases/edge-1");
    for target in never.iter().chain([&own]) {
        assert_eq!(node.status(target).await, 200, "{target}");
    }
    node.cut().await;
    for target in &never {
        assert_refused(&node.kubelet().get(target).await, 503, target);
    }
    assert_cached(&node.kubelet().get(&own).await, &own);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_without_any_cloud_serves_what_is_on_disk() {
    let mut node = known_node(Setup::default()).await;
    node.stop().await;
    node.api.fault(Fault::Refuse(Existing::Cut));
    node.launch().await;
    // Nobody has told it that the cloud is away.
    assert_cached(&node.kubelet().get(SHOP).await, "cold");
    assert_cached(&node.kubelet().get(&format!("{SHOP}/a")).await, "cold");
    assert_refused(&node.kubelet().get("/api/v1/pods").await, 503, "cold");
    node.api.put(config_map("shop", "b", "2"));
    node.heal().await;
    assert_eq!(names(&node.kubelet().get(SHOP).await.json()), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_a_write_refreshes_the_object_and_a_delete_drops_it() {
    let node = Node::start().await;
    let nodes = "/apis/storage.k8s.io/v1/csinodes";
    let mine = format!("{nodes}/edge-1");
    let kubelet = node.kubelet().header("content-type", "application/json");
    assert_eq!(kubelet.get(&mine).await.status, 404);
    let made = kubelet
        .send("POST", nodes, csi_node("edge-1").to_string())
        .await
        .unwrap();
    assert_eq!(made.status, 201);
    node.cut().await;
    let cached = kubelet.get(&mine).await;
    assert_cached(&cached, "created");
    assert_eq!(cached.json(), made.json());

    node.heal().await;
    let mut changed = made.json();
    changed["spec"]["drivers"] = json!([{"name": "d", "nodeID": "n", "topologyKeys": null}]);
    let put = kubelet.send("PUT", &mine, changed.to_string()).await.unwrap();
    assert_eq!(put.status, 200);
    node.cut().await;
    assert_eq!(kubelet.get(&mine).await.json(), put.json());

    node.heal().await;
    assert_eq!(kubelet.send("DELETE", &mine, "").await.unwrap().status, 200);
    node.cut().await;
    assert_refused(&kubelet.get(&mine).await, 503, "deleted");
}

/// How fast they are is measured by `cargo bench --bench process`.
#[tokio::test(flavor = "multi_thread")]
async fn a_cached_answer_waits_for_nothing_when_the_cloud_refuses() {
    let setup = Setup {
        response_timeout: "60s",
        ..Setup::default()
    };
    let node = known_node(setup).await;
    node.cut().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    for _ in 0..20 {
        let answer = connection.send("GET", SHOP, "");
        let answer = tokio::time::timeout(Duration::from_secs(30), answer).await;
        assert_cached(&answer.expect("no time limit is waited for").unwrap(), "refused");
    }
}
