//! A log file being written from scratch, under a temporary name that no reader looks at.
//!
//! For snapshots, new logs and compaction. Dropped before it is installed, it removes its file.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::disk::{DiskFile, read_exact, write_full};
use super::format::{self, Record};
use super::index::{Contents, Entry};
use super::shared::Shared;
use super::state::Written;
use super::{LogId, StoreError};

/// Bytes collected before they are written.
const BUFFER: usize = 256 << 10;

/// The file, what of it is still in memory, and what it says so far.
pub(super) struct Writer {
    shared: Arc<Shared>,
    temp: String,
    file: Arc<dyn DiskFile>,
    buf: Vec<u8>,
    flushed: u64,
    chain: u32,
    contents: Contents,
    installed: bool,
}

impl Writer {
    /// Makes the file, with the head and whose log it is.
    pub(super) fn create(shared: &Arc<Shared>, id: &LogId) -> Result<Self, StoreError> {
        let temp = shared.temp_path(id)?;
        let file = shared
            .disk
            .create(&temp)
            .map_err(|e| StoreError::io("make", &temp, e))?;
        let (buf, chain) = format::head();
        let mut writer = Self {
            shared: shared.clone(),
            temp,
            file,
            buf,
            flushed: 0,
            chain,
            contents: Contents::default(),
            installed: false,
        };
        let identity = Record::Identity {
            owner: &id.owner,
            name: &id.name,
        };
        writer.encode(&identity)?;
        Ok(writer)
    }

    pub(super) fn contents(&self) -> &Contents {
        &self.contents
    }

    /// Adds a record. After an error of the disk the record is in; the next call tries to write again.
    pub(super) fn append(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        self.encode(record)?;
        if !self.contents.apply(record, self.end()) {
            return Err(StoreError::Damaged);
        }
        if self.buf.len() >= BUFFER {
            self.flush()?;
        }
        Ok(())
    }

    /// Adds an item of the snapshot.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8], hash: u64) -> Result<(), StoreError> {
        self.append(&Record::Put {
            at: SystemTime::UNIX_EPOCH,
            hash,
            position: "",
            key,
            value,
        })
    }

    /// Takes an item of the snapshot out.
    pub(super) fn delete(&mut self, key: &[u8]) -> Result<(), StoreError> {
        self.append(&Record::Delete {
            at: SystemTime::UNIX_EPOCH,
            position: "",
            key,
        })
    }

    /// Declares what was written a whole.
    pub(super) fn commit(&mut self, header: &[u8], position: &str, at: SystemTime) -> Result<(), StoreError> {
        let count = self.contents.index.len() as u64;
        self.append(&Record::Commit {
            at,
            count,
            header,
            position,
        })
    }

    /// The value of an item of this file, written out or not.
    pub(super) fn read(&self, entry: Entry) -> Result<Bytes, StoreError> {
        let len = entry.len as usize;
        let Some(from) = entry.offset.checked_sub(self.flushed) else {
            return read_exact(&*self.file, entry.offset, len)
                .map(Bytes::from)
                .map_err(|e| StoreError::io("read", &self.temp, e));
        };
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        let value = self.buf.get(from..).and_then(|rest| rest.get(..len));
        value.map(Bytes::copy_from_slice).ok_or(StoreError::Damaged)
    }

    /// Writes out what is in memory, and makes the content durable.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.flush()?;
        self.file
            .sync()
            .map_err(|e| StoreError::io("sync", &self.temp, e))
    }

    /// Gives the file its final name, in place of another; durable once the directory is synced.
    pub(super) fn install(mut self, path: &str) -> Result<Written, StoreError> {
        self.shared
            .disk
            .rename(&self.temp, path)
            .map_err(|e| StoreError::io("rename", Path::new(path), e))?;
        self.installed = true;
        Ok(Written {
            file: self.file.clone(),
            contents: std::mem::take(&mut self.contents),
            end: self.flushed,
            chain: self.chain,
        })
    }

    fn end(&self) -> u64 {
        self.flushed + self.buf.len() as u64
    }

    fn encode(&mut self, record: &Record<'_>) -> Result<(), StoreError> {
        if record.encode(&mut self.chain, &mut self.buf) {
            Ok(())
        } else {
            Err(StoreError::TooLarge)
        }
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        write_full(&*self.file, &self.buf, self.flushed)
            .map_err(|e| StoreError::io("write", &self.temp, e))?;
        self.flushed = self.end();
        self.buf.clear();
        // One large value must not keep its memory until the commit.
        self.buf.shrink_to(BUFFER * 2);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.installed {
            // What cannot be removed now is removed at the next open.
            let _ = self.shared.disk.remove(&self.temp);
        }
    }
}
