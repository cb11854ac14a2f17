//! Watch streams: whole frames out of a byte stream, and what one frame says (wire contract 3.5, 5.1).

mod frames;

use crate::kube::event::EventType;
use crate::kube::media::Encoding;

use super::meta::TypeMeta;
use super::object::{Object, Parsed, Style};
use super::status::{StatusSummary, read_status};
use super::{WireError, cbor, json, protobuf};

pub use frames::{FrameReader, MAX_FRAME};

pub(super) const BOOKMARK: &str = "BOOKMARK";
pub(super) const ERROR: &str = "ERROR";

/// A promise that all matching events up to a resourceVersion have been sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bookmark {
    /// Type of the watched items.
    pub type_meta: TypeMeta,
    /// Never empty.
    pub resource_version: String,
    /// Whether it ends the initial events of a watch-list.
    pub initial_events_end: bool,
    /// The layout of the stream's objects.
    pub style: Style,
}

/// What one frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent<'a> {
    /// An item changed.
    Item {
        /// How.
        change: EventType,
        /// The item, after the change; for a deletion, before it.
        object: Object<'a>,
    },
    /// Nothing changed up to here.
    Bookmark(Bookmark),
    /// The stream ends with this failure.
    Error(StatusSummary),
    /// Rows of a Table: passed on but not understood, only the position is read.
    Opaque {
        /// A Table.
        type_meta: TypeMeta,
        /// How the rows' objects changed; `None` in a bookmark.
        change: Option<EventType>,
        /// That of the changed object; empty where the server does not say.
        resource_version: String,
    },
    /// Only white space: the line break of a JSON frame that was delivered before its line break arrived.
    Blank,
}

/// Reads one whole frame as [`FrameReader`] delivers it.
///
/// # Errors
/// What is wrong with it; such a frame may be passed on, but nothing may be concluded from it.
pub fn read_event(encoding: Encoding, frame: &[u8]) -> Result<WatchEvent<'_>, WireError> {
    match encoding {
        Encoding::Yaml => Err(WireError::Unsupported(encoding)),
        Encoding::Json => {
            if frame.iter().all(|byte| json::is_space(*byte)) {
                return Ok(WatchEvent::Blank);
            }
            let fields: json::EventFields<'_> = json::read_exact(frame, "watch event")?;
            let object = fields.object.ok_or(WireError::Malformed("watch event"))?;
            interpret(encoding, &fields.change, object.get().as_bytes())
        }
        Encoding::Protobuf => {
            let (change, object) = read_message(frame)?;
            interpret(encoding, &change, object)
        }
        Encoding::Cbor => {
            let parts = cbor::read_event(frame)?;
            interpret(encoding, &parts.change, parts.object)
        }
    }
}

fn interpret<'a>(encoding: Encoding, change: &str, object: &'a [u8]) -> Result<WatchEvent<'a>, WireError> {
    const BROKEN: WireError = WireError::Malformed("watch event");
    if change == ERROR {
        return read_status(encoding, object).map(WatchEvent::Error).ok_or(BROKEN);
    }
    let parsed = Parsed::read(encoding, object)?;
    if parsed.head.is_bare() {
        return Err(BROKEN);
    }
    if parsed.head.types.is_table() {
        return Ok(WatchEvent::Opaque {
            type_meta: parsed.head.types,
            change: EventType::parse(change),
            resource_version: parsed.head.meta.resource_version,
        });
    }
    if change == BOOKMARK {
        if parsed.head.meta.resource_version.is_empty() {
            return Err(BROKEN);
        }
        let style = parsed.style();
        return Ok(WatchEvent::Bookmark(Bookmark {
            type_meta: parsed.head.types,
            resource_version: parsed.head.meta.resource_version,
            initial_events_end: parsed.head.initial_events_end,
            style,
        }));
    }
    Ok(WatchEvent::Item {
        change: EventType::parse(change).ok_or(BROKEN)?,
        object: parsed.into_object()?,
    })
}

/// `metav1.WatchEvent` behind its length: type 1, object 2 (a RawExtension: raw 1).
fn read_message(frame: &[u8]) -> Result<(String, &[u8]), WireError> {
    const BROKEN: WireError = WireError::Malformed("watch event");
    let (len, message) = frame
        .split_first_chunk::<4>()
        .ok_or(WireError::Truncated("a watch frame"))?;
    if u32::from_be_bytes(*len) as usize != message.len() {
        return Err(WireError::Truncated("a watch frame"));
    }
    let (mut change, mut extension) = (String::new(), None);
    let mut fields = protobuf::Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => change = value.text()?,
            2 => extension = Some(value.bytes()?),
            _ => {}
        }
    }
    let mut object = None;
    let mut fields = protobuf::Fields::of(extension.ok_or(BROKEN)?);
    while let Some((field, value)) = fields.next()? {
        if field == 1 {
            object = Some(value.bytes()?);
        }
    }
    Ok((change, object.ok_or(BROKEN)?))
}

/// One whole frame around `object`, which is a whole body in that encoding.
pub(super) fn put_frame(encoding: Encoding, change: &str, object: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(object.len() + 48);
    match encoding {
        Encoding::Json | Encoding::Yaml => {
            out.extend_from_slice(br#"{"type":"#);
            json::put_text(&mut out, change);
            out.extend_from_slice(br#","object":"#);
            out.extend_from_slice(&json::one_line(json::trim(object)));
            out.extend_from_slice(b"}\n");
        }
        Encoding::Protobuf => {
            let extension = protobuf::field_len(object.len() as u64);
            let total = protobuf::field_len(change.len() as u64) + protobuf::field_len(extension);
            // An object is at most MAX_ITEM long; a longer frame could not be framed, and no client would read it.
            let total = u32::try_from(total).unwrap_or(u32::MAX);
            out.extend_from_slice(&total.to_be_bytes());
            protobuf::put_bytes(&mut out, 1, change.as_bytes());
            protobuf::put_len(&mut out, 2, extension as usize);
            protobuf::put_bytes(&mut out, 1, object);
        }
        Encoding::Cbor => {
            out.extend_from_slice(&cbor::SELF_DESCRIBED);
            cbor::put_head(&mut out, 5, 2);
            cbor::put_text(&mut out, "type");
            cbor::put_text(&mut out, change);
            cbor::put_text(&mut out, "object");
            out.extend_from_slice(object);
        }
    }
    out
}
