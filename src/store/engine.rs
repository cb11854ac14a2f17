//! The store over a [`Disk`].

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::disk::files::Files;
use super::disk::memory::Memory;
use super::disk::moving::Moving;
use super::disk::sealed::Sealed;
use super::disk::{Disk, write_full};
use super::failures::Failures;
use super::keys::Keys;
use super::shared::{Over, Shared};
use super::staging::FileStaging;
use super::writer::Writer;
use super::{Log, LogId, LogSummary, Quota, Staging, Store, StoreError, StoreStats, Worth};
use super::{compact, quarantine, quota, recover};

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
        let shared = Arc::new(Shared::new(disk));
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
