//! What the way to the cloud is configured to be. Replaced as a whole when the configuration file changes.

use std::time::Duration;

use super::endpoint::Endpoint;
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
