//! The CBOR list: walks the outer map as it arrives, in whatever order its members come.

use super::{Census, Each, ListHead, Stop, check_head_len, check_item_len, reset};
use crate::wire::WireError;
use crate::wire::cbor::{Head, HeadReader, Skipper, read_head, read_list_meta, read_text};
use crate::wire::meta::{ListMeta, TypeMeta};

const BROKEN: WireError = WireError::Malformed("CBOR list");

#[derive(Debug, Default)]
pub(super) struct CborList {
    place: Place,
    head: HeadReader,
    skipper: Skipper,
    buffer: Vec<u8>,
    /// Whether the value at hand has begun.
    begun: bool,
    /// Members still to come; `None` for an indefinite map.
    members: Option<u64>,
    /// Items still to come; `None` for an indefinite array.
    items: Option<u64>,
    seen: Vec<Member>,
    types: TypeMeta,
    meta: ListMeta,
    census: Census,
    /// Where in the body the next byte stands.
    at: u64,
}

/// What the next byte belongs to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Place {
    /// Tags and the head of the outer map.
    #[default]
    Start,
    Key,
    Value(Member),
    /// A member of no interest, whose bytes are not kept.
    Other,
    /// Tags and the head of the array of items.
    ItemsStart,
    Item,
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Kind,
    ApiVersion,
    Metadata,
    Items,
}

impl CborList {
    pub(super) fn push(&mut self, mut chunk: &[u8], each: &mut Each<'_>) -> Result<(), Stop> {
        while let Some(byte) = chunk.first() {
            let at_break = *byte == 0xff && !self.begun;
            let used = match self.place {
                Place::End => return Err(BROKEN.into()),
                Place::Start | Place::ItemsStart => {
                    if let Some(head) = self.head.push(*byte)? {
                        self.open(head)?;
                    }
                    1
                }
                Place::Key if at_break && self.members.is_none() => {
                    self.place = Place::End;
                    1
                }
                Place::Item if at_break && self.items.is_none() => {
                    self.member_ended();
                    1
                }
                _ => self.gather(chunk, each)?,
            };
            self.at += used as u64;
            chunk = chunk.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    pub(super) fn unfinished(&self) -> usize {
        match self.place {
            Place::Item => self.buffer.len(),
            _ => 0,
        }
    }

    pub(super) fn finish(self) -> Result<ListHead, WireError> {
        if self.place != Place::End {
            return Err(WireError::Truncated("a CBOR list"));
        }
        if !self.seen.contains(&Member::Items) {
            return Err(WireError::NotAList {
                kind: self.types.kind,
            });
        }
        // The order of keys says nothing in CBOR; only the items tell custom resources apart.
        let sorted_keys = self.types.kind != "PartialObjectMetadataList" && self.census.count > 0;
        self.census.into_head(self.types, self.meta, sorted_keys)
    }

    /// The head of the map or of the array.
    fn open(&mut self, head: Head) -> Result<(), WireError> {
        match (self.place, head.major, head.argument) {
            (_, 6, _) => {}
            (Place::Start, 5, members) => {
                self.members = members;
                self.next_member();
            }
            (Place::ItemsStart, 4, items) => {
                self.items = items;
                match items {
                    Some(0) => self.member_ended(),
                    _ => self.place = Place::Item,
                }
            }
            (Place::ItemsStart, 7, Some(22)) => self.member_ended(),
            _ => return Err(BROKEN),
        }
        Ok(())
    }

    fn next_member(&mut self) {
        self.place = match self.members {
            Some(0) => Place::End,
            _ => Place::Key,
        };
    }

    fn member_ended(&mut self) {
        if let Some(left) = &mut self.members {
            *left = left.saturating_sub(1);
        }
        self.next_member();
    }

    /// Takes what has arrived of a key, a value or an item, and reads it once it is whole.
    fn gather(&mut self, chunk: &[u8], each: &mut Each<'_>) -> Result<usize, Stop> {
        let end = self.skipper.feed(chunk)?;
        let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        self.begun = end.is_none();
        if self.place == Place::Other {
            if end.is_some() {
                self.member_ended();
            }
            return Ok(piece.len());
        }
        match self.place {
            Place::Item => check_item_len(self.buffer.len() + piece.len())?,
            _ => check_head_len(self.buffer.len() + piece.len())?,
        }
        if end.is_none() {
            self.buffer.extend_from_slice(piece);
            return Ok(piece.len());
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let end = self.at + piece.len() as u64;
        if buffer.is_empty() {
            self.read(piece, end, each)?;
        } else {
            buffer.extend_from_slice(piece);
            self.read(&buffer, end, each)?;
            reset(&mut buffer);
            self.buffer = buffer;
        }
        Ok(piece.len())
    }

    fn read(&mut self, value: &[u8], end: u64, each: &mut Each<'_>) -> Result<(), Stop> {
        match self.place {
            Place::Key => return Ok(self.key(&read_text(value)?)?),
            Place::Value(Member::Kind) => self.types.kind = read_text(value)?,
            Place::Value(Member::ApiVersion) => self.types.api_version = read_text(value)?,
            Place::Value(_) => self.meta = read_list_meta(value)?,
            _ => {
                let head = read_head(value)?;
                each(self.census.admit(head, value, end)?)?;
                if let Some(left) = &mut self.items {
                    *left = left.saturating_sub(1);
                }
                if self.items != Some(0) {
                    return Ok(());
                }
            }
        }
        self.member_ended();
        Ok(())
    }

    fn key(&mut self, key: &str) -> Result<(), WireError> {
        let member = match key {
            "kind" => Member::Kind,
            "apiVersion" => Member::ApiVersion,
            "metadata" => Member::Metadata,
            "items" => Member::Items,
            _ => {
                self.place = Place::Other;
                return Ok(());
            }
        };
        if self.seen.contains(&member) {
            return Err(WireError::Malformed("CBOR map: repeated key"));
        }
        self.seen.push(member);
        self.place = match member {
            Member::Items => Place::ItemsStart,
            _ => Place::Value(member),
        };
        Ok(())
    }
}
