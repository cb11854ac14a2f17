//! Probes each server when its [`health`](super::health) says so, in the way that works ([`ways`](super::ways)).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Request, StatusCode, response};
use tokio::time::Instant;

use crate::runtime::body;
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;

use super::cause::Cause;
use super::dial::Via;
use super::failure::Failure;
use super::gateway;
use super::health::Event;
use super::link::Link;
use super::server::Server;
use super::supervisor;
use super::transport::{Transport, Transports};
use super::ways::Way;

/// Probes of one server under way at once. One that hangs does not keep the next from starting: after an outage that
/// swallowed packets it may hang for longer than the outage lasts.
const AT_ONCE: usize = 8;

/// A probe that was not answered in time has failed, but its answer still counts, on a slow link, for so many times
/// as long.
const PATIENCE: u32 = 3;

/// A probe that takes less, three round trips or more, was answered over a good link.
const QUICK: Duration = Duration::from_secs(1);

/// Probes every configured server for as long as it is configured.
pub fn spawn(transports: &Transports, tasks: &Tasks) {
    let (link, identities, inner) = (
        transports.link().clone(),
        Identities::of(transports),
        tasks.clone(),
    );
    tasks.spawn_critical("probe", async move {
        let follow = |server| follow(server, &link, &identities, &inner);
        supervisor::each_server(&link, follow).await;
    });
}

/// Starts a probe of one server whenever one is due, until it leaves.
async fn follow(server: Arc<Server>, link: &Link, identities: &Identities, tasks: &Tasks) {
    let mut due = server.due();
    let running = Arc::new(AtomicUsize::new(0));
    loop {
        let next = *due.borrow_and_update();
        tokio::select! {
            () = supervisor::at(next) => {}
            _ = due.changed() => continue,
            () = server.left().cancelled() => return,
        }
        if *due.borrow() != next {
            continue;
        }
        server.signal(Event::ProbeStarted);
        // `Offline`, the next one is planned already.
        let planned = due.borrow().is_some();
        if planned && running.load(Ordering::Relaxed) >= AT_ONCE {
            continue;
        }
        running.fetch_add(1, Ordering::Relaxed);
        let timeout = link.server_set().settings.probe.timeout;
        let (server, identities, running) = (Arc::clone(&server), identities.clone(), Arc::clone(&running));
        tasks.spawn("probing", async move {
            judged(&server, &identities, timeout).await;
            running.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// One probe, and what it says of the server.
async fn judged(server: &Arc<Server>, identities: &Identities, timeout: Duration) {
    let started = clock::now();
    let mut asking = std::pin::pin!(ask(server, identities));
    let answered = tokio::select! {
        answered = tokio::time::timeout(timeout, asking.as_mut()) => answered,
        () = server.left().cancelled() => return,
    };
    let event = match answered {
        Ok(said) => Some(said.event()),
        Err(_) => {
            server.note(Cause::Late, &format!("a probe was not answered in {timeout:?}"));
            late(server, started, timeout, asking).await
        }
    };
    let took = clock::now() - started;
    tracing::debug!(%server, ?event, ?took, "probed");
    match event {
        Some(Event::ProbeSucceeded) => {
            if took < QUICK {
                server.activity().prove_quick();
            }
            server.signal(Event::ProbeSucceeded);
        }
        Some(event @ (Event::Reached | Event::ProbeUnready | Event::ProbeImpossible)) => server.signal(event),
        Some(missed) => missed_since(server, started, missed),
        None => {}
    }
}

/// A probe got no answer. If the server has answered anything since it began, that is the newer news: the probe began in
/// an outage that is over.
fn missed_since(server: &Server, started: Instant, missed: Event) {
    if server.activity().proven_since(started) {
        tracing::debug!(%server, "a probe got no answer, but is older than one");
        return;
    }
    server.signal(missed);
}

/// What becomes of a probe that was not answered in time, if that is not said here already. A way on which nothing
/// arrives at all is bad. One on which something does is slow: as long as answers to clients arrive that is good enough,
/// and the only server that there is gets more time before its silence counts.
async fn late(
    server: &Arc<Server>,
    started: Instant,
    timeout: Duration,
    asking: impl Future<Output = Said>,
) -> Option<Event> {
    let activity = server.activity();
    let missed = if server.is_alone() {
        Event::ProbeUnanswered
    } else {
        Event::ProbeFailed
    };
    let answered = tokio::time::timeout(timeout.saturating_mul(PATIENCE), asking);
    if activity.answering_since(started) {
        tracing::debug!(%server, "a probe was not answered in time, but others are");
        server.signal(Event::Reached);
        return None;
    }
    if activity.heard_since(started) && server.is_alone() {
        tracing::debug!(%server, "a probe was not answered in time, but something is heard: waiting on");
        return match answered.await {
            Ok(said @ (Said::Up | Said::Unready)) => Some(said.event()),
            _ if activity.answering_since(started) => Some(Event::Reached),
            Ok(said) => Some(said.event()),
            Err(_) => Some(missed),
        };
    }
    tracing::debug!(%server, "a probe was not answered in time");
    missed_since(server, started, missed);
    let answered = answered.await.ok();
    let said = answered.filter(|said| matches!(said, Said::Up | Said::Unready));
    said.map(Said::event)
}

/// What a probe heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// An answer of something that may be an apiserver.
    Up,
    /// An answer of an apiserver that says of itself that it is not ready.
    Unready,
    /// No such answer, though there may be one in another way.
    Unheard,
    /// No such answer.
    NotUp,
    /// This node could not ask.
    NotAsked,
}

impl Said {
    fn event(self) -> Event {
        match self {
            Self::Up => Event::ProbeSucceeded,
            Self::Unready => Event::ProbeUnready,
            Self::Unheard | Self::NotUp => Event::ProbeFailed,
            Self::NotAsked => Event::ProbeImpossible,
        }
    }
}

/// Who may ask: nobody in particular, and every configured client.
#[derive(Clone)]
struct Identities(Arc<[Arc<Transport>]>);

impl Identities {
    fn of(transports: &Transports) -> Self {
        Self(transports.identities().map(Arc::clone).collect())
    }

    /// How many configured clients there are.
    fn pairs(&self) -> usize {
        self.0.len().saturating_sub(1)
    }
}

/// What a probe heard in one way, and why there is no good answer.
struct Heard {
    said: Said,
    trouble: Option<(Cause, String)>,
}

impl Heard {
    fn nothing(said: Said) -> Self {
        Self { said, trouble: None }
    }
}

/// Asks in the way that worked last, and in another one if something keeps that from the apiserver.
async fn ask(server: &Arc<Server>, identities: &Identities) -> Said {
    let current = server.ways().lock().current();
    let Heard { said, trouble } = ask_in(current, server, identities, Via::Best).await;
    if said == Said::Unheard
        && let Some(said) = ask_otherwise(server, identities).await
    {
        return said;
    }
    if let Some((cause, detail)) = trouble {
        server.note(cause, &detail);
    }
    said
}

/// Asks in another way; a good answer makes it the one to ask in from now on.
async fn ask_otherwise(server: &Arc<Server>, identities: &Identities) -> Option<Said> {
    let another = server.ways().lock().another(identities.pairs())?;
    let said = ask_in(another, server, identities, Via::Best).await.said;
    if !matches!(said, Said::Up | Said::Unready) {
        return None;
    }
    tracing::debug!(%server, path = another.path, "a server is probed in another way");
    server.ways().lock().works(another);
    Some(said)
}

async fn ask_in(way: Way, server: &Arc<Server>, identities: &Identities, via: Via) -> Heard {
    match identities.0.get(way.identity) {
        Some(transport) => asked(way.path, server, transport, via).await,
        None => Heard::nothing(Said::Unheard),
    }
}

/// Asks over the configured interfaces.
pub(super) struct InterfaceProber(Identities);

impl InterfaceProber {
    pub(super) fn new(transports: &Transports) -> Self {
        Self(Identities::of(transports))
    }

    /// Whether the server is up, over this one of the interfaces.
    pub(super) async fn ask_over(&self, server: &Arc<Server>, interface: usize) -> bool {
        let way = server.ways().lock().current();
        let heard = ask_in(way, server, &self.0, Via::Only(interface)).await;
        matches!(heard.said, Said::Up | Said::Unready)
    }
}

async fn asked(path: &'static str, server: &Arc<Server>, transport: &Transport, via: Via) -> Heard {
    let Ok(request) = Request::get(path).body(body::empty()) else {
        return Heard::nothing(Said::NotAsked);
    };
    let (said, trouble) = match transport.probe(server, request, via).await {
        Ok(head) => {
            let status = Some(head.status.as_u16());
            (said(&head), (Cause::Gateway(status), String::new()))
        }
        Err(error) => {
            let said = match error.failure {
                Failure::Shortage => {
                    tracing::warn!(%server, %error, "a probe could not be sent");
                    Said::NotAsked
                }
                // So a balancer refuses who shows no certificate. A pair that has not loaded is no way either.
                Failure::Tls | Failure::Broken | Failure::NoCredentials => Said::Unheard,
                _ => Said::NotUp,
            };
            tracing::debug!(%server, path, identity = transport.name(), %error, "a probe failed");
            (said, (error.cause, error.message))
        }
    };
    let is_good = matches!(said, Said::Up | Said::Unready);
    Heard {
        said,
        trouble: (!is_good).then_some(trouble),
    }
}

/// What an answer says. An apiserver that does not let anonymous callers look is up all the same. What answers with a page
/// is no apiserver, and a gateway that says that the apiserver does not answer has asked it.
fn said(head: &response::Parts) -> Said {
    let status = head.status;
    if gateway::from_apiserver(&head.headers) {
        let is_unready = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        return if is_unready { Said::Unready } else { Said::Up };
    }
    if gateway::is_down(status) || gateway::is_of_the_way(status) {
        return Said::NotUp;
    }
    let is_up = status.is_success() || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    if is_up && !gateway::is_page(&head.headers) {
        Said::Up
    } else {
        Said::Unheard
    }
}

#[cfg(test)]
mod tests;
