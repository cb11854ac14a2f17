//! The cloud: etcd, kube-apiserver and, when a scenario asks for it, kube-controller-manager, all on the loopback. Each
//! scenario has one to itself.
//!
//! Certificates and keys are made for it and live in its directory. Invariant: ports and files stay the same when
//! the apiserver is killed and started again, so that its clients find it where it was.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::Context as _;
use apiserver_standin::{Client, Pair, Pki};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::Command;

use crate::network::Network;
use crate::process::{Process, until};
use crate::tools::{Tool, Tools};

/// How long a program may take to be ready on a busy machine.
const START: u64 = 180;

/// A running cluster.
pub(crate) struct Cluster {
    tools: Tools,
    dir: PathBuf,
    network: Network,
    flags: Vec<String>,
    pki: Pki,
    admin: Pair,
    etcd: Option<Process>,
    etcd_url: String,
    apiserver: Apiserver,
    /// On the same etcd, once a scenario has asked for it.
    second: Option<Apiserver>,
    controllers: Option<Process>,
}

/// A kube-apiserver that may run; its address stays.
struct Apiserver {
    name: &'static str,
    address: SocketAddr,
    process: Option<Process>,
}

impl Cluster {
    /// Starts etcd and kube-apiserver, the latter with these flags more, and waits until it is ready.
    pub(crate) async fn start(tools: &Tools, dir: &Path, flags: &[&str]) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let network = Network::new();
        let pki = Pki::new();
        pki.write_authority(dir, "ca");
        pki.server(&[&network.cloud().to_string()])
            .write_to(dir, "apiserver");
        pki.client(Some("service-accounts"), &[])
            .write_to(dir, "service-accounts");
        let admin = pki.client(Some("admin"), &["system:masters"]);
        let etcd_url = format!("http://{}", free_address()?);
        let etcd = Some(Process::start(
            "etcd",
            &mut etcd_command(tools, dir, &etcd_url),
            dir,
        )?);
        let mut cluster = Self {
            tools: tools.clone(),
            dir: dir.to_owned(),
            network,
            flags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
            pki,
            admin,
            etcd,
            etcd_url,
            apiserver: Apiserver::new("kube-apiserver")?,
            second: None,
            controllers: None,
        };
        cluster.start_apiserver().await?;
        Ok(cluster)
    }

    /// Starts the apiserver on its old port and store.
    pub(crate) async fn start_apiserver(&mut self) -> anyhow::Result<()> {
        let mut command = self.apiserver_command(self.apiserver.address);
        self.apiserver.start(&mut command, &self.dir)?;
        let client = self.direct();
        ready(&client, [self.etcd.as_mut(), self.apiserver.process.as_mut()]).await
    }

    /// Starts a second apiserver on the same etcd, or starts it again, and gives its address.
    pub(crate) async fn start_second(&mut self) -> anyhow::Result<SocketAddr> {
        let mut second = match self.second.take() {
            Some(second) => second,
            None => Apiserver::new("kube-apiserver-2")?,
        };
        let mut command = self.apiserver_command(second.address);
        second.start(&mut command, &self.dir)?;
        let second = self.second.insert(second);
        let client = Client::new(second.address, self.pki.ca_pem(), Some(&self.admin));
        ready(&client, [self.etcd.as_mut(), second.process.as_mut()]).await?;
        Ok(second.address)
    }

    /// Kills the second apiserver as a power cut would.
    pub(crate) async fn kill_second(&mut self) -> anyhow::Result<()> {
        match &mut self.second {
            Some(second) => second.kill().await,
            None => Ok(()),
        }
    }

    /// Starts the apiserver unless it runs.
    pub(crate) async fn ensure_apiserver(&mut self) -> anyhow::Result<()> {
        match self.apiserver.process {
            Some(_) => Ok(()),
            None => self.start_apiserver().await,
        }
    }

    /// Kills the apiserver as a power cut would.
    pub(crate) async fn kill_apiserver(&mut self) -> anyhow::Result<()> {
        self.apiserver.kill().await
    }

    /// Kills apiserver and etcd and keeps a copy of what etcd holds; starts them again.
    pub(crate) async fn back_up(&mut self) -> anyhow::Result<()> {
        self.stop_etcd().await?;
        copy(&self.dir.join("etcd"), &self.dir.join("etcd-backup"))?;
        self.start_etcd().await
    }

    /// Kills apiserver and etcd and starts them on the copy: resource versions go backwards.
    pub(crate) async fn restore(&mut self) -> anyhow::Result<()> {
        self.stop_etcd().await?;
        std::fs::remove_dir_all(self.dir.join("etcd"))?;
        copy(&self.dir.join("etcd-backup"), &self.dir.join("etcd"))?;
        self.start_etcd().await
    }

    async fn stop_etcd(&mut self) -> anyhow::Result<()> {
        self.kill_apiserver().await?;
        match self.etcd.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    async fn start_etcd(&mut self) -> anyhow::Result<()> {
        let mut command = etcd_command(&self.tools, &self.dir, &self.etcd_url);
        self.etcd = Some(Process::start("etcd", &mut command, &self.dir)?);
        self.start_apiserver().await
    }

    /// Has etcd forget all history up to this revision.
    pub(crate) async fn compact(&self, revision: &str) -> anyhow::Result<()> {
        let body = format!(r#"{{"revision":"{revision}","physical":true}}"#);
        let address = self.etcd_url.trim_start_matches("http://");
        let request = format!(
            "POST /v3/kv/compaction HTTP/1.0\r\nHost: {address}\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::ensure!(answer.contains(" 200 "), "compaction to {revision}: {answer}");
        Ok(())
    }

    /// Starts kube-controller-manager, once, with these flags more, and waits until namespaces get their service accounts.
    pub(crate) async fn controllers(&mut self, flags: &[&str]) -> anyhow::Result<()> {
        if self.controllers.is_none() {
            let kubeconfig = self.kubeconfig("controllers", self.apiserver.address, &self.admin)?;
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
                .args(["--node-monitor-period=2s", "--node-monitor-grace-period=22s"])
                .arg(format!("--cluster-signing-cert-file={}", self.file("ca.crt")))
                .arg(format!("--cluster-signing-key-file={}", self.file("ca.key")))
                .args(flags);
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

    /// The network between node and cloud.
    pub(crate) fn network(&self) -> &Network {
        &self.network
    }

    /// Where the apiserver listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.apiserver.address
    }

    /// The administrator's client, straight to the apiserver.
    pub(crate) fn direct(&self) -> Client {
        Client::new(self.apiserver.address, self.pki.ca_pem(), Some(&self.admin))
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

    /// Waits until this user may list the ConfigMaps of a namespace: RBAC follows its bindings with a delay.
    pub(crate) async fn allows(&self, user: &str, namespace: &str) -> anyhow::Result<()> {
        let attributes =
            json!({"namespace": namespace, "verb": "list", "version": "v1", "resource": "configmaps"});
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": user, "resourceAttributes": attributes},
        });
        let (target, review) = (
            "/apis/authorization.k8s.io/v1/subjectaccessreviews",
            review.to_string(),
        );
        until(&format!("{user} may list ConfigMaps"), 60, async || {
            let said = self.request("POST", target, &review).await?["status"].take();
            Ok(if said["allowed"] == true {
                Ok(())
            } else {
                Err(said.to_string())
            })
        })
        .await
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

    /// Writes a kubeconfig that shows a token to `server`, and gives its path.
    pub(crate) fn kubeconfig_with_token(
        &self,
        name: &str,
        server: SocketAddr,
        token: &str,
    ) -> anyhow::Result<PathBuf> {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: e2e\nclusters:\n- name: e2e\n  cluster: {{server: \
             \"https://{server}\", certificate-authority: {}}}\nusers:\n- name: e2e\n  user: {{token: \"{token}\"}}\n\
             contexts:\n- name: e2e\n  context: {{cluster: e2e, user: e2e}}\n",
            self.file("ca.crt"),
        );
        let path = self.dir.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    fn apiserver_command(&self, address: SocketAddr) -> Command {
        let mut command = Command::new(self.tools.path(Tool::KubeApiserver));
        command
            .arg(format!("--etcd-servers={}", self.etcd_url))
            .arg(format!("--secure-port={}", address.port()))
            .args(["--bind-address=127.0.0.1", "--endpoint-reconciler-type=none"])
            .args([
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                // As kubeadm has it: kube-proxy is privileged.
                "--allow-privileged",
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
            .arg(format!("--cert-dir={}", self.dir.display()))
            .args(&self.flags);
        command
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }
}

impl Apiserver {
    fn new(name: &'static str) -> anyhow::Result<Self> {
        Ok(Self {
            name,
            address: free_address()?,
            process: None,
        })
    }

    fn start(&mut self, command: &mut Command, dir: &Path) -> anyhow::Result<()> {
        self.process = Some(Process::start(self.name, command, dir)?);
        Ok(())
    }

    async fn kill(&mut self) -> anyhow::Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }
}

/// Waits until an apiserver is ready; fails if one of these has ended.
async fn ready(client: &Client, mut processes: [Option<&mut Process>; 2]) -> anyhow::Result<()> {
    until("kube-apiserver is ready", START, async || {
        for process in processes.iter_mut().flatten() {
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

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
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

/// A loopback address that nothing listens on, and that no connection gets as its own port: it is below the kernel's range.
pub(crate) fn free_address() -> anyhow::Result<SocketAddr> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 600)? * 20;
    for _ in 0..12_000 {
        let port = 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return Ok(listener.local_addr()?);
        }
    }
    anyhow::bail!("no free port from 20000 to 32000")
}
