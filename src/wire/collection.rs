//! Puts lists, single objects, watch events and bookmarks together again from stored items.
//!
//! A [`Collection`] is what is needed for that besides the items: it is kept beside them. What it writes equals what
//! the apiserver wrote: the same bytes in JSON and protobuf, the same values in CBOR (whose order is random).
//! A list is written in pieces, so that its items need not be in memory together.

mod layout;

use std::borrow::Cow;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::kube::event::EventType;
use crate::kube::media::Encoding;

use super::list::ListHead;
use super::meta::TypeMeta;
use super::object::{Object, Style};
use super::watch::{BOOKMARK, Bookmark, put_frame};
use super::{WireError, cbor, json, protobuf};

pub use layout::Prefix;

/// The common form of the items of one view or of one object entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collection {
    /// How items are encoded; never YAML.
    #[serde(serialize_with = "write_encoding", deserialize_with = "read_encoding")]
    pub encoding: Encoding,
    /// Type of each item.
    pub item: TypeMeta,
    /// Type of the list.
    pub list: TypeMeta,
    /// Layout of lists and of the items in them.
    pub style: Style,
    /// Whether the item type was seen on an object; else it was derived from the list kind.
    pub item_seen: bool,
}

/// How much the items of one list are: kept up to date by adding and taking off [`Collection::encoded_len`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ItemTotals {
    /// Number of items.
    pub count: usize,
    /// Sum of their [`Collection::encoded_len`], in bytes.
    pub bytes: u64,
}

impl ItemTotals {
    /// With one more item.
    #[must_use]
    pub fn with(self, encoded_len: u64) -> Self {
        Self {
            count: self.count + 1,
            bytes: self.bytes + encoded_len,
        }
    }

    /// With one item less.
    #[must_use]
    pub fn without(self, encoded_len: u64) -> Self {
        Self {
            count: self.count.saturating_sub(1),
            bytes: self.bytes.saturating_sub(encoded_len),
        }
    }
}

impl Collection {
    /// The form of a list that has been read. An empty list of bare items says its item kind by its own: the list
    /// kind minus `List` (wire contract 4.4).
    pub fn from_list(encoding: Encoding, head: &ListHead) -> Self {
        let item_kind = head
            .type_meta
            .kind
            .strip_suffix("List")
            .unwrap_or(&head.type_meta.kind);
        Self {
            encoding,
            item: head
                .item_type
                .clone()
                .unwrap_or_else(|| TypeMeta::new(&head.type_meta.api_version, item_kind)),
            list: head.type_meta.clone(),
            style: head.style,
            item_seen: head.item_type.is_some(),
        }
    }

    /// The form of a watched collection, or of one object, from any object in it.
    pub fn from_object(object: &Object<'_>) -> Self {
        Self::of_item(object.encoding, &object.type_meta, object.style)
    }

    /// The form of a watched collection without any item.
    pub fn from_bookmark(encoding: Encoding, bookmark: &Bookmark) -> Self {
        Self::of_item(encoding, &bookmark.type_meta, bookmark.style)
    }

    fn of_item(encoding: Encoding, item: &TypeMeta, style: Style) -> Self {
        Self {
            encoding,
            item: item.clone(),
            list: TypeMeta::new(&item.api_version, &format!("{}List", item.kind)),
            style,
            item_seen: true,
        }
    }

    /// The bytes to keep for an object in this collection. Learns the item kind from the first object if it was only
    /// derived.
    ///
    /// # Errors
    /// `Mismatch` if the object is of another type or encoding: it does not belong here.
    pub fn adopt<'a>(&mut self, object: Object<'a>) -> Result<Cow<'a, [u8]>, WireError> {
        let same_type = match self.item_seen {
            true => object.type_meta == self.item,
            false => object.type_meta.api_version == self.item.api_version,
        };
        if !same_type || object.encoding != self.encoding {
            return Err(WireError::Mismatch {
                expected: self.item.kind.clone(),
                found: object.type_meta.kind,
            });
        }
        if !self.item_seen {
            self.item = object.type_meta.clone();
            self.item_seen = true;
        }
        object.into_style(self.style)
    }

    /// Bytes that an item of `item_len` bytes takes in a list, with what separates it from the next.
    pub fn encoded_len(&self, item_len: usize) -> u64 {
        let len = item_len as u64;
        match self.encoding {
            Encoding::Json | Encoding::Yaml => len + 1,
            Encoding::Protobuf => protobuf::field_len(len),
            Encoding::Cbor => len,
        }
    }

    /// The totals of items of these lengths.
    pub fn totals(&self, item_lens: impl IntoIterator<Item = usize>) -> ItemTotals {
        let add = |totals: ItemTotals, len| totals.with(self.encoded_len(len));
        item_lens.into_iter().fold(ItemTotals::default(), add)
    }

    /// What stands before the first item of a list at `rv`.
    pub fn list_head(&self, rv: &str, totals: ItemTotals) -> Vec<u8> {
        layout::list_head(self, rv, totals)
    }

    /// What stands before the item at `index` (from 0).
    pub fn item_prefix(&self, index: usize, item_len: usize) -> Prefix {
        layout::item_prefix(self, index, item_len)
    }

    /// What stands behind the last item of a list at `rv`.
    pub fn list_tail(&self, rv: &str) -> Vec<u8> {
        layout::list_tail(self, rv)
    }

    /// The exact length of a whole list: its Content-Length.
    pub fn list_len(&self, rv: &str, totals: ItemTotals) -> u64 {
        let separators = matches!(self.encoding, Encoding::Json | Encoding::Yaml) && totals.count > 0;
        let around = self.list_head(rv, totals).len() + self.list_tail(rv).len();
        around as u64 + totals.bytes - u64::from(separators)
    }

    /// The answer to a GET of one item.
    pub fn object(&self, item: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(item.len() + 96);
        self.put_object(&mut out, item);
        if self.encoding == Encoding::Json {
            out.push(b'\n');
        }
        out
    }

    /// One whole watch frame for an item.
    pub fn event(&self, change: EventType, item: &[u8]) -> Vec<u8> {
        let mut object = Vec::with_capacity(item.len() + 96);
        self.put_object(&mut object, item);
        put_frame(self.encoding, change.as_str(), &object)
    }

    /// One whole bookmark frame at `rv`; `initial_events_end` marks the end of the initial events.
    pub fn bookmark(&self, rv: &str, initial_events_end: bool) -> Vec<u8> {
        let mut object = Vec::with_capacity(192);
        layout::put_bookmark(&mut object, self, rv, initial_events_end);
        put_frame(self.encoding, BOOKMARK, &object)
    }

    /// The whole list in one piece: for small lists and tests.
    pub fn list<'a>(&self, rv: &str, items: impl IntoIterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
        let totals = self.totals(items.clone().into_iter().map(<[u8]>::len));
        let mut out = self.list_head(rv, totals);
        for (index, item) in items.into_iter().enumerate() {
            out.extend_from_slice(&self.item_prefix(index, item.len()));
            out.extend_from_slice(item);
        }
        out.extend_from_slice(&self.list_tail(rv));
        out
    }

    fn put_object(&self, out: &mut Vec<u8>, item: &[u8]) {
        match (self.encoding, self.style.is_bare()) {
            (Encoding::Protobuf, _) => protobuf::put_unknown(out, &self.item, item),
            (Encoding::Cbor, bare) => {
                out.extend_from_slice(&cbor::SELF_DESCRIBED);
                match bare {
                    true => cbor::with_types(out, &self.item, item),
                    false => out.extend_from_slice(cbor::untagged(item)),
                }
            }
            (Encoding::Json | Encoding::Yaml, true) => json::with_types(out, &self.item, item),
            (Encoding::Json | Encoding::Yaml, false) => out.extend_from_slice(item),
        }
    }
}

fn write_encoding<S: Serializer>(encoding: &Encoding, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(encoding.as_str())
}

fn read_encoding<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Encoding, D::Error> {
    let name = Cow::<'de, str>::deserialize(deserializer)?;
    [Encoding::Json, Encoding::Protobuf, Encoding::Cbor]
        .into_iter()
        .find(|encoding| encoding.as_str() == name)
        .ok_or_else(|| de::Error::custom("unknown encoding of items"))
}
