//! The configuration file: the only place that knows YAML.
//!
//! Owns the schema of `apiVersion: edgehold/v1alpha1`, `kind: ProxyConfiguration` and turns a file into plain,
//! validated values, or into every problem of it at once, each with its line and column. It opens the configuration
//! file and no other: whether certificates exist is for those who use them, since a missing one is normal on a new
//! node. Where a section is what a component is configured with, it is read as that component's type.
//!
//! Invariants: no input makes it panic, expand or take memory beyond a fixed bound; a [`Config`] is complete and
//! every path in it is absolute.

pub use admin::{Admin, AdminAddress};
pub use cache::{Cache, CacheStore, CacheSync, Encryption};
pub use certificates::Certificates;
pub use clients::Client;
pub use error::{ConfigErrors, Position, Problem};
pub use file::{DEFAULT_PATH, load, parse};
pub use in_cluster::InCluster;
pub use listen::{DummyInterface, Listen, OnExit};
pub use log::{Log, LogFormat, LogLevel};
pub use material::MaterialRef;
pub use offline::{Issuer, IssuerCredential, Offline};
pub use published::{without_credentials, yaml};
pub use schema::{API_VERSION, Config, KIND};
pub use serving::{Csr, KUBELET_SERVING, ServingPair};
pub use upstream::Upstream;

mod address;
mod admin;
mod cache;
mod certificates;
mod clients;
mod duration;
mod error;
mod file;
mod in_cluster;
pub mod kubeconfig;
mod listen;
mod log;
mod material;
mod object;
mod offline;
mod proxy;
mod published;
mod quantity;
mod reference;
mod schema;
mod serving;
mod text;
mod tree;
mod upstream;
