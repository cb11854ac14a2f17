//! edgehold in front of a real kube-apiserver, with real clients: `cargo e2e [--keep] [NAME...]`.
//!
//! Starts one cluster, runs the scenarios one after the other, each with an edgehold of its own, and says how they went.
//! What is missing on the machine (Go, binaries) skips the scenarios that need it, in one line; it is no failure.

mod cluster;
mod kubectl;
mod link;
mod node;
mod process;
mod random;
mod scenarios;
mod tools;

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::cluster::Cluster;
use crate::scenarios::Scenario;
use crate::tools::{Tool, Tools};

/// No scenario takes longer, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(600);

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
    skipped: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        Scenario::ALL
            .iter()
            .for_each(|scenario| println!("{}", scenario.as_str()));
        return ExitCode::SUCCESS;
    }
    let keep = arguments.iter().any(|argument| argument == "--keep");
    let names: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let chosen: Vec<Scenario> = Scenario::ALL
        .into_iter()
        .filter(|scenario| names.is_empty() || names.iter().any(|name| scenario.as_str().contains(*name)))
        .collect();
    if chosen.is_empty() {
        eprintln!("no scenario has such a name; --list names them");
        return ExitCode::from(2);
    }
    match run(&chosen, keep).await {
        Ok(Counts {
            passed,
            failed,
            skipped,
        }) => {
            println!("{passed} passed, {failed} failed, {skipped} skipped");
            ExitCode::from(u8::from(failed > 0))
        }
        Err(error) => {
            println!("e2e: {error:#}");
            println!("0 passed, {} failed, 0 skipped", chosen.len());
            ExitCode::FAILURE
        }
    }
}

async fn run(chosen: &[Scenario], keep: bool) -> anyhow::Result<Counts> {
    let mut counts = Counts::default();
    let base = [Tool::Etcd, Tool::KubeApiserver];
    let wanted: BTreeSet<Tool> = base
        .iter()
        .chain(chosen.iter().flat_map(|scenario| scenario.needs()))
        .copied()
        .collect();
    let mut tools = Tools::provide(&wanted.into_iter().collect::<Vec<_>>())?;
    if let Some(lack) = tools.lack(&base) {
        println!("e2e: {lack}");
        counts.skipped = chosen.len();
        return Ok(counts);
    }
    tools.build_edgehold()?;
    let mut dir = tempfile::Builder::new().prefix("edgehold-e2e-").tempdir()?;
    let mut cluster = Cluster::start(&tools, dir.path()).await?;
    println!("kube-apiserver is ready, logs in {}", dir.path().display());
    for scenario in chosen {
        let name = scenario.as_str();
        if let Some(lack) = tools.lack(scenario.needs()) {
            println!("{name}: skipped, {lack}");
            counts.skipped += 1;
            continue;
        }
        println!("{name}:");
        let start = Instant::now();
        let outcome = tokio::time::timeout(DEADLINE, scenario.run(&mut cluster)).await;
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("not done within {DEADLINE:?}")));
        let seconds = start.elapsed().as_secs();
        match outcome {
            Ok(()) => {
                println!("{name}: passed in {seconds} s");
                counts.passed += 1;
            }
            Err(error) => {
                println!("{name}: FAILED after {seconds} s: {error:?}");
                counts.failed += 1;
            }
        }
    }
    if keep || counts.failed > 0 {
        dir.disable_cleanup(true);
        println!("kept {}", dir.path().display());
    }
    Ok(counts)
}
