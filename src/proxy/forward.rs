//! Forwarding: reads that the cache can stand in for, and endless streams. Writes are in `write.rs`.

use std::convert::Infallible;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, response};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::cache::is_document;
use crate::kube::groups;
use crate::kube::local::is_served_by_apiserver;
use crate::kube::request::{Class, RequestInfo};
use crate::kube::status::Status;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::runtime::problem::coded;
use crate::upstream::error::Sent;
use crate::upstream::{Answers, Failure, LinkState, Pair, Purpose, RetryPolicy, UpstreamError, is_foreign};
use crate::view::offline::Missing;

use super::caller::{Identity, Unfit};
use super::confirm::Doubt;
use super::exchange::Exchange;
use super::headers::strip_response;
use super::limits::Over;
use super::list_admission::{Follower, Pass, Turn, share};
use super::miss::Miss;
use super::respond::{Instead, missed};
use super::upload::{self, Culprit};
use super::{gzip, owners, tokens};

/// For so long a read looks for a connection while the cloud is there: as long as client-go does.
const CONNECTING: Duration = Duration::from_secs(30);

/// Between two attempts, at least.
const PAUSE: Duration = Duration::from_millis(100);

/// A read: upstream's answer, however long it takes while the cloud is there; the cache's where none can be
/// had.
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
    let (pass, followers) = match Box::pin(turn(&exchange, &body)).await {
        Ok(turn) => turn,
        Err(answered) => return *answered,
    };
    let recording = query.as_ref().map(|query| exchange.proxy.cache.record(query));
    let response = match Box::pin(answered(&exchange, body)).await {
        Ok(response) => response,
        Err(answered) => return *answered,
    };
    let is_foreign = exchange.is_foreign(response.status(), response.headers());
    let followers = if is_foreign { Vec::new() } else { followers };
    let deadline = clock::now() + exchange.caller.transport.response_timeout();
    let (head, body) = Box::pin(share(response, followers, deadline)).await.into_parts();
    exchange.noted(&head).await;
    if (is_foreign || exchange.prefers_cache_to(&head))
        && let Ok(response) = exchange.cached_answer().await
    {
        return response;
    }
    if is_foreign {
        let error = answered_by_another(head.status);
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

/// Waits until a list may be asked for; gives the answer instead if another client gets the same one, or if
/// the cloud goes away meanwhile.
async fn turn(
    exchange: &Exchange,
    body: &Incoming,
) -> Result<(Option<Pass>, Vec<Follower>), Box<Response<Body>>> {
    let is_list = exchange.class == Class::List && body.is_end_stream();
    let query = is_list.then(|| exchange.claimed_query()).flatten();
    let Some((query, name)) = query.and_then(|query| query.whole_list().map(|name| (query, name))) else {
        return Ok((None, Vec::new()));
    };
    let proxy = &exchange.proxy;
    let deadline = clock::now() + exchange.caller.transport.response_timeout();
    let priority = proxy.priorities.of(exchange.caller.client());
    let mut instead = std::pin::pin!(instead(exchange));
    loop {
        let same = || exchange.same(&query.owner);
        let turn = tokio::select! {
            biased;
            turn = proxy.list_admission.turn(&name, priority, deadline, same) => turn,
            answered = instead.as_mut() => return Err(Box::new(answered)),
        };
        let shared = match turn {
            Turn::Ask(pass, followers) => return Ok((Some(pass), followers)),
            Turn::Follow(shared) => shared,
        };
        // However long it takes: upstream is at it, and to ask again would only make it slower.
        let _under_way = exchange.on_the_way.under_way();
        let shared = tokio::select! {
            biased;
            shared = shared => shared,
            answered = instead.as_mut() => return Err(Box::new(answered)),
        };
        if let Ok(shared) = shared {
            let (head, body) = shared.into_response().into_parts();
            exchange.noted(&head).await;
            return Err(Box::new(exchange.delivered(head, body)));
        }
    }
}

/// Sends a read and waits for the head of its answer, or gives what the client gets instead. While the cloud
/// answers its probes it is waited for, for as long as the client does.
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
        never = probing(exchange, &policy) => match never {},
        answered = instead(exchange) => return Err(Box::new(answered)),
    };
    let error = match sent {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    // The cloud is there for it once there is room: the cache has no part in this.
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

/// Has the server probed at `responseTimeout`, and each time that it has passed again.
pub(super) async fn probing(exchange: &Exchange, policy: &RetryPolicy) -> Infallible {
    loop {
        tokio::time::sleep(exchange.caller.transport.response_timeout()).await;
        policy.timed_out();
    }
}

/// What a client gets instead of an answer that does not come: what the cache has, once no server answers its
/// probe; if it has nothing, what is to be said once the cloud is known to be away.
async fn instead(exchange: &Exchange) -> Response<Body> {
    let link = &exchange.proxy.link;
    link.silent().await;
    if let Ok(response) = exchange.cached_answer().await {
        return response;
    }
    link.reaches(LinkState::Offline).await;
    offline(exchange, None).await
}

/// A read that failed, and that the cache cannot answer, waits for the probe's verdict. One that found no
/// connection is sent again if the cloud is there: on a bad link one of the next connections comes about. In
/// the full queue of a narrow link several in a row may get lost while others go through.
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

/// The refusal of a read: why it has no answer, from the cloud or from the cache.
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

/// The refusal of a request that this node had no room for.
pub(super) fn no_room(failure: Failure) -> Option<Status> {
    match failure {
        Failure::OverShare => Some(Status::too_many_requests(Over::Share.message())),
        Failure::Shortage => Some(Status::unavailable(
            "edgehold: this node has no descriptor, memory or port left for a connection, nothing was changed",
        )),
        _ => None,
    }
}

pub(super) fn no_credentials(exchange: &Exchange) -> Status {
    if let Err(Unfit(status)) = exchange.caller.may_go_upstream(&exchange.proxy) {
        return status;
    }
    Status::unavailable(format!(
        "edgehold: the certificate or upstream CA for {:?} is not loaded yet; `edgehold check` says why",
        exchange.caller.transport.name()
    ))
}

/// Something on the way has answered what only an apiserver can.
pub(super) fn answered_by_another(status: StatusCode) -> UpstreamError {
    let status = status.as_u16();
    UpstreamError::maybe_sent(
        Failure::Gateway,
        format!("something on the way to the cloud, and no apiserver, answered this request with {status}"),
    )
}

/// The refusal of a request whose body has stood still for too long.
pub(super) fn stood_still(culprit: Culprit, policy: &RetryPolicy) -> Status {
    tracing::debug!(?culprit, "the body of a request stands still, it is given up");
    match culprit {
        Culprit::Client => Status::bad_request("edgehold: the rest of the request did not come"),
        Culprit::Cloud => {
            policy.timed_out();
            Status::timeout("edgehold: the cloud took no more of the request; it may have been carried out")
        }
    }
}

/// Followed logs and the like: no time limit, no cache, no repetition.
pub(super) async fn stream(exchange: Exchange, body: Incoming) -> Response<Body> {
    if exchange.proxy.link.state() == LinkState::Offline {
        return exchange.refuse(&exchange.away());
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
            exchange.refuse(&exchange.unanswered(&error))
        }
    }
}

/// Whether an apiserver answers like this only to a caller whom it has authenticated. Before that it answers
/// a preflight by itself where `--cors-allowed-origins` is set (`k8s.io/apiserver/pkg/server/config.go`,
/// `DefaultBuildHandlerChain`), and else with 400, 401, 429 and 5xx. A bearer token that it does not know
/// gets 401 on every path, also on those that are open to anonymous callers; before it passes a request on it
/// asks who sends it.
fn is_after_authentication(method: &Method, status: StatusCode) -> bool {
    let is_late = matches!(
        status,
        StatusCode::NOT_MODIFIED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND
    );
    (status.is_success() || is_late) && method != Method::OPTIONS
}

impl Exchange {
    /// The request as it goes upstream: the client's path and query byte for byte. Which authority it is for
    /// is decided with the server, and how the answer is packed is not for the client to say.
    pub(super) fn request(&self, body: Body) -> Request<Body> {
        self.request_for(self.head.uri.path_and_query().cloned(), body)
    }

    /// The same with another path and query.
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

    /// Why there is no answer to what is only passed on.
    pub(super) fn unanswered(&self, error: &UpstreamError) -> Status {
        match error.sent {
            Sent::No if error.failure == Failure::NoCredentials => no_credentials(self),
            Sent::No => no_room(error.failure).unwrap_or_else(|| self.away()),
            Sent::Maybe => Status::timeout("edgehold: the connection to the cloud broke"),
        }
    }

    /// This policy as the caller's, who shares the connections with others.
    pub(super) fn callers(&self, policy: RetryPolicy) -> RetryPolicy {
        policy.on_behalf_of(self.caller.holder().map(str::to_owned))
    }

    /// What may be done for a read: it changes nothing, so it may be sent again, unless it has a body.
    pub(super) fn read_policy(&self, body: &Incoming, purpose: Purpose) -> RetryPolicy {
        let policy = if body.is_end_stream() {
            RetryPolicy::read(purpose)
        } else {
            RetryPolicy::once(purpose)
        };
        self.callers(policy).for_answers(self.answers())
    }

    /// In which form an apiserver answers this request.
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

    /// Whether something on the way has answered this request in its own words.
    pub(super) fn is_foreign(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        is_foreign(self.answers(), status, headers)
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

    /// Sends a request without minding its body.
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

    /// Takes note of an answer's head: what it says about the time and the token. The first answer to a token
    /// waits until it is known whose the token is.
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
                // What stands behind an apiserver says of its callers what it likes.
                StatusCode::UNAUTHORIZED if is_its_own => {
                    tokens::refused(&self.proxy, token, self.caller.source());
                }
                status if is_after_authentication(&self.head.method, status) => {
                    // Rare, and large.
                    Box::pin(owners::accepted(&self.proxy, &self.caller, token)).await;
                }
                _ => {}
            }
        }
    }

    /// Whether what was read before is better than this answer: something on the way says that the apiserver
    /// is down, or the apiserver says so of itself. What it says of others, on which it depends for the
    /// groups that it does not serve by itself, is passed on: whoever asks for metrics wants none of the
    /// past.
    pub(super) fn prefers_cache_to(&self, head: &response::Parts) -> bool {
        let is_down = matches!(
            head.status,
            StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
        );
        is_down && (!is_from_apiserver(&head.headers, &head.extensions) || groups::is_built_in(self.group()))
    }

    /// The API group that the request is about; empty for core, and for what belongs to no group.
    fn group(&self) -> &str {
        match &self.info {
            RequestInfo::Resource(resource) => &resource.group,
            RequestInfo::NonResource => groups::of_document(self.head.uri.path()),
            RequestInfo::Malformed => "",
        }
    }

    /// Whether nobody but an apiserver has written this answer. It passes on those of pods, of kubelets and
    /// of the servers of aggregated groups, and none of them may tell this node what time it is, or whose
    /// token is good.
    fn is_answered_by_apiserver_alone(&self) -> bool {
        let is_malformed = matches!(self.info, RequestInfo::Malformed);
        !is_malformed && self.class != Class::Stream && is_served_by_apiserver(self.head.uri.path())
    }

    /// That there is no answer to be had from the cloud, and why.
    pub(super) fn away(&self) -> Status {
        let link = &self.proxy.link;
        Status::unavailable(coded(&format!("edgehold: {}", link.away()), link.code()))
    }

    /// Takes note of a failure.
    pub(super) fn failed(&self, error: &UpstreamError) {
        tracing::debug!(
            transport = self.caller.transport.name(),
            class = self.class.as_str(),
            %error,
            "a request did not reach the cloud"
        );
    }

    /// An answer that is only passed on.
    pub(super) async fn passed_on(&self, response: Response<Body>) -> Response<Body> {
        let (head, body) = response.into_parts();
        self.noted(&head).await;
        self.delivered(head, body)
    }
}
