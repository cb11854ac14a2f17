//! Whether the cloud can be reached: the servers, what is thought of each, and of all of them together.
//!
//! `Online`: requests go upstream. `Suspect`: something failed, and probes decide; requests go upstream still. Once a
//! probe has failed the link is *silent*, and reads that the cache can answer do not wait for it. `Offline`: nothing
//! waits. While one server is `Online` the link is: what the others are makes no request wait. It is `Offline` only if
//! all servers are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::runtime::clock;
use crate::runtime::problem::Code;

use super::condition::Condition;
use super::endpoint::Endpoint;
use super::history::{self, History, News};
use super::link_state::LinkState;
use super::metrics::UpstreamMetrics;
use super::report::LinkReport;
use super::server::{Judge, Server};
use super::settings::{Settings, Strategy};

/// The configured servers and how to choose among them. Replaced as a whole.
#[derive(Debug)]
pub struct ServerSet {
    pub(super) settings: Settings,
    pub(super) servers: Vec<Arc<Server>>,
}

impl ServerSet {
    /// The servers as a request should try them, best first; of equal status those first that do not want to rest, then in
    /// their order, for
    /// [`Strategy::RoundRobin`] from number `turn` on.
    pub(super) fn order(&self, turn: usize) -> Vec<Arc<Server>> {
        let mut servers = self.servers.clone();
        if self.settings.strategy == Strategy::RoundRobin && !servers.is_empty() {
            let first = turn % servers.len();
            servers.rotate_left(first);
        }
        // Stable: the order of the configuration decides between equals.
        servers.sort_by_cached_key(|server| {
            let status = server.status();
            (status.state, status.on_trial, server.is_resting())
        });
        servers
    }
}

/// The shared link state. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link(Arc<Shared>);

/// What all clones share; servers hold it weakly, since it holds them.
#[derive(Debug)]
struct Shared {
    state: watch::Sender<LinkState>,
    server_set: watch::Sender<Arc<ServerSet>>,
    /// Counts changes in the status of any server.
    changes: watch::Sender<u64>,
    history: Mutex<History>,
    /// Requests that the cache has answered.
    stood_in: AtomicU64,
    metrics: UpstreamMetrics,
}

impl Link {
    /// The link over these servers, taken to be there until a probe says otherwise.
    pub fn new(settings: Settings, metrics: UpstreamMetrics) -> Self {
        let empty = ServerSet {
            settings: settings.clone(),
            servers: Vec::new(),
        };
        let link = Self(Arc::new(Shared {
            state: watch::Sender::new(LinkState::Online),
            server_set: watch::Sender::new(Arc::new(empty)),
            changes: watch::Sender::new(0),
            history: Mutex::new(History::new((clock::now(), clock::wall()))),
            stood_in: AtomicU64::new(0),
            metrics,
        }));
        link.0.metrics.show_link(Condition::Starting);
        link.apply(settings);
        link
    }

    /// Puts other settings in force. A server that stays keeps what is known of it, and its connections.
    pub fn apply(&self, settings: Settings) {
        let old = self.server_set();
        let servers: Vec<Arc<Server>> = settings
            .servers
            .iter()
            .map(|endpoint| {
                let known = old.servers.iter().find(|server| server.endpoint() == endpoint);
                known.map_or_else(|| Arc::new(self.server(endpoint.clone())), Arc::clone)
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
        self.0
            .server_set
            .send_replace(Arc::new(ServerSet { settings, servers }));
        self.0.judge();
    }

    fn server(&self, endpoint: Endpoint) -> Server {
        let shared = Arc::downgrade(&self.0);
        Server::new(endpoint, shared, self.0.metrics.clone())
    }

    /// The servers as they are configured now.
    pub fn server_set(&self) -> Arc<ServerSet> {
        self.0.server_set()
    }

    /// Follows the configuration.
    pub(super) fn server_sets(&self) -> watch::Receiver<Arc<ServerSet>> {
        self.0.server_set.subscribe()
    }

    /// Follows the status of all servers: counts changes, of which [`Link::report`] tells.
    pub fn status_changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.0.metrics
    }

    /// How it is, and each server, for people and monitoring.
    pub fn report(&self) -> LinkReport {
        let servers: Vec<_> = self
            .server_set()
            .servers
            .iter()
            .map(|server| server.report())
            .collect();
        let mut history = self.0.history.lock();
        LinkReport {
            condition: history.condition(),
            since: history.since(),
            servers,
            outages: history.outages(),
            is_flapping: history.is_flapping(clock::now()),
            answered_from_cache: self.0.stood_in.load(Ordering::Relaxed),
            changes: history.changes(),
            away: history.away(clock::now()),
        }
    }

    /// That there is no answer to be had from the cloud, and why: for clients.
    pub fn away(&self) -> String {
        self.with_reason("the cloud cannot be reached")
    }

    /// The problem that it is that there is no answer to be had from the cloud.
    pub fn code(&self) -> Option<Code> {
        (self.state() == LinkState::Offline).then_some(Code::LinkDown)
    }

    /// A text, and in brackets what is wrong with which servers.
    pub fn with_reason(&self, text: &str) -> String {
        match self.report().why() {
            Some(why) => format!("{text} ({why})"),
            None => text.to_owned(),
        }
    }

    /// The cache has answered a request.
    pub fn stood_in(&self) {
        self.0.stood_in.fetch_add(1, Ordering::Relaxed);
    }

    /// Each server with its state, in the configured order.
    pub fn servers(&self) -> Vec<(String, LinkState)> {
        let set = self.server_set();
        let servers = set.servers.iter();
        servers
            .map(|server| (server.to_string(), server.status().state))
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

    /// Whether no server has answered its last probe.
    pub fn is_silent(&self) -> bool {
        let set = self.server_set();
        set.servers.iter().all(|server| server.status().is_hopeless())
    }

    /// Waits until no server has answered its last probe.
    pub async fn silent(&self) {
        let mut changes = self.status_changes();
        loop {
            changes.borrow_and_update();
            if self.is_silent() {
                return;
            }
            if changes.changed().await.is_err() {
                // Nothing will be learnt any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Follows the state.
    pub fn subscribe(&self) -> watch::Receiver<LinkState> {
        self.0.state.subscribe()
    }
}

impl Shared {
    fn server_set(&self) -> Arc<ServerSet> {
        Arc::clone(&self.server_set.borrow())
    }

    /// What has changed for people: said once, and kept.
    fn tell(&self) {
        let mut history = self.history.lock();
        // Read under the lock: of two changes at once the last one to tell has seen both.
        let set = self.server_set();
        let condition = set.servers.iter().map(|server| server.condition()).min();
        let condition = condition.unwrap_or(Condition::Offline);
        if condition == history.condition() {
            return;
        }
        let servers: Vec<_> = set.servers.iter().map(|server| server.report()).collect();
        let report = LinkReport::of(condition, servers);
        let (answered, moment) = (
            self.stood_in.load(Ordering::Relaxed),
            (clock::now(), clock::wall()),
        );
        let before = history.outages();
        let news = history.step(condition, report.why(), answered, moment);
        if history.outages() > before {
            self.metrics.outage();
        }
        self.metrics.show_link(condition);
        if condition == Condition::Suspect {
            tracing::debug!(why = report.why(), "the cloud may be away, probing");
        }
        match news {
            None => tracing::debug!(now = condition.as_str(), "the link changed"),
            Some(News::First) => tracing::info!("the cloud can be reached"),
            Some(News::Away) => {
                tracing::warn!(
                    why = report.why(),
                    detail = report.details(),
                    "the cloud is away, answering from the cache"
                );
            }
            Some(News::Back { away, answered }) => {
                let away = humantime::format_duration(Duration::from_secs(away.as_secs()));
                tracing::info!(%away, answered_from_cache = answered, "the cloud can be reached again");
            }
            Some(News::Flapping(outages)) => tracing::warn!(
                outages,
                within = ?history::WINDOW,
                why = report.why(),
                "the cloud comes and goes: further outages are counted, and not said until it has been quiet"
            ),
        }
    }
}

impl Judge for Shared {
    /// Takes a change in the status of a server into account; a change of the whole is logged and published.
    fn judge(&self) {
        // First: who waits for the state finds the report about it.
        self.tell();
        self.state.send_if_modified(|state| {
            // Read inside, so that of two changes at once the last one to write has seen both.
            let set = self.server_set();
            let next = LinkState::of(set.servers.iter().map(|server| server.status().state));
            if next == *state {
                return false;
            }
            *state = next;
            true
        });
        self.changes
            .send_modify(|changes| *changes = changes.wrapping_add(1));
    }
}

#[cfg(test)]
mod tests;
