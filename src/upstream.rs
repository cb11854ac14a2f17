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
pub mod metrics;
mod pool;
pub mod probe;
mod replay;
mod server;
pub mod settings;
pub mod transport;
pub mod upkeep;

pub use effort::{Effort, Origin};
pub use error::{Failure, UpstreamError};
pub use link::{Link, LinkState};
pub use metrics::UpstreamMetrics;
pub use settings::{DialSettings, Endpoint, KeepAlive, ProbeSettings, Settings, Strategy};
pub use transport::{Transport, Transports};

/// Which connections of a transport a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Requests that end: they must never queue behind endless ones.
    Short,
    /// Watches and followed logs.
    Watch,
}

impl Purpose {
    /// A short name for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Watch => "watch",
        }
    }
}
