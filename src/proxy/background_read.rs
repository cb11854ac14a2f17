//! Reads that edgehold sends by itself on behalf of a client, with its credential, selectors and form, since
//! nothing else may be authorized.

use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Response, Uri, header};
use http_body_util::BodyExt;

use crate::cache::Query;
use crate::kube::request::{Class, RequestInfo};
use crate::runtime::body::{self, Body};
use crate::upstream::{LinkState, Purpose, RetryPolicy};

use super::exchange::Exchange;
use super::gzip;
use super::watch::target::{listed, listed_accept};

/// How long to wait for the head of the answer, for each further piece of it, and for the disk after it.
pub(super) const STANDSTILL: Duration = Duration::from_secs(60);

/// One such read.
pub(super) struct BackgroundRead {
    target: PathAndQuery,
    headers: HeaderMap,
    pub(super) query: Query,
}

impl BackgroundRead {
    /// What the client asks for; for a watch, the list of what it watches.
    pub(super) fn of(exchange: &Exchange) -> Option<Self> {
        match exchange.class {
            Class::Watch => Self::list_of(exchange),
            Class::Get | Class::List | Class::NonResource if exchange.head.method == Method::GET => {
                let (principal, _) = exchange.caller.now(&exchange.proxy);
                Some(Self {
                    target: exchange.head.uri.path_and_query()?.clone(),
                    headers: exchange.request(body::empty()).headers().clone(),
                    query: exchange.query(&principal?)?,
                })
            }
            _ => None,
        }
    }

    /// Sends it; `None` if there is no answer before the cloud is unreachable.
    pub(super) async fn ask(&self, exchange: &Exchange) -> Option<Response<Body>> {
        let mut request = exchange.request_for(Some(self.target.clone()), body::empty());
        request.headers_mut().clone_from(&self.headers);
        let (_, holder) = exchange.caller.now(&exchange.proxy);
        let policy = RetryPolicy::read(Purpose::Large)
            .on_behalf_of(holder)
            .for_answers(exchange.answers());
        let sending = exchange.send(request, &policy);
        let sent = tokio::select! {
            sent = tokio::time::timeout(STANDSTILL, sending) => sent.ok()?,
            () = exchange.proxy.link.reaches(LinkState::Offline) => return None,
        };
        sent.ok()
    }

    /// The list of what a watch watches.
    pub(super) fn list_of(exchange: &Exchange) -> Option<Self> {
        let RequestInfo::Resource(resource) = &exchange.info else {
            return None;
        };
        if exchange.head.method != Method::GET {
            return None;
        }
        let target = listed(exchange.head.uri.path_and_query()?, resource)?;
        let mut headers = exchange.head.headers.clone();
        if let Some(accept) = headers
            .get(header::ACCEPT)
            .and_then(|accept| accept.to_str().ok())
        {
            let accept = HeaderValue::from_str(&listed_accept(accept)).ok()?;
            headers.insert(header::ACCEPT, accept);
        }
        let compression = exchange.caller.transport.compression();
        gzip::ask(
            &exchange.head,
            Class::List,
            target.query(),
            compression,
            &mut headers,
        );
        let (principal, _) = exchange.caller.now(&exchange.proxy);
        let info = RequestInfo::parse(&Method::GET, target.path(), target.query());
        let (uri, class) = (Uri::from(target.clone()), info.class(&Method::GET));
        let query = Query::new(principal?.key(), &Method::GET, &uri, &headers, &info, class)?;
        Some(Self {
            target,
            headers,
            query,
        })
    }
}

/// Reads a body to its end; whether it came to that.
pub(super) async fn drained(mut body: Body) -> bool {
    loop {
        match tokio::time::timeout(STANDSTILL, body.frame()).await {
            Ok(None) => return true,
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
}
