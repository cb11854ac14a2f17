//! What is done to get one request answered: which server has it, which others may get it, and when it moves on.
//!
//! Invariant: what may have been sent is sent again only if it is a read.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Extensions, HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::runtime::author::{Vouched, is_from_apiserver};
use crate::runtime::body::{self, Body};

use super::Purpose;
use super::cause::Cause;
use super::clientele::Clientele;
use super::error::{Failure, UpstreamError};
use super::health::Event;
use super::link::LinkState;
use super::pool::{Pool, SendFailed};
use super::server::Server;
use super::settings::Trust;
use super::transport::Member;

/// Whether a request may be sent again after it may have been received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing.
    Harmless,
    /// Only what certainly was not sent goes to another server.
    Never,
}

/// In which form apiservers answer a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    /// In the encodings of the Kubernetes API.
    Encoded,
    /// In these, but perhaps those of another server that stands behind an apiserver.
    Relayed,
    /// In any: logs, health, and whatever is behind it.
    Anyhow,
}

/// The effort for one request: what it may use, and the server that has it.
#[derive(Debug)]
pub struct Effort {
    purpose: Purpose,
    repeat: Repeat,
    answers: Answers,
    holder: Option<String>,
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
            answers: Answers::Anyhow,
            holder: None,
            server: Mutex::new(None),
        }
    }

    /// The same for a request that apiservers answer so: what answers in another form counts as a failed gateway.
    #[must_use]
    pub fn for_answers(self, answers: Answers) -> Self {
        Self { answers, ..self }
    }

    /// The same for one of several callers that share a transport: it leaves the others theirs.
    #[must_use]
    pub fn on_behalf_of(self, holder: Option<String>) -> Self {
        Self { holder, ..self }
    }

    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// Who has only a share of the connections.
    pub(super) fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    /// Whoever waits for the answer has waited as long as it should take: the server that has the request is probed. One that
    /// has not got it yet, because others are being connected first, is not to blame.
    pub fn timed_out(&self) {
        if let Some(server) = self.server() {
            server.is_slow();
        }
    }

    /// The server that has the request.
    fn server(&self) -> Option<Arc<Server>> {
        self.server.lock().clone()
    }

    /// It has a connection to this server, or is about to get one; `None`: it waits for its turn to be connected.
    pub(super) fn is_with(&self, server: Option<&Arc<Server>>) {
        *self.server.lock() = server.map(Arc::clone);
    }
}

/// In the extensions of every answer: where it came from, and whether it should still come from there.
#[derive(Debug, Clone)]
pub struct Origin {
    server: Arc<Server>,
    clientele: Clientele,
    drained: CancellationToken,
}

impl Origin {
    pub(super) fn new(server: &Arc<Server>, clientele: Clientele, drained: CancellationToken) -> Self {
        Self {
            server: Arc::clone(server),
            clientele,
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
        self.server.failed_for(self.clientele, Failure::Broken);
    }
}

/// What holds for every effort.
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
    effort: &Effort,
    terms: Terms,
) -> Result<Response<Body>, UpstreamError> {
    let copy = (effort.repeat == Repeat::Harmless).then(|| Head::of(&request));
    let mut next = Some(request);
    let mut last = Err(UpstreamError::unsent(Failure::Connect, "no server is configured"));
    for (i, member) in members.iter().enumerate() {
        let Some(request) = next.take().or_else(|| copy.as_ref().map(Head::request)) else {
            break;
        };
        let others = members.get(i + 1..).is_some_and(|rest| !rest.is_empty());
        let patience = (others && copy.is_some()).then_some(terms.patience);
        let tried = attempt(member, request, copy.as_ref(), effort, patience).await;
        match tried {
            Ok(mut response) if !is_anothers(&response, effort.answers) => {
                look_for_audit(&member.server, &mut response, effort.answers, terms.trust);
                assess(member, &response, effort);
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
fn assess(member: &Member, response: &Response<Body>, effort: &Effort) {
    let (server, status) = (&member.server, response.status());
    if member.pool.clientele() == Clientele::Strangers {
        if is_from_apiserver(response.headers(), response.extensions()) {
            server.reached();
        }
        return;
    }
    let is_busy = status == StatusCode::TOO_MANY_REQUESTS;
    let is_own = effort.answers == Answers::Encoded && effort.repeat == Repeat::Harmless;
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
    effort: &Effort,
    patience: Option<Duration>,
) -> Result<Response<Body>, SendFailed> {
    let server = &member.server;
    let mut sending = std::pin::pin!(again(&member.pool, request, copy, effort));
    let patience = patience.filter(|_| server.standing().state == LinkState::Online);
    let Some(patience) = patience else {
        return sending.await;
    };
    let slow = async {
        let slow = loop {
            tokio::time::sleep(patience).await;
            if let Some(server) = effort.server() {
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
    effort: &Effort,
) -> Result<Response<Body>, SendFailed> {
    let (mut request, mut left) = (request, pool.clientele().repeats());
    loop {
        let copy = copy.filter(|_| left > 0);
        let repeat = copy.map_or(Repeat::Never, |_| Repeat::Harmless);
        match (pool.send(request, effort, repeat).await, copy) {
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

/// Something on the way answered with this status.
pub(super) fn in_its_place(status: StatusCode) -> UpstreamError {
    let message = format!("something on the way, and no apiserver, answered {status}");
    UpstreamError::maybe_sent(Failure::Gateway, message).because(Cause::Gateway(Some(status.as_u16())))
}

/// Whether an answer itself says that an apiserver gave it.
pub(super) fn from_apiserver(headers: &HeaderMap) -> bool {
    is_from_apiserver(headers, &Extensions::new())
}

/// Something on the way answers in the apiserver's place.
fn is_anothers(response: &Response<Body>, answers: Answers) -> bool {
    is_gateways(response) || is_foreign(answers, response.status(), response.headers())
}

/// Whether an answer that says something about what was asked for comes from something on the way: a portal's page, a
/// redirect to a login. It has neither an apiserver's `Audit-Id` nor one of the API's encodings. A gateway may strip
/// the former, so that alone proves nothing; and what says only that something is too large, too much or broken is
/// told apart by its status.
pub fn is_foreign(answers: Answers, status: StatusCode, headers: &HeaderMap) -> bool {
    if answers == Answers::Anyhow || from_apiserver(headers) {
        return false;
    }
    match status {
        StatusCode::NOT_MODIFIED => false,
        status if is_of_the_way(status) => true,
        // kube-apiserver's own for a path that it does not serve is plain text.
        StatusCode::NOT_FOUND => is_page(headers),
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::GONE => !is_encoded(headers),
        _ => (status.is_success() || status.is_redirection()) && !is_encoded(headers),
    }
}

/// Whether the body is in one of the API's encodings.
fn is_encoded(headers: &HeaderMap) -> bool {
    let media_type = media_type(headers);
    media_type.starts_with("application/")
        && ["json", "yaml", "protobuf", "cbor"]
            .iter()
            .any(|encoding| media_type.contains(encoding))
}

/// Whether the body is a page for people.
pub(super) fn is_page(headers: &HeaderMap) -> bool {
    media_type(headers).starts_with("text/html")
}

fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE);
    let value = value.and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.to_ascii_lowercase()
}

/// Something on the way says that the apiserver does not answer.
pub(super) fn is_gateways<B>(response: &Response<B>) -> bool {
    is_down(response.status()) && !from_apiserver(response.headers())
}

/// What no server says of itself: 1xx that nobody asked for, 407 of a proxy, 511 of a portal (RFC 6585, section 6), and 520 to 530, by which
/// Cloudflare's gateways say 502 and 504.
pub(super) fn is_of_the_way(status: StatusCode) -> bool {
    matches!(status.as_u16(), 100..=199 | 407 | 511 | 520..=530)
}

/// What a gateway says when the apiserver does not answer.
pub(super) fn is_down(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(content_type: &str, audit: bool) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if !content_type.is_empty() {
            headers.insert(header::CONTENT_TYPE, content_type.parse().unwrap());
        }
        if audit {
            headers.insert("audit-id", "1".parse().unwrap());
        }
        headers
    }

    fn foreign(status: u16, content_type: &str) -> bool {
        let status = StatusCode::from_u16(status).unwrap();
        let audited = is_foreign(Answers::Encoded, status, &headers(content_type, true));
        let anyhow = is_foreign(Answers::Anyhow, status, &headers(content_type, false));
        assert!(!audited && !anyhow, "{status} {content_type}");
        is_foreign(Answers::Encoded, status, &headers(content_type, false))
    }

    #[test]
    fn only_what_speaks_of_the_thing_asked_for_in_no_encoding_of_the_api_is_foreign() {
        for status in [200, 201, 204, 301, 302, 307, 401, 403, 404, 410] {
            assert!(foreign(status, "text/html; charset=utf-8"), "{status}");
            for encoded in [
                "application/json",
                "application/json;stream=watch",
                "Application/JSON;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                "application/vnd.kubernetes.protobuf;stream=watch",
                "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
                "application/jwk-set+json",
                "application/yaml",
                "application/cbor-seq",
            ] {
                assert!(!foreign(status, encoded), "{status} {encoded}");
            }
        }
        for (status, content_type, expected) in [
            (200, "", true),
            (200, "text/plain", true),
            (302, "", true),
            (403, "text/plain", true),
            (404, "text/plain; charset=utf-8", false),
            (404, "", false),
            (304, "", false),
            (413, "text/html", false),
            (429, "text/html", false),
            (500, "text/html", false),
            (503, "text/html", false),
        ] {
            assert_eq!(
                foreign(status, content_type),
                expected,
                "{status} {content_type:?}"
            );
        }
    }
}
