//! `edgehold man`: manual pages, made from the arguments themselves.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_mangen::Man;

use super::Cli;
use super::exit::{Exit, answered, complain};

/// The arguments of `man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory, instead of the page of edgehold itself to standard output
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub(super) fn print(args: &ManArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let Some(directory) = &args.directory else {
        return answered(Man::new(Cli::command()).render(out));
    };
    match clap_mangen::generate_to(Cli::command(), directory) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(err, &format!("edgehold: {}: {error}", directory.display()));
            Exit::Failed
        }
    }
}
