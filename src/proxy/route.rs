//! The router: identifies the caller, admits or refuses the request, and picks its route.

use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, Version, header, request};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::kube::groups::qualified;
use crate::kube::request::{Class, RequestInfo, is_escaped_well};
use crate::kube::status::Status;
use crate::runtime::body::{self, Body};
use crate::runtime::shares::Share;

use super::caller::{Caller, Peer};
use super::context::Proxy;
use super::csr_guard::CsrGuard;
use super::exchange::Exchange;
use super::filtered::Filtered;
use super::headers::forwardable;
use super::limits::{Over, UnderWay};
use super::respond::{Form, FromCache, refusal};
use super::tally::Tally;
use super::websocket::WebSocketWatch;
use super::{forward, sections, upgrade, watch, write};

/// A request before its caller is known.
struct Asked {
    head: request::Parts,
    info: RequestInfo,
    class: Class,
    form: Form,
}

/// A request that may go on to its route.
struct Admitted {
    exchange: Exchange,
    /// Whether it becomes a connection of its own.
    is_tunnel: bool,
    /// The client's side, if it is a watch over WebSocket.
    websocket: Option<WebSocketWatch>,
    /// How the answer is rewritten.
    filtered: Option<Filtered>,
    /// Held until the end of the answer.
    permits: Permits,
}

/// Of the limits of its client, and of the budget of header sections.
type Permits = (Option<UnderWay>, Share);

impl Proxy {
    /// Handles one request. Always answers: what goes wrong becomes a Kubernetes `Status`.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let form = Form::of(&head.method, &head.headers);
        if let Some(wrong) = misread(&head) {
            return refusal(&Status::bad_request(format!("edgehold: {wrong}")), &form);
        }
        let info = RequestInfo::parse(&head.method, head.uri.path(), head.uri.query());
        let guard = CsrGuard::of(&info, &form);
        let class = info.class(&head.method);
        let asked = Asked {
            head,
            info,
            class,
            form,
        };
        let response = routed(self, asked, body, &peer).await;
        match guard {
            Some(guard) => guard.apply(response),
            None => response,
        }
    }
}

/// What makes a request unreadable. It is not sent on: an apiserver might close the connection over it.
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
async fn routed(proxy: Arc<Proxy>, asked: Asked, body: Incoming, peer: &Peer) -> Response<Body> {
    let class = asked.class;
    let metrics = proxy.metrics.requests.clone();
    let link = proxy.link.clone();
    let mut tally = Tally::begin(&asked.info, class);
    let Admitted {
        exchange,
        is_tunnel,
        websocket,
        filtered,
        permits,
    } = match admitted(proxy, asked, peer, &mut tally) {
        Ok(admitted) => admitted,
        Err(refused) => {
            tally.end(&metrics, &refused);
            return *refused;
        }
    };
    let described = Described::of(&exchange);

    // They are large, and differ in size: each allocates only its own.
    let response = match class {
        _ if is_tunnel => Box::pin(upgrade::handle(exchange, body)).await,
        Class::Watch => Box::pin(watch::handle(exchange, body)).await,
        Class::Mutate => Box::pin(write::handle(exchange, body)).await,
        Class::Stream => Box::pin(forward::stream(exchange, body)).await,
        Class::NonResource | Class::Get | Class::List => Box::pin(forward::read(exchange, body)).await,
    };
    if response.extensions().get::<FromCache>().is_some() {
        link.stood_in();
    }
    if let Some(described) = described {
        described.log(&response, &tally);
    }
    tally.end(&metrics, &response);
    let response = match filtered {
        Some(filtered) => filtered.apply(response),
        None => response,
    };
    let response = response.map(|body| body::holding(body, permits).boxed_unsync());
    match websocket {
        Some(websocket) => websocket.apply(response),
        None => response,
    }
}

/// Identifies the caller, applies its limits, and prepares the request for its route.
///
/// # Errors
/// The refusal that the client gets.
fn admitted(
    proxy: Arc<Proxy>,
    asked: Asked,
    peer: &Peer,
    tally: &mut Tally,
) -> Result<Admitted, Box<Response<Body>>> {
    let Asked {
        mut head,
        info,
        class,
        form,
    } = asked;
    let size = sections::size(&head);
    let (wanted, caller) = identified(&proxy, peer, &mut head).map_err(|status| {
        tracing::debug!(peer = %peer.address, status = status.code.as_u16(), reason = status.message, "refused");
        Box::new(refusal(&status, &form))
    })?;
    tally.is_by(caller.kind());
    let permits = permits(&proxy, &caller, class, size).map_err(|over| {
        let client = caller.transport.name();
        tracing::debug!(
            client,
            class = class.as_str(),
            limit = over.as_str(),
            "over its limit"
        );
        proxy.metrics.requests.limited(over);
        if !caller.is_default() {
            proxy.incidents.over_limit(client, over.as_str());
        }
        Box::new(refusal(&Status::too_many_requests(over.message()), &form))
    })?;
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
    let is_tunnel = wanted.is_some() && websocket.is_none();
    if is_tunnel {
        tally.tunnels();
    }
    match exchange.filtered() {
        Ok(filtered) => Ok(Admitted {
            exchange,
            is_tunnel,
            websocket,
            filtered: filtered.filter(|_| !is_tunnel),
            permits,
        }),
        Err(status) => Err(Box::new(exchange.refuse(&status))),
    }
}

/// Makes the headers those that go upstream, and identifies the caller from these alone: the apiserver sees
/// nothing else. Also returns the protocol to upgrade to.
fn identified(
    proxy: &Proxy,
    peer: &Peer,
    head: &mut request::Parts,
) -> Result<(Option<HeaderValue>, Caller), Status> {
    let wanted = forwardable(&mut head.headers)
        .map_err(|misused| Status::bad_request(format!("edgehold: {misused}")))?;
    Ok((wanted, Caller::identify(proxy, peer, &mut head.headers)?))
}

/// Takes a permit from the client's limits, and one for a header section of `size` bytes.
fn permits(proxy: &Proxy, caller: &Caller, class: Class, size: usize) -> Result<Permits, Over> {
    let under_way = proxy.limits.admit(caller.client(), caller.holder(), class)?;
    let section = match caller.holder() {
        Some(holder) => proxy.sections.admit(holder, size),
        None => proxy
            .sections
            .admit(&format!("cn:{}", caller.transport.name()), size),
    };
    Ok((under_way, section.ok_or(Over::Headers)?))
}

/// What the log says of a request.
struct Described {
    client: String,
    verb: &'static str,
    resource: String,
    method: Method,
    path: String,
    class: Class,
}

impl Described {
    /// `None` unless it is going to be logged.
    fn of(exchange: &Exchange) -> Option<Box<Self>> {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return None;
        }
        let (verb, resource) = match &exchange.info {
            RequestInfo::Resource(asked) => (asked.verb.as_str(), qualified(&asked.group, &asked.resource)),
            RequestInfo::NonResource | RequestInfo::Malformed => ("", String::new()),
        };
        Some(Box::new(Self {
            client: exchange.caller.transport.name().to_owned(),
            verb,
            resource,
            method: exchange.head.method.clone(),
            path: exchange.head.uri.path().to_owned(),
            class: exchange.class,
        }))
    }

    fn log(&self, response: &Response<Body>, tally: &Tally) {
        let audit_id = response.headers().get("audit-id").and_then(|id| id.to_str().ok());
        tracing::debug!(
            client = self.client,
            verb = self.verb,
            resource = self.resource,
            method = %self.method,
            path = self.path,
            class = self.class.as_str(),
            route = tally.route(),
            status = response.status().as_u16(),
            cached = response.extensions().get::<FromCache>().is_some(),
            took = ?tally.elapsed(),
            audit_id,
            "request"
        );
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
