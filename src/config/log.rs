//! `log`.

use super::object::Object;

/// `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The form of a line.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: LogLevel,
}

/// `log.format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// `log.level`, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something is lost.
    Error,
    /// Something is wrong and handled.
    Warn,
    /// Changes of state.
    Info,
    /// One line a request.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// From the quietest on.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// As in the file, and as `tracing` filters spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

pub(super) fn read(log: &mut Object<'_>) -> Log {
    Log {
        format: log.or("format", LogFormat::Text, |field| {
            field.choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)])
        }),
        level: log.or("level", LogLevel::Info, |field| {
            field.choice(&LogLevel::ALL.map(|level| (level.as_str(), level)))
        }),
    }
}
