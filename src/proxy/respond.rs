//! Answers of our own: a `Status` in an encoding that the client takes, and cached answers with their age.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};

use crate::cache::Found;
use crate::kube::media::{self, Encoding, Offer};
use crate::kube::status::Status;
use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::runtime::problem::coded;
use crate::upstream::Link;
use crate::wire::status::encode_status;

/// Marks a refusal as edgehold's own, and holds its message.
#[derive(Debug, Clone)]
pub(super) struct Ours(pub(super) String);

/// Marks answers from the cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct FromCache;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");
const WARNING: HeaderName = HeaderName::from_static("warning");

/// What decides the form of edgehold's own answers.
#[derive(Debug, Clone, Default)]
pub(super) struct Form {
    pub(super) accept: Option<String>,
    pub(super) head: bool,
    is_kubectl: bool,
}

impl Form {
    pub(super) fn of(method: &http::Method, headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned)
        };
        Self {
            accept: text(header::ACCEPT),
            head: method == http::Method::HEAD,
            is_kubectl: text(header::USER_AGENT).is_some_and(|agent| agent.starts_with("kubectl/")),
        }
    }

    fn encoding(&self) -> Encoding {
        let wanted = media::negotiate(self.accept.as_deref(), Offer::All).map(|r| r.encoding);
        wanted.unwrap_or(Encoding::Json)
    }
}

/// edgehold's own refusal.
pub(super) fn refusal(status: &Status, form: &Form) -> Response<Body> {
    let encoding = form.encoding();
    let bytes = encode_status(encoding, status);
    let body = if form.head {
        body::empty()
    } else {
        body::full(bytes)
    };
    let mut response = Response::new(body);
    *response.status_mut() = status.code;
    // A Status in YAML is written as JSON, which YAML contains.
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static(encoding.media_type()),
    );
    response.extensions_mut().insert(Ours(status.message.clone()));
    if let Some(seconds) = status.retry_after_seconds {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    ours(response.headers_mut());
    response
}

/// Why the cache answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instead {
    /// The cloud is unreachable.
    Offline,
    /// It may be reachable, but gave no good answer: this may be older than what it would say.
    Stale,
}

impl Instead {
    /// The whole `Cache-Status`.
    fn cache_status(self) -> &'static str {
        match self {
            Self::Offline => "edgehold; hit; detail=offline",
            Self::Stale => "edgehold; hit; detail=stale",
        }
    }

    /// For kubectl's user.
    fn reason(self, link: &Link) -> String {
        match self {
            Self::Offline => link.away(),
            Self::Stale => link.with_reason("no good answer came from the cloud"),
        }
    }
}

/// Adds the reason why the cache had no answer, in one word.
pub(super) fn missed(mut response: Response<Body>, why: &'static str) -> Response<Body> {
    if let Ok(value) = HeaderValue::from_str(&format!("edgehold; detail={why}")) {
        response.headers_mut().insert(CACHE_STATUS, value);
    }
    response
}

/// A cached answer.
pub(super) fn cached(found: Found, form: &Form, instead: Instead, link: &Link) -> Response<Body> {
    let mut response = Response::new(if form.head { body::empty() } else { found.body });
    *response.status_mut() = found.status;
    *response.headers_mut() = found.headers;
    mark_cached(&mut response, instead);
    let age = clock::wall().duration_since(found.validated);
    let age = age.unwrap_or_default().as_secs();
    let headers = response.headers_mut();
    headers.insert(header::AGE, HeaderValue::from(age));
    if form.is_kubectl {
        let (reason, age) = (instead.reason(link), spoken(age));
        let text = format!("{reason}: this is what edgehold knew {age} ago");
        let text = format!("299 - \"{}\"", coded(&text, link.code()));
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(WARNING, value);
        }
    }
    response
}

/// A held watch: headers at once, then the body.
pub(super) fn held_watch(encoding: Encoding, body: Body, instead: Instead) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::OK;
    let content_type = HeaderValue::from_static(encoding.watch_media_type());
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    mark_cached(&mut response, instead);
    response
}

fn mark_cached(response: &mut Response<Body>, instead: Instead) {
    response.extensions_mut().insert(FromCache);
    let headers = response.headers_mut();
    headers.insert(CACHE_STATUS, HeaderValue::from_static(instead.cache_status()));
    ours(headers);
}

/// The headers that an apiserver puts on every answer (wire contract 2.3).
fn ours(headers: &mut HeaderMap) {
    if let Ok(id) = HeaderValue::from_str(&uuid::Uuid::new_v4().to_string()) {
        headers.insert(AUDIT_ID, id);
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
}

/// An age as kubectl shows ages: the largest unit.
fn spoken(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::upstream::testing;

    fn form(accept: &str, agent: &str) -> Form {
        let headers = HeaderMap::from_iter([
            (header::ACCEPT, accept.parse().unwrap()),
            (header::USER_AGENT, agent.parse().unwrap()),
        ]);
        Form::of(&http::Method::GET, &headers)
    }

    #[tokio::test]
    async fn a_refusal_is_a_status_in_the_clients_encoding_without_retry_after() {
        let status = Status::unavailable("the cloud is away");
        for (accept, expected) in [
            ("application/json", "application/json"),
            (
                "application/vnd.kubernetes.protobuf, */*",
                "application/vnd.kubernetes.protobuf",
            ),
            ("text/html", "application/json"),
        ] {
            let response = refusal(&status, &form(accept, "x"));
            assert_eq!(response.status(), 503);
            assert_eq!(response.headers()[header::CONTENT_TYPE], expected);
            assert!(!response.headers().contains_key(header::RETRY_AFTER));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            let encoding = Encoding::of_content_type(expected).unwrap();
            let read = crate::wire::status::read_status(encoding, &body).unwrap();
            assert_eq!((read.code, read.reason.as_str()), (503, "ServiceUnavailable"));
        }
    }

    #[test]
    fn only_kubectl_gets_a_warning() {
        let link = testing::link_away();
        let found = || Found {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body::empty(),
            validated: clock::wall() - std::time::Duration::from_secs(90),
        };
        for (instead, reason, status) in [
            (
                Instead::Offline,
                "the cloud cannot be reached (cloud:6443: connection refused, since 2",
                "edgehold; hit; detail=offline",
            ),
            (
                Instead::Stale,
                "no good answer came from the cloud (cloud:6443: connection refused, since 2",
                "edgehold; hit; detail=stale",
            ),
        ] {
            let form = |agent| form("*/*", agent);
            let response = cached(found(), &form("kubectl/v1.36.0 (linux/amd64)"), instead, &link);
            let warning = response.headers()[WARNING].to_str().unwrap();
            assert!(warning.starts_with(&format!("299 - \"{reason}")), "{warning}");
            assert!(
                warning.contains("Z): this is what edgehold knew 90s ago"),
                "{warning}"
            );
            assert_eq!(response.headers()[header::AGE], "90");
            let response = cached(found(), &form("kubelet/v1.36.0"), instead, &link);
            assert!(!response.headers().contains_key(WARNING));
            assert_eq!(response.headers()[CACHE_STATUS], status);
        }
    }

    #[test]
    fn ages_are_spoken_in_their_largest_unit() {
        assert_eq!(
            [0, 119, 120, 7200, 172_800].map(spoken),
            ["0s", "119s", "2m", "2h", "2d"]
        );
    }
}
