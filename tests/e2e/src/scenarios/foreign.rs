//! Clients that are not client-go: kube-rs in this process, the Python client and fabric8's in processes of their own. All
//! come as pods do, with a service account token. One that cannot be had here is skipped, and the others are tried.

mod driven;
mod fabric8;
mod kube_rs;
mod python;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use tokio::process::Command;

use super::{Skip, step};
use crate::cluster::Cluster;
use crate::node::{Cut, Node};

const NAMESPACE: &str = "/api/v1/namespaces/foreign";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/foreign";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    prepare(cluster).await?;
    let mut node = Node::start(cluster, "node", &[]).await?;
    let token = token(cluster, &node).await?;
    let rust = kube_rs::Client::new(cluster, &node, &token).await?;
    let mut skips = Vec::new();
    let mut others = Vec::new();
    for other in Other::ALL {
        match other.start(cluster, &node, &token).await {
            Ok(client) => others.push((other, client)),
            Err(error) => skips.push(format!("{}: {}", other.as_str(), error.downcast::<Skip>()?)),
        }
    }
    let mut last = "settings".to_owned();
    for cut in Cut::ALL {
        step(format!(
            "online: lists and watches; then offline ({})",
            cut.as_str()
        ));
        rust.online(&last).await?;
        for (_, other) in &mut others {
            other.online(&last).await?;
        }
        node.go_offline(cluster, cut).await?;
        for restart in [false, true] {
            if restart {
                node.kill_and_launch(cluster).await?;
            }
            rust.offline(&last).await?;
            for (_, other) in &mut others {
                other.offline(&last).await?;
            }
        }
        for (other, _) in &others {
            // One that begins while the cloud is away, at an edgehold that has, too.
            let mut begun = other.start(cluster, &node, &token).await?;
            begun.sees(&last).await?;
        }
        node.cloud_without_node(cluster).await?;
        last = format!("during-{}", cut.as_str().replace(' ', "-"));
        create(cluster, &last).await?;
        node.go_online(cluster).await?;
        rust.sees(&last).await?;
        for (_, other) in &mut others {
            other.sees(&last).await?;
        }
    }
    if skips.is_empty() {
        return Ok(());
    }
    Err(Skip(skips.join("; ")).into())
}

/// A client in a process of its own.
#[derive(Clone, Copy)]
enum Other {
    Python,
    Fabric8,
}

impl Other {
    const ALL: [Self; 2] = [Self::Python, Self::Fabric8];

    fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Fabric8 => "fabric8",
        }
    }

    async fn start(self, cluster: &Cluster, node: &Node, token: &Path) -> anyhow::Result<driven::Client> {
        let command = match self {
            Self::Python => python::command().await?,
            Self::Fabric8 => fabric8::command().await?,
        };
        driven::Client::start(self.as_str(), command, cluster, node, token)
    }
}

/// Without a network, Maven and pip may try again for very long.
const LONGEST_MAKING: Duration = Duration::from_secs(600);

/// Runs a command that makes something here. [`Skip`]: there is no such program, or it fails; its last line says why.
async fn made(command: &mut Command) -> anyhow::Result<()> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let made = tokio::time::timeout(LONGEST_MAKING, command.kill_on_drop(true).output()).await;
    let made = made.map_err(|_| Skip(format!("{program} has not ended after {LONGEST_MAKING:?}")))?;
    let made = made.map_err(|error| Skip(format!("{program} is missing: {error}")))?;
    if made.status.success() {
        return Ok(());
    }
    let said = [made.stderr, made.stdout].concat();
    let said = String::from_utf8_lossy(&said);
    let last = said.lines().rfind(|line| !line.trim().is_empty());
    Err(Skip(format!("{program}: {}", last.unwrap_or_default())).into())
}

async fn create(cluster: &Cluster, name: &str) -> anyhow::Result<()> {
    let body = json!({"metadata": {"name": name}, "data": {"v": name}});
    cluster
        .request("POST", &format!("{NAMESPACE}/configmaps"), &body.to_string())
        .await
        .map(drop)
}

/// A service account that may read ConfigMaps, and one to read.
async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
    let named = |name: &str| json!({"metadata": {"name": name}}).to_string();
    cluster
        .request("POST", "/api/v1/namespaces", &named("foreign"))
        .await?;
    cluster
        .request("POST", &format!("{NAMESPACE}/serviceaccounts"), &named("reader"))
        .await?;
    let role = json!({
        "metadata": {"name": "reader"},
        "rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}],
    });
    cluster
        .request("POST", &format!("{ROLES}/roles"), &role.to_string())
        .await?;
    let binding = json!({
        "metadata": {"name": "reader"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": "foreign"}],
    });
    cluster
        .request("POST", &format!("{ROLES}/rolebindings"), &binding.to_string())
        .await?;
    cluster
        .allows("system:serviceaccount:foreign:reader", "foreign")
        .await?;
    create(cluster, "settings").await
}

/// The file that a pod has as `token`.
async fn token(cluster: &Cluster, node: &Node) -> anyhow::Result<PathBuf> {
    let body = json!({"spec": {"expirationSeconds": 3607}}).to_string();
    let target = format!("{NAMESPACE}/serviceaccounts/reader/token");
    let answer = cluster.request("POST", &target, &body).await?;
    let path = node.dir().join("reader.token");
    std::fs::write(&path, answer["status"]["token"].as_str().context("a token")?)?;
    Ok(path)
}
