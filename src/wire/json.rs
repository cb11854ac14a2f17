//! JSON: where a value ends, what its metadata says, and how its top-level members are cut and written.
//!
//! serde_json decides what is valid and what a text means; the scanner in [`scan`] only finds ends, so that bytes
//! can be kept as they came.

mod fields;
mod members;
mod scan;
mod walk;
mod write;

pub(super) use fields::{
    EventFields, ListFields, Members, ObjectFields, Read, StatusFields, Text, read_exact,
};
pub(super) use members::{one_line, with_types, without_types};
pub(super) use scan::Scan;
pub(super) use walk::{Walk, elements};
pub(super) use write::{put_key, put_text};

use super::WireError;
use super::meta::ObjectHead;

/// Reads one whole object; anything after it but whitespace is an error.
pub(super) fn read_object(bytes: &[u8]) -> Result<ObjectHead, WireError> {
    read_exact::<ObjectFields>(bytes, "JSON object").map(|fields| fields.head)
}

/// Whether a byte may stand between JSON tokens.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

/// Drops the whitespace around a document.
pub(super) fn trim(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|b| !is_space(*b)).unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(|b| !is_space(*b))
        .map_or(start, |at| at + 1);
    bytes.get(start..end).unwrap_or_default()
}
