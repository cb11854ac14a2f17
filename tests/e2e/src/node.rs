//! The edge node: the real edgehold, a link to the cloud that can be broken, and the clients' certificates.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;

use apiserver_standin::{Client, Pair};
use tokio::process::Command;

use crate::cluster::{Cluster, free_address};
use crate::link::{Link, Mode};
use crate::process::{Process, until};

/// A running node.
pub(crate) struct Node {
    name: String,
    dir: PathBuf,
    ca_pem: String,
    /// The way to the cloud.
    pub(crate) link: Link,
    /// Where edgehold listens; the same over all restarts.
    pub(crate) address: SocketAddr,
    program: PathBuf,
    edgehold: Option<Process>,
}

impl Node {
    /// Starts edgehold in front of the cluster. `clients` are the certificate pairs that it speaks for, by common name.
    pub(crate) async fn start(
        cluster: &Cluster,
        name: &str,
        clients: &[(&str, &Pair)],
    ) -> anyhow::Result<Self> {
        let dir = cluster.dir().join(name);
        std::fs::create_dir_all(&dir)?;
        let link = Link::to(cluster.address()).await?;
        let address = free_address()?;
        let ca = cluster.dir().join("ca.crt");
        let (cert, key) = cluster.pki().server(&[]).write_to(&dir, "serving");
        let mut config = format!(
            "apiVersion: edgehold/v1alpha1\nkind: ProxyConfiguration\nlisten:\n  addresses: [\"{address}\"]\n  tls: \
             {{certFile: {}, keyFile: {}, clientCAFile: {ca}}}\nupstream:\n  servers: [\"https://{}\"]\n  caFile: {ca}\n  \
             connectTimeout: 1s\n  responseTimeout: 2s\n  probe: {{interval: 500ms, timeout: 1s}}\ncache: {{path: \
             {}}}\nlog: {{level: debug}}\n",
            cert.display(),
            key.display(),
            link.address(),
            dir.join("cache").display(),
            ca = ca.display(),
        );
        config.push_str("clients:\n");
        for (number, (common_name, pair)) in clients.iter().enumerate() {
            let (cert, key) = pair.write_to(&dir, &format!("client-{number}"));
            let (cert, key) = (cert.display(), key.display());
            writeln!(
                config,
                "- {{commonName: \"{common_name}\", certFile: {cert}, keyFile: {key}}}"
            )?;
        }
        std::fs::write(dir.join("edgehold.yaml"), config)?;
        let mut node = Self {
            name: name.to_owned(),
            dir,
            ca_pem: cluster.pki().ca_pem().to_owned(),
            link,
            address,
            program: cluster.tools().edgehold().to_owned(),
            edgehold: None,
        };
        node.launch().await?;
        node.wait_online().await?;
        Ok(node)
    }

    /// Starts edgehold on what the last one left, and waits until it accepts connections.
    pub(crate) async fn launch(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.program);
        command
            .arg("run")
            .arg("--config")
            .arg(self.dir.join("edgehold.yaml"));
        self.edgehold = Some(Process::start("edgehold", &mut command, &self.dir)?);
        until("edgehold listens", 30, async || {
            self.check()?;
            let connected = tokio::net::TcpStream::connect(self.address).await;
            Ok(connected.map(|_| ()).map_err(|error| error.to_string()))
        })
        .await
    }

    /// Kills edgehold as a power cut would (of the process, not of the disk).
    pub(crate) async fn kill(&mut self) -> anyhow::Result<()> {
        match self.edgehold.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    /// Kills edgehold and starts it again on what it left.
    pub(crate) async fn kill_and_launch(&mut self) -> anyhow::Result<()> {
        self.kill().await?;
        self.launch().await
    }

    /// Fails if edgehold has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.edgehold.as_mut().map_or(Ok(()), Process::check)
    }

    /// Breaks the link in this way and waits until edgehold knows.
    pub(crate) async fn go_offline(&mut self, mode: Mode) -> anyhow::Result<()> {
        self.link.set(mode);
        self.wait_offline().await
    }

    /// Heals the link and waits until edgehold knows.
    pub(crate) async fn go_online(&mut self) -> anyhow::Result<()> {
        self.link.set(Mode::Up);
        self.wait_online().await
    }

    /// Waits until edgehold says 503 for what it cannot know: a path that nobody has read.
    pub(crate) async fn wait_offline(&mut self) -> anyhow::Result<()> {
        self.wait_status("offline", |status| status == 503).await
    }

    /// Waits until edgehold passes on what the apiserver says to nobody's request.
    pub(crate) async fn wait_online(&mut self) -> anyhow::Result<()> {
        self.wait_status("online", |status| status != 503).await
    }

    async fn wait_status(&mut self, what: &str, expected: fn(u16) -> bool) -> anyhow::Result<()> {
        let client = self.client(None);
        until(&format!("{} is {what}", self.name), 60, async || {
            self.check()?;
            Ok(match client.send("GET", "/apis/e2e.edgehold.test", "").await {
                Ok(answer) if expected(answer.status) => Ok(()),
                Ok(answer) => Err(format!("{} {}", answer.status, answer.text())),
                Err(error) => Err(error.0),
            })
        })
        .await
    }

    /// A client of edgehold with this certificate, or none.
    pub(crate) fn client(&self, pair: Option<&Pair>) -> Client {
        Client::new(self.address, &self.ca_pem, pair)
    }

    /// The node's own directory, for what its clients keep.
    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }
}
