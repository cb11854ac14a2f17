//! The configuration file: the only place that knows YAML.
//!
//! Owns the schema of `apiVersion: edgehold/v1alpha1`, `kind: ProxyConfiguration` and turns a file into plain,
//! validated values, or into every problem of it at once, each with its line and column. It opens the configuration
//! file and no other: whether certificates exist is for those who use them, since a missing one is normal on a new
//! node. Knows no component; `app` maps [`Config`] to theirs.
//!
//! Invariants: no input makes it panic, expand or take memory beyond a fixed bound; a [`Config`] is complete and
//! every path in it is absolute.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use address::ServerAddress;
pub use admin::{Admin, AdminAddress};
pub use encryption::Encryption;
pub use error::{ConfigErrors, Position, Problem};
pub use in_cluster::InCluster;
pub use interface::{DummyInterface, OnExit};
pub use material::MaterialRef;
pub use offline::{Issuer, IssuerCredential, Offline};
pub use published::without_credentials;
pub use serving::{Csr, KUBELET_SERVING, ServingPair};

use crate::upstream::{Trust, UpstreamProxy};
use error::{Fault, Problems};

mod address;
mod admin;
mod client;
mod duration;
mod encryption;
mod error;
mod in_cluster;
mod interface;
pub mod kubeconfig;
mod material;
mod object;
mod offline;
mod proxy;
mod published;
mod quantity;
mod schema;
mod serving;
mod tree;
mod upstream;

/// The only `apiVersion`.
pub const API_VERSION: &str = "edgehold/v1alpha1";
/// The only `kind`.
pub const KIND: &str = "ProxyConfiguration";
/// Where a node's configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/edgehold/config.yaml";

/// As lite-apiserver.
const DEFAULT_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 51003);
/// Bytes of a configuration file, at most.
const LARGEST: usize = 1 << 20;

/// A complete configuration. Fields are as in docs/configuration.md, defaults filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Where local clients connect.
    pub listen: Listen,
    /// The way to the kube-apiserver.
    pub upstream: Upstream,
    /// Clients with a certificate, each with the pair that speaks for it upstream. Common names are unique.
    pub clients: Vec<Client>,
    /// `defaultClient.limits`: for each caller that has no configured certificate.
    pub default_limits: Option<Limits>,
    /// When certificate files are read again.
    pub certificates: Certificates,
    /// What is kept for the time without the cloud.
    pub cache: Cache,
    /// What holds while the cloud is away.
    pub offline: Offline,
    /// What clients of this node see of the Service `default/kubernetes`; `None`: what upstream says.
    pub in_cluster: Option<InCluster>,
    /// Where edgehold tells how it is.
    pub admin: Admin,
    /// Logging.
    pub log: Log,
    /// The file that it was read from, to be read again when that changes; `None` for a mere text.
    pub file: Option<PathBuf>,
}

/// `listen`: where local clients connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// Never empty; no address twice. Port 0 lets the system choose.
    pub addresses: Vec<SocketAddr>,
    /// The certificate shown to clients and the authority for theirs.
    pub tls: ServingPair,
    /// A client that takes nothing of what is ready for it for so long is dropped.
    pub write_timeout: Duration,
    /// An interface of its own for node-local addresses.
    pub dummy_interface: Option<DummyInterface>,
}

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

impl Strategy {
    const ALL: [Self; 2] = [Self::Priority, Self::RoundRobin];

    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Priority => "priority",
            Self::RoundRobin => "roundRobin",
        }
    }
}

/// `upstream.compression`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Asked for whatever the client asks for.
    Auto,
    /// Never asked for.
    Off,
}

impl Compression {
    const ALL: [Self; 2] = [Self::Auto, Self::Off];

    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Off => "off",
        }
    }
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

/// One of `clients`: a certificate identity and the pair that speaks for it upstream.
#[derive(Clone, Debug, PartialEq)]
pub struct Client {
    /// The subject's common name, never empty.
    pub common_name: String,
    /// Absolute path of the client certificate; may not exist yet.
    pub cert_file: PathBuf,
    /// Absolute path of its key, often the same file; may not exist yet.
    pub key_file: PathBuf,
    /// The Secret that both come from; then they are the file that its content is kept in.
    pub secret_ref: Option<MaterialRef>,
    /// How fast this client may ask.
    pub limits: Option<Limits>,
    /// Where clients wait for each other, the higher goes first; `None`: the default for its name.
    pub priority: Option<i32>,
}

/// `limits`: how fast a client may ask, reads and writes apart, and how much may last.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Requests a second, above zero.
    pub qps: f64,
    /// Requests at once, above zero.
    pub burst: u32,
    /// Requests under way at once, above zero.
    pub in_flight: Option<u32>,
    /// Watches at once, above zero.
    pub watches: Option<u32>,
}

/// `certificates`: when certificate files are read again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificates {
    /// While all is well.
    pub reload_interval: Duration,
    /// While any file is missing, broken, expired or not yet valid.
    pub retry_interval: Duration,
}

/// `cache`: what is kept for the time without the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Where it is kept.
    pub store: CacheStore,
    /// Absolute path of the directory of [`CacheStore::File`].
    pub path: PathBuf,
    /// Bytes, at least 1 MiB.
    pub max_size: u64,
    /// When it is made safe against a power cut.
    pub sync: CacheSync,
    /// How it is kept from those who get hold of the disk; `None`: not at all.
    pub encryption: Option<Encryption>,
}

/// `cache.store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStore {
    /// Files below `cache.path`.
    File,
    /// Nothing survives the process.
    Memory,
}

impl CacheStore {
    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Memory => "memory",
        }
    }
}

/// `cache.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSync {
    /// Once a second: a power cut loses at most that.
    Interval,
}

/// `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: LogLevel,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl LogFormat {
    const ALL: [Self; 2] = [Self::Text, Self::Json];

    /// As in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// `log.level`, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something is lost.
    Error,
    /// Something is wrong and handled.
    Warn,
    /// Changes of state.
    Info,
    /// One line a request.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// From the quietest on.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As in the file, and as `tracing` filters spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Reads and validates a configuration file.
///
/// # Errors
/// The file cannot be read, is larger than 1 MiB, is not UTF-8 or not YAML, or its content is not right: then every
/// problem of it.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    let name = path.display().to_string();
    let bytes = contents(path).map_err(|error| {
        let fault = Fault::new(
            format!("cannot be read: {error}"),
            "name a readable file with --config",
        );
        ConfigErrors::whole_file(&name, fault)
    })?;
    let config = parse_bytes(&bytes, &name)?;
    let file = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Ok(Config {
        file: Some(file),
        ..config
    })
}

/// One byte more than allowed tells a large file from one that just fits, and ends endless ones.
fn contents(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(LARGEST as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Validates the text of a configuration; `name` stands for the file in messages.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, name: &str) -> Result<Config, ConfigErrors> {
    parse_bytes(text.as_bytes(), name)
}

fn parse_bytes(bytes: &[u8], name: &str) -> Result<Config, ConfigErrors> {
    if bytes.len() > LARGEST {
        let fix = "check that this is a configuration of edgehold";
        return Err(ConfigErrors::whole_file(
            name,
            Fault::new("is larger than 1 MiB", fix),
        ));
    }
    let mut problems = Problems::default();
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = end_of(bytes.get(..error.valid_up_to()).unwrap_or_default());
            problems.add(
                at,
                "yaml",
                Fault::new("this is not UTF-8", "save the file as UTF-8"),
            );
            return Err(problems.into_errors(name));
        }
    };
    let config = tree::read(text, &mut problems).and_then(|root| schema::read(&root, &mut problems));
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(problems.into_errors(name)),
    }
}

/// A value in YAML.
///
/// # Errors
/// What cannot be written as YAML, in words.
pub fn yaml(value: &impl serde::Serialize) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|error| error.to_string())
}

/// The position just after `text`.
fn end_of(text: &[u8]) -> Position {
    let text = String::from_utf8_lossy(text);
    let last = text.rsplit('\n').next().unwrap_or_default();
    Position {
        line: text.matches('\n').count() + 1,
        column: last.chars().count() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINIMAL: &str = include_str!("../examples/minimal.yaml");
    const NODE: &str = include_str!("../examples/edge-node.yaml");

    /// The promise about problems: at least one, and each on a line of its own that starts with the name.
    fn well_said(bytes: &[u8]) -> Result<(), TestCaseError> {
        if let Err(errors) = parse_bytes(bytes, "f.yaml") {
            prop_assert!(!errors.problems().is_empty());
            for line in errors.to_string().split('\n') {
                prop_assert!(line.starts_with("f.yaml:") && line.contains("; "), "{line:?}");
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
        Ok(())
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            well_said(&bytes)?;
        }

        #[test]
        fn any_yaml_like_text_is_answered(text in "([-a-c:\\[\\]{},&*!|>#?%@\"'~ \t\r\n]|null|<<|limits|clients){0,80}") {
            well_said(text.as_bytes())?;
        }

        #[test]
        fn a_damaged_configuration_is_answered(
            cut in 0..NODE.len(), length in 0..40usize, with in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let end = (cut + length).min(NODE.len());
            let bytes = [&NODE.as_bytes()[..cut], &with[..], &NODE.as_bytes()[end..]].concat();
            well_said(&bytes)?;
        }

        #[test]
        fn a_line_left_out_is_answered(line in 0..NODE.lines().count(), instead in "[ a-zA-Z\\[{:,}\\]-]{0,30}") {
            let lines: Vec<&str> =
                NODE.lines().enumerate().map(|(i, text)| if i == line { &*instead } else { text }).collect();
            well_said(lines.join("\n").as_bytes())?;
        }
    }

    #[test]
    fn the_minimal_configuration_has_the_documented_defaults() {
        let config = parse(MINIMAL, "minimal").unwrap();
        assert_eq!(config.listen.addresses, ["127.0.0.1:51003".parse().unwrap()]);
        assert_eq!(config.upstream.connect_timeout, Duration::from_secs(2));
        assert_eq!(config.upstream.response_timeout, Duration::from_secs(5));
        assert_eq!(config.upstream.probe.interval, Duration::from_secs(5));
        assert_eq!(config.upstream.probe.timeout, Duration::from_secs(2));
        assert_eq!(config.upstream.probe.failure_threshold, 2);
        assert_eq!(config.upstream.probe.success_threshold, 3);
        assert_eq!(config.upstream.strategy, super::Strategy::Priority);
        assert_eq!(config.upstream.keep_alive.interval, Duration::from_secs(3));
        assert_eq!(config.upstream.keep_alive.timeout, Duration::from_millis(1500));
        assert_eq!(config.clients, []);
        assert_eq!(config.certificates.reload_interval, Duration::from_secs(1800));
        assert_eq!(config.certificates.retry_interval, Duration::from_secs(1));
        assert_eq!(config.cache.store, CacheStore::File);
        assert_eq!(config.cache.path, Path::new("/var/lib/edgehold"));
        assert_eq!(config.cache.max_size, 1 << 30);
        assert_eq!(config.cache.sync, CacheSync::Interval);
        assert_eq!(
            (config.log.format, config.log.level),
            (LogFormat::Text, LogLevel::Info)
        );
    }

    #[test]
    fn size_and_encoding_are_bounded() {
        let said = |bytes: &[u8]| parse_bytes(bytes, "f").unwrap_err().to_string();
        assert_eq!(
            said(&vec![0xff; LARGEST + 1]),
            "f: file: is larger than 1 MiB; check that this is a configuration of edgehold"
        );
        let fits = format!("{MINIMAL}{}", "#".repeat(LARGEST - MINIMAL.len()));
        assert!(parse(&fits, "f").is_ok());
        assert_eq!(
            said(b"kind: x\n\xc3\xa4: \xff\n"),
            "f:2:4: yaml: this is not UTF-8; save the file as UTF-8"
        );
    }
}
