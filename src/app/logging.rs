//! Where log lines go and how they look: standard error, text or JSON.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// Installs the logger of the process. `EDGEHOLD_LOG` (a tracing filter such as `edgehold=debug`) overrides the
/// configured level. A second call changes nothing.
pub(super) fn init(config: &Log) {
    let filter = EnvFilter::try_from_env("EDGEHOLD_LOG")
        .unwrap_or_else(|_| EnvFilter::new(format!("warn,edgehold={}", config.level.as_str())));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let installed = match config.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // Only in tests is there another logger already.
    let _already_there = installed;
}
