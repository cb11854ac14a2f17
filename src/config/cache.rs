//! `cache`: what is kept for the time without the cloud. Whether the keys of `cache.encryption` are there is for `app` to find
//! out.

use std::path::PathBuf;

use super::error::{Fault, quoted};
use super::object::{Field, Object};
use super::quantity;

/// A smaller cache could not hold one node's own objects: the number lacks its unit.
const SMALLEST: u64 = 1 << 20;

/// `cache`: what is kept for the time without the cloud.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cache {
    /// Where it is kept.
    pub store: CacheStore,
    /// Absolute path of the directory of [`CacheStore::File`].
    pub path: PathBuf,
    /// Bytes, at least 1 MiB.
    pub max_size: u64,
    /// When it is made safe against a power cut.
    pub sync: CacheSync,
    /// How it is kept from those who get hold of the disk; `None`: not at all.
    pub encryption: Option<Encryption>,
}

/// `cache.store`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheStore {
    /// Files below `cache.path`.
    File,
    /// Nothing survives the process.
    Memory,
}

/// `cache.sync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSync {
    /// Once a second: a power cut loses at most that.
    Interval,
}

/// `cache.encryption`: where the keys of the store come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Encryption {
    /// Absolute path of a file with a key on each line.
    KeyFile(PathBuf),
    /// The same as a credential of systemd, below `$CREDENTIALS_DIRECTORY`: a plain file name.
    Credential(String),
}

pub(super) fn read(cache: &mut Object<'_>) -> Cache {
    Cache {
        store: cache.or("store", CacheStore::File, read_store),
        path: cache.or("path", PathBuf::from("/var/lib/edgehold"), Field::path),
        max_size: cache.or("maxSize", 1 << 30, |field| {
            field.parse_amount("a size like 1GiB", size)
        }),
        sync: cache.or("sync", CacheSync::Interval, |field| {
            field.choice(&[("interval", CacheSync::Interval)])
        }),
        encryption: cache.optional("encryption", read_encryption),
    }
}

fn read_store(field: &Field<'_>) -> Option<CacheStore> {
    let choices = [
        ("file", Some(CacheStore::File)),
        ("memory", Some(CacheStore::Memory)),
        ("kv", None),
    ];
    let store = field.choice(&choices)?;
    if store.is_none() {
        field.refuse(Fault::new("`kv` is not supported yet", "use `file`"));
    }
    store
}

fn read_encryption(field: &Field<'_>) -> Option<Encryption> {
    let [file, name] = field.object(|encryption| ["keyFile", "credential"].map(|name| encryption.get(name)));
    match (file, name) {
        (Some(file), None) => file.path().map(Encryption::KeyFile),
        (None, Some(name)) => name.parse(credential).map(Encryption::Credential),
        (file, name) => {
            let wrong = match file.and(name) {
                Some(_) => "has both keyFile and credential",
                None => "has neither keyFile nor credential",
            };
            let fix = "write {keyFile: /etc/edgehold/cache.key} or {credential: edgehold-cache-key}";
            field.refuse(Fault::new(wrong, fix));
            None
        }
    }
}

fn size(text: &str) -> Result<u64, Fault> {
    let size = quantity::parse(text)?;
    if size < SMALLEST {
        let wrong = format!("{} is less than 1MiB", quoted(text));
        return Err(Fault::new(wrong, "write a size with its unit, like 1GiB"));
    }
    Ok(size)
}

fn credential(text: &str) -> Result<String, Fault> {
    let is_name = !text.is_empty() && text != "." && text != "..";
    if is_name && !text.contains(|c: char| c == '/' || c.is_control()) {
        return Ok(text.to_owned());
    }
    Err(Fault::new(
        format!("{} is not the name of a credential", quoted(text)),
        "write the name as in LoadCredential= of the systemd unit",
    ))
}
