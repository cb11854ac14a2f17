//! Where log lines go and how they look: standard error, text or JSON. Their level changes while edgehold runs.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use parking_lot::Mutex;
use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat, LogLevel};

/// The logger of the process, once it is installed.
static INSTALLED: OnceLock<Installed> = OnceLock::new();

struct Installed {
    /// What is in force: a level, or the filter of `EDGEHOLD_LOG`.
    filter: Mutex<String>,
    reload: Box<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

/// Installs the logger of the process. `EDGEHOLD_LOG` (a tracing filter such as `edgehold=debug`) overrides the
/// configured level. A second call changes nothing.
pub(crate) fn init(config: &Log) {
    let given = std::env::var("EDGEHOLD_LOG").ok().filter(|text| !text.is_empty());
    let given = given.and_then(|text| Some((EnvFilter::try_new(&text).ok()?, text)));
    let (filter, text) = given.unwrap_or_else(|| (at(config.level), config.level.as_str().to_owned()));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    // Only in tests is there another logger already.
    match config.format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                installed(text, move |filter| {
                    handle.reload(filter).map_err(|error| error.to_string())
                });
            }
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            let handle = builder.reload_handle();
            if builder.try_init().is_ok() {
                installed(text, move |filter| {
                    handle.reload(filter).map_err(|error| error.to_string())
                });
            }
        }
    }
}

fn installed(filter: String, reload: impl Fn(EnvFilter) -> Result<(), String> + Send + Sync + 'static) {
    let _the_first = INSTALLED.set(Installed {
        filter: Mutex::new(filter),
        reload: Box::new(reload),
    });
}

fn at(level: LogLevel) -> EnvFilter {
    EnvFilter::new(format!("warn,edgehold={}", level.as_str()))
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
