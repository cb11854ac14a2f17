//! `upstream`: the way to the kube-apiserver.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::upstream::Trust;

use super::error::{Fault, Problems, quoted};
use super::object::{Field, Object, or_default, refuse_repeats};
use super::schema::{file, non_empty, time};
use super::serving::References;
use super::{Compression, KeepAlive, Probe, ServerAddress, Strategy, Upstream};
use super::{address, interface, material, proxy};

/// More probes than that are not waited for.
const MOST_PROBES: u32 = 100;

/// `ca_kept_in` is the file for what `caConfigMapRef` brings.
pub(super) fn read<'n>(
    field: &Field<'n>,
    own: &[SocketAddr],
    ca_kept_in: PathBuf,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<Upstream> {
    let known = [
        "servers",
        "strategy",
        "tlsServerName",
        "caFile",
        "caConfigMapRef",
        "proxyURL",
        "proxyCredentialsFile",
        "noProxy",
        "interfaces",
        "connectTimeout",
        "responseTimeout",
        "compression",
        "trustGateway",
        "probe",
        "keepAlive",
    ];
    let object = field.object(&known, out)?;
    let servers = object
        .required("servers", out)
        .and_then(|field| read_servers(&field, own, out));
    let strategy = or_default(object.get("strategy"), Strategy::Priority, |field| {
        field.choice(&Strategy::ALL.map(|strategy| (strategy.as_str(), strategy)), out)
    });
    let tls_server_name = or_default(object.get("tlsServerName"), None, |field| {
        field.parse(address::server_name, out).map(Some)
    });
    let ca_file = file(&object, "caFile", out);
    let ca_ref = material::read_config_map(&object, "caConfigMapRef", ca_kept_in, references, out);
    let proxy = proxy::read(&object, out);
    let interfaces = or_default(object.get("interfaces"), Vec::new(), |field| {
        read_interfaces(&field, out)
    });
    let connect_timeout = time(&object, "connectTimeout", Duration::from_secs(2), out);
    let response_timeout = time(&object, "responseTimeout", Duration::from_secs(5), out);
    let compression = or_default(object.get("compression"), Compression::Auto, |field| {
        field.choice(
            &Compression::ALL.map(|compression| (compression.as_str(), compression)),
            out,
        )
    });
    let trust = or_default(object.get("trustGateway"), Trust::default(), |field| {
        field.choice(&[("true", Trust::Gateway), ("false", Trust::Audited)], out)
    });
    let probe = read_probe(object.get("probe"), out);
    let keep_alive = read_keep_alive(object.get("keepAlive"), out);
    Some(Upstream {
        servers: servers?,
        strategy: strategy?,
        tls_server_name: tls_server_name?,
        ca_file: ca_file?,
        ca_ref: ca_ref?,
        proxy: proxy?,
        interfaces: interfaces?,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        compression: compression?,
        trust: trust?,
        probe: probe?,
        keep_alive: keep_alive?,
    })
}

fn read_servers(field: &Field<'_>, own: &[SocketAddr], out: &mut Problems) -> Option<Vec<ServerAddress>> {
    let items = non_empty(
        field,
        "the URL of the kube-apiserver, like https://203.0.113.10:6443",
        out,
    )?;
    let mut servers = Vec::new();
    let mut named = Vec::new();
    for item in items {
        let Some(server) = item.parse(address::server, out) else {
            continue;
        };
        let is_own = |own: &SocketAddr| server.host.parse() == Ok(own.ip()) && server.port == own.port();
        if own.iter().any(is_own) {
            let wrong = format!("{} is one of listen.addresses", quoted(&server.original));
            item.refuse(
                Fault::new(wrong, "write the URL of the kube-apiserver itself"),
                out,
            );
        }
        named.push((item, format!("{server}{}", server.path)));
        servers.push(server);
    }
    refuse_repeats(&named, out);
    (!servers.is_empty()).then_some(servers)
}

fn read_interfaces(field: &Field<'_>, out: &mut Problems) -> Option<Vec<String>> {
    let items = non_empty(field, "at least one interface, like eth0", out)?;
    let count = items.len();
    let read = items.into_iter().filter_map(|item| {
        let name = item.parse(interface::name, out)?;
        Some((item, name))
    });
    let named: Vec<_> = read.collect();
    refuse_repeats(&named, out);
    let names: Vec<String> = named.into_iter().map(|(_, name)| name).collect();
    (names.len() == count).then_some(names)
}

fn read_probe(field: Option<Field<'_>>, out: &mut Problems) -> Option<Probe> {
    let default = Probe {
        interval: Duration::from_secs(5),
        timeout: Duration::from_secs(2),
        failure_threshold: 2,
        success_threshold: 3,
    };
    or_default(field, default.clone(), |field| {
        let known = ["interval", "timeout", "failureThreshold", "successThreshold"];
        let object = field.object(&known, out)?;
        let interval = time(&object, "interval", default.interval, out);
        let timeout = time(&object, "timeout", default.timeout, out);
        let failure_threshold = threshold(&object, "failureThreshold", default.failure_threshold, out);
        let success_threshold = threshold(&object, "successThreshold", default.success_threshold, out);
        Some(Probe {
            interval: interval?,
            timeout: timeout?,
            failure_threshold: failure_threshold?,
            success_threshold: success_threshold?,
        })
    })
}

fn threshold(object: &Object<'_>, name: &str, default: u32, out: &mut Problems) -> Option<u32> {
    or_default(object.get(name), default, |field| {
        let number = field.number(out)?;
        let Some(number) = (1..=MOST_PROBES).find(|n| f64::from(*n) == number) else {
            let wrong = format!(
                "{} is not a whole number from 1 to {MOST_PROBES}",
                quoted(&number.to_string())
            );
            field.refuse(
                Fault::new(wrong, format!("write a number of probes, like {default}")),
                out,
            );
            return None;
        };
        Some(number)
    })
}

fn read_keep_alive(field: Option<Field<'_>>, out: &mut Problems) -> Option<KeepAlive> {
    let default = KeepAlive {
        interval: Duration::from_secs(3),
        timeout: Duration::from_millis(1500),
    };
    or_default(field, default.clone(), |field| {
        let object = field.object(&["interval", "timeout"], out)?;
        let interval = time(&object, "interval", default.interval, out);
        let timeout = time(&object, "timeout", default.timeout, out);
        Some(KeepAlive {
            interval: interval?,
            timeout: timeout?,
        })
    })
}
