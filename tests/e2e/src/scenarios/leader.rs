//! A leader-elected manager on controller-runtime: offline it loses its lease honestly and ends, another one may lead in the
//! cloud meanwhile, and started again, as its pod would be, it leads only once it can and may.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, ensure};
use apiserver_standin::Pair;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use tokio::process::Command;

use super::step;
use crate::cluster::Cluster;
use crate::node::{Cut, Node};
use crate::process::{Process, until};
use crate::tools::Tool;

const NAMESPACE: &str = "/api/v1/namespaces/leader";

/// Its renew deadline is 6 s; the rest is the patience of a busy machine. Were a write acknowledged offline, it would never end.
const LOST_WITHIN: u64 = 60;

/// Its lease (`manager/main.go`): after that anybody may lead.
const LEASE_MILLISECONDS: i64 = 12_000;

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    make(cluster, "/api/v1/namespaces", "Namespace", "leader").await?;
    make(cluster, &format!("{NAMESPACE}/configmaps"), "ConfigMap", "first").await?;
    let user = cluster.pki().client(Some("manager"), &["system:masters"]);
    let mut node = Node::start(cluster, "leader", &[("manager", &user)]).await?;
    let through = Program::new(cluster, "through", node.address, &user)?;
    let direct = Program::new(cluster, "direct", cluster.address(), &user)?;

    step("a manager leads, through edgehold, and reconciles");
    let mut manager = through.start(node.dir())?;
    says(&mut manager, "leading").await?;
    says(&mut manager, "reconciled first").await?;

    for cut in Cut::ALL {
        step(format!("offline ({}): it loses its lease and ends", cut.as_str()));
        node.go_offline(cluster, cut).await?;
        until("the manager ends", LOST_WITHIN, async || {
            node.check()?;
            Ok(if manager.ended()? {
                Ok(())
            } else {
                Err(manager.log())
            })
        })
        .await?;
        ensure!(
            manager.log().contains("leader election lost"),
            "it ended for another reason: {}",
            manager.log()
        );

        node.cloud_without_node(cluster).await?;
        let (renewed, ended) = (renewed(cluster).await?, ended(&manager)?);
        ensure!(
            ended - renewed < LEASE_MILLISECONDS,
            "it believed that it leads for {} ms after its last renewal: another one may lead by then",
            ended - renewed
        );
        step(format!(
            "it ended {} ms after its last renewal; started again offline, it does not lead; one in the cloud does",
            ended - renewed
        ));
        let mut again = through.start(node.dir())?;
        let mut elsewhere = direct.start(node.dir())?;
        says(&mut elsewhere, "leading").await?;
        says(&mut again, "rror retrieving lease lock").await?;
        not_leading(&again)?;

        step("online: it waits while the other one leads, and leads when that one is gone");
        node.go_online(cluster).await?;
        let name = format!("after-{}", cut.as_str().replace(' ', "-"));
        make(cluster, &format!("{NAMESPACE}/configmaps"), "ConfigMap", &name).await?;
        says(&mut elsewhere, &format!("reconciled {name}")).await?;
        not_leading(&again)?;
        elsewhere.kill().await?;
        says(&mut again, "leading").await?;
        says(&mut again, &format!("reconciled {name}")).await?;
        manager = again;
    }
    Ok(())
}

/// When the lease was renewed last, in milliseconds of Unix time.
async fn renewed(cluster: &Cluster) -> anyhow::Result<i64> {
    let lease = cluster
        .read("/apis/coordination.k8s.io/v1/namespaces/leader/leases/e2e")
        .await?;
    let time: MicroTime = serde_json::from_value(lease["spec"]["renewTime"].clone())?;
    Ok(time.0.as_millisecond())
}

/// When the manager ended, by itself.
fn ended(manager: &Process) -> anyhow::Result<i64> {
    let log = manager.log();
    let word = log.lines().find_map(|line| line.strip_prefix("ended at "));
    Ok(word.context("the manager's last word")?.parse()?)
}

fn not_leading(manager: &Process) -> anyhow::Result<()> {
    let log = manager.log();
    ensure!(
        !log.lines().any(|line| line == "leading"),
        "it believes that it leads: {log}"
    );
    Ok(())
}

async fn says(manager: &mut Process, text: &str) -> anyhow::Result<()> {
    until(&format!("{text:?} of {}", manager.name()), 120, async || {
        manager.check()?;
        let log = manager.log();
        Ok(if log.contains(text) { Ok(()) } else { Err(log) })
    })
    .await
}

/// A manager and where it finds the apiserver.
struct Program {
    path: PathBuf,
    name: &'static str,
    kubeconfig: PathBuf,
    count: AtomicU32,
}

impl Program {
    fn new(cluster: &Cluster, name: &'static str, server: SocketAddr, user: &Pair) -> anyhow::Result<Self> {
        Ok(Self {
            path: cluster.tools().path(Tool::Manager).to_owned(),
            name,
            kubeconfig: cluster.kubeconfig(name, server, user)?,
            count: 0.into(),
        })
    }

    /// One more process, with a log of its own.
    fn start(&self, dir: &Path) -> anyhow::Result<Process> {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let mut command = Command::new(&self.path);
        command
            .arg(format!("-kubeconfig={}", self.kubeconfig.display()))
            .arg("-namespace=leader")
            .arg(format!("-v={}", crate::process::verbosity()));
        Process::start(&format!("manager-{}-{count}", self.name), &mut command, dir)
    }
}

async fn make(cluster: &Cluster, target: &str, kind: &str, name: &str) -> anyhow::Result<()> {
    let body = format!(r#"{{"apiVersion":"v1","kind":"{kind}","metadata":{{"name":"{name}"}}}}"#);
    cluster.request("POST", target, &body).await?;
    Ok(())
}
