//! The protobuf list: walks the envelope and the list message as they arrive.
//!
//! Fields may come in any order. Only for the one list with swapped field numbers must the type come before the
//! message, as every known writer has it.

use super::{Census, Each, Enclosure, ListHead, ListItem, Stop, check_head_len, check_item_len, reset};
use crate::wire::WireError;
use crate::wire::meta::{ListMeta, TypeMeta};
use crate::wire::object::Style;
use crate::wire::protobuf::{MAGIC, Varint, check_plain, read_head, read_list_meta, read_types, split_tag};

const BROKEN: WireError = WireError::Malformed("protobuf list");

#[derive(Debug, Default)]
pub(super) struct ProtobufList {
    state: State,
    varint: Varint,
    buffer: Vec<u8>,
    /// Bytes left of the list message while inside it.
    inside: Option<u64>,
    swapped: bool,
    /// The list message, once it has begun.
    enclosure: Option<Enclosure>,
    /// Bytes of the last length.
    length_width: usize,
    /// Where in the body the next byte stands.
    at: u64,
    types: TypeMeta,
    meta: ListMeta,
    census: Census,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The envelope's first bytes, of which so many were right.
    Magic(usize),
    Tag,
    /// The value of a varint field.
    Number,
    /// The length of that field.
    Length(u32),
    Skip(u64),
    Take(Part, usize),
}

impl Default for State {
    fn default() -> Self {
        Self::Magic(0)
    }
}

/// A field that is read whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Types,
    Encoding,
    ListMeta,
    Item,
}

impl ProtobufList {
    pub(super) fn push(&mut self, mut chunk: &[u8], each: &mut Each<'_>) -> Result<(), Stop> {
        while !chunk.is_empty() {
            let used = match self.state {
                State::Skip(left) => {
                    let take = left.min(chunk.len() as u64);
                    self.state = match left - take {
                        0 => State::Tag,
                        left => State::Skip(left),
                    };
                    take as usize
                }
                State::Take(part, len) => self.gather(part, len, chunk, each)?,
                state => {
                    let byte = chunk.first().copied().unwrap_or_default();
                    self.byte(state, byte, each)?;
                    1
                }
            };
            self.count(used as u64)?;
            self.at += used as u64;
            chunk = chunk.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) fn unfinished(&self) -> usize {
        match self.state {
            State::Length(_) => self.varint.len(),
            State::Take(Part::Item, _) => self.length_width + self.buffer.len(),
            _ => 0,
        }
    }

    pub(super) fn enclosure(&self) -> Option<Enclosure> {
        self.enclosure
    }

    pub(super) fn types(&self) -> &TypeMeta {
        &self.types
    }

    pub(super) fn finish(self) -> Result<ListHead, WireError> {
        let at_boundary = self.state == State::Tag && self.varint.is_empty() && self.inside.is_none();
        if !at_boundary || self.enclosure.is_none() {
            return Err(WireError::Truncated("a protobuf list"));
        }
        check_list(&self.types)?;
        if self.swapped != self.types.has_swapped_fields() {
            return Err(WireError::Malformed(
                "protobuf list: its type comes after its items",
            ));
        }
        Ok(ListHead {
            type_meta: self.types,
            item_type: None,
            resource_version: self.meta.resource_version,
            continue_token: self.meta.continue_token,
            count: self.census.count,
            style: Style::BuiltIn,
        })
    }

    /// Takes consumed bytes off what is left of the list message, and leaves it at its end.
    fn count(&mut self, used: u64) -> Result<(), WireError> {
        let Some(left) = &mut self.inside else {
            return Ok(());
        };
        // The bytes that opened the message are not in it: `enter` adds them beforehand.
        *left = left.checked_sub(used).ok_or(BROKEN)?;
        if *left == 0 {
            if self.state != State::Tag || !self.varint.is_empty() {
                return Err(BROKEN);
            }
            self.inside = None;
        }
        Ok(())
    }

    /// One byte of the magic, a tag, a number or a length.
    fn byte(&mut self, state: State, byte: u8, each: &mut Each<'_>) -> Result<(), Stop> {
        if let State::Magic(right) = state {
            if MAGIC.get(right) != Some(&byte) {
                return Err(WireError::Malformed("protobuf envelope").into());
            }
            self.state = match right + 1 < MAGIC.len() {
                true => State::Magic(right + 1),
                false => State::Tag,
            };
            return Ok(());
        }
        let width = self.varint.len() + 1;
        let Some(n) = self.varint.push(byte)? else {
            return Ok(());
        };
        self.state = match state {
            State::Length(field) => {
                self.length_width = width;
                return self.enter(field, n, each);
            }
            State::Number => State::Tag,
            _ => {
                let (field, wire) = split_tag(n)?;
                match wire {
                    2 => State::Length(field),
                    _ if self.part(field).is_some() || (self.inside.is_none() && field == 2) => {
                        return Err(BROKEN.into());
                    }
                    0 => State::Number,
                    1 => State::Skip(8),
                    5 => State::Skip(4),
                    _ => return Err(BROKEN.into()),
                }
            }
        };
        Ok(())
    }

    /// A length-delimited field begins behind the current byte.
    fn enter(&mut self, field: u32, len: u64, each: &mut Each<'_>) -> Result<(), Stop> {
        if self.inside.is_none() && field == 2 {
            // Go keeps the last of several; what the first held is already handed out here.
            let enclosure = Enclosure {
                start: self.at + 1,
                len,
                prefix: self.length_width,
            };
            if self.enclosure.replace(enclosure).is_some() {
                return Err(BROKEN.into());
            }
            if self.types != TypeMeta::default() {
                check_list(&self.types)?;
            }
            self.swapped = self.types.has_swapped_fields();
            self.inside = Some(len.checked_add(1).ok_or(BROKEN)?);
            self.state = State::Tag;
            return Ok(());
        }
        // The current byte is still to be counted.
        if self.inside.is_some_and(|left| len >= left) {
            return Err(BROKEN.into());
        }
        let Some(part) = self.part(field) else {
            self.state = match len {
                0 => State::Tag,
                len => State::Skip(len),
            };
            return Ok(());
        };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        match part {
            Part::Item => check_item_len(len)?,
            _ => check_head_len(len)?,
        }
        self.state = State::Take(part, len);
        if len == 0 {
            self.gather(part, len, &[], each)?;
        }
        Ok(())
    }

    fn part(&self, field: u32) -> Option<Part> {
        match (self.inside.is_some(), field) {
            (false, 1) => Some(Part::Types),
            (false, 3 | 4) => Some(Part::Encoding),
            (true, 1) if self.swapped => Some(Part::Item),
            (true, 2) if self.swapped => Some(Part::ListMeta),
            (true, 1) => Some(Part::ListMeta),
            (true, 2) => Some(Part::Item),
            _ => None,
        }
    }

    /// Takes what has arrived of a field of `len` bytes, and reads it once it is whole.
    fn gather(&mut self, part: Part, len: usize, chunk: &[u8], each: &mut Each<'_>) -> Result<usize, Stop> {
        let missing = len.saturating_sub(self.buffer.len());
        let piece = chunk.get(..missing).unwrap_or(chunk);
        if piece.len() < missing {
            self.buffer.extend_from_slice(piece);
            return Ok(piece.len());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let end = self.at + piece.len() as u64;
        if buffer.is_empty() {
            self.read(part, piece, end, each)?;
        } else {
            buffer.extend_from_slice(piece);
            self.read(part, &buffer, end, each)?;
            reset(&mut buffer);
            self.buffer = buffer;
        }
        self.state = State::Tag;
        Ok(piece.len())
    }

    fn read(&mut self, part: Part, bytes: &[u8], end: u64, each: &mut Each<'_>) -> Result<(), Stop> {
        match part {
            Part::Types => read_types(bytes, &mut self.types)?,
            Part::Encoding => check_plain(bytes)?,
            Part::ListMeta => read_list_meta(bytes, &mut self.meta)?,
            Part::Item => {
                let head = read_head(bytes, TypeMeta::default())?;
                let item = self.census.admit(head, bytes, end)?;
                each(ListItem {
                    prefix: self.length_width,
                    ..item
                })?;
            }
        }
        Ok(())
    }
}

/// Without a schema the kind alone says that a message is a list (wire contract 3.2).
fn check_list(types: &TypeMeta) -> Result<(), WireError> {
    types.check_splittable()?;
    match types.kind.ends_with("List") {
        true => Ok(()),
        false => Err(WireError::NotAList {
            kind: types.kind.clone(),
        }),
    }
}
