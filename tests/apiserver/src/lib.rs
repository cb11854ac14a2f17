//! A small stand-in kube-apiserver for tests, examples and benchmarks.
//!
//! It has an opinion of its own about the Kubernetes protocol: nothing here comes from edgehold, so both being wrong in
//! the same way is unlikely. It runs inside the test's process on a port of its own, and breaks on command.
//!
//! ```no_run
//! use apiserver_standin::{Client, Existing, Fault, Options, Rbac, Rule, Standin, Subject};
//! use serde_json::json;
//!
//! # async fn example() {
//! let api = Standin::start(Options::default()); // listens already; not async
//! let kubelet = api.pki().client(Some("system:node:edge-1"), &["system:nodes"]);
//! let other_ca = apiserver_standin::Pki::named("other"); // for attacks
//! # let _ = other_ca;
//!
//! // Objects: no request needed. Revisions start at 100; every change counts one up.
//! api.put(json!({"apiVersion": "v1", "kind": "ConfigMap",
//!     "metadata": {"namespace": "shop", "name": "a", "labels": {"app": "web"}}, "data": {"k": "v"}}));
//! api.delete("ConfigMap", "shop", "a");
//! api.compact(); // watches from before now get 410
//!
//! // A client that hides nothing: one connection, no retries. edgehold is pointed at api.url() and api.ca_pem().
//! let client = Client::new(api.addr(), api.ca_pem(), Some(&kubelet));
//! let list = client.get("/api/v1/namespaces/shop/configmaps").await;
//! assert_eq!(list.json()["metadata"]["resourceVersion"], "102");
//! let mut connection = client.connect().await.unwrap();
//! let mut watch = connection.lines("/api/v1/configmaps?watch=true&resourceVersion=102").await.unwrap();
//! api.put(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"namespace": "shop", "name": "b"}}));
//! assert_eq!(watch.next().await.unwrap().unwrap()["type"], "ADDED");
//!
//! // Identity: certificates, tokens (signed; the keys are at /openid/v1/jwks), rules.
//! let token = api.service_account_token("shop", "default");
//! api.set_rbac(Rbac::deny_all().with(Rule::allow(Subject::User("alice".into()), &["get"], &["pods"])));
//! api.revoke_token(&token);
//!
//! // Certificates from the cluster: what people and kube-controller-manager do with a CertificateSigningRequest.
//! # let name = "csr-1";
//! api.approve_csr(name, apiserver_standin::Validity::for_seconds(86_400));
//! api.deny_csr(name, "not this node");
//!
//! // Faults, at once and until cleared; some only for a path, or so many times.
//! api.fault(Fault::Refuse(Existing::Cut)); // ECONNREFUSED, old connections reset
//! api.clear_faults(); // listens again on the same port
//! api.fault(Fault::Status(503).on("/api/v1/pods").times(2));
//! api.fault(Fault::CutBody { after_bytes: 100 }.on("/api").containing("watch=true"));
//!
//! // What arrived; waiting has a deadline of ten seconds and needs no sleep.
//! let seen = api.wait_for(|r| r.path() == "/api/v1/configmaps" && r.is_watch()).await;
//! assert_eq!(seen.peer_cn.as_deref(), Some("system:node:edge-1"));
//! api.wait_counters(|c| c.connections_open == 0).await;
//! api.shutdown().await; // or drop it
//! # }
//! ```
//!
//! What it serves: the kinds in `kinds.rs` with GET, LIST, WATCH, writes, `status`, tokens, logs and upgrades; JSON for
//! all, protobuf for built-in kinds (metadata is real, the rest of an object is JSON text in field 100), Table and
//! PartialObjectMetadata; discovery, OpenAPI stubs, health; reviews. Not: YAML, CBOR, server-side apply, JSON patch,
//! admission, validation, defaulting. A strategic merge patch is applied as a merge patch.
//!
//! Extra paths: `/debug/echo` (what arrived, as JSON), `/debug/trailers`, `/debug/blob?size=N`; and with
//! [`Options::huge`] a generated `/api/v1/namespaces/huge/configmaps`. With [`Options::fixtures`] it replays recordings.

mod auth;
mod body;
mod client;
mod clock;
mod csr;
mod debug;
mod discovery;
mod encode;
mod fault;
mod gzip;
mod huge;
mod json;
mod jwt;
mod kinds;
mod list;
mod listener;
mod negotiate;
mod network;
mod options;
pub mod pki;
mod proto;
mod query;
mod rbac;
mod replay;
mod request_info;
mod resource;
mod review;
pub mod secrets;
mod seen;
mod selector;
mod serve;
mod server;
mod socket;
mod standin;
mod status;
mod store;
mod stream;
mod table;
mod tls;
mod token;
mod watch;
mod write;

pub use client::{Answer, Client, ClientError, Connection, Lines, connect, read};
pub use fault::{Existing, Fault, Rule as FaultRule};
pub use jwt::{ISSUER, ServiceAccountToken, TokenKey};
pub use options::{Huge, Options};
pub use pki::{Pair, Pki, Validity};
pub use rbac::{Rbac, Rule, Subject};
pub use seen::{Counters, Protocol, Seen};
pub use standin::{Cluster, Standin};
