//! What the node itself needs: its interface, and its serving certificate from the cluster.

use prometheus_client::registry::Registry;

use crate::config::{Config, Csr, KUBELET_SERVING};
use crate::node::client::ApiClient;
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

/// Makes the folder of the issued certificate, so that the certificates of the process watch it from the start.
/// Blocking; a failure is said again, with its reason, when there is something to write.
pub(super) fn prepare(config: &Config) {
    if let Some(csr) = &config.listen.tls.csr
        && let Err(error) = serving::prepare(&csr.directory)
    {
        tracing::warn!(directory = %csr.directory.display(), %error, "no folder for the serving certificate");
    }
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
        transports: &Transports,
        registry: &mut Registry,
        tasks: &Tasks,
    ) -> Self {
        if let Some(csr) = &config.listen.tls.csr
            && let Some(transport) = transports.named(&csr.client)
        {
            let client = ApiClient::new(transport.clone());
            serving::spawn(serving_config(config, csr), client, registry, tasks);
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
