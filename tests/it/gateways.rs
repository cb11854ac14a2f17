//! What stands between edgehold and the apiserver and answers in its place: a captive portal, a login page.

use apiserver_standin::{Fault, Options, Pki, Protocol};
use edgehold::upstream::LinkState;
use serde_json::json;

use crate::leaks;
use crate::support::{
    HIT, Node, STALE, Setup, change, config_map, eventually, version, watch_from, watch_list,
};

const SHOP: &str = "/api/v1/namespaces/shop/configmaps";
const OTHER: &str = "/api/v1/namespaces/other/configmaps";

async fn node() -> Node {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.status(SHOP).await, 200);
    node.settle().await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_in_the_place_of_an_answer_is_no_answer() {
    let node = node().await;
    for code in [200, 302, 401, 403, 404, 410] {
        node.api.fault(Fault::GatewayPage(code).on("/api"));
        let known = node.kubelet().get(SHOP).await;
        assert_eq!(
            (known.status, known.header("cache-status")),
            (200, STALE),
            "{code}"
        );
        let mut connection = node.kubelet().connect().await.unwrap();
        let held = connection.lines(&watch_list(SHOP)).await.unwrap();
        assert_eq!(held.response.headers()["cache-status"], STALE, "{code}");
        let body = config_map("other", "b", "1").to_string();
        for (method, target, body) in [
            ("GET", OTHER, ""),
            ("GET", "/apis", ""),
            ("POST", OTHER, body.as_str()),
            ("DELETE", "/api/v1/namespaces/shop/configmaps/a", ""),
        ] {
            let client = node.kubelet().header("content-type", "application/json");
            let answer = client.send(method, target, body.to_owned()).await.unwrap();
            assert_eq!(answer.status, 502, "{code} {method} {target}: {}", answer.text());
            let status = answer.json();
            assert_eq!(status["kind"], json!("Status"));
            assert!(
                status["message"].as_str().unwrap().contains("no apiserver"),
                "{status}"
            );
        }
        node.api.clear_faults();
        node.wait_link(LinkState::Online).await;
    }
    // Logs are in the words of somebody else anyway.
    let log = "/api/v1/namespaces/shop/pods/p/log";
    node.api.fault(Fault::GatewayPage(200).on(log));
    let answer = node.kubelet().get(log).await;
    assert_eq!((answer.status, answer.header("cache-status")), (200, ""));
    assert!(answer.text().contains("<html"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_opened_again_into_a_page_is_held() {
    let node = node().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let from = version(&node.kubelet().get(SHOP).await.json());
    let mut watch = connection.lines(&watch_from(SHOP, &from)).await.unwrap();
    node.api.put(config_map("shop", "b", "1"));
    assert_eq!(change(&mut watch).await.1, "b");
    node.api
        .fault(Fault::GatewayPage(200).on(SHOP).containing("watch=true"));
    let before = node.asked("GET", SHOP);
    node.api.cut_connections();
    eventually("it is opened again, twice", || async {
        node.asked("GET", SHOP) >= before + 2
    })
    .await;
    node.api.clear_faults();
    node.api.put(config_map("shop", "c", "1"));
    assert_eq!(change(&mut watch).await.1, "c", "in the same stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_portal_that_answers_everything_is_as_good_as_no_cloud() {
    let node = node().await;
    node.api.fault(Fault::GatewayPage(200));
    let known = node.kubelet().get(SHOP).await;
    assert_eq!((known.status, known.header("cache-status")), (200, STALE));
    node.wait_link(LinkState::Offline).await;
    let known = node.kubelet().get(SHOP).await;
    assert_eq!((known.status, known.header("cache-status")), (200, HIT));
    assert_eq!(node.status(&format!("{SHOP}/missing")).await, 404);
    assert_eq!(node.status(OTHER).await, 503);
    node.api.clear_faults();
    node.wait_link(LinkState::Online).await;
}

/// A node whose gateway takes `Audit-Id` off, with more fields of `upstream`.
async fn stripped(fields: &str) -> Node {
    let mut node = Node::start().await;
    node.stop().await;
    node.api.put(config_map("shop", "a", "1"));
    node.api.fault(Fault::Unaudited);
    let text = node
        .config_text()
        .replace("upstream:\n", &format!("upstream:\n{fields}"));
    node.launch_text(&text).await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_audit_id_nothing_is_kept_and_a_line_says_so_once() {
    let node = stripped("").await;
    for _ in 0..5 {
        assert_eq!(node.status(SHOP).await, 200);
    }
    let server = node.api.addr().to_string();
    assert_eq!(leaks::warnings(&["without Audit-Id", &server]), 1);
    node.cut().await;
    assert_eq!(node.status(SHOP).await, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_gateway_speaks_for_its_apiserver() {
    let node = stripped("  trustGateway: true\n").await;
    assert_eq!(node.status(SHOP).await, 200);
    let missing = format!("{SHOP}/missing");
    assert_eq!(node.status(&missing).await, 404);
    // Pages are nobody's answer all the same.
    node.api.clear_faults();
    node.api.fault(Fault::GatewayPage(404));
    assert_eq!(node.kubelet().get(SHOP).await.header("cache-status"), STALE);
    node.api.clear_faults();
    node.api.fault(Fault::Unaudited);
    node.wait_link(LinkState::Online).await;
    let kept = node.kubelet().get(SHOP).await;
    assert_eq!((kept.status, kept.header("cache-status")), (200, ""));
    node.cut().await;
    let kept = node.kubelet().get(SHOP).await;
    assert_eq!((kept.status, kept.header("cache-status")), (200, HIT));
    assert_eq!(node.status(&missing).await, 404);
}

/// The node behind another URL and with more fields of `upstream`.
async fn at(options: Options, url: impl Fn(&str) -> String, fields: &str) -> Node {
    let mut node = Node::with(options, Setup::default()).await;
    node.stop().await;
    node.api.put(config_map("shop", "a", "1"));
    let plain = format!("\"https://{}\"", node.api.addr());
    let there = format!("\"{}\"", url(&node.api.url()));
    let text = node.config_text().replace(&plain, &there);
    let text = text.replace("upstream:\n", &format!("upstream:\n{fields}"));
    node.launch_text(&text).await;
    node
}

async fn below_a_path() -> Node {
    let base = "/k8s/clusters/c-x";
    let options = Options {
        base,
        ..Options::default()
    };
    at(options, |url| format!("{url}{base}/"), "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apiserver_may_stand_below_a_path() {
    let node = below_a_path().await;
    let kubelet = node.kubelet();
    let list = kubelet.get(SHOP).await;
    assert_eq!((list.status, list.header("cache-status")), (200, ""));
    let made = kubelet.send("POST", SHOP, config_map("shop", "b", "1").to_string());
    assert_eq!(made.await.unwrap().status, 201);
    let mut connection = kubelet.connect().await.unwrap();
    let from = version(&kubelet.get(SHOP).await.json());
    let mut watch = connection.lines(&watch_from(SHOP, &from)).await.unwrap();
    node.api.put(config_map("shop", "c", "1"));
    assert_eq!(change(&mut watch).await.1, "c");
    node.api.put(
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {}, "metadata": {"namespace": "n", "name": "p"}}),
    );
    let exec = node.kubelet().protocol(Protocol::Http1);
    let exec = exec.header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    let mut alone = exec.connect().await.unwrap();
    let upgraded = alone.open("POST", "/api/v1/namespaces/n/pods/p/exec?command=sh", "");
    assert_eq!(upgraded.await.unwrap().status(), 101);
    node.settle().await;
    node.cut().await;
    assert_eq!(kubelet.get(SHOP).await.header("cache-status"), HIT);
    node.heal().await;
    node.api.put(config_map("shop", "d", "1"));
    assert_eq!(change(&mut watch).await.1, "d", "in the same stream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_servers_certificate_may_be_for_another_name_than_its_host() {
    let pki = Pki::new();
    let options = || Options {
        serving: Some(pki.server(&["kubernetes.default.svc"])),
        // Every other name of the stand-in is in its certificate.
        listen: ([127, 0, 0, 2], 0).into(),
        pki: Some(pki.clone()),
        ..Options::default()
    };
    let named = "  tlsServerName: kubernetes.default.svc\n";
    let node = at(options(), str::to_owned, named).await;
    let list = node.kubelet().get(SHOP).await;
    assert_eq!((list.status, list.header("cache-status")), (200, ""));
    for wrong in ["", "  tlsServerName: kube.example\n"] {
        let node = at(options(), str::to_owned, wrong).await;
        node.wait_link(LinkState::Offline).await;
    }
}

/// rancher/rancher#13058, kubernetes/kubernetes#97350: a redirect that names the path would lead below it twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_of_an_apiserver_below_a_path_does_not_name_the_path() {
    let node = below_a_path().await;
    let moved = node.kubelet().get("/debug/moved").await;
    assert_eq!((moved.status, moved.header("location")), (301, "/debug/echo"));
}

/// wifidog/wifidog-gateway#271, openNDS/openNDS#137 (RFC 6585 section 6: a portal's own status), cloudflare/cloudflared#333 (520 to 530
/// are a gateway's words for 502 and 504): nothing that kube-apiserver says.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_that_only_portals_and_gateways_have_is_no_answer() {
    let node = node().await;
    for code in [407, 511, 520, 521, 522, 523, 524, 530] {
        node.api.fault(Fault::GatewayPage(code).on("/api"));
        let known = node.kubelet().get(SHOP).await;
        assert_eq!(
            (known.status, known.header("cache-status")),
            (200, STALE),
            "{code}"
        );
        node.api.clear_faults();
        node.wait_link(LinkState::Online).await;
    }
}
