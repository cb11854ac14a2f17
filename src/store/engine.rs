//! The store over a [`Disk`]: which logs there are, who has them open, and what is still to be synced.
//!
//! Lock order: a slot's handle, then a log's state, then the small lists of [`Shared`]; never back. Invariants:
//! for each id there is at most one slot, and for each slot at most one open log; a slot of 0 bytes is no log yet.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

use super::disk::counted::Counted;
use super::disk::files::Files;
use super::disk::memory::Memory;
use super::disk::moving::Moving;
use super::disk::sealed::Sealed;
use super::disk::{Disk, DiskFile, write_full};
use super::failures::Failures;
use super::keys::Keys;
use super::log::{FileLog, State, Status, SyncMark};
use super::recover::{self, Recovery};
use super::staging::FileStaging;
use super::writer::Writer;
use super::{Log, LogId, LogSummary, Quota, Staging, Store, StoreError, StoreStats, Worth};
use super::{compact, format, quarantine, quota};

/// The file backend, and the same in memory.
pub struct LogStore {
    shared: Arc<Shared>,
    /// Its disk, if it began in memory for want of a real one.
    moving: Option<Arc<Moving>>,
}

impl LogStore {
    /// Opens the store below `root`, making it if need be, and locks it for this process.
    ///
    /// # Errors
    /// [`StoreError::Root`], [`StoreError::Locked`], [`StoreError::Io`] if the root itself cannot be used; what is
    /// wrong with a single file is no error.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_sealed(root, Keys::default())
    }

    /// The same with everything that is written sealed with the first of these keys; plain files of before, and those
    /// of the other keys, are read and rewritten.
    ///
    /// # Errors
    /// As [`LogStore::open`]. A file that no key opens is no error: see [`StoreStats::locked`].
    pub fn open_sealed(root: &Path, keys: Keys) -> Result<Self, StoreError> {
        let files = Arc::new(Files::open(root)?);
        Self::on(Arc::new(Sealed::new(files, keys)))
    }

    /// A store that does not outlive the process: for diskless nodes and tests.
    ///
    /// # Errors
    /// None in practice.
    pub fn memory() -> Result<Self, StoreError> {
        Self::on(Arc::new(Memory::default()))
    }

    /// A store in memory that can go over to a disk: see [`LogStore::go_over`].
    ///
    /// # Errors
    /// None in practice.
    pub fn deferred() -> Result<Self, StoreError> {
        let moving = Arc::new(Moving::default());
        let store = Self::on(moving.clone())?;
        Ok(Self {
            moving: Some(moving),
            ..store
        })
    }

    /// Goes over to the store's place below `root`, once that can be written to: all that is kept in memory is written there,
    /// in place of what an earlier process left of the same logs. What cannot be written now stays in memory, and is due
    /// for [`Store::compact_due`].
    ///
    /// # Errors
    /// As [`LogStore::open`]; [`StoreError::Io`] if there is not even a little room. The store is as it was.
    pub fn go_over(&self, root: &Path, keys: Keys) -> Result<(), StoreError> {
        let disk = Arc::new(Sealed::new(Arc::new(Files::open(root)?), keys));
        self.go_over_to(disk)
    }

    pub(super) fn go_over_to(&self, disk: Arc<dyn Disk>) -> Result<(), StoreError> {
        let Some(moving) = &self.moving else {
            return Ok(());
        };
        try_to_write(&*disk).map_err(|e| StoreError::io("write", TRIAL, e))?;
        if !moving.go_over(disk) {
            return Ok(());
        }
        self.shared.going_over.store(true, SeqCst);
        self.shared.known_dirs.lock().clear();
        for log in self.logs() {
            self.shared.due(&log.id);
        }
        if let Err(error) = self.compact_due() {
            tracing::warn!(%error, "not all of the cache could be written to the disk yet");
        }
        Ok(())
    }

    /// What its disk refuses, to be told of what is written there beside the store.
    pub fn failures(&self) -> Arc<Failures> {
        Arc::clone(&self.shared.failures)
    }

    /// Opens the store on a disk.
    pub(super) fn on(disk: Arc<dyn Disk>) -> Result<Self, StoreError> {
        let failures = Arc::<Failures>::default();
        let shared = Arc::new(Shared {
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
        });
        recover::survey(&shared)?;
        Ok(Self { shared, moving: None })
    }
}

/// What is written to see whether a disk takes anything, and how much.
const TRIAL: &str = "trial.tmp";
const TRIAL_LEN: usize = 256 << 10;

fn try_to_write(disk: &dyn Disk) -> io::Result<()> {
    let _none = disk.remove(TRIAL);
    let file = disk.create(TRIAL)?;
    let written = write_full(&*file, &vec![0; TRIAL_LEN], 0).and_then(|()| file.sync());
    disk.remove(TRIAL)?;
    written
}

/// What the store, its open logs and its stagings share.
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    failures: Arc<Failures>,
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

/// Counters of [`StoreStats`].
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

    fn summary(&self) -> Option<LogSummary> {
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

impl Shared {
    /// The open log of an id, if someone has it open.
    pub(super) fn loaded(&self, id: &LogId) -> Option<Arc<FileLog>> {
        let slot = self.slots.lock().get(id).cloned()?;
        let handle = slot.handle.lock();
        match &*handle {
            Handle::There(log) => log.upgrade(),
            Handle::Absent | Handle::Gone => None,
        }
    }

    pub(super) fn load(self: &Arc<Self>, id: &LogId) -> Result<Option<Arc<FileLog>>, StoreError> {
        let Some(slot) = self.slots.lock().get(id).cloned() else {
            return Ok(None);
        };
        let mut handle = slot.handle.lock();
        let Handle::There(log) = &*handle else {
            return Ok(None);
        };
        if let Some(log) = log.upgrade() {
            self.touch(&slot);
            return Ok(Some(log));
        }
        match recover::recover(self, &slot)? {
            Recovery::Found(state) => {
                let log = FileLog::new(self.clone(), slot.clone(), state);
                *handle = Handle::There(Arc::downgrade(&log));
                drop(handle);
                log.reseal();
                Ok(Some(log))
            }
            Recovery::Lost => {
                *handle = Handle::Gone;
                self.forget(&slot);
                Ok(None)
            }
        }
    }

    /// Makes a finished and synced file the log of its id.
    pub(super) fn install(
        self: &Arc<Self>,
        id: &LogId,
        writer: Writer,
        over: Over,
    ) -> Result<Arc<FileLog>, StoreError> {
        let log = loop {
            let slot = self.slot(id);
            let mut handle = slot.handle.lock();
            let old = match &*handle {
                Handle::Gone => continue,
                Handle::Absent => None,
                Handle::There(_) if over == Over::Nothing => {
                    drop(handle);
                    match self.load(id)? {
                        Some(log) => return Ok(log),
                        None => continue,
                    }
                }
                Handle::There(log) => log.upgrade(),
            };
            // No append may come between the rename and the end of the old handle.
            let mut old = old.as_ref().map(|old| old.state.lock());
            let new = match writer.install(&slot.path) {
                Ok(new) => new,
                Err(e) => {
                    if matches!(*handle, Handle::Absent) {
                        *handle = Handle::Gone;
                        self.forget(&slot);
                    }
                    return Err(e);
                }
            };
            if let Some(old) = &mut old {
                old.end_with(Status::Replaced);
            }
            drop(old);
            self.dirty_dir(&slot.dir);
            let log = FileLog::new(self.clone(), slot.clone(), State::new(new));
            *handle = Handle::There(Arc::downgrade(&log));
            break log;
        };
        // The snapshot is in place whatever comes now. If this fails, the next sync tries again and reports it.
        if let Err(e) = self.settle_dir(&log.slot.dir) {
            tracing::warn!(log = %id, error = %e, "a snapshot may not survive a power cut yet");
        }
        Ok(log)
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

    /// Removes what the quarantine holds of a log.
    pub(super) fn purge(&self, id: &LogId) -> Result<(), StoreError> {
        quarantine::purge(self, id)
    }

    /// Lists a slot no longer.
    pub(super) fn forget(&self, slot: &Slot) {
        slot.bytes.store(0, SeqCst);
        self.slots.lock().remove(&slot.id);
    }

    fn slot(&self, id: &LogId) -> Arc<Slot> {
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

    fn remove(&self, id: &LogId) -> Result<(), StoreError> {
        let known = self.slots.lock().get(id).cloned();
        if let Some(slot) = known {
            let mut handle = slot.handle.lock();
            if let Handle::There(log) = &*handle {
                let log = log.upgrade();
                let mut state = log.as_ref().map(|log| log.state.lock());
                // Before the unlink: if the sync below fails, the next try has to sync again.
                self.dirty_dir(&slot.dir);
                match self.disk.remove(&slot.path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(StoreError::io("remove", &slot.path, e));
                    }
                    _ => {}
                }
                if let Some(state) = &mut state {
                    state.end_with(Status::Removed);
                }
                drop(state);
                *handle = Handle::Gone;
                self.forget(&slot);
            }
        }
        self.settle_dir(&short_hash(&id.owner))?;
        self.purge(id)
    }

    fn sync(&self) -> Result<(), StoreError> {
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

impl Store for LogStore {
    fn logs(&self) -> Vec<LogSummary> {
        let slots = self.shared.slots.lock();
        let mut logs: Vec<_> = slots.values().filter_map(|slot| slot.summary()).collect();
        logs.sort_by(|a, b| a.id.cmp(&b.id));
        logs
    }

    fn holds(&self, id: &LogId) -> bool {
        let slots = self.shared.slots.lock();
        slots.get(id).is_some_and(|slot| slot.bytes.load(SeqCst) > 0)
    }

    fn is_damaged(&self, id: &LogId) -> bool {
        quarantine::keeps(&self.shared, id)
    }

    fn load(&self, id: &LogId) -> Result<Option<Arc<dyn Log>>, StoreError> {
        Ok(self.shared.load(id)?.map(|log| log as Arc<dyn Log>))
    }

    fn create(&self, id: &LogId, header: &[u8]) -> Result<Arc<dyn Log>, StoreError> {
        if let Some(log) = self.load(id)? {
            return Ok(log);
        }
        let mut writer = Writer::create(&self.shared, id)?;
        writer.commit(header, "", std::time::SystemTime::UNIX_EPOCH)?;
        writer.sync()?;
        Ok(self.shared.install(id, writer, Over::Nothing)?)
    }

    fn stage(&self, id: &LogId) -> Result<Box<dyn Staging>, StoreError> {
        Ok(Box::new(FileStaging::new(&self.shared, id)))
    }

    fn remove(&self, id: &LogId) -> Result<(), StoreError> {
        self.shared.remove(id)
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.shared.sync()
    }

    fn compact_due(&self) -> Result<usize, StoreError> {
        compact::compact_due(&self.shared)
    }

    fn enforce(&self, quota: Quota, worth: &dyn Fn(&LogId) -> Worth) -> Vec<LogId> {
        let logs: Vec<_> = {
            let slots = self.shared.slots.lock();
            let uses = slots.values().map(|slot| quota::Use {
                id: slot.id.clone(),
                bytes: slot.bytes.load(SeqCst),
                last: slot.used.load(SeqCst),
            });
            uses.collect()
        };
        let mut victims = quota.victims(logs, worth);
        victims.retain(|id| match self.shared.remove(id) {
            Ok(()) => {
                self.shared.counters.evicted.fetch_add(1, SeqCst);
                true
            }
            Err(e) => {
                tracing::warn!(log = %id, error = %e, "a log could not be evicted");
                false
            }
        });
        victims
    }

    fn stats(&self) -> StoreStats {
        let logs = self.logs();
        let counters = &self.shared.counters;
        StoreStats {
            logs: logs.len() as u64,
            bytes: logs.iter().map(|log| log.bytes).sum(),
            quarantined: counters.quarantined.load(SeqCst),
            torn: counters.torn.load(SeqCst),
            skipped: counters.skipped.load(SeqCst),
            locked: counters.locked.load(SeqCst),
            evicted: counters.evicted.load(SeqCst),
            compactions: counters.compactions.load(SeqCst),
            replaced: counters.replaced.load(SeqCst),
            confirmed: counters.confirmed.load(SeqCst),
            write_failures: self.shared.failures.writes(),
            sync_failures: self.shared.failures.syncs(),
            last_failure: self.shared.failures.last(),
        }
    }
}
