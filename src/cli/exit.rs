//! How a command ends, for a person and for the process.

use std::io::{self, Write};
use std::process::ExitCode;

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it worked.
    Ok,
    /// 1: it failed while running.
    Failed,
    /// 64 (`EX_USAGE`): the configuration or the command line is wrong; trying again will not help.
    Usage,
    /// 65 (`EX_DATAERR`): `check` or `certs` found a certificate that its peers will not take.
    Certificate,
    /// 69 (`EX_UNAVAILABLE`): `check` did not reach a server, or there is no edgehold to ask.
    Unreachable,
    /// 77 (`EX_NOPERM`): `check` found a right that lacks.
    Rights,
}

impl Exit {
    /// The exit code of the process.
    pub fn code(self) -> u8 {
        match self {
            Self::Ok => 0,
            Self::Failed => 1,
            Self::Usage => 64,
            Self::Certificate => 65,
            Self::Unreachable => 69,
            Self::Rights => 77,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An answer that nobody could read is a failure. Whoever hangs up, as `head` does, has read enough.
pub(super) fn answered(written: io::Result<()>) -> Exit {
    match written {
        Ok(()) => Exit::Ok,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Ok,
        Err(_) => Exit::Failed,
    }
}

/// The exit code still tells what stderr cannot.
pub(super) fn complain(err: &mut dyn Write, text: &str) {
    let _ = writeln!(err, "{}", text.trim_end());
}
