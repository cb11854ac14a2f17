//! Writes: sent once, or refused. None is repeated, queued, or answered from anything but upstream, except those that change
//! nothing (`repeat.rs`).

use http::Response;
use hyper::body::Incoming;

use crate::cache::refresh_after_write;
use crate::kube::request::RequestInfo;
use crate::kube::status::Status;
use crate::runtime::body::Body;
use crate::upstream::error::Sent;
use crate::upstream::{Effort, Failure, LinkState, Purpose};

use super::exchange::Exchange;
use super::forward::{no_credentials, stood_still};
use super::headers::strip_response;
use super::{repeat, upload};

/// A write: upstream's answer or an honest failure.
pub(super) async fn handle(exchange: Exchange, body: Incoming) -> Response<Body> {
    let (ask, body) = match repeat::read(&exchange, body).await {
        Ok(read) => read,
        Err(status) => return exchange.refuse(&status),
    };
    if exchange.proxy.link.state() == LinkState::Offline {
        // No write is answered here but one that changes nothing, with what the cloud answered to it before.
        let again = repeat::answer(&exchange, ask.as_ref()).await;
        return again.unwrap_or_else(|| exchange.refuse(&write_refused()));
    }
    let kept = repeat::record(&exchange, ask);
    let refresh = match (&exchange.info, exchange.caller.recorded_as(&exchange.proxy)) {
        (RequestInfo::Resource(resource), Some(principal)) => refresh_after_write(
            &exchange.proxy.cache,
            principal.key(),
            resource,
            exchange.head.uri.path(),
            &exchange.head.headers,
        ),
        _ => None,
    };
    match Box::pin(sent_once(&exchange, body)).await {
        Err(refused) => exchange.refuse(&refused),
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            exchange.noted(&head);
            let body = match refresh {
                Some(refresh) => refresh.answered(&exchange.head.method, &head, body),
                None => body,
            };
            let body = match kept {
                Some(kept) => kept.answered(&head, body),
                None => body,
            };
            strip_response(&mut head.headers);
            Response::from_parts(head, body)
        }
    }
}

/// Sends a write, or says why there is no answer to it.
async fn sent_once(exchange: &Exchange, body: Body) -> Result<Response<Body>, Status> {
    let (body, standstill) = upload::watched(body, exchange.patience);
    let effort = Effort::once(Purpose::Short);
    let sending = exchange.caller.transport.send(exchange.request(body), &effort);
    let sent = tokio::select! {
        sent = sending => sent,
        culprit = standstill.lasts() => return Err(stood_still(culprit, &effort)),
    };
    sent.map_err(|error| {
        exchange.failed(&error);
        match (error.failure, error.sent) {
            (Failure::NoCredentials, _) => no_credentials(exchange),
            (_, Sent::No) => write_refused(),
            (_, Sent::Maybe) => Status::timeout(
                "edgehold: the connection to the cloud broke; the request may have been carried out",
            ),
        }
    })
}

fn write_refused() -> Status {
    Status::unavailable("edgehold: the cloud cannot be reached, nothing was changed")
}
