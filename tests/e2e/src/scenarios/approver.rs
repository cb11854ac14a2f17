//! `edgehold approve --watch` as the manifests have it, two of them, and kube-controller-manager that signs: honest requests get
//! their certificates, dishonest ones nothing but a reason.

mod dishonest;

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use apiserver_standin::Client;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use super::step;
use crate::cluster::{Cluster, free_address};
use crate::kubectl::Kubectl;
use crate::process::{Process, until};
use crate::tools::Tool;

use self::dishonest::{Request, dishonest};

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/edgehold-approver";

/// Of all keys that edgehold or a person may have made.
const HONEST: [(&str, Request); 3] = [
    ("edgehold-serving-edge-1-ec", Request::HONEST),
    (
        "edgehold-serving-edge-1-rsa",
        Request {
            key: "rsa:2048",
            ..Request::HONEST
        },
    ),
    (
        "edgehold-serving-edge-2-ec",
        Request {
            sender: "edge-2",
            subject: "O=system:nodes\nCN=system:node:edge-2",
            ..Request::HONEST
        },
    ),
];

/// One of the loops, and where it tells its metrics.
struct Approver {
    process: Process,
    metrics: SocketAddr,
}

impl Approver {
    async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let mut stream = TcpStream::connect(self.metrics).await?;
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await?;
        let mut told = String::new();
        stream.read_to_string(&mut told).await?;
        let mut lines = told.lines().filter_map(|line| line.split_once(' '));
        let (_, value) = lines
            .find(|(metric, _)| *metric == name)
            .with_context(|| format!("no {name}: {told}"))?;
        Ok(value.parse()?)
    }
}

pub(super) async fn run(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.controllers(&[]).await?;
    for name in ["edge-1", "edge-2"] {
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}});
        cluster
            .request("POST", "/api/v1/nodes", &node.to_string())
            .await?;
    }
    let mut approvers = deploy(cluster).await?;

    step("honest requests are approved, and signed by the cluster");
    for (name, request) in HONEST {
        submitted(cluster, name, &request).await?;
        signed(cluster, &mut approvers, name, &request).await?;
    }

    let mut taken = Vec::new();
    for (name, request, why) in dishonest() {
        let name = format!("edgehold-serving-{name}");
        match submit(cluster, &name, &request).await? {
            None => taken.push((name, request, why)),
            Some(refusal) => step(format!("{name} is refused by the apiserver itself: {refusal}")),
        }
    }
    step(format!(
        "{} dishonest ones: each is left undecided, and an Event says why",
        taken.len()
    ));
    ensure!(taken.len() >= 20, "{}", taken.len());
    for (name, _, why) in &taken {
        until(&format!("an Event about {name}"), 120, async || {
            check(&mut approvers)?;
            let events = cluster.read(EVENTS).await?;
            let mut notes = notes(&events, name);
            Ok(match notes.find(|note| note.contains(*why)) {
                Some(_) => Ok(()),
                None => Err(format!(
                    "{:?}, expected {why:?}",
                    self::notes(&events, name).collect::<Vec<_>>()
                )),
            })
        })
        .await?;
    }
    // Nor by hand, with an administrator's rights, but for the node: whoever names a request knows whether there is one.
    let admin = cluster.pki().client(Some("administrator"), &["system:masters"]);
    let admin = cluster.kubeconfig("administrator", cluster.address(), &admin)?;
    for (name, ..) in taken.iter().filter(|(_, request, _)| request.sender != "edge-9") {
        let by_hand = Command::new(cluster.tools().edgehold())
            .args(["approve", "--address", "127.0.0.1", name.as_str()])
            .env("KUBECONFIG", &admin)
            .kill_on_drop(true)
            .output()
            .await?;
        ensure!(by_hand.status.code() == Some(1), "approve {name}: {by_hand:?}");
    }

    step("the leader stops: it gives the Lease back, and the other one approves");
    let (mut leaders, mut approved) = (Vec::new(), 0.0);
    for (number, approver) in approvers.iter().enumerate() {
        if approver.metric("edgehold_approver_leading").await? > 0.0 {
            leaders.push(number);
        }
        approved += approver.metric("edgehold_approver_approved_total").await?;
    }
    ensure!(leaders.len() == 1, "{leaders:?} lead");
    ensure!(approved == HONEST.len() as f64, "{approved} were approved");
    let leader = approvers.remove(leaders[0]);
    leader.process.terminate().await?;
    let (name, request) = ("edgehold-serving-edge-1-later", Request::HONEST);
    submitted(cluster, name, &request).await?;
    signed(cluster, &mut approvers, name, &request).await?;
    let last = approvers.pop().context("a second approver")?;
    last.process.terminate().await?;
    let lease = cluster.read(LEASE).await?;
    ensure!(lease["spec"]["holderIdentity"] == "", "{lease}");

    // At the end: nothing of what was dishonest has been decided in all that time.
    for (name, ..) in &taken {
        let request = cluster.read(&format!("{REQUESTS}/{name}")).await?;
        let status = &request["status"];
        ensure!(
            status["conditions"].is_null() && status["certificate"].is_null(),
            "{name}: {status}"
        );
    }
    Ok(())
}

/// Rights as in the manifests, and two loops that have these and no other.
async fn deploy(cluster: &Cluster) -> anyhow::Result<Vec<Approver>> {
    let admin = cluster.pki().client(Some("deployer"), &["system:masters"]);
    let admin = cluster.kubeconfig("deployer", cluster.address(), &admin)?;
    let kubectl = Kubectl::new(cluster.tools().path(Tool::Kubectl), admin, cluster.dir());
    for manifest in ["rbac.yaml", "approver.yaml"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../examples/deploy/csr")
            .join(manifest);
        let applied = kubectl
            .run(&format!("apply --filename={}", path.display()))
            .await?;
        applied.success()?;
    }
    let token = kubectl
        .run("create token edgehold-approver --namespace=kube-system")
        .await?;
    let token = token.success()?.out.trim().to_owned();
    let kubeconfig = cluster.kubeconfig_with_token("approver", cluster.address(), &token)?;
    ["approver-1", "approver-2"]
        .into_iter()
        .map(|name| {
            let metrics = free_address()?;
            let mut command = Command::new(cluster.tools().edgehold());
            command
                .args(["approve", "--watch", "--namespace=kube-system"])
                .arg(format!("--metrics={metrics}"))
                .env("KUBECONFIG", &kubeconfig);
            let process = Process::start(name, &mut command, cluster.dir())?;
            Ok(Approver { process, metrics })
        })
        .collect()
}

fn check(approvers: &mut [Approver]) -> anyhow::Result<()> {
    approvers
        .iter_mut()
        .try_for_each(|approver| approver.process.check())
}

/// Waits for its certificate, which is for its names and by the cluster's authority.
async fn signed(
    cluster: &Cluster,
    approvers: &mut [Approver],
    name: &str,
    request: &Request,
) -> anyhow::Result<()> {
    let certificate = until(&format!("the certificate of {name}"), 120, async || {
        check(approvers)?;
        let status = cluster.read(&format!("{REQUESTS}/{name}")).await?["status"].take();
        let certificate = status["certificate"].as_str().map(str::to_owned);
        Ok(certificate.ok_or_else(|| status.to_string()))
    })
    .await?;
    let file = cluster.dir().join(format!("{name}.crt"));
    std::fs::write(&file, STANDARD.decode(certificate)?)?;
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        command.args(arguments).arg(&file).kill_on_drop(true);
        command
    };
    let authority = cluster.dir().join("ca.crt").display().to_string();
    let verified = openssl(&["verify", "-purpose", "sslserver", "-CAfile", &authority])
        .output()
        .await?;
    ensure!(verified.status.success(), "{name}: {verified:?}");
    let shown = openssl(&["x509", "-noout", "-ext", "subjectAltName", "-in"])
        .output()
        .await?;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let asked = request.names.lines().filter_map(|line| line.split_once('='));
    for (_, value) in asked {
        ensure!(shown.contains(value), "{name} is not for {value}: {shown}");
    }
    Ok(())
}

/// What the Events about one request say.
fn notes<'e>(events: &'e Value, name: &'e str) -> impl Iterator<Item = &'e str> {
    let events = events["items"].as_array().into_iter().flatten();
    let about = events.filter(move |event| event["regarding"]["name"] == name);
    about.filter_map(|event| event["note"].as_str())
}

async fn submitted(cluster: &Cluster, name: &str, request: &Request) -> anyhow::Result<()> {
    match submit(cluster, name, request).await? {
        None => Ok(()),
        Some(refusal) => bail!("{name}: {refusal}"),
    }
}

/// Sends it as the node that it comes from, or as whoever it says. What the apiserver says if it does not take it.
async fn submit(cluster: &Cluster, name: &str, request: &Request) -> anyhow::Result<Option<String>> {
    let pem = request
        .pem(cluster.dir())
        .await
        .with_context(|| name.to_owned())?;
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem), "signerName": "kubernetes.io/kubelet-serving",
            "usages": request.usages,
        },
    });
    let pki = cluster.pki();
    let pair = match request.sender {
        "a person" => pki.client(Some("a person"), &["system:masters"]),
        node => pki.client(Some(&format!("system:node:{node}")), &["system:nodes"]),
    };
    let client = Client::new(cluster.address(), pki.ca_pem(), Some(&pair));
    let client = client.header("content-type", "application/json");
    let answer = client.send("POST", REQUESTS, body.to_string()).await;
    let answer = answer.map_err(|error| anyhow::anyhow!(error.0))?;
    let refusal = answer.json()["message"].as_str().unwrap_or_default().to_owned();
    match answer.status {
        201 => Ok(None),
        400 | 403 | 422 => Ok(Some(refusal)),
        status => bail!("{name}: {status} {refusal}"),
    }
}
