//! Whether the cloud can be reached: the servers, what is thought of each, and of all of them together.
//!
//! `Online`: requests go upstream. `Suspect`: something failed and a probe is under way; reads that the cache can
//! answer do not wait for it. `Offline`: nothing waits. While one server is `Online` the link is: what the others are
//! makes no request wait. It is `Offline` only if all servers are.

use std::sync::Arc;

use tokio::sync::watch;

use super::metrics::UpstreamMetrics;
use super::server::Server;
use super::settings::{Settings, Strategy};

/// The state of the way to the cloud, or to one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkState {
    /// Requests go upstream.
    Online,
    /// Something failed; a probe decides.
    Suspect,
    /// The cloud is away.
    Offline,
}

impl LinkState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Online, Self::Suspect, Self::Offline];

    /// A short name for logs, metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
        }
    }

    /// That of several servers together: the best.
    pub fn of(servers: impl IntoIterator<Item = Self>) -> Self {
        servers.into_iter().min().unwrap_or(Self::Offline)
    }
}

/// The configured servers and how to choose among them. Replaced as a whole.
#[derive(Debug)]
pub struct Fleet {
    pub(super) settings: Settings,
    pub(super) servers: Vec<Arc<Server>>,
}

impl Fleet {
    /// The servers as a request should try them, best first; those of equal standing in their order, for
    /// [`Strategy::RoundRobin`] from number `turn` on.
    pub(super) fn order(&self, turn: usize) -> Vec<Arc<Server>> {
        let mut servers = self.servers.clone();
        if self.settings.strategy == Strategy::RoundRobin && !servers.is_empty() {
            let first = turn % servers.len();
            servers.rotate_left(first);
        }
        // Stable: the order of the configuration decides between equals.
        servers.sort_by_cached_key(|server| {
            let standing = server.standing();
            (standing.state, standing.on_trial)
        });
        servers
    }
}

/// The shared link state. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link(Arc<Shared>);

/// What all clones share; servers hold it weakly, since it holds them.
#[derive(Debug)]
pub(super) struct Shared {
    state: watch::Sender<LinkState>,
    fleet: watch::Sender<Arc<Fleet>>,
    /// Counts changes in the standing of any server.
    standings: watch::Sender<u64>,
    pub(super) metrics: UpstreamMetrics,
}

impl Link {
    /// The link over these servers, taken to be there until a probe says otherwise.
    pub fn new(settings: Settings, metrics: UpstreamMetrics) -> Self {
        let empty = Fleet {
            settings: settings.clone(),
            servers: Vec::new(),
        };
        let link = Self(Arc::new(Shared {
            state: watch::Sender::new(LinkState::Online),
            fleet: watch::Sender::new(Arc::new(empty)),
            standings: watch::Sender::new(0),
            metrics,
        }));
        link.0.metrics.show_link(LinkState::Online);
        link.apply(settings);
        link
    }

    /// Puts other settings in force. A server that stays keeps what is known of it, and its connections.
    pub fn apply(&self, settings: Settings) {
        let old = self.fleet();
        let servers: Vec<Arc<Server>> = settings
            .servers
            .iter()
            .map(|endpoint| {
                let known = old.servers.iter().find(|server| server.endpoint() == endpoint);
                known.map_or_else(|| Arc::new(Server::new(endpoint.clone(), &self.0)), Arc::clone)
            })
            .collect();
        for server in &old.servers {
            if !servers.iter().any(|kept| Arc::ptr_eq(kept, server)) {
                server.leave();
            }
        }
        for server in &servers {
            server.plan(settings.probe, servers.len());
            server.offer(&settings.dial.interfaces);
        }
        self.0.fleet.send_replace(Arc::new(Fleet { settings, servers }));
        self.0.judge();
    }

    /// The servers as they are configured now.
    pub fn fleet(&self) -> Arc<Fleet> {
        self.0.fleet()
    }

    /// Follows the configuration.
    pub(super) fn fleets(&self) -> watch::Receiver<Arc<Fleet>> {
        self.0.fleet.subscribe()
    }

    /// Follows the standing of all servers.
    pub(super) fn standings(&self) -> watch::Receiver<u64> {
        self.0.standings.subscribe()
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.0.metrics
    }

    /// Each server with its state, in the configured order.
    pub fn servers(&self) -> Vec<(String, LinkState)> {
        let fleet = self.fleet();
        let servers = fleet.servers.iter();
        servers
            .map(|server| (server.to_string(), server.standing().state))
            .collect()
    }

    /// The state now.
    pub fn state(&self) -> LinkState {
        *self.0.state.borrow()
    }

    /// Waits until the link is, or becomes, so.
    pub async fn reaches(&self, wanted: LinkState) {
        let mut follower = self.subscribe();
        // What it gives is a lock on the state: not to be held.
        drop(follower.wait_for(|state| *state == wanted).await);
    }

    /// Waits until no probe is needed to know the state, and gives it: `Online` or `Offline`.
    pub async fn verdict(&self) -> LinkState {
        let mut follower = self.subscribe();
        let known = follower.wait_for(|state| *state != LinkState::Suspect).await;
        // What it gives is a lock on the state: not to be held.
        known.map_or(LinkState::Offline, |state| *state)
    }

    /// Follows the state.
    pub fn subscribe(&self) -> watch::Receiver<LinkState> {
        self.0.state.subscribe()
    }
}

impl Shared {
    fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.fleet.borrow())
    }

    /// Takes a change in the standing of a server into account; a change of the whole is logged and published.
    pub(super) fn judge(&self) {
        self.state.send_if_modified(|state| {
            // Read inside, so that of two changes at once the last one to write has seen both.
            let fleet = self.fleet();
            let next = LinkState::of(fleet.servers.iter().map(|server| server.standing().state));
            if next == *state {
                return false;
            }
            match next {
                LinkState::Online => tracing::info!(from = state.as_str(), "the cloud can be reached"),
                LinkState::Suspect => tracing::info!("the cloud may be away, probing"),
                LinkState::Offline => tracing::warn!("the cloud is away, answering from the cache"),
            }
            self.metrics.show_link(next);
            *state = next;
            true
        });
        self.standings
            .send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests;
