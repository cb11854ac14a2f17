//! The way to the cloud: servers and their health, link state, connection pools, and one transport for each identity.
//!
//! Knows nothing of caching. Invariants: a token never travels on a connection that presents a certificate; a
//! request that may have been sent is never sent again from here; connections never hold more streams than the
//! apiserver allows, and watches never share one with short requests.

mod connection;
mod dial;
mod effort;
pub mod error;
mod eyeballs;
mod health;
pub mod link;
pub mod look;
pub mod metrics;
pub mod names;
mod pool;
pub mod probe;
mod proxy;
mod pulse;
mod replay;
mod server;
pub mod settings;
mod silence;
#[cfg(test)]
mod testing;
pub mod transport;
pub mod trial;
pub mod upkeep;
mod uplink;

pub use effort::{Effort, Origin};
pub use error::{Failure, UpstreamError};
pub use link::{Link, LinkState};
pub use metrics::UpstreamMetrics;
pub use proxy::{Bypass, Credentials, HttpProxy, Secret};
pub use settings::{DialSettings, Endpoint, KeepAlive, ProbeSettings, Settings, Strategy};
pub use transport::{Transport, Transports};

/// Which connections of a transport a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Requests with short answers: they must never queue behind endless or large ones. kubelet's heartbeat is one.
    Short,
    /// Lists and documents: on a narrow link one of them fills every buffer of its connection for many seconds.
    Large,
    /// Watches and followed logs.
    Watch,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Short, Self::Large, Self::Watch];

    /// A short name for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Large => "large",
            Self::Watch => "watch",
        }
    }
}
