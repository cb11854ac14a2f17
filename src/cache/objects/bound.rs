//! How many objects are kept that were read one by one. Views have no part in this: what an informer follows is theirs.
//!
//! When there are too many, those go first that were read once and not again, the one used longest ago first, so that a walk
//! over all objects of a kind leaves what is in use. Of what was read again the latest, so many, are not among them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::SystemTime;

use super::entry::{encode_shown, marked_path, shown_key};
use super::marks::floor_of_path;
use super::{Objects, put};
use crate::runtime::clock;
use crate::store::{StoreError, keys_of};
use crate::view::newest::{Mark, Sighting};

/// Objects of one principal that are kept, each in all its forms.
pub(in crate::cache) const OBJECTS: usize = 4096;

/// So many more may come before some go, so that not each of them has all looked through.
pub(in crate::cache) const OBJECTS_SLACK: usize = OBJECTS / 4;

/// Of those that were read again, so many are safe from those that were read once.
const PROVEN: usize = OBJECTS / 4 * 3;

/// An object that may go, as it was found.
pub(in crate::cache) struct OldObject {
    pub(in crate::cache) path: String,
    used: Use,
}

/// How an object was used last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Use {
    at: SystemTime,
    /// It was read more than once, or by an earlier process and kept since.
    again: bool,
}

impl Use {
    fn max(self, other: Self) -> Self {
        Self {
            at: self.at.max(other.at),
            again: self.again || other.again,
        }
    }
}

impl Objects {
    /// The objects that are too many. A log that is closed has got none since it was looked through.
    pub(in crate::cache) fn old_objects(&mut self) -> Result<Vec<OldObject>, StoreError> {
        let Some(log) = self.log.clone() else {
            return Ok(Vec::new());
        };
        let paths: BTreeSet<String> = keys_of(&*log).filter_map(|key| kept_path(&key)).collect();
        if paths.len() <= OBJECTS + OBJECTS_SLACK {
            return Ok(Vec::new());
        }
        let excess = paths.len() - OBJECTS;
        let mut uses: BTreeMap<String, Use> = BTreeMap::new();
        for path in paths {
            if let Some(used) = self.used(&path)? {
                uses.insert(path, used);
            }
        }
        let mut old: Vec<OldObject> = Vec::new();
        let mut proven: Vec<OldObject> = Vec::new();
        for (path, used) in uses {
            let of = if used.again { &mut proven } else { &mut old };
            of.push(OldObject { path, used });
        }
        proven.sort_by_key(|object| std::cmp::Reverse(object.used));
        old.extend(proven.into_iter().skip(PROVEN));
        old.sort_by_key(|object| object.used.at);
        old.truncate(excess);
        Ok(old)
    }

    /// When one was used last; `None`: it is none, or of a newer release.
    fn used(&mut self, path: &str) -> Result<Option<Use>, StoreError> {
        let mut used: Option<Use> = None;
        for (key, _) in self.forms_of(path)? {
            let fresh = self.fresh.get(&*key).map(|fresh| Use {
                at: fresh.used,
                again: fresh.again,
            });
            let this = match (fresh, self.entry(&key)?) {
                (Some(fresh), _) => fresh,
                (None, Some((_, at))) => Use { at, again: true },
                (None, None) => continue,
            };
            used = Some(used.map_or(this, |used| used.max(this)));
        }
        Ok(used)
    }

    /// Lets an object go in all forms, unless it has been used since. That it was shown is remembered where something older may
    /// be told of it, and else of its whole resource. Gives whether it went.
    pub(in crate::cache) fn let_go(
        &mut self,
        old: &OldObject,
        is_told_elsewhere: bool,
    ) -> Result<bool, StoreError> {
        let path = &old.path;
        if self.used(path)? != Some(old.used) {
            return Ok(false);
        }
        let forms = self.forms_of(path)?;
        let mut shown = Mark::Start;
        for version in forms.iter().filter_map(|(_, seen)| seen.version.as_ref()) {
            shown.raise(version);
        }
        if let Mark::At(version) = &shown {
            let seen = Sighting {
                version: Some(version.clone()),
                ..Sighting::default()
            };
            let is_newer =
                |known: &Sighting| known.version.as_ref().is_none_or(|known| version.is_after(known));
            if is_told_elsewhere && self.shown(path)?.is_none_or(|known| is_newer(&known)) {
                let (log, at) = (self.log_or_create()?, clock::wall());
                put(&log, &shown_key(path), &encode_shown(at, &seen), at)?;
            } else if !is_told_elsewhere && let Some(floor) = floor_of_path(path) {
                self.raise_floor(&floor, shown.clone())?;
            }
        }
        for (key, _) in forms {
            self.delete(&key)?;
        }
        Ok(true)
    }
}

/// The path of the object that is kept under this key; `None` if that is none.
fn kept_path(key: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(key).ok()?;
    if marked_path(key).is_some() || text.ends_with("\n~") {
        return None;
    }
    let (path, _form) = text.split_once('\n')?;
    Some(path.split('?').next().unwrap_or_default().to_owned())
}
