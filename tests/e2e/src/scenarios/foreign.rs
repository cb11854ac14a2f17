//! Clients that are not client-go: kube-rs in this process, and the Python client in a virtual environment of its own. Both
//! come as pods do, with a service account token.

mod kube_rs;
mod python;

use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::json;

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
    let python = python::Client::start(cluster, &node, &token).await;
    let (mut python, skip) = match python {
        Ok(python) => (Some(python), None),
        Err(error) => (None, Some(error.downcast::<Skip>()?)),
    };
    let mut last = "settings".to_owned();
    for cut in Cut::ALL {
        step(format!(
            "online: lists and watches; then offline ({})",
            cut.as_str()
        ));
        rust.online(&last).await?;
        if let Some(python) = &mut python {
            python.online(&last).await?;
        }
        node.go_offline(cluster, cut).await?;
        for restart in [false, true] {
            if restart {
                node.kill_and_launch(cluster).await?;
            }
            rust.offline(&last).await?;
            if let Some(python) = &mut python {
                python.offline(&last).await?;
            }
        }
        node.cloud_without_node(cluster).await?;
        last = format!("during-{}", cut.as_str().replace(' ', "-"));
        create(cluster, &last).await?;
        node.go_online(cluster).await?;
        rust.sees(&last).await?;
        if let Some(python) = &mut python {
            python.sees(&last).await?;
        }
    }
    skip.map_or(Ok(()), |skip| Err(skip.into()))
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
