//! Probes `/readyz` of each server when its [`health`](super::health) says so, over the default transport.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::{Request, StatusCode};
use tokio::time::Instant;

use crate::runtime::body;
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;

use super::dial::Via;
use super::health::Event;
use super::link::Link;
use super::server::Server;
use super::transport::Transport;

/// Probes of one server under way at once. One that hangs does not keep the next from starting: after an outage that
/// swallowed packets it may hang for longer than the outage lasts.
const AT_ONCE: usize = 8;

/// A probe that was not answered in time has failed, but its answer still counts, on a slow link, for so many times
/// as long.
const PATIENCE: u32 = 3;

/// A probe that takes less, three round trips or more, was answered over a good link.
const QUICK: Duration = Duration::from_secs(1);

/// Probes every configured server for as long as it is configured.
pub fn spawn(link: &Link, transport: &Arc<Transport>, tasks: &Tasks) {
    let (link, transport, inner) = (link.clone(), Arc::clone(transport), tasks.clone());
    tasks.spawn_critical("probe", async move {
        let mut fleets = link.fleets();
        let mut probed: Vec<Arc<Server>> = Vec::new();
        let mut followed = FuturesUnordered::new();
        loop {
            let fleet = Arc::clone(&fleets.borrow_and_update());
            probed.retain(|server| !server.left().is_cancelled());
            for server in &fleet.servers {
                if !probed.iter().any(|known| Arc::ptr_eq(known, server)) {
                    probed.push(Arc::clone(server));
                    let (link, transport, tasks) = (link.clone(), Arc::clone(&transport), inner.clone());
                    followed.push(follow(Arc::clone(server), link, transport, tasks));
                }
            }
            tokio::select! {
                changed = fleets.changed() => if changed.is_err() { return },
                Some(()) = followed.next() => {}
            }
        }
    });
}

/// Starts a probe of one server whenever one is due, until it leaves.
async fn follow(server: Arc<Server>, link: Link, transport: Arc<Transport>, tasks: Tasks) {
    let mut due = server.due();
    let running = Arc::new(AtomicUsize::new(0));
    loop {
        let next = *due.borrow_and_update();
        let wait = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = wait => {}
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
        let timeout = link.fleet().settings.probe.timeout;
        let (server, transport, running) =
            (Arc::clone(&server), Arc::clone(&transport), Arc::clone(&running));
        tasks.spawn("probing", async move {
            judged(&server, &transport, timeout).await;
            running.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

/// One probe, and what it says of the server.
async fn judged(server: &Arc<Server>, transport: &Transport, timeout: Duration) {
    let started = clock::now();
    let mut asking = std::pin::pin!(ask(server, transport));
    let answered = tokio::select! {
        answered = tokio::time::timeout(timeout, asking.as_mut()) => answered,
        () = server.left().cancelled() => return,
    };
    let event = match answered {
        Ok(true) => Some(Event::ProbeSucceeded),
        Ok(false) => Some(Event::ProbeFailed),
        Err(_) => late(server, started, timeout, asking).await,
    };
    let took = clock::now() - started;
    tracing::debug!(%server, ?event, ?took, "probed");
    match event {
        Some(Event::ProbeSucceeded) => {
            if took < QUICK {
                server.vitals().prove_quick();
            }
            server.signal(Event::ProbeSucceeded);
        }
        Some(Event::Reached) => server.signal(Event::Reached),
        Some(missed) => missed_since(server, started, missed),
        None => {}
    }
}

/// A probe got no answer. If the server has answered anything since it began, that is the newer news: the probe began in
/// an outage that is over.
fn missed_since(server: &Server, started: Instant, missed: Event) {
    if server.vitals().proven_since(started) {
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
    asking: impl Future<Output = bool>,
) -> Option<Event> {
    let vitals = server.vitals();
    let missed = if server.is_alone() {
        Event::ProbeUnanswered
    } else {
        Event::ProbeFailed
    };
    let answered = tokio::time::timeout(timeout.saturating_mul(PATIENCE), asking);
    if vitals.answering_since(started) {
        tracing::debug!(%server, "a probe was not answered in time, but others are");
        server.signal(Event::Reached);
        return None;
    }
    if vitals.heard_since(started) && server.is_alone() {
        tracing::debug!(%server, "a probe was not answered in time, but something is heard: waiting on");
        return match answered.await {
            Ok(true) => Some(Event::ProbeSucceeded),
            _ if vitals.answering_since(started) => Some(Event::Reached),
            Ok(false) => Some(Event::ProbeFailed),
            Err(_) => Some(missed),
        };
    }
    tracing::debug!(%server, "a probe was not answered in time");
    missed_since(server, started, missed);
    matches!(answered.await, Ok(true)).then_some(Event::ProbeSucceeded)
}

async fn ask(server: &Arc<Server>, transport: &Transport) -> bool {
    asked(server, transport, Via::Best).await
}

/// Whether it is up, over this one of the configured interfaces.
pub(super) async fn ask_over(server: &Arc<Server>, transport: &Transport, interface: usize) -> bool {
    asked(server, transport, Via::Only(interface)).await
}

async fn asked(server: &Arc<Server>, transport: &Transport, via: Via) -> bool {
    let Ok(request) = Request::get("/readyz").body(body::empty()) else {
        return false;
    };
    match transport.probe(server, request, via).await {
        // An apiserver that does not let anonymous callers look is up all the same.
        Ok(status) => {
            status.is_success() || matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
        }
        Err(error) => {
            tracing::debug!(%server, %error, "a probe failed");
            false
        }
    }
}

#[cfg(test)]
mod tests;
