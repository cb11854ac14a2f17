//! `edgehold status`, `certs` and `cache`: what a running edgehold says of itself, for a person or a script.

mod tables;

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand, ValueEnum};
use serde::de::DeserializeOwned;

use crate::admin::client::{self, AskError};
use crate::admin::read_token;
use crate::admin::status::{CacheListing, Status};
use crate::config::{self, AdminAddress};

use super::{Exit, answered, complain};

/// Between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// Clears a terminal and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Where to ask, and how to show it.
#[derive(Debug, Args)]
pub struct AskArgs {
    /// The configuration file that names the admin address
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Where to ask instead: unix:PATH or http://127.0.0.1:PORT
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<AdminAddress>,
    /// The file with the token that `--admin` wants
    #[arg(long, value_name = "FILE", requires = "admin")]
    token_file: Option<PathBuf>,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// As edgehold said it.
    Json,
}

/// The arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// Show it again and again, until interrupted
    #[arg(long)]
    watch: bool,
}

/// The arguments of `certs`.
#[derive(Debug, Args)]
pub struct CertsArgs {
    #[command(flatten)]
    ask: AskArgs,
}

/// The arguments of `cache`.
#[derive(Debug, Args)]
pub struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// List what this node knows while the cloud is away: whose it is, what, and since when
    Ls(AskArgs),
}

/// Shows how edgehold is.
pub(super) fn status(args: &StatusArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let asker = match Asker::new(&args.ask, err) {
        Ok(asker) => asker,
        Err(exit) => return exit,
    };
    if !args.watch {
        return asker.told::<Status>("/status", tables::status, out, err);
    }
    let clear = if std::io::stdout().is_terminal() {
        CLEAR
    } else {
        ""
    };
    loop {
        if write!(out, "{clear}").is_err() {
            return Exit::Failed;
        }
        // One that is being restarted is there again soon.
        let told = asker.told::<Status>("/status", tables::status, out, err);
        if told == Exit::Failed || out.flush().is_err() {
            return Exit::Failed;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Shows the certificate files, and fails if one is not what it should be.
pub(super) fn certs(args: &CertsArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let asker = match Asker::new(&args.ask, err) {
        Ok(asker) => asker,
        Err(exit) => return exit,
    };
    let mut sound = true;
    let shown = asker.told::<Status>(
        "/status",
        |status| {
            sound = status.certificates.iter().all(|one| one.state == "current");
            tables::certificates(&status.certificates)
        },
        out,
        err,
    );
    match shown {
        Exit::Ok if !sound => Exit::Certificate,
        other => other,
    }
}

/// Shows what is known offline.
pub(super) fn cache(args: &CacheArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let CacheCommand::Ls(ask) = &args.command;
    match Asker::new(ask, err) {
        Ok(asker) => asker.told::<CacheListing>("/cache", tables::listing, out, err),
        Err(exit) => exit,
    }
}

/// Asks one edgehold.
struct Asker {
    address: AdminAddress,
    token: Option<String>,
    output: Output,
    runtime: tokio::runtime::Runtime,
}

impl Asker {
    fn new(args: &AskArgs, err: &mut dyn Write) -> Result<Self, Exit> {
        let mut wrong = |said: String| {
            complain(err, &said);
            Exit::Usage
        };
        let (address, token_file) = match &args.admin {
            Some(address) => (address.clone(), args.token_file.clone()),
            None => {
                let config = config::load(&args.config).map_err(|errors| wrong(errors.to_string()))?;
                (config.admin.address, config.admin.token_file)
            }
        };
        let token = token_file.map(|path| read_token(&path)).transpose();
        let token = token.map_err(|error| wrong(format!("edgehold: the token file: {error}")))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| wrong(format!("edgehold: {error}")))?;
        Ok(Self {
            address,
            token,
            output: args.output,
            runtime,
        })
    }

    /// Asks once, and shows the answer.
    fn told<T: DeserializeOwned>(
        &self,
        path: &str,
        table: impl FnOnce(&T) -> String,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Exit {
        let asked = self
            .runtime
            .block_on(client::get(&self.address, path, self.token.as_deref()));
        let body = match asked {
            Ok(body) => body,
            Err(error) => {
                complain(err, &format!("edgehold: {error}{}", advice(&error)));
                return Exit::Unreachable;
            }
        };
        let value: T = match serde_json::from_slice(&body) {
            Ok(value) => value,
            Err(error) => {
                complain(
                    err,
                    &format!(
                        "edgehold: {} is no edgehold of this version: {error}",
                        self.address
                    ),
                );
                return Exit::Failed;
            }
        };
        let text = table(&value);
        answered(match self.output {
            Output::Table => write!(out, "{text}"),
            Output::Json => written(out, &body),
        })
    }
}

fn written(out: &mut dyn Write, body: &Bytes) -> std::io::Result<()> {
    let value: serde_json::Value = serde_json::from_slice(body)?;
    writeln!(out, "{}", serde_json::to_string_pretty(&value)?)
}

/// What to do about it.
fn advice(error: &AskError) -> &'static str {
    match error {
        AskError::Away { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            "; ask as the user that edgehold runs as, or as root"
        }
        AskError::Away { .. } => "; is edgehold running? Its log says where the admin listener is",
        AskError::Refused { .. } | AskError::Broken { .. } => "",
    }
}
