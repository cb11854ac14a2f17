//! kube-proxy's own informers keep Services and EndpointSlices through every kind of outage, and have them again when
//! kube-proxy and edgehold are started offline. Nothing is ever taken away that the cloud has not taken away.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use super::step;
use crate::cluster::Cluster;
use crate::node::{Cut, Node};
use crate::process::{Driven, until};
use crate::tools::Tool;

const USER: &str = "system:kube-proxy";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    step("services and endpoint slices in the cloud, kube-proxy behind edgehold");
    let node = json!({"metadata": {"name": "edge-1"}});
    cluster
        .request("POST", "/api/v1/nodes", &node.to_string())
        .await?;
    let addresses = json!({"status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]}});
    cluster
        .request("PATCH", "/api/v1/nodes/edge-1/status", &addresses.to_string())
        .await?;
    for name in ["web", "shop"] {
        add(cluster, name, 2).await?;
    }
    for cut in Cut::ALL {
        add(cluster, &old(cut), 2).await?;
    }
    // Left out by the selectors: one has another proxy, one no cluster IP.
    service(
        cluster,
        "foreign",
        json!({"service.kubernetes.io/service-proxy-name": "other"}),
        json!({}),
    )
    .await?;
    service(cluster, "headless", json!({}), json!({"clusterIP": "None"})).await?;

    // The apiserver's own, which pods of this node are to find at edgehold instead.
    add_endpoints(cluster, "kubernetes", "0", 2).await?;

    let pair = cluster.pki().client(Some(USER), &[]);
    let (cert, key) = pair.write_to(cluster.dir(), "kube-proxy-client");
    let in_cluster = if cluster.network().can_drop() {
        format!("inCluster: {{address: \"LISTEN\", endpointsFor: [\"{USER}\"]}}\n")
    } else {
        String::new() // The loopback is no address for pods.
    };
    let mut node = Node::start_with(cluster, "kube-proxy", &[(USER, cert, key)], &in_cluster).await?;
    let mut proxy = KubeProxy {
        program: cluster.tools().path(Tool::Proxy).to_owned(),
        kubeconfig: cluster.kubeconfig("kube-proxy", node.address, &pair)?,
        dir: node.dir().to_owned(),
        process: None,
    };
    proxy.start()?;
    equal(cluster, &mut node, &mut proxy).await?;
    ensure!(
        proxy.state().await?["services"]["default/foreign"].is_null(),
        "another proxy's service is programmed"
    );

    for cut in Cut::ALL {
        let name = cut.as_str().replace(' ', "-");
        step(format!(
            "offline ({}): kube-proxy keeps what it has, also over a restart of edgehold",
            cut.as_str()
        ));
        let before = proxy.state().await?;
        node.go_offline(cluster, cut).await?;
        node.kill_and_launch(cluster).await?;
        ensure!(proxy.state().await? == before, "kube-proxy has lost something");

        step("offline: kube-proxy started again has the same, and so after edgehold was started again, too");
        proxy.restart_to(&mut node, &before).await?;
        node.kill_and_launch(cluster).await?;
        proxy.restart_to(&mut node, &before).await?;

        step("the cloud changes meanwhile; back online kube-proxy learns just that");
        node.cloud_without_node(cluster).await?;
        add(cluster, &name, 3).await?;
        add_endpoints(cluster, "web", &name, 1).await?;
        // For good: had edgehold missed it, the next start offline would show it.
        let old = old(cut);
        cluster
            .request("DELETE", &format!("{SLICES}/{old}-0"), "")
            .await?;
        cluster
            .request("DELETE", &format!("{SERVICES}/{old}"), "")
            .await?;
        node.go_online(cluster).await?;
        equal(cluster, &mut node, &mut proxy).await?;
        let removed = proxy.state().await?["removed"].clone();
        let mut removed: Vec<_> = removed
            .as_array()
            .context("removed")?
            .iter()
            .filter_map(Value::as_str)
            .collect();
        removed.sort_unstable();
        ensure!(
            removed == [format!("service default/{old}"), format!("slice default/{old}-0")],
            "kube-proxy was told to take away {removed:?}"
        );
    }
    step("offline once more: kube-proxy started again has what the last change left");
    let before = proxy.state().await?;
    node.go_offline(cluster, Cut::Refused).await?;
    proxy.restart_to(&mut node, &before).await
}

/// The service that goes away during this cut.
fn old(cut: Cut) -> String {
    format!("old-{}", cut.as_str().replace(' ', "-"))
}

/// A service and a slice of so many endpoints.
async fn add(cluster: &Cluster, name: &str, endpoints: u8) -> anyhow::Result<()> {
    service(cluster, name, json!({}), json!({})).await?;
    add_endpoints(cluster, name, "0", endpoints).await
}

async fn service(cluster: &Cluster, name: &str, labels: Value, mut spec: Value) -> anyhow::Result<()> {
    spec["ports"] = json!([{"port": 80}]);
    let body = json!({"metadata": {"name": name, "labels": labels}, "spec": spec});
    cluster.request("POST", SERVICES, &body.to_string()).await?;
    Ok(())
}

async fn add_endpoints(cluster: &Cluster, service: &str, slice: &str, count: u8) -> anyhow::Result<()> {
    let endpoints: Vec<_> = (1..=count)
        .map(|last| json!({"addresses": [format!("198.51.100.{last}")]}))
        .collect();
    let body = json!({
        "metadata": {"name": format!("{service}-{slice}"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4", "ports": [{"port": 8080}], "endpoints": endpoints,
    });
    cluster.request("POST", SLICES, &body.to_string()).await?;
    Ok(())
}

/// Waits until kube-proxy has what etcd has.
async fn equal(cluster: &Cluster, node: &mut Node, proxy: &mut KubeProxy) -> anyhow::Result<()> {
    let (services, slices) = in_etcd(cluster).await?;
    until("kube-proxy equals etcd", 120, async || {
        node.check()?;
        let state = proxy.state().await?;
        let same = state["synced"] == true && state["services"] == services && state["slices"] == slices;
        Ok(if same {
            Ok(())
        } else {
            Err(format!("etcd {services} {slices}, kube-proxy {state}"))
        })
    })
    .await
}

/// What kube-proxy should hold, in its own words.
async fn in_etcd(cluster: &Cluster) -> anyhow::Result<(Value, Value)> {
    let name = |item: &Value| {
        let part = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}", part("namespace"), part("name"))
    };
    let list = cluster
        .read("/api/v1/services?labelSelector=%21service.kubernetes.io%2Fservice-proxy-name")
        .await?;
    let services: BTreeMap<_, _> = list["items"]
        .as_array()
        .context("services")?
        .iter()
        .filter(|item| item["spec"]["clusterIP"] != "None")
        .map(|item| (name(item), item["spec"]["clusterIP"].clone()))
        .collect();
    let list = cluster.read("/apis/discovery.k8s.io/v1/endpointslices").await?;
    let mut slices: BTreeMap<_, _> = list["items"]
        .as_array()
        .context("slices")?
        .iter()
        .map(|item| {
            let endpoints = item["endpoints"].as_array().cloned().unwrap_or_default();
            let addresses: Vec<Value> = endpoints
                .iter()
                .flat_map(|endpoint| endpoint["addresses"].as_array().cloned().unwrap_or_default())
                .collect();
            (name(item), Value::from(addresses))
        })
        .collect();
    if cluster.network().can_drop() {
        let here = Value::from(vec![cluster.network().node().to_string()]);
        slices.insert("default/kubernetes-0".to_owned(), here);
    }
    Ok((serde_json::to_value(services)?, serde_json::to_value(slices)?))
}

struct KubeProxy {
    program: PathBuf,
    kubeconfig: PathBuf,
    dir: PathBuf,
    process: Option<Driven>,
}

impl KubeProxy {
    /// Starts it, after killing the one that runs.
    fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command
            .arg(format!("-kubeconfig={}", self.kubeconfig.display()))
            .arg("-name=edge-1")
            .arg(format!("-v={}", crate::process::verbosity()));
        self.process = None;
        self.process = Some(Driven::start("kube-proxy", &mut command, &self.dir)?);
        Ok(())
    }

    async fn state(&mut self) -> anyhow::Result<Value> {
        self.process
            .as_mut()
            .context("kube-proxy runs")?
            .ask("state")
            .await
    }

    /// Starts it again and waits until it has been told the same.
    async fn restart_to(&mut self, node: &mut Node, expected: &Value) -> anyhow::Result<()> {
        self.start()?;
        until("kube-proxy has what it had", 120, async || {
            node.check()?;
            let state = self.state().await?;
            let same = state["node"] == true
                && state["synced"] == true
                && state["services"] == expected["services"]
                && state["slices"] == expected["slices"];
            Ok(if same { Ok(()) } else { Err(state.to_string()) })
        })
        .await
    }
}
