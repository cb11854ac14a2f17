//! The pipeline of a request: principal, request info, route, forward or answer (ARCHITECTURE.md tells the
//! story).
//!
//! Owns nothing that lasts: transports, link and cache are handed in. Invariants: a token never travels on a
//! connection that presents a certificate; `X-Remote-*` never passes; the client's path and query are
//! forwarded byte for byte; a write is never repeated and never answered from anything but upstream, but for
//! requests for tokens and reviews, which change nothing (`replies.rs`).

mod background_read;
mod caller;
mod confirm;
mod connection_drain;
mod context;
mod csr_guard;
mod exchange;
mod filtered;
mod forward;
mod gzip;
mod headers;
mod incidents;
mod issuer;
mod limits;
mod list_admission;
mod metrics;
mod miss;
mod owners;
mod priority;
mod queue;
mod refuse;
mod replies;
mod respond;
mod route;
mod sections;
mod strangers;
mod tally;
mod tokens;
mod upgrade;
mod upload;
mod watch;
mod websocket;
mod write;

pub use caller::Peer;
pub use connection_drain::ConnectionDrain;
pub use context::{Parts, Proxy};
pub use incidents::{Incident, IncidentKind};
pub use issuer::{IssuerReader, ReadIssuerError};
pub use limits::{Limit, Limits};
pub use metrics::ProxyMetrics;
pub use priority::{Priorities, Priority};
pub use watch::Pace;
