//! What one part of a check found.

use serde::Serialize;

use crate::cli::exit::Exit;

/// What is wrong, by what it takes to fix it; in the order in which the exit code is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Fault {
    /// `run` would fail, or keep nothing.
    Start,
    /// A certificate or key that is not usable. Waiting does not help.
    Certificate,
    /// A client may not do what the configuration needs.
    Rights,
    /// A server that cannot be reached.
    Unreachable,
}

impl Fault {
    pub(super) fn exit(self) -> Exit {
        match self {
            Self::Start => Exit::Failed,
            Self::Certificate => Exit::Certificate,
            Self::Rights => Exit::Rights,
            Self::Unreachable => Exit::Unreachable,
        }
    }
}

/// One line about what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Problem {
    pub(super) kind: Fault,
    pub(super) message: String,
}

/// Lines for a person, and what is wrong.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) lines: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

impl Report {
    pub(super) fn problem(&mut self, kind: Fault, message: impl Into<String>) {
        self.problems.push(Problem {
            kind,
            message: message.into(),
        });
    }
}
