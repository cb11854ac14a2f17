//! Finds out who owns a token that names no service account of this cluster. When an apiserver accepts it for
//! the first time, it is asked once, with that very token (`SelfSubjectReview`); without an answer the token
//! stands for itself.
//!
//! Other requests with the token wait for the answer, so that it is decided only once under which principal
//! their answers are kept. No apiserver is asked about a token that none has accepted.

use std::net::IpAddr;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::watch;

use crate::identity::{BearerToken, Principal, PrincipalKind, REVIEW, REVIEW_PATH, reviewed};
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::{self, Body};
use crate::upstream::{Answers, Purpose, RetryPolicy};

use super::caller::Caller;
use super::context::Proxy;
use super::tokens;

/// The largest answer. Users of some directories have hundreds of groups.
const LARGEST: usize = 256 << 10;

/// What an apiserver says of a token.
enum Said {
    Owner(Principal),
    /// It does not accept it after all.
    Refused,
    /// Nothing usable.
    Nothing,
}

/// An apiserver has accepted a caller's token. The channel closes once the owner is known; `None` if it is
/// known already.
pub(super) fn accepted(
    proxy: &Arc<Proxy>,
    caller: &Caller,
    token: &BearerToken,
) -> Option<watch::Receiver<()>> {
    if !tokens::is_proved(proxy, token) {
        let candidate = tokens::candidate(proxy, token);
        if let PrincipalKind::Token { .. } = candidate.kind() {
            return Some(asked(proxy, caller, token, candidate));
        }
    }
    tokens::accepted(proxy, token, None);
    None
}

/// Asks in a separate task, since the caller may leave.
fn asked(proxy: &Arc<Proxy>, caller: &Caller, token: &BearerToken, itself: Principal) -> watch::Receiver<()> {
    let mut under_way = proxy.owners_asked.lock();
    if let Some(answered) = under_way.get(&itself) {
        return answered.clone();
    }
    let (asking, answered) = watch::channel(());
    under_way.insert(itself.clone(), answered.clone());
    drop(under_way);
    let (inner, source, holder) = (
        Arc::clone(proxy),
        caller.source(),
        caller.holder().map(str::to_owned),
    );
    let token = token.clone();
    proxy.tasks.spawn("owner", async move {
        let limit = inner.transports.default_transport().response_timeout();
        let said = tokio::time::timeout(limit, ask(&inner, &token, holder)).await;
        settle(&inner, &token, &itself, said.unwrap_or(Said::Nothing), source);
        drop(asking);
    });
    answered
}

fn settle(proxy: &Proxy, token: &BearerToken, itself: &Principal, said: Said, source: IpAddr) {
    let owner = match said {
        Said::Refused => return tokens::refused(proxy, token, source),
        Said::Owner(owner) => Some(owner),
        Said::Nothing => {
            tracing::debug!("no apiserver says whose a token is: it stands for itself");
            None
        }
    };
    // Unless the token was refused meanwhile.
    if proxy.owners_asked.lock().remove(itself).is_some() {
        tokens::accepted(proxy, token, owner);
    }
}

/// Asks an apiserver. The request has nothing from the caller but the token.
async fn ask(proxy: &Proxy, token: &BearerToken, holder: Option<String>) -> Said {
    let Some(request) = question(token) else {
        return Said::Nothing;
    };
    let policy = RetryPolicy::once(Purpose::Short)
        .on_behalf_of(holder)
        .for_answers(Answers::Encoded);
    match proxy.transports.default_transport().send(request, &policy).await {
        Ok(response) => said(response).await,
        Err(error) => {
            tracing::debug!(%error, "an apiserver could not be asked whose a token is");
            Said::Nothing
        }
    }
}

fn question(token: &BearerToken) -> Option<Request<Body>> {
    let mut authorization = HeaderValue::from_bytes(&[b"Bearer ", token.as_bytes()].concat()).ok()?;
    authorization.set_sensitive(true);
    let mut request = Request::new(body::full(REVIEW));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(REVIEW_PATH);
    let headers = request.headers_mut();
    headers.insert(header::AUTHORIZATION, authorization);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    Some(request)
}

async fn said(response: Response<Body>) -> Said {
    let (head, body) = response.into_parts();
    if !is_from_apiserver(&head.headers, &head.extensions) {
        return Said::Nothing;
    }
    match head.status {
        StatusCode::UNAUTHORIZED => Said::Refused,
        StatusCode::CREATED | StatusCode::OK => {
            let whole = Limited::new(body, LARGEST).collect().await;
            let owner = whole.ok().and_then(|whole| reviewed(&whole.to_bytes()));
            owner.map_or(Said::Nothing, Said::Owner)
        }
        _ => Said::Nothing,
    }
}
