//! Failures on the way to the cloud: what went wrong, and whether the request may have been sent.

use std::error::Error;
use std::io;

use rustix::io::Errno;

use super::cause::Cause;

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

/// Whether the apiserver may have seen the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sent {
    /// Certainly not: it may be tried again, or refused with 503.
    No,
    /// Perhaps: only a read may be tried again.
    Maybe,
}

/// A failed attempt to get an answer from the cloud.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {message}", failure.as_str())]
pub struct UpstreamError {
    /// What went wrong.
    pub failure: Failure,
    /// Why, as people are told.
    pub cause: Cause,
    /// Whether the apiserver may have seen the request.
    pub sent: Sent,
    /// For the log.
    pub message: String,
}

impl UpstreamError {
    /// A failure before anything of the request was sent.
    pub fn unsent(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            cause: failure.into(),
            sent: Sent::No,
            message: message.into(),
        }
    }

    /// A failure of a request that may have arrived.
    pub fn maybe_sent(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            cause: failure.into(),
            sent: Sent::Maybe,
            message: message.into(),
        }
    }

    /// The same with the very cause.
    #[must_use]
    pub fn because(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }
}

/// An error with all its causes, for the log.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
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
