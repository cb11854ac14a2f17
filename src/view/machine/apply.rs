//! What an event or a bookmark of a stream does to the view: V2 while it stages, V4 while it is attached.

use std::cmp::Ordering;

use super::detached::{Phase, Place, see};
use super::parked::Frame;
use super::{Stream, Sure, View, is_at_most};
use crate::kube::event::EventType;
use crate::kube::version::ResourceVersion;
use crate::view::event::{Action, Actions, Event, InitialEnd, StreamId};

/// What an attached stream's version is to R.
enum Turn {
    /// Its successor.
    Next,
    /// Already contained.
    Known,
    /// Nobody can tell.
    Unknown,
}

impl<P> View<P> {
    pub(super) fn event(&mut self, id: StreamId, event: Event<P>, actions: &mut Actions<P>) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        match stream {
            Stream::Detached(_) => {
                if self.hear(id, &event.version, Phase::of_event(event.change)) {
                    self.event(id, event, actions);
                }
            }
            Stream::Parked(_) => self.park(id, Frame::Event(event)),
            Stream::Staging(staging) => {
                let end = staging.end;
                self.stage(id, event, end, actions);
            }
            Stream::Attached { .. } => {
                if self.advance(id, &event.version) {
                    actions.push(Action::Append {
                        change: event.change,
                        payload: event.payload,
                        version: event.version,
                    });
                }
            }
        }
    }

    pub(super) fn bookmark(
        &mut self,
        id: StreamId,
        version: ResourceVersion,
        initial_events_end: bool,
        actions: &mut Actions<P>,
    ) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        match stream {
            Stream::Detached(_) => {
                if self.hear(id, &version, Phase::of_bookmark(initial_events_end)) {
                    self.bookmark(id, version, initial_events_end, actions);
                }
            }
            Stream::Parked(_) => self.park(
                id,
                Frame::Bookmark {
                    version,
                    initial_events_end,
                },
            ),
            Stream::Staging(staging) => {
                if initial_events_end || staging.end == InitialEnd::FirstChange {
                    self.staging_complete(id, version, actions);
                }
            }
            Stream::Attached { .. } => {
                let same = self.version.as_ref() == Some(&version);
                if self.advance(id, &version) && !same {
                    actions.push(Action::Progress { version });
                }
            }
        }
    }

    /// Without an end bookmark, the first event that is not ADDED ends the initial state. It is staged too, so
    /// that the staging is exactly the state at its version, and one commit covers both.
    fn stage(&mut self, id: StreamId, event: Event<P>, end: InitialEnd, actions: &mut Actions<P>) {
        let Event {
            change,
            version,
            payload,
            ..
        } = event;
        if let Some(Stream::Staging(staging)) = self.streams.get_mut(&id) {
            staging.answered = true;
            see(&mut staging.seen, &version);
        }
        actions.push(Action::Stage {
            stream: id,
            change,
            payload,
        });
        if end == InitialEnd::FirstChange && change != EventType::Added {
            self.staging_complete(id, version.clone(), actions);
            if self.is_attached(id) && self.version.as_ref() == Some(&version) {
                self.driver = Some(id);
            }
        }
    }

    /// Moves an attached stream, and R where the stream is the furthest. Whether R now rests on this version.
    fn advance(&mut self, id: StreamId, version: &ResourceVersion) -> bool {
        let turn = self.turn(id, version);
        let Some(stream) = self.streams.get_mut(&id) else {
            return false;
        };
        if let Turn::Unknown = turn {
            if let Stream::Attached { position, .. } = stream {
                // What comes next may rest on this event, which is not applied.
                *stream = Stream::Detached(Place::Somewhere(Some(position.clone())));
            }
            if self.driver == Some(id) {
                self.driver = None;
            }
            return false;
        }
        if let Stream::Attached { position, sure } = stream
            && !is_at_most(version, position)
        {
            position.clone_from(version);
            *sure = Sure::Exactly;
        }
        if let Turn::Known = turn {
            return false;
        }
        self.driver = Some(id);
        self.version = Some(version.clone());
        self.expired = false; // what upstream no longer remembers was the R before
        true
    }

    fn turn(&self, id: StreamId, version: &ResourceVersion) -> Turn {
        let (Some(current), Some(Stream::Attached { position, .. })) = (&self.version, self.streams.get(&id))
        else {
            return Turn::Unknown;
        };
        let drives = self.driver == Some(id);
        match version.compare(current) {
            Some(Ordering::Greater) => Turn::Next,
            // When a lease runs out, etcd deletes all its objects in one revision: the stream that brought the
            // first of these events brings the others at the same version.
            Some(Ordering::Equal) if drives => Turn::Next,
            Some(Ordering::Equal | Ordering::Less) => Turn::Known,
            None if version.as_str() == "0" => Turn::Unknown,
            None if drives || (self.driver.is_none() && position == current) => Turn::Next,
            None => Turn::Unknown,
        }
    }

    fn is_attached(&self, id: StreamId) -> bool {
        matches!(self.streams.get(&id), Some(Stream::Attached { .. }))
    }
}
