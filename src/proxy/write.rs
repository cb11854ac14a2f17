//! Writes: sent once, or refused. None is retried, queued, or answered by anything but upstream, except those
//! that change nothing (`replies.rs`).

use http::Response;
use hyper::body::Incoming;

use crate::cache::{Ask, Write, refresh_after_write};
use crate::identity::Principal;
use crate::kube::request::RequestInfo;
use crate::kube::status::Status;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::Body;
use crate::upstream::error::Sent;
use crate::upstream::{Failure, LinkState, Purpose, RetryPolicy};

use super::exchange::Exchange;
use super::headers::strip_response;
use super::refuse::{gateway_answered, no_credentials, no_room, not_written, unknown};
use super::replies;
use super::upload::{self, stood_still};

/// A write: upstream's answer, or an honest failure. If no good answer comes to one that changes nothing, the
/// client gets the cloud's earlier reply.
pub(super) async fn handle(exchange: Exchange, body: Incoming) -> Response<Body> {
    let (ask, body) = match replies::read(&exchange, body).await {
        Ok(read) => read,
        Err(status) => return exchange.refuse(&status),
    };
    // Rare and large: it must not take room in every write.
    let again = || Box::pin(replies::answer(&exchange, ask.as_ref()));
    if exchange.proxy.link.state() == LinkState::Offline {
        return again()
            .await
            .unwrap_or_else(|| exchange.refuse(&not_written(&exchange)));
    }
    let refresh = refresh(&exchange, exchange.caller.principal());
    let body = match &refresh {
        Some(refresh) => refresh.sends(body),
        None => body,
    };
    let sent = tokio::select! {
        biased;
        sent = Box::pin(sent_once(&exchange, body)) => sent,
        again = Box::pin(said_before(&exchange, ask.as_ref())) => return again,
    };
    let response = match sent {
        Ok(response) => response,
        Err(refused) => return again().await.unwrap_or_else(|| exchange.refuse(&refused)),
    };
    let (mut head, body) = response.into_parts();
    exchange.noted(&head).await;
    let is_foreign = exchange.is_foreign(head.status, &head.headers);
    let is_down =
        matches!(head.status.as_u16(), 502..=504) && !is_from_apiserver(&head.headers, &head.extensions);
    if (is_foreign || is_down)
        && let Some(again) = again().await
    {
        return again;
    }
    if is_foreign {
        let error = gateway_answered(head.status);
        exchange.failed(&error);
        return Box::pin(unknown(&exchange, Some(&error), None)).await;
    }
    let late = || {
        let principal = exchange.caller.accepted_as(&exchange.proxy);
        Some(self::refresh(&exchange, principal.as_ref())?.late())
    };
    let body = match refresh.or_else(late) {
        Some(refresh) => refresh.answered(&exchange.head.method, &head, body),
        None => body,
    };
    let body = match replies::record(&exchange, ask) {
        Some(kept) => kept.answered(&head, body),
        None => body,
    };
    strip_response(&mut head.headers);
    Response::from_parts(head, body)
}

/// The cloud's earlier reply to a request that changes nothing, once no server answers its probe. Never
/// resolves for other writes.
async fn said_before(exchange: &Exchange, ask: Option<&Ask>) -> Response<Body> {
    if ask.is_some() {
        exchange.proxy.link.silent().await;
        if let Some(again) = replies::answer(exchange, ask).await {
            return again;
        }
    }
    std::future::pending().await
}

/// Prepares what the answer will change in the cached object.
fn refresh(exchange: &Exchange, principal: Option<&Principal>) -> Option<Write> {
    let (RequestInfo::Resource(resource), Some(principal)) = (&exchange.info, principal) else {
        return None;
    };
    let head = &exchange.head;
    refresh_after_write(
        &exchange.proxy.cache,
        principal.key(),
        resource,
        &head.uri,
        &head.headers,
    )
}

/// Sends a write, or tells why there is no answer.
async fn sent_once(exchange: &Exchange, body: Body) -> Result<Response<Body>, Status> {
    let (body, standstill) = upload::watched(body, exchange.write_timeout);
    let policy = exchange
        .callers(RetryPolicy::once(Purpose::Short))
        .for_answers(exchange.answers());
    let sending = async {
        let transport = exchange.upstream()?;
        let _under_way = exchange.on_the_way.under_way();
        transport.send(exchange.request(body), &policy).await
    };
    let sent = tokio::select! {
        sent = sending => sent,
        never = exchange.probing(&policy) => match never {},
        culprit = standstill.lasts() => return Err(stood_still(culprit, &policy)),
    };
    sent.map_err(|error| {
        exchange.failed(&error);
        match (error.failure, error.sent) {
            (Failure::NoCredentials, _) => no_credentials(exchange),
            (failure, Sent::No) => no_room(failure).unwrap_or_else(|| not_written(exchange)),
            (_, Sent::Maybe) => Status::timeout(
                "edgehold: the connection to the cloud broke; the request may have been carried out",
            ),
        }
    })
}
