//! `edgehold status` and `certs`: what a running edgehold says of itself, for a person or a script.

pub(super) mod tables;

use std::io::{IsTerminal as _, Write};
use std::time::Duration;

use clap::Args;

use crate::admin::status::Status;

use super::ask::{AskArgs, Asker};
use super::exit::Exit;

/// Between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(2);

/// Clears a terminal and begins at its top.
const CLEAR: &str = "\x1b[2J\x1b[H";

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

/// Shows how edgehold is.
pub(super) fn status(args: &StatusArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let asker = match Asker::new(&args.ask.at, err) {
        Ok(asker) => asker,
        Err(exit) => return exit,
    };
    if !args.watch {
        return asker.told::<Status>("/status", args.ask.output, tables::status, out, err);
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
        let told = asker.told::<Status>("/status", args.ask.output, tables::status, out, err);
        if told == Exit::Failed || out.flush().is_err() {
            return Exit::Failed;
        }
        std::thread::sleep(PAUSE);
    }
}

/// Shows the certificate files, and fails if one is not what it should be.
pub(super) fn certs(args: &CertsArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let asker = match Asker::new(&args.ask.at, err) {
        Ok(asker) => asker,
        Err(exit) => return exit,
    };
    let mut sound = true;
    let shown = asker.told::<Status>(
        "/status",
        args.ask.output,
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
