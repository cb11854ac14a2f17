//! The one approval: the real `edgehold approve` with the rights of `rbac.yaml` and no other, under the real `policy.yaml`.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use tokio::process::Command;

use super::{LOCAL, NODE};
use crate::cluster::Cluster;
use crate::kubectl::{Kubectl, Said};
use crate::process::until;
use crate::scenarios::step;
use crate::tools::Tool;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

/// Who approves.
pub(super) struct Approver {
    edgehold: PathBuf,
    kubeconfig: PathBuf,
}

impl Approver {
    /// Applies the manifests and binds the approver's role.
    pub(super) async fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let tools = cluster.tools();
        let pki = cluster.pki();
        let admin = pki.client(Some("administrator"), &["system:masters"]);
        let admin = cluster.kubeconfig("administrator", cluster.address(), &admin)?;
        let kubectl = Kubectl::new(tools.path(Tool::Kubectl), admin, cluster.dir());
        for manifest in ["rbac.yaml", "policy.yaml"] {
            let path = deploy().join("csr").join(manifest);
            kubectl
                .run(&format!("apply --filename={}", path.display()))
                .await?
                .success()?;
        }
        let bind =
            "create clusterrolebinding approver --clusterrole=edgehold-serving-approver --user=approver";
        kubectl.run(bind).await?.success()?;
        until("the policy is in force", 60, async || {
            let denied = forge(cluster, "edgehold-serving-edge-2-forged", "IP:203.0.113.9").await;
            Ok(match denied {
                Err(error) if format!("{error:#}").contains("must come from that node") => Ok(()),
                Err(error) => Err(format!("{error:#}")),
                Ok(()) => {
                    let request = format!("{REQUESTS}/edgehold-serving-edge-2-forged");
                    cluster.request("DELETE", &request, "").await?;
                    Err("a request in another node's name is taken".to_owned())
                }
            })
        })
        .await?;
        let edgehold = tools.edgehold().to_owned();
        let pair = pki.client(Some("approver"), &[]);
        let kubeconfig = cluster.kubeconfig("approver", cluster.address(), &pair)?;
        Ok(Self { edgehold, kubeconfig })
    }

    /// Waits for edgehold's request and has it approved; nothing else passes.
    pub(super) async fn approve(&self, cluster: &Cluster) -> anyhow::Result<()> {
        let name = until("edgehold has asked for its certificate", 60, async || {
            let list = cluster.read(REQUESTS).await?;
            let names: Vec<&str> = list["items"]
                .as_array()
                .context("requests")?
                .iter()
                .filter_map(|one| one["metadata"]["name"].as_str())
                .collect();
            let found = names
                .iter()
                .find(|name| name.starts_with(&format!("edgehold-serving-{NODE}-")));
            Ok(found
                .map(|name| (*name).to_owned())
                .ok_or_else(|| format!("{names:?}")))
        })
        .await?;
        let all = format!("--address 127.0.0.1 --address {LOCAL}");
        self.refuses(
            &format!("--address 127.0.0.1 {name}"),
            &format!("it asks for {LOCAL:?}"),
        )
        .await?;

        // This node's name, and another one's address.
        forge(
            cluster,
            "edgehold-serving-edge-1-forged",
            "DNS:kubernetes,IP:127.0.0.1,IP:203.0.113.9",
        )
        .await?;
        self.refuses(
            &format!("{all} edgehold-serving-edge-1-forged"),
            "it asks for \"203.0.113.9\"",
        )
        .await?;
        forge(cluster, "edgehold-serving-edge-1-v6", "DNS:kubernetes,IP:fd00::b").await?;
        self.refuses(
            &format!("{all} edgehold-serving-edge-1-v6"),
            "it asks for \"fd00::b\"",
        )
        .await?;
        let said = self
            .run(&format!(
                "{all} --address fd00::b --dry-run edgehold-serving-edge-1-v6"
            ))
            .await?;
        said.success()?
            .shows("edgehold-serving-edge-1-v6: would be approved")?;

        let said = self.run(&format!("{all} --dry-run {name}")).await?;
        said.success()?.shows(&format!("{name}: would be approved"))?;
        let request = cluster.read(&format!("{REQUESTS}/{name}")).await?;
        ensure!(
            request["status"]["conditions"].is_null(),
            "a dry run decides nothing: {request}"
        );

        // One that fails does not keep the next from being approved.
        let said = self
            .run(&format!("{all} edgehold-serving-edge-1-forged {name}"))
            .await?;
        ensure!(!said.success, "one of two was not approved: {said:?}");
        step(said.out.trim());
        let request = cluster.read(&format!("{REQUESTS}/{name}")).await?;
        ensure!(
            request["status"]["conditions"][0]["type"] == "Approved",
            "{request}"
        );
        self.refuses(&format!("{all} {name}"), "already decided: \"Approved\"")
            .await?;
        let forged = cluster
            .read(&format!("{REQUESTS}/edgehold-serving-edge-1-forged"))
            .await?;
        ensure!(forged["status"]["conditions"].is_null(), "{forged}");
        Ok(())
    }

    async fn refuses(&self, arguments: &str, why: &str) -> anyhow::Result<()> {
        let said = self.run(arguments).await?;
        ensure!(
            !said.success && said.err.contains(why),
            "approve {arguments}, expected {why:?}: {said:?}"
        );
        Ok(())
    }

    async fn run(&self, arguments: &str) -> anyhow::Result<Said> {
        let output = Command::new(&self.edgehold)
            .arg("approve")
            .args(arguments.split(' '))
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        Ok(Said {
            success: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }
}

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/deploy")
}

/// A request that the node makes with its own rights, for these names.
async fn forge(cluster: &Cluster, name: &str, names: &str) -> anyhow::Result<()> {
    submit(cluster, name, &request(names).await?).await
}

/// A request for these names in PEM, with a key that is thrown away.
async fn request(names: &str) -> anyhow::Result<String> {
    let line = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout /dev/null -subj";
    let output = Command::new("openssl")
        .args(line.split(' '))
        .arg(format!("/O=system:nodes/CN=system:node:{NODE}"))
        .args(["-addext", &format!("subjectAltName={names}")])
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "openssl: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

async fn submit(cluster: &Cluster, name: &str, pem: &str) -> anyhow::Result<()> {
    let body = json!({
        "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
        "spec": {
            "request": STANDARD.encode(pem), "signerName": "kubernetes.io/kubelet-serving",
            "usages": ["digital signature", "server auth"],
        },
    });
    let user = format!("system:node:{NODE}");
    let pair = cluster.pki().client(Some(&user), &["system:nodes"]);
    let client = apiserver_standin::Client::new(cluster.address(), cluster.pki().ca_pem(), Some(&pair));
    let client = client.header("content-type", "application/json");
    let answer = client.send("POST", REQUESTS, body.to_string()).await;
    let answer = answer.map_err(|error| anyhow::anyhow!(error.0))?;
    ensure!(answer.status == 201, "{}", answer.text());
    Ok(())
}
