//! The folder of the serving certificate: the pair in use, and the key of the request under way. Blocking.
//!
//! Invariants: files are replaced whole (a new file and a rename) and have mode 0600, their directory 0700; the pair in
//! use is only replaced by one whose key fits.

use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::tls::{LoadError, RequestError, RequestKey, ServingLeaf};

/// Chain and key in one file, as kubelet has it: replaced in one step.
pub const CURRENT: &str = "serving-current.pem";
const PENDING: &str = "serving-pending.key";

/// Far above any key.
const LARGEST_KEY: u64 = 64 << 10;

/// Why a file could not be kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum FilesError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Key(#[from] RequestError),
    #[error(transparent)]
    Pair(#[from] LoadError),
}

#[derive(Debug, Clone)]
pub(super) struct Files {
    dir: PathBuf,
}

impl Files {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The certificate in use; `None` if there is none yet.
    pub(super) fn current(&self) -> Result<Option<ServingLeaf>, FilesError> {
        match ServingLeaf::load(&self.dir.join(CURRENT)) {
            Ok(leaf) => Ok(Some(leaf)),
            Err(LoadError::Missing { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The key of the request under way; a new one, kept, if there is none.
    pub(super) fn pending_key(&self) -> Result<RequestKey, FilesError> {
        match self.kept_key() {
            Ok(key) => return Ok(key),
            Err(FilesError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, "the key of the last request cannot be used, making another")
            }
        }
        let key = RequestKey::generate()?;
        self.write(PENDING, &[&key.to_pem()])?;
        Ok(key)
    }

    /// Takes a chain into use with the key of the request under way, which ends with that.
    pub(super) fn install(&self, chain_pem: &str) -> Result<ServingLeaf, FilesError> {
        let key = self.kept_key()?.to_pem();
        let leaf = ServingLeaf::of_pair(chain_pem, &key)?;
        self.write(CURRENT, &[chain_pem, "\n", &key])?;
        self.abandon()?;
        Ok(leaf)
    }

    /// Removes the key of the request under way.
    pub(super) fn abandon(&self) -> Result<(), FilesError> {
        let path = self.dir.join(PENDING);
        #[allow(clippy::disallowed_methods)] // not a file of the store
        match fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => Err(FilesError::Io { path, source }),
            _ => Ok(()),
        }
    }

    fn kept_key(&self) -> Result<RequestKey, FilesError> {
        let path = self.dir.join(PENDING);
        let mut pem = String::new();
        let read = File::open(&path).and_then(|file| {
            use io::Read as _;
            file.take(LARGEST_KEY).read_to_string(&mut pem)
        });
        read.map_err(|source| FilesError::Io { path, source })?;
        Ok(RequestKey::from_pem(&pem)?)
    }

    fn write(&self, name: &str, parts: &[&str]) -> Result<(), FilesError> {
        let path = self.dir.join(name);
        let written = || -> io::Result<()> {
            prepare(&self.dir)?;
            // 0600 from its creation on.
            let mut file = tempfile::Builder::new()
                .prefix(".")
                .suffix(".tmp")
                .tempfile_in(&self.dir)?;
            for part in parts {
                file.write_all(part.as_bytes())?;
            }
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(&self.dir)?.sync_all()
        };
        written().map_err(|source| FilesError::Io {
            path: path.clone(),
            source,
        })
    }
}

/// Makes the folder, so that what appears in it is noticed at once.
pub fn prepare(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_key_of_a_request_is_kept_private_until_it_is_abandoned() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/serving");
        let files = Files::new(&folder);
        let key = files.pending_key().unwrap().fingerprint();
        assert_eq!((mode(&folder), mode(&folder.join(PENDING))), (0o700, 0o600));
        assert_eq!(Files::new(&folder).pending_key().unwrap().fingerprint(), key);
        files.abandon().unwrap();
        files.abandon().unwrap();
        assert_ne!(files.pending_key().unwrap().fingerprint(), key);
    }

    #[test]
    fn a_damaged_key_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        files.write(PENDING, &["-----BEGIN PRIVATE KEY-----\nx"]).unwrap();
        let key = files.pending_key().unwrap().fingerprint();
        assert_eq!(files.pending_key().unwrap().fingerprint(), key);
    }

    #[test]
    fn a_chain_for_another_key_leaves_everything_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path());
        let key = files.pending_key().unwrap().fingerprint();
        assert!(matches!(
            files.install("no certificate"),
            Err(FilesError::Pair(_))
        ));
        assert!(files.current().unwrap().is_none());
        assert_eq!(files.pending_key().unwrap().fingerprint(), key);
        let left = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(left, 1, "no temporary file is left");
    }
}
