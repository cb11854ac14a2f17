//! Makes a view whole that has lost its place while its client watches: after a full disk, events that found
//! no room, a cache that is gone, a kill, or a watch from a version that the cache does not have. An informer
//! whose stream is healthy never lists again, so the view would stand still for as long as the stream lives.
//!
//! edgehold asks for the list itself, with the client's own credential and selectors: nothing else may be
//! authorized. The view keeps what its streams send meanwhile (rule V3), and the client notices nothing. Once
//! for each view, however many watch it; few at a time, of one principal and in all, in their turn among
//! returning watches and large lists; again later if nothing came of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cache::{Followed, Kept, Query, Recording};
use crate::kube::request::{Class, RequestInfo};
use crate::runtime::body::{self, Body};
use crate::runtime::{clock, jitter};
use crate::store::LogId;
use crate::upstream::{LinkState, Purpose, RetryPolicy};
use crate::view::machine::Condition;

use super::super::exchange::Exchange;
use super::super::gzip;
use super::super::list_admission::{Pass, Same, Turn};
use super::super::priority::Priority;
use super::census::State;
use super::pump::retry_after;
use super::target::{listed, listed_accept};

/// How long a view may be lost, up to twice that: most clients list and then watch, and the list is being
/// written down.
const GRACE: Duration = Duration::from_millis(500);

/// A list that is on its way may make the view whole. One whose client reads it slowly, or in pages, is not
/// waited for longer.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// Lists at a time, over all views.
const AT_ONCE: usize = 4;

/// Lists at a time for the views of one principal.
const AT_ONCE_FOR_ONE: usize = 2;

/// Between two lists of one view; doubled each time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// After so long without a list a view's pauses start over.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// How long the head of the answer is waited for, each further piece of it, and the disk after it.
const STANDSTILL: Duration = Duration::from_secs(60);

/// What is known of all healings of this node.
pub(in super::super) struct Healings {
    views: Mutex<HashMap<LogId, Arc<View>>>,
    principals: Mutex<HashMap<String, Arc<Semaphore>>>,
    all: Arc<Semaphore>,
}

/// Held by the one who heals this view.
type View = tokio::sync::Mutex<Attempts>;

/// The lists that were asked for a view.
#[derive(Debug, Default)]
struct Attempts {
    in_a_row: u32,
    last: Option<Instant>,
    /// None before.
    next: Option<Instant>,
}

/// What came of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Outcome {
    /// The view follows its clients again.
    Whole,
    /// It could not be kept, or came too late to close the hole.
    Unkept,
    /// Upstream does not give it to this client.
    Refused,
    /// There was no good answer; upstream may say for how long there will be none.
    Failed(Duration),
}

/// Heals the view of a watch while it lives.
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

/// A read of edgehold's own on behalf of a client.
pub(in super::super) struct List {
    target: PathAndQuery,
    headers: HeaderMap,
    pub(in super::super) query: Query,
}

impl Outcome {
    /// A short name for logs and metrics.
    pub(in super::super) fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Unkept => "unkept",
            Self::Refused => "refused",
            Self::Failed(_) => "failed",
        }
    }
}

/// Begins to heal the view of a watch, which is lost.
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
        let Some(list) = List::of(&self.exchange) else {
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

    /// Waits for something, unless the view becomes whole by other means.
    async fn unless_followed<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            () = self.followed.becomes(|now| now == Condition::Followed) => None,
            waited = wait => Some(waited),
        }
    }

    /// Waits until the list may be asked for.
    async fn turn(&self, attempts: &Attempts, list: &List) -> Permits {
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
                let same = || Same::of(&self.exchange, &list.query.owner);
                match proxy
                    .list_admission
                    .turn(&name, Priority::LAST, deadline, same)
                    .await
                {
                    Turn::Ask(pass, _) => Some(pass),
                    Turn::Follow(_) => None,
                }
            }
        };
        Permits {
            pass,
            _one: permits.0,
            _all: permits.1,
        }
    }

    /// Asks for the list and gives it to the view.
    async fn attempt(&self, list: &List, recording: Recording, kept: Kept, pass: Option<Pass>) -> Outcome {
        let exchange = &self.exchange;
        let Some(response) = list.ask(exchange).await else {
            return Outcome::Failed(Duration::ZERO);
        };
        let (head, body) = response.into_parts();
        exchange.noted(&head).await;
        let is_list = head.status == StatusCode::OK;
        // A refusal has its consequences too.
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

/// Reads a body to its end; whether that came.
pub(in super::super) async fn drained(mut body: Body) -> bool {
    loop {
        match tokio::time::timeout(STANDSTILL, body.frame()).await {
            Ok(None) => return true,
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
}

async fn permit(semaphore: Arc<Semaphore>) -> OwnedSemaphorePermit {
    match semaphore.acquire_owned().await {
        Ok(permit) => permit,
        // These are never closed.
        Err(_) => std::future::pending().await,
    }
}

impl List {
    /// What a client asks for; of a watch, the list of what it watches.
    pub(in super::super) fn asked(exchange: &Exchange) -> Option<Self> {
        match exchange.class {
            Class::Watch => Self::of(exchange),
            Class::Get | Class::List | Class::NonResource if exchange.head.method == Method::GET => {
                let (principal, _) = exchange.caller.now(&exchange.proxy);
                Some(Self {
                    target: exchange.head.uri.path_and_query()?.clone(),
                    headers: exchange.request(body::empty()).headers().clone(),
                    query: exchange.query(&principal?)?,
                })
            }
            _ => None,
        }
    }

    /// The answer to it, if one has come before the cloud is away.
    pub(in super::super) async fn ask(&self, exchange: &Exchange) -> Option<Response<Body>> {
        let mut request = exchange.request_for(Some(self.target.clone()), body::empty());
        request.headers_mut().clone_from(&self.headers);
        let (_, holder) = exchange.caller.now(&exchange.proxy);
        let policy = RetryPolicy::read(Purpose::Large)
            .on_behalf_of(holder)
            .for_answers(exchange.answers());
        let sending = exchange.send(request, &policy);
        let sent = tokio::select! {
            sent = tokio::time::timeout(STANDSTILL, sending) => sent.ok()?,
            () = exchange.proxy.link.reaches(LinkState::Offline) => return None,
        };
        sent.ok()
    }

    /// What a watch watches, as its client may read it.
    fn of(exchange: &Exchange) -> Option<Self> {
        let RequestInfo::Resource(resource) = &exchange.info else {
            return None;
        };
        if exchange.head.method != Method::GET {
            return None;
        }
        let target = listed(exchange.head.uri.path_and_query()?, resource)?;
        let mut headers = exchange.head.headers.clone();
        if let Some(accept) = headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok())
        {
            let accept = HeaderValue::from_str(&listed_accept(accept)).ok()?;
            headers.insert(header::ACCEPT, accept);
        }
        let compression = exchange.caller.transport.compression();
        gzip::ask(
            &exchange.head,
            Class::List,
            target.query(),
            compression,
            &mut headers,
        );
        let (principal, _) = exchange.caller.now(&exchange.proxy);
        let info = RequestInfo::parse(&Method::GET, target.path(), target.query());
        let (uri, class) = (Uri::from(target.clone()), info.class(&Method::GET));
        let query = Query::new(principal?.key(), &Method::GET, &uri, &headers, &info, class)?;
        Some(Self {
            target,
            headers,
            query,
        })
    }
}

impl Healings {
    pub(in super::super) fn new() -> Self {
        Self {
            views: Mutex::default(),
            principals: Mutex::default(),
            all: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    fn view(&self, id: &LogId) -> Arc<View> {
        let (mut views, now) = (self.views.lock(), clock::now());
        // Nobody can come by another while this is locked.
        views.retain(|_, view| Arc::get_mut(view).is_none_or(|view| !view.get_mut().are_forgotten(now)));
        Arc::clone(views.entry(id.clone()).or_default())
    }

    fn principal(&self, owner: &str) -> Arc<Semaphore> {
        let mut principals = self.principals.lock();
        principals.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let semaphore = principals
            .entry(owner.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE_FOR_ONE)));
        Arc::clone(semaphore)
    }
}

impl Attempts {
    fn are_forgotten(&self, now: Instant) -> bool {
        let forgotten = |last| now.saturating_duration_since(last) >= FORGOTTEN;
        self.last.is_none_or(forgotten)
    }

    /// Counts a list, successful or not: a view that is lost again and again, because the cache has no room
    /// for it, must not be listed again and again.
    fn ended(&mut self, began: Instant, outcome: Outcome) {
        if self.are_forgotten(began) {
            self.in_a_row = 0;
        }
        let doubled = 1_u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX);
        let pause = match outcome {
            Outcome::Refused => LONGEST_PAUSE,
            Outcome::Failed(asked) => SHORTEST_PAUSE
                .saturating_mul(doubled)
                .min(LONGEST_PAUSE)
                .max(asked),
            Outcome::Whole | Outcome::Unkept => SHORTEST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE),
        };
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last = Some(began);
        self.next = Some(clock::now() + pause + jitter::below(pause / 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pauses_between_the_lists_of_a_view_double_and_are_forgotten() {
        let mut attempts = Attempts::default();
        let mut pause = |outcome, after| {
            let now = clock::now();
            attempts.ended(now + after, outcome);
            attempts.next.unwrap() - now
        };
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let took = pause(Outcome::Unkept, Duration::ZERO);
            let least = Duration::from_secs(seconds);
            assert!((least..=least * 5 / 4).contains(&took), "{took:?} for {least:?}");
        }
        assert!(pause(Outcome::Whole, FORGOTTEN) < SHORTEST_PAUSE * 2);
        assert!(pause(Outcome::Refused, FORGOTTEN) >= LONGEST_PAUSE);
        let asked = Duration::from_secs(77);
        assert!(pause(Outcome::Failed(asked), FORGOTTEN * 2) >= asked);
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_is_known_while_somebody_heals_it_or_did_of_late() {
        let healings = Healings::new();
        let [one, other] = ["one", "other"].map(|name| LogId::new("cn:x", name));
        let view = healings.view(&one);
        let locked = view.lock().await;
        healings.view(&other);
        assert!(healings.view(&one).try_lock().is_err(), "once for each view");
        drop(locked);
        view.lock().await.ended(clock::now(), Outcome::Whole);
        drop(view);
        healings.view(&other);
        assert!(healings.view(&one).lock().await.next.is_some());
        tokio::time::advance(FORGOTTEN).await;
        healings.view(&other);
        assert!(healings.views.lock().get(&one).is_none());
    }
}
