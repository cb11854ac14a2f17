//! One request from its head to the head of its answer: reads who calls and what for, and picks the route.

use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{Method, Request, Response, Uri, request};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::cache::{Answer, Query};
use crate::identity::Principal;
use crate::kube::request::{Class, RequestInfo};
use crate::kube::status::Status;
use crate::runtime::body::{Body, Holding};

use super::caller::Caller;
use super::headers::{strip_request, upgrade_protocol};
use super::respond::{Form, cached, refusal};
use super::signing::Signing;
use super::{Peer, Proxy, Tether, forward, upgrade, watch, write};

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
    pub(super) tether: Tether,
    /// With the client.
    pub(super) patience: Duration,
}

/// Handles one request.
pub(super) async fn handle(proxy: Arc<Proxy>, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
    let (head, body) = request.into_parts();
    let form = Form::of(&head.method, &head.headers);
    if head.method == Method::CONNECT || !head.uri.path().starts_with('/') {
        return refusal(
            &Status::bad_request("edgehold forwards requests for paths only"),
            &form,
        );
    }
    let info = RequestInfo::parse(&head.method, head.uri.path(), head.uri.query());
    let signing = Signing::asked(&info, &form);
    let response = understood(proxy, (head, body), peer, info, form).await;
    match signing {
        Some(signing) => signing.answered(response),
        None => response,
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
    let wanted = upgrade_protocol(&head.headers);
    // Credentials first: one of them hides in a WebSocket header.
    let caller = match Caller::identify(&proxy, peer, &mut head.headers) {
        Ok(caller) => caller,
        Err(status) => {
            tracing::debug!(peer = %peer.address, status = status.code.as_u16(), reason = status.message, "refused");
            return refusal(&status, &form);
        }
    };
    strip_request(&mut head.headers);
    let class = info.class(&head.method);
    let under_way = match proxy.limits.admit(&proxy, &caller, class) {
        Ok(under_way) => under_way,
        Err(over) => {
            let client = caller.transport.name();
            tracing::debug!(
                client,
                class = class.as_str(),
                limit = over.as_str(),
                "over its limit"
            );
            return refusal(&Status::too_many_requests(over.message()), &form);
        }
    };
    let (method, path) = (head.method.clone(), head.uri.path().to_owned());
    let mut exchange = Exchange {
        proxy,
        caller,
        head,
        info,
        class,
        form,
        tether: peer.tether.clone(),
        patience: peer.patience,
    };
    let filtered = match exchange.filtered() {
        Ok(filtered) => filtered.filter(|_| wanted.is_none()),
        Err(status) => return exchange.refuse(&status),
    };

    let response = match (wanted, class) {
        (Some(protocol), _) => upgrade::handle(exchange, body, protocol).await,
        (None, Class::Watch) => watch::handle(exchange, body).await,
        (None, Class::Mutate) => write::handle(exchange, body).await,
        (None, Class::Stream) => forward::stream(exchange, body).await,
        (None, Class::NonResource | Class::Get | Class::List) => forward::read(exchange, body).await,
    };
    tracing::debug!(
        %method,
        path,
        class = class.as_str(),
        status = response.status().as_u16(),
        cached = response.headers().contains_key("cache-status"),
        "request"
    );
    let response = match filtered {
        Some(filtered) => filtered.apply(response),
        None => response,
    };
    match under_way {
        Some(under_way) => response.map(|body| Holding::new(body, under_way).boxed_unsync()),
        None => response,
    }
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

    /// The query as it is recorded: whose the answer will be if upstream accepts the caller.
    pub(super) fn recorded_query(&self) -> Option<Query> {
        self.query(&self.caller.recorded_as(&self.proxy)?)
    }

    /// The same for another target of the same request.
    pub(super) fn recorded_query_for(&self, target: &PathAndQuery) -> Option<Query> {
        let principal = self.caller.recorded_as(&self.proxy)?;
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

    /// The query as the cache may answer it without the cloud's word.
    pub(super) async fn answerable_query(&self) -> Option<Query> {
        self.query(&self.caller.answered_as(&self.proxy).await?)
    }

    /// The answer from the cache, if there is one.
    pub(super) async fn cached_answer(&self) -> Option<Response<Body>> {
        let query = self.answerable_query().await?;
        match self.proxy.cache.answer(&query).await {
            Answer::Found(found) => Some(cached(*found, &self.form)),
            Answer::Refused(status) => Some(refusal(&status, &self.form)),
            Answer::Unknown => None,
        }
    }

    /// A refusal in the client's form.
    pub(super) fn refuse(&self, status: &Status) -> Response<Body> {
        refusal(status, &self.form)
    }
}
