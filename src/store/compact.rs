//! Rewrites a log without its garbage while it is read and appended to.
//!
//! Appends wait only while the last of the tail is copied. Every value is hashed again on the way: rot in the old
//! file must not get a fresh check value in the new one. A failed rewrite leaves the log as it was.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use super::StoreError;
use super::disk::{DiskFile, Seal};
use super::format::hash_of;
use super::index::{Digest, add_key};
use super::scan::{Scanner, Step};
use super::shared::{FileLog, Shared};
use super::snapshot::LogSnapshot;
use super::state::{GARBAGE_MIN, LogState, Status};
use super::writer::Writer;

/// Tails up to this are copied while appends wait.
const SHORT_TAIL: u64 = 64 << 10;
/// How often a longer tail is copied while appends go on, before they have to wait.
const CHASES: usize = 8;

/// How far the old file has been copied.
struct Copied {
    file: Arc<dyn DiskFile>,
    end: u64,
    chain: u32,
}

impl FileLog {
    /// Rewrites the log now. The new name is durable after the next sync of the directory.
    pub(super) fn compact(&self) -> Result<(), StoreError> {
        let _one = self.rewriting.lock();
        let result = self.rewrite();
        match &result {
            Ok(()) => {
                self.shared.counters.compactions.fetch_add(1, SeqCst);
            }
            Err(e) => {
                if matches!(e, StoreError::Damaged) {
                    self.rotten.store(true, SeqCst);
                }
                let mut state = self.state.lock();
                // A full disk must not be filled again by every round of maintenance.
                state.due_from = state.garbage().saturating_add(GARBAGE_MIN);
                if state.status == Status::Broken || state.unsynced.failed.load(SeqCst) {
                    self.shared.due(&self.slot.id);
                }
            }
        }
        result
    }

    /// Rewrites the log if it is not sealed as new files are, before anything is appended. What cannot be rewritten now
    /// is due for it; a plain one takes no events until then.
    pub(super) fn reseal(&self) {
        let seal = self.state.lock().file.seal();
        if seal == Seal::Current {
            return;
        }
        if let Err(error) = self.compact() {
            tracing::warn!(log = %self.slot.id, %error, "a log could not be sealed with the new key yet");
            self.shared.due(&self.slot.id);
        }
    }

    fn rewrite(&self) -> Result<(), StoreError> {
        let (snapshot, digest, mut copied) = self.begin()?;
        let mut writer = Writer::create(&self.shared, &self.slot.id)?;
        copy(&snapshot, digest, &mut writer)?;
        writer.commit(&snapshot.header, &snapshot.position, snapshot.updated)?;
        for _ in 0..CHASES {
            let end = self.state.lock().end;
            if end - copied.end <= SHORT_TAIL {
                break;
            }
            copied.replay(end, &mut writer)?;
        }
        copied.replay(self.state.lock().end, &mut writer)?;
        writer.sync()?;
        self.swap(copied, writer)
    }

    /// What there is to copy: the items with their hashes, and the place from where the rest is a tail.
    fn begin(&self) -> Result<(LogSnapshot, Digest, Copied), StoreError> {
        let mut state = self.state.lock();
        check_not_dead(&state)?;
        let digest = state.contents.index.digest();
        let copied = Copied {
            file: state.file.clone(),
            end: state.end,
            chain: state.chain,
        };
        Ok((state.snapshot(), digest, copied))
    }

    fn swap(&self, mut copied: Copied, mut writer: Writer) -> Result<(), StoreError> {
        let _handle = self.slot.handle.lock();
        let mut state = self.state.lock();
        check_not_dead(&state)?;
        if copied.replay(state.end, &mut writer)? {
            // The old file may have been synced with this tail: the new one must not know less.
            writer.sync()?;
        }
        let new = writer.install(&self.slot.path)?;
        self.shared.dirty_dir(&self.slot.dir);
        state.adopt(new);
        // The file may have been written by an earlier handle, and its sync have failed.
        self.shared.retire(&self.slot);
        self.account(&state);
        Ok(())
    }
}

impl Copied {
    /// Copies what was appended up to `end`; whether there was anything.
    fn replay(&mut self, end: u64, writer: &mut Writer) -> Result<bool, StoreError> {
        let file = self.file.clone();
        let mut scanner = Scanner::resume(&*file, self.end, end, self.chain);
        let mut any = false;
        loop {
            match scanner.step().map_err(|e| StoreError::io("read", "a log", e))? {
                Step::Record { record, .. } => writer.append(&record)?,
                Step::End => break,
                Step::Torn | Step::Damaged => return Err(StoreError::Damaged),
            }
            any = true;
        }
        (self.end, self.chain) = scanner.place();
        Ok(any)
    }
}

/// Copies items, checking that they are what they were when they were written.
pub(super) fn copy(from: &LogSnapshot, digest: Digest, to: &mut Writer) -> Result<(), StoreError> {
    let mut keys = blake3::Hasher::new();
    for (entry, hash) in from.entries().zip(digest.values) {
        let (key, value) = entry?;
        if hash_of(&value) != hash {
            return Err(StoreError::Damaged);
        }
        add_key(&mut keys, &key);
        to.put(&key, &value, hash)?;
    }
    if keys.finalize() != digest.keys {
        return Err(StoreError::Damaged);
    }
    Ok(())
}

/// Rewrites what is due; see [`super::Store::compact_due`].
pub(super) fn compact_due(shared: &Arc<Shared>) -> Result<usize, StoreError> {
    let old = std::mem::take(&mut *shared.reseal.lock());
    for id in old {
        // Opening a log seals it again.
        if let Err(error) = shared.load(&id) {
            tracing::warn!(log = %id, %error, "a log could not be opened to be sealed with the new key");
        }
    }
    let due = std::mem::take(&mut *shared.due.lock());
    let (mut done, mut first) = (0, Ok(()));
    for id in due {
        // Nobody may have it open any more.
        let compacted = shared.load(&id).and_then(|log| match log {
            Some(log) => log.compact(),
            None => Err(StoreError::Removed),
        });
        match compacted {
            Ok(()) => done += 1,
            Err(StoreError::Replaced | StoreError::Removed) => {}
            Err(e) => {
                tracing::warn!(log = %id, error = %e, "a log could not be compacted");
                // Else what is still in memory would never reach the disk.
                if shared.going_over.load(SeqCst) {
                    shared.due(&id);
                }
                first = first.and(Err(e));
            }
        }
    }
    let settled = shared.settle_dirs();
    first.and(settled).map(|()| done)
}

/// A broken log can be rewritten, and is whole again then.
fn check_not_dead(state: &LogState) -> Result<(), StoreError> {
    match state.status {
        Status::Live | Status::Broken => Ok(()),
        Status::Replaced | Status::Removed => state.check(),
    }
}
