//! What the node itself needs: its interface.

use prometheus_client::registry::Registry;

use crate::config::Config;
use crate::runtime::tasks::Tasks;

#[cfg(feature = "dummy-interface")]
use crate::config::OnExit;
#[cfg(feature = "dummy-interface")]
use crate::node::interface::{DUMMY, Interface, InterfaceConfig};

/// The parts of the node that run beside the proxy.
pub(super) struct NodeParts {
    #[cfg(feature = "dummy-interface")]
    interface: Option<(Interface, OnExit)>,
}

impl NodeParts {
    /// Starts what is configured; waits for none of it.
    #[cfg_attr(not(feature = "dummy-interface"), expect(unused_variables))]
    pub(super) fn spawn(config: &Config, registry: &mut Registry, tasks: &Tasks) -> Self {
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
