//! What the configuration says about each client, as the proxy wants it.

use std::net::IpAddr;

use crate::config::Config;
use crate::filter::{Filters, Local};
use crate::proxy::{Limits, Priorities, Priority};

/// What can be changed of clients while they are served.
#[derive(Clone)]
pub(super) struct Changeable {
    pub(super) limits: Limits,
    pub(super) priorities: Priorities,
}

impl Changeable {
    pub(super) fn new(config: &Config) -> Self {
        let new = Self {
            limits: Limits::default(),
            priorities: Priorities::default(),
        };
        new.put_in_force(config);
        new
    }

    /// From now on clients are treated as this configuration says.
    pub(super) fn put_in_force(&self, config: &Config) {
        let clients = config.clients.iter();
        let limited = clients.filter_map(|client| Some((client.common_name.clone(), client.limits?)));
        self.limits.replace(limited, config.default_limits);
        self.priorities.replace(config.clients.iter().map(|client| {
            let default = || Priority::default_of(&client.common_name);
            let priority = client.priority.unwrap_or_else(default);
            (client.common_name.clone(), priority)
        }));
    }
}

/// Which clients see the node's own address as that of the API.
pub(super) fn filters(config: &Config) -> Filters {
    let Some(in_cluster) = &config.in_cluster else {
        return Filters::default();
    };
    let mut local = Local {
        v4: None,
        v6: None,
        port: 0,
    };
    for address in &in_cluster.addresses {
        match address.ip() {
            IpAddr::V4(ip) => local.v4 = Some(ip),
            IpAddr::V6(ip) => local.v6 = Some(ip),
        }
        // The same for both, checked when the configuration was read.
        local.port = address.port();
    }
    Filters::new(
        local,
        in_cluster.service_for.clone(),
        in_cluster.endpoints_for.clone(),
    )
}
