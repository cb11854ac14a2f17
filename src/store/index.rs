//! What is in a log: key to place in the file, in the order of the key bytes, and header, position and time.
//!
//! Pure. One rule, [`Contents::apply`], serves writing, recovery and compaction alike, so that what is in memory is
//! what will be read back. Knows how many bytes of the file are live, so that the rest is garbage.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use super::format::{Record, put_size};

/// One item: its value is `len` bytes at `offset`, directly behind its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) hash: u64,
    pub(super) len: u32,
}

impl Entry {
    /// The same value, wherever it is.
    pub(super) fn same_value(&self, other: &Self) -> bool {
        self.hash == other.hash && self.len == other.len
    }
}

/// The place of one item: the key, then the value at `offset`.
#[derive(Debug, Clone, Copy)]
pub(super) struct ItemRef {
    offset: u64,
    pub(super) len: u32,
    pub(super) key_len: u32,
}

impl ItemRef {
    fn new(key: &[u8], entry: &Entry) -> Self {
        Self {
            offset: entry.offset,
            len: entry.len,
            // A key is part of a record, whose length is a u32.
            key_len: u32::try_from(key.len()).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn start(&self) -> u64 {
        self.offset.saturating_sub(u64::from(self.key_len))
    }

    pub(super) fn end(&self) -> u64 {
        self.offset + u64::from(self.len)
    }
}

/// The hashes of all values, and one hash of all keys, in the order of the keys.
pub(super) struct Digest {
    pub(super) values: Vec<u64>,
    pub(super) keys: blake3::Hash,
}

/// Adds a key to the hash of [`Digest::keys`].
pub(super) fn add_key(keys: &mut blake3::Hasher, key: &[u8]) {
    keys.update(&(key.len() as u64).to_le_bytes());
    keys.update(key);
}

/// The items of one file.
#[derive(Debug, Default)]
pub(super) struct Index {
    map: BTreeMap<Box<[u8]>, Entry>,
    live: u64,
}

impl Index {
    pub(super) fn len(&self) -> usize {
        self.map.len()
    }

    /// Bytes that the items need in a file.
    pub(super) fn live(&self) -> u64 {
        self.live
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<Entry> {
        self.map.get(key).copied()
    }

    pub(super) fn put(&mut self, key: &[u8], entry: Entry) {
        self.live += put_size(key.len(), entry.len as usize);
        // An update needs no new key, and most changes are updates.
        let old = match self.map.get_mut(key) {
            Some(place) => Some(std::mem::replace(place, entry)),
            None => self.map.insert(key.into(), entry),
        };
        if let Some(old) = old {
            self.live -= put_size(key.len(), old.len as usize);
        }
    }

    pub(super) fn delete(&mut self, key: &[u8]) {
        if let Some(old) = self.map.remove(key) {
            self.live -= put_size(key.len(), old.len as usize);
        }
    }

    /// What the items are, to check a copy of them.
    pub(super) fn digest(&self) -> Digest {
        let mut keys = blake3::Hasher::new();
        let values = self.map.iter().map(|(key, entry)| {
            add_key(&mut keys, key);
            entry.hash
        });
        Digest {
            values: values.collect(),
            keys: keys.finalize(),
        }
    }

    /// The same keys with the same values.
    pub(super) fn same_items(&self, other: &Self) -> bool {
        self.map.len() == other.map.len()
            && self
                .map
                .iter()
                .zip(&other.map)
                .all(|((key, entry), (other_key, other))| key == other_key && entry.same_value(other))
    }

    /// At most `most` keys behind `after`.
    pub(super) fn keys_after(&self, after: Option<&[u8]>, most: usize) -> Vec<Box<[u8]>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.map.range::<[u8], _>((from, Bound::Unbounded));
        behind.take(most).map(|(key, _)| key.clone()).collect()
    }

    /// The places of the items whose keys start with `prefix`.
    pub(super) fn places(&self, prefix: &[u8]) -> Vec<ItemRef> {
        self.map
            .range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(key, entry)| ItemRef::new(key, entry))
            .collect()
    }
}

/// Everything that the records of a log say, when applied one after another.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) index: Index,
    pub(super) header: Bytes,
    pub(super) position: Arc<str>,
    pub(super) updated: SystemTime,
}

impl Default for Contents {
    fn default() -> Self {
        Self {
            index: Index::default(),
            header: Bytes::new(),
            position: "".into(),
            updated: UNIX_EPOCH,
        }
    }
}

impl Contents {
    /// Applies a record that ends at `end` of the file. `false` if it cannot stand behind the others.
    pub(super) fn apply(&mut self, record: &Record<'_>, end: u64) -> bool {
        match *record {
            Record::Identity { .. } => return false,
            Record::Put {
                at,
                hash,
                position,
                key,
                value,
            } => {
                let Some((len, offset)) = u32::try_from(value.len())
                    .ok()
                    .and_then(|len| Some((len, end.checked_sub(u64::from(len))?)))
                else {
                    return false;
                };
                self.index.put(key, Entry { offset, hash, len });
                self.reach(position, at);
            }
            Record::Delete { at, position, key } => {
                self.index.delete(key);
                self.reach(position, at);
            }
            Record::Progress { at, position } => self.reach(position, at),
            Record::Commit {
                at,
                count,
                header,
                position,
            } => {
                if count != self.index.len() as u64 {
                    return false;
                }
                self.header = Bytes::copy_from_slice(header);
                self.reach(position, at);
            }
        }
        true
    }

    fn reach(&mut self, position: &str, at: SystemTime) {
        if *self.position != *position {
            self.position = position.into();
        }
        self.updated = at;
    }
}
