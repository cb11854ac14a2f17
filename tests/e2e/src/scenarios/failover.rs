//! Two apiservers on one etcd. When the one in use goes, in whatever way, the other takes over: every read is answered by an apiserver, no informer
//! misses a change or lists again, and no write is carried out twice. When it is back, it takes over from the other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use apiserver_standin::{Client, ClientError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::convergence::history::Truth;
use super::convergence::informers::{self, CLIENTS, equal, lists};
use super::convergence::writer::Writer;
use super::convergence::{COLLECTION, SELECTED};
use super::step;
use crate::cluster::Cluster;
use crate::link::{Link, Mode};
use crate::node::{Cut, Node};
use crate::process::until;
use crate::random::Random;

/// Never kept, so that only an apiserver can answer; and however late it is, it is waited for.
const READ: &str = "/";
const WRITTEN: &str = "/api/v1/namespaces/default/configmaps";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    let (random, seed) = Random::seeded();
    step(format!(
        "two apiservers, informers and a client that reads and writes through edgehold, a writer past it (E2E_SEED={seed})"
    ));
    let namespace = r#"{"apiVersion":"v1","kind":"Namespace","metadata":{"name":"convergence"}}"#;
    cluster.request("POST", "/api/v1/namespaces", namespace).await?;
    let mut writer = Writer::new(cluster, random).await?;
    writer.fill().await?;
    let second = cluster.start_second().await?;
    let cloud = cluster.network().cloud();
    let preferred = Link::to(second, cloud).await?;
    let link = Link::to(cluster.address(), cloud).await?;
    let user = cluster.pki().client(Some("informer"), &["system:masters"]);
    let (cert, key) = user.write_to(cluster.dir(), "informer");
    let pairs = [("informer", cert, key)];
    let (servers, other) = ([preferred.address()], link.address());
    let mut node = Node::start_behind(cluster, "node", &pairs, "", link, &servers).await?;
    let kubeconfig = cluster.kubeconfig("informer", node.address, &user)?;
    let mut clients = informers::start(cluster, &node, &kubeconfig, &CLIENTS)?;
    equal(cluster, &mut node, &mut clients).await?;
    let before = lists(&mut clients).await?;

    let whole = Truth::follow(cluster, COLLECTION).await?;
    let selected = Truth::follow(cluster, SELECTED).await?;
    let (stop, stopped) = oneshot::channel();
    let writing = tokio::spawn(writer.write_until(stopped));
    for cut in Cut::ALL {
        step(format!(
            "the preferred apiserver goes ({}): the other takes over",
            cut.as_str()
        ));
        let load = Load::start(&node.client(Some(&user)), cut);
        standing(&mut node, preferred.address(), "online").await?;
        match cut {
            Cut::Refused => preferred.set(Mode::Refuse),
            Cut::Killed => cluster.kill_second().await?,
            // Dropped packets would be those of both.
            Cut::BlackHole => preferred.set(Mode::BlackHole),
        }
        standing(&mut node, preferred.address(), "offline").await?;

        step("it is back and is used again; then the other goes (refused)");
        if cut == Cut::Killed {
            cluster.start_second().await?;
        }
        preferred.set(Mode::Up);
        standing(&mut node, preferred.address(), "online").await?;
        node.link.set(Mode::Refuse);
        standing(&mut node, other, "offline").await?;
        node.link.set(Mode::Up);
        standing(&mut node, other, "online").await?;
        step(load.stop(cluster).await?);
    }
    let _ = stop.send(());
    let mut writer = writing.await.context("the writer")??;
    step(format!(
        "the writer made {} changes; each informer has heard of them all",
        writer.count
    ));
    writer.last().await?;
    equal(cluster, &mut node, &mut clients).await?;
    let (whole, selected) = (whole.up_to("last").await?, selected.up_to("last").await?);
    informers::check(&mut clients, &before, &whole, &selected, &[]).await
}

/// Waits until edgehold says this of a server, and that it does so without reserve.
async fn standing(node: &mut Node, server: SocketAddr, state: &str) -> anyhow::Result<()> {
    let server = format!("server={server} ");
    let expected = format!("state=\"{state}\" on_trial=false");
    until(&format!("{server}is {state}"), 60, async || {
        node.check()?;
        let log = node.log();
        let mut told = log
            .lines()
            .filter(|line| line.contains("a server's standing changed"));
        let last = told.rfind(|line| line.contains(&server));
        Ok(match last {
            // Servers are online from the start, which is not said.
            None if state == "online" => Ok(()),
            Some(line) if line.contains(&expected) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
    .await
}

/// Reads, each of which must be answered by an apiserver, and writes, none of which may be carried out twice.
struct Load {
    stop: Arc<AtomicBool>,
    reads: JoinHandle<anyhow::Result<u32>>,
    writes: JoinHandle<anyhow::Result<Writes>>,
}

#[derive(Default)]
struct Writes {
    acknowledged: Vec<String>,
    /// 503: none of them may have been carried out.
    refused: Vec<String>,
    /// 504: the connection broke while they were under way.
    unknown: u32,
}

impl Load {
    fn start(client: &Client, cut: Cut) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let prefix = cut.as_str().replace(' ', "-");
        let reads = tokio::spawn(read(client.clone(), Arc::clone(&stop)));
        let writes = tokio::spawn(write(client.clone(), prefix, Arc::clone(&stop)));
        Self { stop, reads, writes }
    }

    /// What there is to say of it.
    async fn stop(self, cluster: &Cluster) -> anyhow::Result<String> {
        self.stop.store(true, Ordering::Relaxed);
        let reads = self.reads.await??;
        let writes = self.writes.await??;
        for name in &writes.acknowledged {
            let found = cluster.read(&format!("{WRITTEN}/{name}")).await;
            found.context("a write that was acknowledged")?;
        }
        for name in &writes.refused {
            let answer = cluster
                .direct()
                .send("GET", &format!("{WRITTEN}/{name}"), "")
                .await;
            let status = answer.map_err(said)?.status;
            ensure!(
                status == 404,
                "{name} was refused and is there all the same: {status}"
            );
        }
        Ok(format!(
            "{reads} reads and not a failed one; of the writes {} acknowledged, {} refused, {} unknown, none carried out twice",
            writes.acknowledged.len(),
            writes.refused.len(),
            writes.unknown
        ))
    }
}

async fn read(client: Client, stop: Arc<AtomicBool>) -> anyhow::Result<u32> {
    let mut connection = client.connect().await.map_err(said)?;
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let answer = connection.send("GET", READ, "").await.map_err(said)?;
        ensure!(
            answer.status == 200,
            "GET {READ}: {} {}",
            answer.status,
            answer.text()
        );
        count += 1;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(count)
}

async fn write(client: Client, prefix: String, stop: Arc<AtomicBool>) -> anyhow::Result<Writes> {
    let client = client.header("content-type", "application/json");
    let mut connection = client.connect().await.map_err(said)?;
    let mut writes = Writes::default();
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{prefix}-{number}");
        let body = format!(r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}}}}"#);
        let answer = connection.send("POST", WRITTEN, body).await.map_err(said)?;
        match answer.status {
            201 => writes.acknowledged.push(name),
            // 409 would say that it was sent twice.
            503 => writes.refused.push(name),
            504 => writes.unknown += 1,
            status => anyhow::bail!("POST {name}: {status} {}", answer.text()),
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(writes)
}

/// Between two requests.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

fn said(error: ClientError) -> anyhow::Error {
    anyhow::anyhow!(error.0)
}
