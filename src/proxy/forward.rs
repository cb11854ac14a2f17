//! Forwarding of reads, for which the cache can stand in, and of endless streams. Writes are in `write.rs`.

use std::time::Duration;

use http::{Response, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::kube::request::Class;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::upstream::error::Sent;
use crate::upstream::{Failure, LinkState, Purpose, RetryPolicy, UpstreamError};

use super::confirm::Doubt;
use super::exchange::Exchange;
use super::list_admission::Pass;
use super::refuse::{away, gateway_answered, unanswered, unknown};

/// How long a read keeps trying to connect while the cloud is reachable: as long as client-go does.
const CONNECTING: Duration = Duration::from_secs(30);

/// The least pause between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

/// A read: upstream's answer, however long it takes while the cloud is reachable, and otherwise the cache's.
pub(super) async fn read(exchange: Exchange, body: Incoming) -> Response<Body> {
    match exchange.proxy.link.state() {
        LinkState::Offline => return offline(&exchange, None).await,
        LinkState::Suspect if exchange.proxy.link.is_silent() => {
            if let Ok(response) = exchange.cached_answer().await {
                return response;
            }
        }
        LinkState::Suspect | LinkState::Online => {}
    }
    let query = exchange.recorded_query();
    let pass = match Box::pin(turn(&exchange, &body)).await {
        Ok(pass) => pass,
        Err(answered) => return *answered,
    };
    let recording = query.as_ref().map(|query| exchange.proxy.cache.record(query));
    let response = match Box::pin(answered(&exchange, body)).await {
        Ok(response) => response,
        Err(answered) => return *answered,
    };
    let is_foreign = exchange.is_foreign(response.status(), response.headers());
    let (head, body) = response.into_parts();
    exchange.noted(&head).await;
    if (is_foreign || exchange.prefers_cache_to(&head))
        && let Ok(response) = exchange.cached_answer().await
    {
        return response;
    }
    if is_foreign {
        let error = gateway_answered(head.status);
        exchange.failed(&error);
        return Box::pin(unknown(&exchange, Some(&error), None)).await;
    }
    let doubt = Box::pin(Doubt::of(&exchange, &head)).await;
    let late = || Some(exchange.proxy.cache.record_late(&exchange.accepted_query()?));
    let body = match recording.or_else(late) {
        Some(recording) => recording.answered(&head, body),
        None => body,
    };
    let (head, body) = exchange.delivered(head, body).into_parts();
    let body = exchange.proxy.issuer.learn(exchange.head.uri.path(), &head, body);
    let response = Response::from_parts(head, body);
    if let Some(doubt) = doubt {
        doubt.settle(exchange);
    }
    match pass {
        Some(pass) if response.status() == StatusCode::OK => response.map(|body| pass.counting(body)),
        _ => response,
    }
}

/// Waits until a list may be sent; returns what the client gets instead if the cloud becomes unreachable.
async fn turn(exchange: &Exchange, body: &Incoming) -> Result<Option<Pass>, Box<Response<Body>>> {
    let is_list = exchange.class == Class::List && body.is_end_stream();
    let query = is_list.then(|| exchange.claimed_query()).flatten();
    let Some(name) = query.and_then(|query| query.whole_list()) else {
        return Ok(None);
    };
    let proxy = &exchange.proxy;
    let deadline = clock::now() + exchange.caller.transport.response_timeout();
    let priority = proxy.priorities.of(exchange.caller.client());
    tokio::select! {
        biased;
        pass = proxy.list_admission.turn(&name, priority, deadline) => Ok(Some(pass)),
        answered = instead(exchange) => Err(Box::new(answered)),
    }
}

/// Sends a read and waits for the head of its answer, or returns what the client gets instead. As long as the
/// cloud answers its probes, it is waited for until the client gives up.
async fn answered(exchange: &Exchange, body: Incoming) -> Result<Response<Body>, Box<Response<Body>>> {
    let purpose = match exchange.class {
        Class::List | Class::NonResource => Purpose::Large,
        _ => Purpose::Short,
    };
    let is_bodiless = body.is_end_stream();
    let policy = exchange.read_policy(&body, purpose);
    let sent = tokio::select! {
        biased;
        sent = exchange.send_read(body, &policy) => sent,
        never = exchange.probing(&policy) => match never {},
        answered = instead(exchange) => return Err(Box::new(answered)),
    };
    let error = match sent {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    // The cloud can answer once there is room: this is no case for the cache.
    let has_room = error.failure != Failure::OverShare;
    if has_room && let Ok(response) = exchange.cached_answer().await {
        return Err(Box::new(response));
    }
    match persist(exchange, purpose, (error, is_bodiless)).await {
        Ok(response) => Ok(response),
        Err(error) if error.failure == Failure::OverShare => {
            Err(Box::new(unknown(exchange, Some(&error), None).await))
        }
        Err(error) => Err(Box::new(offline(exchange, Some(&error)).await)),
    }
}

/// What the client gets when no answer comes: the cache's answer once no server answers its probe; if there
/// is none, a refusal once the cloud is known to be unreachable.
async fn instead(exchange: &Exchange) -> Response<Body> {
    let link = &exchange.proxy.link;
    link.silent().await;
    if let Ok(response) = exchange.cached_answer().await {
        return response;
    }
    link.reaches(LinkState::Offline).await;
    offline(exchange, None).await
}

/// A read that failed, and that the cache cannot answer, waits for the verdict of the probe. If the cloud is
/// reachable and no connection was made, it is sent again: on a bad link one of the next attempts succeeds.
/// When the queue of a narrow link is full, several in a row may be lost while others get through.
async fn persist(
    exchange: &Exchange,
    purpose: Purpose,
    (mut error, is_bodiless): (UpstreamError, bool),
) -> Result<Response<Body>, UpstreamError> {
    let deadline = clock::now() + CONNECTING;
    loop {
        if error.failure == Failure::OverShare || exchange.proxy.link.verdict().await == LinkState::Offline {
            return Err(error);
        }
        let is_worth_it = error.failure == Failure::Connect && error.sent == Sent::No && is_bodiless;
        if !is_worth_it || clock::now() >= deadline {
            return Err(error);
        }
        let policy = exchange
            .callers(RetryPolicy::read(purpose))
            .for_answers(exchange.answers());
        match exchange.send(exchange.request(body::empty()), &policy).await {
            Ok(response) => return Ok(response),
            Err(next) => error = next,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// The cache's answer to a read, or 503.
async fn offline(exchange: &Exchange, error: Option<&UpstreamError>) -> Response<Body> {
    match exchange.cached_answer().await {
        Ok(response) => response,
        Err(missing) => unknown(exchange, error, missing).await,
    }
}

/// Followed logs and the like: no time limit, no cache, no retry.
pub(super) async fn stream(exchange: Exchange, body: Incoming) -> Response<Body> {
    if exchange.proxy.link.state() == LinkState::Offline {
        return exchange.refuse(&away(&exchange));
    }
    let request = exchange.request(body::incoming(body));
    let policy = exchange.callers(RetryPolicy::once(Purpose::Watch));
    let sent = match exchange.upstream() {
        Ok(transport) => {
            let _under_way = exchange.on_the_way.under_way();
            transport.send(request, &policy).await
        }
        Err(error) => Err(error),
    };
    match sent {
        Ok(response) => exchange.passed_on(response).await,
        Err(error) => {
            exchange.failed(&error);
            exchange.refuse(&unanswered(&exchange, &error))
        }
    }
}
