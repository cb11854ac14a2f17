//! What one principal has been shown, and which answers that forbids.
//!
//! The oracle knows at which revision an answer was true. What was shown binds while it must be remembered: not what was
//! shown while the disk failed, or before a power cut or an eviction. What is told must be true either way.

use super::cloud::{Cloud, Key, Selection, Thing, list, object};
use crate::kube::media::Encoding;
use crate::wire::list::ListReader;
use crate::wire::object::read_object;

/// What one answer or event told.
#[derive(Debug, Clone)]
pub(super) enum Told {
    Seen(Thing),
    /// There is none; the uid of what was deleted, if it was said.
    Gone {
        key: Key,
        uid: Option<u64>,
    },
    /// The deletion of this object was begun.
    Doomed(Thing),
    /// 403 to a GET.
    Forbidden(Key),
    /// The state of a selection.
    Listed(Selection, Encoding),
}

#[derive(Debug, Clone)]
pub(super) struct Fact {
    pub(super) told: Told,
    /// The revision at which it was true.
    pub(super) at: u64,
    /// When its request was sent, and when it was told.
    pub(super) sent: u64,
    pub(super) done: u64,
    /// It answers a GET.
    pub(super) is_read: bool,
    /// It must be remembered.
    pub(super) binds: bool,
}

#[derive(Default)]
pub(super) struct Oracle {
    facts: Vec<Fact>,
}

impl Oracle {
    pub(super) fn learn(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    /// What was shown so far need not be remembered.
    pub(super) fn release(&mut self) {
        self.facts.iter_mut().for_each(|fact| fact.binds = false);
    }

    /// Whether it must be remembered that something was read of this object.
    pub(super) fn has_read(&self, key: Key) -> bool {
        self.facts.iter().any(|fact| {
            fact.binds
                && match &fact.told {
                    Told::Seen(thing) => thing.key == key && fact.is_read,
                    Told::Gone { key: gone, .. } => *gone == key && fact.is_read,
                    Told::Listed(selection, _) => selection.may_have(key),
                    Told::Doomed(_) | Told::Forbidden(_) => false,
                }
        })
    }

    /// The highest version at which a selection was listed in this encoding since it binds.
    pub(super) fn listed(&self, selection: &Selection, encoding: Encoding) -> Option<u64> {
        let bound = self.facts.iter().filter(|fact| fact.binds);
        bound
            .filter(|fact| matches!(fact.told, Told::Listed(s, e) if s == *selection && e == encoding))
            .map(|fact| fact.at)
            .max()
    }

    /// Every version of a key that a fact shows.
    fn shows<'a>(&self, cloud: &'a Cloud, fact: &'a Fact, key: Key) -> Option<&'a Thing> {
        match &fact.told {
            Told::Seen(thing) => (thing.key == key).then_some(thing),
            Told::Listed(selection, _) => cloud.then(key, fact.at).filter(|thing| selection.has(thing)),
            Told::Gone { .. } | Told::Doomed(_) | Told::Forbidden(_) => None,
        }
    }

    /// Judges the 200 of a GET.
    pub(super) fn judge_object(
        &self,
        cloud: &Cloud,
        (key, encoding, body): (Key, Encoding, &[u8]),
        not_before: Option<u64>,
    ) -> Result<(), String> {
        let read = read_object(encoding, body).map_err(|error| error.to_string())?;
        let version: u64 = read.meta.resource_version.parse().map_err(|_| "no version")?;
        let thing = cloud.then(key, version).ok_or("it was never so")?;
        if thing.version != version || object(encoding, thing) != body {
            return Err("these are not its bytes".to_owned());
        }
        let shown: Vec<&Fact> = self
            .facts
            .iter()
            .filter(|fact| {
                self.shows(cloud, fact, key)
                    .is_some_and(|shown| shown.version == version)
            })
            .collect();
        if shown.is_empty() {
            return Err("it was never shown".to_owned());
        }
        for fact in self.facts.iter().filter(|fact| fact.binds) {
            let is_over = match &fact.told {
                Told::Seen(seen) => seen.key == key && seen.version > version,
                Told::Listed(selection, _) => {
                    fact.at > version
                        && selection.is_complete_for(key)
                        && cloud.then(key, fact.at) != Some(thing)
                }
                Told::Gone { key: gone, uid } if *gone == key => {
                    *uid == Some(thing.uid)
                        || (fact.at >= version
                            && shown.iter().any(|shown| shown.binds && shown.done <= fact.sent))
                }
                Told::Doomed(doomed) => doomed.uid == thing.uid && doomed.version >= version,
                Told::Forbidden(forbidden) if *forbidden == key => !self
                    .facts
                    .iter()
                    .any(|other| other.is_read && other.sent >= fact.done && gives_back(&other.told, key)),
                Told::Gone { .. } | Told::Forbidden(_) => false,
            };
            if is_over {
                return Err(format!("{version} is told in spite of {fact:?}"));
            }
        }
        let changed = |wanted| cloud.then(key, wanted).is_none_or(|then| then.version > version);
        match not_before {
            Some(wanted) if wanted > version && changed(wanted) => {
                Err(format!("{version} is older than {wanted}, which was asked for"))
            }
            _ => Ok(()),
        }
    }

    /// Judges the 404 of a GET.
    pub(super) fn judge_absence(
        &self,
        cloud: &Cloud,
        key: Key,
        not_before: Option<u64>,
    ) -> Result<(), String> {
        let absent = self.facts.iter().filter(|fact| match &fact.told {
            Told::Gone { key: gone, .. } => *gone == key,
            Told::Listed(selection, _) => {
                selection.is_complete_for(key) && cloud.then(key, fact.at).is_none()
            }
            Told::Seen(_) | Told::Doomed(_) | Told::Forbidden(_) => false,
        });
        let absent = absent
            .map(|fact| fact.at)
            .max()
            .ok_or("nothing says that there is none")?;
        let bound = self.facts.iter().filter(|fact| fact.binds);
        for fact in bound {
            if self
                .shows(cloud, fact, key)
                .is_some_and(|shown| shown.version > absent)
            {
                return Err(format!("absent at {absent}, in spite of {fact:?}"));
            }
        }
        match not_before {
            Some(wanted) if wanted > absent && cloud.then(key, wanted).is_some() => {
                Err(format!("absent at {absent}, {wanted} was asked for"))
            }
            _ => Ok(()),
        }
    }

    /// Judges the 200 of a list.
    pub(super) fn judge_list(
        &self,
        cloud: &Cloud,
        (selection, encoding, body): (&Selection, Encoding, &[u8]),
        (accepted, not_before): (&[Encoding], Option<u64>),
    ) -> Result<(), String> {
        let mut reader = ListReader::new(encoding).map_err(|error| error.to_string())?;
        reader
            .push::<crate::wire::WireError>(body, &mut |_| Ok(()))
            .map_err(|error| error.to_string())?;
        let head = reader.finish().map_err(|error| error.to_string())?;
        let at: u64 = head.resource_version.parse().map_err(|_| "no version")?;
        if list(encoding, &cloud.state(selection, at), at) != body {
            return Err(format!("this is not the state at {at}"));
        }
        let sources = |fact: &&Fact, accepted: &[Encoding]| matches!(&fact.told, Told::Listed(wider, form) if wider.covers(selection) && accepted.contains(form));
        if !self
            .facts
            .iter()
            .any(|fact| fact.at == at && sources(&fact, &[encoding]))
        {
            return Err(format!("nothing was shown at {at}"));
        }
        let bound = self
            .facts
            .iter()
            .filter(|fact| fact.binds && sources(fact, accepted));
        let newest = bound.map(|fact| fact.at).max();
        match (newest, not_before) {
            (Some(newest), _) if newest > at => Err(format!("{at} is told in spite of {newest}")),
            (_, Some(wanted)) if wanted > at => Err(format!("{at} is told, {wanted} was asked for")),
            _ => Ok(()),
        }
    }
}

/// Whether this answer to a GET shows that its object may be read.
fn gives_back(told: &Told, key: Key) -> bool {
    match told {
        Told::Seen(thing) => thing.key == key,
        Told::Gone { key: gone, .. } => *gone == key,
        Told::Doomed(_) | Told::Forbidden(_) | Told::Listed(..) => false,
    }
}
