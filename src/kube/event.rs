//! The types of watch events that carry an object (`apimachinery/pkg/watch`).

/// What happened to an object of a watched collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    /// It is new, or it matches the selector now.
    Added,
    /// It is another now.
    Modified,
    /// It is deleted, or it no longer matches the selector. Its resourceVersion is that of the removal.
    Deleted,
}

impl EventType {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }

    /// `None` for any other event: BOOKMARK, ERROR, and what a later Kubernetes may have.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Added, Self::Modified, Self::Deleted]
            .into_iter()
            .find(|event| event.as_str() == name)
    }
}
