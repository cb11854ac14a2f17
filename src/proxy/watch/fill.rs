//! A view that stands before the position from which its client watches on: edgehold was killed, or its disk too slow. From the
//! client's position alone the view could never be carried on, and would grow older until the client happens to list again.
//!
//! So upstream is asked for the watch from the view's version on. The view takes every event; the client gets those
//! after its own position, which is what it would have got. If upstream has forgotten that version, the watch is
//! opened as it was asked for, and the view stays as it is.

use std::ops::ControlFlow;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Response, StatusCode, header};
use tokio::time::Instant;

use crate::cache::Query;
use crate::kube::media::Encoding;
use crate::kube::version::ResourceVersion;
use crate::runtime::body::{self, Body};
use crate::upstream::{Effort, Purpose};
use crate::wire::watch::WatchEvent;

use super::super::exchange::Exchange;
use super::super::headers::strip_response;
use super::opened;
use super::pump::Live;
use super::target::moved;

/// How long the view is waited for: the client's stream comes first.
const PATIENCE: Duration = Duration::from_millis(100);

/// Where the view of this watch stands, if that is before the watch's own position.
pub(super) async fn start(exchange: &Exchange, query: Option<&Query>) -> Option<ResourceVersion> {
    let behind = exchange.proxy.cache.behind(query?);
    tokio::time::timeout(PATIENCE, behind).await.ok().flatten()
}

/// The watch from where its view stands. `Continue`: nothing is to be filled, or it cannot be.
pub(super) async fn live(exchange: Exchange, began: Instant) -> ControlFlow<Response<Body>, Exchange> {
    let Some((target, until)) = plan(&exchange).await else {
        return ControlFlow::Continue(exchange);
    };
    let query = exchange.recorded_query_for(&target);
    let cache = &exchange.proxy.cache;
    let recording = query.as_ref().and_then(|query| cache.record_watch(query));
    let (transport, effort) = (&exchange.caller.transport, Effort::read(Purpose::Watch));
    let sending = transport.send(exchange.request_for(Some(target), body::empty()), &effort);
    let response = match tokio::time::timeout(transport.response_timeout(), sending).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => return ControlFlow::Continue(exchange),
        Err(_) => {
            effort.timed_out();
            return ControlFlow::Continue(exchange);
        }
    };
    let (mut head, body) = response.into_parts();
    let content_type = head.headers.get(header::CONTENT_TYPE);
    let content_type = content_type
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let encoding = Encoding::of_content_type(content_type).filter(|e| *e != Encoding::Yaml);
    let plain = !head.headers.contains_key(header::CONTENT_ENCODING);
    let (StatusCode::OK, Some(encoding), true) = (head.status, encoding, plain) else {
        return ControlFlow::Continue(exchange);
    };
    let recording = query.and_then(|query| cache.confirm_watch(&query, recording, content_type));
    exchange.noted(&head);
    strip_response(&mut head.headers);
    let live = Live {
        body,
        recording,
        origin: head.extensions.remove(),
        until: Some(until),
    };
    ControlFlow::Break(opened(exchange, head, encoding, live, began))
}

/// The watch's target from the view's version on, and the client's own position.
async fn plan(exchange: &Exchange) -> Option<(PathAndQuery, ResourceVersion)> {
    if exchange.head.method != Method::GET {
        return None;
    }
    let query = exchange.recorded_query()?;
    let from = start(exchange, Some(&query)).await?;
    let original = exchange.head.uri.path_and_query()?;
    let (target, until) = moved(original, &from)?;
    tracing::debug!(
        ?from,
        ?until,
        "a view is behind the client's watch, which is opened from there"
    );
    Some((target, until))
}

/// What an event is to a client that stands at `until`, while events from before are still coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// It knows this already.
    Before,
    /// This is new, and so is everything that follows.
    After,
    /// What is between is not to be had.
    Forgotten,
}

/// Compares an event with the position that the client has reached.
pub(super) fn seen(event: &WatchEvent<'_>, until: &ResourceVersion) -> Seen {
    let version = match event {
        WatchEvent::Item { object, .. } => &object.meta.resource_version,
        WatchEvent::Bookmark(bookmark) => &bookmark.resource_version,
        WatchEvent::Opaque { resource_version, .. } => resource_version,
        WatchEvent::Blank => return Seen::Before,
        WatchEvent::Error(_) => return Seen::Forgotten,
    };
    match ResourceVersion::new(version) {
        Some(version) if !version.is_after(until) => Seen::Before,
        _ => Seen::After,
    }
}
