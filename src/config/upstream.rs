//! `upstream`: the way to the kube-apiserver.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::upstream::{Trust, UpstreamProxy};

use super::address::{self, ServerAddress};
use super::error::{Fault, quoted};
use super::material::{self, MaterialRef};
use super::object::{Distinct, Field, Object, distinct};
use super::reference::Names;
use super::{proxy, text};

/// More probes than that are not waited for.
const MOST_PROBES: i64 = 100;

/// `upstream`: the way to the kube-apiserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Never empty; the preferred one first.
    pub servers: Vec<ServerAddress>,
    /// Which server a request goes to.
    pub strategy: Strategy,
    /// The name that their certificates must carry; without it each one's host.
    pub tls_server_name: Option<String>,
    /// Absolute path of the authorities that the servers are verified with.
    pub ca_file: PathBuf,
    /// More of them, from a ConfigMap.
    pub ca_ref: Option<MaterialRef>,
    /// The proxy on the way.
    pub proxy: Option<UpstreamProxy>,
    /// The interfaces to go out by, the preferred one first, none twice; empty: as the routes say.
    pub interfaces: Vec<String>,
    /// For TCP, the proxy's tunnel and TLS together.
    pub connect_timeout: Duration,
    /// Until the first byte of the answer to a read.
    pub response_timeout: Duration,
    /// Whether answers are asked for compressed.
    pub compression: Compression,
    /// Whether answers without `Audit-Id` count as an apiserver's.
    pub trust: Trust,
    /// How the link is watched.
    pub probe: Probe,
    /// How soon the loss of a silent connection is noticed.
    pub keep_alive: KeepAlive,
}

/// `upstream.strategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// The first of the list that can be reached.
    Priority,
    /// Identities take turns.
    RoundRobin,
}

/// `upstream.compression`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Asked for whatever the client asks for.
    Auto,
    /// Never asked for.
    Off,
}

/// `upstream.probe`: how the link is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// From one probe to the next.
    pub interval: Duration,
    /// Until a probe has failed.
    pub timeout: Duration,
    /// So many in a row and a server is away. At least 1.
    pub failure_threshold: u32,
    /// So many in a row and a server that was away is preferred again. At least 1.
    pub success_threshold: u32,
}

/// `upstream.keepAlive`: how soon the loss of a silent connection is noticed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepAlive {
    /// Of silence, before it is asked whether it is alive.
    pub interval: Duration,
    /// Until an answer to that is overdue.
    pub timeout: Duration,
}

/// `own` are the addresses that clients connect to; `cache_path` is where what comes from the cluster is kept.
pub(super) fn read(
    upstream: &mut Object<'_>,
    own: &[SocketAddr],
    cache_path: &Path,
    names: &Names,
) -> Option<Upstream> {
    let servers = upstream.required("servers");
    let strategy = upstream.or("strategy", Strategy::Priority, |field| {
        field.choice(&[
            ("priority", Strategy::Priority),
            ("roundRobin", Strategy::RoundRobin),
        ])
    });
    let tls_server_name = upstream.optional("tlsServerName", |field| field.parse(address::server_name));
    let ca_file = upstream.file("caFile");
    let ca_kept_in = material::directory(cache_path).join("upstream-ca.crt");
    Some(Upstream {
        strategy,
        tls_server_name,
        ca_ref: material::config_map(upstream, "caConfigMapRef", ca_kept_in, names),
        proxy: proxy::read(upstream),
        interfaces: upstream.or("interfaces", Vec::new(), |field| {
            let items = field.non_empty("at least one interface, like eth0");
            Some(distinct(&items, text::interface))
        }),
        connect_timeout: upstream.duration("connectTimeout", Duration::from_secs(2)),
        response_timeout: upstream.duration("responseTimeout", Duration::from_secs(5)),
        compression: upstream.or("compression", Compression::Auto, |field| {
            field.choice(&[("auto", Compression::Auto), ("off", Compression::Off)])
        }),
        trust: upstream.or("trustGateway", Trust::default(), |field| {
            field.choice(&[("true", Trust::Gateway), ("false", Trust::Audited)])
        }),
        probe: upstream.section("probe", |probe| Probe {
            interval: probe.duration("interval", Duration::from_secs(5)),
            timeout: probe.duration("timeout", Duration::from_secs(2)),
            failure_threshold: threshold(probe, "failureThreshold", 2),
            success_threshold: threshold(probe, "successThreshold", 3),
        }),
        keep_alive: upstream.section("keepAlive", |keep_alive| KeepAlive {
            interval: keep_alive.duration("interval", Duration::from_secs(3)),
            timeout: keep_alive.duration("timeout", Duration::from_millis(1500)),
        }),
        servers: read_servers(&servers?, own),
        ca_file: ca_file?,
    })
}

fn read_servers(field: &Field<'_>, own: &[SocketAddr]) -> Vec<ServerAddress> {
    let items = field.non_empty("the URL of the kube-apiserver, like https://203.0.113.10:6443");
    let mut distinct = Distinct::default();
    let read = items.iter().filter_map(|item| {
        let server = item.parse(address::server)?;
        let is_own = |own: &SocketAddr| server.host.parse() == Ok(own.ip()) && server.port == own.port();
        if own.iter().any(is_own) {
            let wrong = format!("{} is one of listen.addresses", quoted(&server.original));
            item.refuse(Fault::new(wrong, "write the URL of the kube-apiserver itself"));
        }
        distinct.note(item, format!("{server}{}", server.path));
        Some(server)
    });
    read.collect()
}

fn threshold(probe: &mut Object<'_>, name: &'static str, default: u32) -> u32 {
    probe.or(name, default, |field| {
        let in_words = format!("from 1 to {MOST_PROBES}");
        let fix = format!("write a number of probes, like {default}");
        field.whole(1..=MOST_PROBES, &in_words, &fix)
    })
}
