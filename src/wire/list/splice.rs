//! Gives other bytes for single items of a list while it streams; everything else passes as it came, without a copy.
//!
//! Holds one item at most. A protobuf list says its length before its items: up to [`HELD`] bytes of it are held until the
//! length is known. Of a longer one the length is stated with room to spare, and what of the room no item has taken
//! is filled at the end with a field that no reader knows. A body that is no list passes as it came.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Enclosure, ListItem, ListReader};
use crate::kube::media::Encoding;
use crate::wire::WireError;
use crate::wire::protobuf;

/// How much of a protobuf list is held until its length is known, in bytes.
const HELD: usize = 1 << 20;

/// By how much the stated length of a longer one exceeds the original.
const ROOM: i64 = 4096;

/// The smallest filler: a tag, a length of two bytes, and what such a length says at least.
const LEAST_FILLER: i64 = 3 + 128;

/// Larger rooms are filled with several fields.
const LARGEST_FILLER: i64 = 8192;

/// Field number of the filler; lists have the fields 1 and 2.
const FILLER: u8 = 15;

/// Replaces items of one list body, pushed in pieces of any size.
#[derive(Debug)]
pub struct ListSplicer {
    /// `None` once the rest passes unread.
    reader: Option<ListReader>,
    list_kind: &'static str,
    /// What may belong to an item that is not whole yet.
    input: Pieces,
    lead: Lead,
    /// By how much the items have grown.
    growth: i64,
    output: VecDeque<Bytes>,
}

/// How far what stands before the items is decided.
#[derive(Debug)]
enum Lead {
    /// Nothing before the items depends on them, or all of it has gone out.
    Free,
    /// Everything so far, because the length is not known yet.
    Held { pieces: VecDeque<Bytes>, len: usize },
    /// The length has gone out. At `end`, where the list ends in the body, `room` bytes have to follow.
    Roomy { end: u64, room: i64 },
}

/// An item and what stands for it.
struct Edit {
    start: u64,
    end: u64,
    bytes: Vec<u8>,
}

impl ListSplicer {
    /// A splicer at the start of a body (decompressed) that should be a list of this kind.
    ///
    /// # Errors
    /// `Unsupported` for YAML.
    pub fn new(encoding: Encoding, list_kind: &'static str) -> Result<Self, WireError> {
        let lead = match encoding {
            Encoding::Protobuf => Lead::Held {
                pieces: VecDeque::new(),
                len: 0,
            },
            Encoding::Json | Encoding::Cbor | Encoding::Yaml => Lead::Free,
        };
        Ok(Self {
            reader: Some(ListReader::new(encoding)?),
            list_kind,
            input: Pieces::default(),
            lead,
            growth: 0,
            output: VecDeque::new(),
        })
    }

    /// Reads on; `edit` gives the bytes that are to stand for an item, if they are other than its own.
    ///
    /// # Errors
    /// The body is no list after its length has gone out with room: it has to be broken off.
    pub fn push(
        &mut self,
        chunk: Bytes,
        edit: &mut dyn FnMut(&ListItem<'_>) -> Option<Vec<u8>>,
    ) -> Result<(), WireError> {
        let Some(reader) = &mut self.reader else {
            self.emit(chunk);
            return Ok(());
        };
        let mut edits = Vec::new();
        let read = reader.push::<WireError>(&chunk, &mut |item| {
            if let Some(bytes) = edit(&item) {
                edits.push(Edit::of(&item, bytes));
            }
            Ok(())
        });
        self.input.push(chunk);
        let is_other = reader.enclosure().is_some()
            && reader
                .type_before_items()
                .is_some_and(|types| types.kind != self.list_kind);
        if is_other {
            return self.pass_on();
        }
        let unfinished = reader.unfinished() as u64;
        for edit in edits {
            self.apply(edit);
        }
        if let Err(error) = read {
            return match self.lead {
                Lead::Roomy { .. } => Err(error),
                _ => self.pass_on(),
            };
        }
        self.fill();
        self.release(self.input.end.saturating_sub(unfinished));
        if matches!(&self.lead, Lead::Held { len, .. } if *len > HELD) {
            self.open(ROOM);
        }
        Ok(())
    }

    /// What can go out next.
    pub fn take(&mut self) -> Option<Bytes> {
        self.output.pop_front()
    }

    /// The body has ended: what is left can go out.
    ///
    /// # Errors
    /// The body was cut short after its length had gone out with room.
    pub fn finish(&mut self) -> Result<(), WireError> {
        match self.lead {
            Lead::Roomy { .. } => Err(WireError::Truncated("a protobuf list")),
            _ => self.pass_on(),
        }
    }

    /// Reads no further: everything else passes as it came.
    fn pass_on(&mut self) -> Result<(), WireError> {
        self.release(self.input.end);
        self.open(0);
        self.reader = None;
        Ok(())
    }

    fn apply(&mut self, edit: Edit) {
        let grown = edit.bytes.len() as i64 - (edit.end - edit.start) as i64;
        if let Lead::Roomy { room, .. } = &mut self.lead {
            if *room - grown < LEAST_FILLER {
                return;
            }
            *room -= grown;
        }
        self.growth += grown;
        self.release(edit.start);
        self.input.take_until(edit.end, &mut drop);
        self.emit(edit.bytes.into());
    }

    /// Passes on what stands before this place in the body.
    fn release(&mut self, until: u64) {
        let mut input = std::mem::take(&mut self.input);
        input.take_until(until, &mut |piece| self.emit(piece));
        self.input = input;
    }

    fn emit(&mut self, piece: Bytes) {
        if piece.is_empty() {
            return;
        }
        match &mut self.lead {
            Lead::Held { pieces, len } => {
                *len += piece.len();
                pieces.push_back(piece);
            }
            Lead::Free | Lead::Roomy { .. } => self.output.push_back(piece),
        }
    }

    /// Lets go of what was held, with the length that follows from what has been replaced, and `room` to spare.
    fn open(&mut self, room: i64) {
        let Lead::Held { pieces, .. } = std::mem::replace(&mut self.lead, Lead::Free) else {
            return;
        };
        let enclosure = self.reader.as_ref().and_then(ListReader::enclosure);
        let Some(Enclosure { start, len, prefix }) = enclosure.filter(|_| room != 0 || self.growth != 0)
        else {
            self.output.extend(pieces);
            return;
        };
        let mut held = Pieces::default();
        pieces.into_iter().for_each(|piece| held.push(piece));
        let mut stated = Vec::with_capacity(10);
        protobuf::put_varint(&mut stated, len.saturating_add_signed(self.growth + room));
        let output = &mut self.output;
        held.take_until(start.saturating_sub(prefix as u64), &mut |piece| {
            output.push_back(piece)
        });
        held.take_until(start, &mut drop);
        output.push_back(stated.into());
        output.extend(held.queue);
        if room != 0 {
            let end = start.saturating_add(len);
            self.lead = Lead::Roomy { end, room };
        }
    }

    /// Fills what is left of the room once the list's end has arrived.
    fn fill(&mut self) {
        let Lead::Roomy { end, mut room } = self.lead else {
            return;
        };
        if self.input.end < end {
            return;
        }
        self.release(end);
        let mut filler = Vec::new();
        while room > 0 {
            let whole = match room > LARGEST_FILLER + LEAST_FILLER {
                true => LARGEST_FILLER,
                false => room,
            };
            let len = usize::try_from(whole - 3).unwrap_or_default();
            protobuf::put_len(&mut filler, FILLER, len);
            filler.resize(filler.len() + len, 0);
            room -= whole;
        }
        self.lead = Lead::Free;
        self.emit(filler.into());
    }
}

impl Edit {
    fn of(item: &ListItem<'_>, bytes: Vec<u8>) -> Self {
        let start = item.end.saturating_sub((item.bytes.len() + item.prefix) as u64);
        let bytes = match item.prefix {
            0 => bytes,
            _ => {
                let mut with_length = Vec::with_capacity(bytes.len() + 4);
                protobuf::put_varint(&mut with_length, bytes.len() as u64);
                with_length.extend_from_slice(&bytes);
                with_length
            }
        };
        Self {
            start,
            end: item.end,
            bytes,
        }
    }
}

/// A part of the body, in the pieces in which it came.
#[derive(Debug, Default)]
struct Pieces {
    queue: VecDeque<Bytes>,
    /// Where in the body it begins and ends.
    at: u64,
    end: u64,
}

impl Pieces {
    fn push(&mut self, piece: Bytes) {
        self.end += piece.len() as u64;
        self.queue.push_back(piece);
    }

    /// Takes what stands before `until`.
    fn take_until(&mut self, until: u64, each: &mut dyn FnMut(Bytes)) {
        while let Some(mut piece) = self.queue.pop_front() {
            let wanted = until.saturating_sub(self.at);
            if wanted == 0 {
                self.queue.push_front(piece);
                return;
            }
            let len = usize::try_from(wanted).unwrap_or(usize::MAX).min(piece.len());
            let taken = piece.split_to(len);
            self.at += len as u64;
            if !piece.is_empty() {
                self.queue.push_front(piece);
            }
            each(taken);
        }
    }
}
