//! Documents offline: version, discovery, OpenAPI and the issuer's keys, in the variant that was read.

use apiserver_standin::Fault;
use edgehold::runtime::clock;

use crate::support::{HIT, Node, eventually};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

const DOCUMENTS: [&str; 12] = [
    "/version",
    "/api",
    "/apis",
    "/api/v1",
    "/apis/apps",
    "/apis/apps/v1",
    "/apis/storage.k8s.io/v1",
    "/openapi/v2",
    "/openapi/v3",
    "/openapi/v3/apis/apps/v1",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_document_that_was_read_is_there_offline_and_after_a_restart() {
    let mut node = Node::start().await;
    let mut online = Vec::new();
    for target in DOCUMENTS {
        let answer = node.kubelet().get(target).await;
        assert_eq!(answer.status, 200, "{target}");
        online.push((target, answer));
    }
    node.settle().await;
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
        }
        node.cut().await;
        for (target, online) in &online {
            let cached = node.kubelet().get(target).await;
            assert_eq!(
                (cached.status, &cached.body, cached.header("cache-status")),
                (200, &online.body, HIT),
                "{target}"
            );
            for name in ["content-type", "etag", "vary"] {
                assert_eq!(cached.header(name), online.header(name), "{target} {name}");
            }
            assert!(cached.header("age").parse::<u64>().is_ok(), "{target}");
            // client-go sends a timeout along.
            let timed = node.kubelet().get(&format!("{target}?timeout=32s")).await;
            assert_eq!(timed.status, 200, "{target}");
            assert_eq!(
                node.client(None).get(target).await.status,
                503,
                "{target} of another principal"
            );
        }
        node.heal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregated_and_plain_discovery_are_two_documents() {
    let node = Node::start().await;
    let aggregated = node.kubelet().header("accept", AGGREGATED);
    let plain = node.kubelet().header("accept", "application/json");
    let mut online = Vec::new();
    for target in ["/api", "/apis"] {
        let (many, few) = (aggregated.get(target).await, plain.get(target).await);
        assert_ne!(many.body, few.body);
        online.push((target, many, few));
    }
    // Read in one variant only.
    assert_eq!(plain.get("/apis/apps").await.status, 200);
    node.cut().await;
    for (target, many, few) in online {
        for (client, online) in [(&aggregated, many), (&plain, few)] {
            let cached = client.get(target).await;
            assert_eq!(cached.body, online.body, "{target}");
            assert_eq!(cached.header("content-type"), online.header("content-type"));
        }
        let no_other = node.kubelet().header(
            "accept",
            "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        );
        assert_eq!(no_other.get(target).await.status, 503, "{target}");
    }
    assert_eq!(
        aggregated.get("/apis/apps").await.status,
        200,
        "it takes plain JSON too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_the_document_already_gets_304() {
    let node = Node::start().await;
    let aggregated = node.kubelet().header("accept", AGGREGATED);
    for target in ["/apis", "/openapi/v2"] {
        let online = aggregated.get(target).await;
        let etag = online.header("etag").to_owned();
        assert!(!etag.is_empty(), "{target} has an ETag");
        // Revalidated online: the copy stays.
        let same = aggregated.clone().header("if-none-match", &etag);
        assert_eq!(same.get(target).await.status, 304);
        node.cut().await;
        let cached = same.get(target).await;
        assert_eq!(
            (cached.status, cached.body.len(), cached.header("etag")),
            (304, 0, etag.as_str())
        );
        let other = aggregated.clone().header("if-none-match", "\"other\"");
        let cached = other.get(target).await;
        assert_eq!((cached.status, cached.body), (200, online.body));
        node.heal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_304_of_the_cloud_makes_the_copy_young_again() {
    let node = Node::start().await;
    let online = node.kubelet().get("/openapi/v2").await;
    let etag = online.header("etag").to_owned();
    node.settle().await;
    let age = || async {
        let cached = node.kubelet().get("/openapi/v2").await;
        assert_eq!((cached.status, cached.header("cache-status")), (200, HIT));
        cached.header("age").parse::<u64>().unwrap()
    };
    node.cut().await;
    eventually("it has grown old", || async { age().await >= 3 }).await;
    node.heal().await;
    let asked = clock::now();
    // Another document says nothing about ours.
    for (etag, status) in [("\"other\"", 200), (etag.as_str(), 304)] {
        let target = if status == 200 { "/apis" } else { "/openapi/v2" };
        let same = node.kubelet().header("if-none-match", etag);
        assert_eq!(same.get(target).await.status, status);
    }
    node.settle().await;
    node.cut().await;
    let (now, since) = (age().await, (clock::now() - asked).as_secs());
    assert!(now <= since + 1, "{now} s old, confirmed {since} s ago");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_metrics_are_never_answered_from_the_cache() {
    let node = Node::start().await;
    let targets = [
        "/healthz",
        "/readyz",
        "/livez",
        "/readyz?verbose",
        "/metrics",
        "/",
    ];
    for target in targets {
        node.kubelet().get(target).await;
    }
    node.cut().await;
    for target in targets {
        let answer = node.kubelet().get(target).await;
        assert_eq!(
            (answer.status, answer.header("retry-after")),
            (503, ""),
            "{target}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_document_or_a_page_of_a_gateway_leaves_the_copy_alone() {
    let node = Node::start().await;
    let online = node.kubelet().get("/openapi/v2").await;
    node.settle().await;
    let length = online.body.len() as u64;
    let faults = [
        Fault::CutBody { after_bytes: 0 },
        Fault::CutBody {
            after_bytes: length / 2,
        },
        Fault::CutBody { after_bytes: length },
        Fault::ShortBody,
        Fault::GatewayPage(200),
        Fault::GatewayPage(404),
        Fault::GatewayPage(403),
        Fault::Status(404),
    ];
    for fault in faults {
        for target in ["/openapi/v2", "/version"] {
            node.api.fault(fault.on(target).times(1));
            let _broken = node.kubelet().send("GET", target, "").await;
        }
    }
    node.cut().await;
    assert_eq!(node.kubelet().get("/openapi/v2").await.body, online.body);
    assert_eq!(node.status("/version").await, 503);
}
