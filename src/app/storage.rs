//! Opens the store: where, and with which keys.
//!
//! A key that cannot be read must not keep the node from starting, and nothing may be written plain instead: then the
//! store is in memory until the next start, and what is on disk stays as it is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use crate::admin::InMemory;
use crate::cache::{Spool, SpoolForm, StoredIssuer, StoredTokens, TokensError};
use crate::config::{Cache, CacheStore, Encryption};
use crate::runtime::file_mode;
use crate::runtime::tasks::Tasks;
use crate::store::{Keys, KeysError, LogStore, Store, StoreError};

/// Far more than any number of keys.
const LARGEST: u64 = 64 << 10;

/// The open store.
pub(super) struct Storage {
    pub(super) store: Arc<dyn Store>,
    pub(super) spool: Option<Spool>,
    pub(super) place: Place,
    pub(super) deferred: Option<Deferred>,
}

/// Where the cache is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Where the configuration says.
    Configured,
    /// In memory, though it should be on disk.
    Memory(InMemory),
}

/// A store that is in memory because its place cannot be written to. Cheap to clone.
#[derive(Clone)]
pub(super) struct Deferred {
    store: Arc<LogStore>,
    root: PathBuf,
    keys: Keys,
}

impl Deferred {
    /// Goes over to the disk if that works now. Blocks.
    pub(super) fn try_disk(&self) -> bool {
        match self.store.go_over(&self.root, self.keys.clone()) {
            Ok(()) => {
                tracing::info!(path = %self.root.display(), "the cache is on disk from now on");
                true
            }
            Err(error) => {
                tracing::debug!(%error, "the cache stays in memory");
                false
            }
        }
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyFault {
    #[error("{} cannot be read: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Content { path: PathBuf, source: KeysError },
    #[error("there is no $CREDENTIALS_DIRECTORY: `LoadCredential={0}:...` in the systemd unit makes one")]
    NoCredentials(String),
}

impl Storage {
    /// Opens it, and restores the tokens that it holds. A disk that is full, read-only or broken must not keep the node from
    /// starting: then the store is in memory, and goes over to the disk when that works again. Blocks.
    ///
    /// # Errors
    /// A directory that must not hold the store, or that another process uses.
    pub(super) fn open(cache: &Cache, tasks: &Tasks) -> anyhow::Result<(Self, StoredTokens)> {
        let storage = Self::opened(cache)?;
        match StoredTokens::open(&storage.store, tasks) {
            Ok(tokens) => Ok((storage, tokens)),
            Err(TokensError::Store(error @ StoreError::Io { .. })) if storage.spool.is_some() => {
                drop(storage);
                let storage = Self::deferred(cache, keys_of(cache)?, &error)?;
                let tokens = StoredTokens::open(&storage.store, tasks)?;
                Ok((storage, tokens))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Opens what is known of the cluster's issuer; a full disk that holds none yet does not keep the node from starting.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn issuer(&self, audiences: Vec<String>, tasks: &Tasks) -> anyhow::Result<StoredIssuer> {
        match StoredIssuer::open(&self.store, audiences.clone(), tasks) {
            Err(error @ StoreError::Io { .. }) => {
                tracing::warn!(%error, "what is learnt of the cluster's issuer is kept in memory only");
                let memory: Arc<dyn Store> = Arc::new(LogStore::memory()?);
                Ok(StoredIssuer::open(&memory, audiences, tasks)?)
            }
            opened => Ok(opened?),
        }
    }

    fn opened(cache: &Cache) -> anyhow::Result<Self> {
        if cache.store == CacheStore::Memory {
            return Self::in_memory(Place::Configured);
        }
        let keys = match keys_of(cache) {
            Ok(keys) => keys,
            Err(error) => {
                tracing::error!(
                    %error,
                    "there is no key for the cache: it is empty and in memory only until edgehold is started with the \
                     key; what is on disk stays as it is"
                );
                return Self::in_memory(Place::Memory(InMemory::NoKey));
            }
        };
        let form = match keys.is_empty() {
            true => SpoolForm::Plain,
            false => SpoolForm::Sealed,
        };
        let store = match LogStore::open_sealed(&cache.path, keys.clone()) {
            Err(error @ StoreError::Io { .. }) => return Self::deferred(cache, keys, &error),
            opened => opened.context("opening cache.path")?,
        };
        let spool = Spool {
            dir: cache.path.clone(),
            form,
            failures: store.failures(),
        };
        Ok(Self {
            store: Arc::new(store),
            spool: Some(spool),
            place: Place::Configured,
            deferred: None,
        })
    }

    fn in_memory(place: Place) -> anyhow::Result<Self> {
        Ok(Self {
            store: Arc::new(LogStore::memory()?),
            spool: None,
            place,
            deferred: None,
        })
    }

    fn deferred(cache: &Cache, keys: Keys, error: &StoreError) -> anyhow::Result<Self> {
        tracing::error!(
            path = %cache.path.display(), %error,
            "the cache cannot be written to disk: it is empty and in memory only until the disk works, and a node that \
             starts again before that knows nothing"
        );
        let store = Arc::new(LogStore::deferred()?);
        let deferred = Deferred {
            store: Arc::clone(&store),
            root: cache.path.clone(),
            keys,
        };
        Ok(Self {
            store,
            spool: None,
            place: Place::Memory(InMemory::NoDisk),
            deferred: Some(deferred),
        })
    }
}

/// The configured keys; none without encryption.
///
/// # Errors
/// They cannot be read.
pub(super) fn keys_of(cache: &Cache) -> Result<Keys, KeyFault> {
    let keys = cache.encryption.as_ref().map(keys).transpose()?;
    Ok(keys.unwrap_or_default())
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
    if let Some(fault) = file_mode::fault(&found) {
        tracing::warn!(path = %path.display(), "the key of the cache {fault}: it should be readable by edgehold alone (chmod 600)");
    }
    fs::read_to_string(path)
}
