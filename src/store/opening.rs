//! Opens logs, puts others in their place and removes them.

use std::io;
use std::sync::Arc;

use super::recover::{self, Recovery};
use super::shared::{FileLog, Handle, Over, Shared, short_hash};
use super::state::{LogState, Status};
use super::writer::Writer;
use super::{LogId, StoreError, quarantine};

impl Shared {
    /// The log of an id, opened if need be; `None`: there is none.
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
            let log = FileLog::new(self.clone(), slot.clone(), LogState::new(new));
            *handle = Handle::There(Arc::downgrade(&log));
            break log;
        };
        // The snapshot is in place whatever comes now. If this fails, the next sync tries again and reports it.
        if let Err(e) = self.settle_dir(&log.slot.dir) {
            tracing::warn!(log = %id, error = %e, "a snapshot may not survive a power cut yet");
        }
        Ok(log)
    }

    pub(super) fn remove(&self, id: &LogId) -> Result<(), StoreError> {
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
        quarantine::purge(self, id)
    }
}
