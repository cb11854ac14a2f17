//! The integration tests: one binary, the whole process on port 0 against the stand-in apiserver.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod abuse;
mod admin;
mod approve;
mod attacks;
mod bootstrap;
mod bounds;
mod bundle;
mod certificates;
mod check;
mod child;
mod cli;
mod coding;
mod config;
mod convergence;
mod csr_guard;
mod deploy;
mod documents;
mod durable;
mod encryption;
mod examples;
mod expiry;
mod failover;
mod faults;
mod fixtures;
mod forwarding;
mod gateways;
mod heal;
mod hostile;
mod http_proxy;
mod identity;
mod in_cluster;
mod install;
mod interface;
mod issuer;
mod knowledge;
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
mod measured;
mod memory;
mod monitoring;
mod names;
mod namespace;
mod newest;
mod objects;
mod offline;
mod outage;
mod owners;
mod page;
mod pod_network;
mod pods;
mod probes;
mod process;
mod reload;
mod returning;
mod reviews;
mod revocation;
mod scripted;
mod serving;
mod shares;
mod slow;
mod socks;
mod story;
mod strangers;
mod streams;
mod support;
mod tables;
mod truth;
mod unknown;
mod upgrades;
mod uplinks;
mod views;
mod watches;
mod websocket;
