//! What the store, its open logs and its stagings share: which logs there are, who has them open, and what is still
//! to be synced.
//!
//! Lock order: a slot's handle, then a log's state, then the small lists of [`Shared`]; never back. Invariants:
//! for each id there is at most one slot, and for each slot at most one open log; a slot of 0 bytes is no log yet.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::disk::counted::Counted;
use super::disk::{Disk, DiskFile};
use super::failures::Failures;
use super::state::{LogState, SyncMark};
use super::{LogId, LogSummary, StoreError, format};

/// What the store, its open logs and its stagings share.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) failures: Arc<Failures>,
    pub(super) slots: Mutex<HashMap<LogId, Arc<Slot>>>,
    /// Owners' directories whose names are durable in the root.
    pub(super) known_dirs: Mutex<HashSet<String>>,
    pub(super) unsynced: Mutex<Vec<Pending>>,
    /// Directories with renames that may not be durable.
    pub(super) dirty_dirs: Mutex<BTreeSet<String>>,
    syncing: Mutex<()>,
    settling: Mutex<()>,
    /// Held while names in the quarantine are chosen.
    pub(super) quarantine: Mutex<()>,
    /// Logs to be rewritten.
    pub(super) due: Mutex<BTreeSet<LogId>>,
    /// Logs that were found sealed with an old key, or plain though they should not be.
    pub(super) reseal: Mutex<Vec<LogId>>,
    pub(super) counters: Counters,
    /// Some logs may still be in memory that belong on the disk.
    pub(super) going_over: AtomicBool,
    /// Counts uses, so that the order of use does not depend on a clock.
    ticks: AtomicU64,
    temps: AtomicU64,
}

/// The place of one log.
pub(super) struct Slot {
    pub(super) id: LogId,
    pub(super) dir: String,
    pub(super) path: String,
    pub(super) bytes: AtomicU64,
    pub(super) modified: AtomicU64,
    pub(super) used: AtomicU64,
    pub(super) handle: Mutex<Handle>,
}

/// What a slot holds.
pub(super) enum Handle {
    /// Nothing yet: a first commit may be on its way.
    Absent,
    /// A file, and the open log if someone has it open.
    There(Weak<FileLog>),
    /// The log was removed and the slot is no longer listed: look for the id again.
    Gone,
}

/// What a new file may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// A log that exists is kept, and is the result.
    Nothing,
    /// A log that exists is replaced.
    Any,
}

/// A file to be synced. Holds no log, so that a log can be dropped before.
pub(super) struct Pending {
    pub(super) slot: Arc<Slot>,
    /// `None`: an earlier process wrote it; it is opened for the sync only.
    pub(super) file: Option<Arc<dyn DiskFile>>,
    pub(super) mark: Arc<SyncMark>,
}

impl Pending {
    fn sync(&self, disk: &dyn Disk) -> io::Result<()> {
        if self.mark.failed.load(SeqCst) {
            return Err(io::Error::other(
                "a sync failed before, and the log is not rewritten yet",
            ));
        }
        match &self.file {
            Some(file) => file.sync(),
            None => match disk.open(&self.slot.path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                opened => opened?.sync(),
            },
        }
    }
}

/// Counters of [`StoreStats`](super::StoreStats).
#[derive(Default)]
pub(super) struct Counters {
    pub(super) quarantined: AtomicU64,
    pub(super) torn: AtomicU64,
    pub(super) skipped: AtomicU64,
    pub(super) locked: AtomicU64,
    pub(super) evicted: AtomicU64,
    pub(super) compactions: AtomicU64,
    pub(super) replaced: AtomicU64,
    pub(super) confirmed: AtomicU64,
}

impl Slot {
    pub(super) fn new(id: LogId) -> Arc<Self> {
        let (dir, file) = (short_hash(&id.owner), short_hash(&id.name));
        Arc::new(Self {
            path: format!("{dir}/{file}.log"),
            dir,
            id,
            bytes: AtomicU64::new(0),
            modified: AtomicU64::new(0),
            used: AtomicU64::new(0),
            handle: Mutex::new(Handle::Absent),
        })
    }

    pub(super) fn summary(&self) -> Option<LogSummary> {
        let bytes = self.bytes.load(SeqCst);
        (bytes > 0).then(|| LogSummary {
            id: self.id.clone(),
            bytes,
            modified: format::time(self.modified.load(SeqCst)),
        })
    }
}

/// The name of a file or directory: 128 bits of the blake3 of a text, in hex.
pub(super) fn short_hash(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex().chars().take(32).collect()
}

/// An open log.
pub(super) struct FileLog {
    pub(super) shared: Arc<Shared>,
    pub(super) slot: Arc<Slot>,
    pub(super) state: Mutex<LogState>,
    /// Held by whoever rewrites the file, so that there is one at a time.
    pub(super) rewriting: Mutex<()>,
    /// What was read back was not what was written: no snapshot may be compared with this file any more.
    pub(super) rotten: AtomicBool,
}

impl Shared {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        let failures = Arc::<Failures>::default();
        Self {
            disk: Arc::new(Counted::new(disk, Arc::clone(&failures))),
            failures,
            slots: Mutex::default(),
            known_dirs: Mutex::default(),
            unsynced: Mutex::default(),
            dirty_dirs: Mutex::default(),
            syncing: Mutex::default(),
            settling: Mutex::default(),
            quarantine: Mutex::default(),
            due: Mutex::default(),
            reseal: Mutex::default(),
            counters: Counters::default(),
            going_over: AtomicBool::new(false),
            ticks: AtomicU64::new(1),
            temps: AtomicU64::new(0),
        }
    }

    /// The open log of an id, if someone has it open.
    pub(super) fn loaded(&self, id: &LogId) -> Option<Arc<FileLog>> {
        let slot = self.slots.lock().get(id).cloned()?;
        let handle = slot.handle.lock();
        match &*handle {
            Handle::There(log) => log.upgrade(),
            Handle::Absent | Handle::Gone => None,
        }
    }

    /// A new name for a file being written, in the directory of its owner.
    pub(super) fn temp_path(&self, id: &LogId) -> Result<String, StoreError> {
        let (dir, file) = (short_hash(&id.owner), short_hash(&id.name));
        let mut known = self.known_dirs.lock();
        if !known.contains(&dir) {
            self.disk
                .create_dir(&dir)
                .map_err(|e| StoreError::io("make", &dir, e))?;
            self.disk
                .sync_dir("")
                .map_err(|e| StoreError::io("sync", ".", e))?;
            known.insert(dir.clone());
        }
        let number = self.temps.fetch_add(1, SeqCst);
        Ok(format!("{dir}/{file}-{number}.tmp"))
    }

    /// Notes a use.
    pub(super) fn touch(&self, slot: &Slot) {
        slot.used.store(self.ticks.fetch_add(1, SeqCst), SeqCst);
    }

    /// Notes that a log is to be rewritten.
    pub(super) fn due(&self, id: &LogId) {
        let mut due = self.due.lock();
        if !due.contains(id) {
            due.insert(id.clone());
        }
    }

    /// Forgets the syncs that wait for a file whose place was just taken.
    pub(super) fn retire(&self, slot: &Arc<Slot>) {
        for pending in self.unsynced.lock().iter() {
            if Arc::ptr_eq(&pending.slot, slot) {
                pending.mark.dead.store(true, SeqCst);
            }
        }
    }

    /// Notes that names in a directory are not durable yet.
    pub(super) fn dirty_dir(&self, dir: &str) {
        self.dirty_dirs.lock().insert(dir.to_owned());
    }

    /// Makes the names in a directory durable if they are not.
    pub(super) fn settle_dir(&self, dir: &str) -> Result<(), StoreError> {
        // Whoever comes second must not return before the names are durable.
        let _one = self.settling.lock();
        if !self.dirty_dirs.lock().remove(dir) {
            return Ok(());
        }
        self.disk.sync_dir(dir).map_err(|e| {
            self.dirty_dir(dir);
            StoreError::io("sync", dir, e)
        })
    }

    /// As [`Shared::settle_dir`], for all; gives the first failure.
    pub(super) fn settle_dirs(&self) -> Result<(), StoreError> {
        let dirs: Vec<String> = self.dirty_dirs.lock().iter().cloned().collect();
        let mut first = Ok(());
        for dir in dirs {
            // All are tried, also after a failure.
            let settled = self.settle_dir(&dir);
            first = first.and(settled);
        }
        first
    }

    /// Lists a slot no longer.
    pub(super) fn forget(&self, slot: &Slot) {
        slot.bytes.store(0, SeqCst);
        self.slots.lock().remove(&slot.id);
    }

    pub(super) fn slot(&self, id: &LogId) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        match slots.get(id) {
            Some(slot) => slot.clone(),
            None => {
                let slot = Slot::new(id.clone());
                slots.insert(id.clone(), slot.clone());
                slot
            }
        }
    }

    pub(super) fn sync(&self) -> Result<(), StoreError> {
        // Whoever comes second must not return before what the first took is durable.
        let _one = self.syncing.lock();
        let pending = std::mem::take(&mut *self.unsynced.lock());
        let mut first = Ok(());
        for file in pending {
            if file.mark.dead.load(SeqCst) {
                continue;
            }
            file.mark.queued.store(false, SeqCst);
            if let Err(e) = file.sync(&*self.disk) {
                first = first.and(Err(StoreError::io("sync", &file.slot.path, e)));
                // The kernel may have dropped what it could not write, and say nothing next time: only a new
                // file is sure again. What an earlier process wrote and nobody has open is tried again.
                if file.file.is_some() {
                    file.mark.failed.store(true, SeqCst);
                    self.due(&file.slot.id);
                }
                if !file.mark.queued.swap(true, SeqCst) {
                    self.unsynced.lock().push(file);
                }
            }
        }
        first.and(self.settle_dirs())
    }
}
