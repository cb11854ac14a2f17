//! Heals a view that has lost its place while a client watches it: after a full disk, events that found no
//! room, a lost cache, a kill, or a watch from a version that the cache does not have. An informer with a
//! healthy stream never lists again, so the view would stay behind for as long as the stream lives.
//!
//! edgehold lists by itself, with the client's own credential and selectors, since nothing else may be
//! authorized. Meanwhile the view keeps what its streams send (rule V3), and the client notices nothing. Each
//! view is listed once, however many watch it; few lists run at a time, per principal and in all, and they
//! take their turn among returning watches and large lists. If a list did not help, it is tried again later.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cache::{Followed, Kept, Recording};
use crate::runtime::{clock, jitter};
use crate::upstream::LinkState;
use crate::view::machine::Condition;

use super::super::background_read::{BackgroundRead, STANDSTILL, drained};
use super::super::exchange::Exchange;
use super::super::list_admission::Pass;
use super::super::priority::Priority;
use super::census::State;
use super::healings::{Attempts, Outcome};
use super::retry::retry_after;

/// How long a view may be lost before it is healed, jittered up to twice that: most clients list and then
/// watch, and their list is still being written down.
const GRACE: Duration = Duration::from_millis(500);

/// How long to wait for a client's own list, which may heal the view: some clients read slowly, or in pages.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// The healing of one watch's view; ends when dropped.
pub(super) struct Healing(#[expect(dead_code, reason = "ends the task when dropped")] DropGuard);

struct Healer {
    exchange: Arc<Exchange>,
    followed: Followed,
}

struct Permits {
    pass: Option<Pass>,
    _one: OwnedSemaphorePermit,
    _all: OwnedSemaphorePermit,
}

/// Begins to heal the view of a watch that is lost.
pub(super) fn begin(exchange: &Arc<Exchange>, followed: &Followed) -> Healing {
    let over = CancellationToken::new();
    let healer = Healer {
        exchange: Arc::clone(exchange),
        followed: followed.clone(),
    };
    let ended = over.clone();
    let counted = exchange.proxy.metrics.watches.count(State::Healing);
    exchange.proxy.tasks.spawn("heal", async move {
        let _counted = counted;
        tokio::select! {
            () = ended.cancelled() => {}
            () = healer.run() => {}
        }
    });
    Healing(over.drop_guard())
}

impl Healer {
    async fn run(&self) {
        let Some(list) = BackgroundRead::list_of(&self.exchange) else {
            return;
        };
        let waited = async {
            tokio::time::sleep(GRACE + jitter::below(GRACE)).await;
            let awaiting = self.followed.becomes(|now| now != Condition::Awaiting);
            let _too_long = tokio::time::timeout(LIST_TIMEOUT, awaiting).await;
        };
        if self.unless_followed(waited).await.is_none() {
            return;
        }
        let view = self.exchange.proxy.healings.view(self.followed.id());
        let Some(mut attempts) = self.unless_followed(view.lock()).await else {
            return;
        };
        while let Some(permits) = self.unless_followed(self.turn(&attempts, &list)).await {
            let Some((recording, kept)) = self.followed.record_list(&self.exchange.proxy.cache, &list.query)
            else {
                return;
            };
            let began = clock::now();
            let outcome = self.attempt(&list, recording, kept, permits.pass).await;
            attempts.ended(began, outcome);
            let view = self.followed.id();
            self.exchange.proxy.metrics.healed(outcome.as_str());
            match outcome {
                Outcome::Whole => {
                    return tracing::info!(%view, "a view that had lost its place is whole again");
                }
                _ => {
                    tracing::info!(%view, outcome = outcome.as_str(), "a view has lost its place, and a list did not help")
                }
            }
        }
    }

    /// Waits for something, unless the view is healed by other means first.
    async fn unless_followed<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.followed.becomes(|now| now == Condition::Followed) => None,
            waited = wait => Some(waited),
        }
    }

    /// Waits until the list may be sent.
    async fn turn(&self, attempts: &Attempts, list: &BackgroundRead) -> Permits {
        let proxy = &self.exchange.proxy;
        if let Some(next) = attempts.next {
            tokio::time::sleep_until(next).await;
        }
        proxy.link.reaches(LinkState::Online).await;
        let one = proxy.healings.principal(&self.followed.id().owner);
        let all = Arc::clone(&proxy.healings.all);
        let permits = (permit(one).await, permit(all).await);
        // Clients go first.
        proxy.pace.turn(Priority::LAST).await;
        let pass = match list.query.whole_list() {
            None => None,
            Some(name) => {
                let deadline = clock::now() + self.exchange.caller.transport.response_timeout();
                Some(proxy.list_admission.turn(&name, Priority::LAST, deadline).await)
            }
        };
        Permits {
            pass,
            _one: permits.0,
            _all: permits.1,
        }
    }

    /// Sends the list and records the answer in the view.
    async fn attempt(
        &self,
        list: &BackgroundRead,
        recording: Recording,
        kept: Kept,
        pass: Option<Pass>,
    ) -> Outcome {
        let exchange = &self.exchange;
        let Some(response) = list.ask(exchange).await else {
            return Outcome::Failed(Duration::ZERO);
        };
        let (head, body) = response.into_parts();
        exchange.noted(&head).await;
        let is_list = head.status == StatusCode::OK;
        // A refusal is recorded too.
        let body = recording.answered(&head, body);
        let body = match pass {
            Some(pass) if is_list => pass.counting(body),
            _ => body,
        };
        let whole = drained(body).await;
        if is_list {
            let _hangs = tokio::time::timeout(STANDSTILL, kept.settled()).await;
        }
        match head.status {
            StatusCode::OK if !whole => Outcome::Failed(Duration::ZERO),
            StatusCode::OK if self.followed.condition() == Condition::Followed => Outcome::Whole,
            StatusCode::OK => Outcome::Unkept,
            StatusCode::TOO_MANY_REQUESTS => Outcome::Failed(retry_after(Some(&head.headers))),
            status if status.is_server_error() => Outcome::Failed(retry_after(Some(&head.headers))),
            _ => Outcome::Refused,
        }
    }
}

async fn permit(semaphore: Arc<Semaphore>) -> OwnedSemaphorePermit {
    match semaphore.acquire_owned().await {
        Ok(permit) => permit,
        // The semaphores are never closed.
        Err(_) => std::future::pending().await,
    }
}
