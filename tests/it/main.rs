//! The integration tests: one binary, the whole process on port 0 against the stand-in apiserver.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod abuse;
mod attacks;
mod bootstrap;
mod certificates;
mod check;
mod child;
mod cli;
mod config;
mod convergence;
mod deploy;
mod documents;
mod durable;
mod encryption;
mod examples;
mod expiry;
mod failover;
mod fixtures;
mod forwarding;
mod http_proxy;
mod identity;
mod in_cluster;
mod install;
mod interface;
mod issuer;
mod kube_rs;
mod kubectl;
mod kubelet_tokens;
mod layers;
mod leaks;
mod limits;
mod link;
mod links;
mod listener;
mod lite_apiserver;
mod material;
mod memory;
mod names;
mod namespace;
mod offline;
mod pod_network;
mod pods;
mod process;
mod reload;
mod returning;
mod reviews;
mod revocation;
mod scripted;
mod serving;
mod signing;
mod story;
mod streams;
mod support;
mod tables;
mod truth;
mod upgrades;
mod uplinks;
mod views;
mod watches;
