//! The edge node: the real edgehold, a link to the cloud that can be broken, and the clients' certificates.

use std::fmt::Write as _;
use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::ensure;
use apiserver_standin::{Client, Pair};

use crate::cluster::{Cluster, free_address};
use crate::link::{Link, Mode};
use crate::process::{Process, until};

/// How the way to the cloud is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The listener stops: new connections are refused, the open ones reset.
    Refused,
    /// The apiserver dies (SIGKILL); it will be started again on the same store.
    Killed,
    /// Packets are dropped.
    BlackHole,
}

impl Cut {
    /// Every way.
    pub(crate) const ALL: [Self; 3] = [Self::Refused, Self::Killed, Self::BlackHole];

    /// For people.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Killed => "apiserver killed",
            Self::BlackHole => "black hole",
        }
    }
}

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
    cut: Option<Cut>,
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
        let files = clients.iter().enumerate().map(|(number, (common_name, pair))| {
            let (cert, key) = pair.write_to(&dir, &format!("client-{number}"));
            (*common_name, cert, key)
        });
        Self::start_with(cluster, name, &files.collect::<Vec<_>>(), "").await
    }

    /// As [`Node::start`], with the pairs' files, which need not be there yet, and more of the configuration, in which `LISTEN`
    /// stands for where edgehold listens.
    pub(crate) async fn start_with(
        cluster: &Cluster,
        name: &str,
        clients: &[(&str, PathBuf, PathBuf)],
        more: &str,
    ) -> anyhow::Result<Self> {
        let link = Link::to(cluster.address(), cluster.network().cloud()).await?;
        Self::start_behind(cluster, name, clients, more, link, &[]).await
    }

    /// As [`Node::start_with`], with servers that go before the one behind `link`.
    pub(crate) async fn start_behind(
        cluster: &Cluster,
        name: &str,
        clients: &[(&str, PathBuf, PathBuf)],
        more: &str,
        link: Link,
        preferred: &[SocketAddr],
    ) -> anyhow::Result<Self> {
        let dir = cluster.dir().join(name);
        std::fs::create_dir_all(&dir)?;
        let network = cluster.network();
        let servers: Vec<_> = preferred
            .iter()
            .chain([&link.address()])
            .map(|server| format!("\"https://{server}\""))
            .collect();
        // Free on the loopback of the cloud's side, and nothing else listens in a namespace.
        let address = SocketAddr::new(network.node(), free_address()?.port());
        let ca = cluster.dir().join("ca.crt");
        let names = [network.node().to_string()];
        let (cert, key) = cluster.pki().server(&[&names[0]]).write_to(&dir, "serving");
        let mut config = format!(
            "apiVersion: edgehold/v1alpha1\nkind: ProxyConfiguration\nlisten:\n  addresses: [\"{address}\"]\n  tls: \
             {{certFile: {}, keyFile: {}, clientCAFile: {ca}}}\nupstream:\n  servers: [{}]\n  caFile: {ca}\n  \
             connectTimeout: 1s\n  responseTimeout: 2s\n  probe: {{interval: 500ms, timeout: 1s}}\ncache: {{path: \
             {}}}\nlog: {{level: debug}}\n",
            cert.display(),
            key.display(),
            servers.join(", "),
            dir.join("cache").display(),
            ca = ca.display(),
        );
        config.push_str(&more.replace("LISTEN", &address.to_string()));
        config.push_str("clients:\n");
        for (common_name, cert, key) in clients {
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
            cut: None,
        };
        node.launch(cluster).await?;
        node.wait_status("online", |status| [401, 403, 404].contains(&status))
            .await?;
        Ok(node)
    }

    /// Starts edgehold on what the last one left, and waits until it accepts connections.
    pub(crate) async fn launch(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        let mut command = cluster.network().on_node(&self.program);
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
    pub(crate) async fn kill_and_launch(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        self.kill().await?;
        self.launch(cluster).await
    }

    /// Fails if edgehold has ended by itself.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        self.edgehold.as_mut().map_or(Ok(()), Process::check)
    }

    /// Cuts the way to the cloud and waits until edgehold knows.
    pub(crate) async fn go_offline(&mut self, cluster: &mut Cluster, cut: Cut) -> anyhow::Result<()> {
        self.begin(cluster, cut).await?;
        self.wait_status("offline", |status| status == 503).await
    }

    /// Cuts the way to the cloud.
    pub(crate) async fn begin(&mut self, cluster: &mut Cluster, cut: Cut) -> anyhow::Result<()> {
        match cut {
            Cut::Refused => self.link.set(Mode::Refuse),
            Cut::Killed => cluster.kill_apiserver().await?,
            Cut::BlackHole if cluster.network().can_drop() => cluster.network().drop_packets()?,
            Cut::BlackHole => self.link.set(Mode::BlackHole),
        }
        self.cut = Some(cut);
        Ok(())
    }

    /// Has the apiserver running for everyone but this node, so that the cloud changes behind its back.
    pub(crate) async fn cloud_without_node(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        if self.cut == Some(Cut::Killed) {
            self.link.set(Mode::Refuse);
            cluster.ensure_apiserver().await?;
        }
        Ok(())
    }

    /// Opens the way to the cloud again and waits until edgehold knows.
    pub(crate) async fn go_online(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        self.end(cluster).await?;
        // What the apiserver says to nobody's request is passed on.
        self.wait_status("online", |status| [401, 403, 404].contains(&status))
            .await
    }

    /// Opens the way to the cloud again.
    pub(crate) async fn end(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        match self.cut.take() {
            Some(Cut::Killed) => cluster.ensure_apiserver().await?,
            Some(Cut::BlackHole) if cluster.network().can_drop() => cluster.network().carry_packets()?,
            _ => {}
        }
        self.link.set(Mode::Up);
        Ok(())
    }

    async fn wait_status(&mut self, what: &str, expected: fn(u16) -> bool) -> anyhow::Result<()> {
        let client = self.client(None);
        until(&format!("{} is {what}", self.name), 120, async || {
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

    /// What edgehold has logged, over all its starts.
    pub(crate) fn log(&self) -> String {
        self.edgehold.as_ref().map(Process::log).unwrap_or_default()
    }

    /// How many watches have gone on after an outage.
    pub(crate) fn resumed(&self) -> usize {
        self.log().matches("a held watch is live again").count()
    }

    /// From its next start on edgehold encrypts what it keeps.
    pub(crate) fn encrypt(&self) -> anyhow::Result<()> {
        let (file, key) = (self.dir.join("edgehold.yaml"), self.dir.join("cache.key"));
        std::fs::write(&key, format!("{}\n", "5a".repeat(32)))?;
        std::fs::set_permissions(&key, Permissions::from_mode(0o600))?;
        let plain = format!("cache: {{path: {}}}", self.cache().display());
        let sealed = plain.replace('}', &format!(", encryption: {{keyFile: {}}}}}", key.display()));
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains(&plain), "no {plain:?} in {}", file.display());
        Ok(std::fs::write(file, text.replace(&plain, &sealed))?)
    }

    /// Where edgehold keeps things.
    pub(crate) fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// The node's own directory, for what its clients keep.
    pub(crate) fn dir(&self) -> &std::path::Path {
        &self.dir
    }
}
