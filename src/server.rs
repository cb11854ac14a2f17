//! The HTTPS listener that local clients talk to.
//!
//! Owns sockets, handshakes and the life of a connection; what a request means is the proxy's. Invariants: the accept
//! loop cannot die (promise 7); a handshake or a slow client never holds up another one; nothing is served before
//! both the serving pair and the client CA are loaded.

mod accept;
mod accept_backoff;
mod bind;
mod connection;
mod linger;
mod metrics;
mod seats;
mod serving;
mod write_timeout;

pub use accept::{Bound, ListenError, Listener, ListenerConfig};
pub use metrics::{Rejected, ServerMetrics};
