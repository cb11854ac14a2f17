//! Why bytes could not be split or joined. The texts never contain any of the body: bodies hold secrets.

use crate::kube::media::Encoding;

/// A refusal to read foreign bytes. The caller passes the bytes on and does not cache them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// This encoding is only ever passed through whole (YAML).
    #[error("{} is passed through whole, never split", .0.as_str())]
    Unsupported(Encoding),
    /// The body ended before its end.
    #[error("the body ends inside {0}")]
    Truncated(&'static str),
    /// The bytes are not what the encoding or the Kubernetes envelope requires.
    #[error("malformed {0}")]
    Malformed(&'static str),
    /// Packed in a way that is not known, or twice.
    #[error("an unknown content coding")]
    UnknownCoding,
    /// A whole document, but not a list (Table, discovery, Status, a single object).
    #[error("{kind:?} is not a list")]
    NotAList {
        /// The kind that the document states.
        kind: String,
    },
    /// A list whose items are not named objects of one type (generic `List`, metric values).
    #[error("items of {kind:?} cannot be kept one by one")]
    Unsplittable {
        /// The list kind, where it was known.
        kind: String,
    },
    /// An object without `metadata.name`: keeping it would overwrite another.
    #[error("an object without a name")]
    Nameless,
    /// Larger than any Kubernetes client would accept.
    #[error("{what} is larger than {limit} bytes")]
    TooLarge {
        /// What was too large.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// An object of another type than the collection it was offered to.
    #[error("expected an object of kind {expected:?}, found {found:?}")]
    Mismatch {
        /// Kind of the collection's items.
        expected: String,
        /// Kind of the object.
        found: String,
    },
    /// A reader was used again after it had failed.
    #[error("the reader has failed before")]
    Failed,
}

impl WireError {
    /// A short stable name: log field and metric label.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unsupported(_) => "unsupported",
            Self::Truncated(_) => "truncated",
            Self::Malformed(_) => "malformed",
            Self::UnknownCoding => "unknown-coding",
            Self::NotAList { .. } => "not-a-list",
            Self::Unsplittable { .. } => "unsplittable",
            Self::Nameless => "nameless",
            Self::TooLarge { .. } => "too-large",
            Self::Mismatch { .. } => "mismatch",
            Self::Failed => "failed",
        }
    }
}
