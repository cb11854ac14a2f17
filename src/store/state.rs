//! What is in memory of an open log, and whether it can be written to.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use super::StoreError;
use super::disk::DiskFile;
use super::index::{Contents, ItemRef};
use super::snapshot::LogSnapshot;

/// A log is due for compaction with more garbage than this, if that is also more than what is live.
pub(super) const GARBAGE_MIN: u64 = 1 << 20;

/// A finished file, to become the file of a log.
pub(super) struct Written {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) contents: Contents,
    pub(super) end: u64,
    pub(super) chain: u32,
}

/// What the lock guards.
pub(super) struct LogState {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) contents: Contents,
    pub(super) end: u64,
    pub(super) chain: u32,
    pub(super) status: Status,
    pub(super) unsynced: Arc<SyncMark>,
    /// Garbage from which on a compaction is due; moves up when one failed.
    pub(super) due_from: u64,
    /// The places of all items, shared by the snapshots of one moment.
    pub(super) places: Option<Weak<[ItemRef]>>,
}

/// Whether a handle can be written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Live,
    Broken,
    Replaced,
    Removed,
}

/// What the syncing of one file knows.
#[derive(Default)]
pub(super) struct SyncMark {
    pub(super) queued: AtomicBool,
    /// The file was replaced or removed: nothing to be synced.
    pub(super) dead: AtomicBool,
    /// A sync failed: the file cannot be trusted to be durable any more.
    pub(super) failed: AtomicBool,
}

impl LogState {
    pub(super) fn new(new: Written) -> Self {
        Self {
            file: new.file,
            contents: new.contents,
            end: new.end,
            chain: new.chain,
            status: Status::Live,
            unsynced: Arc::default(),
            due_from: GARBAGE_MIN,
            places: None,
        }
    }

    /// Takes over another file with the same items.
    pub(super) fn adopt(&mut self, new: Written) {
        self.unsynced.dead.store(true, SeqCst);
        *self = Self::new(new);
    }

    /// The handle can never be written to again.
    pub(super) fn end_with(&mut self, status: Status) {
        self.status = status;
        self.unsynced.dead.store(true, SeqCst);
    }

    pub(super) fn garbage(&self) -> u64 {
        self.end.saturating_sub(self.contents.index.live())
    }

    pub(super) fn is_due(&self) -> bool {
        let garbage = self.garbage();
        garbage > self.due_from && garbage > self.contents.index.live()
    }

    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.status {
            Status::Live => Ok(()),
            Status::Broken => Err(StoreError::Broken),
            Status::Replaced => Err(StoreError::Replaced),
            Status::Removed => Err(StoreError::Removed),
        }
    }

    pub(super) fn snapshot(&mut self) -> LogSnapshot {
        let items = match self.places.as_ref().and_then(Weak::upgrade) {
            Some(items) => items,
            None => {
                let items: Arc<[ItemRef]> = self.contents.index.places(b"").into();
                self.places = Some(Arc::downgrade(&items));
                items
            }
        };
        self.snapshot_with(items)
    }

    pub(super) fn snapshot_with(&self, items: Arc<[ItemRef]>) -> LogSnapshot {
        LogSnapshot {
            file: self.file.clone(),
            items,
            header: self.contents.header.clone(),
            position: self.contents.position.clone(),
            updated: self.contents.updated,
        }
    }
}
