//! `upstream`: the way to the kube-apiserver.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::tls::ServerName;
use crate::upstream::{
    Compression, DialSettings, Endpoint, KeepAlive, ProbeSettings, Settings, Strategy, Trust,
};

use super::error::{Fault, quoted};
use super::material::{self, MaterialRef};
use super::object::{Distinct, Field, Object, distinct};
use super::reference::Names;
use super::{address, proxy, text};

/// More probes than that are not waited for.
const MOST_PROBES: i64 = 100;

/// `upstream`: the way to the kube-apiserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The way as the link takes it.
    pub settings: Settings,
    /// The URLs of its servers as they are written, in the same order.
    pub urls: Vec<String>,
    /// The name that their certificates must carry; without it each one's host.
    pub tls_server_name: Option<ServerName>,
    /// Absolute path of the authorities that the servers are verified with.
    pub ca_file: PathBuf,
    /// More of them, from a ConfigMap.
    pub ca_ref: Option<MaterialRef>,
}

/// `own` are the addresses that clients connect to; `cache_path` is where what comes from the cluster is kept.
pub(super) fn read(
    upstream: &mut Object<'_>,
    own: &[SocketAddr],
    cache_path: &Path,
    names: &Names,
) -> Option<Upstream> {
    let servers = upstream.required("servers");
    let strategy = upstream.or("strategy", Strategy::default(), |field| {
        field.choice(&[
            ("priority", Strategy::Priority),
            ("roundRobin", Strategy::RoundRobin),
        ])
    });
    let tls_server_name = upstream.optional("tlsServerName", |field| field.parse(address::server_name));
    let ca_file = upstream.file("caFile");
    let ca_kept_in = material::directory(cache_path).join("upstream-ca.crt");
    let ca_ref = material::config_map(upstream, "caConfigMapRef", ca_kept_in, names);
    let settings = Settings {
        servers: Vec::new(),
        strategy,
        dial: DialSettings {
            proxy: proxy::read(upstream),
            interfaces: upstream.or("interfaces", Vec::new(), |field| {
                let items = field.non_empty("at least one interface, like eth0");
                Some(distinct(&items, text::interface))
            }),
            connect_timeout: upstream.duration("connectTimeout", Duration::from_secs(2)),
            keep_alive: upstream.section("keepAlive", |keep_alive| KeepAlive {
                interval: keep_alive.duration("interval", KeepAlive::default().interval),
                timeout: keep_alive.duration("timeout", KeepAlive::default().timeout),
            }),
        },
        response_timeout: upstream.duration("responseTimeout", Duration::from_secs(5)),
        compression: upstream.or("compression", Compression::default(), |field| {
            field.choice(&[("auto", Compression::Auto), ("off", Compression::Off)])
        }),
        trust: upstream.or("trustGateway", Trust::default(), |field| {
            field.choice(&[("true", Trust::Gateway), ("false", Trust::Audited)])
        }),
        probe: upstream.section("probe", |probe| ProbeSettings {
            interval: probe.duration("interval", Duration::from_secs(5)),
            timeout: probe.duration("timeout", Duration::from_secs(2)),
            failure_threshold: threshold(probe, "failureThreshold", 2),
            success_threshold: threshold(probe, "successThreshold", 3),
        }),
    };
    let (urls, servers) = read_servers(&servers?, own, tls_server_name.as_ref());
    Some(Upstream {
        settings: Settings { servers, ..settings },
        urls,
        tls_server_name,
        ca_file: ca_file?,
        ca_ref,
    })
}

/// As they are written, and what that means.
fn read_servers(
    field: &Field<'_>,
    own: &[SocketAddr],
    name: Option<&ServerName>,
) -> (Vec<String>, Vec<Endpoint>) {
    let items = field.non_empty("the URL of the kube-apiserver, like https://203.0.113.10:6443");
    let mut distinct = Distinct::default();
    let read = items.iter().filter_map(|item| {
        let url = item.text()?;
        let server = item.parse(address::server)?;
        let is_own = |own: &SocketAddr| server.host.parse() == Ok(own.ip()) && server.port == own.port();
        if own.iter().any(is_own) {
            let wrong = format!("{} is one of listen.addresses", quoted(url));
            item.refuse(Fault::new(wrong, "write the URL of the kube-apiserver itself"));
        }
        distinct.note(item, format!("{server}{}", server.base));
        let server = match name {
            Some(name) => server.named(name.clone()),
            None => server,
        };
        Some((url.to_owned(), server))
    });
    read.unzip()
}

fn threshold(probe: &mut Object<'_>, name: &'static str, default: u32) -> u32 {
    probe.or(name, default, |field| {
        let in_words = format!("from 1 to {MOST_PROBES}");
        let fix = format!("write a number of probes, like {default}");
        field.whole(1..=MOST_PROBES, &in_words, &fix)
    })
}
