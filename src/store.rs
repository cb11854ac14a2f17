//! What is kept on disk: logs of items that survive kill -9, power cuts, full disks, torn writes and bit rot.
//!
//! A log belongs to an owner (a principal) and has a name (the key of a view, or `objects`, `documents`,
//! `tokens`). It holds items (key bytes to value bytes), a header (opaque, set when a whole is committed), one
//! position (the resourceVersion; empty for sets of single entries) and the time of the last record. The store
//! knows nothing of Kubernetes: no key, value, header or position is ever looked into.
//!
//! Everything blocks: call it on blocking threads. Invariants:
//! - After any end of the process a log is found whole at some moment of its past, position and items together,
//!   not before the last [`Store::sync`] or commit that succeeded; or, damaged, it is moved aside and not found.
//! - One damaged file harms one log.
//! - A snapshot being received is invisible until it is committed, and then replaces the log at once.
//! - `append` costs O(event), on disk and in memory.

mod compact;
mod disk;
mod engine;
mod failures;
mod format;
mod index;
mod keys;
mod locked;
mod log;
mod opening;
mod quarantine;
mod quota;
mod recover;
mod scan;
mod shared;
mod snapshot;
mod staging;
mod state;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

pub use self::disk::{examine, purge};
pub use self::engine::LogStore;
pub use self::failures::{DiskFailure, Failures};
pub use self::keys::{Keys, KeysError};
pub use self::quota::{Quota, Worth};
pub use self::snapshot::{Entries, Items, LogSnapshot};

/// Which log: whose, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId {
    /// The principal that the data belongs to, as `cn:system:node:edge-1`.
    pub owner: String,
    /// The key of a view, or `objects`, `documents`, `tokens`.
    pub name: String,
}

impl LogId {
    /// The log `name` of `owner`.
    pub fn new(owner: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            owner: owner.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.owner)
    }
}

/// A log as [`Store::logs`] lists it, without loading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSummary {
    /// Which log.
    pub id: LogId,
    /// Bytes on disk.
    pub bytes: u64,
    /// The time of the last record if the log was loaded or written since the start, else of the file.
    pub modified: SystemTime,
}

/// One change of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change<'a> {
    /// An item is new or has a new value.
    Put {
        /// The key of the item.
        key: &'a [u8],
        /// Its value, at most 256 MiB less a few bytes.
        value: &'a [u8],
    },
    /// An item is gone.
    Delete {
        /// The key of the item.
        key: &'a [u8],
    },
    /// All items stayed as they are up to the new position and time.
    Progress,
}

/// What [`Log::append`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// One record was written.
    Appended,
    /// The log said so already: nothing was written, and its time stays.
    Unchanged,
}

impl Written {
    /// For logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Appended => "appended",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Counts and sizes of a store, since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Logs that exist.
    pub logs: u64,
    /// Their bytes on disk.
    pub bytes: u64,
    /// Files that were damaged by more than a torn last record, and were moved or copied aside.
    pub quarantined: u64,
    /// Torn last records that were cut off.
    pub torn: u64,
    /// Files that were left alone at open: of a newer format, or unreadable.
    pub skipped: u64,
    /// Files for which there is no key, moved aside unharmed.
    pub locked: u64,
    /// Logs removed by the quota.
    pub evicted: u64,
    /// Logs rewritten without their garbage.
    pub compactions: u64,
    /// Snapshots that replaced a log.
    pub replaced: u64,
    /// Snapshots that were equal to the log, so that only a record was appended.
    pub confirmed: u64,
    /// Writes that the disk refused, be it an event, a snapshot, a new file or its name, or what is written beside the store.
    pub write_failures: u64,
    /// Syncs of a file or directory that failed.
    pub sync_failures: u64,
    /// What failed last of both.
    pub last_failure: Option<DiskFailure>,
}

/// The logs of one node.
pub trait Store: Send + Sync {
    /// The logs that exist, in the order of their ids.
    fn logs(&self) -> Vec<LogSummary>;

    /// Whether there is such a log; reads nothing.
    fn holds(&self, id: &LogId) -> bool;

    /// Whether files of this log were damaged and are kept aside. Blocks.
    fn is_damaged(&self, id: &LogId) -> bool;

    /// Opens a log, recovering it if need be; `None` if there is none. While a handle lives, it is the one given.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file cannot be read. A damaged file is no error: see [`StoreStats`].
    fn load(&self, id: &LogId) -> Result<Option<Arc<dyn Log>>, StoreError>;

    /// Opens a log, making it, empty and durable, if there is none. One that exists keeps its items and header.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::TooLarge`].
    fn create(&self, id: &LogId, header: &[u8]) -> Result<Arc<dyn Log>, StoreError>;

    /// Starts to receive a snapshot. Nobody sees it before [`Staging::commit`]; dropped, it leaves nothing.
    ///
    /// # Errors
    /// None today besides those of the disk.
    fn stage(&self, id: &LogId) -> Result<Box<dyn Staging>, StoreError>;

    /// Removes a log, and what quarantine holds of it, durably. Its handles are dead from then on.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the removal may not be durable, or did not happen; it can be asked for again.
    fn remove(&self, id: &LogId) -> Result<(), StoreError>;

    /// Makes durable what was appended since the last call, but for [`Change::Progress`] alone: it survives the end of
    /// the process, and a power cut may take it back, which leaves the same items at a lower position. All logs are tried; a failed one is tried again by
    /// the next call, and is due for [`Store::compact_due`].
    ///
    /// # Errors
    /// The first [`StoreError::Io`].
    fn sync(&self) -> Result<(), StoreError>;

    /// Rewrites the logs that are more garbage than data, or that the disk failed; gives how many. Appends go on
    /// meanwhile. For a maintenance task.
    ///
    /// # Errors
    /// The first failure; the other logs are done.
    fn compact_due(&self) -> Result<usize, StoreError>;

    /// Removes logs until the store is within the quota: those that are worth least, and of these the ones used longest
    /// ago. Gives the removed; who has one of them open should let go of it, or the disk gets nothing back.
    fn enforce(&self, quota: Quota, worth: &dyn Fn(&LogId) -> Worth) -> Vec<LogId>;

    /// Counts and sizes.
    fn stats(&self) -> StoreStats;
}

/// A snapshot being received.
pub trait Staging: Send {
    /// Adds an item, or gives it a new value.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::TooLarge`]; [`StoreError::Damaged`] if the log on disk that this
    /// snapshot was equal to so far turns out to be broken: a new staging will not lean on it.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError>;

    /// Takes an item out again.
    ///
    /// # Errors
    /// As [`Staging::put`].
    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError>;

    /// The value of an item that was put.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Items so far.
    fn len(&self) -> usize;

    /// No item so far.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes the snapshot the log, durably and at once: other handles of it are [`StoreError::Replaced`] from
    /// then on. If its items are those of the log, the log stays, and only a record of O(header) is appended.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::TooLarge`], [`StoreError::Damaged`]: the log is what it was.
    fn commit(
        self: Box<Self>,
        header: &[u8],
        position: &str,
        at: SystemTime,
    ) -> Result<Arc<dyn Log>, StoreError>;
}

/// A log that is open. Can be used by many threads.
pub trait Log: Send + Sync {
    /// Which log.
    fn id(&self) -> &LogId;
    /// What was given with the last commit.
    fn header(&self) -> Bytes;
    /// The resourceVersion up to which the items are known; empty if there is none.
    fn position(&self) -> Arc<str>;
    /// The time of the last record.
    fn updated(&self) -> SystemTime;
    /// Items.
    fn len(&self) -> usize;
    /// No items.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes one change together with the position that it leads to: both are found again, or neither.
    /// A change that says nothing new at the position the log is at writes nothing.
    ///
    /// # Errors
    /// [`StoreError::Io`]: the log is as before. [`StoreError::Broken`], [`StoreError::Replaced`],
    /// [`StoreError::Removed`], [`StoreError::TooLarge`].
    fn append(&self, change: Change<'_>, position: &str, at: SystemTime) -> Result<Written, StoreError>;

    /// The value of an item.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;

    /// Whether there is such an item.
    fn contains(&self, key: &[u8]) -> bool;

    /// At most `most` keys behind `after`, in the order of their bytes, as they are in memory; of a handle whose place was
    /// taken, those that it had then.
    fn keys_after(&self, after: Option<&[u8]>, most: usize) -> Vec<Box<[u8]>>;

    /// All items as they are now, with the position, to be read at leisure.
    fn snapshot(&self) -> LogSnapshot;

    /// The items whose keys start with `prefix` (`ns/`), as they are now, with the position.
    fn snapshot_of(&self, prefix: &[u8]) -> LogSnapshot;

    /// Rewrites the log now, so that the bytes of deleted and replaced items are gone from disk, also from
    /// quarantine. Durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Io`], [`StoreError::Damaged`], [`StoreError::Replaced`], [`StoreError::Removed`].
    fn scrub(&self) -> Result<(), StoreError>;
}

/// The keys of a log, a few at a time: those that come or go meanwhile may be among them or not.
pub fn keys_of(log: &dyn Log) -> impl Iterator<Item = Box<[u8]>> {
    const AT_ONCE: usize = 256;
    let mut batch = Vec::new().into_iter();
    let mut last: Option<Box<[u8]>> = None;
    std::iter::from_fn(move || {
        if batch.len() == 0 {
            batch = log.keys_after(last.as_deref(), AT_ONCE).into_iter();
        }
        last = batch.next();
        last.clone()
    })
    .fuse()
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk said no.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file; below the root, except for the root itself.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has this store open.
    #[error("{} is locked: another process uses this store", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The root directory is not one to keep private data in.
    #[error("{} cannot hold the store: it {fault}", path.display())]
    Root {
        /// The root as configured.
        path: PathBuf,
        /// What is wrong with it.
        fault: RootFault,
    },
    /// A snapshot took this handle's place: load the log again.
    #[error("the log was replaced by a newer snapshot")]
    Replaced,
    /// The log was removed.
    #[error("the log was removed")]
    Removed,
    /// A failed append could not be undone: the log can be read, and be written again after a rewrite.
    #[error("the log is broken by a failed write")]
    Broken,
    /// One record would be over 256 MiB.
    #[error("an item or header is too large for one record")]
    TooLarge,
    /// What is read back is not what was written.
    #[error("the log is damaged on disk")]
    Damaged,
}

impl StoreError {
    fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }
}

/// What is wrong with a root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootFault {
    /// Someone else could choose where it points to.
    Symlink,
    /// It is a file.
    NotDirectory,
    /// Another user could read or change what is in it.
    Owner {
        /// Its owner.
        uid: u32,
    },
}

impl fmt::Display for RootFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Symlink => f.write_str("is a symbolic link"),
            Self::NotDirectory => f.write_str("is not a directory"),
            Self::Owner { uid } => write!(f, "belongs to another user (uid {uid})"),
        }
    }
}
