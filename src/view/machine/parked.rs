//! Streams that start ahead of R while the snapshot that they continue is still on its way to the store.
//!
//! A client that has read its list to the end opens its watch at once, often before the list is committed here.
//! What the watch then sends is kept, within [`super::Limits`], until the tickets that were open when it was
//! opened are resolved. So an event right after a list is never lost.

use super::{Stream, View};
use crate::kube::version::ResourceVersion;
use crate::view::event::{Actions, Event, StreamId, Ticket};

#[derive(Debug)]
pub(super) struct Parked<P> {
    pub(super) start: ResourceVersion,
    /// The stream has ended; its frames still count.
    pub(super) closed: bool,
    waiting: Vec<Ticket>,
    frames: Vec<Frame<P>>,
    bytes: usize,
}

#[derive(Debug)]
pub(super) enum Frame<P> {
    Event(Event<P>),
    Bookmark(ResourceVersion),
}

/// What all parked streams of a view keep in memory.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) frames: usize,
    pub(super) bytes: usize,
}

impl<P> Parked<P> {
    pub(super) fn new(start: ResourceVersion, waiting: Vec<Ticket>) -> Self {
        Self {
            start,
            closed: false,
            waiting,
            frames: Vec::new(),
            bytes: 0,
        }
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
        if let (Frame::Bookmark(later), Some(Frame::Bookmark(last))) = (&frame, parked.frames.last_mut()) {
            last.clone_from(later);
            return;
        }
        let size = match &frame {
            Frame::Event(event) => event.size,
            Frame::Bookmark(_) => 0,
        };
        if self.load.frames >= self.limits.parked_events
            || self.load.bytes.saturating_add(size) > self.limits.parked_bytes
        {
            return self.give_up(id);
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
        while let Some(id) = self.find_parked(|view, parked| view.reaches(&parked.start)) {
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
        let attached = self.attached_at(id, parked.start);
        self.streams.insert(id, attached);
        for frame in parked.frames {
            match frame {
                Frame::Event(event) => self.event(id, event, actions),
                Frame::Bookmark(version) => self.bookmark(id, version, false, actions),
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
            let position = Some(parked.start);
            self.streams.insert(id, Stream::Detached { position });
        }
    }
}
