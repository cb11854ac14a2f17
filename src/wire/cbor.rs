//! CBOR as Kubernetes writes it (wire contract 3.7): strings and keys are mostly *byte* strings, map order is random,
//! and the self-described tag stands in front of documents and of the objects inside watch events.
//!
//! minicbor reads values; [`Skipper`] only finds where one ends while it arrives, and refuses what is not
//! well-formed, so that minicbor never sees anything else.

mod members;
mod read;
mod skip;
mod walk;

pub(super) use members::{put_head, put_text, with_types, without_types};
pub(super) use read::{members, read_event, read_head, read_list_meta, read_status, read_text, text};
pub(super) use skip::{Head, HeadReader, Skipper};
pub(super) use walk::{Members, elements};

use super::WireError;

/// Tag 55799: "this is CBOR".
pub(super) const SELF_DESCRIBED: [u8; 3] = [0xd9, 0xd9, 0xf7];

const BROKEN: WireError = WireError::Malformed("CBOR value");

/// Drops the self-described tag, however often it stands there.
pub(super) fn untagged(mut value: &[u8]) -> &[u8] {
    while let Some(rest) = value.strip_prefix(&SELF_DESCRIBED) {
        value = rest;
    }
    value
}

/// Checks that `bytes` is exactly one well-formed value.
pub(super) fn check_whole(bytes: &[u8]) -> Result<(), WireError> {
    match Skipper::default().feed(bytes)? {
        Some(end) if end == bytes.len() => Ok(()),
        Some(_) => Err(BROKEN),
        None => Err(WireError::Truncated("a CBOR value")),
    }
}
