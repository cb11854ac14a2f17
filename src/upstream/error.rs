//! Failures on the way to the cloud: what went wrong, and whether the request may have been sent.

use std::error::Error;

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
    /// Something between us and the apiserver answered 502, 503 or 504.
    Gateway,
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
        }
    }

    /// Whether it says anything about the way to the cloud (and not only about this node's files).
    pub fn concerns_link(self) -> bool {
        self != Self::NoCredentials
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
            sent: Sent::No,
            message: message.into(),
        }
    }

    /// A failure of a request that may have arrived.
    pub fn maybe_sent(failure: Failure, message: impl Into<String>) -> Self {
        Self {
            failure,
            sent: Sent::Maybe,
            message: message.into(),
        }
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
