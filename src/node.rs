//! What the node itself needs beside the proxy: a network interface for node-local addresses.
//!
//! Knows nothing of requests or caching. Invariant: nothing here can keep edgehold from starting or serving; what
//! does not work is said, counted and tried again.

#[cfg(feature = "dummy-interface")]
pub mod interface;
