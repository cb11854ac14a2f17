//! The fields of `edgehold/v1alpha1` and their rules: a tree becomes a [`Config`].
//!
//! Each function reads one object, all of it even after a problem, and returns `None` only after it reported one.
//! docs/configuration.md is the reference; `app/reload/reference.rs` checks it against the code.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::client::{read_clients, read_limits};
use super::error::{Fault, Problems, quoted};
use super::object::{Field, Object, or_default, refuse_repeats};
use super::serving::References;
use super::tree::Node;
use super::{
    API_VERSION, Cache, CacheStore, CacheSync, Certificates, Config, KIND, Listen, Log, LogFormat, LogLevel,
};
use super::{
    address, admin, duration, encryption, in_cluster, interface, offline, quantity, serving, upstream,
};

/// A smaller cache could not hold one node's own objects: the number lacks its unit.
const SMALLEST_CACHE: u64 = 1 << 20;

pub(super) fn read(root: &Node, out: &mut Problems) -> Option<Config> {
    let known = [
        "apiVersion",
        "kind",
        "listen",
        "upstream",
        "clients",
        "defaultClient",
        "certificates",
        "cache",
        "offline",
        "inCluster",
        "admin",
        "log",
    ];
    let root = Object::root(root, &known, out)?;
    for (name, value) in [("apiVersion", API_VERSION), ("kind", KIND)] {
        if let Some(field) = root.required(name, out) {
            field.choice(&[(value, ())], out);
        }
    }
    let cache = read_cache(root.get("cache"), out);
    let cache_path = cache.as_ref().map_or(Path::new("/"), |cache| &cache.path);
    let mut references = Vec::new();
    let listen = root
        .required("listen", out)
        .and_then(|field| read_listen(&field, cache_path, &mut references, out));
    let own: &[SocketAddr] = listen.as_ref().map_or(&[], |listen| &listen.addresses);
    let ca_kept_in = cache_path.join("material/upstream-ca.crt");
    let upstream = root
        .required("upstream", out)
        .and_then(|field| upstream::read(&field, own, ca_kept_in, &mut references, out));
    let clients = or_default(root.get("clients"), Vec::new(), |field| {
        read_clients(&field, cache_path, &mut references, out)
    });
    if let Some(clients) = &clients {
        serving::check_references(&references, clients, out);
    }
    let default_client = root
        .get("defaultClient")
        .and_then(|field| field.object(&["limits"], out));
    let default_limits = default_client.and_then(|object| read_limits(&object, out));
    let certificates = read_certificates(root.get("certificates"), out);
    let configured = clients.as_deref().unwrap_or_default();
    let offline = offline::read(root.get("offline"), configured, out);
    let log = read_log(root.get("log"), out);
    let in_cluster = in_cluster::read(root.get("inCluster"), clients.as_deref(), out);
    let admin = admin::read(root.get("admin"), own, out);
    Some(Config {
        listen: listen?,
        upstream: upstream?,
        clients: clients?,
        default_limits,
        certificates: certificates?,
        cache: cache?,
        offline: offline?,
        in_cluster: in_cluster?,
        admin: admin?,
        log: log?,
        file: None,
    })
}

fn read_listen<'n>(
    field: &Field<'n>,
    cache_path: &Path,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<Listen> {
    let object = field.object(&["addresses", "tls", "dummyInterface", "writeTimeout"], out)?;
    let addresses = or_default(object.get("addresses"), vec![super::DEFAULT_ADDRESS], |field| {
        read_addresses(&field, out)
    });
    let tls = object
        .required("tls", out)
        .and_then(|field| serving::read(&field, cache_path, references, out));
    let dummy_interface = interface::read(&object, out);
    let write_timeout = time(&object, "writeTimeout", Duration::from_secs(15 * 60), out);
    Some(Listen {
        addresses: addresses?,
        tls: tls?,
        write_timeout: write_timeout?,
        dummy_interface: dummy_interface?,
    })
}

fn read_addresses(field: &Field<'_>, out: &mut Problems) -> Option<Vec<SocketAddr>> {
    let mut addresses = Vec::new();
    let items = non_empty(field, "at least one address, like 127.0.0.1:51003", out)?;
    let count = items.len();
    for item in items {
        if let Some(address) = item.parse(address::listen, out) {
            addresses.push((item, address));
        }
    }
    let all = addresses.iter().map(|(_, address)| *address).collect();
    let complete = addresses.len() == count;
    // Port 0 is another port each time.
    addresses.retain(|(_, address)| address.port() != 0);
    refuse_repeats(&addresses, out);
    complete.then_some(all)
}

fn read_certificates(field: Option<Field<'_>>, out: &mut Problems) -> Option<Certificates> {
    let default = Certificates {
        reload_interval: Duration::from_secs(30 * 60),
        retry_interval: Duration::from_secs(1),
    };
    or_default(field, default.clone(), |field| {
        let object = field.object(&["reloadInterval", "retryInterval"], out)?;
        let reload_interval = time(&object, "reloadInterval", default.reload_interval, out);
        let retry_interval = time(&object, "retryInterval", default.retry_interval, out);
        Some(Certificates {
            reload_interval: reload_interval?,
            retry_interval: retry_interval?,
        })
    })
}

fn read_cache(field: Option<Field<'_>>, out: &mut Problems) -> Option<Cache> {
    let default = Cache {
        store: CacheStore::File,
        path: PathBuf::from("/var/lib/edgehold"),
        max_size: 1 << 30,
        sync: CacheSync::Interval,
        encryption: None,
    };
    or_default(field, default.clone(), |field| {
        let object = field.object(&["store", "path", "maxSize", "sync", "encryption"], out)?;
        let store = or_default(object.get("store"), default.store, |field| {
            read_store(&field, out)
        });
        let path = or_default(object.get("path"), default.path, |field| field.parse(path, out));
        let max_size = or_default(object.get("maxSize"), default.max_size, |field| {
            field.parse_amount("a size like 1GiB", cache_size, out)
        });
        let sync = or_default(object.get("sync"), default.sync, |field| {
            field.choice(&[("interval", CacheSync::Interval)], out)
        });
        let encryption = encryption::read(object.get("encryption"), out);
        Some(Cache {
            store: store?,
            path: path?,
            max_size: max_size?,
            sync: sync?,
            encryption: encryption?,
        })
    })
}

fn read_store(field: &Field<'_>, out: &mut Problems) -> Option<CacheStore> {
    let choices = [
        ("file", Some(CacheStore::File)),
        ("memory", Some(CacheStore::Memory)),
        ("kv", None),
    ];
    let store = field.choice(&choices, out)?;
    if store.is_none() {
        field.refuse(Fault::new("`kv` is not supported yet", "use `file`"), out);
    }
    store
}

fn read_log(field: Option<Field<'_>>, out: &mut Problems) -> Option<Log> {
    let default = Log {
        format: LogFormat::Text,
        level: LogLevel::Info,
    };
    or_default(field, default.clone(), |field| {
        let object = field.object(&["format", "level"], out)?;
        let format = or_default(object.get("format"), default.format, |field| {
            field.choice(&LogFormat::ALL.map(|format| (format.as_str(), format)), out)
        });
        let level = or_default(object.get("level"), default.level, |field| {
            field.choice(&LogLevel::ALL.map(|level| (level.as_str(), level)), out)
        });
        Some(Log {
            format: format?,
            level: level?,
        })
    })
}

pub(super) fn non_empty<'n>(field: &Field<'n>, fix: &str, out: &mut Problems) -> Option<Vec<Field<'n>>> {
    let items = field.items(out)?;
    if items.is_empty() {
        field.refuse(Fault::new("is an empty list", format!("write {fix}")), out);
        return None;
    }
    Some(items)
}

pub(super) fn file(object: &Object<'_>, name: &str, out: &mut Problems) -> Option<PathBuf> {
    object.required(name, out)?.parse(path, out)
}

pub(super) fn time(
    object: &Object<'_>,
    name: &str,
    default: Duration,
    out: &mut Problems,
) -> Option<Duration> {
    or_default(object.get(name), default, |field| {
        field.parse_amount("a duration like 5s", duration::parse, out)
    })
}

fn cache_size(text: &str) -> Result<u64, Fault> {
    let size = quantity::parse(text)?;
    if size < SMALLEST_CACHE {
        let wrong = format!("{} is less than 1MiB", quoted(text));
        return Err(Fault::new(wrong, "write a size with its unit, like 1GiB"));
    }
    Ok(size)
}

pub(super) fn path(text: &str) -> Result<PathBuf, Fault> {
    if text.is_empty() {
        return Err(Fault::new("is empty", "write an absolute path"));
    }
    if text.chars().any(char::is_control) {
        let wrong = format!("{} has a control character", quoted(text));
        return Err(Fault::new(wrong, "write a plain path"));
    }
    if !text.starts_with('/') {
        return Err(Fault::new(
            format!("{} is not an absolute path", quoted(text)),
            "start it with /; nothing is looked up relative to the directory of the configuration file",
        ));
    }
    Ok(PathBuf::from(text))
}

pub(super) fn common_name(text: &str) -> Result<String, Fault> {
    let fix = "write the common name (CN) of the client certificate";
    if text.trim().is_empty() {
        return Err(Fault::new("is empty", fix));
    }
    if text.trim() != text || text.chars().any(char::is_control) {
        let wrong = format!("{} has spaces around it or a control character", quoted(text));
        return Err(Fault::new(wrong, fix));
    }
    Ok(text.to_owned())
}
