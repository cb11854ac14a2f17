//! `proxy-url` of a kubeconfig: the same proxy, as edgehold's configuration has it.

use percent_encoding::percent_decode_str;

use crate::upstream::ProxyScheme;

/// The port of a URL without one, as Go takes it.
fn usual_port(scheme: ProxyScheme) -> u16 {
    match scheme {
        ProxyScheme::Http => 80,
        ProxyScheme::Socks5 | ProxyScheme::Socks5h => 1080,
    }
}

/// A proxy on the way to the apiserver.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    /// `http://HOST:PORT` or that of a SOCKS proxy, nothing secret.
    pub(super) url: String,
    /// `USER:PASSWORD`, nothing escaped.
    pub(super) credentials: Option<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.url)
    }
}

/// A proxy that edgehold does not speak to, by its scheme.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a proxy-url that begins with {scheme}://, and edgehold goes through http://, socks5:// and socks5h:// only"
)]
pub(super) struct OtherScheme {
    scheme: String,
}

impl Proxy {
    /// Reads a `proxy-url`: `http`, `https` or `socks5` for client-go.
    pub(super) fn parse(text: &str) -> Result<Self, OtherScheme> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let known = ProxyScheme::ALL
            .into_iter()
            .find(|known| known.as_str().eq_ignore_ascii_case(scheme));
        let scheme = known.ok_or_else(|| OtherScheme {
            // Never the rest: it may hold a password.
            scheme: scheme.to_owned(),
        })?;
        let (user, host) = match rest.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, rest),
        };
        let host = host.trim_end_matches('/');
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
        let port = if has_port {
            String::new()
        } else {
            format!(":{}", usual_port(scheme))
        };
        Ok(Self {
            url: format!("{}://{host}{port}", scheme.as_str()),
            credentials: user.map(|user| percent_decode_str(user).decode_utf8_lossy().into_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_and_password_are_taken_out_and_the_port_is_written_out() {
        for (text, url, credentials) in [
            ("http://proxy.example:3128", "http://proxy.example:3128", None),
            ("HTTP://proxy.example/", "http://proxy.example:80", None),
            ("http://[fd00::1]", "http://[fd00::1]:80", None),
            ("socks5://proxy.example", "socks5://proxy.example:1080", None),
            ("Socks5h://u:p@proxy:9050/", "socks5h://proxy:9050", Some("u:p")),
            (
                "http://u:p%40ss@[fd00::1]:3128/",
                "http://[fd00::1]:3128",
                Some("u:p@ss"),
            ),
        ] {
            let proxy = Proxy::parse(text).unwrap();
            assert_eq!(
                (&*proxy.url, proxy.credentials.as_deref()),
                (url, credentials),
                "{text}"
            );
            assert_eq!(format!("{proxy:?}"), url);
        }
    }

    #[test]
    fn another_scheme_is_refused_without_its_password() {
        for scheme in ["https", "socks4", "socks5x"] {
            let error = Proxy::parse(&format!("{scheme}://u:hunter2@proxy:1"))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains(&format!("{scheme}://")) && !error.contains("hunter2"),
                "{error}"
            );
        }
    }
}
