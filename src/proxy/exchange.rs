//! One request, and what every route does with it: asks the cache, sends it upstream, learns from the head of
//! the answer, and delivers the answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, request, response};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::cache::{Answer, Query, is_document};
use crate::identity::Principal;
use crate::kube::groups;
use crate::kube::local::is_served_by_apiserver;
use crate::kube::request::{Class, RequestInfo};
use crate::kube::status::Status;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::upstream::{
    Answers, Failure, LinkState, Pair, Purpose, RetryPolicy, Transport, UpstreamError, is_foreign,
};
use crate::view::offline::Missing;

use super::caller::{Caller, Identity};
use super::connection_drain::ConnectionDrain;
use super::context::Proxy;
use super::headers::strip_response;
use super::respond::{Form, FromCache, Instead, cached, refusal};
use super::tally::Upstream;
use super::upload::{self, stood_still};
use super::{gzip, owners, tokens};

/// A request whose caller is known and admitted.
pub(super) struct Exchange {
    pub(super) proxy: Arc<Proxy>,
    pub(super) caller: Caller,
    /// As it goes upstream: without hop-by-hop headers and others that must not pass.
    pub(super) head: request::Parts,
    pub(super) info: RequestInfo,
    pub(super) class: Class,
    pub(super) form: Form,
    /// Of the connection that it came on.
    pub(super) drain: ConnectionDrain,
    /// How long the client may stall.
    pub(super) write_timeout: Duration,
    /// Measures the time spent upstream.
    pub(super) on_the_way: Upstream,
}

impl Exchange {
    /// What the request asks of the cache, for this principal; `None` if it is never cached.
    pub(super) fn query(&self, principal: &Principal) -> Option<Query> {
        Query::new(
            principal.key(),
            &self.head.method,
            &self.head.uri,
            &self.head.headers,
            &self.info,
            self.class,
        )
    }

    /// The query of a caller who is known already: recording begins before the request is sent.
    pub(super) fn recorded_query(&self) -> Option<Query> {
        self.query(self.caller.principal()?)
    }

    /// The query of the principal that this caller will be if upstream accepts it.
    pub(super) fn claimed_query(&self) -> Option<Query> {
        self.query(&self.caller.claimed_as(&self.proxy)?)
    }

    /// The query of the principal that upstream has answered.
    pub(super) fn accepted_query(&self) -> Option<Query> {
        self.query(&self.caller.accepted_as(&self.proxy)?)
    }

    /// As [`Exchange::query`], for another target of the same request.
    pub(super) fn query_for(&self, target: &PathAndQuery, principal: &Principal) -> Option<Query> {
        let info = RequestInfo::parse(&self.head.method, target.path(), target.query());
        let uri = Uri::from(target.clone());
        Query::new(
            principal.key(),
            &self.head.method,
            &uri,
            &self.head.headers,
            &info,
            self.class,
        )
    }

    /// The query that the cache may answer without asking the cloud.
    pub(super) async fn answerable_query(&self) -> Option<Query> {
        self.query(&self.caller.answered_as(&self.proxy).await?)
    }

    /// The answer from the cache, if one may be given now. While the cloud may be reachable, that is only
    /// what was read before: whether something does not exist, or has expired, is for the cloud to say.
    ///
    /// # Errors
    /// There is none; why, if the cache could be asked.
    pub(super) async fn cached_answer(&self) -> Result<Response<Body>, Option<Missing>> {
        let query = self.answerable_query().await.ok_or(None)?;
        let answer = self.proxy.cache.answer(&query).await;
        match (answer, self.instead()) {
            (Answer::Found(found), instead) => Ok(cached(*found, &self.form, instead, &self.proxy.link)),
            (Answer::Refused(status), Instead::Offline) => {
                let mut response = refusal(&status, &self.form);
                response.extensions_mut().insert(FromCache);
                Ok(response)
            }
            (Answer::Refused(_), Instead::Stale) => Err(None),
            (Answer::Unknown(missing), _) => Err(Some(missing)),
        }
    }

    /// What an answer from the cache counts as now.
    pub(super) fn instead(&self) -> Instead {
        match self.proxy.link.state() {
            LinkState::Offline => Instead::Offline,
            LinkState::Online | LinkState::Suspect => Instead::Stale,
        }
    }

    /// A refusal in the client's form.
    pub(super) fn refuse(&self, status: &Status) -> Response<Body> {
        refusal(status, &self.form)
    }

    /// The transport to send with.
    ///
    /// # Errors
    /// This caller may not go upstream now.
    pub(super) fn upstream(&self) -> Result<&Transport, UpstreamError> {
        self.caller.upstream(&self.proxy)
    }

    /// The request as it goes upstream, with the client's path and query byte for byte. Its authority is set
    /// once the server is chosen; its content coding is not the client's choice.
    pub(super) fn request(&self, body: Body) -> Request<Body> {
        self.request_for(self.head.uri.path_and_query().cloned(), body)
    }

    /// The same for another path and query.
    pub(super) fn request_for(&self, target: Option<PathAndQuery>, body: Body) -> Request<Body> {
        let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut headers = self.head.headers.clone();
        let compression = self.caller.transport.compression();
        gzip::ask(&self.head, self.class, target.query(), compression, &mut headers);
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = Uri::from(target);
        *request.headers_mut() = headers;
        request
    }

    /// The same policy, counted as this caller's share of the connections.
    pub(super) fn callers(&self, policy: RetryPolicy) -> RetryPolicy {
        policy.on_behalf_of(self.caller.holder().map(str::to_owned))
    }

    /// How often a read may be sent: it changes nothing, so again, unless it has a body.
    pub(super) fn read_policy(&self, body: &Incoming, purpose: Purpose) -> RetryPolicy {
        let policy = if body.is_end_stream() {
            RetryPolicy::read(purpose)
        } else {
            RetryPolicy::once(purpose)
        };
        self.callers(policy).for_answers(self.answers())
    }

    /// In what form an apiserver answers this request.
    pub(super) fn answers(&self) -> Answers {
        let is_encoded = match &self.info {
            RequestInfo::Resource(_) => self.class != Class::Stream,
            RequestInfo::NonResource => is_document(self.head.uri.path()),
            RequestInfo::Malformed => false,
        };
        match is_encoded {
            true if groups::is_built_in(self.group()) => Answers::Encoded,
            true => Answers::Relayed,
            false => Answers::Anyhow,
        }
    }

    /// Whether something on the way, and no apiserver, wrote this answer.
    pub(super) fn is_foreign(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        is_foreign(self.answers(), status, headers)
    }

    /// Has the server that handles the request probed after each `responseTimeout`.
    pub(super) async fn probing(&self, policy: &RetryPolicy) -> Infallible {
        loop {
            tokio::time::sleep(self.caller.transport.response_timeout()).await;
            policy.timed_out();
        }
    }

    /// Sends a read.
    pub(super) async fn send_read(
        &self,
        body: Incoming,
        policy: &RetryPolicy,
    ) -> Result<Response<Body>, UpstreamError> {
        if body.is_end_stream() {
            return self.send(self.request(body::empty()), policy).await;
        }
        let (body, standstill) = upload::watched(body::incoming(body), self.write_timeout);
        tokio::select! {
            sent = self.send(self.request(body), policy) => sent,
            culprit = standstill.lasts() => {
                let message = stood_still(culprit, policy).message;
                Err(UpstreamError::maybe_sent(Failure::Timeout, message))
            }
        }
    }

    /// Sends a request; nobody checks that its body keeps moving.
    pub(super) async fn send(
        &self,
        request: Request<Body>,
        policy: &RetryPolicy,
    ) -> Result<Response<Body>, UpstreamError> {
        let result = match self.upstream() {
            Ok(transport) => {
                let _under_way = self.on_the_way.under_way();
                transport.send(request, policy).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    /// An answer as the client gets it.
    pub(super) fn delivered(&self, mut head: response::Parts, body: Body) -> Response<Body> {
        let headers = &mut head.headers;
        let body = gzip::accepted(&self.head, self.class, headers, body, &self.proxy.metrics);
        strip_response(&mut head.headers);
        Response::from_parts(head, body)
    }

    /// Learns from the head of an answer: the time, and whether the credential was accepted. The first answer
    /// to a token waits until its owner is known.
    pub(super) async fn noted(&self, head: &response::Parts) {
        if !is_from_apiserver(&head.headers, &head.extensions) {
            return;
        }
        let is_its_own = self.is_answered_by_apiserver_alone();
        let date = head
            .headers
            .get(header::DATE)
            .filter(|_| is_its_own)
            .and_then(|value| value.to_str().ok());
        self.proxy.time.contact(date.and_then(clock::parse_http_date));
        if !self.caller.is_default() {
            match head.status {
                StatusCode::UNAUTHORIZED if is_its_own => self.caller.transport.pair_is(Pair::Refused),
                status if is_after_authentication(&self.head.method, status) => {
                    self.caller.transport.pair_is(Pair::Accepted);
                }
                _ => {}
            }
            if head.status == StatusCode::FORBIDDEN && is_its_own {
                let client = self.caller.transport.name();
                self.proxy.incidents.forbidden(client, &self.info);
            }
        }
        if let Identity::Token(token) = &self.caller.identity {
            match head.status {
                // What is behind an apiserver may answer 401 for reasons of its own.
                StatusCode::UNAUTHORIZED if is_its_own => {
                    tokens::refused(&self.proxy, token, self.caller.source());
                }
                status if is_after_authentication(&self.head.method, status) => {
                    if let Some(mut asked) = owners::accepted(&self.proxy, &self.caller, token) {
                        let _closed = asked.changed().await;
                    }
                }
                _ => {}
            }
        }
    }

    /// Whether the cache is a better answer: something on the way reports that the apiserver is down, or the
    /// apiserver reports it of itself. What it reports of the servers that it relies on for other groups is
    /// passed on: nobody who asks for metrics wants old ones.
    pub(super) fn prefers_cache_to(&self, head: &response::Parts) -> bool {
        let is_down = matches!(
            head.status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        );
        is_down && (!is_from_apiserver(&head.headers, &head.extensions) || groups::is_built_in(self.group()))
    }

    /// The API group of the request; empty for core, and for what belongs to no group.
    fn group(&self) -> &str {
        match &self.info {
            RequestInfo::Resource(resource) => &resource.group,
            RequestInfo::NonResource => groups::of_document(self.head.uri.path()),
            RequestInfo::Malformed => "",
        }
    }

    /// Whether only an apiserver can have written the answer. It also relays answers of pods, kubelets and
    /// aggregated servers, which must not tell this node what time it is, or whose token is good.
    fn is_answered_by_apiserver_alone(&self) -> bool {
        let is_malformed = matches!(self.info, RequestInfo::Malformed);
        !is_malformed && self.class != Class::Stream && is_served_by_apiserver(self.head.uri.path())
    }

    /// Logs a failure.
    pub(super) fn failed(&self, error: &UpstreamError) {
        tracing::debug!(
            transport = self.caller.transport.name(),
            class = self.class.as_str(),
            %error,
            "a request did not reach the cloud"
        );
    }

    /// Delivers an answer that is neither recorded nor replaced.
    pub(super) async fn passed_on(&self, response: Response<Body>) -> Response<Body> {
        let (head, body) = response.into_parts();
        self.noted(&head).await;
        self.delivered(head, body)
    }
}

/// Whether an apiserver answers so only after authentication. Before it, it answers preflights itself where
/// `--cors-allowed-origins` is set (`k8s.io/apiserver/pkg/server/config.go`, `DefaultBuildHandlerChain`), and
/// everything else with 400, 401, 429 or 5xx. A bearer token that it does not know gets 401 on every path,
/// even where anonymous callers are allowed; before it relays a request it authenticates the sender.
fn is_after_authentication(method: &Method, status: StatusCode) -> bool {
    let is_late = matches!(
        status,
        StatusCode::NOT_MODIFIED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
    );
    (status.is_success() || is_late) && method != Method::OPTIONS
}
