//! What is measured of watches, of the link and of edgehold's own time.

use edgehold::admin::client;

use crate::support::{Node, config_map, eventually, watch_list};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

async fn metrics(node: &Node) -> String {
    let address = node.running().admin_address().unwrap();
    let said = client::get(address, "/metrics", None).await.unwrap();
    String::from_utf8(said.to_vec()).unwrap()
}

/// The value of a series; zero if there is none.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics
        .lines()
        .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_are_counted_as_they_are_and_how_far_behind_they_are_is_said() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let mut connection = node.kubelet().connect().await.unwrap();
    let watch = connection.lines(&watch_list(LIST)).await.unwrap();
    assert_eq!(watch.response.status(), 200);
    let state = |metrics: &str| {
        ["live", "held"].map(|state| value(metrics, &format!("edgehold_watches{{state=\"{state}\"}}")))
    };
    eventually("the watch is live", async || {
        state(&metrics(&node).await) == [1.0, 0.0]
    })
    .await;
    assert_eq!(
        value(&metrics(&node).await, "edgehold_watches_behind_seconds"),
        0.0
    );
    node.cut().await;
    eventually("the watch is held", async || {
        state(&metrics(&node).await) == [0.0, 1.0]
    })
    .await;
    assert!(value(&metrics(&node).await, "edgehold_watches_behind_seconds") > 0.0);
    node.heal().await;
    eventually("the watch is live again", async || {
        state(&metrics(&node).await) == [1.0, 0.0]
    })
    .await;
    let now = metrics(&node).await;
    assert_eq!(value(&now, "edgehold_watches_resumed_total"), 1.0);
    assert_eq!(value(&now, "edgehold_watches_behind_seconds"), 0.0);
    drop((watch, connection));
    eventually("the watch is gone", async || {
        state(&metrics(&node).await) == [0.0, 0.0]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_the_link_are_counted_and_the_time_on_it_is_not_edgeholds() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", &"x".repeat(100_000)));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    let now = metrics(&node).await;
    let server = node.api.addr();
    let bytes = |way: &str| {
        value(
            &now,
            &format!("edgehold_upstream_{way}_bytes_total{{server=\"{server}\"}}"),
        )
    };
    // It came compressed.
    assert!(bytes("received") > 1000.0 && bytes("sent") > 1000.0, "{now}");
    let sum = |name: &str| {
        value(
            &now,
            &format!("edgehold_request_{name}_seconds_sum{{route=\"read\",result=\"upstream\"}}"),
        )
    };
    assert!(
        sum("own") > 0.0 && sum("own") < sum("duration"),
        "{} {}",
        sum("own"),
        sum("duration")
    );
}
