//! What the way to the cloud is configured to be. Replaced as a whole when the configuration file changes.

use std::fmt;
use std::time::Duration;

use http::uri::PathAndQuery;

use crate::tls::{ServerName, ServerNameError};

use super::proxy::UpstreamProxy;

/// The way to the cloud, as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Never empty; the preferred one first.
    pub servers: Vec<Endpoint>,
    /// Which server a request goes to.
    pub strategy: Strategy,
    /// When servers are probed, and what follows.
    pub probe: ProbeSettings,
    /// How long a read may wait for the first byte of its answer before the cache stands in.
    pub response_timeout: Duration,
    /// Whether answers are asked for compressed.
    pub compression: Compression,
    /// Which answers count as an apiserver's.
    pub trust: Trust,
    /// How connections are made and kept.
    pub dial: DialSettings,
}

/// How connections are made and kept: a change of these makes new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DialSettings {
    /// TCP, TLS and HTTP handshakes together.
    pub connect_timeout: Duration,
    /// When a silent connection is asked whether it is alive, and when it has failed.
    pub keep_alive: KeepAlive,
    /// What lies on the way.
    pub proxy: Option<UpstreamProxy>,
    /// The interfaces to go out by, the preferred one first; empty: as the node's routes say.
    pub interfaces: Vec<String>,
}

/// HTTP/2 PINGs: silent loss is noticed after both times together, by default within 5 s with something to spare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeepAlive {
    /// Of silence, before a PING is sent.
    pub interval: Duration,
    /// Without an answer to it, before the connection counts as broken.
    pub timeout: Duration,
}

impl Default for KeepAlive {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(3),
            timeout: Duration::from_millis(1500),
        }
    }
}

/// When servers are probed, and what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeSettings {
    /// From one probe to the next of a server that has just come back; see `health` for the other pauses.
    pub interval: Duration,
    /// Without an answer, before a probe has failed.
    pub timeout: Duration,
    /// So many failed probes in a row make a server `Offline`. At least 1.
    pub failure_threshold: u32,
    /// So many good probes in a row, after it was `Offline`, before requests return to a preferred server. At least 1.
    pub success_threshold: u32,
}

/// Whether answers to reads and watches are asked for compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// With gzip, whatever the client asks for.
    #[default]
    Auto,
    /// Never, even if the client asks for it.
    Off,
}

/// Which answers count as an apiserver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Trust {
    /// Those with `Audit-Id`, which nobody else sends.
    #[default]
    Audited,
    /// All that are in an encoding of the Kubernetes API where one is expected: what is on the way takes `Audit-Id` off, and
    /// is trusted not to speak for an apiserver.
    Gateway,
}

/// Which of several servers a request goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// The first of the list that can be reached.
    #[default]
    Priority,
    /// Identities take turns: each stays with its server while that can be reached, so that what one client reads
    /// never goes back in time from one apiserver's watch cache to another's.
    RoundRobin,
}

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
        let own = location
            .strip_prefix("https://")
            .and_then(|rest| rest.strip_prefix(&*self.to_string()));
        let path = own.unwrap_or(location).strip_prefix(&self.base)?;
        let path = if path.is_empty() { "/" } else { path };
        // What begins with two slashes names a host.
        let is_path = path.starts_with('/') && !path.starts_with("//");
        (is_path && path != location).then_some(path)
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
            ("https://rancher.example:443", Some("/")),
            ("https://rancher.example:443.elsewhere.example/", None),
            ("/api", None),
            ("//elsewhere.example/", None),
        ] {
            assert_eq!(plain.redirect(said), asked, "{said}");
        }
        assert_eq!(below.to_string(), "rancher.example:443");
        assert_ne!(plain, below);
    }
}
