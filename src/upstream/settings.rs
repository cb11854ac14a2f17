//! What the way to the cloud is configured to be. Replaced as a whole when the configuration file changes.

use std::fmt;
use std::time::Duration;

use crate::tls::{ServerName, ServerNameError};

use super::proxy::HttpProxy;

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
    pub proxy: Option<HttpProxy>,
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
    /// The name that its certificate must carry: the host.
    pub server_name: ServerName,
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
        })
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
