//! The kubeconfigs of a node's own clients: how each is pointed at edgehold, and back.
//!
//! Pure but for [`KubeconfigFile::find`].

use std::io;
use std::path::{Path, PathBuf};

use crate::config::kubeconfig::{self, Authority, Credentials, Kubeconfig, KubeconfigError, Target};
use crate::tls::{PairInfo, PairPaths};

use super::paths;
use super::root::Root;

/// Whose kubeconfig it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Kubelet,
    /// What kubelet joins with; it makes its own kubeconfig out of it.
    Bootstrap,
    KubeProxy,
}

impl Role {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Kubelet => "kubelet",
            Self::Bootstrap => "kubelet-bootstrap",
            Self::KubeProxy => "kube-proxy",
        }
    }
}

/// A kubeconfig as it was found.
#[derive(Debug)]
pub(super) struct KubeconfigFile {
    pub(super) role: Role,
    /// With symbolic links followed.
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// What is at its backup's place.
    pub(super) backup: Option<String>,
    /// Of its current context.
    pub(super) current: Result<Kubeconfig, KubeconfigError>,
    /// The authorities of `current`, in PEM.
    now: Option<Vec<u8>>,
    /// Those of the backup.
    then: Option<Vec<u8>>,
    /// Who its user is.
    pub(super) identity: Identity,
}

/// Who the user of a kubeconfig is, as its certificate says.
#[derive(Debug)]
pub(super) enum Identity {
    /// A pair in files.
    Files { paths: PairPaths, pair: PairInfo },
    /// A pair in the kubeconfig itself.
    Embedded {
        cert: Vec<u8>,
        key: Vec<u8>,
        pair: PairInfo,
    },
    /// Files that are named but not there.
    Absent { paths: PairPaths },
    /// A pair that cannot be used, and why.
    Broken(String),
    /// No certificate: a token, or nothing.
    None,
}

impl Identity {
    pub(super) fn pair(&self) -> Option<&PairInfo> {
        match self {
            Self::Files { pair, .. } | Self::Embedded { pair, .. } => Some(pair),
            Self::Absent { .. } | Self::Broken(_) | Self::None => None,
        }
    }
}

/// Where a kubeconfig that names its authorities by a path is pointed at ours too.
pub(super) fn trust_path(role: Role) -> PathBuf {
    Path::new(paths::PKI_DIR).join(format!("trust-{}.crt", role.as_str()))
}

/// Where the pair that a kubeconfig embeds is put.
pub(super) fn pair_paths(role: Role) -> [PathBuf; 2] {
    ["crt", "key"].map(|end| Path::new(paths::PKI_DIR).join(format!("{}.{end}", role.as_str())))
}

impl KubeconfigFile {
    /// `None` if there is no such file and no backup of it.
    pub(super) fn find(role: Role, path: &Path, root: &Root) -> io::Result<Option<Self>> {
        let path = root.followed(path)?;
        let text = |path: &Path| -> io::Result<Option<String>> {
            let found = root.read(path)?;
            found
                .map(|file| String::from_utf8(file.bytes).map_err(io::Error::other))
                .transpose()
        };
        let Some(now) = text(&path)? else {
            return Ok(None);
        };
        let current = Kubeconfig::parse(&now, &path);
        let backup = text(&paths::backup_of(&path))?;
        let before = backup
            .as_deref()
            .and_then(|backup| Kubeconfig::parse(backup, &path).ok());
        let authority = |of: Option<&Kubeconfig>| match &of?.authority {
            Authority::Data(data) => Some(data.clone()),
            Authority::File(path) => Some(root.read(path).ok()??.bytes),
            Authority::System => None,
        };
        Ok(Some(Self {
            role,
            identity: current
                .as_ref()
                .map_or(Identity::None, |current| identity(current, root)),
            now: authority(current.as_ref().ok()),
            then: authority(before.as_ref()),
            path,
            text: now,
            backup,
            current,
        }))
    }

    /// The backup, if it is one of a kubeconfig.
    pub(super) fn before(&self) -> Option<(&str, Kubeconfig)> {
        let text = self.backup.as_deref()?;
        Some((text, Kubeconfig::parse(text, &self.path).ok()?))
    }

    /// Whether it points at `local`.
    pub(super) fn is_at(&self, local: &str) -> bool {
        self.current.as_ref().is_ok_and(|current| current.server == local)
    }

    /// As it was before it was pointed at `local`, as far as that is known, and the PEM of its authorities.
    pub(super) fn original(&self, local: &str) -> Option<Original<'_>> {
        if self.is_at(local) {
            let (text, kubeconfig) = self.before()?;
            let authority = self.then.as_deref();
            return Some(Original {
                text,
                kubeconfig,
                authority,
            });
        }
        let kubeconfig = self.current.clone().ok()?;
        let authority = self.now.as_deref();
        let text = &self.text;
        Some(Original {
            text,
            kubeconfig,
            authority,
        })
    }

    /// The authorities that it trusts now, in PEM.
    pub(super) fn trusts(&self) -> Option<&[u8]> {
        self.now.as_deref()
    }
}

/// A kubeconfig before it was pointed at edgehold.
pub(super) struct Original<'f> {
    pub(super) text: &'f str,
    pub(super) kubeconfig: Kubeconfig,
    /// The authorities in PEM; `None` if it names none or they cannot be read.
    pub(super) authority: Option<&'f [u8]>,
}

/// A kubeconfig as it is to be.
pub(super) struct Pointed {
    pub(super) text: String,
    /// The file that it then names for its authorities, and what must be in it.
    pub(super) trust: Option<(PathBuf, Vec<u8>)>,
}

impl Original<'_> {
    /// The same, pointed at `local` and trusting `ca` (PEM) besides its own authorities.
    pub(super) fn pointed(&self, role: Role, local: &str, ca: &str) -> Result<Pointed, KubeconfigError> {
        let bundle = bundle(self.authority.ok_or(KubeconfigError::NotEditable)?, ca);
        let (authority, trust) = match self.kubeconfig.authority {
            Authority::File(_) => {
                let path = trust_path(role);
                (Authority::File(path.clone()), Some((path, bundle)))
            }
            _ => (Authority::Data(bundle), None),
        };
        // The way to edgehold leads through no proxy: edgehold's own does, if there is one.
        let target = Target {
            server: local,
            authority: &authority,
            proxy: "",
            server_name: "",
        };
        let text = kubeconfig::edit(self.text, &target)?;
        Ok(Pointed { text, trust })
    }
}

/// The URL of edgehold in a kubeconfig.
pub(super) fn local_url(address: std::net::SocketAddr) -> String {
    format!("https://{address}")
}

/// `authority` and ours. What is in it already is not repeated.
fn bundle(authority: &[u8], ca: &str) -> Vec<u8> {
    let mut all = authority.to_vec();
    if holds(authority, ca) {
        return all;
    }
    if !all.ends_with(b"\n") {
        all.push(b'\n');
    }
    all.extend_from_slice(ca.as_bytes());
    all
}

pub(super) fn holds(authority: &[u8], ca: &str) -> bool {
    memchr::memmem::find(authority, ca.trim_end().as_bytes()).is_some()
}

/// `authority` without ours.
pub(super) fn without(authority: &[u8], ca: &str) -> Vec<u8> {
    let needle = ca.as_bytes();
    match memchr::memmem::find(authority, needle) {
        Some(at) => {
            let mut rest = authority.to_vec();
            rest.drain(at..at + needle.len());
            rest
        }
        None => authority.to_vec(),
    }
}

fn identity(of: &Kubeconfig, root: &Root) -> Identity {
    match &of.credentials {
        Credentials::NoCertificate => Identity::None,
        Credentials::Data { cert, key } => {
            match PairInfo::parse(cert, key, Path::new("client-certificate-data")) {
                Ok(pair) => Identity::Embedded {
                    cert: cert.clone(),
                    key: key.clone(),
                    pair,
                },
                Err(error) => Identity::Broken(error.to_string()),
            }
        }
        Credentials::Files { cert, key } => {
            let paths = PairPaths {
                cert: cert.clone(),
                key: key.clone(),
            };
            let read = |path: &Path| root.read(path).map(|found| found.map(|file| file.bytes));
            match (read(cert), read(key)) {
                (Ok(Some(cert)), Ok(Some(key))) => match PairInfo::parse(&cert, &key, &paths.cert) {
                    Ok(pair) => Identity::Files { paths, pair },
                    Err(error) => Identity::Broken(error.to_string()),
                },
                (Err(error), _) | (_, Err(error)) => {
                    Identity::Broken(format!("{}: {error}", paths.cert.display()))
                }
                _ => Identity::Absent { paths },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_authority_is_added_once_and_taken_out_again() {
        let (cluster, ours) = (b"cluster\n".as_slice(), "ours\n");
        let both = bundle(cluster, ours);
        assert_eq!(both, b"cluster\nours\n");
        assert_eq!(bundle(&both, ours), both);
        assert_eq!(without(&both, ours), cluster);
        assert_eq!(bundle(b"cluster", ours), b"cluster\nours\n");
        assert_eq!(without(cluster, ours), cluster);
    }

    #[test]
    fn an_address_of_either_family_is_a_url() {
        assert_eq!(
            local_url("127.0.0.1:51003".parse().unwrap()),
            "https://127.0.0.1:51003"
        );
        assert_eq!(local_url("[::1]:51003".parse().unwrap()), "https://[::1]:51003");
    }
}
