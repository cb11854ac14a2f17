//! Opens the store: where, and with which keys.
//!
//! A key that cannot be read must not keep the node from starting, and nothing may be written plain instead: then the
//! store is in memory until the next start, and what is on disk stays as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use crate::cache::{Spool, SpoolForm};
use crate::config::{Cache, CacheStore, Encryption};
use crate::runtime::exposure::exposure;
use crate::store::{Keys, KeysError, LogStore, Store};

/// Far more than any number of keys.
const LARGEST: u64 = 64 << 10;

/// The open store.
pub(super) struct Storage {
    pub(super) store: Arc<dyn Store>,
    pub(super) spool: Option<Spool>,
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
enum KeyFault {
    #[error("{} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Content { path: PathBuf, source: KeysError },
    #[error("there is no $CREDENTIALS_DIRECTORY: `LoadCredential={0}:...` in the systemd unit makes one")]
    NoCredentials(String),
}

impl Storage {
    /// Opens it. Blocks.
    ///
    /// # Errors
    /// A directory that cannot hold a store.
    pub(super) fn open(cache: &Cache) -> anyhow::Result<Self> {
        if cache.store == CacheStore::Memory {
            return Self::in_memory();
        }
        let keys = match cache.encryption.as_ref().map(keys).transpose() {
            Ok(keys) => keys.unwrap_or_default(),
            Err(error) => {
                tracing::error!(
                    %error,
                    "there is no key for the cache: it is empty and in memory only until edgehold is started with the \
                     key; what is on disk stays as it is"
                );
                return Self::in_memory();
            }
        };
        let form = match keys.is_empty() {
            true => SpoolForm::Plain,
            false => SpoolForm::Sealed,
        };
        let store = LogStore::open_sealed(&cache.path, keys).context("opening cache.path")?;
        Ok(Self {
            store: Arc::new(store),
            spool: Some(Spool {
                dir: cache.path.clone(),
                form,
            }),
        })
    }

    fn in_memory() -> anyhow::Result<Self> {
        Ok(Self {
            store: Arc::new(LogStore::memory()?),
            spool: None,
        })
    }
}

fn keys(encryption: &Encryption) -> Result<Keys, KeyFault> {
    let path = match encryption {
        Encryption::KeyFile(path) => path.clone(),
        Encryption::Credential(name) => {
            let dir = std::env::var_os("CREDENTIALS_DIRECTORY");
            let dir = dir.ok_or_else(|| KeyFault::NoCredentials(name.clone()))?;
            Path::new(&dir).join(name)
        }
    };
    let text = read(&path).map_err(|source| KeyFault::Read {
        path: path.clone(),
        source,
    })?;
    Keys::parse(&text).map_err(|source| KeyFault::Content { path, source })
}

fn read(path: &Path) -> io::Result<String> {
    let found = fs::metadata(path)?;
    if !found.is_file() || found.len() > LARGEST {
        return Err(io::Error::other("it is not a small file"));
    }
    if let Some(fault) = exposure(&found) {
        tracing::warn!(path = %path.display(), "the key of the cache {fault}: it should be readable by edgehold alone (chmod 600)");
    }
    fs::read_to_string(path)
}
