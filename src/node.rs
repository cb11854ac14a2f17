//! What the node itself needs beside the proxy: a network interface for node-local addresses, a serving
//! certificate from the cluster, and certificates from its Secrets and ConfigMaps.
//!
//! Knows nothing of requests or caching. Invariant: nothing here can keep edgehold from starting or serving; what
//! does not work is said, counted and tried again.

pub mod approve;
pub mod client;
#[cfg(feature = "dummy-interface")]
pub mod interface;
pub mod material;
pub mod serving;
