//! Refusals: what a client is told when neither the cloud nor the cache has an answer.
//!
//! `respond.rs` writes them in the client's form.

use http::{Response, StatusCode};

use crate::kube::status::Status;
use crate::runtime::body::Body;
use crate::runtime::problem::coded;
use crate::upstream::error::Sent;
use crate::upstream::{Failure, UpstreamError};
use crate::view::offline::Missing;

use super::caller::Unfit;
use super::exchange::Exchange;
use super::limits::Over;
use super::miss::Miss;
use super::respond::{Instead, missed};

/// Refuses a read, and says why neither the cloud nor the cache has an answer.
pub(super) async fn unknown(
    exchange: &Exchange,
    error: Option<&UpstreamError>,
    missing: Option<Missing>,
) -> Response<Body> {
    let link = &exchange.proxy.link;
    let failed = error.and_then(|error| match error.failure {
        Failure::NoCredentials => Some(no_credentials(exchange)),
        Failure::Gateway => Some(Status::bad_gateway(format!("edgehold: {}", error.message))),
        failure => no_room(failure),
    });
    if let Some(status) = failed {
        return exchange.refuse(&status);
    }
    if exchange.instead() == Instead::Stale {
        let broke = link.with_reason("the connection to the cloud broke before an answer came");
        return exchange.refuse(&Status::unavailable(format!("edgehold: {broke}")));
    }
    let miss = Miss::of(exchange, missing).await;
    exchange.proxy.metrics.requests.missed(miss.as_str());
    let text = format!("edgehold: {}, and {miss}", link.away());
    let codes = link.code().into_iter().chain(miss.code());
    let response = exchange.refuse(&Status::unavailable(coded(&text, codes)));
    missed(response, miss.as_str())
}

/// Why a write was certainly not sent.
pub(super) fn not_written(exchange: &Exchange) -> Status {
    let link = &exchange.proxy.link;
    let text = format!("edgehold: {}, nothing was changed", link.away());
    Status::unavailable(coded(&text, link.code()))
}

/// Why there is no answer to a request that only the cloud can answer.
pub(super) fn unanswered(exchange: &Exchange, error: &UpstreamError) -> Status {
    match error.sent {
        Sent::No if error.failure == Failure::NoCredentials => no_credentials(exchange),
        Sent::No => no_room(error.failure).unwrap_or_else(|| away(exchange)),
        Sent::Maybe => Status::timeout("edgehold: the connection to the cloud broke"),
    }
}

/// That the cloud is unreachable, and why.
pub(super) fn away(exchange: &Exchange) -> Status {
    let link = &exchange.proxy.link;
    Status::unavailable(coded(&format!("edgehold: {}", link.away()), link.code()))
}

/// Refuses a request for which this node had no room.
pub(super) fn no_room(failure: Failure) -> Option<Status> {
    match failure {
        Failure::OverShare => Some(Status::too_many_requests(Over::Share.message())),
        Failure::Shortage => Some(Status::unavailable(
            "edgehold: this node has no descriptor, memory or port left for a connection, nothing was changed",
        )),
        _ => None,
    }
}

/// Refuses a request that must not go upstream now.
pub(super) fn no_credentials(exchange: &Exchange) -> Status {
    if let Err(Unfit(status)) = exchange.caller.may_go_upstream(&exchange.proxy) {
        return status;
    }
    Status::unavailable(format!(
        "edgehold: the certificate or upstream CA for {:?} is not loaded yet; `edgehold check` says why",
        exchange.caller.transport.name()
    ))
}

/// Something on the way gave an answer that only an apiserver can give.
pub(super) fn gateway_answered(status: StatusCode) -> UpstreamError {
    let status = status.as_u16();
    UpstreamError::maybe_sent(
        Failure::Gateway,
        format!("something on the way to the cloud, and no apiserver, answered this request with {status}"),
    )
}
