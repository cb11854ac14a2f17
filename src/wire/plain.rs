//! An object as JSON, for people: whatever it is encoded in, as far as its bytes say what they mean.
//!
//! JSON and CBOR do. Protobuf has numbers where these have names: what [`tables`] names is told, that there was more is
//! said, and nothing is guessed. Not for clients: they get the bytes that the apiserver sent.

mod cbor;
mod protobuf;
mod tables;

use serde_json::Value;

use crate::kube::media::Encoding;

use super::{MAX_ITEM, WireError};

/// Values within each other, at most; as serde_json.
const DEEPEST: usize = 128;

/// An object in JSON.
#[derive(Debug, Clone, PartialEq)]
pub struct Plain {
    /// `apiVersion`, `kind`, `metadata` and what else could be read.
    pub value: Value,
    /// Whether that is all there is.
    pub is_whole: bool,
}

/// Reads the body of one answer that is an object.
///
/// # Errors
/// `Unsupported` for YAML, else what is wrong with the bytes.
pub fn read(encoding: Encoding, body: &[u8]) -> Result<Plain, WireError> {
    if body.len() > MAX_ITEM {
        return Err(WireError::TooLarge {
            what: "an object",
            limit: MAX_ITEM,
        });
    }
    let whole = |value: Value| match value.is_object() {
        true => Ok(Plain {
            value,
            is_whole: true,
        }),
        false => Err(WireError::Malformed("object")),
    };
    match encoding {
        Encoding::Json => serde_json::from_slice(body)
            .map_err(|_| WireError::Malformed("JSON object"))
            .and_then(whole),
        Encoding::Cbor => cbor::read(body).and_then(whole),
        Encoding::Protobuf => protobuf::read(body),
        Encoding::Yaml => Err(WireError::Unsupported(encoding)),
    }
}

#[cfg(test)]
mod tests;
