//! A leader-elected manager on controller-runtime: offline it loses its lease honestly and ends, another one may lead in the
//! cloud meanwhile, and started again, as its pod would be, it leads only once it can and may.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::ensure;
use apiserver_standin::Pair;
use tokio::process::Command;

use super::step;
use crate::cluster::Cluster;
use crate::node::{Cut, Node};
use crate::process::{Process, until};
use crate::tools::Tool;

const NAMESPACE: &str = "/api/v1/namespaces/leader";

/// Its renew deadline is 6 s; the rest is the patience of a busy machine. Were a write acknowledged offline, it would never end.
const LOST_WITHIN: u64 = 60;

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

        step("started again offline, it does not lead; one in the cloud does");
        node.cloud_without_node(cluster).await?;
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
