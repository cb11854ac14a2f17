//! The command line: `edgehold run | check | status | certs | cache | approve | bundle | install | uninstall | completions | man | version`.
//!
//! Owns arguments, exit codes and what a person reads on stdout and stderr. Knows the configuration, but no component:
//! what `run` runs is handed in, so that `main.rs` is no more than
//!
//! ```text
//! fn main() -> std::process::ExitCode {
//!     edgehold::cli::main(std::env::args_os(), edgehold::app::run)
//! }
//! ```
//!
//! Problems go to stderr, one line each; answers go to stdout.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::LazyLock;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config};

pub mod approve;
pub mod ask;
pub mod bundle;
pub mod cache;
pub mod check;
mod columns;
pub mod completions;
mod exit;
pub mod install;
pub mod man;
pub mod status;

pub use self::exit::Exit;
use self::exit::{answered, complain};

const EXIT_CODES: &str = "\
Exit codes:
  0   it worked
  1   it failed while running; check: run would fail, or keep nothing
  64  the configuration or the command line is wrong
  65  check, certs: a certificate or key is not usable
  69  check: a server cannot be reached; status, certs, cache: no edgehold answers at the admin address
  77  check --rights: a client may not do what the configuration needs";

/// The arguments of the process.
#[derive(Debug, Parser)]
#[command(
    name = "edgehold",
    version = VERSION.as_str(),
    about = "A per-client mTLS caching reverse proxy between the clients of an edge node and the kube-apiserver",
    after_help = EXIT_CODES
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy until it is told to stop (SIGTERM or SIGINT)
    Run(ConfigArgs),
    /// Check a configuration file, its certificates and the way to the servers, and say what it all means
    Check(check::CheckArgs),
    /// Approve requests for edgehold's serving certificate, after looking at each
    Approve(approve::ApproveArgs),
    /// Say how the running edgehold is: the link and its servers, clients, certificates, the cache
    Status(status::StatusArgs),
    /// Show the certificate files of the running edgehold, and how long they last
    Certs(status::CertsArgs),
    /// Look into what the running edgehold knows while the cloud is away
    Cache(cache::CacheArgs),
    /// Write one file for whoever is to help: status, problems, certificates, configuration, metrics; nothing secret
    Bundle(bundle::BundleArgs),
    /// Put edgehold between this node's clients and their apiserver: configuration, certificate, unit, kubeconfigs
    Install(install::InstallArgs),
    /// Take edgehold away again: everything as it was
    Uninstall(install::UninstallArgs),
    /// Print what a shell needs to complete edgehold's command lines
    Completions(completions::CompletionsArgs),
    /// Print the manual pages
    Man(man::ManArgs),
    /// Print the version and the platform it was built for
    Version,
}

/// The arguments of commands that read a configuration.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    pub config: PathBuf,
}

/// Does what `args` (with the program's name first) ask for, on the standard streams.
pub fn main<A>(args: A, run: impl FnOnce(Config) -> anyhow::Result<()>) -> ExitCode
where
    A: IntoIterator<Item = OsString>,
{
    execute(args, run, &mut io::stdout(), &mut io::stderr()).into()
}

/// As [`main`], writing answers to `out` and problems to `err`.
pub fn execute<A>(
    args: A,
    run: impl FnOnce(Config) -> anyhow::Result<()>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit
where
    A: IntoIterator<Item = OsString>,
{
    match Cli::try_parse_from(args) {
        Ok(cli) => match cli.command {
            Command::Run(args) => start(&args.config, run, err),
            Command::Check(args) => check::run(&args, out, err),
            Command::Approve(args) => approve::run(&args, out, err),
            Command::Status(args) => status::status(&args, out, err),
            Command::Certs(args) => status::certs(&args, out, err),
            Command::Cache(args) => cache::run(&args, out, err),
            Command::Bundle(args) => bundle::run(&args, out, err),
            Command::Install(args) => install::install(args, out, err),
            Command::Uninstall(args) => install::uninstall(args, out, err),
            Command::Completions(args) => completions::print(&args, out),
            Command::Man(args) => man::print(&args, out, err),
            Command::Version => answered(writeln!(out, "edgehold {}", *VERSION)),
        },
        // `--help` and `--version` are errors to clap, but answers to a person.
        Err(asked) if !asked.use_stderr() => answered(write!(out, "{asked}")),
        Err(wrong) => {
            complain(err, &wrong.to_string());
            Exit::Usage
        }
    }
}

/// The version and the platform it was built for, like `0.1.0 (linux x86_64)`.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    format!("{} ({os} {arch})", env!("CARGO_PKG_VERSION"))
});

fn start(path: &Path, run: impl FnOnce(Config) -> anyhow::Result<()>, err: &mut dyn Write) -> Exit {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(errors) => {
            complain(err, &errors.to_string());
            return Exit::Usage;
        }
    };
    match run(config) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            complain(err, &format!("edgehold: {error:#}"));
            Exit::Failed
        }
    }
}
