//! An open log: what is in memory of it, and appending to its file.
//!
//! One lock guards the state; reading values happens outside it. Invariant: the contents are exactly what the
//! valid part of the file says, `end` bytes of it; a failed write is cut off again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::time::SystemTime;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::disk::{read_exact, write_full};
use super::format::{self, Record};
use super::index::Index;
use super::shared::{FileLog, Pending, Shared, Slot};
use super::snapshot::LogSnapshot;
use super::state::{LogState, Status};
use super::{Change, Log, LogId, StoreError, Written, quarantine};

impl LogState {
    /// The record that a change needs, if any. A value that is there already only moves the position.
    fn record<'a>(
        &self,
        change: Change<'a>,
        hash: u64,
        position: &'a str,
        at: SystemTime,
    ) -> Option<Record<'a>> {
        let stays = *self.contents.position == *position;
        let index = &self.contents.index;
        let record = match change {
            Change::Put { key, value } => {
                let known = index
                    .find(key)
                    .is_some_and(|entry| entry.hash == hash && entry.len as usize == value.len());
                (!known).then_some(Record::Put {
                    at,
                    hash,
                    position,
                    key,
                    value,
                })
            }
            Change::Delete { key } => index.find(key).map(|_| Record::Delete { at, position, key }),
            Change::Progress => {
                let stays = stays && format::nanos(at) == format::nanos(self.contents.updated);
                return (!stays).then_some(Record::Progress { at, position });
            }
        };
        record.or_else(|| (!stays).then_some(Record::Progress { at, position }))
    }
}

impl FileLog {
    pub(super) fn new(shared: Arc<Shared>, slot: Arc<Slot>, state: LogState) -> Arc<Self> {
        let log = Self {
            shared,
            slot,
            state: Mutex::new(state),
            rewriting: Mutex::new(()),
            rotten: AtomicBool::new(false),
        };
        log.account(&log.state.lock());
        Arc::new(log)
    }

    /// If `items` are the items of this log, notes that they were so at this position and time; an equal position
    /// writes nothing. `false`: they are not, or it could not be noted.
    pub(super) fn confirm(&self, items: &Index, header: &[u8], position: &str, at: SystemTime) -> bool {
        let mut state = self.state.lock();
        if state.check().is_err() || !state.contents.index.same_items(items) {
            return false;
        }
        let record = if state.contents.header == header && *state.contents.position == *position {
            // The same in every respect: known to be so for this process, and not worth a write.
            state.contents.updated = at;
            return true;
        } else if state.contents.header == header {
            Record::Progress { at, position }
        } else {
            Record::Commit {
                at,
                count: items.len() as u64,
                header,
                position,
            }
        };
        self.write(&mut state, &record).is_ok()
    }

    /// Writes one record behind the last.
    fn write(&self, state: &mut MutexGuard<'_, LogState>, record: &Record<'_>) -> Result<(), StoreError> {
        let (mut chain, mut buf) = (state.chain, Vec::new());
        if !record.encode(&mut chain, &mut buf) {
            return Err(StoreError::TooLarge);
        }
        if let Err(e) = write_full(&*state.file, &buf, state.end) {
            if state.file.set_len(state.end).is_err() {
                state.status = Status::Broken;
                self.shared.due(&self.slot.id);
            }
            return Err(StoreError::io("append to", &self.slot.path, e));
        }
        state.chain = chain;
        state.end += buf.len() as u64;
        let end = state.end;
        state.contents.apply(record, end);
        if matches!(record, Record::Put { .. } | Record::Delete { .. }) {
            state.places = None;
        }
        // A position alone is not worth a flush: found again lower, it is still true of these items.
        if !matches!(record, Record::Progress { .. }) {
            self.queue_sync(state);
        }
        self.account(state);
        Ok(())
    }

    /// Has the next [`super::Store::sync`] sync the file.
    fn queue_sync(&self, state: &LogState) {
        if !state.unsynced.queued.swap(true, SeqCst) {
            self.shared.unsynced.lock().push(Pending {
                slot: self.slot.clone(),
                file: Some(state.file.clone()),
                mark: state.unsynced.clone(),
            });
        }
    }

    /// Tells the slot what is true now, and asks for compaction if it is due.
    pub(super) fn account(&self, state: &LogState) {
        self.slot.bytes.store(state.end, SeqCst);
        self.slot
            .modified
            .store(format::nanos(state.contents.updated), SeqCst);
        self.shared.touch(&self.slot);
        if state.is_due() || state.status == Status::Broken {
            self.shared.due(&self.slot.id);
        }
    }
}

impl Log for FileLog {
    fn id(&self) -> &LogId {
        &self.slot.id
    }

    fn header(&self) -> Bytes {
        self.state.lock().contents.header.clone()
    }

    fn position(&self) -> Arc<str> {
        self.state.lock().contents.position.clone()
    }

    fn updated(&self) -> SystemTime {
        self.state.lock().contents.updated
    }

    fn len(&self) -> usize {
        self.state.lock().contents.index.len()
    }

    fn append(&self, change: Change<'_>, position: &str, at: SystemTime) -> Result<Written, StoreError> {
        let hash = match change {
            Change::Put { value, .. } => format::hash_of(value),
            Change::Delete { .. } | Change::Progress => 0,
        };
        let mut state = self.state.lock();
        if let Err(e) = state.check() {
            if state.status == Status::Broken {
                self.shared.due(&self.slot.id);
            }
            return Err(e);
        }
        match state.record(change, hash, position, at) {
            Some(record) => self.write(&mut state, &record).map(|()| Written::Appended),
            None => {
                self.shared.touch(&self.slot);
                Ok(Written::Unchanged)
            }
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.shared.touch(&self.slot);
        let (file, entry) = {
            let state = self.state.lock();
            match state.contents.index.find(key) {
                Some(entry) => (state.file.clone(), entry),
                None => return Ok(None),
            }
        };
        read_exact(&*file, entry.offset, entry.len as usize)
            .map(|value| Some(value.into()))
            .map_err(|e| StoreError::io("read", &self.slot.path, e))
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.state.lock().contents.index.find(key).is_some()
    }

    fn keys_after(&self, after: Option<&[u8]>, most: usize) -> Vec<Box<[u8]>> {
        self.state.lock().contents.index.keys_after(after, most)
    }

    fn snapshot(&self) -> LogSnapshot {
        self.shared.touch(&self.slot);
        self.state.lock().snapshot()
    }

    fn snapshot_of(&self, prefix: &[u8]) -> LogSnapshot {
        self.shared.touch(&self.slot);
        let state = self.state.lock();
        state.snapshot_with(state.contents.index.places(prefix).into())
    }

    fn scrub(&self) -> Result<(), StoreError> {
        self.compact()?;
        self.shared.settle_dir(&self.slot.dir)?;
        quarantine::purge(&self.shared, &self.slot.id)
    }
}
