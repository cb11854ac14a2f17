//! The way to the cloud: servers and their health, link state, connection pools, and one transport for each identity.
//!
//! Knows nothing of caching. Invariants: a token never travels on a connection that presents a certificate; a
//! request that may have been sent is never sent again from here; connections never hold more streams than the
//! apiserver allows, and watches never share one with short requests.

mod abandoned;
mod activity;
mod cause;
mod clientele;
mod condition;
mod connection;
mod dial;
pub mod direct;
mod dispatch;
pub mod dns_refresh;
mod endpoint;
pub mod error;
mod failure;
mod gateway;
mod happy_eyeballs;
mod health;
mod history;
pub mod interface_probe;
mod interface_selection;
mod lane;
mod lifeline;
pub mod link;
mod link_state;
mod liveness;
pub mod metrics;
mod pool;
pub mod pool_maintenance;
pub mod preflight;
pub mod probe;
mod proxy;
mod purpose;
mod replay;
mod report;
mod retry;
mod route;
mod server;
pub mod settings;
mod supervisor;
#[cfg(test)]
pub(crate) mod testing;
pub mod timeline;
pub mod transport;
mod ways;

pub use cause::{Cause, Reach};
pub use condition::Condition;
pub use endpoint::Endpoint;
pub use error::UpstreamError;
pub use failure::Failure;
pub use gateway::{Answers, is_foreign};
pub use history::Change;
pub use lifeline::Lifeline;
pub use link::Link;
pub use link_state::LinkState;
pub use metrics::UpstreamMetrics;
pub use proxy::{Bypass, Credentials, ProxyScheme, Secret, UpstreamProxy};
pub use purpose::Purpose;
pub use report::{LinkReport, ServerReport, Trouble};
pub use retry::{Origin, RetryPolicy};
pub use route::Route;
pub use settings::{Compression, DialSettings, KeepAlive, ProbeSettings, Settings, Strategy, Trust};
pub use transport::{Pair, Transport, Transports};
