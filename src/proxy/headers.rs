//! Which headers cross the proxy (RFC 9110 section 7.6.1; wire contract 8.2, 8.3).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Headers that concern one connection only.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What is for the apiserver, or tells it who asks, whatever `Connection` says of it.
const END_TO_END: [HeaderName; 10] = [
    header::AUTHORIZATION,
    HeaderName::from_static("audit-id"),
    header::CACHE_CONTROL,
    header::COOKIE,
    header::DATE,
    header::FORWARDED,
    header::HOST,
    header::ORIGIN,
    header::RANGE,
    header::USER_AGENT,
];

/// The same for all headers that begin like this.
const END_TO_END_FAMILIES: [&str; 7] = [
    "accept",
    "content-",
    "if-",
    "impersonate-",
    "sec-",
    "x-forwarded-",
    "x-remote-",
];

/// `Connection` names a header that is not of the connection. Removed, the request would be another one than
/// its client wrote, and whoever reads the two may take them for two callers.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("Connection names {0}, which is not of the connection")]
pub(super) struct NotHopByHop(HeaderName);

/// Makes the headers of a request those that go upstream, but for the credentials. `TE: trailers` stays, as
/// HTTP/2 allows, and of an upgrade what asks for it: the protocol (`websocket`, `SPDY/3.1`) is returned.
///
/// # Errors
/// [`NotHopByHop`].
pub(super) fn forwardable(headers: &mut HeaderMap) -> Result<Option<HeaderValue>, NotHopByHop> {
    if let Some(name) = named_by_connection(headers).find(is_end_to_end) {
        return Err(NotHopByHop(name));
    }
    let upgrade = upgrade_protocol(headers);
    let wants_trailers = options(headers, header::TE).any(|option| option.eq_ignore_ascii_case("trailers"));
    strip_hop_by_hop(headers);
    // hyper has answered it: the body is streamed as it comes.
    headers.remove(header::EXPECT);
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = &upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    Ok(upgrade)
}

/// Removes what concerns our connection to the apiserver from a response.
pub(super) fn strip_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // RFC 9112, section 6.3: beside it a length does not count, and is not passed on.
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
    let named: Vec<HeaderName> = named_by_connection(headers).collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

fn is_end_to_end(name: &HeaderName) -> bool {
    END_TO_END.contains(name)
        || END_TO_END_FAMILIES
            .iter()
            .any(|family| name.as_str().starts_with(family))
}

fn named_by_connection(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    options(headers, header::CONNECTION).filter_map(|option| option.parse().ok())
}

/// The protocol that a request wants to upgrade to; `None` for an ordinary request.
fn upgrade_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = options(headers, header::CONNECTION).any(|option| option.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asks).cloned()
}

/// The members of a header that is a list.
fn options(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(k, v)| {
                (
                    k.parse::<HeaderName>().unwrap(),
                    HeaderValue::from_str(v).unwrap(),
                )
            })
            .collect()
    }

    fn stripped(pairs: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(pairs);
        assert_eq!(forwardable(&mut headers), Ok(None));
        headers
    }

    #[test]
    fn hop_by_hop_headers_and_those_named_by_connection_go() {
        let headers = stripped(&[
            ("connection", "close, X-Private, keep-alive, TE, HTTP2-Settings"),
            ("x-private", "1"),
            ("keep-alive", "5"),
            ("transfer-encoding", "chunked"),
            ("expect", "100-continue"),
            ("accept", "application/json"),
            ("traceparent", "00-1-2-03"),
        ]);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "traceparent"]);
    }

    #[test]
    fn a_length_counts_only_without_a_transfer_encoding() {
        let both = stripped(&[("content-length", "3"), ("transfer-encoding", "chunked")]);
        assert!(both.is_empty(), "{both:?}");
        assert_eq!(stripped(&[("content-length", "3")])[header::CONTENT_LENGTH], "3");
    }

    #[test]
    fn connection_may_name_nothing_that_is_for_the_apiserver() {
        for name in [
            "Authorization",
            "Cookie",
            "Host",
            "Accept",
            "accept-encoding",
            "Content-Length",
            "content-type",
            "If-None-Match",
            "Impersonate-User",
            "Impersonate-Extra-scopes",
            "Origin",
            "Sec-WebSocket-Protocol",
            "User-Agent",
            "X-Remote-User",
        ] {
            for value in [name.to_owned(), format!("close ,\t{name} , Upgrade")] {
                let mut headers = map(&[("connection", "keep-alive"), ("upgrade", "websocket")]);
                headers.append(header::CONNECTION, value.parse().unwrap());
                let refused = Err(NotHopByHop(name.parse().unwrap()));
                assert_eq!(forwardable(&mut headers), refused, "{value}");
            }
        }
    }

    #[test]
    fn only_te_trailers_survives() {
        assert_eq!(stripped(&[("te", "gzip, trailers")])[header::TE], "trailers");
        assert!(stripped(&[("te", "gzip")]).is_empty());
    }

    #[test]
    fn an_upgrade_needs_both_headers_and_goes_upstream_in_its_plain_form() {
        let mut headers = map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "SPDY/3.1")]);
        assert_eq!(forwardable(&mut headers).unwrap().unwrap(), "SPDY/3.1");
        assert_eq!(
            headers,
            map(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")])
        );
        assert!(stripped(&[("upgrade", "websocket")]).is_empty());
    }
}
