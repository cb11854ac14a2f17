//! Histories that break: lists in pages while objects change, history compacted during an outage, an apiserver that was started
//! again, etcd restored from an older copy so that resource versions go backwards. What edgehold answers is always one
//! state of one past, and never a mixture.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};
use apiserver_standin::{Answer, Client, Lines};
use serde_json::Value;
use tokio::process::Command;

use super::step;
use crate::cluster::Cluster;
use crate::node::{Cut, Node};
use crate::process::{Driven, until};
use crate::tools::Tool;

const COLLECTION: &str = "/api/v1/namespaces/past/configmaps";
const OBJECTS: u32 = 20;
const PAGE: usize = 7;

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"past"}}"#;
    cluster.request("POST", "/api/v1/namespaces", namespace).await?;
    for number in 0..OBJECTS {
        create(cluster, &name(number), "zero").await?;
    }
    let user = cluster.pki().client(Some("reader"), &["system:masters"]);
    let mut node = Node::start(cluster, "node", &[("reader", &user)]).await?;
    let reader = Reader {
        client: node.client(Some(&user)),
    };
    for cut in Cut::ALL {
        paging(cluster, &mut node, &reader, cut).await?;
    }
    let mut command = Command::new(cluster.tools().path(Tool::Client));
    let kubeconfig = cluster.kubeconfig("reader", node.address, &user)?;
    command
        .args(["informers", "-namespace=past"])
        .arg(format!("-v={}", crate::process::verbosity()))
        .arg(format!("-kubeconfig={}", kubeconfig.display()));
    let mut informers = Driven::start("informers", &mut command, node.dir())?;
    same(cluster, &mut informers).await?;
    for cut in Cut::ALL {
        compaction(cluster, &mut node, &reader, &mut informers, cut).await?;
    }
    for cut in Cut::ALL {
        restored(cluster, &mut node, &reader, cut).await?;
        drop(informers);
        informers = Driven::start("informers", &mut command, node.dir())?;
        same(cluster, &mut informers).await?;
    }
    Ok(())
}

/// A chain of pages shows the state of its first page, whatever happens between them, and that is what is kept of it.
async fn paging(cluster: &mut Cluster, node: &mut Node, reader: &Reader, cut: Cut) -> anyhow::Result<()> {
    step(format!(
        "objects change between pages; then offline ({})",
        cut.as_str()
    ));
    let mut pages = Pages::default();
    let before = direct(cluster).await?;
    reader.page(&mut pages).await?;
    for number in 0..OBJECTS {
        update(cluster, &name(number), cut.as_str()).await?;
    }
    create(
        cluster,
        &format!("new-{}", cut.as_str().replace(' ', "-")),
        cut.as_str(),
    )
    .await?;
    while !pages.is_complete() {
        reader.page(&mut pages).await?;
    }
    ensure!(
        pages.items == before,
        "the pages are a mixture: {:?}, was {before:?}",
        pages.items
    );
    // Another chain, which nobody finishes, must not spoil it.
    reader.page(&mut Pages::default()).await?;
    node.go_offline(cluster, cut).await?;
    // The disk may be slower than this test.
    until("the pages are there offline", 30, async || {
        node.check()?;
        Ok(match reader.list().await {
            Ok(items) if items == before => Ok(()),
            Ok(items) => anyhow::bail!("offline {items:?}, online it was {before:?}"),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await?;
    node.kill_and_launch(cluster).await?;
    let mut offline = Pages::default();
    while !offline.is_complete() {
        reader.page(&mut offline).await?;
    }
    ensure!(
        offline.items == before && offline.revision == pages.revision,
        "offline {offline:?}, online it was {pages:?}"
    );
    node.go_online(cluster).await
}

/// Watches that were held over an outage cannot go on when history is gone: they say so, and informers list again.
async fn compaction(
    cluster: &mut Cluster,
    node: &mut Node,
    reader: &Reader,
    informers: &mut Driven,
    cut: Cut,
) -> anyhow::Result<()> {
    step(format!("history is compacted while offline ({})", cut.as_str()));
    let value_now = format!("compacted, {}", cut.as_str());
    let mut connection = connect(&reader.client).await?;
    let list = cluster.read(COLLECTION).await?;
    let revision = list["metadata"]["resourceVersion"]
        .as_str()
        .context("a revision")?;
    let target = format!("{COLLECTION}?watch=true&timeoutSeconds=3600&resourceVersion={revision}");
    let mut watch = connection
        .lines(&target)
        .await
        .map_err(|error| anyhow::anyhow!(error.0))?;
    node.go_offline(cluster, cut).await?;
    node.cloud_without_node(cluster).await?;
    for number in 0..OBJECTS {
        update(cluster, &name(number), &value_now).await?;
    }
    let list = cluster.read(COLLECTION).await?;
    cluster
        .compact(
            list["metadata"]["resourceVersion"]
                .as_str()
                .context("a revision")?,
        )
        .await?;
    // Its cache of events would still bridge the gap.
    cluster.kill_apiserver().await?;
    cluster.ensure_apiserver().await?;
    node.go_online(cluster).await?;
    gone_or_whole(&mut watch, &value_now)
        .await
        .context("the held watch")?;
    same(cluster, informers).await
}

/// Reads a watch until it says 410, or until it has told of every object's new value after all: what was on its way when packets
/// began to be dropped may still arrive.
async fn gone_or_whole(watch: &mut Lines, value: &str) -> anyhow::Result<()> {
    let mut told = BTreeSet::new();
    until("410, or all events", 60, async || {
        let event = match watch.next().await {
            Ok(event) => event.context("it ended without a word")?,
            Err(error) if error.0.contains("Elapsed") => return Ok(Err(format!("told {told:?}"))),
            Err(error) => anyhow::bail!("it has broken: {}", error.0),
        };
        let object = &event["object"];
        if event["type"] == "ERROR" {
            ensure!(object["code"] == 410, "expected 410, got {event}");
            return Ok(Ok(()));
        }
        ensure!(object["data"]["v"] == value, "expected {value}, got {event}");
        told.insert(object["metadata"]["name"].to_string());
        Ok(if told.len() == OBJECTS as usize {
            Ok(())
        } else {
            Err(format!("told {told:?}"))
        })
    })
    .await
}

/// After a restore the cluster's own past is what counts.
async fn restored(cluster: &mut Cluster, node: &mut Node, reader: &Reader, cut: Cut) -> anyhow::Result<()> {
    step("etcd is copied; then everything changes and is read through edgehold");
    cluster.back_up().await?;
    node.go_online(cluster).await?;
    let old = direct(cluster).await?;
    create(cluster, "late", "doomed").await?;
    for number in 0..OBJECTS {
        update(cluster, &name(number), &format!("doomed, {}", cut.as_str())).await?;
    }
    cluster
        .request("DELETE", &format!("{COLLECTION}/{}", name(0)), "")
        .await?;
    let doomed = direct(cluster).await?;
    for object in ["late", "object-1"] {
        reader.get(object, 200).await?;
    }
    ensure!(reader.list().await? == doomed, "a live list is another one");

    step(format!(
        "etcd is restored from the copy while the node is offline ({})",
        cut.as_str()
    ));
    node.go_offline(cluster, cut).await?;
    cluster.restore().await?;
    ensure!(
        direct(cluster).await? == old,
        "the restored etcd holds something else"
    );
    if cut != Cut::Killed {
        ensure!(
            reader.list().await? == doomed,
            "offline, what was read last is what is known"
        );
    }
    node.go_online(cluster).await?;
    ensure!(
        reader.list().await? == old,
        "a live list is not that of the restored etcd"
    );
    update(cluster, &name(2), &format!("restored, {}", cut.as_str())).await?;
    let now = direct(cluster).await?;
    ensure!(reader.list().await? == now, "a live list is another one");

    step("offline again: the restored state, and nothing from before");
    node.go_offline(cluster, cut).await?;
    for restart in [false, true] {
        if restart {
            node.kill_and_launch(cluster).await?;
        }
        ensure!(
            reader.list().await? == now,
            "the list offline is not the restored one"
        );
        let late = reader.client.get(&format!("{COLLECTION}/late")).await;
        ensure!(
            [404, 503].contains(&late.status),
            "an object that the restored cluster never had: {} {}",
            late.status,
            late.text()
        );
        let kept = reader.client.get(&format!("{COLLECTION}/object-1")).await;
        ensure!(
            kept.status == 503 || value(&kept.json()) == now["object-1"],
            "an object from before the restore: {}",
            kept.text()
        );
    }
    node.go_online(cluster).await
}

/// A client of edgehold.
struct Reader {
    client: Client,
}

/// A list read in pages.
#[derive(Debug, Default)]
struct Pages {
    items: BTreeMap<String, String>,
    revision: String,
    next: Option<String>,
}

impl Pages {
    fn is_complete(&self) -> bool {
        self.next.as_deref() == Some("")
    }
}

impl Reader {
    async fn page(&self, pages: &mut Pages) -> anyhow::Result<()> {
        let target = match pages.next.as_deref() {
            Some(token) => format!("{COLLECTION}?limit={PAGE}&continue={token}"),
            None => format!("{COLLECTION}?limit={PAGE}"),
        };
        let answer = self.client.get(&target).await;
        ensure!(answer.status == 200, "{target}: {}", answer.text());
        let list = answer.json();
        let text = |field: &str| list["metadata"][field].as_str().unwrap_or_default().to_owned();
        pages.items.extend(items(&list)?);
        pages.revision = text("resourceVersion");
        pages.next = Some(text("continue"));
        Ok(())
    }

    async fn list(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let answer: Answer = self.client.get(COLLECTION).await;
        ensure!(answer.status == 200, "{COLLECTION}: {}", answer.text());
        items(&answer.json())
    }

    async fn get(&self, name: &str, status: u16) -> anyhow::Result<()> {
        let answer = self.client.get(&format!("{COLLECTION}/{name}")).await;
        ensure!(answer.status == status, "{name}: {}", answer.text());
        Ok(())
    }
}

/// Waits until every informer holds what etcd holds.
async fn same(cluster: &Cluster, informers: &mut Driven) -> anyhow::Result<()> {
    let expected = direct(cluster).await?;
    until("informers equal etcd", 180, async || {
        let state = informers.ask("state").await?;
        for informer in ["typed", "dynamic"] {
            let held: BTreeMap<String, String> = state[informer]["items"]
                .as_object()
                .context("items")?
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect();
            if held != expected {
                return Ok(Err(format!("{informer} holds {held:?}, etcd {expected:?}")));
            }
        }
        Ok(Ok(()))
    })
    .await
}

/// Name to `resourceVersion value`, of etcd.
async fn direct(cluster: &Cluster) -> anyhow::Result<BTreeMap<String, String>> {
    items(&cluster.read(COLLECTION).await?)
}

fn items(list: &Value) -> anyhow::Result<BTreeMap<String, String>> {
    let items = list["items"].as_array().context("a list")?;
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    Ok(items.iter().map(|item| (name(item), value(item))).collect())
}

fn value(item: &Value) -> String {
    let revision = item["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    format!("{revision} {}", item["data"]["v"].as_str().unwrap_or_default())
}

fn name(number: u32) -> String {
    format!("object-{number}")
}

fn object(name: &str, value: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"v":"{value}"}}}}"#
    )
}

async fn create(cluster: &Cluster, name: &str, value: &str) -> anyhow::Result<()> {
    cluster
        .request("POST", COLLECTION, &object(name, value))
        .await
        .map(drop)
}

async fn update(cluster: &Cluster, name: &str, value: &str) -> anyhow::Result<()> {
    cluster
        .request("PUT", &format!("{COLLECTION}/{name}"), &object(name, value))
        .await
        .map(drop)
}

async fn connect(client: &Client) -> anyhow::Result<apiserver_standin::Connection> {
    client.connect().await.map_err(|error| anyhow::anyhow!(error.0))
}
