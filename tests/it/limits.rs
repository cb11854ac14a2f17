//! Limits: each client has its own, and what is over it is asked to come again.

use apiserver_standin::{Fault, Options, Protocol};
use edgehold::upstream::Purpose;

use crate::support::{KUBELET, Node, PROTOCOLS, Setup, config_map, eventually};

const OBJECT: &str = "/api/v1/namespaces/shop/configmaps/a";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_its_limit_gets_429_and_others_are_not_touched() {
    let setup = Setup {
        kubelet_limits: Some("{qps: 0.001, burst: 2}"),
        default_limits: Some("{qps: 0.001, burst: 2}"),
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
        // With the first it is a stranger.
        for _ in 0..3 {
            assert_eq!(account.get("/version").await.status, 200);
        }
        assert_eq!(
            account.get("/version").await.status,
            429,
            "each account has its own bucket"
        );
    }
    let third = node.token_client(&node.api.service_account_token("shop", "three"));
    let status = third.get("/version").await.status;
    assert_eq!(status, 429, "all strangers of one source have one");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_are_capped_for_each_client_and_a_free_place_is_taken_again() {
    for protocol in PROTOCOLS {
        let setup = Setup {
            kubelet_limits: Some("{qps: 1000, burst: 1000, inFlight: 2}"),
            ..Setup::default()
        };
        let node = Node::with(Options::default(), setup).await;
        node.api.put(config_map("shop", "a", "1"));
        let kubelet = node.kubelet().protocol(protocol);
        // Two answers that nobody reads to their end.
        let mut slow = Vec::new();
        for n in 0..2 {
            let mut connection = kubelet.connect().await.unwrap();
            let target = format!("/debug/blob?size=20000000&n={n}");
            let response = connection.open("GET", &target, "").await.unwrap();
            assert_eq!(response.status(), 200);
            slow.push((connection, response));
        }
        let over = kubelet.get(OBJECT).await;
        assert_eq!(
            (over.status, over.header("retry-after")),
            (429, "1"),
            "{protocol:?}"
        );
        assert_eq!(over.json()["reason"], "TooManyRequests");
        assert_eq!(node.asked("GET", OBJECT), 0, "it does not reach the cloud");

        let write = kubelet.send("DELETE", OBJECT, "").await.unwrap();
        assert_eq!(write.status, 200, "writes are counted apart");
        let mut connection = kubelet.connect().await.unwrap();
        let watch = connection.lines("/api/v1/configmaps?watch=true").await.unwrap();
        assert_eq!(watch.response.status(), 200, "watches are not counted");
        let proxy = node.client(Some(&node.pair("kube-proxy")));
        assert_eq!(proxy.get("/version").await.status, 200, "nor are others");

        slow.pop();
        eventually("there is room again", || async {
            kubelet.get("/version").await.status == 200
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_the_cloud_leaves_unanswered_counts_until_its_client_goes() {
    let setup = Setup {
        default_limits: Some("{qps: 1000, burst: 1000, inFlight: 1}"),
        ..Setup::default()
    };
    let node = Node::with(Options::default(), setup).await;
    let account = node.token_client(&node.api.service_account_token("shop", "default"));
    assert_eq!(account.get("/version").await.status, 200);
    node.api.fault(Fault::Stall.on("/api/v1/pods"));
    let mut connection = account.connect().await.unwrap();
    {
        let mut asking = std::pin::pin!(connection.open("GET", "/api/v1/pods", ""));
        tokio::select! {
            _ = asking.as_mut() => panic!("it was answered"),
            _ = node.api.wait_for(|seen| seen.path() == "/api/v1/pods") => {}
        }
        assert_eq!(account.get("/version").await.status, 429);
    }
    drop(connection);
    eventually("it is forgotten", || async {
        account.get("/version").await.status == 200
    })
    .await;
}

/// client-go of 1.38 spreads the requests of one client over a pool of connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_several_connections_is_one_client() {
    let setup = Setup {
        kubelet_limits: Some("{qps: 0.001, burst: 3}"),
        default_limits: Some("{qps: 0.001, burst: 3}"),
        ..Setup::default()
    };
    let node = Node::with(Options::default(), setup).await;
    node.api.put(config_map("shop", "a", "1"));
    let account = node.token_client(&node.api.service_account_token("shop", "default"));
    // Until an apiserver has accepted its token it is nobody, and counts as its address does.
    assert_eq!(account.get(OBJECT).await.status, 200);
    for client in [node.kubelet(), account] {
        let mut pool = Vec::new();
        for protocol in [Protocol::Http2, Protocol::Http2, Protocol::Http1] {
            pool.push(client.clone().protocol(protocol).connect().await.unwrap());
        }
        for expected in [200, 429] {
            for connection in &mut pool {
                let answer = connection.send("GET", OBJECT, "").await.unwrap();
                assert_eq!(answer.status, expected);
            }
        }
        let mut watches = Vec::new();
        for connection in &mut pool {
            let watch = connection.lines("/api/v1/configmaps?watch=true").await.unwrap();
            assert_eq!(watch.response.status(), 200);
            watches.push(watch);
        }
    }
    let transports = node.running().proxy().transports();
    for transport in [transports.named(KUBELET).unwrap(), transports.default_transport()] {
        let usage = transport.usage();
        for purpose in [Purpose::Short, Purpose::Watch] {
            assert_eq!(usage[&purpose].0, 1, "one connection to the cloud");
        }
    }
}
