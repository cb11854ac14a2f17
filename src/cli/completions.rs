//! `edgehold completions`: a script for a shell, made from the arguments themselves.

use std::io::Write;

use clap::{Args, CommandFactory as _, ValueEnum};
use clap_complete::generate;
use clap_complete::shells;

use super::Cli;
use super::exit::{Exit, answered};

/// The arguments of `completions`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    #[arg(value_enum)]
    shell: Shell,
}

/// The shells that are tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn print(args: &CompletionsArgs, out: &mut dyn Write) -> Exit {
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // The generators panic if they cannot write.
    let mut script = Vec::new();
    match args.shell {
        Shell::Bash => generate(shells::Bash, &mut command, name, &mut script),
        Shell::Zsh => generate(shells::Zsh, &mut command, name, &mut script),
        Shell::Fish => generate(shells::Fish, &mut command, name, &mut script),
    }
    answered(out.write_all(&script).and_then(|()| out.flush()))
}
