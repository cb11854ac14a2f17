//! Whether requests go to the cloud.

/// The state of the way to the cloud, or to one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinkState {
    /// Requests go upstream.
    Online,
    /// Something failed; a probe decides.
    Suspect,
    /// The cloud is away.
    Offline,
}

impl LinkState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Online, Self::Suspect, Self::Offline];

    /// A short name for logs, metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
        }
    }

    /// That of several servers together: the best.
    pub fn of(servers: impl IntoIterator<Item = Self>) -> Self {
        servers.into_iter().min().unwrap_or(Self::Offline)
    }
}
