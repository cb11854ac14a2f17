//! The promises of the store, on the real disk, in memory, and on a disk that fails on command.

mod contract;
mod crash;
mod damage;
mod files;
mod moving;
mod sealed;
pub(crate) mod sim;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::*;

/// The items of a log with the position they belong to; `None` if there is no log.
type Seen = Option<(String, BTreeMap<Vec<u8>, Vec<u8>>)>;

/// How a store on a simulated disk writes its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coat {
    Plain,
    Sealed,
}

impl Coat {
    const BOTH: [Self; 2] = [Self::Plain, Self::Sealed];

    fn open(self, sim: &sim::Sim) -> Result<LogStore, StoreError> {
        match self {
            Self::Plain => LogStore::on(Arc::new(sim.clone())),
            Self::Sealed => open_with(sim, &["1"]),
        }
    }
}

/// A store on a simulated disk, for the simulations of what stands on it.
pub(crate) fn on(sim: &sim::Sim) -> LogStore {
    LogStore::on(Arc::new(sim.clone())).unwrap()
}

/// A store on a simulated disk with these keys, each made of one repeated digit.
fn open_with(sim: &sim::Sim, keys: &[&str]) -> Result<LogStore, StoreError> {
    let text: Vec<String> = keys.iter().map(|digit| digit.repeat(64)).collect();
    let keys = match keys {
        [] => Keys::default(),
        _ => Keys::parse(&text.join("\n")).unwrap(),
    };
    LogStore::on(Arc::new(disk::sealed::Sealed::new(Arc::new(sim.clone()), keys)))
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn pods() -> LogId {
    LogId::new("cn:system:node:edge-1", "pods")
}

fn put<'a>(key: &'a str, value: &'a str) -> Change<'a> {
    Change::Put {
        key: key.as_bytes(),
        value: value.as_bytes(),
    }
}

fn delete(key: &str) -> Change<'_> {
    Change::Delete { key: key.as_bytes() }
}

/// Commits these items as the snapshot of a log.
fn replace(
    store: &dyn Store,
    id: &LogId,
    items: &[(&str, &str)],
    position: &str,
) -> Result<Arc<dyn Log>, StoreError> {
    let mut staging = store.stage(id)?;
    for (key, value) in items {
        staging.put(key.as_bytes(), value.as_bytes())?;
    }
    staging.commit(b"header", position, at(1))
}

fn items(log: &dyn Log) -> Vec<(String, String)> {
    items_of(&log.snapshot())
}

fn items_of(snapshot: &LogSnapshot) -> Vec<(String, String)> {
    let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let entries = snapshot.entries().map(Result::unwrap);
    entries.map(|(key, value)| (text(key), text(value))).collect()
}

/// Pairs as [`items`] gives them.
fn pairs(items: &[(&str, &str)]) -> Vec<(String, String)> {
    items
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect()
}

fn seen(store: &dyn Store, id: &LogId) -> Seen {
    let log = store.load(id).unwrap()?;
    let snapshot = log.snapshot();
    let entries = snapshot.entries().map(Result::unwrap);
    let items = entries
        .map(|(key, value)| (key.to_vec(), value.to_vec()))
        .collect();
    Some((snapshot.position().to_owned(), items))
}
