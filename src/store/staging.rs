//! A snapshot being received.
//!
//! As long as what arrives is what the log says already, nothing is written: only places in the log's own file are
//! noted. At the first difference what was noted is copied, and from there on a new file is written.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::SystemTime;

use bytes::Bytes;

use super::compact::copy;
use super::disk::{DiskFile, read_exact};
use super::format::hash_of;
use super::index::{Entry, Index};
use super::shared::{FileLog, Over, Shared};
use super::snapshot::LogSnapshot;
use super::writer::Writer;
use super::{Log, LogId, Staging, StoreError};

/// A staging of a [`super::LogStore`].
pub(super) struct FileStaging {
    shared: Arc<Shared>,
    id: LogId,
    /// Kept open so that the snapshot can be compared with it in the end.
    base: Option<Arc<FileLog>>,
    held: Held,
}

/// Where the items are.
enum Held {
    /// In the file that the log had when the staging began; the index holds places in it.
    Matching {
        file: Option<Arc<dyn DiskFile>>,
        index: Index,
    },
    /// In a file of their own.
    Writing(Box<Writer>),
}

impl FileStaging {
    pub(super) fn new(shared: &Arc<Shared>, id: &LogId) -> Self {
        // A log that cannot be read is one more reason for a new snapshot, not against it.
        let base = shared.load(id).unwrap_or_else(|error| {
            tracing::warn!(log = %id, %error, "a snapshot is staged without the log before it");
            None
        });
        let base = base.filter(|log| !log.rotten.load(SeqCst));
        let file = base.as_ref().map(|log| log.state.lock().file.clone());
        Self {
            shared: shared.clone(),
            id: id.clone(),
            base,
            held: Held::Matching {
                file,
                index: Index::default(),
            },
        }
    }

    fn index(&self) -> &Index {
        match &self.held {
            Held::Matching { index, .. } => index,
            Held::Writing(writer) => &writer.contents().index,
        }
    }

    /// The place of this very item in the log's file, if it is there.
    fn find_in_base(&self, key: &[u8], hash: u64, len: usize) -> Option<Entry> {
        let Held::Matching { file: Some(file), .. } = &self.held else {
            return None;
        };
        let state = self.base.as_ref()?.state.lock();
        // After a compaction the places are those of another file.
        if !Arc::ptr_eq(file, &state.file) {
            return None;
        }
        let entry = state.contents.index.find(key)?;
        (entry.hash == hash && entry.len as usize == len).then_some(entry)
    }

    /// The file of the snapshot's own, made now if there is none.
    fn writer(&mut self) -> Result<&mut Writer, StoreError> {
        if let Held::Matching { file, index } = &self.held {
            let mut writer = Writer::create(&self.shared, &self.id)?;
            if let Some(file) = file {
                let noted = LogSnapshot {
                    file: file.clone(),
                    items: index.places(b"").into(),
                    header: Bytes::new(),
                    position: "".into(),
                    updated: SystemTime::UNIX_EPOCH,
                };
                copy(&noted, index.digest(), &mut writer).inspect_err(|e| {
                    if let (StoreError::Damaged, Some(base)) = (e, &self.base) {
                        base.rotten.store(true, SeqCst);
                    }
                })?;
            }
            self.held = Held::Writing(Box::new(writer));
        }
        match &mut self.held {
            Held::Writing(writer) => Ok(writer),
            Held::Matching { .. } => Err(StoreError::Damaged),
        }
    }
}

impl Staging for FileStaging {
    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        let hash = hash_of(value);
        if let Some(found) = self.find_in_base(key, hash, value.len())
            && let Held::Matching { index, .. } = &mut self.held
        {
            index.put(key, found);
            return Ok(());
        }
        let same = |held: Entry| held.hash == hash && held.len as usize == value.len();
        if self.index().find(key).is_some_and(same) {
            return Ok(());
        }
        self.writer()?.put(key, value, hash)
    }

    fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        if self.index().find(key).is_none() {
            return Ok(());
        }
        match &mut self.held {
            Held::Matching { index, .. } => {
                index.delete(key);
                Ok(())
            }
            Held::Writing(writer) => writer.delete(key),
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let Some(entry) = self.index().find(key) else {
            return Ok(None);
        };
        match &self.held {
            Held::Writing(writer) => writer.read(entry).map(Some),
            Held::Matching { file: Some(file), .. } => read_exact(&**file, entry.offset, entry.len as usize)
                .map(|value| Some(value.into()))
                .map_err(|e| StoreError::io("read", "a log", e)),
            Held::Matching { file: None, .. } => Ok(None),
        }
    }

    fn len(&self) -> usize {
        self.index().len()
    }

    fn commit(
        mut self: Box<Self>,
        header: &[u8],
        position: &str,
        at: SystemTime,
    ) -> Result<Arc<dyn Log>, StoreError> {
        if let Some(log) = self.shared.loaded(&self.id)
            && !log.rotten.load(SeqCst)
            && log.confirm(self.index(), header, position, at)
        {
            self.shared.counters.confirmed.fetch_add(1, SeqCst);
            return Ok(log);
        }
        self.writer()?;
        let Held::Writing(mut writer) = self.held else {
            return Err(StoreError::Damaged);
        };
        writer.commit(header, position, at)?;
        writer.sync()?;
        let log = self.shared.install(&self.id, *writer, Over::Any)?;
        self.shared.counters.replaced.fetch_add(1, SeqCst);
        Ok(log)
    }
}
