//! Headers by which a request speaks for somebody else.

use http::HeaderMap;
use http::header::HeaderName;

/// `Impersonate-User`, `-Group`, `-Uid`, `-Extra-*`: forwarded, because upstream checks the right to it, but the answer
/// is somebody else's and is never cached.
pub fn impersonates(headers: &HeaderMap) -> bool {
    headers
        .keys()
        .any(|name| name.as_str().starts_with("impersonate-"))
}

/// Removes `X-Remote-*`: kube-apiserver believes them of a front proxy, and no client of ours is one.
pub fn strip_front_proxy(headers: &mut HeaderMap) {
    let claims: Vec<HeaderName> = headers
        .keys()
        .filter(|name| name.as_str().starts_with("x-remote-"))
        .cloned()
        .collect();
    for name in claims {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(names: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in names {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static("x"),
            );
        }
        headers
    }

    #[test]
    fn every_impersonation_header_counts() {
        for name in [
            "Impersonate-User",
            "impersonate-group",
            "Impersonate-Uid",
            "Impersonate-Extra-scopes",
        ] {
            assert!(impersonates(&headers(&["accept", name])), "{name}");
        }
        assert!(!impersonates(&headers(&["accept", "x-impersonate-user"])));
    }

    #[test]
    fn front_proxy_headers_are_removed_with_all_their_values() {
        let mut headers = headers(&[
            "X-Remote-User",
            "X-Remote-Group",
            "x-remote-group",
            "X-Remote-Extra-a",
            "X-Remote-Uid",
            "accept",
        ]);
        strip_front_proxy(&mut headers);
        assert_eq!(
            headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(),
            ["accept"]
        );
    }
}
