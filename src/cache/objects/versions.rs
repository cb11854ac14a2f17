//! One object in several API versions of its group: it is the same one, in one history, so that what is learned of it in one
//! counts in all. What is shown is of one version, and so is a right that was refused.

use std::collections::BTreeSet;

use super::entry::prefixes_of;
use super::{Objects, Refusal, Unwritten};
use crate::store::{Log, StoreError};
use crate::view::newest::{Removal, Sighting};

/// What is known of an object in other API versions than the one that is asked for.
#[derive(Default)]
pub(super) struct Elsewhere {
    pub(super) removals: Vec<Removal>,
    pub(super) seen: Vec<Sighting>,
}

impl Objects {
    /// The same path in every other API version of its group of which anything is known; nothing in the core group, which has
    /// one.
    pub(super) fn other_versions(&mut self, path: &str) -> Result<Vec<String>, StoreError> {
        let Some((group, version, rest)) = parts(path) else {
            return Ok(Vec::new());
        };
        let mut versions: BTreeSet<String> = BTreeSet::new();
        let unwritten = self.unwritten.keys().filter_map(|known| parts(known));
        versions.extend(
            unwritten
                .filter(|(of, ..)| *of == group)
                .map(|(_, version, _)| version.to_owned()),
        );
        if let Some(log) = self.log()? {
            versions.extend(versions_in(&*log, group));
        }
        let others = versions.into_iter().filter(|other| other != version);
        Ok(others.map(|other| format!("{group}{other}/{rest}")).collect())
    }

    /// Whether one entry is all that is known of a path, in whichever API version.
    pub(super) fn is_all_that_is_known(&mut self, path: &str) -> Result<bool, StoreError> {
        if self.unwritten.contains_key(path) || !self.other_versions(path)?.is_empty() {
            return Ok(false);
        }
        let Some(log) = self.log()? else { return Ok(false) };
        let entries = prefixes_of(path)
            .iter()
            .map(|prefix| log.snapshot_of(prefix).len())
            .sum::<usize>();
        Ok(entries == 1)
    }

    /// What is known of an object in other API versions.
    pub(super) fn elsewhere(&mut self, path: &str) -> Result<Elsewhere, StoreError> {
        let mut found = Elsewhere::default();
        for other in self.other_versions(path)? {
            if let Some(Refusal::Removed(removal)) = self.refusal(&other)? {
                found.removals.push(removal);
            }
            found
                .seen
                .extend(self.forms_of(&other)?.into_iter().map(|(_, seen)| seen));
            found.seen.extend(self.shown(&other)?);
            if let Some(Unwritten::Seen(seen)) = self.unwritten.get(&other) {
                found.seen.push(seen.clone());
            }
        }
        Ok(found)
    }

    /// The paths of an object in other API versions in which it is removed, and what that says.
    pub(super) fn removals_elsewhere(&mut self, path: &str) -> Result<Vec<(String, Removal)>, StoreError> {
        let mut found = Vec::new();
        for other in self.other_versions(path)? {
            if let Some(Refusal::Removed(removal)) = self.refusal(&other)? {
                found.push((other, removal));
            }
        }
        Ok(found)
    }
}

/// `/apis/GROUP/`, the version, and what follows.
fn parts(path: &str) -> Option<(&str, &str, &str)> {
    let named = path.strip_prefix("/apis/")?;
    let (group, below) = named.split_once('/')?;
    let (version, rest) = below.split_once('/')?;
    let group = path.get(.."/apis/".len() + group.len() + 1)?;
    Some((group, version, rest))
}

/// The API versions of a group under which there are entries: one step through the keys for each.
fn versions_in(log: &dyn Log, group: &str) -> Vec<String> {
    let mut versions = Vec::new();
    let mut after = group.to_owned().into_bytes();
    while let Some(key) = log.keys_after(Some(&after), 1).pop() {
        let Some((of, version, _)) = std::str::from_utf8(&key).ok().and_then(parts) else {
            // No path: what comes before all of the group, or behind it.
            break;
        };
        if of != group {
            break;
        }
        // A mark of the whole resource is of no version.
        if version != "*" {
            versions.push(version.to_owned());
        }
        // `0` is the next character behind `/`: all keys of this version are before it.
        after = format!("{group}{version}0").into_bytes();
    }
    versions
}
