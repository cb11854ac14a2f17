//! The high-water mark of each resource: the highest version that one principal has been shown of it.
//!
//! A 404 and the answer to a DELETE carry no version. Whatever was shown before such a request was sent is older than its
//! answer, so the mark of that moment places it among the versions (see `view/newest.rs`).

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::kube::version::ResourceVersion;
use crate::view::key::ViewKey;
use crate::view::newest::Mark;

/// The marks of one principal.
#[derive(Default)]
pub(super) struct HighWater {
    levels: Mutex<HashMap<(String, String), Arc<Level>>>,
    /// Of the views that there are, those that were open in this process.
    opened: Mutex<HashSet<ViewKey>>,
}

/// The mark of one resource, whatever its API version: they share one history.
#[derive(Default)]
pub(super) struct Level {
    marks: Mutex<Marks>,
}

#[derive(Default, PartialEq, Eq)]
struct Marks {
    shown: Mark,
    stored: Mark,
}

impl HighWater {
    pub(super) fn level(&self, group: &str, resource: &str) -> Arc<Level> {
        let of = (group.to_owned(), resource.to_owned());
        Arc::clone(self.levels.lock().entry(of).or_default())
    }

    /// A stored view was opened and stands there. The first time in this process, that is what was shown before it began.
    pub(super) fn opened(&self, key: &ViewKey, version: Option<&ResourceVersion>) {
        if !self.opened.lock().insert(key.clone()) {
            return;
        }
        if let Some(version) = version {
            let level = self.level(&key.group, &key.resource);
            let mut marks = level.marks.lock();
            marks.stored.raise(version);
            marks.shown.raise(version);
        }
    }

    /// Whether it is known where this view stood when the process began.
    pub(super) fn has_opened(&self, key: &ViewKey) -> bool {
        self.opened.lock().contains(key)
    }

    /// Nothing is kept of a view any more.
    pub(super) fn forget(&self, key: &ViewKey) {
        self.opened.lock().remove(key);
    }

    #[cfg(test)]
    pub(super) fn opened_count(&self) -> usize {
        self.opened.lock().len()
    }

    /// Lets go of resources of which nothing was shown: anybody may ask for any name.
    pub(super) fn prune(&self) {
        let mut levels = self.levels.lock();
        // Whoever places something by one holds it, and gets it under this lock.
        levels.retain(|_, level| Arc::strong_count(level) > 1 || *level.marks.lock() != Marks::default());
        levels.shrink_to_fit();
    }

    /// Forgets a resource whose history was restarted.
    pub(super) fn restart(&self, concerns: impl Fn(&str, &str) -> bool) {
        for ((group, resource), level) in &*self.levels.lock() {
            if concerns(group, resource) {
                *level.marks.lock() = Marks::default();
            }
        }
    }
}

impl Level {
    /// A version has been shown, or is about to be.
    pub(super) fn raise(&self, version: &ResourceVersion) {
        self.marks.lock().shown.raise(version);
    }

    /// What has been shown so far.
    pub(super) fn shown(&self) -> Mark {
        self.marks.lock().shown.clone()
    }

    /// What is known to have been shown before this process began.
    pub(super) fn stored(&self) -> Mark {
        self.marks.lock().stored.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_in_vain_leaves_no_mark_behind() {
        let marks = HighWater::default();
        let version = ResourceVersion::new("7").unwrap();
        marks.level("", "pods").raise(&version);
        let held = marks.level("", "held");
        for n in 0..100 {
            marks.level("made-up", &format!("r{n}"));
        }
        marks.prune();
        assert_eq!(marks.levels.lock().len(), 2);
        assert_eq!(marks.level("", "pods").shown(), Mark::At(version.clone()));
        held.raise(&version);
        assert_eq!(
            marks.level("", "held").shown(),
            Mark::At(version),
            "it is the same one"
        );
    }
}
