//! The cloud: etcd, kube-apiserver and, when a scenario asks for it, kube-controller-manager, all on the loopback.
//!
//! Certificates and keys are made for the run and live in its directory. Invariant: ports and files stay the same when
//! the apiserver is killed and started again, so that its clients find it where it was.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use apiserver_standin::{Client, Pair, Pki};
use serde_json::Value;
use tokio::process::Command;

use crate::process::{Process, until};
use crate::tools::{Tool, Tools};

/// How long a program may take to be ready on a busy machine.
const START: u64 = 120;

/// A running cluster.
pub(crate) struct Cluster {
    tools: Tools,
    dir: PathBuf,
    pki: Pki,
    admin: Pair,
    etcd: Process,
    etcd_url: String,
    apiserver: Option<Process>,
    apiserver_address: SocketAddr,
    controllers: Option<Process>,
}

impl Cluster {
    /// Starts etcd and kube-apiserver and waits until it is ready.
    pub(crate) async fn start(tools: &Tools, dir: &Path) -> anyhow::Result<Self> {
        let pki = Pki::new();
        pki.write_ca(dir, "ca");
        pki.server(&[]).write_to(dir, "apiserver");
        pki.client(Some("service-accounts"), &[])
            .write_to(dir, "service-accounts");
        let admin = pki.client(Some("admin"), &["system:masters"]);
        let etcd_url = format!("http://{}", free_address()?);
        let etcd = Process::start("etcd", &mut etcd_command(tools, dir, &etcd_url), dir)?;
        let mut cluster = Self {
            tools: tools.clone(),
            dir: dir.to_owned(),
            pki,
            admin,
            etcd,
            etcd_url,
            apiserver: None,
            apiserver_address: free_address()?,
            controllers: None,
        };
        cluster.start_apiserver().await?;
        Ok(cluster)
    }

    /// Starts the apiserver on its old port and store.
    pub(crate) async fn start_apiserver(&mut self) -> anyhow::Result<()> {
        let mut command = self.apiserver_command();
        self.apiserver = Some(Process::start("kube-apiserver", &mut command, &self.dir)?);
        let client = self.direct();
        until("kube-apiserver is ready", START, async || {
            self.etcd.check()?;
            if let Some(process) = &mut self.apiserver {
                process.check()?;
            }
            Ok(match client.send("GET", "/readyz", "").await {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(answer.text()),
                Err(error) => Err(error.0),
            })
        })
        .await
    }

    /// Kills the apiserver as a power cut would.
    pub(crate) async fn kill_apiserver(&mut self) -> anyhow::Result<()> {
        match self.apiserver.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Starts kube-controller-manager, once, and waits until namespaces get their service accounts.
    pub(crate) async fn controllers(&mut self) -> anyhow::Result<()> {
        if self.controllers.is_none() {
            let kubeconfig = self.kubeconfig("controllers", self.apiserver_address, &self.admin)?;
            let mut command = Command::new(self.tools.path(Tool::KubeControllerManager));
            command
                .arg(format!("--kubeconfig={}", kubeconfig.display()))
                .arg(format!("--root-ca-file={}", self.file("ca.crt")))
                .arg(format!(
                    "--service-account-private-key-file={}",
                    self.file("service-accounts.key")
                ))
                .args([
                    "--use-service-account-credentials",
                    "--leader-elect=false",
                    "--secure-port=0",
                ])
                // A lost node is noticed, and found again, within a test's patience.
                .args(["--node-monitor-period=2s", "--node-monitor-grace-period=22s"]);
            self.controllers = Some(Process::start(
                "kube-controller-manager",
                &mut command,
                &self.dir,
            )?);
        }
        until("the default service account exists", START, async || {
            if let Some(process) = &mut self.controllers {
                process.check()?;
            }
            let found = self
                .read("/api/v1/namespaces/default/serviceaccounts/default")
                .await;
            Ok(found.map(|_| ()).map_err(|error| format!("{error:#}")))
        })
        .await
    }

    /// The authority of the run.
    pub(crate) fn pki(&self) -> &Pki {
        &self.pki
    }

    /// The programs.
    pub(crate) fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The directory of the run.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the apiserver listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.apiserver_address
    }

    /// The administrator's client, straight to the apiserver.
    pub(crate) fn direct(&self) -> Client {
        Client::new(self.apiserver_address, self.pki.ca_pem(), Some(&self.admin))
    }

    /// A GET straight from the apiserver.
    pub(crate) async fn read(&self, target: &str) -> anyhow::Result<Value> {
        self.request("GET", target, "").await
    }

    /// A request straight to the apiserver; anything but success is an error.
    pub(crate) async fn request(&self, method: &str, target: &str, body: &str) -> anyhow::Result<Value> {
        let client = match method {
            "PATCH" => self
                .direct()
                .header("content-type", "application/merge-patch+json"),
            _ => self.direct().header("content-type", "application/json"),
        };
        let answer = client.send(method, target, body.to_owned()).await;
        let answer = answer.map_err(|error| anyhow::anyhow!("{method} {target}: {}", error.0))?;
        anyhow::ensure!(
            answer.status < 300,
            "{method} {target}: {} {}",
            answer.status,
            answer.text()
        );
        Ok(answer.json())
    }

    /// Writes a kubeconfig that shows `pair` to `server`, and gives its path.
    pub(crate) fn kubeconfig(&self, name: &str, server: SocketAddr, pair: &Pair) -> anyhow::Result<PathBuf> {
        let (cert, key) = pair.write_to(&self.dir, name);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: e2e\nclusters:\n- name: e2e\n  cluster: {{server: \
             \"https://{server}\", certificate-authority: {}}}\nusers:\n- name: e2e\n  user: {{client-certificate: {}, \
             client-key: {}}}\ncontexts:\n- name: e2e\n  context: {{cluster: e2e, user: e2e}}\n",
            self.file("ca.crt"),
            cert.display(),
            key.display(),
        );
        let path = self.dir.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    fn apiserver_command(&self) -> Command {
        let mut command = Command::new(self.tools.path(Tool::KubeApiserver));
        command
            .arg(format!("--etcd-servers={}", self.etcd_url))
            .arg(format!("--secure-port={}", self.apiserver_address.port()))
            .args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"])
            .args([
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
            ])
            .args([
                "--enable-bootstrap-token-auth",
                "--service-cluster-ip-range=10.0.0.0/24",
            ])
            .arg("--service-account-issuer=https://kubernetes.default.svc.cluster.local")
            .arg(format!(
                "--service-account-key-file={}",
                self.file("service-accounts.crt")
            ))
            .arg(format!(
                "--service-account-signing-key-file={}",
                self.file("service-accounts.key")
            ))
            .arg(format!("--client-ca-file={}", self.file("ca.crt")))
            .arg(format!("--tls-cert-file={}", self.file("apiserver.crt")))
            .arg(format!("--tls-private-key-file={}", self.file("apiserver.key")))
            .arg(format!("--cert-dir={}", self.dir.display()));
        command
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

fn etcd_command(tools: &Tools, dir: &Path, url: &str) -> Command {
    let mut command = Command::new(tools.path(Tool::Etcd));
    command
        .arg(format!("--data-dir={}", dir.join("etcd").display()))
        .arg(format!("--listen-client-urls={url}"))
        .arg(format!("--advertise-client-urls={url}"))
        .arg("--listen-peer-urls=http://127.0.0.1:0")
        .args(["--unsafe-no-fsync", "--log-level=warn"]);
    command
}

/// A loopback address that nothing listens on.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
