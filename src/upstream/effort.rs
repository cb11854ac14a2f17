//! What is done to get one request answered: which server has it, which others may get it, and when it moves on.
//!
//! Invariant: what may have been sent is sent again only if it is a read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::runtime::body::{self, Body};

use super::Purpose;
use super::error::{Failure, UpstreamError};
use super::health::Event;
use super::link::LinkState;
use super::pool::{Pool, SendFailed};
use super::server::Server;
use super::transport::Member;

/// Whether a request may be sent again after it may have been received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing.
    Harmless,
    /// Only what certainly was not sent goes to another server.
    Never,
}

/// The effort for one request: what it may use, and the server that has it.
#[derive(Debug)]
pub struct Effort {
    purpose: Purpose,
    repeat: Repeat,
    server: Mutex<Option<Arc<Server>>>,
}

impl Effort {
    /// For a request that changes nothing and has no body: a broken connection, a failed server or a gateway's
    /// refusal makes it go on to the next one.
    pub fn read(purpose: Purpose) -> Self {
        Self::of(purpose, Repeat::Harmless)
    }

    /// For a request that must not be carried out twice, or whose body cannot be read twice.
    pub fn once(purpose: Purpose) -> Self {
        Self::of(purpose, Repeat::Never)
    }

    fn of(purpose: Purpose, repeat: Repeat) -> Self {
        Self {
            purpose,
            repeat,
            server: Mutex::new(None),
        }
    }

    /// Whoever waits for the answer has waited as long as it should take: the server that has the request is suspected.
    pub fn timed_out(&self) {
        let server = self.server.lock().clone();
        if let Some(server) = server {
            server.failed(Failure::Timeout);
        }
    }

    fn is_with(&self, server: &Arc<Server>) {
        *self.server.lock() = Some(Arc::clone(server));
    }
}

/// In the extensions of every answer: where it came from, and whether it should still come from there.
#[derive(Debug, Clone)]
pub struct Origin {
    server: Arc<Server>,
    drained: CancellationToken,
}

impl Origin {
    pub(super) fn new(server: &Arc<Server>, drained: CancellationToken) -> Self {
        Self {
            server: Arc::clone(server),
            drained,
        }
    }

    /// Resolves when the identity by which it came has been replaced, or another server should be used: long-lived
    /// streams should move over.
    pub async fn left(&self) {
        self.drained.cancelled().await;
    }

    /// The stream broke in the middle.
    pub fn broke(&self) {
        self.server.failed(Failure::Broken);
    }
}

/// Sends a request to the members in order, until one answers.
pub(super) async fn send(
    members: &[Member],
    request: Request<Body>,
    effort: &Effort,
    patience: Duration,
) -> Result<Response<Body>, UpstreamError> {
    let copy = (effort.repeat == Repeat::Harmless).then(|| Head::of(&request));
    let mut next = Some(request);
    let mut last = Err(UpstreamError::unsent(Failure::Connect, "no server is configured"));
    for (i, member) in members.iter().enumerate() {
        let Some(request) = next.take().or_else(|| copy.as_ref().map(Head::request)) else {
            break;
        };
        effort.is_with(&member.server);
        let others = members.get(i + 1..).is_some_and(|rest| !rest.is_empty());
        let patience = (others && copy.is_some()).then_some(patience);
        let tried = attempt(member, request, copy.as_ref(), effort.purpose, patience).await;
        match tried {
            Ok(response) if !is_gateways(&response) => {
                if from_apiserver(response.headers()) {
                    member.server.reached();
                }
                return Ok(response);
            }
            Ok(response) => {
                member.server.failed(Failure::Gateway);
                if copy.is_none() || !others {
                    return Ok(response);
                }
                last = Ok(response);
            }
            Err(SendFailed { error, unsent }) => {
                member.server.failed(error.failure);
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

/// Sends a request to one server. A read that another server could answer waits only for as long as this one is worth
/// it: with `patience`, after which the server is probed.
async fn attempt(
    member: &Member,
    request: Request<Body>,
    copy: Option<&Head>,
    purpose: Purpose,
    patience: Option<Duration>,
) -> Result<Response<Body>, SendFailed> {
    let server = &member.server;
    let mut sending = std::pin::pin!(twice(&member.pool, request, copy, purpose));
    let patience = patience.filter(|_| server.standing().state == LinkState::Online);
    let Some(patience) = patience else {
        return sending.await;
    };
    let slow = async {
        tokio::time::sleep(patience).await;
        server.signal(Event::Slow);
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

/// Sends a request; a read whose connection broke under it, or has gone silent, once more, on another connection.
async fn twice(
    pool: &Pool,
    request: Request<Body>,
    mut copy: Option<&Head>,
    purpose: Purpose,
) -> Result<Response<Body>, SendFailed> {
    let mut request = request;
    loop {
        let copy = copy.take();
        let repeat = copy.map_or(Repeat::Never, |_| Repeat::Harmless);
        match (pool.send(request, purpose, repeat).await, copy) {
            (Err(SendFailed { error, .. }), Some(copy))
                if matches!(error.failure, Failure::Broken | Failure::Silent) =>
            {
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

/// Only apiservers send `Audit-Id`: what comes without it was said by something on the way.
pub(super) fn from_apiserver(headers: &HeaderMap) -> bool {
    headers.contains_key("audit-id")
}

/// Something on the way says that the apiserver does not answer.
pub(super) fn is_gateways<B>(response: &Response<B>) -> bool {
    let down = matches!(
        response.status(),
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    );
    down && !from_apiserver(response.headers())
}
