//! Addresses to listen on, and URLs of servers and proxies, as they may stand in the configuration.
//!
//! A text with a user name in it is never repeated in a message: what follows the colon may be a password.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use percent_encoding::percent_decode_str;

use crate::tls::ServerName;
use crate::upstream::{Credentials, Endpoint, ProxyScheme, Secret, UpstreamProxy};

use super::error::{Fault, quoted};

const HTTPS_PORT: u16 = 443;

/// An `IP:PORT` to listen on; port 0 lets the system choose.
pub(super) fn listen(text: &str) -> Result<SocketAddr, Fault> {
    text.parse().map_err(|_| {
        Fault::new(
            format!("{} is not an IP address with a port", quoted(text)),
            "write it like 127.0.0.1:51003 or [::1]:51003",
        )
    })
}

/// An IP address for an interface.
pub(super) fn ip(text: &str) -> Result<IpAddr, Fault> {
    let address: Option<IpAddr> = text.parse().ok();
    address
        .filter(|ip| !ip.is_unspecified() && !ip.is_multicast())
        .ok_or_else(|| {
            Fault::new(
                format!("{} is not the IP address of a host", quoted(text)),
                "write it like 169.254.20.11",
            )
        })
}

/// A DNS name, in lower case.
pub(super) fn dns_name(text: &str) -> Result<String, Fault> {
    host(text).map_err(|_| {
        Fault::new(
            format!("{} is neither an IP address nor a DNS name", quoted(text)),
            "write it like 203.0.113.20 or edge-1.example",
        )
    })
}

/// A kube-apiserver: `https://HOST[:PORT][/PATH]`.
pub(super) fn server(text: &str) -> Result<Endpoint, Fault> {
    let example = "https://203.0.113.10:6443";
    let (host, port, path) = url(text, "https", example)?;
    let path = path.strip_suffix('/').unwrap_or(path);
    if !is_base(path) {
        let wrong = format!("{} has a query, a fragment or an unusual path", quoted(text));
        let fix = format!(
            "write it like {example}, or with a plain path like https://rancher.example/k8s/clusters/c-x"
        );
        return Err(Fault::new(wrong, fix));
    }
    let endpoint = Endpoint::new(&host, port.unwrap_or(HTTPS_PORT));
    endpoint
        .map(|endpoint| endpoint.below(path))
        .map_err(|error| Fault::new(error.to_string(), format!("write it like {example}")))
}

/// Whether nobody on the way can take this path, empty or not, for another one.
fn is_base(path: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:@".contains(&byte);
    let is_rooted = path.is_empty() || path.starts_with('/');
    is_rooted
        && path.split('/').skip(1).all(|segment| {
            !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(plain)
        })
}

/// A name that a server's certificate may carry.
pub(super) fn server_name(text: &str) -> Result<ServerName, Fault> {
    let name = host(text).or_else(|_| host(&format!("[{text}]")));
    name.ok().and_then(|name| name.parse().ok()).ok_or_else(|| {
        Fault::new(
            format!("{} is neither an IP address nor a DNS name", quoted(text)),
            "write a name of the server's certificate, like kubernetes.default.svc",
        )
    })
}

/// `http://[USER:PASSWORD@]HOST:PORT` of an HTTP CONNECT proxy, or `socks5` or `socks5h` of a SOCKS proxy.
pub(super) fn proxy(text: &str) -> Result<UpstreamProxy, Fault> {
    let example = "http://proxy.example:3128";
    let (credentials, text) = split_credentials(text)?;
    if text
        .get(..8)
        .is_some_and(|start| start.eq_ignore_ascii_case("https://"))
    {
        return Err(Fault::new(
            "is a proxy that is spoken to over TLS, which is not supported",
            format!(
                "write the URL of one that is not, like {example}; what goes through it is TLS from end to end"
            ),
        ));
    }
    let given = text.split_once("://").map_or("", |(scheme, _)| scheme);
    let scheme = ProxyScheme::ALL
        .into_iter()
        .find(|scheme| scheme.as_str().eq_ignore_ascii_case(given))
        .unwrap_or(ProxyScheme::Http);
    let (host, port, path) = url(&text, scheme.as_str(), example)?;
    if !matches!(path, "" | "/") {
        let wrong = format!("{} has a path, query or fragment", quoted(&text));
        return Err(Fault::new(wrong, format!("write it like {example}")));
    }
    let port = port.ok_or_else(|| {
        Fault::new(
            "has no port",
            format!("write scheme, host and port, like {example}"),
        )
    })?;
    Ok(UpstreamProxy {
        scheme,
        host,
        port,
        credentials: credentials.map(Credentials::Given),
        bypass: Vec::new(),
    })
}

/// User name and password of a URL, and the URL without them.
fn split_credentials(text: &str) -> Result<(Option<Secret>, String), Fault> {
    let Some((start, rest)) = text.rsplit_once('@') else {
        return Ok((None, text.to_owned()));
    };
    let wrong = |wrong: &str| {
        let fix = "write it like http://USER:PASSWORD@proxy.example:3128, with anything but letters and digits in them as \
                   %XX; better, write http://proxy.example:3128 and upstream.proxyCredentialsFile";
        Fault::new(wrong, fix)
    };
    let (scheme, pair) = start.split_once("://").ok_or_else(|| wrong("is not a URL"))?;
    if pair.contains(['/', '?', '#', '\\', '@']) {
        return Err(wrong(
            "has a user name or password with a character that a URL cannot have there",
        ));
    }
    let pair = percent_decode_str(pair).decode_utf8().ok();
    let pair = pair
        .filter(|pair| !pair.starts_with(':'))
        .and_then(|pair| Secret::pair(&pair));
    let pair = pair.ok_or_else(|| wrong("has something before `@` that is no user name and password"))?;
    Ok((Some(pair), format!("{scheme}://{rest}")))
}

/// Host, port, and what follows them.
fn url<'t>(text: &'t str, scheme: &str, example: &str) -> Result<(String, Option<u16>, &'t str), Fault> {
    let like = format!("write it like {example}");
    if text.contains('@') {
        return Err(Fault::new("has a user name or password", like));
    }
    let shown = quoted(text);
    let Some((given, rest)) = text.split_once("://") else {
        return Err(Fault::new(format!("{shown} is not a URL"), like));
    };
    if !given.eq_ignore_ascii_case(scheme) {
        let wrong = format!("{shown} does not start with {scheme}://");
        return Err(Fault::new(wrong, like));
    }
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let (name, port) =
        split_port(authority).map_err(|wrong| Fault::new(format!("{shown} {wrong}"), &*like))?;
    let host = host(name).map_err(|wrong| Fault::new(format!("{shown} {wrong}"), &*like))?;
    Ok((host, port, rest.strip_prefix(authority).unwrap_or_default()))
}

/// Host (still with brackets) and port.
fn split_port(authority: &str) -> Result<(&str, Option<u16>), &'static str> {
    let bracketed = authority.starts_with('[');
    let split = match authority.rsplit_once(':') {
        Some((host, port)) if !bracketed || host.ends_with(']') => Some((host, port)),
        _ => None,
    };
    let Some((host, port)) = split else {
        return Ok((authority, None));
    };
    if !bracketed && host.contains(':') {
        return Err("has an IPv6 address without brackets");
    }
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let number = port.parse::<u16>().ok().filter(|port| digits && *port != 0);
    Ok((
        host,
        Some(number.ok_or("has a port that is not from 1 to 65535")?),
    ))
}

/// A host that one certificate and one connection can be for: no wildcard, no "any" address.
fn host(name: &str) -> Result<String, &'static str> {
    if name.is_empty() {
        return Err("has no host");
    }
    if name.contains('*') {
        return Err("has a wildcard for a host");
    }
    let address = if let Some(v6) = name.strip_prefix('[') {
        let v6 = v6.strip_suffix(']').and_then(|v6| v6.parse::<Ipv6Addr>().ok());
        Some(IpAddr::V6(v6.ok_or(
            "has brackets around something that is not an IPv6 address",
        )?))
    } else {
        name.parse::<Ipv4Addr>().ok().map(IpAddr::V4)
    };
    if let Some(address) = address {
        if address.is_unspecified() || address.is_multicast() || address == Ipv4Addr::BROADCAST {
            return Err("has an address that is not one host's");
        }
        return Ok(address.to_string());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // A last label of digits only is an IPv4 address with a mistake (WHATWG URL, 3.5).
    let numeric = |label: &str| label.bytes().all(|b| b.is_ascii_digit());
    if name.len() > 253 || !name.split('.').all(label) || name.rsplit('.').next().is_some_and(numeric) {
        return Err("has a host that is neither a DNS name nor an IP address");
    }
    Ok(name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn servers_are_https_hosts_with_an_optional_port() {
        for (text, host, port, authority) in [
            (
                "https://203.0.113.10:6443",
                "203.0.113.10",
                6443,
                "203.0.113.10:6443",
            ),
            ("https://Kube.Example", "kube.example", 443, "kube.example:443"),
            ("HTTPS://kube.example/", "kube.example", 443, "kube.example:443"),
            (
                "https://[2001:DB8::1]:6443",
                "2001:db8::1",
                6443,
                "[2001:db8::1]:6443",
            ),
            ("https://[::1]", "::1", 443, "[::1]:443"),
            ("https://localhost:1", "localhost", 1, "localhost:1"),
        ] {
            let server = server(text).unwrap();
            assert_eq!((&*server.host, server.port), (host, port), "{text}");
            assert_eq!(server.to_string(), authority);
        }
    }

    #[test]
    fn a_server_may_stand_below_a_path() {
        for (text, path) in [
            ("https://a", ""),
            ("https://a/", ""),
            ("https://a/k8s", "/k8s"),
            (
                "https://rancher.example:8443/k8s/clusters/c-m-x7_1/",
                "/k8s/clusters/c-m-x7_1",
            ),
        ] {
            assert_eq!(server(text).unwrap().base, path, "{text}");
        }
    }

    #[test]
    fn a_certificates_name_is_a_host_or_an_address_of_either_family() {
        for (text, name) in [
            ("Kubernetes.Default.svc", "kubernetes.default.svc"),
            ("203.0.113.10", "203.0.113.10"),
            ("2001:DB8::1", "2001:db8::1"),
        ] {
            assert_eq!(server_name(text).unwrap().to_string(), name);
        }
        for text in ["", "*.example", "a b", "https://a", "a:6443", "0.0.0.0"] {
            assert!(server_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_not_one_https_server_is_refused() {
        for (text, wrong) in [
            ("", "`` is not a URL"),
            ("203.0.113.10:6443", "`203.0.113.10:6443` is not a URL"),
            ("http://a:1", "`http://a:1` does not start with https://"),
            ("https://", "`https://` has no host"),
            ("https://:6443", "`https://:6443` has no host"),
            (
                "https://*.example",
                "`https://*.example` has a wildcard for a host",
            ),
            (
                "https://0.0.0.0:6443",
                "`https://0.0.0.0:6443` has an address that is not one host's",
            ),
            (
                "https://[::]:6443",
                "`https://[::]:6443` has an address that is not one host's",
            ),
            (
                "https://a//",
                "`https://a//` has a query, a fragment or an unusual path",
            ),
            (
                "https://a/k8s/../x",
                "`https://a/k8s/../x` has a query, a fragment or an unusual path",
            ),
            (
                "https://a/k8s//x",
                "`https://a/k8s//x` has a query, a fragment or an unusual path",
            ),
            (
                "https://a/%6b8s",
                "`https://a/%6b8s` has a query, a fragment or an unusual path",
            ),
            (
                "https://a?b",
                "`https://a?b` has a query, a fragment or an unusual path",
            ),
            (
                "https://a/k8s?b",
                "`https://a/k8s?b` has a query, a fragment or an unusual path",
            ),
            (
                "https://a#b",
                "`https://a#b` has a query, a fragment or an unusual path",
            ),
            (
                "https://a:0",
                "`https://a:0` has a port that is not from 1 to 65535",
            ),
            (
                "https://a:",
                "`https://a:` has a port that is not from 1 to 65535",
            ),
            (
                "https://a:+1",
                "`https://a:+1` has a port that is not from 1 to 65535",
            ),
            (
                "https://a:65536",
                "`https://a:65536` has a port that is not from 1 to 65535",
            ),
            (
                "https://2001:db8::1",
                "`https://2001:db8::1` has an IPv6 address without brackets",
            ),
            (
                "https://[a]",
                "`https://[a]` has brackets around something that is not an IPv6 address",
            ),
            (
                "https://[::1",
                "`https://[::1` has brackets around something that is not an IPv6 address",
            ),
            (
                "https://[::1]x:1",
                "`https://[::1]x:1` has brackets around something that is not an IPv6 address",
            ),
            (
                "https://203.0.113.300",
                "`https://203.0.113.300` has a host that is neither a DNS name nor an IP address",
            ),
            (
                "https://a..b",
                "`https://a..b` has a host that is neither a DNS name nor an IP address",
            ),
            (
                "https://a b",
                "`https://a b` has a host that is neither a DNS name nor an IP address",
            ),
            (
                "https://-a",
                "`https://-a` has a host that is neither a DNS name nor an IP address",
            ),
        ] {
            assert_eq!(server(text).unwrap_err().wrong, wrong);
        }
    }

    #[test]
    fn a_password_is_not_repeated() {
        let fault = server("https://me:hunter2@kube.example").unwrap_err();
        assert_eq!(fault.wrong, "has a user name or password");
        assert!(!fault.fix.contains("hunter2"));
        for text in [
            "http://me:hunter2@proxy",
            "https://me:hunter2@proxy:3128",
            "socks4://me:hunter2@proxy:3128",
            "me:hunter2@proxy:3128",
            "http://me:hunter2/x@proxy:3128",
            "http://hunter2@proxy:3128",
            "http://:hunter2@proxy:3128",
            "http://me:hunter2%00@proxy:3128",
            "http://me:hunter2%ff@proxy:3128",
            "http://me:hunter2@x@proxy:3128",
            "http://me:hunter2@proxy:3128/path",
        ] {
            let fault = proxy(text).unwrap_err();
            assert!(!format!("{fault:?}").contains("hunter2"), "{fault:?}");
        }
    }

    #[test]
    fn a_socks_proxy_is_told_by_its_scheme() {
        for (text, scheme) in [
            ("http://proxy:1", ProxyScheme::Http),
            ("SOCKS5://me:hunter2@proxy:1", ProxyScheme::Socks5),
            ("socks5h://proxy:1/", ProxyScheme::Socks5h),
        ] {
            assert_eq!(proxy(text).unwrap().scheme, scheme, "{text}");
        }
        assert_eq!(proxy("socks5://proxy").unwrap_err().wrong, "has no port");
    }

    #[test]
    fn a_proxy_needs_http_and_a_port_and_may_have_a_password() {
        for (text, host, pair) in [
            ("http://proxy:3128", "proxy", None),
            ("http://me:hunter2@proxy:3128/", "proxy", Some("me:hunter2")),
            ("http://me:@[::1]:3128", "::1", Some("me:")),
            (
                "http://m%40e:a%3Ab%2fc:d@proxy:3128",
                "proxy",
                Some("m@e:a:b/c:d"),
            ),
        ] {
            let expected = UpstreamProxy {
                scheme: ProxyScheme::Http,
                host: host.to_owned(),
                port: 3128,
                credentials: pair.and_then(Secret::pair).map(Credentials::Given),
                bypass: Vec::new(),
            };
            assert_eq!(proxy(text), Ok(expected), "{text}");
        }
        assert_eq!(proxy("http://proxy").unwrap_err().wrong, "has no port");
        assert_eq!(
            proxy("HTTPS://proxy:3128").unwrap_err().wrong,
            "is a proxy that is spoken to over TLS, which is not supported"
        );
    }

    #[test]
    fn listeners_are_ip_addresses_with_a_port() {
        assert!(listen("127.0.0.1:0").is_ok());
        assert!(listen("[::1]:51003").is_ok());
        for text in [
            "localhost:51003",
            "127.0.0.1",
            ":51003",
            "127.0.0.1:70000",
            "::1:51003 ",
        ] {
            assert!(listen(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "(https?://)?[\\[\\]:./@?#a-z0-9*-]{0,30}") {
            if let Ok(server) = server(&text) {
                let again = super::server(&format!("https://{server}")).unwrap();
                prop_assert_eq!((again.host, again.port), (server.host, server.port));
            }
        }
    }
}
