//! Tables, as `kubectl get` asks for them: always in pages.

use apiserver_standin::Client;

use crate::support::{HIT, Node, TABLE, config_map};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

fn kubectl(node: &Node) -> Client {
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
    node.kubelet()
        .header("accept", table)
        .header("user-agent", "kubectl/v1.36.0 (linux/amd64)")
}

async fn node_with_two_config_maps() -> Node {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    node.api.put(config_map("shop", "b", "2"));
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_one_page_is_answered_offline_with_a_warning_for_kubectl() {
    let node = node_with_two_config_maps().await;
    let target = format!("{LIST}?limit=500");
    let online = kubectl(&node).get(&target).await;
    assert_eq!((online.status, &online.json()["kind"]), (200, &"Table".into()));
    node.cut().await;
    let offline = kubectl(&node).get(&target).await;
    assert_eq!((offline.status, offline.body), (200, online.body));
    assert!(
        offline.headers["warning"]
            .to_str()
            .unwrap()
            .contains("the cloud cannot be reached")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_a_table_is_answered_from_the_whole_one() {
    let node = node_with_two_config_maps().await;
    let mut other = config_map("shop", "c", "3");
    other["metadata"]["labels"] = serde_json::json!({"app": "db"});
    node.api.put(other);
    node.api.put(config_map("bank", "d", "4"));
    let narrower = [
        format!("{LIST}?limit=500"),
        format!("{LIST}?labelSelector=app%3Dweb&limit=500"),
        "/api/v1/configmaps?labelSelector=app+notin+%28web%29&limit=500".to_owned(),
        format!("{LIST}?fieldSelector=metadata.name%3Da&limit=500"),
        format!("{LIST}?labelSelector=app%3Dnone&limit=500"),
    ];
    assert_eq!(
        kubectl(&node).get("/api/v1/configmaps?limit=500").await.status,
        200
    );
    node.settle().await;
    let direct = node.direct().header("accept", TABLE);
    let mut truth = Vec::new();
    for target in &narrower {
        truth.push(direct.get(target).await.json());
    }
    node.cut().await;
    for (target, truth) in narrower.iter().zip(truth) {
        let offline = kubectl(&node).get(target).await;
        assert_eq!(
            (offline.status, offline.header("cache-status")),
            (200, HIT),
            "{}",
            offline.text()
        );
        // Cells have ages, which pass.
        let objects = |table: &serde_json::Value| {
            let rows = table["rows"].as_array().unwrap().iter();
            rows.map(|row| row["object"].clone()).collect::<Vec<_>>()
        };
        let offline = offline.json();
        assert_eq!(objects(&offline), objects(&truth), "{target}");
        for part in ["kind", "apiVersion", "metadata", "columnDefinitions"] {
            assert_eq!(offline[part], truth[part], "{target}: {part}");
        }
    }
    // Neither for other fields, nor for another principal.
    let by_data = kubectl(&node)
        .get("/api/v1/configmaps?fieldSelector=data.k%3D1&limit=500")
        .await;
    assert_eq!(
        (by_data.status, by_data.header("cache-status")),
        (503, "edgehold; detail=other_part")
    );
    let proxy = node
        .client(Some(&node.pair("kube-proxy")))
        .header("accept", TABLE);
    assert_eq!(proxy.get(&narrower[1]).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_was_read_last_is_answered_though_it_had_not_changed() {
    let node = node_with_two_config_maps().await;
    let target = format!("{LIST}?limit=500");
    kubectl(&node).get(&target).await;
    node.settle().await;
    // The same list again as plain JSON, and then again as the very same Table: that is what is known best.
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    node.settle().await;
    let table = kubectl(&node).get(&target).await;
    node.cut().await;
    let offline = kubectl(&node).get(&target).await;
    assert_eq!(offline.json()["kind"], "Table");
    assert_eq!(offline.body, table.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_goes_on_on_another_page_is_unknown_offline() {
    let node = node_with_two_config_maps().await;
    let first = kubectl(&node).get(&format!("{LIST}?limit=1")).await;
    let next = first.json()["metadata"]["continue"].as_str().unwrap().to_owned();
    let second = kubectl(&node)
        .get(&format!("{LIST}?limit=1&continue={next}"))
        .await;
    assert_eq!((first.status, second.status), (200, 200));
    node.cut().await;
    for target in [format!("{LIST}?limit=1"), LIST.to_owned()] {
        assert_eq!(kubectl(&node).get(&target).await.status, 503, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_of_rows_goes_on_after_a_cut_in_one_stream() {
    let node = node_with_two_config_maps().await;
    let list = kubectl(&node).get(&format!("{LIST}?limit=500")).await.json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut connection = kubectl(&node).connect().await.unwrap();
    let target = format!("{LIST}?watch=true&resourceVersion={version}");
    let mut watch = connection.lines(&target).await.unwrap();
    node.api.put(config_map("shop", "c", "3"));
    let row = |event: &serde_json::Value| event["object"]["rows"][0]["object"]["metadata"]["name"].clone();
    assert_eq!(row(&watch.next().await.unwrap().unwrap()), "c");

    node.cut().await;
    node.api.put(config_map("shop", "d", "4"));
    node.heal().await;
    let event = watch.next().await.unwrap().expect("the stream was held");
    assert_eq!((&event["type"], row(&event)), (&"ADDED".into(), "d".into()));
}
