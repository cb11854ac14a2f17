//! flanneld knows its own subnet and where those of the other nodes are, also when it and edgehold are started while the cloud is away.

use std::path::PathBuf;

use anyhow::ensure;
use apiserver_standin::Pair;
use serde_json::{Value, json};
use tokio::process::Command;

use super::step;
use crate::cluster::Cluster;
use crate::node::{Cut, Node};
use crate::process::{Driven, until};
use crate::tools::Tool;

const NODES: &str = "/api/v1/nodes";
const OWN: &str = "flannel-1";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    // kubelet's own: flanneld cannot write into a node without any.
    let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
    join(cluster, 1, annotations).await?;
    join(cluster, 2, leased(2)).await?;
    let user = cluster.pki().client(Some("flannel"), &["system:masters"]);
    let mut node = Node::start(cluster, "flanneld", &[("flannel", &user)]).await?;
    let program = Program::new(cluster, &node, &user)?;
    let mut flanneld = program.start(cluster, &node)?;
    let mut peer = 2;
    for cut in Cut::ALL {
        step(format!("online, then offline ({})", cut.as_str()));
        knows(&mut flanneld, peer).await?;
        node.go_offline(cluster, cut).await?;
        step("both are killed and started again offline");
        node.kill_and_launch(cluster).await?;
        drop(flanneld);
        flanneld = program.start(cluster, &node)?;
        knows(&mut flanneld, peer).await?;
        ensure!(
            program.subnet()?.contains("FLANNEL_SUBNET=10.244.1.1/24"),
            "the file for the CNI plugin lacks the subnet"
        );
        step("another node takes the place of the one that was known");
        node.cloud_without_node(cluster).await?;
        cluster
            .request("DELETE", &format!("{NODES}/flannel-{peer}"), "")
            .await?;
        peer += 1;
        join(cluster, peer, leased(peer)).await?;
        node.go_online(cluster).await?;
    }
    knows(&mut flanneld, peer).await
}

/// Makes a node with a range for its pods.
async fn join(cluster: &Cluster, number: u32, annotations: Value) -> anyhow::Result<Value> {
    let range = format!("10.244.{number}.0/24");
    let object = json!({
        "metadata": {"name": format!("flannel-{number}"), "annotations": annotations},
        "spec": {"podCIDR": range, "podCIDRs": [range]},
    });
    cluster.request("POST", NODES, &object.to_string()).await
}

/// What flanneld of that node has written.
fn leased(number: u32) -> Value {
    json!({
        "flannel.alpha.coreos.com/kube-subnet-manager": "true",
        "flannel.alpha.coreos.com/backend-type": "host-gw",
        "flannel.alpha.coreos.com/backend-data": "null",
        "flannel.alpha.coreos.com/public-ip": format!("192.0.2.{number}"),
    })
}

/// Waits until this node's subnet is known, and this peer's alone.
async fn knows(flanneld: &mut Driven, peer: u32) -> anyhow::Result<()> {
    let range = format!("10.244.{peer}.0/24");
    let right = json!({"subnet": "10.244.1.0/24", "peers": {range: format!("192.0.2.{peer}")}});
    until(&format!("flanneld knows flannel-{peer}"), 120, async || {
        let answer = flanneld.ask("").await?;
        Ok(if answer == right {
            Ok(())
        } else {
            Err(answer.to_string())
        })
    })
    .await
}

/// How it is started.
struct Program {
    kubeconfig: PathBuf,
    network: PathBuf,
    subnet: PathBuf,
}

impl Program {
    fn new(cluster: &Cluster, node: &Node, user: &Pair) -> anyhow::Result<Self> {
        let kubeconfig = cluster.kubeconfig("flanneld", node.address, user)?;
        let (network, subnet) = (node.dir().join("net-conf.json"), node.dir().join("subnet.env"));
        let config = json!({"Network": "10.244.0.0/16", "Backend": {"Type": "host-gw"}});
        std::fs::write(&network, config.to_string())?;
        Ok(Self {
            kubeconfig,
            network,
            subnet,
        })
    }

    /// Starts it without the file that the last one wrote, as after a reboot: the file is in `/run`.
    fn start(&self, cluster: &Cluster, node: &Node) -> anyhow::Result<Driven> {
        if self.subnet.exists() {
            std::fs::remove_file(&self.subnet)?;
        }
        let mut command = Command::new(cluster.tools().path(Tool::Flanneld));
        command.args([&self.kubeconfig, &self.network, &self.subnet]);
        command.args([OWN, "192.0.2.1"]);
        Driven::start("flanneld", &mut command, node.dir())
    }

    /// What the CNI plugin reads.
    fn subnet(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(&self.subnet)?)
    }
}
