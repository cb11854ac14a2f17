//! Forwarding: reads that the cache can stand in for, and endless streams. Writes are in `write.rs`.

use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri, header, response};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::cache::{Query, is_from_apiserver};
use crate::kube::request::{Class, RequestInfo};
use crate::kube::status::Status;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::upstream::error::Sent;
use crate::upstream::{Effort, Failure, LinkState, Purpose, UpstreamError};

use super::caller::Identity;
use super::exchange::Exchange;
use super::headers::strip_response;
use super::lists::{Follower, Pass, Same, Turn, share};
use super::upload::{self, Culprit};
use super::{gzip, tokens};

/// For so long a read looks for a connection while the cloud is there: as long as client-go does.
const CONNECTING: Duration = Duration::from_secs(30);

/// Between two attempts, at least.
const PAUSE: Duration = Duration::from_millis(100);

/// A read: upstream's answer, or the cache's where upstream has none in time.
pub(super) async fn read(exchange: Exchange, body: Incoming) -> Response<Body> {
    match exchange.proxy.link.state() {
        LinkState::Offline => return offline(&exchange, None).await,
        LinkState::Suspect => {
            if let Some(response) = exchange.cached_answer().await {
                return response;
            }
        }
        LinkState::Online => {}
    }
    let query = exchange.recorded_query();
    let (pass, followers) = match Box::pin(turn(&exchange, query.as_ref(), &body)).await {
        Ok(turn) => turn,
        Err(answered) => return *answered,
    };
    let recording = query.as_ref().map(|query| exchange.proxy.cache.record(query));
    let response = match Box::pin(in_time(&exchange, body)).await {
        Ok(response) => response,
        Err(answered) => return *answered,
    };
    let deadline = clock::now() + exchange.caller.transport.response_timeout();
    let (head, body) = Box::pin(share(response, followers, deadline)).await.into_parts();
    exchange.noted(&head);
    if stands_in_for(head.status)
        && let Some(response) = exchange.cached_answer().await
    {
        return response;
    }
    let body = match recording {
        Some(recording) => recording.answered(&head, body),
        None => body,
    };
    let (head, body) = exchange.delivered(head, body).into_parts();
    let body = exchange.proxy.issuer.learn(exchange.head.uri.path(), &head, body);
    let response = Response::from_parts(head, body);
    match pass {
        Some(pass) if response.status() == StatusCode::OK => response.map(|body| pass.counting(body)),
        _ => response,
    }
}

/// Waits until a list may be asked for; gives the answer instead if another client gets the same one, or if the cloud
/// goes away meanwhile.
async fn turn(
    exchange: &Exchange,
    query: Option<&Query>,
    body: &Incoming,
) -> Result<(Option<Pass>, Vec<Follower>), Box<Response<Body>>> {
    let list = query.filter(|_| exchange.class == Class::List && body.is_end_stream());
    let Some((query, name)) = list.and_then(|query| Some((query, query.whole_list()?))) else {
        return Ok((None, Vec::new()));
    };
    let proxy = &exchange.proxy;
    let deadline = clock::now() + exchange.caller.transport.response_timeout();
    let priority = proxy.priorities.of(proxy, &exchange.caller);
    loop {
        let same = || Same::of(exchange, &query.owner);
        let turn = tokio::select! {
            biased;
            turn = proxy.lists.turn(&name, priority, deadline, same) => turn,
            () = proxy.link.reaches(LinkState::Offline) => {
                return Err(Box::new(offline(exchange, None).await));
            }
        };
        match turn {
            Turn::Ask(pass, followers) => return Ok((Some(pass), followers)),
            Turn::Follow(shared) => {
                if let Ok(Ok(shared)) = tokio::time::timeout_at(deadline, shared).await {
                    let (head, body) = shared.into_response().into_parts();
                    exchange.noted(&head);
                    return Err(Box::new(exchange.delivered(head, body)));
                }
            }
        }
    }
}

/// Sends a read and waits for the head of its answer, or gives what the client gets instead.
async fn in_time(exchange: &Exchange, body: Incoming) -> Result<Response<Body>, Box<Response<Body>>> {
    let timeout = exchange.caller.transport.response_timeout();
    let purpose = match exchange.class {
        Class::List | Class::NonResource => Purpose::Large,
        _ => Purpose::Short,
    };
    let is_bodiless = body.is_end_stream();
    let effort = exchange.read_effort(&body, purpose);
    let mut sending = std::pin::pin!(exchange.send_read(body, &effort));
    let sent = match tokio::time::timeout(timeout, sending.as_mut()).await {
        Ok(sent) => sent,
        Err(_) => {
            effort.timed_out();
            if let Some(response) = exchange.cached_answer().await {
                return Err(Box::new(response));
            }
            // Nothing to offer instead: a slow answer is better than none, unless the probe says that none will come.
            tokio::select! {
                sent = sending => sent,
                () = exchange.proxy.link.reaches(LinkState::Offline) => {
                    return Err(Box::new(offline(exchange, None).await));
                }
            }
        }
    };
    let error = match sent {
        Ok(response) => return Ok(response),
        Err(error) => error,
    };
    if let Some(response) = exchange.cached_answer().await {
        return Err(Box::new(response));
    }
    match persist(exchange, purpose, (error, is_bodiless)).await {
        Ok(response) => Ok(response),
        Err(error) => Err(Box::new(offline(exchange, Some(&error)).await)),
    }
}

/// A read that found no connection, and that the cache cannot answer, waits for the probe's verdict: on a bad link the
/// cloud is there, and one of the next connections comes about. In the full queue of a narrow link several in a row may
/// get lost while others go through.
async fn persist(
    exchange: &Exchange,
    purpose: Purpose,
    (mut error, is_bodiless): (UpstreamError, bool),
) -> Result<Response<Body>, UpstreamError> {
    let deadline = clock::now() + CONNECTING;
    loop {
        let is_worth_it = error.failure == Failure::Connect && error.sent == Sent::No && is_bodiless;
        if !is_worth_it
            || clock::now() >= deadline
            || exchange.proxy.link.verdict().await == LinkState::Offline
        {
            return Err(error);
        }
        match exchange.send(body::empty(), &Effort::read(purpose)).await {
            Ok(response) => return Ok(response),
            Err(next) => error = next,
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether an answer means that something on the way, or the apiserver, is down.
fn stands_in_for(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
    )
}

/// The cache's answer to a read, or 503.
async fn offline(exchange: &Exchange, error: Option<&UpstreamError>) -> Response<Body> {
    match exchange.cached_answer().await {
        Some(response) => response,
        None => exchange.refuse(&unknown(exchange, error).await),
    }
}

/// Why a read is refused while the cloud is away.
pub(super) async fn unknown(exchange: &Exchange, error: Option<&UpstreamError>) -> Status {
    if let Some(UpstreamError {
        failure: Failure::NoCredentials,
        ..
    }) = error
    {
        return no_credentials(exchange);
    }
    let known = !matches!(exchange.caller.identity, Identity::Token(_))
        || exchange.caller.answered_as(&exchange.proxy).await.is_some();
    Status::unavailable(if exchange.caller.has_expired(&exchange.proxy) {
        "edgehold: the cloud cannot be reached, and the client's certificate has expired"
    } else if known {
        "edgehold: the cloud cannot be reached, and this was not read before by this client"
    } else {
        "edgehold: the cloud cannot be reached, and this token is not known"
    })
}

pub(super) fn no_credentials(exchange: &Exchange) -> Status {
    Status::unavailable(format!(
        "edgehold: the certificate or upstream CA for {:?} is not loaded yet; `edgehold check` says why",
        exchange.caller.transport.name()
    ))
}

/// The refusal of a request whose body has stood still for too long.
pub(super) fn stood_still(culprit: Culprit, effort: &Effort) -> Status {
    tracing::debug!(?culprit, "the body of a request stands still, it is given up");
    match culprit {
        Culprit::Client => Status::bad_request("edgehold: the rest of the request did not come"),
        Culprit::Cloud => {
            effort.timed_out();
            Status::timeout("edgehold: the cloud took no more of the request; it may have been carried out")
        }
    }
}

/// Followed logs and the like: no time limit, no cache, no repetition.
pub(super) async fn stream(exchange: Exchange, body: Incoming) -> Response<Body> {
    if exchange.proxy.link.state() == LinkState::Offline {
        return exchange.refuse(&Status::unavailable("edgehold: the cloud cannot be reached"));
    }
    let request = exchange.request(body::incoming(body));
    match exchange
        .caller
        .transport
        .send(request, &Effort::once(Purpose::Watch))
        .await
    {
        Ok(response) => exchange.passed_on(response),
        Err(error) => {
            exchange.failed(&error);
            exchange.refuse(&match error.sent {
                Sent::No => Status::unavailable("edgehold: the cloud cannot be reached"),
                Sent::Maybe => Status::timeout("edgehold: the connection to the cloud broke"),
            })
        }
    }
}

impl Exchange {
    /// The request as it goes upstream: the client's path and query byte for byte. Which authority it is for is
    /// decided with the server.
    pub(super) fn request(&self, body: Body) -> Request<Body> {
        self.request_for(self.head.uri.path_and_query().cloned(), body)
    }

    /// The same with another path and query.
    pub(super) fn request_for(&self, target: Option<PathAndQuery>, body: Body) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
        *request.headers_mut() = self.head.headers.clone();
        request
    }

    /// What may be done for a read: it changes nothing, so it may be sent again, unless it has a body.
    pub(super) fn read_effort(&self, body: &Incoming, purpose: Purpose) -> Effort {
        if body.is_end_stream() {
            Effort::read(purpose)
        } else {
            Effort::once(purpose)
        }
    }

    /// Sends a read.
    pub(super) async fn send_read(
        &self,
        body: Incoming,
        effort: &Effort,
    ) -> Result<Response<Body>, UpstreamError> {
        if body.is_end_stream() {
            return self.send(body::empty(), effort).await;
        }
        let (body, standstill) = upload::watched(body::incoming(body), self.patience);
        tokio::select! {
            sent = self.send(body, effort) => sent,
            culprit = standstill.lasts() => {
                let message = stood_still(culprit, effort).message;
                Err(UpstreamError::maybe_sent(Failure::Timeout, message))
            }
        }
    }

    async fn send(&self, body: Body, effort: &Effort) -> Result<Response<Body>, UpstreamError> {
        let mut request = self.request(body);
        if gzip::is_for(&self.head, self.class) {
            gzip::ask(request.headers_mut());
        }
        let result = self.caller.transport.send(request, effort).await;
        if let Err(error) = &result {
            self.failed(error);
        }
        result
    }

    /// A read's answer as the client gets it.
    fn delivered(&self, mut head: response::Parts, body: Body) -> Response<Body> {
        let body = if gzip::is_for(&self.head, self.class) {
            gzip::undo(&mut head.headers, body, &self.proxy.metrics)
        } else {
            body
        };
        strip_response(&mut head.headers);
        Response::from_parts(head, body)
    }

    /// Takes note of an answer's head: what it says about the time and the token.
    pub(super) fn noted(&self, head: &response::Parts) {
        if !is_from_apiserver(&head.headers) {
            return;
        }
        let date = head
            .headers
            .get(header::DATE)
            .filter(|_| self.is_answered_by_apiserver_alone())
            .and_then(|value| value.to_str().ok());
        self.proxy.time.contact(date.and_then(clock::parse_http_date));
        if let Identity::Token(token) = &self.caller.identity {
            match head.status {
                // What a pod behind an apiserver says of its callers says nothing of the token.
                StatusCode::UNAUTHORIZED if self.class == Class::Stream => {}
                StatusCode::UNAUTHORIZED => tokens::refused(&self.proxy, token),
                status if status.is_success() => tokens::accepted(&self.proxy, token),
                _ => {}
            }
        }
    }

    /// Whether nobody but an apiserver has written this answer's headers. It passes on those of pods, of kubelets and
    /// of the servers of aggregated groups, and none of them may tell this node what time it is.
    fn is_answered_by_apiserver_alone(&self) -> bool {
        match &self.info {
            RequestInfo::NonResource => true,
            RequestInfo::Malformed => false,
            RequestInfo::Resource(resource) => resource.group.is_empty() && self.class != Class::Stream,
        }
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
    pub(super) fn passed_on(&self, response: Response<Body>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        self.noted(&head);
        strip_response(&mut head.headers);
        Response::from_parts(head, body)
    }
}
