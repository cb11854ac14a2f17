//! What went wrong on the way to the cloud, in one word.

use std::io;

use rustix::io::Errno;

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Failure {
    /// No TCP connection: refused, unreachable, unknown name, or not in `connectTimeout`.
    Connect,
    /// No TLS session.
    Tls,
    /// The certificate or CA that the connection needs has not been loaded.
    NoCredentials,
    /// The connection broke: reset, EOF, protocol error, lost PING.
    Broken,
    /// Nothing at all arrived on a connection for longer than `keepAlive` allows, no acknowledged PING either.
    Silent,
    /// No first byte of the answer in `responseTimeout`.
    Timeout,
    /// Something between us and the apiserver answered 502, 503 or 504, or in its place.
    Gateway,
    /// This node has no descriptor, memory or port left for a connection.
    Shortage,
    /// The caller has as many requests or watches under way as is its share of the connections, or all are taken.
    OverShare,
}

impl Failure {
    /// A short name for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::NoCredentials => "no-credentials",
            Self::Broken => "broken",
            Self::Silent => "silent",
            Self::Timeout => "timeout",
            Self::Gateway => "gateway",
            Self::Shortage => "shortage",
            Self::OverShare => "over-share",
        }
    }

    /// Whether it says anything about the way to the cloud (and not only about this node's files, or what it lacks).
    pub fn concerns_link(self) -> bool {
        !matches!(self, Self::NoCredentials) && !self.is_for_want_of_room()
    }

    /// Whether this node lacks something that it may soon have again: nothing was sent.
    pub fn is_for_want_of_room(self) -> bool {
        matches!(self, Self::Shortage | Self::OverShare)
    }

    /// Why there is no connection.
    pub(super) fn of_connecting(error: &io::Error) -> Self {
        let own = [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOMEM,
            Errno::NOBUFS,
            Errno::ADDRNOTAVAIL,
            Errno::AGAIN,
        ];
        match error.raw_os_error() {
            Some(code) if own.iter().any(|errno| errno.raw_os_error() == code) => Self::Shortage,
            _ => Self::Connect,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_this_node_lacks_says_nothing_of_the_link() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
            let failure = Failure::of_connecting(&errno.into());
            assert_eq!(failure, Failure::Shortage, "{errno}");
            assert!(!failure.concerns_link());
        }
        for errno in [
            Errno::CONNREFUSED,
            Errno::NETUNREACH,
            Errno::HOSTUNREACH,
            Errno::TIMEDOUT,
        ] {
            let failure = Failure::of_connecting(&errno.into());
            assert_eq!(failure, Failure::Connect, "{errno}");
            assert!(failure.concerns_link());
        }
    }
}
