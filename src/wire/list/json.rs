//! The JSON list: cuts the elements of the top-level `items` array out of the body, and reads the rest as the head.
//!
//! An element that lies in one chunk is read where it is; one that does not is gathered first. Everything
//! outside the array is kept, with the array left empty, and read by serde_json at the end: so whatever this file
//! mistook for structure is found out there.

use super::{Census, Each, ListHead, Stop, check_head_len, check_item_len, reset};
use crate::wire::WireError;
use crate::wire::json::{ListFields, ObjectFields, Read, Scan, is_space, read_exact, read_object};

const BROKEN: WireError = WireError::Malformed("JSON list");

#[derive(Debug, Default)]
pub(super) struct JsonList {
    outline: Outline,
    place: Place,
    partial: Vec<u8>,
    scan: Scan,
    census: Census,
    /// Where in the body the next byte stands.
    at: u64,
}

/// Where in the body the next byte falls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Outside,
    /// In the array of items, before the first.
    First,
    /// In the array, behind an item.
    Behind,
    /// In the array, behind a comma.
    Next,
    /// In an item that began in an earlier chunk.
    Inside,
}

impl JsonList {
    pub(super) fn push(&mut self, mut chunk: &[u8], each: &mut Each<'_>) -> Result<(), Stop> {
        while let Some(byte) = chunk.first() {
            let used = match self.place {
                Place::Outside => {
                    let (used, opened) = self.outline.feed(chunk)?;
                    if opened {
                        self.place = Place::First;
                    }
                    used
                }
                Place::Inside => self.go_on(chunk, each)?,
                Place::First | Place::Next if *byte == b'{' => self.item(chunk, each)?,
                place => {
                    self.place = self.between(place, *byte)?;
                    1
                }
            };
            self.at += used as u64;
            chunk = chunk.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) fn unfinished(&self) -> usize {
        self.partial.len()
    }

    pub(super) fn finish(self) -> Result<ListHead, WireError> {
        if self.place != Place::Outside {
            return Err(WireError::Truncated("a JSON list"));
        }
        let fields: ListFields = read_exact(&self.outline.bytes, "JSON list")?;
        if !fields.items {
            let kind = fields.types.kind;
            return Err(WireError::NotAList { kind });
        }
        self.census
            .into_head(fields.types, fields.meta, fields.sorted_keys)
    }

    /// A byte of the array that belongs to no item.
    fn between(&mut self, place: Place, byte: u8) -> Result<Place, WireError> {
        match (place, byte) {
            (_, byte) if is_space(byte) => Ok(place),
            (Place::Behind, b',') => Ok(Place::Next),
            (Place::First | Place::Behind, b']') => {
                self.outline.close();
                Ok(Place::Outside)
            }
            _ => Err(BROKEN),
        }
    }

    /// An item begins here.
    fn item(&mut self, chunk: &[u8], each: &mut Each<'_>) -> Result<usize, Stop> {
        let mut values = serde_json::Deserializer::from_slice(chunk).into_iter::<Read<ObjectFields>>();
        match values.next() {
            Some(Ok(Read(fields))) => {
                let end = values.byte_offset();
                let bytes = chunk.get(..end).unwrap_or_default();
                // serde_json leaves the strings that it skips unchecked.
                std::str::from_utf8(bytes).map_err(|_| BROKEN)?;
                each(self.census.admit(fields.head, bytes, self.at + end as u64)?)?;
                self.place = Place::Behind;
                Ok(end)
            }
            // Cut by the chunk's end, or broken: serde_json does not always tell which (a lone minus sign is an
            // invalid number to it). Once the item is whole, reading it again decides.
            _ => {
                self.place = Place::Inside;
                self.go_on(chunk, each)
            }
        }
    }

    fn go_on(&mut self, chunk: &[u8], each: &mut Each<'_>) -> Result<usize, Stop> {
        let end = self.scan.scan(chunk);
        let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        check_item_len(self.partial.len() + piece.len())?;
        self.partial.extend_from_slice(piece);
        if end.is_some() {
            let head = read_object(&self.partial)?;
            let end = self.at + piece.len() as u64;
            each(self.census.admit(head, &self.partial, end)?)?;
            reset(&mut self.partial);
            self.place = Place::Behind;
        }
        Ok(piece.len())
    }
}

/// The body without the elements of `items`.
#[derive(Debug, Default)]
struct Outline {
    bytes: Vec<u8>,
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// Where the string at depth one began that was read last.
    string: usize,
    /// Whether the value that follows at depth one is that of `items`.
    at_items: bool,
    /// Whether there has been an array of items.
    had_items: bool,
}

impl Outline {
    /// Takes bytes up to the end of `chunk`, or behind the bracket that opens the array of items.
    fn feed(&mut self, chunk: &[u8]) -> Result<(usize, bool), WireError> {
        for (at, byte) in chunk.iter().enumerate() {
            check_head_len(self.bytes.len())?;
            self.bytes.push(*byte);
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
            } else if self.structure(*byte)? {
                return Ok((at + 1, true));
            }
        }
        Ok((chunk.len(), false))
    }

    /// A byte outside strings; `true` if it opens the array of items.
    fn structure(&mut self, byte: u8) -> Result<bool, WireError> {
        let top = self.depth == 1;
        match byte {
            b'"' => {
                self.in_string = true;
                if top {
                    self.string = self.bytes.len() - 1;
                }
            }
            b':' if top => self.at_items = self.is_items(),
            b',' if top => self.at_items = false,
            b'[' if top && self.at_items => {
                if std::mem::replace(&mut self.had_items, true) {
                    return Err(BROKEN);
                }
                self.at_items = false;
                self.depth += 1;
                return Ok(true);
            }
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.checked_sub(1).ok_or(BROKEN)?,
            _ if is_space(byte) => {}
            _ if self.depth == 0 => return Err(BROKEN),
            _ => {}
        }
        Ok(false)
    }

    /// Whether the string before the colon says `items`, in whatever spelling.
    fn is_items(&self) -> bool {
        let text = self
            .bytes
            .get(self.string..self.bytes.len() - 1)
            .unwrap_or_default();
        let mut strings = serde_json::Deserializer::from_slice(text).into_iter::<String>();
        matches!(strings.next(), Some(Ok(key)) if key == "items")
    }

    fn close(&mut self) {
        self.bytes.push(b']');
        self.depth = self.depth.saturating_sub(1);
    }
}
