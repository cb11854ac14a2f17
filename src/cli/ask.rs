//! Asks a running edgehold at its admin address, and shows what it says.

use std::io::Write;
use std::path::PathBuf;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde::de::DeserializeOwned;

use crate::admin::client::{self, AskError};
use crate::admin::read_token;
use crate::config::{self, AdminAddress};

use super::exit::{Exit, answered, complain};

/// Whom to ask.
#[derive(Debug, Args)]
pub struct WhereArgs {
    /// The configuration file that names the admin address
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub(super) config: PathBuf,
    /// Where to ask instead: unix:PATH or http://127.0.0.1:PORT
    #[arg(long, value_name = "ADDRESS")]
    pub(super) admin: Option<AdminAddress>,
    /// The file with the token that `--admin` wants
    #[arg(long, value_name = "FILE", requires = "admin")]
    pub(super) token_file: Option<PathBuf>,
}

/// Whom to ask, and how to show it.
#[derive(Debug, Args)]
pub struct AskArgs {
    #[command(flatten)]
    pub(super) at: WhereArgs,
    /// How to show it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(super) output: Output,
}

/// How an answer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// As edgehold said it.
    Json,
}

/// Asks one edgehold.
pub(super) struct Asker {
    pub(super) address: AdminAddress,
    token: Option<String>,
    runtime: tokio::runtime::Runtime,
}

impl Asker {
    pub(super) fn new(args: &WhereArgs, err: &mut dyn Write) -> Result<Self, Exit> {
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
            runtime,
        })
    }

    /// Asks once, and shows the answer.
    pub(super) fn told<T: DeserializeOwned>(
        &self,
        path: &str,
        output: Output,
        table: impl FnOnce(&T) -> String,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Exit {
        let (body, value) = match self.heard::<T>(path, err) {
            Ok(heard) => heard,
            Err(exit) => return exit,
        };
        let text = table(&value);
        answered(match output {
            Output::Table => write!(out, "{text}"),
            Output::Json => written(out, &body),
        })
    }

    /// Asks once. What went wrong is said.
    pub(super) fn heard<T: DeserializeOwned>(
        &self,
        path: &str,
        err: &mut dyn Write,
    ) -> Result<(Bytes, T), Exit> {
        let body = self.get(path).map_err(|error| {
            complain(err, &format!("edgehold: {error}{}", advice(&error)));
            Exit::Unreachable
        })?;
        let value = serde_json::from_slice(&body).map_err(|error| {
            let address = &self.address;
            complain(
                err,
                &format!("edgehold: {address} is no edgehold of this version: {error}"),
            );
            Exit::Failed
        })?;
        Ok((body, value))
    }

    /// The body of the answer.
    pub(super) fn get(&self, path: &str) -> Result<Bytes, AskError> {
        self.runtime
            .block_on(client::get(&self.address, path, self.token.as_deref()))
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
