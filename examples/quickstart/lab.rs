//! The stage: a stand-in apiserver as the cloud, and edgehold in front of it as on a node.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use apiserver_standin::{Client, Existing, Fault, Options, Pair, Pki, Rbac, Rule, Standin, Subject};
use edgehold::app::{App, Running};
use edgehold::config;
use edgehold::upstream::LinkState;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::teller::Actor;

/// The kubelet's common name: who it is for Kubernetes.
pub(crate) const KUBELET: &str = "system:node:edge-1";

/// How long edgehold may take for anything before it counts as not happening.
const DEADLINE: Duration = Duration::from_secs(10);

/// The cloud and the node.
pub(crate) struct Lab {
    pub(crate) cloud: Standin,
    /// The token of the service account `shop/web`.
    pub(crate) token: String,
    dir: TempDir,
    kubelet: Pair,
    kube_proxy: Pair,
    running: Option<Running>,
}

impl Lab {
    /// The cloud with a few objects, and certificates for a node. edgehold is not started yet.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let cloud = Standin::start(Options {
            rbac: rights(),
            ..Options::default()
        });
        let dir = tempfile::Builder::new()
            .prefix("edgehold-")
            .tempdir()
            .context("making a temporary directory")?;
        let pki = cloud.pki();
        let kubelet = pki.client(Some(KUBELET), &["system:nodes"]);
        let kube_proxy = pki.client(Some("system:kube-proxy"), &[]);
        pki.write_ca(dir.path(), "ca");
        pki.server(&["localhost", "127.0.0.1"])
            .write_to(dir.path(), "server");
        kubelet.write_to(dir.path(), "kubelet");
        kube_proxy.write_to(dir.path(), "kube-proxy");
        furnish(&cloud);
        let token = cloud.service_account_token("shop", "web");
        Ok(Self {
            cloud,
            token,
            dir,
            kubelet,
            kube_proxy,
            running: None,
        })
    }

    /// Where certificates, configuration and cache are.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The path of a file of the lab.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// edgehold's configuration.
    pub(crate) fn config(&self) -> String {
        let (dir, server) = (self.dir.path().display(), self.cloud.url());
        format!(
            r#"apiVersion: edgehold/v1alpha1
kind: ProxyConfiguration
listen:
  addresses: ["127.0.0.1:0"]
  tls: {{certFile: {dir}/server.crt, keyFile: {dir}/server.key, clientCAFile: {dir}/ca.crt}}
upstream:
  servers: ["{server}"]
  caFile: {dir}/ca.crt
  probe: {{interval: 200ms, timeout: 2s}}
clients:
  - {{commonName: "{KUBELET}", certFile: {dir}/kubelet.crt, keyFile: {dir}/kubelet.key}}
  - {{commonName: "system:kube-proxy", certFile: {dir}/kube-proxy.crt, keyFile: {dir}/kube-proxy.key}}
cache: {{store: file, path: {dir}/cache}}
"#
        )
    }

    /// Starts edgehold on what is in the directory.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        let config = config::parse(&self.config(), "quickstart.yaml")
            .map_err(|errors| anyhow::anyhow!("the configuration is wrong:\n{errors}"))?;
        self.running = Some(App::bind(config).await?.spawn());
        Ok(())
    }

    /// Stops edgehold as SIGTERM does.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        tokio::time::timeout(DEADLINE, running.stop())
            .await
            .context("stopping edgehold takes too long")
    }

    /// The running edgehold.
    pub(crate) fn running(&self) -> anyhow::Result<&Running> {
        self.running.as_ref().context("edgehold is not running")
    }

    /// Whether a text is anywhere in the cache's files.
    pub(crate) fn is_on_disk(&self, text: &str) -> anyhow::Result<bool> {
        let mut dirs = vec![self.file("cache")];
        while let Some(dir) = dirs.pop() {
            for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
                let path = entry?.path();
                if path.is_dir() {
                    dirs.push(path);
                } else if memchr::memmem::find(&fs::read(&path)?, text.as_bytes()).is_some() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Where edgehold listens.
    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        let first = self.running()?.addresses().first();
        first.copied().context("edgehold listens nowhere")
    }

    /// The cloud refuses connections and resets those that are open. Returns when edgehold knows.
    pub(crate) async fn cut(&self) -> anyhow::Result<()> {
        self.running()?.settle().await;
        self.cloud.fault(Fault::Refuse(Existing::Cut));
        // edgehold notices when something fails; this fails even where no client does anything.
        let anything = Client::new(self.address()?, self.cloud.ca_pem(), None);
        let _refused = anything.send("GET", "/healthz", "").await;
        self.link_became(LinkState::Offline).await
    }

    /// The cloud is back. Returns when edgehold knows.
    pub(crate) async fn restore(&self) -> anyhow::Result<()> {
        self.cloud.clear_faults();
        self.link_became(LinkState::Online).await
    }

    /// Whether edgehold has refused a client certificate since its start, now or soon: the client may hear of it first.
    pub(crate) async fn refused_a_certificate(&self) -> anyhow::Result<bool> {
        let running = self.running()?;
        let counted = async {
            while !running.metrics_text()?.contains(r#"{reason="bad_certificate"}"#) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(DEADLINE, counted).await {
            Ok(counted) => counted.map(|()| true),
            Err(_) => Ok(false),
        }
    }

    /// A client of edgehold with the kubelet's certificate.
    pub(crate) fn kubelet(&self) -> anyhow::Result<Actor> {
        self.actor("kubelet", Some(&self.kubelet))
    }

    /// A client of edgehold with kube-proxy's certificate.
    pub(crate) fn kube_proxy(&self) -> anyhow::Result<Actor> {
        self.actor("kube-proxy", Some(&self.kube_proxy))
    }

    /// A client of edgehold with the token of a service account, as in a pod.
    pub(crate) fn pod(&self) -> anyhow::Result<Actor> {
        self.bearer("pod", &self.token)
    }

    /// A client of edgehold with any token.
    pub(crate) fn bearer(&self, name: &'static str, token: &str) -> anyhow::Result<Actor> {
        let mut actor = self.actor(name, None)?;
        actor.client = actor.client.token(token);
        Ok(actor)
    }

    /// A client of edgehold that says it is the kubelet and shows nothing.
    pub(crate) fn nobody(&self) -> anyhow::Result<Actor> {
        let mut actor = self.actor("nobody", None)?;
        actor.client = actor.client.header("user-agent", "kubelet/v1.36.0 (linux/amd64)");
        Ok(actor)
    }

    /// A client of edgehold whose certificate has the kubelet's name and comes from somebody else's authority.
    pub(crate) fn impostor(&self) -> anyhow::Result<Actor> {
        let pair = Pki::named("somebody else's").client(Some(KUBELET), &["system:nodes"]);
        self.actor("impostor", Some(&pair))
    }

    fn actor(&self, name: &'static str, pair: Option<&Pair>) -> anyhow::Result<Actor> {
        let client = Client::new(self.address()?, self.cloud.ca_pem(), pair);
        Ok(Actor { name, client })
    }

    async fn link_became(&self, wanted: LinkState) -> anyhow::Result<()> {
        let mut link = self.running()?.link();
        let became = tokio::time::timeout(DEADLINE, link.wait_for(|now| *now == wanted)).await;
        let seen = self.running()?.link().borrow().as_str();
        match became {
            Ok(Ok(_)) => Ok(()),
            _ => bail!("the link: expected {}, came {seen}", wanted.as_str()),
        }
    }
}

/// What the cloud grants: the kubelet works with pods, nodes and ConfigMaps, the pod reads ConfigMaps of its namespace.
fn rights() -> Rbac {
    let kubelet = Subject::User(KUBELET.to_owned());
    let pod = Subject::User("system:serviceaccount:shop:web".to_owned());
    let resources = ["pods", "nodes", "nodes/status", "configmaps", "secrets"];
    Rbac::deny_all()
        .with(Rule::allow(
            kubelet,
            &["get", "list", "watch", "patch"],
            &resources,
        ))
        .with(Rule::allow(pod, &["get", "list", "watch"], &["configmaps"]).in_namespace("shop"))
}

fn furnish(cloud: &Standin) {
    cloud.put(json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-1"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }));
    for namespace in ["shop", "default"] {
        cloud.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}));
    }
    cloud.put(config_map("web", "tea, coffee"));
    cloud.put(config_map("prices", "tea: 2, coffee: 3"));
    cloud.put(pod("web-0", "edge-1"));
    cloud.put(pod("db-0", "edge-2"));
}

/// A ConfigMap of the namespace `shop`.
pub(crate) fn config_map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": name},
        "data": {"menu": value},
    })
}

/// A pod of the namespace `shop`.
pub(crate) fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "registry.example/shop:1"}]},
        "status": {"phase": "Running"},
    })
}
