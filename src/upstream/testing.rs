//! What the tests of this layer share.

use std::time::Duration;

use super::cause::Cause;
use super::clientele::Clientele;
use super::endpoint::Endpoint;
use super::error::UpstreamError;
use super::failure::Failure;
use super::health::Event;
use super::link::Link;
use super::metrics::UpstreamMetrics;
use super::settings::{Compression, DialSettings, KeepAlive, ProbeSettings, Settings, Strategy, Trust};

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
        compression: Compression::Auto,
        trust: Trust::Audited,
        dial: DialSettings {
            connect_timeout: Duration::from_secs(2),
            proxy: None,
            interfaces: Vec::new(),
            keep_alive: KeepAlive::default(),
        },
    }
}

/// A link over `cloud:6443`, which refuses connections.
pub(crate) fn link_away() -> Link {
    let link = Link::new(settings(&["cloud"]), UpstreamMetrics::default());
    for server in &link.server_set().servers {
        let refused = UpstreamError::unsent(Failure::Connect, "cloud:6443: refused").because(Cause::Refused);
        server.failed_with(Clientele::Known, &refused);
        server.signal(Event::ProbeFailed);
    }
    link
}
