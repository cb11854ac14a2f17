//! What is between edgehold and the apiserver, and the apiserver itself, may not answer the probe of choice though requests
//! are served.

use apiserver_standin::{Existing, Fault, Options};
use edgehold::upstream::LinkState;

use crate::support::{Node, Setup, config_map, eventually};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

async fn node(options: Options) -> Node {
    let node = Node::with(options, Setup::default()).await;
    node.api.put(config_map("shop", "a", "1"));
    node
}

/// Answers come from the apiserver, also after a start, after a broken connection, and after an outage.
async fn stays_online(node: &mut Node, faults: &[Fault], paths: &[&str]) {
    let block = |node: &Node| {
        for fault in faults {
            paths.iter().for_each(|path| node.api.fault(fault.on(path)));
        }
    };
    block(node);
    node.restart().await;
    live(node, "after a start").await;
    for _ in 0..3 {
        node.api.cut_connections();
        live(node, "after a broken connection").await;
    }
    node.api.fault(Fault::Refuse(Existing::Cut));
    node.kubelet().get("/version?cut").await;
    node.wait_link(LinkState::Offline).await;
    node.api.clear_faults();
    block(node);
    node.wait_link(LinkState::Online).await;
    live(node, "after an outage").await;
}

/// Whatever the probes after that say, it stays so.
async fn live(node: &Node, when: &str) {
    eventually(&format!("an answer is live {when}"), || async {
        let answer = node.kubelet().get(LIST).await;
        (answer.status, answer.header("cache-status")) == (200, "")
    })
    .await;
    let before = node.api.requests().len();
    // A failure, so that it is probed; the only server is not as long as it answers.
    node.api.fault(Fault::Reset.on("/api/v1/nodes?fails").times(1));
    let _any = node.kubelet().send("GET", "/api/v1/nodes?fails", "").await;
    eventually("it was asked", || async { node.api.requests().len() > before }).await;
    node.wait_link(LinkState::Online).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_demands_certificates_is_probed_with_a_configured_pair() {
    let options = Options {
        demand_certificate: true,
        ..Options::default()
    };
    let mut node = node(options).await;
    stays_online(&mut node, &[], &[]).await;
    let probes = node.api.requests();
    let probe = probes.iter().find(|seen| seen.path() == "/readyz").unwrap();
    assert!(probe.peer_cn.is_some(), "{probe:?}");
    assert!(probe.headers.get("authorization").is_none(), "{probe:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_balancer_that_lets_only_the_api_through_is_probed_there() {
    let mut node = node(Options::default()).await;
    for code in [404, 403, 200] {
        let paths = ["/readyz", "/livez", "/healthz", "/version", "/openapi"];
        stays_online(&mut node, &[Fault::GatewayPage(code)], &paths).await;
        assert!(node.asked("GET", "/api") > 0, "{code}");
        node.api.clear_faults();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_only_server_that_says_it_is_not_ready_is_used() {
    let mut node = node(Options::default()).await;
    for code in [500, 503, 429] {
        stays_online(&mut node, &[Fault::Status(code)], &["/readyz"]).await;
        node.api.clear_faults();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_its_apiserver_is_not_asked_in_other_ways() {
    let mut node = node(Options::default()).await;
    node.api.fault(Fault::GatewayPage(502));
    node.restart().await;
    node.wait_link(LinkState::Offline).await;
    node.api.forget_requests();
    eventually("it is probed again", || async {
        node.asked("GET", "/readyz") > 3
    })
    .await;
    assert_eq!(node.asked("GET", "/api") + node.asked("GET", "/version"), 0);
    node.api.clear_faults();
    node.wait_link(LinkState::Online).await;
}
