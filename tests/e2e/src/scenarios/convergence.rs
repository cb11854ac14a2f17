//! Whatever happens to the link and to edgehold, informers end up with exactly what etcd holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::oneshot;

use super::step;
use crate::cluster::Cluster;
use crate::link::Mode;
use crate::node::Node;
use crate::process::{Driven, until};
use crate::random::Random;
use crate::tools::Tool;

const COLLECTION: &str = "/api/v1/namespaces/convergence/configmaps";
const OBJECTS: u64 = 200;

/// How long the link is shaken. The kills are at a third and at two thirds of it.
const TROUBLE: Duration = Duration::from_secs(60);

/// How long informers may take to come back: client-go backs off for up to half a minute.
const PATIENCE: u64 = 180;

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (mut random, seed) = Random::seeded();
    step(format!(
        "{OBJECTS} ConfigMaps, a writer at the apiserver (E2E_SEED={seed})"
    ));
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"convergence"}}"#;
    cluster.request("POST", "/api/v1/namespaces", namespace).await?;
    let mut writer = Writer {
        client: cluster
            .direct()
            .header("content-type", "application/json")
            .connect()
            .await
            .map_err(said)?,
        random: random.clone(),
        count: 0,
    };
    for number in 0..OBJECTS {
        writer.put(number).await?;
    }

    step("informers through edgehold: typed (protobuf), dynamic (JSON), metadata; watch-list on and off");
    let user = cluster.pki().client(Some("informer"), &["system:masters"]);
    let mut node = Node::start(cluster, "convergence", &[("informer", &user)]).await?;
    let kubeconfig = cluster.kubeconfig("informer", node.address, &user)?;
    let mut clients = Vec::new();
    for watch_list in ["true", "false"] {
        let mut command = Command::new(cluster.tools().path(Tool::Client));
        command
            .env("KUBE_FEATURE_WatchListClient", watch_list)
            .args(["informers", "-namespace=convergence"])
            .arg(format!("-v={}", crate::process::verbosity()))
            .arg(format!("-kubeconfig={}", kubeconfig.display()));
        let name = format!("informers-{watch_list}");
        clients.push((watch_list, Driven::start(&name, &mut command, node.dir())?));
    }
    equal(cluster, &mut node, &mut clients).await?;

    let (stop, stopped) = oneshot::channel();
    let writing = tokio::spawn(writer.write_until(stopped));
    trouble(&mut node, &mut random).await?;
    let _ = stop.send(());
    let count = writing.await.context("the writer")??;

    step(format!(
        "the writer made {count} changes; each informer must come to equal etcd"
    ));
    let start = Instant::now();
    equal(cluster, &mut node, &mut clients).await?;
    step(format!("all equal after {} s", start.elapsed().as_secs()));

    step("one more change, to see that they are alive and not just equal");
    let body = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"last"},"data":{"v":"last"}}"#;
    cluster.request("POST", COLLECTION, body).await?;
    equal(cluster, &mut node, &mut clients).await?;
    cluster
        .request("DELETE", "/api/v1/namespaces/convergence", "")
        .await?;
    Ok(())
}

/// Breaks the link again and again, for up to five seconds each time, and kills edgehold twice.
async fn trouble(node: &mut Node, random: &mut Random) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut kills = 0;
    while start.elapsed() < TROUBLE {
        let pause = random.seconds(5);
        match random.below(3) {
            0 => {
                step(format!("refused for {pause:?}"));
                node.link.set(Mode::Refuse);
            }
            1 => {
                step(format!("black hole for {pause:?}"));
                node.link.set(Mode::BlackHole);
            }
            _ => {
                step("connections cut");
                node.link.cut();
            }
        }
        tokio::time::sleep(pause).await;
        if kills < 2 && start.elapsed() > TROUBLE / 3 * (kills + 1) {
            kills += 1;
            step("edgehold killed (-9) and started again");
            node.kill_and_launch().await?;
        }
        node.link.set(Mode::Up);
        tokio::time::sleep(random.seconds(5)).await;
        node.check()?;
    }
    Ok(())
}

/// Waits until every informer of every client holds what a fresh list from etcd holds.
async fn equal(cluster: &Cluster, node: &mut Node, clients: &mut [(&str, Driven)]) -> anyhow::Result<()> {
    until("every informer equals etcd", PATIENCE, async || {
        node.check()?;
        let etcd = in_etcd(cluster).await?;
        for (watch_list, client) in &mut *clients {
            let state = client.ask("state").await?;
            for (informer, expected) in [
                ("typed", &etcd.full),
                ("dynamic", &etcd.full),
                ("metadata", &etcd.revisions),
            ] {
                let different = difference(expected, &state[informer]);
                if let Some(different) = different {
                    return Ok(Err(format!(
                        "{informer} informer, watch-list {watch_list}: {different}"
                    )));
                }
            }
        }
        Ok(Ok(()))
    })
    .await
}

struct InEtcd {
    /// Name to `resourceVersion value`.
    full: BTreeMap<String, String>,
    /// Name to `resourceVersion`.
    revisions: BTreeMap<String, String>,
}

/// A list without resourceVersion is a quorum read.
async fn in_etcd(cluster: &Cluster) -> anyhow::Result<InEtcd> {
    let list = cluster.read(COLLECTION).await?;
    let mut found = InEtcd {
        full: BTreeMap::new(),
        revisions: BTreeMap::new(),
    };
    for item in list["items"].as_array().context("a list")? {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, revision) = (
            text(&item["metadata"]["name"]),
            text(&item["metadata"]["resourceVersion"]),
        );
        found
            .full
            .insert(name.clone(), format!("{revision} {}", text(&item["data"]["v"])));
        found.revisions.insert(name, revision);
    }
    Ok(found)
}

fn difference(expected: &BTreeMap<String, String>, informer: &Value) -> Option<String> {
    if informer["synced"] != true {
        return Some("not synced".to_owned());
    }
    let held = informer["items"].as_object()?;
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(name, value)| held.get(*name).and_then(Value::as_str) != Some(value))
        .map(|(name, value)| format!("{name}: etcd {value}, informer {:?}", held.get(name)))
        .chain(
            held.keys()
                .filter(|name| !expected.contains_key(*name))
                .map(|name| format!("{name}: not in etcd")),
        )
        .collect();
    let first = wrong.first()?;
    Some(format!(
        "{} of {} differ, first {first}",
        wrong.len(),
        expected.len()
    ))
}

struct Writer {
    client: apiserver_standin::Connection,
    random: Random,
    count: u64,
}

impl Writer {
    /// About forty changes a second until told to stop; says how many there were.
    async fn write_until(mut self, mut stopped: oneshot::Receiver<()>) -> anyhow::Result<u64> {
        let mut pace = tokio::time::interval(Duration::from_millis(25));
        while stopped.try_recv().is_err() {
            pace.tick().await;
            let number = self.random.below(OBJECTS);
            if self.random.below(4) == 0 {
                let target = format!("{COLLECTION}/object-{number}");
                self.send("DELETE", &target, "").await?;
            } else {
                self.put(number).await?;
            }
        }
        Ok(self.count)
    }

    /// Updates the object, or makes it if it is not there.
    async fn put(&mut self, number: u64) -> anyhow::Result<()> {
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"object-{number}"}},"data":{{"v":"{}"}}}}"#,
            self.count
        );
        if self
            .send("PUT", &format!("{COLLECTION}/object-{number}"), &body)
            .await?
            == 404
        {
            self.send("POST", COLLECTION, &body).await?;
        }
        Ok(())
    }

    async fn send(&mut self, method: &str, target: &str, body: &str) -> anyhow::Result<u16> {
        let answer = self
            .client
            .send(method, target, body.to_owned())
            .await
            .map_err(said)?;
        anyhow::ensure!(
            answer.status < 300 || answer.status == 404,
            "{method} {target}: {}",
            answer.text()
        );
        self.count += u64::from(answer.status < 300);
        Ok(answer.status)
    }
}

fn said(error: apiserver_standin::ClientError) -> anyhow::Error {
    anyhow::anyhow!(error.0)
}
