//! The way to the cloud: servers and their health, link state, connection pools, and one transport for each identity.
//!
//! Knows nothing of caching. Invariants: a token never travels on a connection that presents a certificate; a
//! request that may have been sent is never sent again from here; connections never hold more streams than the
//! apiserver allows, and watches never share one with short requests.

mod abandoned;
mod cause;
mod clientele;
mod condition;
mod connection;
mod dial;
pub mod direct;
mod effort;
pub mod error;
mod eyeballs;
mod health;
mod history;
mod lane;
mod lifeline;
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
pub(crate) mod testing;
pub mod timeline;
pub mod transport;
pub mod trial;
pub mod upkeep;
mod uplink;
mod ways;

pub use cause::{Cause, Reach};
pub use condition::{Condition, LinkReport, ServerReport, Trouble};
pub use effort::{Answers, Effort, Origin, is_foreign};
pub use error::{Failure, UpstreamError};
pub use history::Change;
pub use lifeline::Lifeline;
pub use link::{Link, LinkState};
pub use metrics::UpstreamMetrics;
pub use proxy::{Bypass, Credentials, ProxyScheme, Secret, UpstreamProxy};
pub use settings::{
    Compression, DialSettings, Endpoint, KeepAlive, ProbeSettings, Settings, Strategy, Trust,
};
pub use transport::{Pair, Transport, Transports};

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
