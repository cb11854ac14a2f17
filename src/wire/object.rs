//! One object as a GET, POST or PUT answers it, or as a watch event carries it, in the form in which lists hold it.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::kube::media::Encoding;

use super::meta::{ItemMeta, ObjectHead, TypeMeta};
use super::{MAX_ITEM, WireError, cbor, json, protobuf};

/// How a server lays out lists and the items in them (wire contract 2.5, 3.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Style {
    /// Kind first; the items of lists are bare: they carry neither kind nor apiVersion. All protobuf is so.
    BuiltIn,
    /// Sorted keys, so that items stand before the list's metadata; items carry their types.
    Custom,
    /// Kind first, items carry their types: metadata-only answers.
    PartialMetadata,
}

impl Style {
    /// A short stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BuiltIn => "built-in",
            Self::Custom => "custom",
            Self::PartialMetadata => "partial-metadata",
        }
    }

    /// Whether items carry neither kind nor apiVersion.
    pub fn is_bare(self) -> bool {
        self == Self::BuiltIn
    }

    /// How a document with its own types is laid out. CBOR maps have no order, and a typed item is legal in any
    /// list, so there they keep their types until a collection asks for bare ones.
    pub(super) fn of_typed(encoding: Encoding, head: &ObjectHead) -> Self {
        match encoding {
            Encoding::Protobuf => Self::BuiltIn,
            _ if head.types.kind == "PartialObjectMetadata" => Self::PartialMetadata,
            Encoding::Cbor => Self::Custom,
            _ if head.sorted_keys => Self::Custom,
            _ => Self::BuiltIn,
        }
    }
}

/// One object, split from its envelope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object<'a> {
    /// How `item` is encoded.
    pub encoding: Encoding,
    /// The object's own type.
    pub type_meta: TypeMeta,
    /// What identifies it.
    pub meta: ItemMeta,
    /// List form: the bytes that a list of this style holds for the object.
    pub item: Cow<'a, [u8]>,
    /// The layout that `item` follows.
    pub style: Style,
}

/// Reads the body of one answer. A Status, a Table or a list is no object: they have no name.
///
/// # Errors
/// `Nameless` for what has no `metadata.name`, `Unsupported` for YAML, else what is wrong with the bytes.
pub fn read_object(encoding: Encoding, body: &[u8]) -> Result<Object<'_>, WireError> {
    let parsed = Parsed::read(encoding, body)?;
    if parsed.head.is_bare() {
        return Err(WireError::Malformed("object without kind"));
    }
    parsed.into_object()
}

/// Reads what identifies a stored item, in list form: bare, or with its types.
///
/// # Errors
/// As [`read_object`].
pub fn read_item(encoding: Encoding, item: &[u8]) -> Result<ItemMeta, WireError> {
    let head = match encoding {
        Encoding::Yaml => return Err(WireError::Unsupported(encoding)),
        Encoding::Json => json::read_object(item)?,
        Encoding::Protobuf => protobuf::read_head(item, TypeMeta::default())?,
        Encoding::Cbor => cbor::read_head(item)?,
    };
    head.meta.check_identity()?;
    Ok(head.meta)
}

/// An object whose role is not yet known: an item, a bookmark, a Table, a Status.
pub(super) struct Parsed<'a> {
    pub(super) encoding: Encoding,
    pub(super) head: ObjectHead,
    body: &'a [u8],
}

impl<'a> Parsed<'a> {
    pub(super) fn read(encoding: Encoding, body: &'a [u8]) -> Result<Self, WireError> {
        if body.len() > MAX_ITEM {
            return Err(WireError::TooLarge {
                what: "an object",
                limit: MAX_ITEM,
            });
        }
        let (head, body) = match encoding {
            Encoding::Yaml => return Err(WireError::Unsupported(encoding)),
            Encoding::Json => (json::read_object(body)?, json::trim(body)),
            Encoding::Protobuf => {
                let unknown = protobuf::read_unknown(body)?;
                (protobuf::read_head(unknown.raw, unknown.types)?, unknown.raw)
            }
            Encoding::Cbor => (cbor::read_head(body)?, cbor::untagged(body)),
        };
        Ok(Self { encoding, head, body })
    }

    pub(super) fn style(&self) -> Style {
        Style::of_typed(self.encoding, &self.head)
    }

    pub(super) fn into_object(self) -> Result<Object<'a>, WireError> {
        self.head.meta.check_identity()?;
        let style = self.style();
        let item = match (self.encoding, style) {
            (Encoding::Json, Style::BuiltIn) => Cow::Owned(json::without_types(self.body)?),
            _ => Cow::Borrowed(self.body),
        };
        Ok(Object {
            encoding: self.encoding,
            type_meta: self.head.types,
            meta: self.head.meta,
            item,
            style,
        })
    }
}

impl<'a> Object<'a> {
    /// The same object, free of the bytes that it was read from.
    pub fn into_owned(self) -> Object<'static> {
        Object {
            encoding: self.encoding,
            type_meta: self.type_meta,
            meta: self.meta,
            item: Cow::Owned(self.item.into_owned()),
            style: self.style,
        }
    }

    /// The item as a list of `style` holds it.
    pub(super) fn into_style(self, style: Style) -> Result<Cow<'a, [u8]>, WireError> {
        if self.style.is_bare() == style.is_bare() {
            return Ok(self.item);
        }
        let mut out = Vec::new();
        match (self.encoding, style.is_bare()) {
            (Encoding::Json, true) => out = json::without_types(&self.item)?,
            (Encoding::Json, false) => json::with_types(&mut out, &self.type_meta, &self.item),
            (Encoding::Cbor, true) => out = cbor::without_types(&self.item)?,
            (Encoding::Cbor, false) => cbor::with_types(&mut out, &self.type_meta, &self.item),
            (Encoding::Protobuf | Encoding::Yaml, _) => return Ok(self.item),
        }
        Ok(Cow::Owned(out))
    }
}
