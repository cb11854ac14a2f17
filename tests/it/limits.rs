//! Limits: each client has its own, and what is over it is asked to come again.

use apiserver_standin::Options;

use crate::support::{Node, Setup, config_map};

const OBJECT: &str = "/api/v1/namespaces/shop/configmaps/a";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_its_limit_gets_429_and_others_are_not_touched() {
    let setup = Setup {
        kubelet_limits: Some("{qps: 0.001, burst: 2}"),
        default_limits: Some("{qps: 0.001, burst: 1}"),
        ..Setup::default()
    };
    let node = Node::with(Options::default(), setup).await;
    node.api.put(config_map("shop", "a", "1"));
    let kubelet = node.kubelet();
    for _ in 0..2 {
        assert_eq!(kubelet.get(OBJECT).await.status, 200);
    }
    let over = kubelet.get(OBJECT).await;
    assert_eq!((over.status, over.header("retry-after")), (429, "1"));
    let status = over.json();
    assert_eq!(status["reason"], "TooManyRequests");
    assert_eq!(status["details"]["retryAfterSeconds"], 1);
    let requests = node
        .api
        .requests()
        .iter()
        .filter(|seen| seen.path() == OBJECT)
        .count();
    assert_eq!(requests, 2, "what is over the limit does not reach the cloud");

    let write = kubelet.send("DELETE", OBJECT, "").await.unwrap();
    assert_eq!(write.status, 200, "writes have a bucket of their own");
    let mut connection = kubelet.connect().await.unwrap();
    let watch = connection.lines("/api/v1/configmaps?watch=true").await.unwrap();
    assert_eq!(watch.response.status(), 200, "watches are not counted");

    let proxy = node.client(Some(&node.pair("kube-proxy")));
    for _ in 0..5 {
        assert_eq!(
            proxy.get("/version").await.status,
            200,
            "this client has no limit"
        );
    }
    for name in ["one", "two"] {
        let account = node.token_client(&node.api.service_account_token("shop", name));
        assert_eq!(account.get("/version").await.status, 200);
        assert_eq!(
            account.get("/version").await.status,
            429,
            "each account has its own bucket"
        );
    }
}
