//! The way to the cloud, from the configuration.

use crate::config::{self, Upstream};
use crate::runtime::file_mode;
use crate::upstream::{Compression, Credentials, DialSettings, KeepAlive, ProbeSettings, Settings, Strategy};

pub(super) fn settings(config: &Upstream) -> Settings {
    warn_of_file_mode(config);
    // Host and name are DNS names or addresses: checked when the configuration was read.
    let servers = config
        .servers
        .iter()
        .filter_map(|server| server.endpoint(config.tls_server_name.as_deref()).ok());
    Settings {
        servers: servers.collect(),
        strategy: match config.strategy {
            config::Strategy::Priority => Strategy::Priority,
            config::Strategy::RoundRobin => Strategy::RoundRobin,
        },
        probe: ProbeSettings {
            interval: config.probe.interval,
            timeout: config.probe.timeout,
            failure_threshold: config.probe.failure_threshold,
            success_threshold: config.probe.success_threshold,
        },
        response_timeout: config.response_timeout,
        compression: match config.compression {
            config::Compression::Auto => Compression::Auto,
            config::Compression::Off => Compression::Off,
        },
        trust: config.trust,
        dial: DialSettings {
            connect_timeout: config.connect_timeout,
            keep_alive: KeepAlive {
                interval: config.keep_alive.interval,
                timeout: config.keep_alive.timeout,
            },
            proxy: config.proxy.clone(),
            interfaces: config.interfaces.clone(),
        },
    }
}

/// A password that others can read is worth a line at the start, and whenever the configuration changes.
fn warn_of_file_mode(config: &Upstream) {
    let credentials = config.proxy.as_ref().and_then(|proxy| proxy.credentials.as_ref());
    let Some(Credentials::File(path)) = credentials else {
        return;
    };
    if let Some(fault) = std::fs::metadata(path).ok().as_ref().and_then(file_mode::fault) {
        let path = path.display();
        tracing::warn!(%path, "the password for the proxy {fault}: it should be readable by edgehold alone (chmod 600)");
    }
}
