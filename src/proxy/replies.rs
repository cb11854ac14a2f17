//! The writes that may be answered from earlier replies while no good answer comes from the cloud: requests
//! for a pod's token, and reviews. They change nothing; `cache/replies.rs` has the rules.

use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use http::Response;

use crate::cache::{Ask, LARGEST_ASKED, ReplyRecording, may_be_asked_again};
use crate::identity::PrincipalKind;
use crate::kube::request::RequestInfo;
use crate::kube::status::Status;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;

use super::exchange::Exchange;
use super::respond::cached;
use super::upload;

/// Reads the body of a request that may be one of these, and returns it; any other body is returned unread.
///
/// # Errors
/// The refusal for a client whose body breaks off or stalls.
pub(super) async fn read(exchange: &Exchange, body: Incoming) -> Result<(Option<Ask>, Body), Status> {
    let RequestInfo::Resource(resource) = &exchange.info else {
        return Ok((None, body::incoming(body)));
    };
    let uri = &exchange.head.uri;
    // kubelet always sends a length, and a body without one might never end.
    let is_small = body.size_hint().exact().is_some_and(|size| size <= LARGEST_ASKED);
    if !is_small || !may_be_asked_again(resource, uri.path()) {
        return Ok((None, body::incoming(body)));
    }
    let limited = Limited::new(body, usize::try_from(LARGEST_ASKED).unwrap_or(usize::MAX));
    let collected =
        tokio::time::timeout(upload::body_timeout(exchange.write_timeout), limited.collect()).await;
    let Ok(Ok(whole)) = collected else {
        return Err(Status::bad_request("edgehold: the request was cut short"));
    };
    let bytes = whole.to_bytes();
    let ask = Ask::read(resource, uri.path(), uri.query(), &exchange.head.headers, &bytes);
    Ok((ask, body::full(bytes)))
}

/// What the cloud replied to the same request of the same caller.
pub(super) async fn answer(exchange: &Exchange, ask: Option<&Ask>) -> Option<Response<Body>> {
    let principal = exchange.caller.answered_as(&exchange.proxy).await?;
    let now = exchange.proxy.time.floored(clock::wall());
    let found = exchange.proxy.cache.reply(principal.key(), ask?, now).await?;
    Some(cached(
        found,
        &exchange.form,
        exchange.instead(),
        &exchange.proxy.link,
    ))
}

/// Records the reply, unless the caller is anonymous.
pub(super) fn record(exchange: &Exchange, ask: Option<Ask>) -> Option<ReplyRecording> {
    let principal = exchange.caller.accepted_as(&exchange.proxy)?;
    if *principal.kind() == PrincipalKind::Anonymous {
        return None;
    }
    exchange.proxy.cache.record_reply(principal.key(), ask?)
}
