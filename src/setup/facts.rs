//! What is on the node: everything that a plan depends on, looked up once.
//!
//! Reads, never writes. What cannot be read is a fact too; the plans say what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::{self, Config};

use super::authority::Serving;
use super::host::{Host, Manager, Port};
use super::kubeconfigs::{self, KubeconfigFile, Role};
use super::paths;
use super::root::{Existing, Root};
use super::step::Step;

/// Where a node's clients have connected since lite-apiserver.
const ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 51003);

/// What the user asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The node's root directory.
    pub root: Root,
    /// kubelet's kubeconfig.
    pub kubeconfig: PathBuf,
    /// kubelet's bootstrap kubeconfig: looked at too if it is there.
    pub bootstrap: PathBuf,
    /// kube-proxy's kubeconfig; the usual places if not given.
    pub kube_proxy: Option<PathBuf>,
    /// The node's name, if it cannot be learned from kubelet's certificate.
    pub node_name: Option<String>,
    /// Where local clients connect; by default as configured before, else 127.0.0.1:51003.
    pub address: Option<SocketAddr>,
    /// Where pods that use InClusterConfig are to reach edgehold, on a dummy interface; not at all if not given.
    pub pods: Option<IpAddr>,
    /// Where the serving certificate comes from; with `pods` always from the cluster.
    pub serving: ServingCertificate,
    /// Who signs the certificates of local clients.
    pub client_ca: Option<PathBuf>,
    /// The program that the unit runs; by default this one.
    pub binary: Option<PathBuf>,
    /// What to do with a configuration that was changed by hand.
    pub replace: Replace,
    /// Whether to restart kubelet at the end.
    pub kubelet: Kubelet,
}

/// Where the serving certificate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServingCertificate {
    /// Made on the node, for the clients whose kubeconfig is pointed here.
    Local,
    /// From the cluster, by a request that somebody approves; until then the local one serves.
    Csr,
}

/// What to do with a configuration that was changed by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    /// Keep it.
    Keep,
    /// Rewrite it.
    Config,
}

/// What to do with a kubelet that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kubelet {
    /// Leave it alone, and say that it must be restarted.
    Leave,
    /// Restart it at the end.
    Restart,
}

/// Everything that a plan depends on.
#[derive(Debug)]
pub struct Facts {
    pub(super) is_root: bool,
    pub(super) manager: Manager,
    pub(super) port: Port,
    pub(super) now: SystemTime,
    /// The program for the unit, as the node sees it.
    pub(super) binary: PathBuf,
    pub(super) binary_is_there: bool,
    /// Where local clients will connect.
    pub(super) address: SocketAddr,
    /// As kubelet would call the node.
    pub(super) node_name: Option<String>,
    pub(super) kubeconfigs: Vec<KubeconfigFile>,
    /// Those that are there but could not be read.
    pub(super) unreadable: Vec<(PathBuf, io::Error)>,
    /// Who signs the certificates of local clients, if there is a file for it.
    pub(super) client_ca: Option<(PathBuf, Existing)>,
    /// What is at the places that install writes to.
    pub(super) existing: BTreeMap<PathBuf, Existing>,
    /// Files that an install or uninstall was writing when it was killed.
    pub(super) leftovers: Vec<PathBuf>,
    /// Directories of edgehold's own with nothing in them: an install or uninstall that was broken off.
    pub(super) empty: Vec<PathBuf>,
    /// The configuration that is there, if it is right.
    pub(super) config: Option<Config>,
    /// A serving pair for `address`: the one that is there, or a new one.
    pub(super) serving: Serving,
}

/// Why the facts could not be looked up.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct FactError {
    path: PathBuf,
    source: io::Error,
}

impl Facts {
    /// Looks everything up.
    ///
    /// # Errors
    /// A file of edgehold's own that cannot be read: not even what to undo is known then.
    pub fn gather(options: &Options, host: &dyn Host) -> Result<Self, FactError> {
        let root = &options.root;
        let mut existing = own_files(root)?;
        let config = existing.get(Path::new(config::DEFAULT_PATH)).and_then(|file| {
            let text = std::str::from_utf8(&file.bytes).ok()?;
            config::parse(text, config::DEFAULT_PATH).ok()
        });
        let configured = config
            .as_ref()
            .and_then(|config| config.listen.addresses.first().copied());
        let address = options.address.or(configured).unwrap_or(ADDRESS);
        let mut unreadable = Vec::new();
        let kubeconfigs = find_kubeconfigs(options, &mut unreadable);
        for file in &kubeconfigs {
            for path in [kubeconfigs::trust_path(file.role)]
                .into_iter()
                .chain(kubeconfigs::pair_paths(file.role))
            {
                note(root, &path, &mut existing)?;
            }
        }
        let leftovers = leftovers(root, &kubeconfigs);
        let now = host.now();
        let client_ca = options
            .client_ca
            .clone()
            .unwrap_or_else(|| paths::KUBEADM_CA.into());
        let binary = options.binary.clone().or_else(|| host.program());
        let binary = binary.unwrap_or_else(|| paths::BINARY.into());
        Ok(Self {
            is_root: host.is_root(),
            manager: host.manager(),
            port: host.port(address),
            now,
            binary_is_there: root.on_machine(&binary).is_file(),
            binary,
            address,
            node_name: node_name(options),
            serving: serving(&existing, address, now)?,
            client_ca: root.read(&client_ca).ok().flatten().map(|file| (client_ca, file)),
            empty: empty_directories(root, &leftovers),
            leftovers,
            kubeconfigs,
            unreadable,
            existing,
            config,
        })
    }

    /// What removes the leftovers.
    pub(super) fn tidy(&self) -> impl Iterator<Item = Step> {
        self.leftovers
            .iter()
            .map(|path| Step::Remove { path: path.clone() })
    }

    pub(super) fn existing_text(&self, path: &str) -> Option<&str> {
        let file = self.existing.get(Path::new(path))?;
        std::str::from_utf8(&file.bytes).ok()
    }
}

fn own_files(root: &Root) -> Result<BTreeMap<PathBuf, Existing>, FactError> {
    let mut existing = BTreeMap::new();
    for path in [
        config::DEFAULT_PATH,
        paths::UNIT,
        paths::LOCAL_CA,
        paths::SERVER_CERT,
        paths::SERVER_KEY,
        paths::CLUSTER_CA,
        paths::PROXY_CREDENTIALS,
    ] {
        note(root, Path::new(path), &mut existing)?;
    }
    Ok(existing)
}

/// Looked for wherever a file is written.
fn leftovers(root: &Root, kubeconfigs: &[KubeconfigFile]) -> Vec<PathBuf> {
    let own = [paths::PKI_DIR, paths::CONFIG_DIR, paths::UNIT_DIR];
    let own = own.into_iter().map(Path::new);
    let theirs = kubeconfigs.iter().filter_map(|file| file.path.parent());
    let dirs: BTreeSet<&Path> = own.chain(theirs).collect();
    let mut found = Vec::new();
    for dir in dirs {
        let entries = fs::read_dir(root.on_machine(dir)).into_iter().flatten().flatten();
        let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
        let names = files.map(|entry| entry.file_name());
        found.extend(names.filter(|name| is_scratch(name)).map(|name| dir.join(name)));
    }
    found.sort();
    found
}

fn is_scratch(name: &OsStr) -> bool {
    let letters = name
        .to_str()
        .and_then(|name| name.strip_prefix(paths::SCRATCH_PREFIX));
    letters.is_some_and(|letters| {
        letters.len() == paths::SCRATCH_LETTERS && letters.bytes().all(|b| b.is_ascii_alphanumeric())
    })
}

/// Inner ones first: what holds nothing but them and leftovers is as good as empty.
fn empty_directories(root: &Root, leftovers: &[PathBuf]) -> Vec<PathBuf> {
    let mut empty: Vec<PathBuf> = Vec::new();
    for dir in [paths::PKI_DIR, paths::CONFIG_DIR].map(Path::new) {
        let Ok(mut entries) = fs::read_dir(root.on_machine(dir)) else {
            continue;
        };
        let nothing = |entry: fs::DirEntry| {
            let path = dir.join(entry.file_name());
            empty.contains(&path) || leftovers.contains(&path)
        };
        if entries.all(|entry| entry.is_ok_and(nothing)) {
            empty.push(dir.to_owned());
        }
    }
    empty
}

fn note(root: &Root, path: &Path, into: &mut BTreeMap<PathBuf, Existing>) -> Result<(), FactError> {
    let found = root.read(path).map_err(|source| FactError {
        path: path.to_owned(),
        source,
    })?;
    if let Some(found) = found {
        into.insert(path.to_owned(), found);
    }
    Ok(())
}

fn find_kubeconfigs(options: &Options, unreadable: &mut Vec<(PathBuf, io::Error)>) -> Vec<KubeconfigFile> {
    let kube_proxy: Vec<PathBuf> = match &options.kube_proxy {
        Some(path) => vec![path.clone()],
        None => paths::KUBE_PROXY.iter().map(PathBuf::from).collect(),
    };
    let places = [
        (Role::Kubelet, &options.kubeconfig),
        (Role::Bootstrap, &options.bootstrap),
    ]
    .into_iter()
    .chain(kube_proxy.iter().map(|path| (Role::KubeProxy, path)));
    let mut found: Vec<KubeconfigFile> = Vec::new();
    for (role, path) in places {
        let one = KubeconfigFile::find(role, path, &options.root);
        match one {
            Ok(Some(one)) if found.iter().all(|other| other.path != one.path) => found.push(one),
            Ok(_) => {}
            Err(error) => unreadable.push((path.clone(), error)),
        }
    }
    found
}

/// As kubelet finds it: its flag, else the host's name, in lower case (`nodeutil.GetHostname`).
fn node_name(options: &Options) -> Option<String> {
    let read = |path: &str| {
        let file = options.root.read(Path::new(path)).ok().flatten()?;
        String::from_utf8(file.bytes).ok()
    };
    let flag = || {
        let flags = read(paths::KUBEADM_FLAGS)?;
        let (_, rest) = flags.split_once("--hostname-override=")?;
        rest.split(|c: char| c.is_whitespace() || c == '"')
            .next()
            .map(str::to_owned)
    };
    let host = || paths::HOSTNAMES.iter().find_map(|path| read(path));
    let name = options.node_name.clone().or_else(flag).or_else(host)?;
    let name = name.trim().to_lowercase();
    (!name.is_empty()).then_some(name)
}

fn serving(
    existing: &BTreeMap<PathBuf, Existing>,
    address: SocketAddr,
    now: SystemTime,
) -> Result<Serving, FactError> {
    let text = |path: &str| {
        let file = existing.get(Path::new(path))?;
        String::from_utf8(file.bytes.clone()).ok()
    };
    let there = || {
        Some(Serving {
            ca: text(paths::LOCAL_CA)?,
            cert: text(paths::SERVER_CERT)?,
            key: text(paths::SERVER_KEY)?,
        })
    };
    let addresses = [address.ip()];
    match there() {
        Some(serving) if serving.is_good_for(&addresses, now) => Ok(serving),
        _ => Serving::make(&addresses, now).map_err(|error| FactError {
            path: paths::SERVER_CERT.into(),
            source: io::Error::other(error),
        }),
    }
}
