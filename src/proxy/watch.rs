//! Watches: one client stream that outlives its upstream streams.
//!
//! While live, whole frames are passed on and recorded. When upstream breaks, the client's stream is held at
//! the position that the client has reached; once the cloud is back, upstream is re-opened from there and the
//! stream goes on. A watch that begins while the cloud is unreachable begins held (wire contract 5.7, 5.8).

mod census;
mod gone;
mod heal;
mod healings;
mod open;
mod pace;
mod pump;
mod retry;
pub(super) mod target;

use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::cache::{HeldStart, WatchPlan};
use crate::kube::request::RequestInfo;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::upstream::{LinkState, UpstreamError};
use crate::wire::status::error_frame;

use super::confirm::Doubt;
use super::exchange::Exchange;
use super::forward;
use super::refuse::unknown;
use super::respond::held_watch;

pub(super) use self::census::Census;
pub(super) use self::gone::Gone;
pub(super) use self::healings::Healings;
use self::open::{Answered, Opened, Opening};
pub use self::pace::Pace;
use self::pump::{Pump, Stream};
use self::retry::retry_after;

/// A watch: live if upstream can be reached, otherwise held from the start.
pub(super) async fn handle(exchange: Exchange, body: Incoming) -> Response<Body> {
    if !is_of_events(&exchange.info) {
        return forward::stream(exchange, body).await;
    }
    if let Some(turn) = gone_turn(&exchange) {
        tracing::debug!("a watch whose version is gone is asked for once more");
        tokio::time::sleep_until(turn).await;
    }
    match exchange.proxy.link.state() {
        LinkState::Suspect if exchange.proxy.link.is_silent() => {
            // If the cache knows where to start, there is no point in waiting for an unlikely answer.
            if let Some(start) = known_start(&exchange).await {
                return held(exchange, start, Duration::ZERO);
            }
        }
        LinkState::Suspect | LinkState::Online => {}
        LinkState::Offline => return Box::pin(offline(exchange, None)).await,
    }
    live(exchange, body).await
}

/// When this watch may be sent, if not at once. Nothing is remembered of an unknown caller.
fn gone_turn(exchange: &Exchange) -> Option<Instant> {
    let owner = exchange.caller.accepted_as(&exchange.proxy)?;
    exchange.proxy.gone.turn(&owner, &exchange.head.uri)
}

/// Whether the answer is a stream of events.
pub(super) fn is_of_events(info: &RequestInfo) -> bool {
    matches!(info, RequestInfo::Resource(resource) if resource.name.is_empty() || resource.legacy_watch || !resource.options.field_selector.is_empty())
}

async fn live(exchange: Exchange, body: Incoming) -> Response<Body> {
    let began = clock::now();
    let answer = {
        let mut opening = Opening::asked(&exchange, body);
        match opening.in_time().await {
            Opened::Late => match known_start(&exchange).await {
                Some(start) => {
                    drop(opening);
                    return held(exchange, start, Duration::ZERO);
                }
                None => opening.at_last().await,
            },
            opened => opened,
        }
    };
    let (head, body) = match answer {
        Opened::Live(answered) => return opened(exchange, *answered, began),
        Opened::Refused(head, body) => (head, body),
        Opened::Late => return Box::pin(offline(exchange, None)).await,
        Opened::Failed(error) => return Box::pin(failed(exchange, &error)).await,
    };
    if exchange.prefers_cache_to(&head)
        && let Some(start) = known_start(&exchange).await
    {
        let wait = retry_after(Some(&head.headers));
        return held(exchange, start, wait);
    }
    let doubt = Box::pin(Doubt::of(&exchange, &head)).await;
    let response = exchange.delivered(head, body);
    if let Some(doubt) = doubt {
        doubt.settle(exchange);
    }
    response
}

/// Starts the client's stream over a live upstream.
fn opened(exchange: Exchange, answered: Answered, began: Instant) -> Response<Body> {
    let Answered { head, encoding, live } = answered;
    let (stream, client_body) = Stream::open(exchange, encoding, began);
    let tasks = stream.tasks();
    tasks.spawn("watch", Pump::new(stream).run_live(live));
    Response::from_parts(head, client_body)
}

/// A watch that could not be opened: held if the cache knows a start. Otherwise the probe decides, for while
/// the cloud is reachable only the cloud may say that a position has expired.
async fn failed(exchange: Exchange, error: &UpstreamError) -> Response<Body> {
    if error.failure.is_for_want_of_room() {
        // The cloud is reachable: a held stream would be taken for a live one.
        return unknown(&exchange, Some(error), None).await;
    }
    if let Some(start) = known_start(&exchange).await {
        return held(exchange, start, Duration::ZERO);
    }
    match exchange.proxy.link.verdict().await {
        LinkState::Offline => offline(exchange, Some(error)).await,
        LinkState::Online | LinkState::Suspect => unknown(&exchange, Some(error), None).await,
    }
}

/// Answers from the cache while the cloud is unreachable.
async fn offline(exchange: Exchange, error: Option<&UpstreamError>) -> Response<Body> {
    let plan = match exchange.answerable_query().await {
        Some(query) => exchange.proxy.cache.plan_watch(&query).await,
        None => return unknown(&exchange, error, None).await,
    };
    match plan {
        WatchPlan::Hold(start) => held(exchange, start, Duration::ZERO),
        WatchPlan::Gone(encoding, status) => {
            if let Some(owner) = exchange.caller.accepted_as(&exchange.proxy) {
                exchange.proxy.gone.told(&owner, &exchange.head.uri);
            }
            let frame = error_frame(encoding, &status);
            held_watch(encoding, body::full(frame), exchange.instead())
        }
        WatchPlan::Refused(status) => exchange.refuse(&status),
        WatchPlan::Unknown(missing) => unknown(&exchange, error, Some(missing)).await,
    }
}

/// Where to start this watch, if the cache knows it well enough not to wait for upstream.
async fn known_start(exchange: &Exchange) -> Option<Box<HeldStart>> {
    match exchange
        .proxy
        .cache
        .plan_watch(&exchange.answerable_query().await?)
        .await
    {
        WatchPlan::Hold(start) => Some(start),
        WatchPlan::Gone(..) | WatchPlan::Refused(_) | WatchPlan::Unknown(_) => None,
    }
}

fn held(exchange: Exchange, start: Box<HeldStart>, wait: Duration) -> Response<Body> {
    let encoding = start.representation.encoding;
    if exchange.head.method == http::Method::HEAD {
        return held_watch(encoding, body::empty(), exchange.instead());
    }
    let instead = exchange.instead();
    let (stream, body) = Stream::open(exchange, encoding, clock::now());
    let tasks = stream.tasks();
    tasks.spawn("watch", Pump::new(stream).run_held(start, wait));
    held_watch(encoding, body, instead)
}
