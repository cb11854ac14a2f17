//! Streams that do not drive the view, and how they come to drive it again (V3).
//!
//! A stream that is ahead of R, or of which something was missed, leaves a hole, and no event of its own closes it. A
//! snapshot does, and while one is on its way the stream is parked: what it sends from then on is kept. That is sound if
//! the snapshot's version r is at or after all that the stream sent before it was parked, for then r and what is kept
//! have no hole between them:
//! * of a stream that stands at p, everything after p is kept, so it goes on from any r at or after p;
//! * of one of which something was missed p is not known. But upstream had sent p before the ticket began, and so before
//!   the list was asked for; a consistent read is at or after everything that upstream had said by then. So it goes on
//!   from the r of any consistent list that is asked for from now on, and of no other;
//! * the same holds for one that is still sending the state that it began with, once upstream has answered it: of which
//!   moment that state is was decided before. What is left of that state is at or below r, so V4 skips it.
//!
//! A stream that is certainly after r has to wait for another: history was restarted, and it would skip what is between.

use super::parked::Parked;
use super::{Staging, Stream, View, is_at_most};
use crate::kube::event::EventType;
use crate::kube::version::ResourceVersion;
use crate::view::event::{Action, Actions, Discard, Freshness, InitialEnd, StreamId, Ticket};

/// Where a stream stands that does not drive the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Everything after this version is told.
    At(ResourceVersion),
    /// At or after this version, and not after what a consistent list says that is asked for from now on.
    Somewhere(Option<ResourceVersion>),
    /// In no known order to the view, for good: of a history that was lost, or forgotten by upstream.
    Nowhere,
}

/// Whether a frame may be one of the initial events, whose versions come in no order, or tells that they are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Initial,
    Live,
}

/// Whether the view follows what its clients watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// A live stream carries it on, or will have made it whole soon; or nobody watches.
    Followed,
    /// It takes a list to carry it on, and one is on its way.
    Awaiting,
    /// It takes a list to carry it on.
    Lost,
}

impl Phase {
    pub(super) fn of_event(change: EventType) -> Self {
        match change {
            EventType::Added => Self::Initial,
            EventType::Modified | EventType::Deleted => Self::Live,
        }
    }

    pub(super) fn of_bookmark(initial_events_end: bool) -> Self {
        if initial_events_end {
            Self::Live
        } else {
            Self::Initial
        }
    }
}

impl Place {
    /// The version up to which upstream has sent everything, where that is known.
    pub(super) fn position(&self) -> Option<&ResourceVersion> {
        match self {
            Self::At(position) => Some(position),
            Self::Somewhere(_) | Self::Nowhere => None,
        }
    }

    /// A frame was told.
    pub(super) fn hear(&mut self, version: &ResourceVersion, phase: Phase) {
        match self {
            Self::Nowhere => {}
            _ if version.as_str() == "0" => self.miss(),
            Self::At(position) if is_at_most(version, position) => {}
            Self::At(position) => position.clone_from(version),
            Self::Somewhere(_) if phase == Phase::Live => *self = Self::At(version.clone()),
            Self::Somewhere(seen) => see(seen, version),
        }
    }

    /// Something was not told.
    pub(super) fn miss(&mut self) {
        if let Self::At(position) = self {
            *self = Self::Somewhere(Some(position.clone()));
        }
    }
}

/// Moves the latest version that was seen on.
pub(super) fn see(seen: &mut Option<ResourceVersion>, version: &ResourceVersion) {
    if seen.as_ref().is_none_or(|seen| version.is_after(seen)) {
        *seen = Some(version.clone());
    }
}

impl<P> View<P> {
    /// Whether the view follows what its clients watch.
    pub fn condition(&self) -> Condition {
        let (mut followed, mut wanted, mut ahead) = (false, false, false);
        for stream in self.streams.values() {
            match stream {
                Stream::Attached { .. } => followed = true,
                // Its own end bookmark makes the view whole.
                Stream::Staging(staging) if staging.end == InitialEnd::Bookmark => {
                    return Condition::Followed;
                }
                Stream::Staging(staging) => wanted |= staging.answered,
                Stream::Parked(parked) if parked.closed => {}
                Stream::Parked(_) | Stream::Detached(_) => match stream.place() {
                    Some(Place::At(position)) if self.reaches(position) => followed = true,
                    Some(Place::At(position)) if position.is_comparable() => ahead = true,
                    Some(Place::At(_) | Place::Somewhere(_)) => wanted = true,
                    Some(Place::Nowhere) | None => {}
                },
            }
        }
        // An attached stream whose client does not read leaves the view behind the others.
        if !ahead && (!wanted || followed) {
            Condition::Followed
        } else if self.tickets.is_empty() {
            Condition::Lost
        } else {
            Condition::Awaiting
        }
    }

    /// A frame of a stream that was outside the view: attaches it if the view has caught up with it (`true`), else
    /// remembers where it stands.
    pub(super) fn hear(&mut self, id: StreamId, version: &ResourceVersion, phase: Phase) -> bool {
        let Some(Stream::Detached(place)) = self.streams.get(&id) else {
            return false;
        };
        if let Some(position) = place.position().filter(|position| self.reaches(position)) {
            let stream = self.attached_at(id, position.clone(), super::Sure::Exactly);
            self.streams.insert(id, stream);
        }
        if let Some(Stream::Detached(place)) = self.streams.get_mut(&id) {
            place.hear(version, phase);
            return false;
        }
        true
    }

    /// Something that the stream has sent was not told.
    pub(super) fn missed(&mut self, id: StreamId, actions: &mut Actions<P>) {
        if let Some(mut place) = self.place_of(id) {
            place.miss();
            self.drop_stream(id, actions);
            self.streams.insert(id, Stream::Detached(place));
        }
    }

    /// Where a stream stands, its parked frames included; `None` for one that is over.
    fn place_of(&self, id: StreamId) -> Option<Place> {
        match self.streams.get(&id)? {
            Stream::Attached { position, .. } => Some(Place::At(position.clone())),
            Stream::Detached(place) => Some(place.clone()),
            Stream::Staging(staging) => Some(Place::Somewhere(staging.seen.clone())),
            Stream::Parked(parked) => (!parked.closed).then(|| parked.place()),
        }
    }

    /// A list is asked for: whoever it may place keeps what it sends from now on.
    pub(super) fn park_for(&mut self, ticket: Ticket, freshness: Freshness, actions: &mut Actions<P>) {
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            let seen = match self.streams.get_mut(&id) {
                Some(Stream::Parked(parked)) => {
                    parked.await_also(ticket, freshness);
                    continue;
                }
                Some(Stream::Detached(Place::At(position))) => {
                    let position = position.clone();
                    self.join(id, position);
                    continue;
                }
                _ if freshness == Freshness::Cached => continue,
                Some(Stream::Detached(Place::Somewhere(seen))) => seen.take(),
                // What it has staged would become the view with the first change only.
                Some(Stream::Staging(staging)) if staging.awaits_change() => staging.seen.take(),
                _ => continue,
            };
            self.drop_stream(id, actions);
            let parked = Parked::new(Place::Somewhere(seen), vec![ticket]);
            self.streams.insert(id, Stream::Parked(Box::new(parked)));
        }
    }

    /// The list of this ticket is at `version`: so is, at most, every stream that waited for it and could not say where it stood.
    pub(super) fn place(&mut self, ticket: Ticket, version: &ResourceVersion) {
        for stream in self.streams.values_mut() {
            if let Stream::Parked(parked) = stream {
                parked.place_at(ticket, version);
            }
        }
    }

    /// Nothing of this view may be kept; its streams go on, and may rebuild it if upstream allows another list.
    pub(super) fn withdraw(&mut self, actions: &mut Actions<P>) {
        let tickets = std::mem::take(&mut self.tickets);
        let incomplete = Discard::Incomplete;
        for ticket in tickets.into_keys() {
            actions.push(Action::DiscardSnapshot {
                ticket,
                why: incomplete,
            });
        }
        let ids: Vec<StreamId> = self.streams.keys().copied().collect();
        for id in ids {
            if matches!(self.streams.get(&id), Some(Stream::Staging(staging)) if !staging.answered) {
                // Its answer will be upstream's later word.
                continue;
            }
            let place = self.place_of(id);
            self.drop_stream(id, actions);
            if let Some(place) = place {
                self.streams.insert(id, Stream::Detached(place));
            }
        }
        self.expired = false;
        self.broken = false;
        self.driver = None;
        self.version = None;
        actions.push(Action::Forget);
    }
}

impl<P> Stream<P> {
    fn place(&self) -> Option<&Place> {
        match self {
            Self::Parked(parked) => Some(&parked.start),
            Self::Detached(place) => Some(place),
            Self::Attached { .. } | Self::Staging(_) => None,
        }
    }
}

impl Staging {
    /// Whether its initial events have no end of their own, and a list can stand in for it.
    fn awaits_change(&self) -> bool {
        self.answered && self.end == InitialEnd::FirstChange
    }
}
