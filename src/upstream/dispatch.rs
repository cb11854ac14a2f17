//! Sends one request: which server has it, which others may get it, and when it moves on.
//!
//! Invariant: what may have been sent is sent again only if it is a read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};

use crate::runtime::author::{Vouched, is_from_apiserver};
use crate::runtime::body::{self, Body};

use super::clientele::Clientele;
use super::connection::SendFailed;
use super::error::UpstreamError;
use super::failure::Failure;
use super::gateway::{Answers, from_apiserver, in_its_place, is_anothers, is_down, is_encoded};
use super::health::Event;
use super::link_state::LinkState;
use super::pool::Pool;
use super::retry::{Idempotency, RetryPolicy};
use super::server::Server;
use super::settings::Trust;

/// The connections of a transport to one server.
#[derive(Clone)]
pub(super) struct Member {
    pub(super) server: Arc<Server>,
    pub(super) pool: Arc<Pool>,
}

impl Member {
    /// A request to this server failed.
    pub(super) fn failed(&self, error: &UpstreamError) {
        self.server.failed_with(self.pool.clientele(), error);
    }
}

/// What holds for every request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// How long a read may wait for its answer before its server is probed, if another one could give it.
    pub(super) patience: Duration,
    /// Which answers count as an apiserver's.
    pub(super) trust: Trust,
}

/// Sends a request to the members in order, until one answers.
pub(super) async fn send(
    members: &[Member],
    request: Request<Body>,
    policy: &RetryPolicy,
    terms: Terms,
) -> Result<Response<Body>, UpstreamError> {
    let copy = (policy.idempotency == Idempotency::Idempotent).then(|| Head::of(&request));
    let mut next = Some(request);
    let mut last = Err(UpstreamError::unsent(Failure::Connect, "no server is configured"));
    for (i, member) in members.iter().enumerate() {
        let Some(request) = next.take().or_else(|| copy.as_ref().map(Head::request)) else {
            break;
        };
        let others = members.get(i + 1..).is_some_and(|rest| !rest.is_empty());
        let patience = (others && copy.is_some()).then_some(terms.patience);
        let tried = attempt(member, request, copy.as_ref(), policy, patience).await;
        match tried {
            Ok(mut response) if !is_anothers(&response, policy.answers) => {
                look_for_audit(&member.server, &mut response, policy.answers, terms.trust);
                assess(member, &response, policy);
                return Ok(response);
            }
            Ok(response) => {
                member.failed(&in_its_place(response.status()));
                if copy.is_none() || !others {
                    return Ok(response);
                }
                last = Ok(response);
            }
            // Another server is not there to double a caller's share.
            Err(SendFailed { error, .. }) if error.failure == Failure::OverShare => {
                member.failed(&error);
                return Err(error);
            }
            Err(SendFailed { error, unsent }) => {
                member.failed(&error);
                tracing::debug!(server = %member.server, %error, others, "a request was not answered");
                // A gateway's answer says more than that nobody answered.
                if last.is_err() {
                    last = Err(error);
                }
                next = unsent;
                if next.is_none() && copy.is_none() {
                    break;
                }
            }
        }
        if others {
            member.pool.metrics().moved_on(member.server.name());
        }
    }
    last
}

/// Whether an answer of the API carries `Audit-Id`. Without it, it counts as an apiserver's only if what is on the way is
/// trusted; else somebody is to know that nothing is kept of such answers.
fn look_for_audit(server: &Server, response: &mut Response<Body>, answers: Answers, trust: Trust) {
    if from_apiserver(response.headers()) {
        server.is_audited();
        return;
    }
    let status = response.status();
    let is_like_one = is_encoded(response.headers()) || status == StatusCode::NOT_MODIFIED;
    if answers == Answers::Anyhow || !is_like_one {
        return;
    }
    match trust {
        Trust::Gateway => {
            response.extensions_mut().insert(Vouched);
        }
        Trust::Audited if status.is_success() => server.is_unaudited(),
        Trust::Audited => {}
    }
}

/// Tells a server what its answer says of it. Of failures only those of reads count: what a write comes to may be the fault
/// of what it says, or of a webhook. An answer to a stranger says that there is one.
fn assess(member: &Member, response: &Response<Body>, policy: &RetryPolicy) {
    let (server, status) = (&member.server, response.status());
    if member.pool.clientele() == Clientele::Strangers {
        if is_from_apiserver(response.headers(), response.extensions()) {
            server.reached();
        }
        return;
    }
    let is_busy = status == StatusCode::TOO_MANY_REQUESTS;
    let is_own = policy.answers == Answers::Encoded && policy.idempotency == Idempotency::Idempotent;
    let is_failure = status == StatusCode::INTERNAL_SERVER_ERROR || is_down(status);
    let is_refusal = is_busy || (is_own && is_failure);
    if is_from_apiserver(response.headers(), response.extensions()) {
        if status.is_server_error() || is_refusal {
            server.reached();
        } else {
            server.served();
        }
    }
    if is_refusal {
        server.refused();
    }
    if (is_busy || status == StatusCode::SERVICE_UNAVAILABLE)
        && let Some(pause) = retry_after(response.headers())
    {
        server.is_to_rest(pause);
    }
}

/// `Retry-After` in seconds, the form that apiservers use.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.parse().ok().map(Duration::from_secs)
}

/// Sends a request to one server. A read that another server could answer waits only for as long as this one is worth
/// it: with `patience`, after which the server is probed.
async fn attempt(
    member: &Member,
    request: Request<Body>,
    copy: Option<&Head>,
    policy: &RetryPolicy,
    patience: Option<Duration>,
) -> Result<Response<Body>, SendFailed> {
    let server = &member.server;
    let mut sending = std::pin::pin!(again(&member.pool, request, copy, policy));
    let patience = patience.filter(|_| server.status().state == LinkState::Online);
    let Some(patience) = patience else {
        return sending.await;
    };
    let slow = async {
        let slow = loop {
            tokio::time::sleep(patience).await;
            if let Some(server) = policy.server() {
                break server;
            }
        };
        slow.signal(Event::Slow);
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        sent = sending.as_mut() => sent,
        never = slow => match never {},
        () = server.given_up() => {
            let message = format!("{server} does not answer its probe either");
            Err(SendFailed {
                error: UpstreamError::maybe_sent(Failure::Timeout, message),
                unsent: None,
            })
        }
    }
}

/// Sends a request; a read whose connection broke under it, or has gone silent, once more, on another connection, and a
/// stranger's several times.
async fn again(
    pool: &Pool,
    request: Request<Body>,
    copy: Option<&Head>,
    policy: &RetryPolicy,
) -> Result<Response<Body>, SendFailed> {
    let (mut request, mut left) = (request, pool.clientele().repeats());
    loop {
        let copy = copy.filter(|_| left > 0);
        let idempotency = copy.map_or(Idempotency::NotIdempotent, |_| Idempotency::Idempotent);
        match (pool.send(request, policy, idempotency).await, copy) {
            (Err(SendFailed { error, .. }), Some(copy))
                if matches!(error.failure, Failure::Broken | Failure::Silent) =>
            {
                left -= 1;
                request = copy.request();
            }
            (sent, _) => return sent,
        }
    }
}

/// A request without body, to be sent again.
struct Head {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
}

impl Head {
    fn of(request: &Request<Body>) -> Self {
        Self {
            method: request.method().clone(),
            uri: request.uri().clone(),
            headers: request.headers().clone(),
        }
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::new(body::empty());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}
