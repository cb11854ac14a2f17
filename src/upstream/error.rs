//! Failures on the way to the cloud: what went wrong, and whether the request may have been sent.

use std::error::Error;

use super::cause::Cause;
use super::failure::Failure;

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
