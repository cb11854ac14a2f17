//! edgehold in a few seconds, on one machine and without a cluster:
//!
//! ```console
//! $ cargo run --example quickstart             # tells the story, every step checked
//! $ cargo run --example quickstart -- --stay   # and stays, to be tried out with kubectl
//! ```
//!
//! A stand-in apiserver and edgehold run in this process, with certificates in a temporary directory; all requests are
//! real HTTPS. Exit code 0: every step was true; 1: one was not, the last lines say which.

#[path = "quickstart/lab.rs"]
mod lab;
#[path = "quickstart/stay.rs"]
mod stay;
#[path = "quickstart/story.rs"]
mod story;
#[path = "quickstart/teller.rs"]
mod teller;

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use lab::Lab;
use teller::Teller;

const AFTER_HELP: &str = "\
Exit codes:
  0   every step was true
  1   a step was not true, or something could not be started
  2   the command line is wrong

Set EDGEHOLD_LOG=edgehold=debug to see edgehold's own log on stderr.";

/// Tells what edgehold does, step by step, against a stand-in apiserver in this process
#[derive(Debug, Parser)]
#[command(name = "quickstart", after_help = AFTER_HELP)]
struct Arguments {
    /// Keep running afterwards, with a kubeconfig for kubectl; Enter cuts and restores the cloud, Ctrl-C ends it
    #[arg(long)]
    stay: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = std::env::var("EDGEHOLD_LOG").ok();
    if let Some(Ok(filter)) = filter.map(|text| text.parse::<Targets>()) {
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        tracing_subscriber::registry().with(lines).with(filter).init();
    }
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("quickstart: starting the runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let colours = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut teller = Teller::new(Box::new(io::stdout()), colours);
    match runtime.block_on(run(&arguments, &mut teller)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quickstart: {}", teller.failure(&error));
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments, teller: &mut Teller) -> anyhow::Result<()> {
    // The temporary directory goes with the lab, so Ctrl-C must not end the process before it is dropped.
    let mut lab = Lab::new()?;
    tokio::select! {
        told = story::tell(&mut lab, teller) => told?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
    if arguments.stay {
        stay::stay(&mut lab, teller).await?;
    }
    Ok(())
}
