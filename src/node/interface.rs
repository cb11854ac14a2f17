//! A network interface for node-local addresses, so that pods reach edgehold: made, addressed, brought up, and made
//! again when somebody removes it.
//!
//! `plan` decides, `netlink` does. Invariants: an interface of another kind is never touched; without the right to
//! change interfaces (`CAP_NET_ADMIN`) edgehold serves on its other addresses and says what to do. An interface that
//! is already as wanted needs no right at all.

use std::net::IpAddr;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use crate::runtime::tasks::Tasks;

use netlink::Netlink;
use plan::Operation;

mod netlink;
mod plan;
mod problem;
#[cfg(test)]
mod tests;

pub use problem::Problem;

/// The kind of link that holds addresses and does nothing else.
pub const DUMMY: &str = "dummy";

/// The kernel tells of changes; this is for those that it could not tell of.
const POLL_INTERVAL: Duration = Duration::from_secs(30);

/// Between two repairs, so that a quarrel with another program costs little.
const REPAIR_INTERVAL: Duration = Duration::from_millis(200);

/// Operations depend on each other (an index is known after the creation): so many rounds of them at most.
const ROUNDS: usize = 3;

/// Which interface is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// At most 15 bytes.
    pub name: String,
    /// Each gets the prefix of one host: /32 or /128.
    pub addresses: Vec<IpAddr>,
    /// The kind of link, [`DUMMY`] but for tests on kernels without it.
    pub kind: &'static str,
}

/// How the interface is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InterfaceState {
    /// Not looked at yet.
    Unknown,
    /// As wanted.
    Ready,
    /// Not as wanted; tried again when something changes, and every half minute.
    Failed(Problem),
}

/// Keeps one interface as wanted. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Interface {
    config: InterfaceConfig,
    state: watch::Sender<InterfaceState>,
    ready: Gauge,
}

impl Interface {
    /// Starts to keep the interface for as long as `tasks` runs. It is not waited for.
    pub fn spawn(config: InterfaceConfig, registry: &mut Registry, tasks: &Tasks) -> Self {
        let own = Self {
            config,
            state: watch::Sender::new(InterfaceState::Unknown),
            ready: Gauge::default(),
        };
        registry.register(
            "edgehold_dummy_interface_ready",
            "Whether the dummy interface is up and has its addresses",
            own.ready.clone(),
        );
        let (keeper, inner) = (own.clone(), tasks.clone());
        tasks.spawn("interface", async move {
            tokio::select! {
                () = keeper.keep(&inner) => {}
                () = inner.cancelled().cancelled() => {}
            }
        });
        own
    }

    /// How it is, to be followed.
    pub fn state(&self) -> watch::Receiver<InterfaceState> {
        self.state.subscribe()
    }

    /// Takes the interface away, or only our addresses when others have some on it. After the last connection.
    pub async fn remove(&self, tasks: &Tasks) {
        let name = &self.config.name;
        match remove(&self.config, tasks).await {
            Ok(()) => tracing::info!(interface = %name, "interface removed"),
            Err(error) => tracing::warn!(interface = %name, %error, "the interface could not be removed"),
        }
    }

    async fn keep(&self, tasks: &Tasks) {
        loop {
            match open(&self.config.name, tasks) {
                Ok(netlink) => self.follow(netlink).await,
                Err(problem) => self.found(Err(problem)),
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Until the conversation with the kernel ends.
    async fn follow(&self, mut netlink: Netlink) {
        loop {
            self.found(self.ensure(&mut netlink).await);
            tokio::time::sleep(REPAIR_INTERVAL).await;
            match tokio::time::timeout(POLL_INTERVAL, netlink.changed()).await {
                Ok(true) | Err(_) => {}
                Ok(false) => return,
            }
        }
    }

    /// What was done.
    async fn ensure(&self, netlink: &mut Netlink) -> Result<Vec<Operation>, Problem> {
        let InterfaceConfig { addresses, kind, .. } = &self.config;
        let mut done = Vec::new();
        for _ in 0..ROUNDS {
            let operations = plan::ensure(kind, addresses, &netlink.observe().await?)?;
            if operations.is_empty() {
                return Ok(done);
            }
            for operation in operations {
                netlink.apply(kind, operation).await?;
                done.push(operation);
            }
        }
        Err(Problem::Failed(
            "it does not stay as it is made: another program changes it".to_owned(),
        ))
    }

    /// Publishes and logs what is new.
    fn found(&self, result: Result<Vec<Operation>, Problem>) {
        let InterfaceConfig { name, addresses, .. } = &self.config;
        let before = self.state.borrow().clone();
        let now = match result {
            Ok(done) => {
                if before != InterfaceState::Ready {
                    tracing::info!(interface = %name, ?addresses, "interface is ready");
                } else if !done.is_empty() {
                    tracing::warn!(interface = %name, ?done, "interface was changed by somebody and is repaired");
                }
                InterfaceState::Ready
            }
            Err(problem) => {
                let failed = InterfaceState::Failed(problem.clone());
                if before != failed {
                    tracing::error!(
                        interface = %name, error = %problem,
                        "the interface is not as configured; edgehold serves on its other addresses",
                    );
                }
                failed
            }
        };
        self.ready.set(i64::from(now == InterfaceState::Ready));
        self.state.send_replace(now);
    }
}

/// Takes an interface away that no process keeps any more, or only our addresses when others have some on it. One that is
/// not there is no failure.
///
/// # Errors
/// It is of another kind, or the kernel refuses.
pub async fn remove(interface: &InterfaceConfig, tasks: &Tasks) -> Result<(), Problem> {
    let InterfaceConfig {
        name,
        addresses,
        kind,
    } = interface;
    let mut netlink = open(name, tasks)?;
    let observed = netlink.observe().await?;
    for operation in plan::remove(kind, addresses, &observed)? {
        netlink.apply(kind, operation).await?;
    }
    Ok(())
}

fn open(name: &str, tasks: &Tasks) -> Result<Netlink, Problem> {
    Netlink::open(name, tasks).map_err(|error| Problem::Failed(format!("no netlink socket: {error}")))
}
