//! A node joins: kubelet has a bootstrap token and nothing else, gets its client certificate by a signing request through
//! edgehold, and edgehold picks it up. The certificate is renewed under load, and no request fails.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context as _, ensure};
use apiserver_standin::{Client, Connection};
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::step;
use crate::cluster::{Cluster, free_address};
use crate::node::{Cut, Node};
use crate::process::{Driven, Process, until};
use crate::tools::Tool;

const NODE: &str = "/api/v1/nodes/edge-7";
const KUBELET: &str = "system:node:edge-7";
const TOKEN: &str = "abcdef.0123456789abcdef";

/// The signer dates certificates back by five minutes, and they are renewed at 70 to 90 % of their whole life: after less than a minute.
const LIFETIME: &str = "--cluster-signing-duration=90s";

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.controllers(&[LIFETIME]).await?;
    admit(cluster).await?;
    let pki = cluster.dir().join("kubelet-pki");
    let pair = pki.join("kubelet-client-current.pem");
    let files = [(KUBELET, pair.clone(), pair)];
    let mut node = Node::start_with(cluster, "node", &files, "").await?;
    let bootstrap = cluster.kubeconfig_with_token("bootstrap", node.address, TOKEN)?;

    step("kubelet joins through edgehold with a bootstrap token and gets its certificate");
    let mut kubelet = join(cluster, &node, &bootstrap, &pki)?;
    until("the node is Ready", 180, async || {
        kubelet.check()?;
        node.check()?;
        Ok(match cluster.read(NODE).await {
            Ok(node) if is_ready(&node) => Ok(()),
            Ok(node) => Err(node["status"]["conditions"].to_string()),
            Err(error) => Err(format!("{error:#}")),
        })
    })
    .await?;
    kubelet.kill().await?;

    step("its certificate is renewed again and again under load: no request fails, no watch ends");
    let mut command = Command::new(cluster.tools().path(Tool::Client));
    command
        .arg("certificate")
        .arg(format!("-bootstrap={}", bootstrap.display()))
        .arg("-node=edge-7")
        .arg(format!("-dir={}", pki.display()))
        .arg(format!("-v={}", crate::process::verbosity()));
    let mut manager = Driven::start("certificate", &mut command, node.dir())?;
    // A client whose own certificate outlives the test: what is renewed is the one that edgehold shows to the apiserver.
    let client = node.client(Some(&cluster.pki().client(Some(KUBELET), &["system:nodes"])));
    let load = Load::start(&client);
    let mut shown = BTreeSet::new();
    until("edgehold has shown four certificates", 300, async || {
        node.check()?;
        load.check()?;
        shown.insert(shown_upstream(&client).await?);
        Ok(if shown.len() >= 4 {
            Ok(())
        } else {
            Err(format!("{shown:?}"))
        })
    })
    .await?;
    step(format!("{} requests and not a failed one", load.stop().await?));

    for cut in Cut::ALL {
        step(format!(
            "offline ({}): the last certificate serves; back online the next one is picked up",
            cut.as_str()
        ));
        node.go_offline(cluster, cut).await?;
        node.kill_and_launch(cluster).await?;
        let answer = client.get(NODE).await;
        ensure!(answer.status == 200, "GET of the node offline: {}", answer.text());
        node.go_online(cluster).await?;
        let before = manager.ask("which").await?["fingerprint"].clone();
        until("a new certificate is shown to the apiserver", 240, async || {
            node.check()?;
            let now = manager.ask("which").await?["fingerprint"].clone();
            let upstream = shown_upstream(&client).await;
            Ok(match upstream {
                Ok(shown) if now != before && now == shown.as_str() => Ok(()),
                other => Err(format!("before {before}, now {now}, shown {other:?}")),
            })
        })
        .await?;
    }
    Ok(())
}

/// What an administrator does once: a token, and rights to ask for a certificate and to have it approved.
async fn admit(cluster: &Cluster) -> anyhow::Result<()> {
    let secret = json!({
        "metadata": {"name": "bootstrap-token-abcdef"}, "type": "bootstrap.kubernetes.io/token",
        "stringData": {
            "token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
            "auth-extra-groups": "system:bootstrappers:edge",
        },
    });
    cluster
        .request(
            "POST",
            "/api/v1/namespaces/kube-system/secrets",
            &secret.to_string(),
        )
        .await?;
    for (group, role) in [
        ("system:bootstrappers:edge", "system:node-bootstrapper"),
        (
            "system:bootstrappers:edge",
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        ),
        (
            "system:nodes",
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        ),
    ] {
        let binding = json!({
            "metadata": {"generateName": "e2e-"},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group}],
        });
        cluster
            .request(
                "POST",
                "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
                &binding.to_string(),
            )
            .await?;
    }
    Ok(())
}

/// kubelet's own bootstrap: it writes the kubeconfig that it goes on with.
fn join(cluster: &Cluster, node: &Node, bootstrap: &Path, pki: &Path) -> anyhow::Result<Process> {
    let mut command = Command::new(cluster.tools().path(Tool::Kubemark));
    command
        .env("TMPDIR", node.dir())
        .args([
            "--morph=kubelet",
            "--name=edge-7",
            "--use-host-image-service=false",
        ])
        .arg(format!("--v={}", crate::process::verbosity()))
        .arg(format!("--bootstrap-kubeconfig={}", bootstrap.display()))
        .arg(format!(
            "--kubeconfig={}",
            node.dir().join("kubelet.kubeconfig").display()
        ))
        .arg(format!("--cert-dir={}", pki.display()))
        .arg(format!("--kubelet-port={}", free_address()?.port()))
        .arg(format!("--kubelet-read-only-port={}", free_address()?.port()));
    Process::start("kubelet", &mut command, node.dir())
}

fn is_ready(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions
            .iter()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// The fingerprint of the certificate that edgehold has shown to the apiserver for this client: the apiserver knows.
async fn shown_upstream(client: &Client) -> anyhow::Result<String> {
    let body = r#"{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}"#;
    let answer = client
        .clone()
        .header("content-type", "application/json")
        .send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
        .await
        .map_err(|error| anyhow::anyhow!(error.0))?;
    ensure!(
        answer.status == 201,
        "SelfSubjectReview: {} {}",
        answer.status,
        answer.text()
    );
    let credential =
        &answer.json()["status"]["userInfo"]["extra"]["authentication.kubernetes.io/credential-id"][0];
    let fingerprint = credential
        .as_str()
        .and_then(|text| text.strip_prefix("X509SHA256="));
    Ok(fingerprint.context("a credential")?.to_owned())
}

/// Requests on old and new connections, and a watch, until told to stop.
struct Load {
    tasks: JoinSet<anyhow::Result<()>>,
    stop: Arc<AtomicBool>,
    failed: Arc<std::sync::Mutex<Option<String>>>,
    count: Arc<AtomicU64>,
}

impl Load {
    fn start(client: &Client) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let failed = Arc::new(std::sync::Mutex::new(None));
        let mut tasks = JoinSet::new();
        for number in 0..4 {
            let (client, stop, count) = (client.clone(), Arc::clone(&stop), Arc::clone(&count));
            let failed = Arc::clone(&failed);
            tasks.spawn(async move {
                let outcome = match number {
                    0 => watch(&client, &stop).await,
                    1 => fresh(&client, &stop, &count).await,
                    _ => kept(&client, &stop, &count).await,
                };
                if let Err(error) = &outcome {
                    *failed.lock().expect("a failure") = Some(format!("{error:#}"));
                }
                outcome
            });
        }
        Self {
            tasks,
            stop,
            failed,
            count,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        let failed = self.failed.lock().expect("a failure").clone();
        failed.map_or(Ok(()), |failed| Err(anyhow::anyhow!(failed)))
    }

    async fn stop(self) -> anyhow::Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for outcome in self.tasks.join_all().await {
            outcome?;
        }
        Ok(self.count.load(Ordering::Relaxed))
    }
}

async fn connect(client: &Client) -> anyhow::Result<Connection> {
    client
        .connect()
        .await
        .map_err(|error| anyhow::anyhow!("connecting to edgehold: {}", error.0))
}

/// Each request on a connection of its own.
async fn fresh(client: &Client, stop: &AtomicBool, count: &AtomicU64) -> anyhow::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        read(&mut connect(client).await?, count).await?;
    }
    Ok(())
}

/// All requests on one connection.
async fn kept(client: &Client, stop: &AtomicBool, count: &AtomicU64) -> anyhow::Result<()> {
    let mut connection = connect(client).await?;
    while !stop.load(Ordering::Relaxed) {
        read(&mut connection, count).await?;
    }
    Ok(())
}

/// One answer, which must be live.
async fn read(connection: &mut Connection, count: &AtomicU64) -> anyhow::Result<()> {
    let answer = connection.send("GET", NODE, "").await;
    let answer = answer.map_err(|error| anyhow::anyhow!("GET {NODE}: {}", error.0))?;
    ensure!(
        answer.status == 200,
        "GET {NODE}: {} {}",
        answer.status,
        answer.text()
    );
    let cached = answer.header("cache-status");
    ensure!(
        !cached.contains("hit"),
        "GET {NODE} was answered from the cache: {cached}"
    );
    count.fetch_add(1, Ordering::Relaxed);
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    Ok(())
}

/// One watch, which must not end.
async fn watch(client: &Client, stop: &AtomicBool) -> anyhow::Result<()> {
    let mut connection = connect(client).await?;
    let target = "/api/v1/nodes?watch=true&fieldSelector=metadata.name%3Dedge-7&timeoutSeconds=3600";
    let mut lines = connection
        .lines(target)
        .await
        .map_err(|error| anyhow::anyhow!("watch: {}", error.0))?;
    while !stop.load(Ordering::Relaxed) {
        match lines.next().await {
            Ok(Some(event)) => ensure!(event["type"] != "ERROR", "the watch has an error: {event}"),
            // Nothing happens to the node in ten seconds.
            Err(error) if error.0.contains("Elapsed") => {}
            Ok(None) => anyhow::bail!("the watch has ended"),
            Err(error) => anyhow::bail!("the watch has broken: {}", error.0),
        }
    }
    Ok(())
}
