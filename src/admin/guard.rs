//! Who may ask. Pure.
//!
//! A page of some site in a browser on this machine can send requests to the loopback, and by DNS rebinding under the site's
//! own name. Hence over TCP `Host` must be an address of the loopback or `localhost`, and whatever has an `Origin` must come
//! from there. With a token file, every request shows the token: as a Bearer token (RFC 6750), or as the password of any user
//! (RFC 7617), for which a browser asks.
//!
//! Without one every user of the node may ask on a port: how edgehold is, and nothing else.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::uri::Authority;
use http::{HeaderMap, StatusCode, header};

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Unix,
    Tcp,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Matter {
    /// How edgehold is.
    Health,
    /// What its clients read, or a change.
    Private,
}

/// Why a request is refused.
pub(super) type Refusal = (StatusCode, &'static str);

/// Lets a request through: `token` is what it must show, if anything.
pub(super) fn admit(
    headers: &HeaderMap,
    over: Over,
    matter: Matter,
    token: Option<&str>,
) -> Result<(), Refusal> {
    if over == Over::Tcp && !host(headers).is_some_and(is_local) {
        return Err((
            StatusCode::FORBIDDEN,
            "Host must be an address of the loopback or localhost",
        ));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin
            .to_str()
            .ok()
            .and_then(|origin| origin.strip_prefix("http://"));
        if origin != host(headers) {
            return Err((StatusCode::FORBIDDEN, "pages of other origins may not ask"));
        }
    }
    let Some(token) = token else {
        return match (over, matter) {
            (Over::Tcp, Matter::Private) => Err((
                StatusCode::FORBIDDEN,
                "on a port this is for those who show the token of admin.tokenFile, and there is none",
            )),
            (Over::Unix, _) | (Over::Tcp, Matter::Health) => Ok(()),
        };
    };
    match shown(headers) {
        // Hashes are compared in constant time.
        Some(shown) if blake3::hash(&shown) == blake3::hash(token.as_bytes()) => Ok(()),
        _ => Err((
            StatusCode::UNAUTHORIZED,
            "the token of admin.tokenFile is missing or wrong",
        )),
    }
}

/// The token that the request shows.
fn shown(headers: &HeaderMap) -> Option<Vec<u8>> {
    let (scheme, shown) = headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .split_once(' ')?;
    let shown = shown.trim();
    if scheme.eq_ignore_ascii_case("Bearer") {
        return Some(shown.as_bytes().to_vec());
    }
    if !scheme.eq_ignore_ascii_case("Basic") {
        return None;
    }
    let pair = STANDARD.decode(shown).ok()?;
    let colon = memchr::memchr(b':', &pair)?;
    pair.get(colon + 1..).map(<[u8]>::to_vec)
}

fn host(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::HOST)?.to_str().ok()
}

fn is_local(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    match name.parse::<IpAddr>() {
        Ok(address) => address.is_loopback(),
        Err(_) => name.eq_ignore_ascii_case("localhost"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(host: Option<&str>, origin: Option<&str>, authorization: Option<&str>) -> HeaderMap {
        let fields = [
            (header::HOST, host),
            (header::ORIGIN, origin),
            (header::AUTHORIZATION, authorization),
        ];
        let fields = fields.into_iter();
        fields
            .filter_map(|(name, value)| Some((name, value?.parse().unwrap())))
            .collect()
    }

    #[test]
    fn over_tcp_only_the_loopback_by_its_own_name_is_let_in() {
        for (host, expected) in [
            (Some("127.0.0.1:51004"), true),
            (Some("127.0.0.1"), true),
            (Some("[::1]:51004"), true),
            (Some("localhost:51004"), true),
            (Some("LOCALHOST"), true),
            (Some("evil.example:51004"), false),
            (Some("127.0.0.1.evil.example"), false),
            (Some("localhost.evil.example:51004"), false),
            (Some("10.0.0.1:51004"), false),
            (Some(""), false),
            (None, false),
        ] {
            let admitted = admit(&asked(host, None, None), Over::Tcp, Matter::Health, None);
            assert_eq!(admitted.is_ok(), expected, "{host:?}");
            assert!(admit(&asked(host, None, None), Over::Unix, Matter::Health, None).is_ok());
        }
    }

    #[test]
    fn a_page_of_another_origin_is_not_let_in() {
        let host = Some("127.0.0.1:51004");
        for (origin, expected) in [
            ("http://127.0.0.1:51004", true),
            ("http://127.0.0.1:80", false),
            ("http://evil.example", false),
            ("null", false),
        ] {
            let admitted = admit(&asked(host, Some(origin), None), Over::Tcp, Matter::Health, None);
            assert_eq!(admitted.is_ok(), expected, "{origin}");
        }
    }

    #[test]
    fn with_a_token_file_every_request_shows_the_token() {
        for (shown, expected) in [
            (Some("Bearer right"), true),
            (Some("bearer right"), true),
            (Some("Bearer wrong"), false),
            (Some("Basic bWU6cmlnaHQ="), true),  // me:right
            (Some("Basic bWU6cmlnaA=="), false), // me:righ
            (Some("Basic cmlnaHQ="), false),     // right
            (Some("Basic right"), false),
            (Some("Bearer "), false),
            (Some("right"), false),
            (None, false),
        ] {
            for over in [Over::Unix, Over::Tcp] {
                let headers = asked(Some("localhost"), None, shown);
                for matter in [Matter::Health, Matter::Private] {
                    let admitted = admit(&headers, over, matter, Some("right"));
                    assert_eq!(admitted.is_ok(), expected, "{shown:?}");
                }
            }
        }
    }

    #[test]
    fn on_a_port_without_a_token_file_nobody_hears_what_clients_read() {
        let headers = asked(Some("localhost"), None, Some("Bearer any"));
        for (over, matter, expected) in [
            (Over::Unix, Matter::Health, true),
            (Over::Unix, Matter::Private, true),
            (Over::Tcp, Matter::Health, true),
            (Over::Tcp, Matter::Private, false),
        ] {
            let admitted = admit(&headers, over, matter, None);
            assert_eq!(admitted.is_ok(), expected, "{over:?} {matter:?}");
        }
    }
}
