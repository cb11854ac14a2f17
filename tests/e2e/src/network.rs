//! The network between node and cloud: a namespace for the node where root allows it, else the loopback.
//!
//! In a namespace of its own edgehold reaches the cloud over one subnet and is reached by its clients over another. A
//! black hole is made of that first subnet only: each side believes the other's address at hardware that nobody has, so
//! packets vanish without any sign, on open connections and on new ones, while clients on the node notice nothing.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command as Blocking;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

/// Hardware that nobody has.
const NOWHERE: &str = "02:de:ad:00:00:01";

/// How long the first packet through a new cable may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The network of one scenario; it goes with its handle.
pub(crate) struct Network {
    namespace: Option<Namespace>,
}

/// `NUMBER` names everything: the namespace, the two ends of its cable and the subnets.
struct Namespace(u8);

impl Network {
    /// A namespace if one can be had; else the loopback, which is said once.
    pub(crate) fn new() -> Self {
        let namespace = Namespace::make();
        if let Err(reason) = &namespace {
            static SAID: OnceLock<()> = OnceLock::new();
            SAID.get_or_init(|| {
                println!("e2e: no network namespace ({reason:#}): a black hole is a forwarder that swallows, no packet is dropped");
            });
        }
        Self {
            namespace: namespace.ok(),
        }
    }

    /// Where the cloud is, as the node sees it.
    pub(crate) fn cloud(&self) -> IpAddr {
        self.address(1)
    }

    /// Where edgehold is, as its clients see it.
    pub(crate) fn node(&self) -> IpAddr {
        self.address(6)
    }

    fn address(&self, last: u8) -> IpAddr {
        match &self.namespace {
            Some(namespace) => namespace.address(last),
            None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// Whether packets can be dropped.
    pub(crate) fn can_drop(&self) -> bool {
        self.namespace.is_some()
    }

    /// The name of the node's network namespace, if it has one.
    pub(crate) fn namespace(&self) -> Option<String> {
        self.namespace.as_ref().map(Namespace::name)
    }

    /// A command that runs `program` on the node.
    pub(crate) fn on_node(&self, program: &std::path::Path) -> Command {
        match &self.namespace {
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &namespace.name()]).arg(program);
                command
            }
            None => Command::new(program),
        }
    }

    /// From now on no packet gets from node to cloud or back.
    pub(crate) fn drop_packets(&self) -> anyhow::Result<()> {
        let namespace = self.namespace.as_ref().context("no network namespace")?;
        for (here, interface, there) in namespace.ends() {
            ip(&format!(
                "{here} neigh replace {there} lladdr {NOWHERE} dev {interface} nud permanent"
            ))?;
        }
        Ok(())
    }

    /// Packets get through again.
    pub(crate) fn carry_packets(&self) -> anyhow::Result<()> {
        let namespace = self.namespace.as_ref().context("no network namespace")?;
        for (here, interface, there) in namespace.ends() {
            ip(&format!("{here} neigh del {there} dev {interface}"))?;
        }
        Ok(())
    }
}

impl Namespace {
    fn make() -> anyhow::Result<Self> {
        let start = u8::try_from(std::process::id() % 200)?;
        let mut last = None;
        // A namespace is there already, or it is not: nobody else can have the same number, another run neither.
        for number in (0..50).map(|step| start + step) {
            match ip(&format!("netns add {}", Self::named(number))) {
                Ok(()) => {
                    let made = Self(number);
                    made.configure()?;
                    made.try_out()?;
                    return Ok(made);
                }
                Err(error) => {
                    let taken = error.to_string().contains("exists");
                    last = Some(error);
                    if !taken {
                        break;
                    }
                }
            }
        }
        bail!(last.context("no number is free")?)
    }

    fn configure(&self) -> anyhow::Result<()> {
        let (name, [(_, outside, _), (_, inside, _)]) = (self.name(), self.ends());
        let address = |last| self.address(last);
        for line in [
            format!("link add {outside} type veth peer name {inside} netns {name}"),
            format!("addr add {}/30 dev {outside}", address(1)),
            format!("addr add {}/30 dev {outside}", address(5)),
            format!("link set {outside} up"),
            format!("-n {name} addr add {}/30 dev {inside}", address(2)),
            format!("-n {name} addr add {}/30 dev {inside}", address(6)),
            format!("-n {name} link set {inside} up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&line)?;
        }
        Ok(())
    }

    /// Nothing listens at the other end yet, and says so at once, unless a firewall is in between.
    fn try_out(&self) -> anyhow::Result<()> {
        let there = SocketAddr::new(self.address(6), 9);
        match TcpStream::connect_timeout(&there, PATIENCE) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(()),
            other => bail!("no packet gets to {there} and back: {other:?}"),
        }
    }

    /// Options, interface and the other side's address: of the cloud's end and of the node's.
    fn ends(&self) -> [(String, String, IpAddr); 2] {
        [
            (String::new(), format!("edgehold{}", self.0), self.address(2)),
            (format!("-n {}", self.name()), "eth0".to_owned(), self.address(1)),
        ]
    }

    fn address(&self, last: u8) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 231, self.0, last))
    }

    fn name(&self) -> String {
        Self::named(self.0)
    }

    fn named(number: u8) -> String {
        format!("edgehold-e2e-{number}")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The cable goes with it. Its processes have been killed by now, or will be: a namespace lives as long as they do.
        let _ = ip(&format!("netns del {}", self.name()));
        let _ = ip(&format!("link del {}", self.ends()[0].1));
    }
}

fn ip(line: &str) -> anyhow::Result<()> {
    let output = Blocking::new("ip")
        .args(line.split_whitespace())
        .output()
        .context("ip")?;
    ensure!(
        output.status.success(),
        "ip {line}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
