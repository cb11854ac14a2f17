//! CoreDNS answers for the names of the cluster while the cloud is away, also when it and edgehold are started then.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::ensure;
use apiserver_standin::Pair;
use serde_json::{Value, json};
use tokio::process::Command;

use super::step;
use crate::cluster::{Cluster, free_address};
use crate::node::{Cut, Node};
use crate::process::{Driven, until};
use crate::tools::Tool;

const NAMESPACE: &str = "/api/v1/namespaces/names";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/names/endpointslices";

/// A Service without an address of its own, and what stands behind it.
const HEADLESS: &str = "headless";
const ENDPOINT: &str = "10.77.0.5";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    make(
        cluster,
        "/api/v1/namespaces",
        json!({"metadata": {"name": "names"}}),
    )
    .await?;
    let mut address = service(cluster, "first").await?;
    headless(cluster).await?;
    let user = cluster.pki().client(Some("coredns"), &["system:masters"]);
    let mut node = Node::start(cluster, "coredns", &[("coredns", &user)]).await?;
    let program = Program::new(cluster, &node, &user)?;
    let mut dns = program.start(cluster, &node)?;
    let mut name = "first".to_owned();
    for cut in Cut::ALL {
        step(format!("online, then offline ({})", cut.as_str()));
        program.resolves(&mut dns, &name, &address).await?;
        program.resolves(&mut dns, HEADLESS, ENDPOINT).await?;
        node.go_offline(cluster, cut).await?;
        program.resolves(&mut dns, &name, &address).await?;
        step("both are killed and started again offline");
        node.kill_and_launch(cluster).await?;
        drop(dns);
        dns = program.start(cluster, &node)?;
        program.resolves(&mut dns, &name, &address).await?;
        program.resolves(&mut dns, HEADLESS, ENDPOINT).await?;
        ensure!(
            dns.ask("nobody.names.svc.cluster.local.").await?["addresses"].is_null(),
            "a name that nobody has is answered"
        );
        node.cloud_without_node(cluster).await?;
        name = format!("during-{}", cut.as_str().replace(' ', "-"));
        address = service(cluster, &name).await?;
        node.go_online(cluster).await?;
    }
    program.resolves(&mut dns, &name, &address).await
}

async fn make(cluster: &Cluster, path: &str, object: Value) -> anyhow::Result<Value> {
    cluster.request("POST", path, &object.to_string()).await
}

/// Makes a Service and gives its address.
async fn service(cluster: &Cluster, name: &str) -> anyhow::Result<String> {
    let object = json!({"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}});
    let made = make(cluster, &format!("{NAMESPACE}/services"), object).await?;
    Ok(made["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned())
}

async fn headless(cluster: &Cluster) -> anyhow::Result<()> {
    let object =
        json!({"metadata": {"name": HEADLESS}, "spec": {"clusterIP": "None", "ports": [{"port": 80}]}});
    make(cluster, &format!("{NAMESPACE}/services"), object).await?;
    let slice = json!({
        "metadata": {"name": HEADLESS, "labels": {"kubernetes.io/service-name": HEADLESS}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ENDPOINT], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
    });
    make(cluster, SLICES, slice).await.map(drop)
}

/// How it is started.
struct Program {
    corefile: PathBuf,
    address: SocketAddr,
}

impl Program {
    fn new(cluster: &Cluster, node: &Node, user: &Pair) -> anyhow::Result<Self> {
        let kubeconfig = cluster.kubeconfig("coredns", node.address, user)?;
        let (address, corefile) = (free_address()?, node.dir().join("Corefile"));
        let text = format!(
            "cluster.local:{} {{\n    bind {}\n    errors\n    kubernetes cluster.local {{\n        kubeconfig {}\n    }}\n}}\n",
            address.port(),
            address.ip(),
            kubeconfig.display()
        );
        std::fs::write(&corefile, text)?;
        Ok(Self { corefile, address })
    }

    fn start(&self, cluster: &Cluster, node: &Node) -> anyhow::Result<Driven> {
        let mut command = Command::new(cluster.tools().path(Tool::CoreDns));
        command.arg(&self.corefile).arg(self.address.to_string());
        Driven::start("coredns", &mut command, node.dir())
    }

    /// Waits until a Service's name is answered with this address. It is answered only once CoreDNS has all that it watches.
    async fn resolves(&self, dns: &mut Driven, name: &str, address: &str) -> anyhow::Result<()> {
        let asked = format!("{name}.names.svc.cluster.local.");
        until(&format!("CoreDNS knows {name}"), 120, async || {
            let answer = dns.ask(&asked).await?;
            Ok(if answer["addresses"] == json!([address]) {
                Ok(())
            } else {
                Err(answer.to_string())
            })
        })
        .await
    }
}
