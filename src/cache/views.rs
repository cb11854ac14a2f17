//! Which views of a principal are open. An open view has a task, its log's keys in memory and a descriptor; a closed one
//! is a key, and is opened again when somebody asks for it.
//!
//! A view is closed only while nobody works with it: not while a list of it is received, a watch of it recorded, or work
//! posted to it. Invariants: at most [`OPEN_VIEWS`] are open besides those that somebody works with; what nothing is kept
//! of has no key.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::clock;
use crate::store::{LogId, Quota, Worth};
use crate::view::key::ViewKey;

use super::collection::StoredView;
use super::health::Validated;
use super::objects::{self, Objects};
use super::{Cache, Owner, ViewHandle};

/// Views that are kept open although nobody works with them, over all principals.
const OPEN_VIEWS: usize = 256;

/// How many of these are closed at once when there are too many, so that not each new one has to look for the oldest.
const CLOSED_AT_ONCE: usize = 32;

/// Principals whose objects are kept open.
const OPEN_OBJECTS: usize = 128;

/// Collections of one principal of which it is remembered that they were withdrawn.
const WITHDRAWN: usize = 1024;

/// What nobody has used for so long is closed.
const IDLE: Duration = Duration::from_secs(120);

/// When something was used last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Used {
    at: Instant,
    /// The order of uses.
    turn: u64,
}

impl Used {
    pub(super) fn now(cache: &Cache) -> Self {
        Self {
            at: clock::now(),
            turn: cache.next_number(),
        }
    }

    fn is_idle(self, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= IDLE
    }
}

/// The views of one principal.
#[derive(Default)]
pub(super) struct Views {
    /// Every view that is on disk or being received.
    pub(super) names: BTreeMap<ViewKey, Validated>,
    /// What was kept, in whatever form, and withdrawn since this process began.
    pub(super) withdrawn: HashSet<ViewKey>,
    open: HashMap<ViewKey, (ViewHandle, Used)>,
}

impl Views {
    pub(super) fn named(names: BTreeMap<ViewKey, Validated>) -> Self {
        Self {
            names,
            ..Self::default()
        }
    }

    /// Collections that were kept are refused to their owner.
    pub(super) fn refused(&mut self, kept: &[ViewKey]) {
        let room = WITHDRAWN.saturating_sub(self.withdrawn.len());
        self.withdrawn
            .extend(kept.iter().map(ViewKey::formless).take(room));
    }

    /// The views that are open.
    pub(super) fn open(&self) -> impl Iterator<Item = &ViewHandle> {
        self.open.values().map(|(view, _)| view)
    }

    /// The open ones of some keys.
    pub(super) fn open_where(&self, wanted: impl Fn(&ViewKey) -> bool) -> impl Iterator<Item = &ViewHandle> {
        let of_keys = self.open.iter().filter(move |(key, _)| wanted(key));
        of_keys.map(|(_, (view, _))| view)
    }

    /// The keys of the closed ones of some keys.
    pub(super) fn closed_where(&self, wanted: impl Fn(&ViewKey) -> bool) -> impl Iterator<Item = &ViewKey> {
        let closed = self.names.keys().filter(|key| !self.open.contains_key(*key));
        closed.filter(move |key| wanted(key))
    }

    /// A view, if it is open and works.
    pub(super) fn use_open(&mut self, key: &ViewKey, used: Used) -> Option<ViewHandle> {
        let (view, last) = self.open.get_mut(key)?;
        *last = used;
        (!view.is_gone()).then(|| view.clone())
    }

    pub(super) fn opened(&mut self, key: ViewKey, view: ViewHandle, used: Used) {
        self.open.insert(key, (view, used));
    }
}

impl Cache {
    /// Closes the views used longest ago if too many are open.
    pub(super) fn bound_views(&self) {
        let owners = self.owners();
        let open: usize = owners
            .iter()
            .map(|(_, owner)| owner.views.lock().open.len())
            .sum();
        if open <= OPEN_VIEWS {
            return;
        }
        let mut unused: Vec<(u64, &Arc<Owner>, ViewKey)> = Vec::new();
        for (_, owner) in &owners {
            let views = owner.views.lock();
            let of_owner = views.open.iter().filter(|(_, (view, _))| view.is_unused());
            unused.extend(of_owner.map(|(key, (_, used))| (used.turn, owner, key.clone())));
        }
        unused.sort_by_key(|(turn, ..)| *turn);
        for (_, owner, key) in unused.into_iter().take(open - OPEN_VIEWS + CLOSED_AT_ONCE) {
            self.close(owner, &key);
        }
    }

    /// Closes what nobody has used for a while, and forgets the names of what nothing came of.
    pub(super) fn close_idle(&self) {
        let now = clock::now();
        for (_, owner) in self.owners() {
            let idle: Vec<ViewKey> = {
                let views = owner.views.lock();
                let of_owner = views.open.iter().filter(|(_, (view, used))| {
                    view.is_unused() && (used.is_idle(now) || !self.store().holds(view.id()))
                });
                of_owner.map(|(key, _)| key.clone()).collect()
            };
            for key in idle {
                self.close(&owner, &key);
            }
        }
        self.close_objects(|used| used.is_idle(now));
    }

    fn close(&self, owner: &Owner, key: &ViewKey) {
        let mut views = owner.views.lock();
        // Whoever works with the view holds its handle, and new ones are only made under this lock.
        let Some((view, _)) = views.open.get(key).filter(|(view, _)| view.is_unused()) else {
            return;
        };
        if !self.store().holds(view.id()) {
            views.names.remove(key);
            owner.high_water.forget(key);
        }
        views.open.remove(key);
    }

    /// Closes the objects used longest ago if those of too many principals are open.
    pub(super) fn bound_objects(&self) {
        let mut open: Vec<u64> = Vec::new();
        for (_, owner) in self.owners() {
            open.extend(owner.objects_used.lock().map(|used| used.turn));
        }
        if let Some(excess) = open.len().checked_sub(OPEN_OBJECTS).filter(|excess| *excess > 0) {
            open.sort_unstable();
            let last = open.get(excess + CLOSED_AT_ONCE).copied().unwrap_or_default();
            self.close_objects(|used| used.turn < last);
        }
    }

    fn close_objects(&self, which: impl Fn(Used) -> bool) {
        for (_, owner) in self.owners() {
            let mut used = owner.objects_used.lock();
            if used.is_some_and(&which) {
                *used = None;
                owner.objects.post(Objects::close);
            }
        }
    }

    /// Removes logs until the store is within its quota: first what no principal of `configured` owns and nobody works
    /// with. What is open of the removed is let go. Blocks.
    pub fn enforce(&self, quota: Quota, configured: &dyn Fn(&LogId) -> Worth) -> Vec<LogId> {
        let in_use = self.views_in_use();
        let worth = |id: &LogId| match configured(id) {
            Worth::Spare if in_use.contains(id) => Worth::InUse,
            Worth::Spare => Worth::Spare,
            // Of a configured client's logs only idle views may be too many.
            Worth::Owned if ViewKey::parse(&id.name).is_some() && !in_use.contains(id) => Worth::Owned,
            _ => Worth::Always,
        };
        let removed = self.store().enforce(quota, &worth);
        for id in &removed {
            self.evicted(id);
        }
        removed
    }

    fn views_in_use(&self) -> HashSet<LogId> {
        let mut in_use = HashSet::new();
        for (_, owner) in self.owners() {
            let views = owner.views.lock();
            let of_owner = views.open().filter(|view| !view.is_unused());
            in_use.extend(of_owner.map(|view| view.id().clone()));
        }
        in_use
    }

    /// A log was removed: whoever has it open must let go of its file.
    fn evicted(&self, id: &LogId) {
        let Some(owner) = self.known_owner(&id.owner) else {
            return;
        };
        if id.name == objects::LOG_NAME {
            return owner.objects.post(Objects::close);
        }
        let Some(key) = ViewKey::parse(&id.name) else {
            return self.forget_confirmed(id);
        };
        self.close(&owner, &key);
        let mut views = owner.views.lock();
        match views.open.get(&key) {
            Some((view, _)) => view.post(StoredView::evicted),
            None => {
                views.names.remove(&key);
                owner.high_water.forget(&key);
            }
        }
    }
}
