//! Who gave an answer: an apiserver, or something on the way in its place.

use http::{Extensions, HeaderMap, Response, StatusCode, header};

use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::Body;

use super::cause::Cause;
use super::error::UpstreamError;
use super::failure::Failure;

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
pub(super) fn is_anothers(response: &Response<Body>, answers: Answers) -> bool {
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
pub(super) fn is_encoded(headers: &HeaderMap) -> bool {
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
