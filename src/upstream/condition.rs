//! How a server, or the link as a whole, is, in one word.

use super::link_state::LinkState;

/// How a server, or the link as a whole, is. Unlike [`LinkState`], which says what requests do, nothing is called online
/// before it has answered once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Condition {
    /// It has answered, and nothing speaks against it.
    Online,
    /// Nothing is known yet.
    Starting,
    /// Something failed; a probe decides.
    Suspect,
    /// It is away.
    Offline,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Online, Self::Starting, Self::Suspect, Self::Offline];

    /// A short name for logs, metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Starting => "starting",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
        }
    }

    /// Of a server in this state that has answered in the life of this process, or not.
    pub(super) fn of(state: LinkState, known: bool) -> Self {
        match state {
            LinkState::Online if known => Self::Online,
            LinkState::Online => Self::Starting,
            LinkState::Suspect => Self::Suspect,
            LinkState::Offline => Self::Offline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_online_before_it_has_answered() {
        assert_eq!(Condition::of(LinkState::Online, false), Condition::Starting);
        assert_eq!(Condition::of(LinkState::Online, true), Condition::Online);
        assert_eq!(Condition::of(LinkState::Offline, true), Condition::Offline);
    }
}
