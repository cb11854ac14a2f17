//! edgehold behind bad links: `cargo net [--strict] [--list] [NAME...]`.
//!
//! edgehold runs in a network namespace of its own; its only way to the cloud is a pair of TUN devices between which
//! `wire.rs` carries, delays and loses the packets. It does what `tc netem` does, also on kernels that have no netem.
//! Everything lives in a namespace that ends with this process. Without root or TUN all of it is skipped, in one line.

mod figures;
mod namespace;
mod node;
mod scenarios;
mod watching;
mod wire;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::figures::Figures;
use crate::scenarios::{Mode, Scenario};

/// No scenario takes longer than its own time and this.
const GRACE: Duration = Duration::from_secs(180);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--list") {
        Scenario::ALL
            .iter()
            .for_each(|scenario| println!("{}: {}", scenario.as_str(), scenario.about()));
        return ExitCode::SUCCESS;
    }
    let strict = arguments.iter().any(|argument| argument == "--strict");
    let mode = if strict { Mode::Strict } else { Mode::Quick };
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
    if let Some(reason) = namespace::lacking() {
        println!("skipped: {reason}");
        println!("0 passed, 0 failed, {} skipped", chosen.len());
        return ExitCode::SUCCESS;
    }
    if !namespace::is_inside() {
        return namespace::run_inside(&arguments);
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(run(&chosen, mode))
}

async fn run(chosen: &[Scenario], mode: Mode) -> ExitCode {
    let program = match node::build(mode) {
        Ok(program) => program,
        Err(error) => {
            println!("net: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    let (mut passed, mut failed) = (0, 0);
    for scenario in chosen {
        let began = Instant::now();
        println!("{}: {}", scenario.as_str(), scenario.about());
        let mut figures = Figures::default();
        let limit = scenario.length(mode) + GRACE;
        let outcome = tokio::time::timeout(limit, scenario.run(&program, mode, &mut figures)).await;
        let result = match outcome {
            Ok(Ok(())) => figures.verdict(mode),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(anyhow::anyhow!("not done after {limit:?}")),
        };
        let took = began.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("{} passed, {took:.1} s", scenario.as_str());
            }
            Err(error) => {
                failed += 1;
                println!("{} FAILED, {took:.1} s: {error:#}", scenario.as_str());
            }
        }
    }
    println!("{passed} passed, {failed} failed, 0 skipped");
    ExitCode::from(u8::from(failed > 0))
}
