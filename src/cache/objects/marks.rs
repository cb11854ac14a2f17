//! Marks: what is remembered of objects that are not kept. One comes with each name that a client asks for in vain and with
//! each object that comes and goes, so there are only so many.
//!
//! Of those that overrule nothing any more (no view and no entry shows the object) the latest are kept. Without the
//! others less is told, never anything older: that an object was there, or was not what it had been, is remembered of its
//! whole resource, so that no view that was read before says that it never was.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::Method;

use super::entry::{Entry, Refusal, decode, encode_shown, marked_path};
use super::{Objects, put};
use crate::kube::request::{RequestInfo, ResourceRequest};
use crate::kube::version::ResourceVersion;
use crate::runtime::clock;
use crate::store::{StoreError, keys_of};
use crate::view::newest::{Mark, Outcome, Sighting};

/// Marks of one principal that are kept although nothing needs them.
pub(in crate::cache) const MARKS: usize = 4096;

/// So many more may come before the oldest go, so that not each of them has all looked through.
pub(in crate::cache) const SLACK: usize = MARKS / 4;

/// A mark that may go, as it was found.
pub(in crate::cache) struct OldMark {
    key: Box<[u8]>,
    at: SystemTime,
}

impl OldMark {
    /// Of the object.
    pub(in crate::cache) fn path(&self) -> &str {
        marked_path(&self.key).unwrap_or_default()
    }
}

impl Objects {
    /// The oldest of the marks that are too many. A log that is closed has got none since it was looked through.
    pub(in crate::cache) fn old_marks(&mut self) -> Result<Vec<OldMark>, StoreError> {
        let Some(log) = self.log.clone() else {
            return Ok(Vec::new());
        };
        let keys: Vec<Box<[u8]>> = keys_of(&*log).filter(|key| marked_path(key).is_some()).collect();
        if keys.len() <= MARKS + SLACK {
            return Ok(Vec::new());
        }
        let excess = keys.len() - MARKS;
        let mut marks = Vec::new();
        for key in keys {
            // Those of a newer release stay.
            if let Some((_, at)) = log.get(&key)?.and_then(|value| decode(&value)) {
                marks.push(OldMark { key, at });
            }
        }
        marks.sort_by_key(|mark| mark.at);
        marks.truncate(excess);
        Ok(marks)
    }

    /// Lets marks go that no view needs, unless they have changed since or an entry is kept beside them.
    pub(in crate::cache) fn drop_marks(&mut self, marks: &[OldMark]) -> Result<(), StoreError> {
        let mut floors: BTreeMap<Vec<u8>, Mark> = BTreeMap::new();
        let mut gone = Vec::new();
        for mark in marks {
            let entry = match self.entry(&mark.key)? {
                Some((entry, at)) if at == mark.at => entry,
                _ => continue,
            };
            let shown = match entry {
                Entry::Shown(Sighting { version, .. }) => version.map_or(Mark::End, Mark::At),
                Entry::Refusal(Refusal::Removed(removal)) if removal.outcome == Outcome::Unclear => {
                    removal.ceiling
                }
                // That there is none, or that nothing may be told: to tell nothing is enough.
                Entry::Refusal(_) => Mark::Start,
                Entry::Object(_) => continue,
            };
            let Some(floor) = floor_of_path(mark.path()).filter(|_| shown != Mark::End) else {
                continue;
            };
            if self.every_form(mark.path())?.is_empty() {
                let known = floors.remove(&floor).unwrap_or_default();
                floors.insert(floor, known.max(&shown));
                gone.push(mark);
            }
        }
        for (key, floor) in floors {
            self.raise_floor(&key, floor)?;
        }
        for mark in gone {
            self.delete(&mark.key)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(in crate::cache) fn marks(&self) -> usize {
        let keys = self.log.iter().flat_map(|log| keys_of(&**log));
        keys.filter(|key| marked_path(key).is_some()).count()
    }

    /// Only a view that is after this version says that an object of this resource is absent.
    pub(in crate::cache) fn absences_after(
        &mut self,
        resource: &ResourceRequest,
    ) -> Result<Option<ResourceVersion>, StoreError> {
        Ok(
            match self.entry(&floor_key(&resource.group, &resource.resource))? {
                Some((Entry::Shown(seen), _)) => seen.version,
                _ => None,
            },
        )
    }

    pub(super) fn raise_floor(&mut self, key: &[u8], floor: Mark) -> Result<(), StoreError> {
        let Mark::At(version) = floor else { return Ok(()) };
        let known = match self.entry(key)? {
            Some((Entry::Shown(seen), _)) => seen.version,
            _ => None,
        };
        if known.is_some_and(|known| !version.is_after(&known)) {
            return Ok(());
        }
        let seen = Sighting {
            version: Some(version),
            ..Sighting::default()
        };
        let (log, at) = (self.log_or_create()?, clock::wall());
        put(&log, key, &encode_shown(at, &seen), at)
    }
}

pub(super) fn floor_of_path(path: &str) -> Option<Vec<u8>> {
    match RequestInfo::parse(&Method::GET, path, None) {
        RequestInfo::Resource(resource) => Some(floor_key(&resource.group, &resource.resource)),
        RequestInfo::NonResource | RequestInfo::Malformed => None,
    }
}

/// Like the key of an object of the resource, so that it is forgotten with them when their history is restarted.
fn floor_key(group: &str, resource: &str) -> Vec<u8> {
    let api = if group.is_empty() {
        "/api/*".to_owned()
    } else {
        format!("/apis/{group}/*")
    };
    format!("{api}/{resource}/*\n~").into_bytes()
}
