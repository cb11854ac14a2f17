//! The `edgehold` binary: see `edgehold help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    edgehold::cli::main(std::env::args_os(), edgehold::app::run)
}
