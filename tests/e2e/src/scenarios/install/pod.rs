//! A pod's network, and a client in it that has what every pod has: host and port in its environment, `ca.crt` and a token.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::cluster::Cluster;
use crate::process::Driven;
use crate::scenarios::step;
use crate::tools::Tool;

const NAMESPACE: &str = "/api/v1/namespaces/in-cluster";
const ROLES: &str = "/apis/rbac.authorization.k8s.io/v1/namespaces/in-cluster";

/// The subnet between node and pod.
const NODE: &str = "10.244.0.1";
const POD: &str = "10.244.0.2";

/// A network namespace behind that of the node, gone with its handle.
pub(super) struct Pod {
    namespace: String,
    volume: PathBuf,
    client: PathBuf,
    logs: PathBuf,
    running: Option<Driven>,
}

impl Pod {
    /// The network, a service account that may read ConfigMaps, and what kubelet would mount.
    pub(super) async fn new(cluster: &Cluster, node: &str, logs: &Path) -> anyhow::Result<Self> {
        let pod = Self {
            namespace: format!("{node}-pod"),
            volume: cluster.dir().join("pod"),
            client: cluster.tools().path(Tool::Client).to_owned(),
            logs: logs.to_owned(),
            running: None,
        };
        pod.connect(node, cluster.network().cloud()).await?;
        let make = async |target: &str, body: Value| cluster.request("POST", target, &body.to_string()).await;
        make("/api/v1/namespaces", json!({"metadata": {"name": "in-cluster"}})).await?;
        make(
            &format!("{NAMESPACE}/serviceaccounts"),
            json!({"metadata": {"name": "reader"}}),
        )
        .await?;
        make(
            &format!("{NAMESPACE}/configmaps"),
            json!({"metadata": {"name": "settings"}}),
        )
        .await?;
        let rules =
            json!([{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list", "watch"]}]);
        make(
            &format!("{ROLES}/roles"),
            json!({"metadata": {"name": "reader"}, "rules": rules}),
        )
        .await?;
        let subjects = json!([{"kind": "ServiceAccount", "name": "reader", "namespace": "in-cluster"}]);
        let role = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "reader"});
        let binding = json!({"metadata": {"name": "reader"}, "roleRef": role, "subjects": subjects});
        make(&format!("{ROLES}/rolebindings"), binding).await?;
        let token = make(
            &format!("{NAMESPACE}/serviceaccounts/reader/token"),
            json!({"spec": {}}),
        )
        .await?;
        let ca = crate::process::until("the cluster publishes its authority", 60, async || {
            let map = cluster
                .read(&format!("{NAMESPACE}/configmaps/kube-root-ca.crt"))
                .await;
            Ok(map.map_err(|error| format!("{error:#}")))
        })
        .await?;
        std::fs::create_dir_all(&pod.volume)?;
        std::fs::write(
            pod.volume.join("token"),
            token["status"]["token"].as_str().context("a token")?,
        )?;
        std::fs::write(
            pod.volume.join("ca.crt"),
            ca["data"]["ca.crt"].as_str().context("an authority")?,
        )?;
        Ok(pod)
    }

    /// With a cable to the node, whose own way out is the cloud: kubelet takes its address from that.
    async fn connect(&self, node: &str, cloud: IpAddr) -> anyhow::Result<()> {
        let pod = &self.namespace;
        for line in [
            format!("-n {node} route add default via {cloud}"),
            format!("netns add {pod}"),
            format!("-n {node} link add pod0 type veth peer name eth0 netns {pod}"),
            format!("-n {node} addr add {NODE}/30 dev pod0"),
            format!("-n {node} link set pod0 up"),
            format!("-n {pod} addr add {POD}/30 dev eth0"),
            format!("-n {pod} link set eth0 up"),
            format!("-n {pod} link set lo up"),
            format!("-n {pod} route add default via {NODE}"),
        ] {
            let output = Command::new("ip").args(line.split(' ')).output().await?;
            ensure!(
                output.status.success(),
                "ip {line}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Where the kernel has no dummy interfaces, the address for pods is made by hand, as docs/in-cluster.md allows.
    pub(super) async fn ensure_address(&self, node: &str, address: &str) -> anyhow::Result<()> {
        let ip = async |line: String| Command::new("ip").args(line.split(' ')).output().await;
        if ip(format!("-n {node} link add probe type dummy"))
            .await?
            .status
            .success()
        {
            ip(format!("-n {node} link del probe")).await?;
            return Ok(());
        }
        step("this kernel has no dummy interfaces: the address for pods is put on the loopback");
        let done = ip(format!("-n {node} addr add {address}/32 dev lo")).await?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    /// Starts the client, after the one that runs, with what kubelet injects.
    pub(super) fn start(&mut self, host: &str, port: u16) -> anyhow::Result<()> {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.namespace])
            .arg(&self.client)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", port.to_string())
            .arg("incluster")
            .arg(format!("-ca={}", self.volume.join("ca.crt").display()))
            .arg(format!("-token={}", self.volume.join("token").display()));
        self.running = None;
        self.running = Some(Driven::start("pod", &mut command, &self.logs)?);
        Ok(())
    }

    pub(super) async fn ask(&mut self, command: &str) -> anyhow::Result<Value> {
        self.running.as_mut().context("the pod runs")?.ask(command).await
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = std::process::Command::new("ip")
            .args(["netns", "del", &self.namespace])
            .output();
    }
}
