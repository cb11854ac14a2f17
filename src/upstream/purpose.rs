//! What a request needs a connection for.

/// Which connections of a transport a request may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// Requests with short answers: they must never queue behind endless or large ones. kubelet's heartbeat is one.
    Short,
    /// Lists and documents: on a narrow link one of them fills every buffer of its connection for many seconds.
    Large,
    /// Watches and followed logs.
    Watch,
}

impl Purpose {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Short, Self::Large, Self::Watch];

    /// A short name for metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::Large => "large",
            Self::Watch => "watch",
        }
    }
}
