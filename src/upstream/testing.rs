//! What the tests of this layer share.

use std::time::Duration;

use super::settings::{DialSettings, Endpoint, KeepAlive, ProbeSettings, Settings, Strategy};

/// A way to these servers that one failed probe takes away, with the default times.
pub(super) fn settings(hosts: &[&str]) -> Settings {
    let endpoint = |host: &&str| Endpoint::new(host, 6443).unwrap();
    Settings {
        servers: hosts.iter().map(endpoint).collect(),
        strategy: Strategy::Priority,
        probe: ProbeSettings {
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            failure_threshold: 1,
            success_threshold: 2,
        },
        response_timeout: Duration::from_secs(5),
        dial: DialSettings {
            connect_timeout: Duration::from_secs(2),
            proxy: None,
            interfaces: Vec::new(),
            keep_alive: KeepAlive::default(),
        },
    }
}
