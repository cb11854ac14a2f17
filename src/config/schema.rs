//! The configuration as a whole: each section reads itself, and some need what others say.
//!
//! docs/configuration.md is the reference; `app/reload/reference.rs` checks it against the code.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::proxy::Limit;

use super::admin::{self, Admin};
use super::cache::{self, Cache};
use super::certificates::{self, Certificates};
use super::clients::{self, Client};
use super::error::Problems;
use super::in_cluster::{self, InCluster};
use super::listen::{self, Listen};
use super::log::{self, Log};
use super::object::Field;
use super::offline::{self, Offline};
use super::reference::Names;
use super::tree::Node;
use super::upstream::{self, Upstream};

/// The only `apiVersion`.
pub const API_VERSION: &str = "edgehold/v1alpha1";
/// The only `kind`.
pub const KIND: &str = "ProxyConfiguration";

/// A complete configuration. Fields are as in docs/configuration.md, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where local clients connect.
    pub listen: Listen,
    /// The way to the kube-apiserver.
    pub upstream: Upstream,
    /// Clients with a certificate, each with the pair that speaks for it upstream. Common names are unique.
    pub clients: Vec<Client>,
    /// `defaultClient.limits`: for each caller that has no configured certificate.
    pub default_limits: Option<Limit>,
    /// When certificate files are read again.
    pub certificates: Certificates,
    /// What is kept for the time without the cloud.
    pub cache: Cache,
    /// What holds while the cloud is away.
    pub offline: Offline,
    /// What clients of this node see of the Service `default/kubernetes`; `None`: what upstream says.
    pub in_cluster: Option<InCluster>,
    /// Where edgehold tells how it is.
    pub admin: Admin,
    /// Logging.
    pub log: Log,
    /// The file that it was read from, to be read again when that changes; `None` for a mere text.
    pub file: Option<PathBuf>,
}

/// `None` only after a problem was reported; with one, what it makes of the rest is not the configuration.
pub(super) fn read(root: &Node, problems: &Problems) -> Option<Config> {
    Field::root(root, problems).object(|root| {
        for (name, value) in [("apiVersion", API_VERSION), ("kind", KIND)] {
            if let Some(field) = root.required(name) {
                field.choice(&[(value, ())]);
            }
        }
        let listen = root.required("listen");
        let upstream = root.required("upstream");
        let clients = root.get("clients");
        let default_limits = root.section("defaultClient", clients::limits);
        let certificates = root.section("certificates", certificates::read);
        let cache = root.section("cache", cache::read);
        let names = Names::of(clients.as_ref());
        let offline = root.section("offline", |offline| offline::read(offline, &names));
        let in_cluster = root.optional("inCluster", |field| in_cluster::read(field, &names));
        let listen =
            listen.and_then(|field| field.object(|listen| listen::read(listen, &cache.path, &names)));
        let own: &[SocketAddr] = listen.as_ref().map_or(&[], |listen| &listen.addresses);
        let upstream = upstream
            .and_then(|field| field.object(|upstream| upstream::read(upstream, own, &cache.path, &names)));
        let admin = root.section("admin", |admin| admin::read(admin, own));
        let log = root.section("log", log::read);
        let clients = clients.map(|clients| clients::read(&clients, &cache.path, &names));
        Some(Config {
            listen: listen?,
            upstream: upstream?,
            clients: clients.unwrap_or_default(),
            default_limits,
            certificates,
            cache,
            offline,
            in_cluster,
            admin,
            log,
            file: None,
        })
    })
}
