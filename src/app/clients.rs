//! What the configuration says about each client, as the proxy wants it.

use crate::config::{self, Config};
use crate::proxy::{Limit, Limits, Priorities, Priority};

/// How much each client may ask.
pub(super) fn limits(config: &Config) -> Limits {
    let limit = |limits: config::Limits| Limit {
        qps: limits.qps,
        burst: limits.burst,
        in_flight: limits.in_flight,
    };
    let by_name = config.clients.iter().filter_map(|client| {
        let limits = client.limits?;
        Some((client.common_name.clone(), limit(limits)))
    });
    Limits::new(by_name, config.default_limits.map(limit))
}

/// Which client goes first.
pub(super) fn priorities(config: &Config) -> Priorities {
    Priorities::new(config.clients.iter().map(|client| {
        let given = client.priority.map(Priority);
        let priority = given.unwrap_or_else(|| Priority::default_of(&client.common_name));
        (client.common_name.clone(), priority)
    }))
}
