//! Whether a complete state becomes the view: V1 for lists, V2 for stagings.

use std::cmp::Ordering;

use super::detached::Place;
use super::{Stream, View, is_at_most};
use crate::kube::version::ResourceVersion;
use crate::view::event::{Action, Actions, Discard, Freshness, StreamId, Ticket};

/// What was demanded of upstream, and R at that moment.
#[derive(Debug)]
pub(super) struct Asked {
    freshness: Freshness,
    version: Option<ResourceVersion>,
    /// It was asked before history was seen to be restarted: of which history the answer tells must be proved.
    is_ambiguous: bool,
}

impl Asked {
    /// A consistent read that is below what was known when it was asked for tells of a history that was restarted meanwhile.
    fn proves_restart(&self, version: &ResourceVersion) -> bool {
        self.freshness == Freshness::Latest
            && self.version.as_ref().is_some_and(|known| known.is_after(version))
    }
}

enum Verdict {
    Commit,
    Restarted,
    Discard(Discard),
}

impl<P> View<P> {
    pub(super) fn asked(&self, freshness: Freshness) -> Asked {
        Asked {
            freshness,
            version: self.version.clone(),
            is_ambiguous: false,
        }
    }

    pub(super) fn snapshot_complete(
        &mut self,
        ticket: Ticket,
        version: ResourceVersion,
        actions: &mut Actions<P>,
    ) {
        let proven = |asked: &Asked| !asked.is_ambiguous || asked.proves_restart(&version);
        let Some(asked) = self.tickets.remove(&ticket).filter(proven) else {
            return self.discard(ticket, Discard::Unknown, actions);
        };
        if asked.freshness == Freshness::Latest {
            self.place(ticket, &version);
        }
        match self.judge(&asked, &version) {
            Verdict::Discard(why) => return self.discard(ticket, why, actions),
            Verdict::Restarted => self.restart(actions),
            Verdict::Commit => {}
        }
        actions.push(Action::CommitSnapshot {
            ticket,
            version: version.clone(),
        });
        self.install(version);
        self.settle(Some(ticket), actions);
    }

    pub(super) fn discard(&mut self, ticket: Ticket, why: Discard, actions: &mut Actions<P>) {
        self.tickets.remove(&ticket);
        actions.push(Action::DiscardSnapshot { ticket, why });
        self.settle(Some(ticket), actions);
    }

    /// The staging of this stream is complete at `version`; the stream goes on as a live one.
    pub(super) fn staging_complete(
        &mut self,
        id: StreamId,
        version: ResourceVersion,
        actions: &mut Actions<P>,
    ) {
        let Some(Stream::Staging(staging)) = self.streams.remove(&id) else {
            return;
        };
        match self.judge(&staging.asked, &version) {
            Verdict::Discard(why) => {
                actions.push(Action::DropStaging { stream: id, why });
                return self.join(id, version);
            }
            Verdict::Restarted => self.restart(actions),
            Verdict::Commit => {}
        }
        actions.push(Action::CommitStaging {
            stream: id,
            version: version.clone(),
        });
        self.install(version.clone());
        self.join(id, version);
        self.settle(None, actions);
    }

    fn judge(&self, asked: &Asked, version: &ResourceVersion) -> Verdict {
        if version.as_str() == "0" {
            return Verdict::Discard(Discard::NotResumable);
        }
        let Some(current) = &self.version else {
            return Verdict::Commit;
        };
        match version.compare(current) {
            // An equal version is a refresh: the same content, unless upstream's versions mean nothing.
            Some(Ordering::Greater | Ordering::Equal) => Verdict::Commit,
            Some(Ordering::Less) => self.judge_older(asked, version),
            // A consistent read is not older than what was known when it was sent.
            None => match (self.driver, asked.freshness) {
                (None, _) => Verdict::Commit,
                (Some(_), Freshness::Latest) if asked.version.as_ref() == Some(current) => Verdict::Commit,
                (Some(_), _) => Verdict::Discard(Discard::Unordered),
            },
        }
    }

    fn judge_older(&self, asked: &Asked, version: &ResourceVersion) -> Verdict {
        match asked.freshness {
            // A restart that is known already is not another one.
            _ if asked.proves_restart(version) && !asked.is_ambiguous => Verdict::Restarted,
            _ if self.expired => Verdict::Commit,
            Freshness::Latest => Verdict::Discard(Discard::Overtaken),
            Freshness::Cached => Verdict::Discard(Discard::Lagging),
        }
    }

    /// The new state's version becomes R. Streams that already stand after it would skip what is between.
    fn install(&mut self, version: ResourceVersion) {
        self.expired = false;
        self.broken = false;
        for stream in self.streams.values_mut() {
            stream.detach_unless(|position| is_at_most(position, &version));
        }
        // Where versions do not compare, the owner stays one if it stands exactly here.
        let owner = self.driver.filter(|id| {
            !version.is_comparable() && matches!(self.streams.get(id), Some(Stream::Attached { .. }))
        });
        self.driver = owner;
        self.version = Some(version);
    }

    fn restart(&mut self, actions: &mut Actions<P>) {
        actions.push(Action::HistoryRestarted);
        self.leave_history(actions);
    }

    /// Nothing that was asked for or opened before this moment may touch the view again: it may tell of the
    /// history that was lost, and the versions of the two do not compare. A list may if its answer proves that it does not;
    /// of two restarts it cannot prove the later one.
    pub(super) fn leave_history(&mut self, actions: &mut Actions<P>) {
        self.tickets.retain(|_, asked| {
            let may_prove = !asked.is_ambiguous;
            asked.is_ambiguous = true;
            may_prove && asked.freshness == Freshness::Latest && asked.version.is_some()
        });
        self.driver = None;
        self.expired = false;
        self.broken = false;
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            self.drop_stream(id, actions);
            self.streams.insert(id, Stream::Detached(Place::Nowhere));
        }
    }
}
