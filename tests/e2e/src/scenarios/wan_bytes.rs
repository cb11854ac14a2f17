//! What a large list costs on the link: a watch-list of ten thousand ConfigMaps through edgehold, and without it as a Go client asks
//! for it, which is with gzip.

use std::io::Read as _;

use anyhow::{Context as _, ensure};
use apiserver_standin::Client;
use flate2::read::MultiGzDecoder;
use serde_json::json;
use tokio::task::JoinSet;

use super::step;
use crate::cluster::Cluster;
use crate::link::Link;
use crate::node::Node;

const COLLECTION: &str = "/api/v1/namespaces/wan-bytes/configmaps";
const OBJECTS: usize = 10_000;
const WRITERS: usize = 8;

/// How long the direct watch stays open: long enough for everything.
const SECONDS: u32 = 25;

/// In the bookmark that ends the list.
const END: &str = "k8s.io/initial-events-end";

/// How much more edgehold may take. How many events the apiserver compresses together is chance: 0.99 to 1.03 were seen. Without
/// compression it would be several times as much.
const ALLOWED: f64 = 1.15;

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    step(format!("{OBJECTS} ConfigMaps"));
    fill(cluster).await?;

    step("a watch-list straight from the apiserver, with gzip");
    let link = Link::to(cluster.address(), cluster.network().cloud()).await?;
    let direct = cluster.direct().at(link.address());
    let compressed = read_directly(&direct).await?;
    let direct = link.carried();

    step("the same through edgehold");
    let user = cluster.pki().client(Some("reader"), &["system:masters"]);
    let node = Node::start(cluster, "node", &[("reader", &user)]).await?;
    let before = node.link.carried();
    read_to_the_end(&node.client(Some(&user))).await?;
    let through = node.link.carried() - before;

    let how = if compressed { "gzip" } else { "plain" };
    step(format!(
        "bytes on the link: {through} through edgehold, {direct} directly ({how})"
    ));
    #[expect(clippy::cast_precision_loss, reason = "a ratio")]
    let ratio = through as f64 / direct as f64;
    ensure!(
        ratio <= ALLOWED,
        "edgehold takes {ratio:.3} times as much of the link"
    );
    Ok(())
}

async fn fill(cluster: &Cluster) -> anyhow::Result<()> {
    let namespace = json!({"metadata": {"name": "wan-bytes"}}).to_string();
    cluster.request("POST", "/api/v1/namespaces", &namespace).await?;
    let client = cluster.direct().header("content-type", "application/json");
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = client.clone();
        writers.spawn(async move {
            let mut connection = client.connect().await?;
            for number in (writer..OBJECTS).step_by(WRITERS) {
                let object = json!({
                    "metadata": {"name": format!("settings-{number}"), "labels": {"app": "web"}},
                    "data": {"number": number.to_string(), "text": "the same in each of them"},
                });
                let answer = connection.send("POST", COLLECTION, object.to_string()).await?;
                ensure!(answer.status == 201, "{}", answer.text());
            }
            Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}

fn target(seconds: u32) -> String {
    format!(
        "{COLLECTION}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&\
         timeoutSeconds={seconds}"
    )
}

/// Gives whether the answer was compressed.
async fn read_directly(client: &Client) -> anyhow::Result<bool> {
    let client = client.clone().header("accept-encoding", "gzip");
    let answer = client.send("GET", &target(SECONDS), "").await?;
    ensure!(answer.status == 200, "{}", answer.text());
    let is_compressed = answer.header("content-encoding") == "gzip";
    let mut text = String::new();
    if is_compressed {
        MultiGzDecoder::new(&answer.body[..]).read_to_string(&mut text)?;
    } else {
        text = answer.text();
    }
    let count = text.matches(r#""type":"ADDED""#).count();
    ensure!(
        count == OBJECTS && text.contains(END),
        "{count} of {OBJECTS} objects within {SECONDS} s"
    );
    Ok(is_compressed)
}

async fn read_to_the_end(client: &Client) -> anyhow::Result<()> {
    let mut connection = client.connect().await?;
    let mut lines = connection.lines(&target(600)).await?;
    let mut count = 0;
    loop {
        let event = lines.next().await?.context("the watch has ended")?;
        match event["type"].as_str() {
            Some("ADDED") => count += 1,
            Some("BOOKMARK") if !event["object"]["metadata"]["annotations"][END].is_null() => break,
            _ => {}
        }
    }
    ensure!(count == OBJECTS, "{count} of {OBJECTS} objects");
    Ok(())
}
