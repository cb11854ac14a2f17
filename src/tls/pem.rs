//! Certificate files: PEM in, values that are complete and belong together out.
//!
//! Owns what makes a file unusable. Knows neither when to look again nor which value is in use. Blocking.
//!
//! Invariants: a [`KeyPair`] has a leaf that parses and a key that belongs to it; [`Roots`] has at least one usable
//! authority; no error text holds any of a file's content.

mod unusual;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::certificate::{CertificateInfo, CertificateParseError, Validity, public_key, sha256_hex};
use super::seal::FileSeal;
use super::status::CertificateState;
use crate::runtime::file_mode::is_open_to_all;
pub use unusual::Unusual;

/// Far above any real bundle (Mozilla's is 0.25 MB), far below what a wrong path could cost.
const SIZE_LIMIT: u64 = 4 << 20;

/// Where a certificate chain and its key are; both may be the same file (`kubelet-client-current.pem`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PairPaths {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key: PKCS#8, PKCS#1 or SEC1.
    pub key: PathBuf,
}

/// Where a pair comes from.
#[derive(Debug, Clone)]
pub enum PairSource {
    /// PEM files.
    Files(PairPaths),
    /// One file with chain and key, sealed.
    Sealed {
        /// The file.
        path: PathBuf,
        /// What opens it.
        seal: Arc<FileSeal>,
    },
}

impl From<PairPaths> for PairSource {
    fn from(paths: PairPaths) -> Self {
        Self::Files(paths)
    }
}

impl PairSource {
    /// Reads and checks the files. Blocking.
    pub(super) fn load(&self) -> Result<KeyPair, LoadError> {
        match self {
            Self::Files(paths) => load_pair(paths),
            Self::Sealed { path, seal } => {
                let content = seal.open(&read(path)?).ok_or_else(|| LoadError::Damaged {
                    path: path.clone(),
                    reason: "it was not sealed by this node, or is damaged".to_owned(),
                })?;
                let paths = PairPaths {
                    cert: path.clone(),
                    key: path.clone(),
                };
                parse_pair(&content, &content, &paths)
            }
        }
    }

    /// The file with the certificate.
    pub(super) fn cert(&self) -> &Path {
        match self {
            Self::Files(paths) => &paths.cert,
            Self::Sealed { path, .. } => path,
        }
    }

    /// The files, each once.
    pub(super) fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Files(paths) if paths.cert != paths.key => vec![&paths.cert, &paths.key],
            _ => vec![self.cert()],
        }
    }
}

/// Whether chain and key (PEM) are a pair that could be used: its leaf.
///
/// # Errors
/// As a file with this content would fail to load.
pub fn check_pair(chain_pem: &str, key_pem: &str) -> Result<CertificateInfo, LoadError> {
    let paths = PairPaths {
        cert: PathBuf::from("the certificate"),
        key: PathBuf::from("the key"),
    };
    parse_pair(chain_pem.as_bytes(), key_pem.as_bytes(), &paths).map(|pair| pair.leaf)
}

/// Whether a text (PEM) is a bundle of authorities that could be used.
///
/// # Errors
/// As a file with this content would fail to load.
pub fn check_bundle(pem: &str) -> Result<(), LoadError> {
    let path = Path::new("the bundle");
    parse_bundle(pem.as_bytes(), path).map(drop)
}

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// No such file.
    #[error("{}: no such file", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A directory, a pipe or a device.
    #[error("{}: not a regular file", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// Larger than 4 MiB.
    #[error("{}: too large for a certificate file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Any other I/O error.
    #[error("{}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Readable, without a single certificate.
    #[error("{}: no certificate in it", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Readable, without a private key.
    #[error("{}: no private key in it", path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// Readable, without a list of revoked certificates.
    #[error("{}: no list of revoked certificates (X509 CRL) in it", path.display())]
    NoList {
        /// The file.
        path: PathBuf,
    },
    /// The file ends inside a PEM section.
    #[error("{}: half written: it ends inside a PEM section", path.display())]
    HalfWritten {
        /// The file.
        path: PathBuf,
    },
    /// No certificate or no private key, but something that can be named.
    #[error("{}: no {wanted} in it; it is {found}", path.display())]
    Unusual {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        wanted: &'static str,
        /// What is there, and the way out.
        found: Unusual,
    },
    /// A PEM section that is not what it says.
    #[error("{}: damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Each is good by itself, but they are not a pair.
    #[error("the key in {} does not belong to the certificate in {}", key.display(), cert.display())]
    KeyMismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A good pair of somebody else.
    #[error("{}: the common name is {found:?}, but {expected:?} is configured", path.display())]
    WrongName {
        /// The certificate's file.
        path: PathBuf,
        /// The configured common name.
        expected: String,
        /// The leaf's.
        found: String,
    },
    /// The load itself was broken off; it is tried again.
    #[error("{}: the load was interrupted", path.display())]
    Interrupted {
        /// The file.
        path: PathBuf,
    },
}

impl LoadError {
    /// The state that a file with this error is in.
    pub fn state(&self) -> CertificateState {
        match self {
            Self::Missing { .. } => CertificateState::Absent,
            Self::NotAFile { .. }
            | Self::TooLarge { .. }
            | Self::Unreadable { .. }
            | Self::Interrupted { .. } => CertificateState::Unreadable,
            // An empty file, or half a pair, is about to be written.
            Self::NoCertificate { .. }
            | Self::NoKey { .. }
            | Self::NoList { .. }
            | Self::Unusual {
                found: Unusual::Empty | Unusual::Certificate | Unusual::PrivateKey,
                ..
            } => CertificateState::Incomplete,
            Self::HalfWritten { .. } | Self::Damaged { .. } | Self::Unusual { .. } => {
                CertificateState::Damaged
            }
            Self::KeyMismatch { .. } => CertificateState::KeyMismatch,
            Self::WrongName { .. } => CertificateState::WrongName,
        }
    }
}

/// A chain and the key of its leaf. Its `Debug` shows the leaf alone.
#[derive(Clone)]
pub(super) struct KeyPair {
    pub(super) certified: Arc<CertifiedKey>,
    pub(super) leaf: CertificateInfo,
    /// Over the whole chain: a new intermediate under the same leaf is a change too.
    pub(super) chain_digest: String,
    /// The key's file, if every user of the node may read it.
    pub(super) exposed: Option<PathBuf>,
}

impl std::fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KeyPair").field(&self.leaf).finish()
    }
}

/// The identity that one common name has upstream.
#[derive(Debug, Clone)]
pub struct ClientIdentity {
    pair: KeyPair,
}

impl ClientIdentity {
    /// The leaf: a changed `fingerprint` asks for a new transport.
    pub fn leaf(&self) -> &CertificateInfo {
        &self.pair.leaf
    }

    pub(super) fn pair(&self) -> &KeyPair {
        &self.pair
    }

    #[cfg(test)]
    pub(super) fn into_pair(self) -> KeyPair {
        self.pair
    }
}

impl From<KeyPair> for ClientIdentity {
    fn from(pair: KeyPair) -> Self {
        Self { pair }
    }
}

/// A bundle of authorities, at least one.
#[derive(Debug, Clone)]
pub struct Roots {
    store: Arc<RootCertStore>,
    certificates: Arc<[CertificateDer<'static>]>,
    fingerprint: String,
    periods: Vec<(SystemTime, SystemTime)>,
    skipped: usize,
}

impl Roots {
    /// SHA-256 over all certificates of the bundle, lower-case hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// How many certificates of the bundle could not be used as an authority.
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The moment from which no authority of the bundle is valid any more: during a rotation the old one runs out
    /// long before the bundle does.
    pub fn not_after(&self) -> Option<SystemTime> {
        self.periods.iter().map(|(_, end)| *end).max()
    }

    /// Valid while one of them is.
    pub fn validity(&self, wall: SystemTime) -> Validity {
        if self.periods.is_empty()
            || self
                .periods
                .iter()
                .any(|(start, end)| *start <= wall && wall <= *end)
        {
            Validity::Valid
        } else if self.periods.iter().any(|(start, _)| wall < *start) {
            Validity::NotYetValid
        } else {
            Validity::Expired
        }
    }

    pub(super) fn store(&self) -> &Arc<RootCertStore> {
        &self.store
    }

    /// Whether this very certificate is one of the bundle.
    pub(super) fn holds(&self, certificate: &CertificateDer<'_>) -> bool {
        self.certificates.iter().any(|held| held == certificate)
    }
}

/// Loads a chain and its key.
pub(super) fn load_pair(paths: &PairPaths) -> Result<KeyPair, LoadError> {
    let cert_pem = read(&paths.cert)?;
    let mut pair = if paths.key == paths.cert {
        parse_pair(&cert_pem, &cert_pem, paths)?
    } else {
        parse_pair(&cert_pem, &read(&paths.key)?, paths)?
    };
    let exposed = std::fs::metadata(&paths.key).is_ok_and(|found| is_open_to_all(&found));
    pair.exposed = exposed.then(|| paths.key.clone());
    Ok(pair)
}

/// The same from what the files hold; `paths` stands in messages.
pub(super) fn parse_pair(cert_pem: &[u8], key_pem: &[u8], paths: &PairPaths) -> Result<KeyPair, LoadError> {
    let chain = certificates(cert_pem, &paths.cert)?;
    let key = private_key(key_pem, &paths.key)?;
    let unusable = |error: CertificateParseError| damaged(&paths.cert, &error);
    let mut leaf = None;
    for der in &chain {
        let info = CertificateInfo::parse(der).map_err(unusable)?;
        if leaf.is_none() {
            leaf = Some((info, public_key(der).map_err(unusable)?));
        }
    }
    let Some((leaf, certified_key)) = leaf else {
        return Err(LoadError::NoCertificate {
            path: paths.cert.clone(),
        });
    };
    let chain_digest = digest(&chain);
    let key = super::crypto::provider()
        .key_provider
        .load_private_key(key)
        .map_err(|_| LoadError::Damaged {
            path: paths.key.clone(),
            reason: "the private key is not of a supported kind, or broken".to_owned(),
        })?;
    if key.public_key().is_some_and(|public| *public != *certified_key) {
        return Err(LoadError::KeyMismatch {
            cert: paths.cert.clone(),
            key: paths.key.clone(),
        });
    }
    Ok(KeyPair {
        certified: Arc::new(CertifiedKey::new(chain, key)),
        leaf,
        chain_digest,
        exposed: None,
    })
}

/// Loads a bundle of authorities, and adds those of a second file if it is there and good. Broken PEM fails the whole
/// first file, because it may be half written; a certificate that is whole but cannot be an authority is skipped, as
/// Go's `AppendCertsFromPEM` does.
pub(super) fn load_bundles(path: &Path, more: Option<&Path>) -> Result<Roots, LoadError> {
    let mut found = certificates(&read(path)?, path)?;
    if let Some(more) = more {
        match read(more).and_then(|pem| certificates(&pem, more)) {
            Ok(added) => {
                let new: Vec<_> = added.into_iter().filter(|der| !found.contains(der)).collect();
                found.extend(new);
            }
            Err(LoadError::Missing { .. }) => {}
            Err(error) => tracing::warn!(%error, "the bundle from the cluster cannot be used"),
        }
    }
    bundle_of(found, path)
}

/// One bundle out of its text.
pub(super) fn parse_bundle(bundle: &[u8], path: &Path) -> Result<Roots, LoadError> {
    bundle_of(certificates(bundle, path)?, path)
}

fn bundle_of(found: Vec<CertificateDer<'static>>, path: &Path) -> Result<Roots, LoadError> {
    let fingerprint = digest(&found);
    let mut store = RootCertStore::empty();
    let mut periods = Vec::with_capacity(found.len());
    let mut skipped = 0;
    for der in &found {
        let der = der.clone();
        match CertificateInfo::parse(&der) {
            // A name in an odd string type does no harm in an authority; its period is then not watched.
            Ok(info) => {
                if store.add(der).is_ok() {
                    periods.push((info.not_before, info.not_after));
                } else {
                    skipped += 1;
                }
            }
            Err(_) if store.add(der).is_ok() => {}
            Err(_) => skipped += 1,
        }
    }
    if store.is_empty() {
        return Err(LoadError::Damaged {
            path: path.to_owned(),
            reason: "none of its certificates can be an authority".to_owned(),
        });
    }
    Ok(Roots {
        store: Arc::new(store),
        certificates: found.into(),
        fingerprint,
        periods,
        skipped,
    })
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, LoadError> {
    let unreadable = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => LoadError::Missing {
            path: path.to_owned(),
        },
        _ => LoadError::Unreadable {
            path: path.to_owned(),
            source,
        },
    };
    // Before it is opened: opening a pipe would wait for its writer for ever.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(LoadError::NotAFile {
            path: path.to_owned(),
        });
    }
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(SIZE_LIMIT + 1).read_to_end(&mut bytes))
        .map_err(unreadable)?;
    if bytes.len() as u64 > SIZE_LIMIT {
        return Err(LoadError::TooLarge {
            path: path.to_owned(),
        });
    }
    Ok(bytes)
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, LoadError> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
        let (kind, der) = section.map_err(|error| broken(path, &error))?;
        if kind == SectionKind::Certificate {
            found.push(CertificateDer::from(der));
        }
    }
    if found.is_empty() {
        let path = path.to_owned();
        return Err(match Unusual::of(pem) {
            Some(found) => LoadError::Unusual {
                path,
                wanted: "certificate",
                found,
            },
            None => LoadError::NoCertificate { path },
        });
    }
    Ok(found)
}

fn private_key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, LoadError> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| match (error, Unusual::of(pem)) {
        // Inside a section that is still being written there is nothing to name yet.
        (error @ PemError::MissingSectionEnd { .. }, _) => broken(path, &error),
        // There is a key, and it is damaged.
        (error, Some(Unusual::PrivateKey | Unusual::Certificate))
            if !matches!(error, PemError::NoItemsFound) =>
        {
            broken(path, &error)
        }
        (_, Some(found)) => LoadError::Unusual {
            path: path.to_owned(),
            wanted: "private key",
            found,
        },
        (PemError::NoItemsFound, None) => LoadError::NoKey {
            path: path.to_owned(),
        },
        (error, None) => broken(path, &error),
    })
}

/// Never prints the parser's own text: it quotes lines, and a line may be of a key.
pub(super) fn broken(path: &Path, error: &PemError) -> LoadError {
    let path = path.to_owned();
    match error {
        PemError::MissingSectionEnd { .. } => LoadError::HalfWritten { path },
        PemError::IllegalSectionStart { .. } => LoadError::Damaged {
            path,
            reason: "a BEGIN line is broken".to_owned(),
        },
        PemError::Base64Decode(_) => LoadError::Damaged {
            path,
            reason: "a section is not base64".to_owned(),
        },
        _ => LoadError::Damaged {
            path,
            reason: "not PEM".to_owned(),
        },
    }
}

fn damaged(path: &Path, error: &CertificateParseError) -> LoadError {
    LoadError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

fn digest(chain: &[CertificateDer<'_>]) -> String {
    let parts: Vec<&[u8]> = chain.iter().map(AsRef::as_ref).collect();
    sha256_hex(&parts)
}

#[cfg(test)]
mod tests;
