//! A log as it was at one moment, readable while the log goes on.
//!
//! Holds the open file and 16 bytes an item: no key and no value. The file keeps its content for as long as a
//! snapshot holds it, whether the log is appended to, compacted, replaced or removed meanwhile.

use std::iter::FusedIterator;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::StoreError;
use super::disk::{DiskFile, read_exact};
use super::index::ItemRef;

/// The most that is read at once when items stand next to each other; one larger item is read alone.
const READ_AHEAD: u64 = 256 << 10;
/// Items count as adjacent if no more than this stands between them: a frame and a position.
const GAP: u64 = 256;

/// The items of a log at one moment, in the order of their key bytes, with position, header and time.
#[derive(Clone)]
pub struct LogSnapshot {
    pub(super) file: Arc<dyn DiskFile>,
    pub(super) items: Arc<[ItemRef]>,
    pub(super) header: Bytes,
    pub(super) position: Arc<str>,
    pub(super) updated: SystemTime,
}

impl LogSnapshot {
    /// What was given with the last commit.
    pub fn header(&self) -> &Bytes {
        &self.header
    }

    /// The position that exactly these items belong to.
    pub fn position(&self) -> &str {
        &self.position
    }

    /// The time of the last record.
    pub fn updated(&self) -> SystemTime {
        self.updated
    }

    /// Items.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// No items.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The length of each value in bytes, in the order of [`LogSnapshot::iter`]; reads nothing.
    pub fn value_lens(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.items.iter().map(|item| item.len as usize)
    }

    /// The sum of [`LogSnapshot::value_lens`].
    pub fn total_value_bytes(&self) -> u64 {
        self.items.iter().map(|item| u64::from(item.len)).sum()
    }

    /// The values, in the order of the keys; ends after the first error. Blocks while reading.
    ///
    /// Values that were read together share one buffer of up to 256 KiB: copy what is to be kept for long.
    pub fn iter(&self) -> Items {
        Items {
            entries: self.entries(),
        }
    }

    /// As [`LogSnapshot::iter`], with the keys.
    pub fn entries(&self) -> Entries {
        Entries {
            file: self.file.clone(),
            items: self.items.clone(),
            next: 0,
            window: Bytes::new(),
            window_at: 0,
        }
    }
}

/// The values of a [`LogSnapshot`]; owns what it reads from.
pub struct Items {
    entries: Entries,
}

impl Iterator for Items {
    type Item = Result<Bytes, StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.entries.next().map(|entry| entry.map(|(_, value)| value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.entries.size_hint()
    }
}

impl FusedIterator for Items {}

/// The keys and values of a [`LogSnapshot`]; owns what it reads from.
pub struct Entries {
    file: Arc<dyn DiskFile>,
    items: Arc<[ItemRef]>,
    next: usize,
    window: Bytes,
    window_at: u64,
}

impl Entries {
    /// Reads the item, and with it those behind it in the file that also come next.
    fn fill(&mut self, item: ItemRef) -> Result<(), StoreError> {
        let (start, mut end) = (item.start(), item.end());
        for next in self.items.get(self.next..).unwrap_or_default() {
            let adjacent = next.start() >= end && next.start() - end <= GAP;
            if !adjacent || next.end() - start > READ_AHEAD {
                break;
            }
            end = next.end();
        }
        let len = usize::try_from(end - start).unwrap_or(usize::MAX);
        let bytes = read_exact(&*self.file, start, len).map_err(|e| StoreError::io("read", "an item", e))?;
        self.window = bytes.into();
        self.window_at = start;
        Ok(())
    }

    fn read(&mut self, item: ItemRef) -> Result<(Bytes, Bytes), StoreError> {
        let inside = |entries: &Self| {
            item.start() >= entries.window_at && item.end() <= entries.window_at + entries.window.len() as u64
        };
        if !inside(self) {
            self.fill(item)?;
        }
        let from = usize::try_from(item.start() - self.window_at).unwrap_or(usize::MAX);
        let value = from + item.key_len as usize;
        Ok((
            self.window.slice(from..value),
            self.window.slice(value..value + item.len as usize),
        ))
    }
}

impl Iterator for Entries {
    type Item = Result<(Bytes, Bytes), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = *self.items.get(self.next)?;
        self.next += 1;
        let read = self.read(item);
        if read.is_err() {
            self.next = self.items.len();
        }
        Some(read)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.items.len() - self.next;
        (usize::from(left > 0), Some(left))
    }
}

impl FusedIterator for Entries {}
