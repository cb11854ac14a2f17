//! One request from its head to the head of its answer: reads who calls and what for, and picks the route.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, Version, header, request};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::cache::{Answer, Query};
use crate::identity::Principal;
use crate::kube::groups::qualified;
use crate::kube::request::{Class, RequestInfo, is_escaped_well};
use crate::kube::status::Status;
use crate::runtime::body::{self, Body};
use crate::upstream::{LinkState, Transport, UpstreamError};
use crate::view::offline::Missing;

use super::caller::Caller;
use super::caller::Peer;
use super::connection_drain::ConnectionDrain;
use super::context::Proxy;
use super::csr_guard::CsrGuard;
use super::headers::forwardable;
use super::limits::Over;
use super::list_admission::Same;
use super::respond::{Form, FromCache, Instead, cached, refusal};
use super::tally::{Tally, Upstream};
use super::websocket::WebSocketWatch;
use super::{forward, sections, upgrade, watch, write};

/// A request that has been understood.
pub(super) struct Exchange {
    pub(super) proxy: Arc<Proxy>,
    pub(super) caller: Caller,
    /// As it goes upstream: without hop-by-hop headers and what must not pass.
    pub(super) head: request::Parts,
    pub(super) info: RequestInfo,
    pub(super) class: Class,
    pub(super) form: Form,
    /// Of the connection that it came on.
    pub(super) drain: ConnectionDrain,
    /// For how long the client may stall.
    pub(super) write_timeout: Duration,
    /// How long it is on its way upstream.
    pub(super) on_the_way: Upstream,
}

impl Proxy {
    /// Handles one request. Always answers: what goes wrong becomes a Kubernetes `Status`.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        handle(self, request, &peer).await
    }
}

async fn handle(proxy: Arc<Proxy>, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
    let (head, body) = request.into_parts();
    let form = Form::of(&head.method, &head.headers);
    if let Some(wrong) = misread(&head) {
        return refusal(&Status::bad_request(format!("edgehold: {wrong}")), &form);
    }
    let info = RequestInfo::parse(&head.method, head.uri.path(), head.uri.query());
    let guard = CsrGuard::of(&info, &form);
    let response = understood(proxy, (head, body), peer, info, form).await;
    match guard {
        Some(guard) => guard.apply(response),
        None => response,
    }
}

/// What of a request nobody can make sense of. It is not sent on: an apiserver may end the connection for it.
fn misread(head: &request::Parts) -> Option<&'static str> {
    let hosts = head.headers.get_all(header::HOST).iter().count();
    let is_named = hosts == 1 || head.uri.authority().is_some() || head.version != Version::HTTP_11;
    if head.method == Method::CONNECT || !head.uri.path().starts_with('/') {
        Some("requests are forwarded for paths only")
    } else if !is_escaped_well(head.uri.path()) {
        Some("the path has a % without two hexadecimal digits behind it")
    } else if hosts > 1 || !is_named {
        // RFC 9112, section 3.2.
        Some("a request has one Host header")
    } else {
        None
    }
}

/// Handles a request that is for a path.
async fn understood(
    proxy: Arc<Proxy>,
    (mut head, body): (request::Parts, Incoming),
    peer: &Peer,
    info: RequestInfo,
    form: Form,
) -> Response<Body> {
    let class = info.class(&head.method);
    let metrics = proxy.metrics.requests.clone();
    let mut tally = Tally::begin(&info, class);
    let size = sections::size(&head);
    // First what goes upstream, and from that who calls: the apiserver sees nothing else.
    let read = forwardable(&mut head.headers)
        .map_err(|misused| Status::bad_request(format!("edgehold: {misused}")))
        .and_then(|wanted| Ok((wanted, Caller::identify(&proxy, peer, &mut head.headers)?)));
    let (wanted, caller) = match read {
        Ok(read) => read,
        Err(status) => {
            tracing::debug!(peer = %peer.address, status = status.code.as_u16(), reason = status.message, "refused");
            let response = refusal(&status, &form);
            tally.end(&metrics, &response);
            return response;
        }
    };
    tally.is_by(caller.kind());
    let admitted = proxy.limits.admit(caller.client(), caller.holder(), class);
    let admitted = admitted.and_then(|under_way| {
        let section = match caller.holder() {
            Some(holder) => proxy.sections.admit(holder, size),
            None => proxy
                .sections
                .admit(&format!("cn:{}", caller.transport.name()), size),
        };
        Ok((under_way, section.ok_or(Over::Headers)?))
    });
    let under_way = match admitted {
        Ok(under_way) => under_way,
        Err(over) => {
            let client = caller.transport.name();
            tracing::debug!(
                client,
                class = class.as_str(),
                limit = over.as_str(),
                "over its limit"
            );
            metrics.limited(over);
            if !caller.is_default() {
                proxy.incidents.over_limit(client, over.as_str());
            }
            let response = refusal(&Status::too_many_requests(over.message()), &form);
            tally.end(&metrics, &response);
            return response;
        }
    };
    let (method, path) = (head.method.clone(), head.uri.path().to_owned());
    let described = described(&caller, &info);
    let link = proxy.link.clone();
    let mut exchange = Exchange {
        proxy,
        caller,
        head,
        info,
        class,
        form,
        drain: peer.drain.clone(),
        write_timeout: peer.write_timeout,
        on_the_way: tally.upstream(),
    };
    let websocket = wanted
        .as_ref()
        .and_then(|wanted| WebSocketWatch::of(&mut exchange, wanted));
    let tunnelled = wanted.filter(|_| websocket.is_none());
    if tunnelled.is_some() {
        tally.tunnels();
    }
    let filtered = match exchange.filtered() {
        Ok(filtered) => filtered.filter(|_| tunnelled.is_none()),
        Err(status) => {
            let response = exchange.refuse(&status);
            tally.end(&metrics, &response);
            return response;
        }
    };

    // Large, and of different sizes: each takes only its own.
    let response = match (tunnelled, class) {
        (Some(_), _) => Box::pin(upgrade::handle(exchange, body)).await,
        (None, Class::Watch) => Box::pin(watch::handle(exchange, body)).await,
        (None, Class::Mutate) => Box::pin(write::handle(exchange, body)).await,
        (None, Class::Stream) => Box::pin(forward::stream(exchange, body)).await,
        (None, Class::NonResource | Class::Get | Class::List) => {
            Box::pin(forward::read(exchange, body)).await
        }
    };
    let is_cached = response.extensions().get::<FromCache>().is_some();
    if is_cached {
        link.stood_in();
    }
    let (route, took) = (tally.route(), tally.elapsed());
    tally.end(&metrics, &response);
    if let Some(described) = described {
        let Described {
            client,
            verb,
            resource,
        } = *described;
        let audit_id = response.headers().get("audit-id").and_then(|id| id.to_str().ok());
        tracing::debug!(
            client,
            verb,
            resource,
            %method,
            path,
            class = class.as_str(),
            route,
            status = response.status().as_u16(),
            cached = is_cached,
            took = ?took,
            audit_id,
            "request"
        );
    }
    let response = match filtered {
        Some(filtered) => filtered.apply(response),
        None => response,
    };
    let response = response.map(|body| body::holding(body, under_way).boxed_unsync());
    match websocket {
        Some(websocket) => websocket.apply(response),
        None => response,
    }
}

/// What the log says of a request.
struct Described {
    client: String,
    verb: &'static str,
    resource: String,
}

/// `None` while nobody wants to read it.
fn described(caller: &Caller, info: &RequestInfo) -> Option<Box<Described>> {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return None;
    }
    let (verb, resource) = match info {
        RequestInfo::Resource(asked) => (asked.verb.as_str(), qualified(&asked.group, &asked.resource)),
        RequestInfo::NonResource | RequestInfo::Malformed => ("", String::new()),
    };
    Some(Box::new(Described {
        client: caller.transport.name().to_owned(),
        verb,
        resource,
    }))
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

    /// The query of a caller who is known already: what is recorded of it is begun before it is sent.
    pub(super) fn recorded_query(&self) -> Option<Query> {
        self.query(self.caller.principal()?)
    }

    /// The query of whoever this caller will be if upstream accepts it.
    pub(super) fn claimed_query(&self) -> Option<Query> {
        self.query(&self.caller.claimed_as(&self.proxy)?)
    }

    /// The query of whoever upstream has answered.
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

    /// What another list of this principal has to be to share its answer.
    pub(super) fn same(&self, principal: &str) -> Same {
        Same {
            principal: principal.to_owned(),
            transport: self.caller.transport.name().to_owned(),
            method: self.head.method.clone(),
            target: self.head.uri.clone(),
            headers: self.head.headers.clone(),
        }
    }

    /// The query as the cache may answer it without the cloud's word.
    pub(super) async fn answerable_query(&self) -> Option<Query> {
        self.query(&self.caller.answered_as(&self.proxy).await?)
    }

    /// The answer from the cache, if there is one that may be given now. While the cloud may be there that is
    /// only what was read before: what is not there, or has expired, is for the cloud to say.
    ///
    /// # Errors
    /// There is none, and why, if the cache could be asked.
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

    /// What an answer of the cache is now.
    pub(super) fn instead(&self) -> Instead {
        match self.proxy.link.state() {
            LinkState::Offline => Instead::Offline,
            LinkState::Online | LinkState::Suspect => Instead::Stale,
        }
    }

    /// The way upstream.
    ///
    /// # Errors
    /// It is not for this caller, now.
    pub(super) fn upstream(&self) -> Result<&Transport, UpstreamError> {
        self.caller.upstream(&self.proxy)
    }

    /// A refusal in the client's form.
    pub(super) fn refuse(&self, status: &Status) -> Response<Body> {
        refusal(status, &self.form)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Each request of a connection is one future, part of its task on HTTP/1.1 and a task on HTTP/2.
    #[test]
    fn the_future_of_a_request_is_small() {
        assert!(size(Proxy::handle) < 8 << 10, "{} bytes", size(Proxy::handle));
    }
}
