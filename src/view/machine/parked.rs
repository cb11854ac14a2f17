//! Streams that are ahead of R while the snapshot that they continue is still on its way to the store.
//!
//! A client that has read its list to the end opens its watch at once, often before the list is committed here; and
//! where a view has lost its place, a list is asked for while its streams go on ([`super::detached`]).
//! What such a stream sends is kept, within [`super::Limits`], until the tickets that it waits for are resolved. So an
//! event right after a list is never lost.

use super::detached::{Phase, Place};
use super::{Stream, Sure, View, is_at_most};
use crate::kube::version::ResourceVersion;
use crate::view::event::{Actions, Event, Freshness, StreamId, Ticket};

#[derive(Debug)]
pub(super) struct Parked<P> {
    /// Where it stood before its first frame.
    pub(super) start: Place,
    sure: Sure,
    /// The stream has ended; its frames still count.
    pub(super) closed: bool,
    waiting: Vec<Ticket>,
    frames: Vec<Frame<P>>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) enum Frame<P> {
    Event(Event<P>),
    Bookmark {
        version: ResourceVersion,
        initial_events_end: bool,
    },
}

impl<P> Frame<P> {
    fn size(&self) -> usize {
        match self {
            Self::Event(event) => event.size,
            Self::Bookmark { .. } => 0,
        }
    }

    fn tell(&self, place: &mut Place) {
        match self {
            Self::Event(event) => place.hear(&event.version, Phase::of_event(event.change)),
            Self::Bookmark {
                version,
                initial_events_end,
            } => place.hear(version, Phase::of_bookmark(*initial_events_end)),
        }
    }
}

/// What all parked streams of a view keep in memory.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

impl<P> Parked<P> {
    pub(super) fn new(start: Place, waiting: Vec<Ticket>) -> Self {
        Self {
            start,
            sure: Sure::Exactly,
            closed: false,
            waiting,
            frames: Vec::new(),
            bytes: 0,
        }
    }

    /// Another list is asked for. One that has begun to wait may be placed by it, too.
    pub(super) fn await_also(&mut self, ticket: Ticket, freshness: Freshness) {
        let helps = match self.start {
            Place::At(_) => true,
            Place::Somewhere(_) => freshness == Freshness::Latest,
            Place::Nowhere => false,
        };
        if helps && !self.closed {
            self.waiting.push(ticket);
        }
    }

    /// The list of this ticket is at `version`.
    pub(super) fn place_at(&mut self, ticket: Ticket, version: &ResourceVersion) {
        if let Place::Somewhere(seen) = &self.start
            && self.waiting.contains(&ticket)
            && version.is_comparable()
            && seen.as_ref().is_none_or(|seen| is_at_most(seen, version))
        {
            self.start = Place::At(version.clone());
            self.sure = Sure::AtMost;
        }
    }

    /// Where it stands after its last frame.
    pub(super) fn place(&self) -> Place {
        let mut place = self.start.clone();
        for frame in &self.frames {
            frame.tell(&mut place);
        }
        place
    }
}

impl Load {
    pub(super) fn release<P>(&mut self, parked: &Parked<P>) {
        self.frames = self.frames.saturating_sub(parked.frames.len());
        self.bytes = self.bytes.saturating_sub(parked.bytes);
    }
}

impl<P> View<P> {
    /// Keeps a frame of a parked stream, or gives the stream up where the limits are reached.
    pub(super) fn park(&mut self, id: StreamId, frame: Frame<P>) {
        let Some(Stream::Parked(parked)) = self.streams.get_mut(&id) else {
            return;
        };
        if parked.closed {
            return;
        }
        if let (
            Frame::Bookmark {
                version,
                initial_events_end: false,
            },
            Some(Frame::Bookmark { version: last, .. }),
        ) = (&frame, parked.frames.last_mut())
        {
            last.clone_from(version);
            return;
        }
        let size = frame.size();
        if self.load.frames >= self.limits.parked_events
            || self.load.bytes.saturating_add(size) > self.limits.parked_bytes
        {
            self.give_up(id);
            if let Some(Stream::Detached(place)) = self.streams.get_mut(&id) {
                frame.tell(place);
            }
            return;
        }
        self.load.frames += 1;
        self.load.bytes += size;
        parked.bytes += size;
        parked.frames.push(frame);
    }

    /// After R moved, or `ticket` was resolved: attaches the streams that R now reaches, and gives up those that
    /// no open ticket can help.
    pub(super) fn settle(&mut self, ticket: Option<Ticket>, actions: &mut Actions<P>) {
        for stream in self.streams.values_mut() {
            if let Stream::Parked(parked) = stream {
                parked.waiting.retain(|waiting| Some(*waiting) != ticket);
            }
        }
        // What one stream has to say may carry R to the start of the next.
        let reached = |view: &Self, parked: &Parked<P>| {
            let position = parked.start.position();
            position.is_some_and(|position| view.reaches(position))
        };
        while let Some(id) = self.find_parked(reached) {
            self.unpark(id, actions);
        }
        while let Some(id) = self.find_parked(|_, parked| parked.waiting.is_empty()) {
            self.give_up(id);
        }
    }

    fn find_parked(&self, wanted: impl Fn(&Self, &Parked<P>) -> bool) -> Option<StreamId> {
        self.streams.iter().find_map(|(id, stream)| match stream {
            Stream::Parked(parked) if wanted(self, parked) => Some(*id),
            _ => None,
        })
    }

    fn unpark(&mut self, id: StreamId, actions: &mut Actions<P>) {
        let Some(Stream::Parked(parked)) = self.streams.remove(&id) else {
            return;
        };
        self.load.release(&parked);
        let stream = match parked.start {
            Place::At(start) => self.attached_at(id, start, parked.sure),
            nowhere => Stream::Detached(nowhere),
        };
        self.streams.insert(id, stream);
        for frame in parked.frames {
            match frame {
                Frame::Event(event) => self.event(id, event, actions),
                Frame::Bookmark {
                    version,
                    initial_events_end,
                } => self.bookmark(id, version, initial_events_end, actions),
            }
        }
        if parked.closed {
            self.drop_stream(id, actions);
        }
    }

    fn give_up(&mut self, id: StreamId) {
        let Some(Stream::Parked(parked)) = self.streams.remove(&id) else {
            return;
        };
        self.load.release(&parked);
        if !parked.closed {
            self.streams.insert(id, Stream::Detached(parked.place()));
        }
    }
}
