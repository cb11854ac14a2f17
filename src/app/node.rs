//! What the node itself needs: its interface, and its certificates from the cluster.

use prometheus_client::registry::Registry;

use super::certificates::Seals;
use crate::config::{Config, Csr, KUBELET_SERVING, MaterialRef};
use crate::node::client::ApiClient;
use crate::node::material::{self, Material, ObjectRef};
use crate::node::serving::{self, ServingConfig};
use crate::runtime::tasks::Tasks;
use crate::tls::AltName;
use crate::upstream::Transports;

#[cfg(feature = "dummy-interface")]
use crate::config::OnExit;
#[cfg(feature = "dummy-interface")]
use crate::node::interface::{DUMMY, Interface, InterfaceConfig};

/// The group of every node, and the only O that kubelet-serving signs.
const NODES: &str = "system:nodes";

/// Makes the folders of what comes from the cluster, so that the certificates of the process watch them from the start.
/// Blocking; a failure is said again, with its reason, when there is something to write.
pub(super) fn prepare(config: &Config) {
    let csr = config.listen.tls.csr.iter().map(|csr| csr.directory.as_path());
    let kept = references(config).filter_map(|from| from.file.parent());
    for directory in csr.chain(kept) {
        if let Err(error) = serving::prepare(directory) {
            tracing::warn!(directory = %directory.display(), %error, "no folder for what comes from the cluster");
        }
    }
}

fn references(config: &Config) -> impl Iterator<Item = &MaterialRef> {
    let serving = &config.listen.tls;
    let own = [
        &serving.secret_ref,
        &serving.client_ca_ref,
        &config.upstream.ca_ref,
    ];
    let clients = config.clients.iter().map(|client| &client.secret_ref);
    own.into_iter().chain(clients).flatten()
}

/// The parts of the node that run beside the proxy.
pub(super) struct NodeParts {
    #[cfg(feature = "dummy-interface")]
    interface: Option<(Interface, OnExit)>,
}

impl NodeParts {
    /// Starts what is configured; waits for none of it.
    pub(super) fn spawn(
        config: &Config,
        seals: &Seals,
        transports: &Transports,
        registry: &mut Registry,
        tasks: &Tasks,
    ) -> Self {
        if let Some(in_cluster) = &config.in_cluster {
            for warning in in_cluster.unserved(&config.listen.addresses) {
                tracing::warn!("{warning}");
            }
        }
        if let Some(csr) = &config.listen.tls.csr
            && let Some(transport) = transports.named(&csr.client)
        {
            let client = ApiClient::new(transport.clone());
            serving::spawn(serving_config(config, csr), client, registry, tasks);
        }
        for (from, material) in materials(config, seals) {
            if let Some(transport) = transports.named(&from.client) {
                let client = ApiClient::new(transport.clone());
                material::spawn(material, client, tasks);
            }
        }
        Self {
            #[cfg(feature = "dummy-interface")]
            interface: config.listen.dummy_interface.as_ref().map(|wanted| {
                let interface = InterfaceConfig {
                    name: wanted.name.clone(),
                    addresses: wanted.addresses.clone(),
                    kind: DUMMY,
                };
                (Interface::spawn(interface, registry, tasks), wanted.on_exit)
            }),
        }
    }

    /// After the last connection.
    #[cfg_attr(not(feature = "dummy-interface"), expect(unused_variables))]
    pub(super) async fn close(&self, tasks: &Tasks) {
        #[cfg(feature = "dummy-interface")]
        if let Some((interface, OnExit::Remove)) = &self.interface {
            interface.remove(tasks).await;
        }
    }
}

fn materials<'a>(config: &'a Config, seals: &Seals) -> Vec<(&'a MaterialRef, Material)> {
    let object = |from: &MaterialRef| ObjectRef {
        namespace: from.namespace.clone(),
        name: from.name.clone(),
    };
    let pair = |from: &'a MaterialRef, seal, common_name| {
        let material = Material::Pair {
            from: object(from),
            to: from.file.clone(),
            seal,
            common_name,
        };
        (from, material)
    };
    let bundle = |from: &'a MaterialRef| {
        let material = Material::Bundle {
            from: object(from),
            key: from.key.clone(),
            to: from.file.clone(),
        };
        (from, material)
    };
    let serving = &config.listen.tls;
    let mut all: Vec<_> = [&serving.client_ca_ref, &config.upstream.ca_ref]
        .into_iter()
        .flatten()
        .map(bundle)
        .collect();
    all.extend(
        serving
            .secret_ref
            .iter()
            .map(|from| pair(from, seals.serving(), None)),
    );
    all.extend(config.clients.iter().filter_map(|client| {
        let name = &client.common_name;
        let from = client.secret_ref.as_ref()?;
        Some(pair(from, seals.client(name), Some(name.clone())))
    }));
    all
}

fn serving_config(config: &Config, csr: &Csr) -> ServingConfig {
    // "Any address" is none that a certificate could name.
    let listened = config.listen.addresses.iter().map(|address| address.ip());
    let listened = listened.filter(|ip| !ip.is_unspecified()).map(AltName::Ip);
    // Checked when the configuration was read.
    let more = csr.names.iter().filter_map(|name| name.parse().ok());
    ServingConfig {
        common_name: csr.client.clone(),
        organization: (csr.signer_name == KUBELET_SERVING).then(|| NODES.to_owned()),
        signer_name: csr.signer_name.clone(),
        usages: csr.usages.clone(),
        expiration_seconds: csr.expiration_seconds,
        names: listened.chain(more).collect(),
        cluster_domain: csr.cluster_domain.clone(),
        directory: csr.directory.clone(),
    }
}
