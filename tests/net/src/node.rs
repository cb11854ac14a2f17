//! An edge node in its own namespace: edgehold with its default timeouts, the stand-in apiserver beyond the wire.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use apiserver_standin::{Client, Options, Pair, Pki, Standin};
use tokio::sync::watch;

use crate::namespace::{self, Edge};
use crate::scenarios::Mode;
use crate::wire::{Conditions, Wire};

const CLOUD: &str = "10.77.0.1";
const UPLINK: &str = "10.77.0.2";
const OUTSIDE: &str = "10.78.0.1";
/// Somebody else out there.
pub(crate) const NEIGHBOUR: &str = "10.78.0.9";
const LISTEN: &str = "10.78.0.2:51003";

const KUBELET: &str = "system:node:edge-1";

/// How long anything may take before it counts as not happening.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What edgehold's log says of the link.
pub(crate) const OFFLINE: &str = "the cloud is away";
pub(crate) const DOUBTED: &str = "may be away";

/// The binary under test: `EDGEHOLD_BIN`, or built here, for figures as a release.
pub(crate) fn build(mode: Mode) -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("EDGEHOLD_BIN") {
        return Ok(path.into());
    }
    let profile = match mode {
        Mode::Quick => "dev",
        Mode::Strict => "release",
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--offline",
            "--locked",
            "--package",
            "edgehold",
            "--bin",
            "edgehold",
        ])
        .args(["--profile", profile, "--message-format", "json"])
        .stderr(Stdio::inherit())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .context("cargo build")?;
    anyhow::ensure!(output.status.success(), "cargo build --bin edgehold failed");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["target"]["name"] == "edgehold")
        .find_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .context("cargo did not say where the binary is")
}

/// A running node.
pub(crate) struct Node {
    /// The cloud.
    pub(crate) api: Standin,
    /// The way there.
    pub(crate) wire: Wire,
    log: watch::Receiver<Vec<(Instant, String)>>,
    kubelet: Pair,
    edgehold: Child,
    _edge: Edge,
    _dir: tempfile::TempDir,
}

impl Node {
    /// Builds both ends and starts edgehold; returns when it answers.
    pub(crate) async fn start(program: &Path) -> anyhow::Result<Self> {
        let seed = std::env::var("NET_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        println!("  seed {seed} (NET_SEED repeats what is lost, not the timing)");
        let edge = Edge::new()?;
        let wire = lay(&edge, seed).await?;
        let pki = Pki::named("cloud");
        let api = Standin::start(Options {
            listen: SocketAddr::new(CLOUD.parse()?, 0),
            serving: Some(pki.server(&[CLOUD])),
            pki: Some(pki),
            ..Options::default()
        });
        let dir = tempfile::tempdir()?;
        let kubelet = api.pki().client(Some(KUBELET), &["system:nodes"]);
        let config = configure(dir.path(), &api, &kubelet)?;
        let mut edgehold = edge
            .command(program)
            .args(["run", "--config"])
            .arg(config)
            // Doubts are said at debug.
            .env(
                "EDGEHOLD_LOG",
                "warn,edgehold=info,edgehold::upstream::link=debug",
            )
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("edgehold")?;
        let log = follow(edgehold.stderr.take().context("a pipe")?);
        let node = Self {
            api,
            wire,
            log,
            kubelet,
            edgehold,
            _edge: edge,
            _dir: dir,
        };
        node.logged_since(Instant::now() - PATIENCE, "is serving").await?;
        anyhow::ensure!(
            node.client().get("/version").await.status == 200,
            "no way to the cloud"
        );
        Ok(node)
    }

    /// Where edgehold listens.
    pub(crate) fn listens(&self) -> SocketAddr {
        LISTEN.parse().expect("an address")
    }

    /// kubelet, to edgehold.
    pub(crate) fn client(&self) -> Client {
        let client = Client::new(self.listens(), self.api.ca_pem(), Some(&self.kubelet));
        client.from_address(OUTSIDE.parse().expect("an address"))
    }

    /// Somebody else without a certificate, to edgehold.
    pub(crate) fn stranger(&self) -> Client {
        let client = Client::new(self.listens(), self.api.ca_pem(), None);
        client.from_address(NEIGHBOUR.parse().expect("an address"))
    }

    /// Waits until a line with this text was logged after a moment, and gives its own.
    pub(crate) async fn logged_since(&self, since: Instant, text: &str) -> anyhow::Result<Instant> {
        let mut log = self.log.clone();
        let fits = |(at, line): &(Instant, String)| *at >= since && line.contains(text);
        let waiting = log.wait_for(|lines| lines.iter().any(fits));
        let found = tokio::time::timeout(PATIENCE, waiting).await;
        match found {
            Ok(Ok(lines)) => lines
                .iter()
                .find(|line| fits(line))
                .map(|(at, _)| *at)
                .context("gone"),
            _ => anyhow::bail!("the log did not say {text:?}:\n{}", self.last_lines()),
        }
    }

    /// How often a text was logged after a moment.
    pub(crate) fn count_since(&self, since: Instant, text: &str) -> usize {
        let lines = self.log.borrow();
        lines
            .iter()
            .filter(|(at, line)| *at >= since && line.contains(text))
            .count()
    }

    /// The end of the log.
    pub(crate) fn last_lines(&self) -> String {
        let lines = self.log.borrow();
        let last = lines.iter().rev().take(20).rev();
        last.map(|(_, line)| line.as_str()).collect::<Vec<_>>().join("\n")
    }

    /// Open sockets of edgehold, and KiB of resident memory. Files are not counted: each view that is written to has one.
    pub(crate) fn usage(&self) -> anyhow::Result<(usize, u64)> {
        let pid = self.edgehold.id();
        let open = std::fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(Result::ok);
        let targets = open.filter_map(|entry| std::fs::read_link(entry.path()).ok());
        let sockets = targets
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .count();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let resident = status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?
                    .split_whitespace()
                    .next()?
                    .parse()
                    .ok()
            })
            .context("VmRSS")?;
        Ok((sockets, resident))
    }

    /// Breaks or heals the way to the cloud.
    pub(crate) fn set(&self, conditions: Conditions) {
        self.wire.set(conditions);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _gone = self.edgehold.kill();
        let _gone = self.edgehold.wait();
    }
}

/// The wire to the cloud, and a plain one for clients out here.
async fn lay(edge: &Edge, seed: u64) -> anyhow::Result<Wire> {
    // What the scenario before had is going away; the kernel takes its time.
    let _mostly_gone = namespace::ip("link del clients0");
    let deadline = Instant::now() + PATIENCE;
    let wire = loop {
        match Wire::between("cloud0", "uplink0", seed) {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(wire) => break wire,
        }
    };
    let pid = edge.pid();
    namespace::ip("link set lo up")?;
    namespace::ip(&format!("link set uplink0 netns {pid}"))?;
    namespace::ip(&format!("addr add {CLOUD}/24 dev cloud0"))?;
    namespace::ip("link set cloud0 mtu 1400 up")?;
    edge.ip(&format!("addr add {UPLINK}/24 dev uplink0"))?;
    edge.ip("link set uplink0 mtu 1400 up")?;
    namespace::ip(&format!(
        "link add clients0 type veth peer name local0 netns {pid}"
    ))?;
    namespace::ip(&format!("addr add {OUTSIDE}/24 dev clients0"))?;
    namespace::ip(&format!("addr add {NEIGHBOUR}/24 dev clients0"))?;
    namespace::ip("link set clients0 up")?;
    let (address, _) = LISTEN.split_once(':').context("a port")?;
    edge.ip(&format!("addr add {address}/24 dev local0"))?;
    edge.ip("link set local0 up")?;
    Ok(wire)
}

fn configure(dir: &Path, api: &Standin, kubelet: &Pair) -> anyhow::Result<PathBuf> {
    let (address, _) = LISTEN.split_once(':').context("a port")?;
    api.pki().server(&[address]).write_to(dir, "serving");
    kubelet.write_to(dir, "kubelet");
    api.pki().write_ca(dir, "ca");
    let file = |name: &str| dir.join(name).display().to_string();
    let text = format!(
        "apiVersion: edgehold/v1alpha1\nkind: ProxyConfiguration\nlisten:\n  addresses: [\"{LISTEN}\"]\n  tls: \
         {{certFile: {}, keyFile: {}, clientCAFile: {ca}}}\nupstream:\n  servers: [\"{}\"]\n  caFile: {ca}\ncache: {{path: \
         {}}}\nclients:\n- {{commonName: \"{KUBELET}\", certFile: {}, keyFile: {}}}\n",
        file("serving.crt"),
        file("serving.key"),
        api.url(),
        file("cache"),
        file("kubelet.crt"),
        file("kubelet.key"),
        ca = file("ca.crt"),
    );
    let path = dir.join("edgehold.yaml");
    std::fs::write(&path, text)?;
    Ok(path)
}

fn follow(stderr: std::process::ChildStderr) -> watch::Receiver<Vec<(Instant, String)>> {
    let (lines, log) = watch::channel(Vec::new());
    std::thread::spawn(move || {
        let echo = std::env::var_os("NET_ECHO").is_some();
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if echo {
                println!("  | {line}");
            }
            lines.send_modify(|lines: &mut Vec<_>| lines.push((Instant::now(), line)));
        }
    });
    log
}
