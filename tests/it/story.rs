//! The story of the product, once through: online, cached, cut, answered, held, restarted, back.

use apiserver_standin::Fault;
use serde_json::json;

use crate::support::{KUBELET, Node, STALE, config_map, names};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn online_cached_cut_answered_restarted_and_back() {
    let mut node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    node.api.put(config_map("shop", "b", "2"));

    let online = node.kubelet().get(LIST).await;
    assert_eq!((online.status, online.header("cache-status")), (200, ""));
    let got = node.kubelet().get(&format!("{LIST}/a")).await;
    assert_eq!(got.json()["data"]["k"], "1");
    let seen = node.api.wait_for(|seen| seen.path() == LIST).await;
    assert_eq!(seen.peer_cn.as_deref(), Some(KUBELET));

    node.cut().await;
    let cached = node.kubelet().get(LIST).await;
    assert_eq!(
        (cached.status, cached.header("cache-status")),
        (200, "edgehold; hit; detail=offline")
    );
    assert_eq!(
        cached.body, online.body,
        "the list is put together again byte for byte"
    );
    assert_eq!(
        node.kubelet().get(&format!("{LIST}/a")).await.json()["data"]["k"],
        "1"
    );

    let unknown = node.kubelet().get("/api/v1/namespaces/shop/secrets").await;
    assert_eq!((unknown.status, unknown.header("retry-after")), (503, ""));
    assert_eq!(unknown.json()["kind"], "Status");
    let write = node
        .kubelet()
        .send("DELETE", &format!("{LIST}/a"), "")
        .await
        .unwrap();
    assert_eq!(write.status, 503);

    node.restart().await;
    let rebooted = node.kubelet().get(LIST).await;
    assert_eq!((rebooted.status, rebooted.body), (200, online.body));

    node.heal().await;
    node.api.put(config_map("shop", "c", "3"));
    let back = node.kubelet().get(LIST).await;
    assert_eq!(
        (names(&back.json()), back.header("cache-status")),
        (vec!["a".into(), "b".into(), "c".into()], "")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_list_survives_a_cut_in_one_stream() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let mut connection = node.kubelet().connect().await.unwrap();
    let target = format!(
        "{LIST}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut watch = connection.lines(&target).await.unwrap();
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (&first["type"], &first["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("a"))
    );
    let end = watch.next().await.unwrap().unwrap();
    assert_eq!(
        end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    node.api.put(config_map("shop", "b", "2"));
    assert_eq!(
        watch.next().await.unwrap().unwrap()["object"]["metadata"]["name"],
        "b"
    );

    node.cut().await;
    let list = node.kubelet().get(LIST).await;
    assert_eq!(
        names(&list.json()),
        ["a", "b"],
        "the view was made from the watch alone"
    );

    node.api.put(config_map("shop", "c", "3"));
    node.api.delete("ConfigMap", "shop", "a");
    node.heal().await;
    let added = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (&added["type"], &added["object"]["metadata"]["name"]),
        (&json!("ADDED"), &json!("c"))
    );
    let deleted = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (&deleted["type"], &deleted["object"]["metadata"]["name"]),
        (&json!("DELETED"), &json!("a"))
    );

    node.cut().await;
    assert_eq!(names(&node.kubelet().get(LIST).await.json()), ["b", "c"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusing_cloud_costs_a_stalled_read_nothing_after_the_first() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    node.settle().await;
    node.api.fault(Fault::GatewayPage(502));
    let answered = node.kubelet().get(LIST).await;
    assert_eq!((answered.status, answered.header("cache-status")), (200, STALE));
}
