//! Whose requests a transport carries, and what follows from that.
//!
//! Anybody may be as many unknown callers as he likes. An apiserver ends the connection on which it refuses one, and what it or a
//! gateway answers them is up to what they ask. So what comes of their requests says nothing of a server but that it cannot be
//! connected to, or that it answers; and whoever of them is about to be accepted is sent again what others' refusals took
//! along.

use super::failure::Failure;

/// Whose requests go over a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clientele {
    /// Those of configured clients, and of callers whom an apiserver has accepted.
    Known,
    /// Those of callers whom none has accepted yet.
    Strangers,
}

impl Clientele {
    /// Whether such a failure counts against the server.
    pub(super) fn may_blame(self, failure: Failure) -> bool {
        self == Self::Known || matches!(failure, Failure::Connect | Failure::Tls)
    }

    /// How often a request that was not processed is sent again, each time on another connection.
    pub(super) fn retries(self) -> usize {
        match self {
            Self::Known => 4,
            Self::Strangers => 16,
        }
    }

    /// How often a read is sent again whose connection broke under it.
    pub(super) fn repeats(self) -> usize {
        match self {
            Self::Known => 1,
            Self::Strangers => 8,
        }
    }
}
