//! Splits a list into its items while it arrives.
//!
//! Holds one item at most, and the small rest of the list. Whether the body was a whole list is known only from
//! [`ListReader::finish`]: what was handed out before is to be kept apart until then.

mod cbor;
mod json;
mod protobuf;
mod splice;

use crate::kube::media::Encoding;

use super::meta::{ItemMeta, ListMeta, ObjectHead, TypeMeta};
use super::object::Style;
use super::{MAX_ITEM, WireError};

pub use splice::ListSplicer;

/// Most that is kept of a list besides its items, in bytes. A body that exceeds it is no list.
const MAX_HEAD: usize = 1 << 20;

/// One item of a list.
#[derive(Debug)]
pub struct ListItem<'a> {
    /// What identifies it.
    pub meta: ItemMeta,
    /// Its bytes exactly as in the list.
    pub bytes: &'a [u8],
    /// Where in the body it ends: bytes from the body's start.
    pub end: u64,
    /// How many bytes directly before it say its length (protobuf; none elsewhere).
    pub prefix: usize,
}

/// The protobuf message that holds a list's items: its length stands before all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Enclosure {
    /// Where in the body it begins.
    pub(super) start: u64,
    /// Its length in bytes.
    pub(super) len: u64,
    /// How many bytes directly before `start` say that length.
    pub(super) prefix: usize,
}

/// What a list says besides its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListHead {
    /// The list's own type.
    pub type_meta: TypeMeta,
    /// The type that the items carry; `None` for bare items and for an empty list.
    pub item_type: Option<TypeMeta>,
    /// Of the whole list; may be empty (metrics).
    pub resource_version: String,
    /// Where the next page starts; empty if this is the last.
    pub continue_token: String,
    /// Number of items that were handed out.
    pub count: usize,
    /// How the list is laid out.
    pub style: Style,
}

/// Splits one list body, pushed in pieces of any size.
#[derive(Debug)]
pub struct ListReader {
    format: Format,
    failed: bool,
}

#[derive(Debug)]
enum Format {
    Json(json::JsonList),
    Protobuf(protobuf::ProtobufList),
    Cbor(cbor::CborList),
}

/// Why a format's reader stopped.
enum Stop {
    Wire(WireError),
    /// The receiver of the items refused one.
    Receiver,
}

impl From<WireError> for Stop {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

type Each<'a> = dyn FnMut(ListItem<'_>) -> Result<(), Stop> + 'a;

impl ListReader {
    /// A reader at the start of a body (decompressed).
    ///
    /// # Errors
    /// `Unsupported` for YAML.
    pub fn new(encoding: Encoding) -> Result<Self, WireError> {
        let format = match encoding {
            Encoding::Yaml => return Err(WireError::Unsupported(encoding)),
            Encoding::Json => Format::Json(json::JsonList::default()),
            Encoding::Protobuf => Format::Protobuf(protobuf::ProtobufList::default()),
            Encoding::Cbor => Format::Cbor(cbor::CborList::default()),
        };
        Ok(Self {
            format,
            failed: false,
        })
    }

    /// Reads on and hands out each item that is complete.
    ///
    /// # Errors
    /// What is wrong with the bytes, or the error of `each`. The reader cannot be used after that.
    pub fn push<E: From<WireError>>(
        &mut self,
        chunk: &[u8],
        each: &mut dyn FnMut(ListItem<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.failed {
            return Err(WireError::Failed.into());
        }
        let mut refused = None;
        let mut hand_out = |item: ListItem<'_>| {
            each(item).map_err(|error| {
                refused = Some(error);
                Stop::Receiver
            })
        };
        let pushed = match &mut self.format {
            Format::Json(list) => list.push(chunk, &mut hand_out),
            Format::Protobuf(list) => list.push(chunk, &mut hand_out),
            Format::Cbor(list) => list.push(chunk, &mut hand_out),
        };
        let Err(stop) = pushed else {
            return Ok(());
        };
        self.failed = true;
        Err(match (stop, refused) {
            (_, Some(error)) => error,
            (Stop::Wire(error), None) => error.into(),
            (Stop::Receiver, None) => WireError::Failed.into(),
        })
    }

    /// How many of the last bytes pushed belong to an item that is not whole yet, or to its length.
    pub(super) fn unfinished(&self) -> usize {
        match &self.format {
            Format::Json(list) => list.unfinished(),
            Format::Protobuf(list) => list.unfinished(),
            Format::Cbor(list) => list.unfinished(),
        }
    }

    /// The message around the items, once it has begun; `None` where nothing states a length before the items.
    pub(super) fn enclosure(&self) -> Option<Enclosure> {
        match &self.format {
            Format::Protobuf(list) => list.enclosure(),
            Format::Json(_) | Format::Cbor(_) => None,
        }
    }

    /// The list's own type where it stands before the items: in protobuf, whose items carry none.
    pub(super) fn type_before_items(&self) -> Option<&TypeMeta> {
        match &self.format {
            Format::Protobuf(list) => Some(list.types()),
            Format::Json(_) | Format::Cbor(_) => None,
        }
    }

    /// What the list said besides its items, once the body has ended.
    ///
    /// # Errors
    /// The body was cut short, went on after its end, or was no list of named objects.
    pub fn finish(self) -> Result<ListHead, WireError> {
        if self.failed {
            return Err(WireError::Failed);
        }
        match self.format {
            Format::Json(list) => list.finish(),
            Format::Protobuf(list) => list.finish(),
            Format::Cbor(list) => list.finish(),
        }
    }
}

/// Checks that the items of one list are named objects of one form, and counts them.
#[derive(Debug, Default)]
struct Census {
    count: usize,
    /// Types of the first item; both texts are empty for bare items.
    first: TypeMeta,
}

impl Census {
    fn admit<'a>(&mut self, head: ObjectHead, bytes: &'a [u8], end: u64) -> Result<ListItem<'a>, WireError> {
        check_item_len(bytes.len())?;
        head.meta.check_identity()?;
        if self.count == 0 {
            if head.types.kind.is_empty() != head.types.api_version.is_empty() {
                return Err(WireError::Malformed("item type"));
            }
            self.first = head.types;
        } else if head.types != self.first {
            return Err(WireError::Unsplittable {
                kind: head.types.kind,
            });
        }
        self.count += 1;
        Ok(ListItem {
            meta: head.meta,
            bytes,
            end,
            prefix: 0,
        })
    }

    /// The head of a list in an encoding whose items may carry types.
    fn into_head(self, types: TypeMeta, meta: ListMeta, sorted_keys: bool) -> Result<ListHead, WireError> {
        types.check_splittable()?;
        let typed = !self.first.kind.is_empty();
        let style = match self.count {
            0 if types.kind == "PartialObjectMetadataList" => Style::PartialMetadata,
            _ if sorted_keys && (typed || self.count == 0) => Style::Custom,
            _ if typed => Style::PartialMetadata,
            _ => Style::BuiltIn,
        };
        Ok(ListHead {
            type_meta: types,
            item_type: typed.then_some(self.first),
            resource_version: meta.resource_version,
            continue_token: meta.continue_token,
            count: self.count,
            style,
        })
    }
}

fn check_item_len(len: usize) -> Result<(), WireError> {
    match len > MAX_ITEM {
        true => Err(WireError::TooLarge {
            what: "an item",
            limit: MAX_ITEM,
        }),
        false => Ok(()),
    }
}

fn check_head_len(len: usize) -> Result<(), WireError> {
    match len > MAX_HEAD {
        true => Err(WireError::TooLarge {
            what: "the list without its items",
            limit: MAX_HEAD,
        }),
        false => Ok(()),
    }
}

/// Empties a buffer, and lets go of one that an unusually large item has grown.
fn reset(buffer: &mut Vec<u8>) {
    match buffer.capacity() > MAX_HEAD {
        true => *buffer = Vec::new(),
        false => buffer.clear(),
    }
}
