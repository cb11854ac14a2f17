//! Links that work, badly: nobody may be told that the cloud is away.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{list, put};
use crate::figures::{Figures, percentile};
use crate::node::{DOUBTED, Node, OFFLINE, PATIENCE};
use crate::watching::Watching;
use crate::wire::Conditions;

pub(super) async fn lossy(node: &Node, length: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    put(node, "shop", "first", "x");
    let mut watching = Watching::start(&node.client(), "shop", "100").await?;
    let began = Instant::now();
    node.set(Conditions {
        loss: 0.2,
        delay: Duration::from_millis(400),
        ..Conditions::GOOD
    });
    let (mut reads, mut cached, mut times) = (0, 0, Vec::new());
    let mut connection = node.client().connect().await?;
    while began.elapsed() < length {
        let name = format!("event-{reads}");
        put(node, "shop", &name, "x");
        reads += 1;
        let asked = Instant::now();
        let reading = connection.open_patiently("GET", "/api/v1/namespaces/shop/configmaps/first", "".into());
        let response = tokio::time::timeout(PATIENCE, reading).await??;
        anyhow::ensure!(response.status() == 200, "{}", response.status());
        cached += usize::from(response.headers().contains_key("cache-status"));
        times.push(asked.elapsed());
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let offline = node.count_since(began, OFFLINE);
    figures.note("reads", format_args!("{reads}, of them {cached} from the cache"));
    figures.note("read, median", format_args!("{:?}", percentile(&mut times, 50)));
    figures.note("read, p99", format_args!("{:?}", percentile(&mut times, 99)));
    figures.note("doubts about the link", node.count_since(began, DOUBTED));
    anyhow::ensure!(offline == 0, "{offline} times wrongly offline in {length:?}");
    let events = watching.events(reads + 1, PATIENCE).await?;
    anyhow::ensure!(
        events.len() == reads + 1,
        "{} events of {}",
        events.len(),
        reads + 1
    );
    Ok(())
}

pub(super) async fn narrow(node: &Node, figures: &mut Figures) -> anyhow::Result<()> {
    const ITEMS: usize = 40;
    // Random text, or gzip would make the link wide.
    for number in 0..ITEMS {
        let value: String = std::iter::repeat_with(fastrand::alphanumeric)
            .take(3000)
            .collect();
        put(node, "large", &format!("item-{number}"), &value);
    }
    put(node, "shop", "small", "x");
    let began = Instant::now();
    node.set(Conditions {
        rate: Some(64_000),
        delay: Duration::from_millis(100),
        ..Conditions::GOOD
    });
    let large = async {
        let mut connection = node.client().connect().await?;
        let target = list("large");
        let opened = connection.open_patiently("GET", &target, "".into());
        let response = tokio::time::timeout(PATIENCE, opened).await??;
        anyhow::ensure!(response.status() == 200, "{}", response.status());
        let body = http_body_util::BodyExt::collect(response.into_body());
        let whole = tokio::time::timeout(PATIENCE, body).await??.to_bytes();
        let list: serde_json::Value = serde_json::from_slice(&whole)?;
        let items = list["items"].as_array().map_or(0, Vec::len);
        anyhow::ensure!(items == ITEMS, "{items} of {ITEMS} items");
        anyhow::Ok((whole.len(), began.elapsed()))
    };
    let small = async {
        let mut times = Vec::new();
        for _ in 0..5 {
            let asked = Instant::now();
            let mut connection = node.client().connect().await?;
            let target = "/api/v1/namespaces/shop/configmaps/small";
            let opened = connection.open_patiently("GET", target, "".into());
            let response = tokio::time::timeout(PATIENCE, opened).await??;
            anyhow::ensure!(response.status() == 200, "{}", response.status());
            times.push(asked.elapsed());
        }
        anyhow::Ok(times)
    };
    let ((bytes, took), mut times) = tokio::try_join!(large, small)?;
    figures.note("a list beside others", format_args!("{bytes} bytes in {took:?}"));
    figures.note(
        "a small read beside it, longest",
        format_args!("{:?}", percentile(&mut times, 100)),
    );
    let offline = node.count_since(began, OFFLINE);
    anyhow::ensure!(offline == 0, "{offline} times wrongly offline");
    let refused = node
        .client()
        .send(
            "POST",
            &list("shop"),
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "new"}}).to_string(),
        )
        .await?;
    anyhow::ensure!(refused.status == 201, "a write: {}", refused.text());
    Ok(())
}
