//! The way to the cloud: server address, link state, connection pool, and one transport for each identity.
//!
//! Knows nothing of caching. Invariants: a token never travels on a connection that presents a certificate; a
//! request that may have been sent is never sent again from here; connections never hold more streams than the
//! apiserver allows, and watches never share one with short requests.

mod connection;
pub mod error;
pub mod link;
mod pool;
pub mod probe;
mod replay;
pub mod transport;

pub use error::{Failure, UpstreamError};
pub use link::{Link, LinkState};
pub use pool::Retirement;
pub use transport::{Transport, TransportConfig, Transports};

/// Which connections of a transport a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Requests that end: they must never queue behind endless ones.
    Short,
    /// Watches and followed logs.
    Watch,
}
