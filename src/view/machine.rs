//! The state machine of one view: which answers and events become its content (wire contract 5.4).
//!
//! Owns R, the streams' relation to it, open tickets and the events parked behind them. Items and bytes live
//! with the driver, which carries out the [`Action`]s in order.
//!
//! Invariants, if the actions are carried out:
//! * the items are S(R), the state of the filtered history at R, or S(R) with some later assignments (5.6);
//! * of an attached stream everything after its position is told here, and its position is at most R;
//! * R falls only when upstream proved that history restarted, that R is out of its history, or that order
//!   cannot be known, or when the store lost what was appended.

mod apply;
mod commit;
mod detached;
#[cfg(test)]
mod model;
mod parked;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::cmp::Ordering;
use std::collections::BTreeMap;

pub use self::detached::Condition;

use self::commit::Asked;
use self::detached::Place;
use self::parked::{Load, Parked};
use super::event::{Action, Actions, Discard, InitialEnd, Input, Start, StreamId, Ticket};
use crate::kube::version::ResourceVersion;

/// How much one view keeps in memory of events whose snapshot is not committed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events and bookmarks, over all streams of the view.
    pub parked_events: usize,
    /// Bytes of their payloads, over all streams of the view.
    pub parked_bytes: usize,
}

/// One view. `P` is the driver's handle on an event's object.
#[derive(Debug)]
pub struct View<P> {
    version: Option<ResourceVersion>,
    expired: bool,
    broken: bool,
    /// The stream whose event or bookmark last set R, if it is still attached. Where versions do not compare it
    /// owns the view: no other stream's order is known, so none other moves R.
    driver: Option<StreamId>,
    streams: BTreeMap<StreamId, Stream<P>>,
    tickets: BTreeMap<Ticket, Asked>,
    load: Load,
    limits: Limits,
}

/// What a stream is to the view.
#[derive(Debug)]
enum Stream<P> {
    /// May drive the view. Everything after `position`, which is at most R, is told.
    Attached { position: ResourceVersion, sure: Sure },
    /// Ahead of R while a snapshot is on its way that may reach its start.
    Parked(Box<Parked<P>>),
    /// Still collecting its initial events.
    Staging(Box<Staging>),
    /// There is a hole between R and the stream: its events are only forwarded.
    Detached(Place),
}

/// Whether upstream has sent everything up to a stream's position, or perhaps not that much yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sure {
    Exactly,
    AtMost,
}

#[derive(Debug)]
struct Staging {
    asked: Asked,
    end: InitialEnd,
    /// Upstream has answered: of which moment its state is has been decided.
    answered: bool,
    /// The latest version among what it has sent.
    seen: Option<ResourceVersion>,
}

impl<P> View<P> {
    /// A view as the store holds it: at this version, or not at all.
    pub fn new(version: Option<ResourceVersion>, limits: Limits) -> Self {
        Self {
            version,
            expired: false,
            broken: false,
            driver: None,
            streams: BTreeMap::new(),
            tickets: BTreeMap::new(),
            load: Load::default(),
            limits,
        }
    }

    /// R: the version from which a client that holds the items may resume. `None`: there is no view.
    pub fn version(&self) -> Option<&ResourceVersion> {
        self.version.as_ref()
    }

    /// Upstream has said 410 for R since the last commit. The view is still good to be served offline.
    pub fn is_expired_upstream(&self) -> bool {
        self.expired
    }

    /// The store failed since the last commit: no stream drives the view until the next one.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// How many streams may drive the view.
    pub fn attached(&self) -> usize {
        let attached = |stream: &&Stream<P>| matches!(stream, Stream::Attached { .. });
        self.streams.values().filter(attached).count()
    }

    /// Whether a stream is still collecting its initial events.
    pub fn is_staging(&self, id: StreamId) -> bool {
        matches!(self.streams.get(&id), Some(Stream::Staging(_)))
    }

    /// Takes one input to the orders that follow from it.
    pub fn step(&mut self, input: Input<P>) -> Actions<P> {
        let mut actions = Actions::none();
        match input {
            Input::Event { stream, event } => self.event(stream, event, &mut actions),
            Input::Bookmark {
                stream,
                version,
                initial_events_end,
            } => self.bookmark(stream, version, initial_events_end, &mut actions),
            Input::SnapshotBegun { ticket, freshness } => {
                let asked = self.asked(freshness);
                self.tickets.insert(ticket, asked);
                self.park_for(ticket, freshness, &mut actions);
            }
            Input::SnapshotComplete { ticket, version } => {
                self.snapshot_complete(ticket, version, &mut actions);
            }
            Input::SnapshotFailed { ticket } => {
                self.discard(ticket, Discard::Incomplete, &mut actions);
            }
            Input::StreamOpened { stream, start } => self.open(stream, start, &mut actions),
            Input::StreamAnswered { stream } => {
                if let Some(Stream::Staging(staging)) = self.streams.get_mut(&stream) {
                    staging.answered = true;
                }
            }
            Input::Missed { stream } => self.missed(stream, &mut actions),
            Input::Gone { stream } => self.gone(stream, &mut actions),
            Input::StreamClosed { stream } => self.close(stream, &mut actions),
            Input::Broken { stored } => self.break_at(stored, &mut actions),
            Input::Withdrawn => self.withdraw(&mut actions),
            Input::HistoryRestarted => {
                self.leave_history(&mut actions);
                self.version = None;
                actions.push(Action::Forget);
            }
        }
        actions
    }

    fn open(&mut self, id: StreamId, start: Start, actions: &mut Actions<P>) {
        self.drop_stream(id, actions);
        match start {
            Start::At(position) => self.join(id, position),
            Start::Initial { freshness, end } => {
                let asked = self.asked(freshness);
                let staging = Stream::Staging(Box::new(Staging {
                    asked,
                    end,
                    answered: false,
                    seen: None,
                }));
                self.streams.insert(id, staging);
            }
        }
    }

    /// Places a stream that has sent everything up to `position` and will send everything after it (V3).
    fn join(&mut self, id: StreamId, position: ResourceVersion) {
        let stream = if self.reaches(&position) {
            self.attached_at(id, position, Sure::Exactly)
        } else if self.tickets.is_empty() {
            Stream::Detached(Place::At(position))
        } else {
            let waiting = self.tickets.keys().copied().collect();
            Stream::Parked(Box::new(Parked::new(Place::At(position), waiting)))
        };
        self.streams.insert(id, stream);
    }

    /// A stream at a position that the view reaches. Where order is unknown, one alone may be attached.
    fn attached_at(&mut self, id: StreamId, position: ResourceVersion, sure: Sure) -> Stream<P> {
        if !position.is_comparable() {
            if self.driver.is_some() {
                return Stream::Detached(Place::At(position));
            }
            self.driver = Some(id);
        }
        Stream::Attached { position, sure }
    }

    /// Whether a stream that begins after `position` leaves no hole after R.
    fn reaches(&self, position: &ResourceVersion) -> bool {
        let covered = |version| is_at_most(position, version);
        !self.broken && self.version.as_ref().is_some_and(covered)
    }

    fn gone(&mut self, id: StreamId, actions: &mut Actions<P>) {
        let position = match self.streams.get(&id) {
            None => return,
            Some(Stream::Attached { position, sure }) => (*sure == Sure::Exactly).then_some(position.clone()),
            Some(Stream::Detached(place)) => place.position().cloned(),
            Some(Stream::Parked(parked)) => parked.start.position().cloned(),
            Some(Stream::Staging(_)) => None,
        };
        // Only a position at or after R proves that R is out of history too: a slow client's says nothing.
        if let (Some(position), Some(version)) = (&position, &self.version)
            && is_at_most(version, position)
        {
            self.expired = true;
        }
        self.drop_stream(id, actions);
        self.streams.insert(id, Stream::Detached(Place::Nowhere));
    }

    fn close(&mut self, id: StreamId, actions: &mut Actions<P>) {
        match self.streams.get_mut(&id) {
            // What it has sent is still the continuation of a snapshot that is on its way.
            Some(Stream::Parked(parked)) => parked.closed = true,
            _ => self.drop_stream(id, actions),
        }
    }

    /// What is parked here and staged under tickets is whole; what was ordered to be staged may not be.
    fn break_at(&mut self, stored: Option<ResourceVersion>, actions: &mut Actions<P>) {
        self.version = stored;
        self.broken = true;
        self.driver = None;
        for (id, stream) in &mut self.streams {
            stream.detach_unless(|_| false);
            if let Stream::Staging(staging) = stream
                && staging.answered
            {
                *stream = Stream::Detached(Place::Somewhere(staging.seen.take()));
                actions.push(Action::DropStaging {
                    stream: *id,
                    why: Discard::Incomplete,
                });
            }
        }
    }

    fn drop_stream(&mut self, id: StreamId, actions: &mut Actions<P>) {
        if self.driver == Some(id) {
            self.driver = None;
        }
        match self.streams.remove(&id) {
            Some(Stream::Staging(_)) => actions.push(Action::DropStaging {
                stream: id,
                why: Discard::Incomplete,
            }),
            Some(Stream::Parked(parked)) => self.load.release(&parked),
            Some(Stream::Attached { .. } | Stream::Detached(_)) | None => {}
        }
    }
}

impl<P> Stream<P> {
    fn detach_unless(&mut self, keep: impl FnOnce(&ResourceVersion) -> bool) {
        if let Self::Attached { position, .. } = self
            && !keep(position)
        {
            *self = Self::Detached(Place::At(position.clone()));
        }
    }
}

/// Whether `a` is certainly not later than `b`.
fn is_at_most(a: &ResourceVersion, b: &ResourceVersion) -> bool {
    matches!(a.compare(b), Some(Ordering::Less | Ordering::Equal))
}
