//! edgehold: a per-client mTLS caching reverse proxy between the clients of an edge node and the kube-apiserver.
//!
//! The modules are layers: a file may import the layers below it and its own siblings (`tests/it/layers.rs`
//! keeps it so). ARCHITECTURE.md tells the story of a request through them.

pub mod admin;
pub mod app;
pub mod cache;
pub mod cli;
pub mod config;
pub mod filter;
pub mod identity;
pub mod kube;
pub mod node;
pub mod proxy;
pub mod runtime;
pub mod server;
pub mod setup;
pub mod store;
pub mod tls;
pub mod upstream;
pub mod view;
pub mod wire;
