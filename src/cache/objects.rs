//! Object entries of one principal: answers to GETs and to its own writes, remembered absences and refusals, in one log.
//!
//! An entry says what the apiserver last answered for exactly this path: the object (per representation), that it is
//! gone, or 403. A newer answer replaces an older one: moments of this process order answers that were not under way
//! together, versions all others. What is the newest of all this and of what views hold is decided in `view/newest.rs`.

mod bound;
mod entry;
mod fresh;
mod marks;
#[cfg(test)]
mod tests;
mod unwritten;
mod versions;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use crate::kube::media::{Encoding, Representation};
use crate::kube::version::ResourceVersion;
use crate::runtime::clock;
use crate::store::{Change, Log, LogId, Store, StoreError, keys_of};
use crate::view::newest::{Mark, Outcome, Relation, Removal, Sighting};

pub(super) use self::bound::OldObject;
#[cfg(test)]
pub(super) use self::bound::{OBJECTS, OBJECTS_SLACK};
pub(super) use self::entry::kept_shows;
use self::entry::{
    Entry, Refusal, answer_shows, decode, encode_object, encode_refusal, encode_shown, form_of,
};
use self::entry::{object_key, prefixes_of, refusal_key, refused_path, shown_key};
use self::fresh::Fresh;
pub(super) use self::fresh::Moment;
pub(super) use self::marks::OldMark;
#[cfg(test)]
pub(super) use self::marks::{MARKS, SLACK};
pub(super) use self::unwritten::Rest;
#[cfg(test)]
pub(super) use self::unwritten::UNWRITTEN;
use self::unwritten::Unwritten;
use super::high_water::Level;

/// The name of the log that holds a principal's entries.
pub(super) const LOG_NAME: &str = "objects";

const HEADER: &[u8] = br#"{"kind":"objects","version":1}"#;

/// What is known of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// The apiserver said 403: nothing else may be told either.
    Withdrawn,
    /// The disk could not be told of so much that all may be outdated.
    Overrun,
    /// All that was told; nothing, if nothing was.
    Told {
        /// That it is gone, or may be, in whichever API version that was asked for.
        removals: Vec<Removal>,
        /// The object in the representations in which it was read.
        kept: Vec<Kept>,
        /// What was shown and is not held any more, could not be written down, or is of another API version.
        lost: Vec<Sighting>,
    },
}

/// An object as it was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) body: Bytes,
    pub(super) encoding: Encoding,
    /// The text of the representation.
    pub(super) form: String,
    pub(super) validated: SystemTime,
    pub(super) seen: Sighting,
}

/// What kind of request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A consistent read.
    Read,
    /// A read with a resourceVersion: the answer may be older than what is known.
    Lagging,
    /// A write. It does not give back the right to read.
    Write,
}

/// When a request was sent and its answer recorded, and what had been shown of its resource.
#[derive(Clone)]
pub(super) struct Asked {
    pub(super) origin: Origin,
    pub(super) sent: Moment,
    /// What had been shown when it was sent.
    pub(super) shown: Mark,
    /// Goes on rising.
    pub(super) level: Arc<Level>,
}

/// An object answer to be recorded.
pub(super) struct Answered {
    pub(super) path: String,
    pub(super) representation: Representation,
    pub(super) body: Vec<u8>,
    pub(super) asked: Asked,
    pub(super) recorded: Moment,
}

/// An answer that says that an object is gone, or not what it was.
pub(super) struct Removed {
    pub(super) path: String,
    pub(super) outcome: Outcome,
    /// Of what is gone; empty if it was not said.
    pub(super) uid: String,
    pub(super) asked: Asked,
    pub(super) recorded: Moment,
}

/// The entries of one principal. Lives on a strand: it blocks.
pub(super) struct Objects {
    store: Arc<dyn Store>,
    id: LogId,
    log: Option<Arc<dyn Log>>,
    fresh: HashMap<Box<[u8]>, Fresh>,
    /// What the disk did not take; it counts instead of what the disk says.
    unwritten: HashMap<String, Unwritten>,
    /// So much beyond that was not even remembered.
    overrun: u64,
    last_removal: Moment,
}

/// What an answer with an object makes of a refusal.
enum Ruling {
    /// The refusal stands, the answer is not kept.
    Stands,
    /// There is none any more.
    Lifted,
    /// Both are kept: which of them is newer is not known.
    Beside(Option<Refusal>),
}

impl Objects {
    pub(super) fn new(store: Arc<dyn Store>, owner: &str) -> Self {
        Self {
            store,
            id: LogId::new(owner, LOG_NAME),
            log: None,
            fresh: HashMap::new(),
            unwritten: HashMap::new(),
            overrun: 0,
            last_removal: Moment::default(),
        }
    }

    /// Records an answer with an object, if that is possible.
    pub(super) fn keep(&mut self, answered: &Answered) {
        if let Err(error) = self.answered(answered) {
            tracing::warn!(path = %answered.path, %error, "an object could not be kept");
            self.log = None;
            if let Some(seen) = answer_shows(&answered.path, &answered.representation, &answered.body) {
                self.remember(&answered.path, Unwritten::Seen(seen), answered.recorded);
            }
        }
    }

    /// Records a removal; what the disk does not take is remembered.
    pub(super) fn remove(&mut self, removed: &Removed) {
        if let Err(error) = self.removed(removed) {
            tracing::error!(path = %removed.path, %error, "that an object is gone could not be recorded");
            self.log = None;
            let removal = self.removal(removed, &[], None);
            let refusal = Unwritten::Refusal(Refusal::Removed(removal));
            self.remember(&removed.path, refusal, removed.recorded);
            self.last_removal = self.last_removal.max(removed.recorded);
        }
    }

    /// Records that a view showed an object and holds it no more, if anything is kept of it or other views may show it or its
    /// absence: nothing older may be told.
    pub(super) fn lost(&mut self, path: &str, seen: Sighting, recorded: Moment, is_told_elsewhere: bool) {
        if let Err(error) = self.lost_from_view(path, &seen, recorded, is_told_elsewhere) {
            tracing::error!(%path, %error, "that an object was shown could not be recorded");
            self.log = None;
            if !self.unwritten.contains_key(path) {
                self.remember(path, Unwritten::Seen(seen), recorded);
            }
        }
    }

    /// Records a 403, which was received at this moment; what the disk does not take is remembered.
    pub(super) fn withdraw(&mut self, path: &str, recorded: Moment) {
        if let Err(error) = self.withdrawn(path, recorded) {
            tracing::error!(%path, %error, "a refusal could not be recorded");
            self.log = None;
            self.remember(path, Unwritten::Refusal(Refusal::Withdrawn), recorded);
        }
    }

    /// Records a 2xx answer with an object. `Ok(false)`: what is known is newer, or the body is not the object that the
    /// path names.
    pub(super) fn answered(&mut self, answered: &Answered) -> Result<bool, StoreError> {
        let Answered {
            path,
            representation,
            body,
            asked,
            recorded,
        } = answered;
        let key = object_key(path, representation);
        let stored = match self.entry(&key)? {
            Some((Entry::Object(stored), _)) => Some(stored),
            _ => None,
        };
        let is_unchanged = stored.as_ref().is_some_and(|stored| **stored == **body);
        if is_unchanged && self.is_all_that_is_known(path)? && self.confirm(&key, asked, *recorded) {
            return Ok(true);
        }
        let Some(seen) = answer_shows(path, representation, body) else {
            return Ok(false);
        };
        if let Some(version) = &seen.version {
            asked.level.raise(version);
        }
        let is_older = |stored: &Bytes| {
            let stored = kept_shows(representation.encoding, stored);
            self.is_newer(&key, &stored, &seen, asked)
        };
        if !is_unchanged && stored.as_ref().is_some_and(is_older) {
            return Ok(false);
        }
        let Some(rulings) = self.rulings(path, &seen, asked)? else {
            return Ok(false);
        };
        let log = self.log_or_create()?;
        let validated = clock::wall();
        if !is_unchanged {
            let value = encode_object(validated, body);
            put(&log, &key, &value, validated)?;
        }
        let is_later = self.recorded(&shown_key(path)) < asked.sent && asked.origin != Origin::Lagging;
        let is_overtaken = match self.unwritten.get(path) {
            Some(Unwritten::Seen(lost)) => {
                is_later
                    || !matches!((&lost.version, &seen.version), (Some(lost), Some(seen)) if lost.is_after(seen))
            }
            Some(Unwritten::Refusal(_)) | None => false,
        };
        if is_overtaken {
            self.unwritten.remove(path);
        }
        let is_outdated = |shown: Sighting| match (&shown.version, &seen.version) {
            (Some(shown), Some(seen)) => !shown.is_after(seen),
            _ => true,
        };
        if self.shown(path)?.is_some_and(is_outdated) {
            self.delete(&shown_key(path))?;
        }
        for (path, ruling) in rulings {
            self.apply(&log, &path, ruling)?;
        }
        let fresh = Fresh {
            again: stored.is_some(),
            version: seen.version.clone(),
            ..Fresh::new(validated, *recorded)
        };
        self.fresh.insert(key.into(), fresh);
        self.drop_lost_history(path, &seen, asked)?;
        Ok(true)
    }

    /// Notes that an entry was answered once more as it stands; `false` if this process has not read what it shows.
    fn confirm(&mut self, key: &[u8], asked: &Asked, recorded: Moment) -> bool {
        let Some(fresh) = self.fresh.get_mut(key) else {
            return false;
        };
        let Some(version) = &fresh.version else {
            return false;
        };
        asked.level.raise(version);
        fresh.validated = clock::wall();
        (fresh.used, fresh.again) = (fresh.validated, true);
        fresh.recorded = recorded;
        true
    }

    /// Whether the stored answer must not be replaced by this one.
    fn is_newer(&self, key: &[u8], stored: &Sighting, seen: &Sighting, asked: &Asked) -> bool {
        let together = self.recorded(key) > asked.sent;
        if !together && asked.origin != Origin::Lagging {
            return false;
        }
        match (&stored.version, &seen.version) {
            (Some(stored), Some(seen)) => stored.is_after(seen),
            _ => together,
        }
    }

    /// What an answer with an object makes of the refusals of its path, and of the same object in other API versions; `None`: one
    /// of them stands, and the answer is not kept.
    fn rulings(
        &mut self,
        path: &str,
        seen: &Sighting,
        asked: &Asked,
    ) -> Result<Option<Vec<(String, Ruling)>>, StoreError> {
        let mut rulings = Vec::new();
        match self.refusal(path)? {
            None => {}
            Some(Refusal::Withdrawn) => {
                let is_later = self.recorded(&refusal_key(path)) < asked.sent;
                if !is_later || asked.origin == Origin::Write {
                    return Ok(None);
                }
                rulings.push((path.to_owned(), Ruling::Lifted));
            }
            Some(Refusal::Removed(removal)) => {
                let ruling = self.ruling(path, removal, seen, asked);
                rulings.push((path.to_owned(), ruling));
            }
        }
        for (other, removal) in self.removals_elsewhere(path)? {
            let ruling = self.ruling(&other, removal, seen, asked);
            rulings.push((other, ruling));
        }
        let stands = rulings.iter().any(|(_, ruling)| matches!(ruling, Ruling::Stands));
        Ok((!stands).then_some(rulings))
    }

    /// What an answer with an object makes of its removal, which is recorded under this path.
    fn ruling(&self, path: &str, mut removal: Removal, seen: &Sighting, asked: &Asked) -> Ruling {
        let is_later = self.recorded(&refusal_key(path)) < asked.sent;
        match removal.relation(seen) {
            _ if is_later && asked.origin != Origin::Lagging => Ruling::Lifted,
            Relation::Older => Ruling::Stands,
            Relation::Newer if is_later => Ruling::Lifted,
            Relation::Newer | Relation::Unclear => {
                let before = removal.ceiling.clone();
                if let Some(version) = &seen.version {
                    removal.ceiling.raise(version);
                }
                Ruling::Beside((removal.ceiling != before).then_some(Refusal::Removed(removal)))
            }
        }
    }

    fn apply(&mut self, log: &Arc<dyn Log>, path: &str, ruling: Ruling) -> Result<(), StoreError> {
        match ruling {
            Ruling::Lifted => self.unmark(log, path)?,
            Ruling::Beside(Some(refusal)) => {
                let at = clock::wall();
                put(log, &refusal_key(path), &encode_refusal(at, &refusal), at)?;
            }
            Ruling::Beside(None) | Ruling::Stands => return Ok(()),
        }
        if let Some(Unwritten::Refusal(_)) = self.unwritten.get(path) {
            self.unwritten.remove(path);
        }
        Ok(())
    }

    /// A consistent read is not older than what was known when it was sent: other forms of the object with a higher
    /// version belong to a history that was lost.
    fn drop_lost_history(&mut self, path: &str, seen: &Sighting, asked: &Asked) -> Result<(), StoreError> {
        let Some(version) = seen.version.as_ref().filter(|_| asked.origin != Origin::Lagging) else {
            return Ok(());
        };
        let shown = self
            .shown(path)?
            .map(|shown| (Bytes::from(shown_key(path)), shown));
        for (key, kept) in self.every_form(path)?.into_iter().chain(shown) {
            let is_lost = kept.version.is_some_and(|held| held.is_after(version));
            if is_lost && self.recorded(&key) <= asked.sent {
                self.delete(&key)?;
            }
        }
        Ok(())
    }

    /// Records that an object is gone, or is not what it was: what is certainly older goes.
    pub(super) fn removed(&mut self, removed: &Removed) -> Result<(), StoreError> {
        let Removed {
            path,
            asked,
            recorded,
            ..
        } = removed;
        let key = refusal_key(path);
        let before = self.refusal(path)?;
        let is_later = self.recorded(&key) < asked.sent;
        if before == Some(Refusal::Withdrawn) && (!is_later || asked.origin == Origin::Write) {
            // To write is not to read.
            return Ok(());
        }
        let kept = self.every_form(path)?;
        if asked.origin == Origin::Lagging && (before.is_some() || !kept.is_empty()) {
            // An apiserver that lags may not have heard of it yet.
            return Ok(());
        }
        let (older, together): (Vec<_>, Vec<_>) = kept
            .into_iter()
            .partition(|(key, _)| self.recorded(key) <= asked.sent);
        let mut removal = self.removal(removed, &older, before.as_ref());
        for (key, _) in &older {
            self.delete(key)?;
        }
        for (key, seen) in together {
            if removal.relation(&seen) == Relation::Older {
                self.delete(&key)?;
            } else if let Some(version) = &seen.version {
                removal.ceiling.raise(version);
            }
        }
        let refusal = Refusal::Removed(removal);
        let validated = clock::wall();
        if before.as_ref() != Some(&refusal) || self.unwritten.contains_key(path) {
            let log = self.log_or_create()?;
            put(&log, &key, &encode_refusal(validated, &refusal), validated)?;
        }
        self.unwritten.remove(path);
        self.last_removal = self.last_removal.max(*recorded);
        self.fresh.insert(key.into(), Fresh::new(validated, *recorded));
        Ok(())
    }

    fn lost_from_view(
        &mut self,
        path: &str,
        seen: &Sighting,
        recorded: Moment,
        is_told_elsewhere: bool,
    ) -> Result<(), StoreError> {
        if !is_told_elsewhere && !self.knows(path)? {
            return Ok(());
        }
        let is_known = match (self.shown(path)?, &seen.version) {
            (Some(known), Some(version)) => known.version.is_some_and(|known| !version.is_after(&known)),
            (_, None) => true,
            (None, Some(_)) => false,
        };
        if is_known {
            return Ok(());
        }
        let (key, validated) = (shown_key(path), clock::wall());
        let log = self.log_or_create()?;
        put(&log, &key, &encode_shown(validated, seen), validated)?;
        self.fresh.insert(key.into(), Fresh::new(validated, recorded));
        Ok(())
    }

    /// What a view showed last before it lost the object.
    fn shown(&mut self, path: &str) -> Result<Option<Sighting>, StoreError> {
        Ok(match self.entry(&shown_key(path))? {
            Some((Entry::Shown(seen), _)) => Some(seen),
            _ => None,
        })
    }

    /// Where a removal stands among the versions.
    fn removal(&self, removed: &Removed, older: &[(Bytes, Sighting)], before: Option<&Refusal>) -> Removal {
        let Removed {
            path,
            outcome,
            uid,
            asked,
            ..
        } = removed;
        let mut removal = Removal {
            outcome: *outcome,
            uid: uid.clone(),
            floor: Mark::Start,
            ceiling: Mark::Start,
        };
        if asked.origin == Origin::Lagging {
            // It has no place: any sighting counts for more.
            return removal;
        }
        removal.floor = asked.shown.clone().max(&asked.level.stored());
        for version in older.iter().filter_map(|(_, seen)| seen.version.as_ref()) {
            removal.floor.raise(version);
        }
        removal.ceiling = asked.level.shown().max(&removal.floor);
        if let Some(Refusal::Removed(known)) = before {
            removal.floor = removal.floor.max(&known.floor);
            removal.ceiling = removal.ceiling.max(&known.ceiling);
            let same = uid.is_empty() || *uid == known.uid;
            if same {
                removal.uid.clone_from(&known.uid);
            }
            let together = self.recorded(&refusal_key(path)) > asked.sent;
            if same && together && known.outcome == Outcome::Gone {
                removal.outcome = Outcome::Gone;
            }
        }
        removal
    }

    /// A list or watch-list that was asked for at this moment has become a view at this version: it may show objects
    /// as they were before a removal that was told meanwhile.
    pub(super) fn snapshot(
        &mut self,
        asked: Moment,
        version: &ResourceVersion,
        is_in: impl Fn(&str) -> bool,
    ) {
        if self.last_removal <= asked {
            return;
        }
        let recent = self.fresh.iter().filter(|(_, fresh)| fresh.recorded > asked);
        let paths: Vec<String> = recent
            .filter_map(|(key, _)| refused_path(key))
            .filter(|path| is_in(path))
            .map(str::to_owned)
            .collect();
        for path in paths {
            if let Err(error) = self.raise_ceiling(&path, version) {
                tracing::error!(%path, %error, "that an object is gone could not be recorded");
            }
        }
    }

    fn raise_ceiling(&mut self, path: &str, version: &ResourceVersion) -> Result<(), StoreError> {
        let Some(Refusal::Removed(mut removal)) = self.refusal(path)? else {
            return Ok(());
        };
        let before = removal.ceiling.clone();
        removal.ceiling.raise(version);
        if removal.ceiling == before {
            return Ok(());
        }
        let refusal = Refusal::Removed(removal);
        let at = clock::wall();
        let log = self.log_or_create()?;
        let written = put(&log, &refusal_key(path), &encode_refusal(at, &refusal), at);
        if written.is_err() || self.unwritten.contains_key(path) {
            let recorded = self.recorded(&refusal_key(path));
            self.remember(path, Unwritten::Refusal(refusal), recorded);
        }
        written
    }

    /// Records a 403: what was kept of this path goes, also from disk.
    pub(super) fn withdrawn(&mut self, path: &str, recorded: Moment) -> Result<(), StoreError> {
        let key = refusal_key(path);
        let had = self.forget(path)?;
        let validated = clock::wall();
        if had || self.refusal(path)? != Some(Refusal::Withdrawn) {
            let log = self.log_or_create()?;
            put(
                &log,
                &key,
                &encode_refusal(validated, &Refusal::Withdrawn),
                validated,
            )?;
        }
        self.unwritten.remove(path);
        self.fresh.insert(key.into(), Fresh::new(validated, recorded));
        match self.log()? {
            Some(log) if had => log.scrub(),
            _ => Ok(()),
        }
    }

    /// Drops the object in every form of this API version. Gives whether there was any.
    fn forget(&mut self, path: &str) -> Result<bool, StoreError> {
        let mut had = false;
        for (key, _) in self.forms_of(path)? {
            had |= self.delete(&key)?;
        }
        Ok(had)
    }

    /// Drops what is known of every object of a collection.
    pub(super) fn forget_below(&mut self, collection: &str) -> Result<(), StoreError> {
        let Some(log) = self.log()? else { return Ok(()) };
        let mut below = vec![format!("{collection}/")];
        let others = self.other_versions(collection)?;
        below.extend(others.into_iter().map(|other| format!("{other}/")));
        let is_below = |key: &[u8]| below.iter().any(|below| key.starts_with(below.as_bytes()));
        for key in keys_of(&*log).filter(|key| is_below(key)) {
            if refused_path(&key).is_none() {
                self.delete(&key)?;
            }
        }
        Ok(())
    }

    /// Whether anything is known of a path, in whichever API version, be it its absence: only then does the answer to a write
    /// refresh it.
    pub(super) fn knows(&mut self, path: &str) -> Result<bool, StoreError> {
        let mut paths = self.other_versions(path)?;
        paths.push(path.to_owned());
        if paths.iter().any(|path| self.unwritten.contains_key(path)) {
            return Ok(true);
        }
        let Some(log) = self.log()? else { return Ok(false) };
        let has_entries = |prefix: &Vec<u8>| !log.snapshot_of(prefix).is_empty();
        Ok(paths.iter().any(|path| prefixes_of(path).iter().any(has_entries)))
    }

    /// What is known of a path.
    pub(super) fn known(&mut self, path: &str) -> Result<Known, StoreError> {
        if self.overrun > 0 {
            return Ok(Known::Overrun);
        }
        let removal = match self.refusal(path)? {
            Some(Refusal::Withdrawn) => return Ok(Known::Withdrawn),
            Some(Refusal::Removed(removal)) => Some(removal),
            None => None,
        };
        let elsewhere = self.elsewhere(path)?;
        let unwritten = match self.unwritten.get(path) {
            Some(Unwritten::Seen(seen)) => Some(seen.clone()),
            _ => None,
        };
        let lost = unwritten.into_iter().chain(self.shown(path)?);
        Ok(Known::Told {
            removals: removal.into_iter().chain(elsewhere.removals).collect(),
            kept: self.kept(path)?,
            lost: lost.chain(elsewhere.seen).collect(),
        })
    }

    /// The paths of all objects that are kept, one for each form.
    pub(super) fn paths(&mut self) -> Result<Vec<String>, StoreError> {
        let Some(log) = self.log()? else {
            return Ok(Vec::new());
        };
        let path = |key: Box<[u8]>| {
            let (path, form) = std::str::from_utf8(&key).ok()?.split_once('\n')?;
            Encoding::of_form(form).map(|_| path.to_owned())
        };
        Ok(keys_of(&*log).filter_map(path).collect())
    }

    /// The object in every representation in which it is kept.
    fn kept(&mut self, path: &str) -> Result<Vec<Kept>, StoreError> {
        let Some(log) = self.log()? else {
            return Ok(Vec::new());
        };
        let [own, _] = prefixes_of(path);
        let (mut found, now) = (Vec::new(), clock::wall());
        for entry in log.snapshot_of(&own).entries() {
            let (key, value) = entry?;
            let (Some((Entry::Object(body), written)), Some(form)) = (decode(&value), form_of(&key)) else {
                continue;
            };
            let Some(encoding) = Encoding::of_form(form) else {
                continue;
            };
            let of_before = Fresh::new(written, Moment::default());
            let fresh = self.fresh.entry(Box::from(&*key)).or_insert(of_before);
            (fresh.used, fresh.again) = (now, true);
            found.push(Kept {
                seen: kept_shows(encoding, &body),
                body,
                encoding,
                form: form.to_owned(),
                validated: fresh.validated,
            });
        }
        Ok(found)
    }

    /// The keys of the object in every form, those that were asked for with unknown parameters included, and what they show.
    fn forms_of(&mut self, path: &str) -> Result<Vec<(Bytes, Sighting)>, StoreError> {
        let Some(log) = self.log()? else {
            return Ok(Vec::new());
        };
        let mut found = Vec::new();
        for prefix in prefixes_of(path) {
            for entry in log.snapshot_of(&prefix).entries() {
                let (key, value) = entry?;
                let encoding = form_of(&key).and_then(Encoding::of_form);
                if let (Some((Entry::Object(body), _)), Some(encoding)) = (decode(&value), encoding) {
                    found.push((key, kept_shows(encoding, &body)));
                }
            }
        }
        Ok(found)
    }

    /// The same in every API version.
    fn every_form(&mut self, path: &str) -> Result<Vec<(Bytes, Sighting)>, StoreError> {
        let mut found = self.forms_of(path)?;
        for other in self.other_versions(path)? {
            found.extend(self.forms_of(&other)?);
        }
        Ok(found)
    }

    fn refusal(&mut self, path: &str) -> Result<Option<Refusal>, StoreError> {
        if let Some(Unwritten::Refusal(refusal)) = self.unwritten.get(path) {
            return Ok(Some(refusal.clone()));
        }
        Ok(match self.entry(&refusal_key(path))? {
            Some((Entry::Refusal(refusal), _)) => Some(refusal),
            // Nobody writes anything else there: whatever it is, it is no permission.
            Some((Entry::Object(_) | Entry::Shown(_), _)) => Some(Refusal::Withdrawn),
            None => None,
        })
    }

    fn entry(&mut self, key: &[u8]) -> Result<Option<(Entry, SystemTime)>, StoreError> {
        let Some(log) = self.log()? else { return Ok(None) };
        Ok(log.get(key)?.and_then(|value| decode(&value)))
    }

    /// When an entry was recorded; what an earlier process recorded is before everything.
    fn recorded(&self, key: &[u8]) -> Moment {
        self.fresh
            .get(key)
            .map_or(Moment::default(), |fresh| fresh.recorded)
    }

    fn unmark(&mut self, log: &Arc<dyn Log>, path: &str) -> Result<(), StoreError> {
        let key = refusal_key(path);
        if log.contains(&key) {
            self.delete(&key)?;
        }
        Ok(())
    }

    /// Drops one entry. Gives whether there was one.
    fn delete(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        let Some(log) = self.log()? else { return Ok(false) };
        if !log.contains(key) {
            return Ok(false);
        }
        log.append(Change::Delete { key }, "", clock::wall())?;
        self.fresh.remove(key);
        Ok(true)
    }

    fn log(&mut self) -> Result<Option<Arc<dyn Log>>, StoreError> {
        if self.log.is_none() {
            self.log = self.store.load(&self.id)?;
        }
        Ok(self.log.clone())
    }

    fn log_or_create(&mut self) -> Result<Arc<dyn Log>, StoreError> {
        if let Some(log) = self.log()? {
            return Ok(log);
        }
        let log = self.store.create(&self.id, HEADER)?;
        self.log = Some(Arc::clone(&log));
        Ok(log)
    }

    /// Whether nothing at all is known.
    pub(super) fn is_void(&mut self) -> bool {
        self.unwritten.is_empty() && self.overrun == 0 && matches!(self.log(), Ok(None))
    }

    /// Drops every entry of these paths: their history was restarted, what they say belongs to the one that was lost.
    pub(super) fn forget_where(&mut self, is_lost: impl Fn(&str) -> bool) -> Result<(), StoreError> {
        self.unwritten.retain(|path, _| !is_lost(path));
        let Some(log) = self.log()? else { return Ok(()) };
        for key in keys_of(&*log) {
            let path = key.split(|byte| *byte == b'\n').next().unwrap_or_default();
            if std::str::from_utf8(path).is_ok_and(&is_lost) {
                self.delete(&key)?;
            }
        }
        Ok(())
    }

    /// Whose entries these are.
    pub(super) fn owner(&self) -> &str {
        &self.id.owner
    }

    /// Closes the log, which may have been removed; the next use opens it again.
    pub(super) fn close(&mut self) {
        self.log = None;
    }

    /// Drops every entry: the whole cluster's history was restarted.
    pub(super) fn forget_all(&mut self) -> Result<(), StoreError> {
        self.log = None;
        self.fresh.clear();
        self.unwritten.clear();
        self.store.remove(&self.id)
    }
}

fn put(log: &Arc<dyn Log>, key: &[u8], value: &[u8], at: SystemTime) -> Result<(), StoreError> {
    log.append(Change::Put { key, value }, "", at).map(|_| ())
}
