//! The kept answers: a sealed log for each owner, and in memory what is needed to judge them, not what they say.
//!
//! Lives on a strand: it blocks. Bounded: the oldest go first. A value that does not open (another node key) is left
//! where it is and not found.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::identity::PodReference;
use crate::runtime::clock;
use crate::store::{Change, Log, LogId, Store, StoreError};

use super::seal::{ReplyKey, Seal};

/// The name of the log that holds an owner's answers.
const LOG_NAME: &str = "replies";
const HEADER: &[u8] = br#"{"kind":"replies","version":1}"#;

/// A node has about a hundred pods with a few tokens each.
const MOST_OF_ONE: usize = 1024;
const MOST: usize = 4096;

/// What an answer is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub(super) enum Subject {
    /// A token, its pod, and its own expiry in seconds since 1970.
    Token { pod: PodReference, exp: u64 },
    /// A TokenReview or SubjectAccessReview, or a client's question about itself.
    Review,
}

/// What stands before the body of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Head {
    pub(super) subject: Subject,
    pub(super) content_type: String,
    kept_at: u64,
}

impl Head {
    pub(super) fn new(subject: Subject, content_type: String, at: SystemTime) -> Self {
        Self {
            subject,
            content_type,
            kept_at: super::seconds(at),
        }
    }

    pub(super) fn kept_at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(self.kept_at))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

struct Entry {
    head: Head,
    /// When this process first knew it: an age that no clock can set back.
    since: Instant,
}

struct Owned {
    log: Arc<dyn Log>,
    entries: HashMap<ReplyKey, Entry>,
}

pub(super) struct Kept {
    store: Arc<dyn Store>,
    seal: Arc<Seal>,
    owners: HashMap<String, Owned>,
}

impl Kept {
    pub(super) fn open(store: Arc<dyn Store>, seal: Arc<Seal>) -> Self {
        let mut kept = Self {
            owners: HashMap::new(),
            store,
            seal,
        };
        for log in kept.store.logs() {
            if log.id.name != LOG_NAME {
                continue;
            }
            match kept.restore(&log.id) {
                Ok(Some(owned)) => {
                    kept.owners.insert(log.id.owner, owned);
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(log = %log.id, %error, "kept tokens could not be read"),
            }
        }
        kept
    }

    fn restore(&self, id: &LogId) -> Result<Option<Owned>, StoreError> {
        let Some(log) = self.store.load(id)? else {
            return Ok(None);
        };
        let (mut entries, mut closed) = (HashMap::new(), 0_usize);
        for entry in log.snapshot().entries() {
            let (key, value) = entry?;
            let key = <[u8; 32]>::try_from(&*key).ok().map(ReplyKey);
            match key.and_then(|key| Some((key, self.read(&id.owner, &key, &value)?.0))) {
                Some((key, head)) => {
                    let since = clock::now();
                    entries.insert(key, Entry { head, since });
                }
                None => closed += 1,
            }
        }
        if closed > 0 {
            tracing::warn!(owner = %id.owner, closed, "kept tokens were sealed with another node key and are not used");
        }
        Ok(Some(Owned { log, entries }))
    }

    fn read(&self, owner: &str, key: &ReplyKey, sealed: &[u8]) -> Option<(Head, Vec<u8>)> {
        let plain = self.seal.open(owner, key, sealed)?;
        let (len, rest) = plain.split_first_chunk::<4>()?;
        let (head, body) = rest.split_at_checked(usize::try_from(u32::from_le_bytes(*len)).ok()?)?;
        Some((serde_json::from_slice(head).ok()?, body.to_vec()))
    }

    /// An answer, and for how long this process has known it.
    pub(super) fn find(&mut self, owner: &str, key: &ReplyKey) -> Option<(Head, Duration, Vec<u8>)> {
        let owned = self.owners.get(owner)?;
        let age = clock::now() - owned.entries.get(key)?.since;
        let sealed = owned
            .log
            .get(&key.0)
            .inspect_err(|error| tracing::warn!(%error, "a kept answer could not be read"))
            .ok()??;
        let (head, body) = self.read(owner, key, &sealed)?;
        Some((head, age, body))
    }

    /// Keeps an answer in place of the one before.
    pub(super) fn keep(&mut self, owner: &str, key: ReplyKey, head: Head, body: &[u8]) {
        if let Err(error) = self.try_keep(owner, key, head, body) {
            tracing::warn!(owner, %error, "the answer to a token request or review could not be kept");
            // The log may have been evicted: the next answer starts it again.
            self.owners.remove(owner);
        }
    }

    fn try_keep(&mut self, owner: &str, key: ReplyKey, head: Head, body: &[u8]) -> Result<(), StoreError> {
        let (Ok(json), since) = (serde_json::to_vec(&head), clock::now()) else {
            return Ok(());
        };
        let len = u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes();
        let Some(sealed) = self.seal.seal(owner, &key, &[&len, &*json, body].concat()) else {
            return Ok(());
        };
        let total: usize = self.owners.values().map(|owned| owned.entries.len()).sum();
        if !self.owners.contains_key(owner) {
            if total >= MOST {
                return Ok(());
            }
            let id = LogId::new(owner, LOG_NAME);
            self.store.create(&id, HEADER)?;
            if let Some(owned) = self.restore(&id)? {
                self.owners.insert(owner.to_owned(), owned);
            }
        }
        let Some(owned) = self.owners.get_mut(owner) else {
            return Ok(());
        };
        let is_full = owned.entries.len() >= MOST_OF_ONE || total >= MOST;
        if is_full && !owned.entries.contains_key(&key) {
            let oldest = owned.entries.iter().min_by_key(|(_, entry)| entry.head.kept_at);
            let Some(oldest) = oldest.map(|(key, _)| *key) else {
                return Ok(());
            };
            owned.delete(&oldest)?;
        }
        let change = Change::Put {
            key: &key.0,
            value: &sealed,
        };
        owned.log.append(change, "", clock::wall())?;
        owned.entries.insert(key, Entry { head, since });
        Ok(())
    }

    /// What is kept, to be judged.
    pub(super) fn heads(&self) -> Vec<(String, ReplyKey, Head)> {
        let of_owner = |(owner, owned): (&String, &Owned)| {
            let owner = owner.clone();
            let heads = owned.entries.iter();
            heads
                .map(move |(key, entry)| (owner.clone(), *key, entry.head.clone()))
                .collect::<Vec<_>>()
        };
        self.owners.iter().flat_map(of_owner).collect()
    }

    /// Removes answers, also their bytes from disk.
    pub(super) fn remove(&mut self, gone: Vec<(String, ReplyKey)>) {
        let mut touched = HashMap::new();
        for (owner, key) in gone {
            let Some(owned) = self.owners.get_mut(&owner) else {
                continue;
            };
            match owned.delete(&key) {
                Ok(true) => drop(touched.insert(owner, Arc::clone(&owned.log))),
                Ok(false) => {}
                Err(error) => {
                    // In memory it is gone at any rate.
                    tracing::warn!(owner, %error, "a kept answer could not be removed from disk");
                }
            }
        }
        for (owner, log) in touched {
            if let Err(error) = log.scrub() {
                tracing::warn!(owner, %error, "removed answers could not be wiped from disk");
            }
        }
    }
}

impl Owned {
    fn delete(&mut self, key: &ReplyKey) -> Result<bool, StoreError> {
        let had = self.entries.remove(key).is_some();
        if had {
            self.log
                .append(Change::Delete { key: &key.0 }, "", clock::wall())?;
        }
        Ok(had)
    }
}
