//! Where log lines go and how they look: standard error, text or JSON. Their level changes while edgehold runs.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt, reload};

use crate::config::{Log, LogFormat, LogLevel};

/// The logger of the process, once it is installed.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    /// What is in force: a level, or the filter of `EDGEHOLD_LOG`.
    filter: Mutex<String>,
    reload: Box<dyn Fn(Targets) -> Result<(), String> + Send + Sync>,
}

/// Installs the logger of the process. `EDGEHOLD_LOG` (a tracing filter such as `edgehold=debug`) overrides the
/// configured level. A second call changes nothing.
pub(crate) fn init(config: &Log) {
    let given = std::env::var("EDGEHOLD_LOG").ok().filter(|text| !text.is_empty());
    let given = given.and_then(|text| Some((text.parse::<Targets>().ok()?, text)));
    let (targets, text) = given.unwrap_or_else(|| (at(config.level), config.level.as_str().to_owned()));
    let (filter, handle) = reload::Layer::new(targets);
    let lines = fmt::layer()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let lines = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    // Only in tests is there another logger already.
    if tracing_subscriber::registry()
        .with(lines)
        .with(filter)
        .try_init()
        .is_ok()
    {
        let _the_first = INSTALLED.set(Installed {
            filter: Mutex::new(text),
            reload: Box::new(move |targets| handle.reload(targets).map_err(|error| error.to_string())),
        });
    }
}

fn at(level: LogLevel) -> Targets {
    Targets::new()
        .with_default(LevelFilter::WARN)
        .with_target("edgehold", filter(level))
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// What is in force.
pub(crate) fn level() -> String {
    INSTALLED.get().map_or_else(
        || "unknown".to_owned(),
        |installed| installed.filter.lock().clone(),
    )
}

/// Puts another level in force, until the process ends.
///
/// # Errors
/// The logger is not edgehold's own.
pub(crate) fn set_level(level: LogLevel) -> Result<(), String> {
    let installed = INSTALLED
        .get()
        .ok_or("the logger of this process is not edgehold's own")?;
    let mut filter = installed.filter.lock();
    // Said at the more talkative of both.
    (installed.reload)(at(level))?;
    tracing::warn!(
        from = *filter,
        to = level.as_str(),
        "the level of the log was changed"
    );
    level.as_str().clone_into(&mut filter);
    Ok(())
}
