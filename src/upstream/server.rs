//! One apiserver: where it is and what is thought of it. Takes the signals, publishes the status.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runtime::{clock, jitter};

use super::activity::ServerActivity;
use super::cause::Cause;
use super::clientele::Clientele;
use super::condition::Condition;
use super::endpoint::Endpoint;
use super::error::UpstreamError;
use super::failure::Failure;
use super::health::{Event, Health, HealthStatus, Plan, Topology};
use super::interface_selection::{ProbePolicy, Seen, Selection};
use super::link_state::LinkState;
use super::metrics::UpstreamMetrics;
use super::report::{ServerReport, Trouble};
use super::settings::ProbeSettings;
use super::ways::Ways;

/// So many answers of the API without `Audit-Id`, and something takes it off.
const UNAUDITED: u32 = 3;

/// For longer than that no server is left in peace.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// Who judges the link by its servers.
pub(super) trait Judge: Send + Sync {
    /// What is thought of a server has changed.
    fn judge(&self);
}

/// One of the configured servers.
pub(super) struct Server {
    endpoint: Endpoint,
    name: Arc<str>,
    health: Mutex<(Health, Option<Plan>)>,
    status: watch::Sender<HealthStatus>,
    /// When the next probe is due.
    due: watch::Sender<Option<Instant>>,
    left: CancellationToken,
    /// What failed since it was last online; means nothing while it is.
    trouble: Mutex<Option<Trouble>>,
    /// What was last said about the way to it.
    obstacle: Mutex<Option<String>>,
    interfaces: Mutex<Interfaces>,
    /// Which of them is used.
    interface_selection: watch::Sender<Selection>,
    activity: Arc<ServerActivity>,
    /// How it is probed.
    ways: Mutex<Ways>,
    /// Until when it wants not to be asked.
    resting: Mutex<Option<Instant>>,
    /// Answers of the API without `Audit-Id` one after the other, up to [`UNAUDITED`].
    unaudited: AtomicU32,
    link: Weak<dyn Judge>,
    metrics: UpstreamMetrics,
}

/// The interfaces to go out by, and what was last said of those that cannot be used.
#[derive(Default)]
struct Interfaces {
    names: Vec<String>,
    unusable: HashMap<String, String>,
}

impl Server {
    pub(super) fn new(endpoint: Endpoint, link: Weak<dyn Judge>, metrics: UpstreamMetrics) -> Self {
        let health = Health::new(clock::now());
        let name: Arc<str> = endpoint.to_string().into();
        let traffic = metrics.traffic(&name);
        Self {
            name,
            endpoint,
            status: watch::Sender::new(health.status()),
            due: watch::Sender::new(health.due()),
            health: Mutex::new((health, None)),
            left: CancellationToken::new(),
            trouble: Mutex::default(),
            obstacle: Mutex::default(),
            interfaces: Mutex::default(),
            interface_selection: watch::Sender::new(Selection::new(0)),
            activity: Arc::new(ServerActivity::new(traffic)),
            ways: Mutex::new(Ways::new()),
            resting: Mutex::default(),
            unaudited: AtomicU32::new(0),
            link,
            metrics,
        }
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// `host:port`, for logs and metrics.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// What is heard of it.
    pub(super) fn activity(&self) -> &Arc<ServerActivity> {
        &self.activity
    }

    /// How it is probed.
    pub(super) fn ways(&self) -> &Mutex<Ways> {
        &self.ways
    }

    pub(super) fn status(&self) -> HealthStatus {
        *self.status.borrow()
    }

    /// Known to be away.
    pub(super) fn is_away(&self) -> bool {
        self.status().state == LinkState::Offline
    }

    /// The only one: there is none to go to instead.
    pub(super) fn is_alone(&self) -> bool {
        let plan = self.health.lock().1;
        plan.is_none_or(|plan| plan.topology == Topology::Single)
    }

    /// Nothing is held against it.
    pub(super) fn is_trusted(&self) -> bool {
        let status = self.status();
        status.state == LinkState::Online && !status.on_trial
    }

    /// Follows the status.
    pub(super) fn status_changes(&self) -> watch::Receiver<HealthStatus> {
        self.status.subscribe()
    }

    /// Follows the moment of the next probe.
    pub(super) fn due(&self) -> watch::Receiver<Option<Instant>> {
        self.due.subscribe()
    }

    /// From now on it is one of so many, and probed like this.
    pub(super) fn plan(&self, probe: ProbeSettings, servers: usize) {
        let topology = if servers > 1 {
            Topology::Multiple
        } else {
            Topology::Single
        };
        {
            let mut health = self.health.lock();
            if topology == Topology::Multiple
                && health.1.is_some_and(|plan| plan.topology == Topology::Single)
            {
                // Nobody has asked it for long, and now it matters how it is.
                health.0 = health.0.clone().asked(clock::now());
                self.due.send_replace(health.0.due());
            }
            health.1 = Some(Plan { probe, topology });
        }
        self.metrics.show_server(&self.name, Some(self.condition()));
    }

    /// It is not configured any more.
    pub(super) fn leave(&self) {
        self.left.cancel();
        self.metrics.show_server(&self.name, None);
        let interfaces = self.interfaces.lock();
        self.metrics.show_interfaces(&self.name, &interfaces.names, None);
    }

    /// Cancelled when it is not configured any more.
    pub(super) fn left(&self) -> &CancellationToken {
        &self.left
    }

    /// An apiserver answered a request there, whatever it said.
    pub(super) fn reached(&self) {
        self.signal(Event::Reached);
    }

    /// An apiserver answered a request there as it should.
    pub(super) fn served(&self) {
        self.signal(Event::Served);
    }

    /// A request was answered there with a failure of the server's own.
    pub(super) fn refused(&self) {
        self.signal(Event::Refused);
    }

    /// An answer of the API carried `Audit-Id`.
    pub(super) fn is_audited(&self) {
        let start_over = |count| (1..UNAUDITED).contains(&count).then_some(0);
        let _unchanged = self
            .unaudited
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, start_over);
    }

    /// An answer of the API did not. That it always is so is said once.
    pub(super) fn is_unaudited(&self) {
        let next = |count| (count < UNAUDITED).then_some(count + 1);
        let before = self
            .unaudited
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        if before == Ok(UNAUDITED - 1) {
            tracing::warn!(
                server = %self.name,
                "answers come without Audit-Id, so something on the way takes it off: nothing is kept of them, and nothing can \
                 be answered offline. Let it pass the header, or see upstream.trustGateway"
            );
        }
    }

    /// It does not want to be asked for so long.
    pub(super) fn is_to_rest(&self, pause: Duration) {
        let end = clock::now() + pause.min(LONGEST_REST);
        let mut resting = self.resting.lock();
        *resting = resting.map_or(Some(end), |known| Some(known.max(end)));
    }

    /// Whether it wants not to be asked now.
    pub(super) fn is_resting(&self) -> bool {
        self.resting.lock().is_some_and(|end| clock::now() < end)
    }

    /// A connection there failed.
    pub(super) fn failed(&self, failure: Failure) {
        self.failed_for(Clientele::Known, failure);
    }

    /// A request failed on the way there.
    pub(super) fn failed_for(&self, clientele: Clientele, failure: Failure) {
        self.failed_because(clientele, failure, (failure.into(), ""));
    }

    /// The same, and it is known why.
    pub(super) fn failed_with(&self, clientele: Clientele, error: &UpstreamError) {
        self.failed_because(clientele, error.failure, (error.cause, &error.message));
    }

    fn failed_because(&self, clientele: Clientele, failure: Failure, (cause, detail): (Cause, &str)) {
        self.metrics.failed(&self.name, failure);
        if failure.concerns_link() && clientele.may_blame(failure) {
            self.note(cause, detail);
            self.signal(Event::Failed(failure));
        }
    }

    /// Remembers why it may be about to be held for away.
    pub(super) fn note(&self, cause: Cause, detail: &str) {
        let news = {
            let mut trouble = self.trouble.lock();
            // What failed before it was last online is past.
            let before = trouble
                .take()
                .filter(|_| self.status().state != LinkState::Online);
            let news = before.as_ref().is_some_and(|before| before.cause != cause);
            let since = before.map_or_else(clock::wall, |before| before.since);
            *trouble = Some(Trouble {
                cause,
                detail: detail.to_owned(),
                since,
            });
            news
        };
        if news && let Some(link) = self.link.upgrade() {
            link.judge();
        }
    }

    /// How it is, for people.
    pub(super) fn report(&self) -> ServerReport {
        let status = self.status();
        let trouble = self.trouble.lock().clone();
        ServerReport {
            name: self.name.to_string(),
            condition: self.condition(),
            on_trial: status.on_trial,
            trouble: trouble.filter(|_| status.state != LinkState::Online),
        }
    }

    /// In one word.
    pub(super) fn condition(&self) -> Condition {
        let status = self.status();
        Condition::of(status.state, status.known)
    }

    /// An answer has not come in the time that it should take: probed, but not suspected.
    pub(super) fn is_slow(&self) {
        self.metrics.failed(&self.name, Failure::Timeout);
        self.signal(Event::Slow);
    }

    /// Something of the node's own network, like a proxy, is in the way, or is not any more: said once.
    pub(super) fn way_is(&self, obstacle: Option<&str>) {
        let mut told = self.obstacle.lock();
        if told.as_deref() == obstacle {
            return;
        }
        *told = obstacle.map(str::to_owned);
        drop(told);
        match obstacle {
            Some(obstacle) => tracing::warn!(server = %self.name, obstacle, "no way to a server"),
            None => tracing::info!(server = %self.name, "the way to a server is free again"),
        }
    }

    /// From now on it is reached over one of these interfaces.
    pub(super) fn offer(&self, names: &[String]) {
        let mut interfaces = self.interfaces.lock();
        if interfaces.names != names {
            self.metrics.show_interfaces(&self.name, &interfaces.names, None);
            self.metrics.show_interfaces(&self.name, names, Some(0));
            *interfaces = Interfaces {
                names: names.to_vec(),
                unusable: HashMap::new(),
            };
            self.interface_selection.send_replace(Selection::new(names.len()));
        }
    }

    /// Follows which interface is used.
    pub(super) fn interface_selections(&self) -> watch::Receiver<Selection> {
        self.interface_selection.subscribe()
    }

    /// What was seen of an interface; another choice is logged and published.
    pub(super) fn interface_seen(&self, seen: Seen) {
        let Some(plan) = self.health.lock().1 else {
            return;
        };
        let policy = ProbePolicy {
            interval: plan.probe.interval,
            threshold: plan.probe.success_threshold,
        };
        let mut moved = None;
        self.interface_selection.send_if_modified(|choice| {
            let next = choice.clone().step(seen, clock::now(), policy);
            let changed = next != *choice;
            moved = (next.current() != choice.current()).then(|| next.current());
            *choice = next;
            changed
        });
        if let Some(to) = moved {
            let interface = {
                let interfaces = self.interfaces.lock();
                if !self.left.is_cancelled() {
                    self.metrics
                        .show_interfaces(&self.name, &interfaces.names, Some(to));
                }
                interfaces.names.get(to).cloned().unwrap_or_default()
            };
            tracing::info!(server = %self.name, interface, ?seen, "a server is reached over another interface");
        }
    }

    /// An interface cannot be used, or can: the former is said once.
    pub(super) fn interface_is(&self, name: &str, problem: Option<&str>) {
        let mut interfaces = self.interfaces.lock();
        let Some(problem) = problem else {
            interfaces.unusable.remove(name);
            return;
        };
        if interfaces.unusable.get(name).is_none_or(|told| told != problem) {
            interfaces.unusable.insert(name.to_owned(), problem.to_owned());
            tracing::warn!(server = %self.name, interface = name, problem, "an interface cannot be used: it is skipped");
        }
    }

    /// Takes a signal into account; a change is logged and published.
    pub(super) fn signal(&self, event: Event) {
        if event.is_answer() {
            self.activity.prove();
        }
        // Answers are frequent, and almost all of them say what is known.
        let (status, due, alone) = {
            let mut health = self.health.lock();
            let Some(plan) = health.1 else { return };
            let next = health
                .0
                .clone()
                .step(event, clock::now(), &plan, jitter::chance());
            let seen = (next.status(), next.due(), plan.topology == Topology::Single);
            health.0 = next;
            // Published under the lock, or an older status could overwrite a newer one.
            self.due.send_if_modified(|due| {
                let sooner = seen.1 != *due;
                *due = seen.1;
                sooner
            });
            let changed = self.status.send_if_modified(|status| {
                let changed = *status != seen.0;
                *status = seen.0;
                changed
            });
            if !changed {
                return;
            }
            seen
        };
        self.tell(status, due, alone, event);
        if let Some(link) = self.link.upgrade() {
            link.judge();
        }
    }

    fn tell(&self, status: HealthStatus, due: Option<Instant>, alone: bool, event: Event) {
        if self.left.is_cancelled() {
            return;
        }
        let state = status.state.as_str();
        let on_trial = status.on_trial;
        self.metrics
            .show_server(&self.name, Some(Condition::of(status.state, status.known)));
        let next_probe = due.map(|due| due.saturating_duration_since(clock::now()));
        let trouble = self.report().trouble;
        match trouble {
            // Of the only one the link says the same.
            _ if alone => {
                tracing::debug!(server = %self.name, state, ?event, ?next_probe, "a server's standing changed");
            }
            Some(Trouble { cause, detail, .. }) if status.state == LinkState::Offline => tracing::warn!(
                server = %self.name, state, on_trial, %cause, detail, "a server's standing changed"
            ),
            _ => {
                tracing::info!(server = %self.name, state, on_trial, ?event, "a server's standing changed");
            }
        }
    }

    /// Resolves when waiting for an answer is not worth it any more: a probe has failed, or others have become better.
    pub(super) async fn given_up(&self) {
        let trusted = self.is_trusted();
        let mut changes = self.status_changes();
        let is_worse = |status: &HealthStatus| status.is_hopeless() || (trusted && status.on_trial);
        // What it gives is a lock on the status: not to be held.
        drop(changes.wait_for(is_worse).await);
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("name", &self.name)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
