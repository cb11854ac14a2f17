//! Watches: one client stream that outlives its upstream streams.
//!
//! Live, whole frames are passed on and recorded. When upstream breaks, the client's stream is held at the position
//! that the client has reached; when the cloud is back, upstream is re-opened there and the stream goes on. A watch that
//! begins while the cloud is away begins held (wire contract 5.7, 5.8).

mod fill;
mod pace;
mod pump;
mod target;

use std::ops::ControlFlow;
use std::time::Duration;

use http::response;
use http::{Response, StatusCode, header};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::cache::{HeldStart, WatchPlan};
use crate::kube::media::Encoding;
use crate::kube::request::RequestInfo;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::upstream::{LinkState, Purpose, UpstreamError};
use crate::wire::status::error_frame;

use super::exchange::Exchange;
use super::forward::{self, unknown};
use super::headers::strip_response;
use super::respond::{fields, held_watch};

pub use self::pace::Pace;
use self::pump::{Live, Pump, Stream, retry_after};

/// A watch: live if upstream can be reached, else held from the start.
pub(super) async fn handle(exchange: Exchange, body: Incoming) -> Response<Body> {
    if !matches!(&exchange.info, RequestInfo::Resource(resource) if resource.name.is_empty() || resource.legacy_watch || !resource.options.field_selector.is_empty())
    {
        return forward::stream(exchange, body).await;
    }
    match exchange.proxy.link.state() {
        LinkState::Online => {}
        LinkState::Suspect => {
            // A start that is known need not wait for the probe.
            if let Some(start) = known_start(&exchange).await {
                return held(exchange, start, Duration::ZERO);
            }
        }
        LinkState::Offline => return offline(exchange, None).await,
    }
    live(exchange, body).await
}

async fn live(exchange: Exchange, body: Incoming) -> Response<Body> {
    let began = clock::now();
    let exchange = match fill::live(exchange, began).await {
        ControlFlow::Break(response) => return response,
        ControlFlow::Continue(exchange) => exchange,
    };
    let query = exchange.recorded_query();
    let recording = query
        .as_ref()
        .and_then(|query| exchange.proxy.cache.record_watch(query));
    let refusal = query.as_ref().map(|query| exchange.proxy.cache.record(query));
    let timeout = exchange.caller.transport.response_timeout();
    let effort = exchange.read_effort(&body, Purpose::Watch);
    let mut sending = Box::pin(exchange.send_read(body, &effort));
    let sent = match tokio::time::timeout(timeout, sending.as_mut()).await {
        Ok(sent) => sent,
        Err(_) => {
            effort.timed_out();
            match known_start(&exchange).await {
                Some(start) => {
                    drop(sending);
                    return held(exchange, start, Duration::ZERO);
                }
                None => sending.as_mut().await,
            }
        }
    };
    drop(sending);
    let response = match sent {
        Ok(response) => response,
        Err(error) => return offline(exchange, Some(&error)).await,
    };
    let (mut head, body) = response.into_parts();
    exchange.noted(&head);
    let down = matches!(head.status.as_u16(), 502..=504);
    if down && let Some(start) = known_start(&exchange).await {
        let wait = retry_after(Some(&head.headers));
        return held(exchange, start, wait);
    }
    strip_response(&mut head.headers);
    let content_type = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let encoding = content_type
        .and_then(Encoding::of_content_type)
        .filter(|e| *e != Encoding::Yaml);
    let plain = !head.headers.contains_key(header::CONTENT_ENCODING);
    let (StatusCode::OK, Some(encoding), true) = (head.status, encoding, plain) else {
        let body = match refusal {
            Some(refusal) if head.status != StatusCode::OK => refusal.answered(&head, body),
            _ => body,
        };
        return Response::from_parts(head, body);
    };
    let recording = query.as_ref().and_then(|query| {
        exchange
            .proxy
            .cache
            .confirm_watch(query, recording, content_type.unwrap_or_default())
    });
    let live = Live {
        body,
        recording,
        origin: head.extensions.remove(),
        until: None,
    };
    opened(exchange, head, encoding, live, began)
}

/// The client's stream, whose upstream is live.
fn opened(
    exchange: Exchange,
    head: response::Parts,
    encoding: Encoding,
    live: Live,
    began: Instant,
) -> Response<Body> {
    let (stream, client_body) = Stream::open(exchange, encoding, began);
    let tasks = stream.tasks();
    tasks.spawn("watch", Pump::new(stream).run_live(live));
    Response::from_parts(head, client_body)
}

async fn offline(exchange: Exchange, error: Option<&UpstreamError>) -> Response<Body> {
    let plan = match exchange.answerable_query().await {
        Some(query) => exchange.proxy.cache.plan_watch(&query).await,
        None => WatchPlan::Unknown,
    };
    match plan {
        WatchPlan::Hold(start) => held(exchange, start, Duration::ZERO),
        WatchPlan::Gone(encoding, status) => {
            let frame = error_frame(encoding, &fields(&status));
            held_watch(encoding, body::full(frame), &exchange.form)
        }
        WatchPlan::Refused(status) => exchange.refuse(&status),
        WatchPlan::Unknown => exchange.refuse(&unknown(&exchange, error).await),
    }
}

/// A start for this watch that the cache knows well enough to prefer it over waiting.
async fn known_start(exchange: &Exchange) -> Option<Box<HeldStart>> {
    match exchange
        .proxy
        .cache
        .plan_watch(&exchange.answerable_query().await?)
        .await
    {
        WatchPlan::Hold(start) => Some(start),
        WatchPlan::Gone(..) | WatchPlan::Refused(_) | WatchPlan::Unknown => None,
    }
}

fn held(exchange: Exchange, start: Box<HeldStart>, wait: Duration) -> Response<Body> {
    let encoding = start.representation.encoding;
    if exchange.head.method == http::Method::HEAD {
        return held_watch(encoding, body::empty(), &exchange.form);
    }
    let form = exchange.form.clone();
    let (stream, body) = Stream::open(exchange, encoding, clock::now());
    let tasks = stream.tasks();
    tasks.spawn("watch", Pump::new(stream).run_held(start, wait));
    held_watch(encoding, body, &form)
}
