//! The admin listener: how edgehold is, for people and monitoring. Apart from the API, on a Unix socket or the loopback.
//!
//! | path | what |
//! |---|---|
//! | `GET /` | a page for a browser |
//! | `GET /livez` | 200 while the process answers |
//! | `GET /readyz[?verbose]` | whether clients can be served, check by check |
//! | `GET /metrics` | everything counted, in the OpenMetrics text format |
//! | `GET /status` | [`Status`] as JSON |
//! | `GET /cache` | [`CacheListing`](status::CacheListing) as JSON: what is known offline |
//! | `GET /cache/objects` | [`CachedObjects`](objects::CachedObjects) as JSON: what is kept, decoded |
//! | `GET /log-level`, `POST /log-level` | the level of the log, and another one |
//!
//! Invariants: nothing here holds up or ends a request of a client; a listener that cannot be had is said and does without;
//! no answer holds content of the cache but `/cache/objects`, and that what is secret only where it is asked for over the socket.

pub mod client;
mod facts;
mod guard;
mod listen;
pub mod objects;
mod page;
mod problems;
mod process;
mod ready;
mod serve;
pub mod status;

pub use facts::Observer;
pub use listen::{Bound, Listener, bind};
pub use problems::InMemory;
pub use process::ProcessMetrics;
pub(crate) use serve::read_token;
pub use serve::{Sources, spawn};
pub use status::Status;
