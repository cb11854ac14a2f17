//! A kubelet (a real one over a container runtime that only pretends) joins through edgehold and runs a pod. The cloud
//! goes away, kubelet and edgehold are killed and started again: the pod stays, and is the same when the cloud is back.
//!
//! With the kubelet of the oldest version it is the scenario `skew`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use super::step;
use crate::cluster::{Cluster, free_address};
use crate::node::{Cut, Node};
use crate::process::{Process, until};
use crate::tools::Tool;

const KUBELET: &str = "system:node:edge-1";
const NODE: &str = "/api/v1/nodes/edge-1";
const NAMESPACE: &str = "/api/v1/namespaces/edge";

/// What the pod's Secret holds, as protobuf and as JSON have it.
const WORD: &str = "open-sesame-0451";
const WORD_IN_JSON: &str = "b3Blbi1zZXNhbWUtMDQ1MQ";

/// Within so many seconds of its start, and offline, kubelet runs its pod again.
const AGAIN: u64 = 60;

/// With this kubelet, and for these cuts, of which one must be [`Cut::Killed`].
pub(super) async fn run(cluster: &mut Cluster, kubelet: Tool, cuts: &[Cut]) -> anyhow::Result<()> {
    cluster.controllers(&[]).await?;
    let pair = cluster.pki().client(Some(KUBELET), &["system:nodes"]);
    let mut node = Node::start(cluster, "hollow-kubelet", &[(KUBELET, &pair)]).await?;
    let mut kubelet = Kubelet {
        program: cluster.tools().path(kubelet).to_owned(),
        kubeconfig: cluster.kubeconfig("kubelet", node.address, &pair)?,
        dir: node.dir().to_owned(),
        port: free_address()?,
        read_only: free_address()?,
        process: None,
    };

    step("kubelet registers through edgehold, the node becomes Ready");
    kubelet.start()?;
    wait_ready(cluster, &mut kubelet, "True").await?;

    step("a pod with a ConfigMap, a Secret, a projected token and the environment of a Service runs");
    prepare(cluster).await?;
    let uid = until("the pod runs", 120, async || {
        kubelet.check()?;
        let pod = cluster.read(&format!("{NAMESPACE}/pods/web")).await?;
        let running =
            pod["status"]["phase"] == "Running" && pod["status"]["containerStatuses"][0]["ready"] == true;
        Ok(if running {
            Ok(pod["metadata"]["uid"].clone())
        } else {
            Err(pod["status"].to_string())
        })
    })
    .await?;
    let uid = uid.as_str().context("a uid")?.to_owned();
    let pod = cluster.read(&format!("{NAMESPACE}/pods/web")).await?;
    ensure!(
        pod["spec"]["volumes"].to_string().contains("serviceAccountToken"),
        "the pod mounts no token: {pod}"
    );
    kubelet.wait_pod(&uid, "Running").await?;
    until("kubelet has its lease", 60, async || {
        kubelet.check()?;
        let lease = cluster
            .read("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/edge-1")
            .await;
        Ok(lease.map(|_| ()).map_err(|error| format!("{error:#}")))
    })
    .await?;

    step("kubelet is killed and started again with the link up, to see how long it takes");
    let online = kubelet.restart(&uid).await?;
    for &cut in cuts {
        step(format!(
            "the cloud goes away ({}); kubelet is killed and started again offline, and starts the pod again",
            cut.as_str()
        ));
        node.go_offline(cluster, cut).await?;
        let offline = kubelet.restart(&uid).await?;
        step(format!(
            "kubelet ran its pod {:.1} s after a start offline, {:.1} s after one with the link up",
            offline.as_secs_f64(),
            online.as_secs_f64()
        ));

        step("edgehold is killed and started again offline, kubelet after it");
        if cut == Cut::Killed {
            step("its cache, which has shown the Secret until now, is encrypted from this start on");
            let readable = readable(&node.cache())?;
            ensure!(
                !readable.is_empty(),
                "the Secret is nowhere in the cache: what does kubelet run the pod with?"
            );
            node.encrypt()?;
        }
        node.kill_and_launch(cluster).await?;
        kubelet.wait_pod(&uid, "Running").await?;
        kubelet.restart(&uid).await?;
        if cut == Cut::Refused {
            step("the cloud has noticed: the node is not Ready");
            wait_ready(cluster, &mut kubelet, "Unknown").await?;
        }

        step("the cloud is back: the node is Ready, the pod is the same, and a new one runs too");
        node.go_online(cluster).await?;
        wait_ready(cluster, &mut kubelet, "True").await?;
        let pod = cluster.read(&format!("{NAMESPACE}/pods/web")).await?;
        ensure!(
            pod["metadata"]["uid"] == uid.as_str(),
            "the pod is another one: {pod}"
        );
        ensure!(
            pod["metadata"]["deletionTimestamp"].is_null(),
            "the pod is being deleted: {pod}"
        );
        ensure!(
            pod["status"]["phase"] == "Running",
            "the pod does not run: {}",
            pod["status"]
        );
        kubelet.wait_pod(&uid, "Running").await?;
        another(
            cluster,
            &mut kubelet,
            &format!("after-{}", cut.as_str().replace(' ', "-")),
        )
        .await?;
    }
    step("nobody can read the Secret in the encrypted cache");
    until("the cache is encrypted", 120, async || {
        node.check()?;
        let readable = readable(&node.cache())?;
        Ok(if readable.is_empty() {
            Ok(())
        } else {
            Err(format!("{readable:?}"))
        })
    })
    .await
}

/// The files below a directory in which the Secret can be read.
fn readable(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(readable(&path)?);
        } else if let Ok(bytes) = std::fs::read(&path) {
            let shows = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
            if shows(WORD) || shows(WORD_IN_JSON) {
                found.push(path);
            }
        }
    }
    Ok(found)
}

/// A new pod runs, and goes again.
async fn another(cluster: &Cluster, kubelet: &mut Kubelet, name: &str) -> anyhow::Result<()> {
    let (pods, pod) = (format!("{NAMESPACE}/pods"), format!("{NAMESPACE}/pods/{name}"));
    cluster
        .request("POST", &pods, &pod_named(name).to_string())
        .await?;
    until("a new pod runs", 120, async || {
        kubelet.check()?;
        let pod = cluster.read(&pod).await?;
        Ok(if pod["status"]["phase"] == "Running" {
            Ok(())
        } else {
            Err(pod["status"].to_string())
        })
    })
    .await?;
    cluster.request("DELETE", &pod, "").await?;
    until("the new pod is gone", 120, async || {
        kubelet.check()?;
        let list = cluster.read(&pods).await?;
        let count = list["items"].as_array().map_or(0, Vec::len);
        Ok(if count == 1 {
            Ok(())
        } else {
            Err(format!("{count} pods"))
        })
    })
    .await
}

async fn prepare(cluster: &Cluster) -> anyhow::Result<()> {
    let make = async |target: String, body: Value| cluster.request("POST", &target, &body.to_string()).await;
    let metadata = |name: &str| json!({"name": name});
    make(
        "/api/v1/namespaces".to_owned(),
        json!({"metadata": metadata("edge")}),
    )
    .await?;
    make(
        format!("{NAMESPACE}/configmaps"),
        json!({"metadata": metadata("settings"), "data": {"colour": "red"}}),
    )
    .await?;
    make(
        format!("{NAMESPACE}/secrets"),
        json!({"metadata": metadata("hidden"), "stringData": {"word": WORD}}),
    )
    .await?;
    let ports = json!({"ports": [{"port": 80}], "selector": {"app": "web"}});
    make(
        format!("{NAMESPACE}/services"),
        json!({"metadata": metadata("web"), "spec": ports}),
    )
    .await?;
    until("the namespace has its service account", 60, async || {
        let found = cluster
            .read(&format!("{NAMESPACE}/serviceaccounts/default"))
            .await;
        Ok(found.map(|_| ()).map_err(|error| format!("{error:#}")))
    })
    .await?;
    make(format!("{NAMESPACE}/pods"), pod_named("web")).await?;
    Ok(())
}

/// A pod on the node, with everything that kubelet must ask the cloud for; its service account's token is mounted by admission.
fn pod_named(name: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {
            "nodeName": "edge-1", "enableServiceLinks": true,
            "containers": [{
                "name": "main", "image": "example.test/web:1",
                "envFrom": [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "hidden"}}],
                "volumeMounts": [
                    {"name": "settings", "mountPath": "/settings"}, {"name": "hidden", "mountPath": "/hidden"},
                ],
            }],
            "volumes": [
                {"name": "settings", "configMap": {"name": "settings"}},
                {"name": "hidden", "secret": {"secretName": "hidden"}},
            ],
        },
    })
}

/// Waits for this status of the node's Ready condition, as etcd has it.
async fn wait_ready(cluster: &Cluster, kubelet: &mut Kubelet, status: &str) -> anyhow::Result<()> {
    until(&format!("Ready of the node is {status}"), 180, async || {
        kubelet.check()?;
        let node = match cluster.read(NODE).await {
            Ok(node) => node,
            Err(error) => return Ok(Err(format!("{error:#}"))),
        };
        let conditions = node["status"]["conditions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
        Ok(match ready {
            Some(ready) if ready["status"] == status => Ok(()),
            other => Err(format!("{other:?}")),
        })
    })
    .await
}

struct Kubelet {
    program: PathBuf,
    kubeconfig: PathBuf,
    dir: PathBuf,
    port: SocketAddr,
    read_only: SocketAddr,
    process: Option<Process>,
}

impl Kubelet {
    fn start(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command
            // Its root directory is made below this one, anew at each start.
            .env("TMPDIR", &self.dir)
            .args([
                "--morph=kubelet",
                "--name=edge-1",
                "--use-host-image-service=false",
            ])
            .arg(format!("--v={}", crate::process::verbosity()))
            .arg(format!("--kubeconfig={}", self.kubeconfig.display()))
            .arg(format!("--kubelet-port={}", self.port.port()))
            .arg(format!("--kubelet-read-only-port={}", self.read_only.port()));
        self.process = Some(Process::start("kubelet", &mut command, &self.dir)?);
        Ok(())
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        self.process.take().context("kubelet runs")?.kill().await
    }

    fn check(&mut self) -> anyhow::Result<()> {
        self.process.as_mut().map_or(Ok(()), Process::check)
    }

    /// Kills it, starts it again, and waits until it runs the pod, which is what may take a minute; gives the time.
    async fn restart(&mut self, uid: &str) -> anyhow::Result<Duration> {
        self.kill().await?;
        let start = Instant::now();
        self.start()?;
        self.wait_running().await?;
        self.wait_pod(uid, "Running").await?;
        Ok(start.elapsed())
    }

    /// Waits until kubelet itself lists the pod in this phase.
    async fn wait_pod(&mut self, uid: &str, phase: &str) -> anyhow::Result<()> {
        until(&format!("kubelet has the pod as {phase}"), AGAIN, async || {
            self.check()?;
            let pods = match self.read("/pods").await {
                Ok(pods) => serde_json::from_str::<Value>(&pods)?,
                Err(error) => return Ok(Err(format!("{error:#}"))),
            };
            let items = pods["items"].as_array().cloned().unwrap_or_default();
            Ok(match items.iter().find(|pod| pod["metadata"]["uid"] == uid) {
                Some(pod) if !pod["metadata"]["deletionTimestamp"].is_null() => {
                    Err("being deleted".to_owned())
                }
                Some(pod) if pod["status"]["phase"] == phase => Ok(()),
                Some(pod) => Err(pod["status"].to_string()),
                None => Err(format!("{} pods, not this one", items.len())),
            })
        })
        .await
    }

    /// Waits until this kubelet process itself has started the pod: what the last one ran went with it.
    async fn wait_running(&mut self) -> anyhow::Result<()> {
        until("kubelet runs one pod", AGAIN, async || {
            self.check()?;
            let metrics = self.read("/metrics").await;
            let running = metrics.as_ref().ok().and_then(|text| {
                text.lines()
                    .find(|line| line.starts_with("kubelet_running_pods "))
            });
            Ok(if running == Some("kubelet_running_pods 1") {
                Ok(())
            } else {
                Err(format!("{running:?}"))
            })
        })
        .await
    }

    /// From kubelet's read-only port.
    async fn read(&self, target: &str) -> anyhow::Result<String> {
        let mut stream = tokio::net::TcpStream::connect(self.read_only).await?;
        stream
            .write_all(format!("GET {target} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an answer of HTTP")?;
        ensure!(head.contains(" 200 "), "{head}");
        Ok(body.to_owned())
    }
}
