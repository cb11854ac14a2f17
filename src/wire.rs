//! Bytes on the wire: schema-free split and join of objects, lists and watch streams.
//!
//! Owns the byte forms of wire contract 3 in JSON, Kubernetes protobuf and CBOR: a list is split into its items, a
//! watch stream into frames, and both are put together again from stored items so that a client cannot tell. An
//! item's bytes are never re-encoded: what is not read here (all but type, name, namespace, uid, resourceVersion,
//! labels and deletion) is opaque. YAML is never split. The content coding is taken off before.
//!
//! Must not know: requests, principals, views, storage, time. Everything here is pure and reads foreign bytes:
//! any input gives a value or a [`WireError`], and errors never quote the body.

mod cbor;
pub mod coding;
pub mod collection;
pub mod deletion;
pub mod edit;
mod error;
mod json;
pub mod list;
pub mod meta;
pub mod object;
pub mod plain;
mod protobuf;
pub mod status;
pub mod token;
pub mod watch;

#[cfg(test)]
mod tests;

pub use error::WireError;

/// The largest single item or frame, in bytes; client-go refuses larger frames (wire contract 3.5).
pub const MAX_ITEM: usize = 16 << 20;
