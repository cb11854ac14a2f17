//! Where one apiserver is.

use std::fmt;

use http::uri::PathAndQuery;

use crate::tls::{ServerName, ServerNameError};

/// One apiserver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Host name or IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The name that its certificate must carry: the host, unless another one is given.
    pub server_name: ServerName,
    /// What stands before every path there: empty, or like `/k8s/clusters/c-x`.
    pub base: String,
}

impl Endpoint {
    /// An apiserver at this host (an IPv6 address without brackets) and port.
    ///
    /// # Errors
    /// The host is neither a DNS name nor an IP address.
    pub fn new(host: &str, port: u16) -> Result<Self, ServerNameError> {
        Ok(Self {
            host: host.to_owned(),
            port,
            server_name: host.parse()?,
            base: String::new(),
        })
    }

    /// The same below a path: empty, or one that begins with a slash and does not end with one.
    #[must_use]
    pub fn below(self, base: &str) -> Self {
        Self {
            base: base.to_owned(),
            ..self
        }
    }

    /// The same with another name in its certificate.
    #[must_use]
    pub fn named(self, server_name: ServerName) -> Self {
        Self { server_name, ..self }
    }

    /// Path and query of a request as they are there.
    pub(super) fn target(&self, path_and_query: &PathAndQuery) -> PathAndQuery {
        if self.base.is_empty() {
            return path_and_query.clone();
        }
        // Two paths together are one: the base was checked with the configuration.
        let whole = PathAndQuery::try_from(format!("{}{path_and_query}", self.base));
        whole.unwrap_or_else(|_| path_and_query.clone())
    }

    /// Where a redirect of this server leads a client of ours: [`Endpoint::target`] undone. `None`: as it is, for it leads
    /// elsewhere or says nothing of the server.
    pub(super) fn redirect<'a>(&self, location: &'a str) -> Option<&'a str> {
        let own = self.behind(location).unwrap_or(location);
        let path = own.strip_prefix(&self.base)?;
        let path = if path.is_empty() { "/" } else { path };
        // What begins with two slashes names a host.
        let is_path = path.starts_with('/') && !path.starts_with("//");
        (is_path && path != location).then_some(path)
    }

    /// What follows this server's name in a URL, in which the port of `https` may be left out.
    fn behind<'a>(&self, url: &'a str) -> Option<&'a str> {
        let (rest, name) = (url.strip_prefix("https://")?, self.to_string());
        let short = || rest.strip_prefix(name.strip_suffix(":443")?);
        rest.strip_prefix(&*name).or_else(short)
    }
}

/// `host:port` as it stands in `Host` and `:authority`, and as the server's name in logs and metrics.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_stands_before_path_and_query_and_in_no_name() {
        let plain = Endpoint::new("rancher.example", 443).unwrap();
        let below = plain.clone().below("/k8s/clusters/c-x");
        for (asked, there) in [
            ("/", "/k8s/clusters/c-x/"),
            (
                "/api/v1/pods?watch=true&x=%2F",
                "/k8s/clusters/c-x/api/v1/pods?watch=true&x=%2F",
            ),
        ] {
            let asked = PathAndQuery::from_static(asked);
            assert_eq!(plain.target(&asked), asked);
            assert_eq!(below.target(&asked), there);
        }
        for (said, asked) in [
            ("/k8s/clusters/c-x/api/v1/?x=1#f", Some("/api/v1/?x=1#f")),
            ("https://rancher.example:443/k8s/clusters/c-x/api", Some("/api")),
            ("https://rancher.example/k8s/clusters/c-x/api", Some("/api")),
            ("https://rancher.example.elsewhere/k8s/clusters/c-x/api", None),
            ("/k8s/clusters/c-x", Some("/")),
            ("/k8s/clusters/c-xy/api", None),
            ("/k8s/clusters/c-x//elsewhere.example/", None),
            ("https://rancher.example:4430/k8s/clusters/c-x/api", None),
            ("https://elsewhere.example/k8s/clusters/c-x/api", None),
            ("/login", None),
            ("api", None),
        ] {
            assert_eq!(below.redirect(said), asked, "{said}");
        }
        for (said, asked) in [
            ("https://rancher.example:443/api", Some("/api")),
            ("https://rancher.example", Some("/")),
            ("https://rancher.example.elsewhere/", None),
            ("https://rancher.example@elsewhere.example/", None),
            ("https://rancher.example:443", Some("/")),
            ("https://rancher.example:443.elsewhere.example/", None),
            ("/api", None),
            ("//elsewhere.example/", None),
        ] {
            assert_eq!(plain.redirect(said), asked, "{said}");
        }
        let other = Endpoint::new("rancher.example", 6443).unwrap();
        assert_eq!(other.redirect("https://rancher.example/api"), None);
        let v6 = Endpoint::new("fd00::1", 443).unwrap();
        assert_eq!(v6.redirect("https://[fd00::1]/api"), Some("/api"));
        assert_eq!(below.to_string(), "rancher.example:443");
        assert_ne!(plain, below);
    }
}
