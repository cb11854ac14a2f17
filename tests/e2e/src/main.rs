//! edgehold in front of a real kube-apiserver, with real clients: `cargo e2e [--kubernetes 1.X] [--keep] [--jobs N]
//! [--build-within MINUTES] [NAME...]`.
//!
//! Runs some scenarios at a time, each with a cluster and an edgehold of its own, and says how they went. What is missing
//! on the machine (Go, binaries) skips the scenarios that need it, in one line; it is no failure. `cargo e2e record` records
//! the answers of an apiserver instead.

mod cluster;
mod kubectl;
mod link;
mod network;
mod node;
mod process;
mod random;
mod record;
mod scenarios;
mod tools;
mod versions;

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::cluster::Cluster;
use crate::process::ends_of_logs;
use crate::scenarios::Scenario;
use crate::tools::{Tool, Tools};
use crate::versions::Versions;

/// No scenario takes longer, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(900);

/// What every scenario needs.
const BASE: [Tool; 2] = [Tool::Etcd, Tool::KubeApiserver];

/// How many scenarios run at a time. They wait most of the time.
const JOBS: usize = 4;

/// No further scenario begins.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// What one scenario came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    Skipped,
}

/// The word on the command line that has fixtures recorded.
const RECORD: &str = "record";

struct Arguments {
    versions: Versions,
    keep: bool,
    jobs: usize,
    /// No program is built after that.
    deadline: Option<Instant>,
    chosen: Vec<Scenario>,
}

fn main() -> ExitCode {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        Scenario::ALL
            .iter()
            .for_each(|scenario| println!("{}", scenario.as_str()));
        return ExitCode::SUCCESS;
    }
    let is_recording = words.first().is_some_and(|word| word == RECORD);
    words.drain(..usize::from(is_recording));
    let arguments = match Arguments::parse(&words) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error:#}");
            return ExitCode::from(2);
        }
    };
    if is_recording {
        return match record::record(&arguments.versions) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{RECORD}: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    let outcomes = run(&arguments).unwrap_or_else(|error| {
        println!("e2e: {error:#}");
        vec![Outcome::Failed; arguments.chosen.len()]
    });
    let count = |wanted| outcomes.iter().filter(|outcome| **outcome == wanted).count();
    let (passed, failed, skipped) = (
        count(Outcome::Passed),
        count(Outcome::Failed),
        count(Outcome::Skipped),
    );
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    ExitCode::from(u8::from(failed > 0))
}

impl Arguments {
    fn parse(words: &[String]) -> anyhow::Result<Self> {
        let (mut keep, mut jobs, mut names) = (false, JOBS, Vec::new());
        let (mut minor, mut deadline) = (None, None);
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.as_str() {
                "--keep" => keep = true,
                "--kubernetes" => minor = Some(words.next().map_or("", String::as_str)),
                "--jobs" => {
                    let number = words.next().and_then(|word| word.parse().ok());
                    jobs = number.filter(|jobs| *jobs > 0).ok_or_else(|| {
                        anyhow::anyhow!("--jobs wants a number: how many scenarios run at a time")
                    })?;
                }
                "--build-within" => {
                    let minutes = words.next().and_then(|word| word.parse::<u64>().ok());
                    let minutes = minutes.context(
                        "--build-within wants a number: the minutes in which programs may be built",
                    )?;
                    deadline = Some(Instant::now() + Duration::from_secs(60 * minutes));
                }
                name => names.push(name),
            }
        }
        let chosen: Vec<Scenario> = Scenario::ALL
            .into_iter()
            .filter(|scenario| names.is_empty() || names.iter().any(|name| scenario.as_str().contains(name)))
            .collect();
        anyhow::ensure!(
            !chosen.is_empty(),
            "no scenario has such a name; --list names them"
        );
        Ok(Self {
            versions: Versions::choose(minor)?,
            keep,
            jobs,
            deadline,
            chosen,
        })
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<Vec<Outcome>> {
    let wanted: BTreeSet<Tool> = BASE
        .into_iter()
        .chain(
            arguments
                .chosen
                .iter()
                .flat_map(|scenario| scenario.needs().iter().copied()),
        )
        .collect();
    let wanted: Vec<Tool> = wanted.into_iter().collect();
    let mut tools = Tools::provide(&arguments.versions, &wanted, arguments.deadline)?;
    if let Some(lack) = tools.lack(&BASE) {
        println!("skipped, all of it: {lack}");
        return Ok(vec![Outcome::Skipped; arguments.chosen.len()]);
    }
    tools.build_edgehold()?;
    println!("Kubernetes {}", arguments.versions.chosen.release());
    let mut dir = tempfile::Builder::new().prefix("edgehold-e2e-").tempdir()?;
    let start = Instant::now();
    let outcomes = run_all(arguments, &tools, dir.path());
    println!("all done in {} s", start.elapsed().as_secs());
    if arguments.keep || outcomes.contains(&Outcome::Failed) {
        dir.disable_cleanup(true);
        println!("kept {}", dir.path().display());
    }
    Ok(outcomes)
}

fn run_all(arguments: &Arguments, tools: &Tools, dir: &Path) -> Vec<Outcome> {
    let queue: Mutex<VecDeque<Scenario>> = Mutex::new(arguments.chosen.iter().copied().collect());
    let outcomes = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs {
            scope.spawn(|| {
                loop {
                    if INTERRUPTED.load(Ordering::Relaxed) {
                        return;
                    }
                    let next = queue.lock().expect("the queue").pop_front();
                    let Some(scenario) = next else { return };
                    // A panic is a failure of this scenario, and not of those that come after it.
                    let done = catch_unwind(AssertUnwindSafe(|| run_one(scenario, tools, dir)));
                    let outcome = done.unwrap_or_else(|_| {
                        println!("{}: FAILED, it has panicked", scenario.as_str());
                        Outcome::Failed
                    });
                    if outcome == Outcome::Failed {
                        let name = scenario.as_str();
                        let logs = ends_of_logs(&dir.join(name));
                        println!("{name}: what was said last:\n{logs}--- end of the logs of {name}");
                    }
                    outcomes.lock().expect("the outcomes").push(outcome);
                }
            });
        }
    });
    outcomes.into_inner().expect("the outcomes")
}

/// Runs it on this thread, in a runtime that ends with it.
fn run_one(scenario: Scenario, tools: &Tools, dir: &Path) -> Outcome {
    let name = scenario.as_str();
    if let Some(lack) = tools.lack(scenario.needs()) {
        println!("{name}: skipped, {lack}");
        return Outcome::Skipped;
    }
    println!("{name}: begins");
    let start = Instant::now();
    let whole = async {
        let mut cluster = Cluster::start(tools, &dir.join(name), scenario.apiserver_flags()).await?;
        scenario.run(&mut cluster).await
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = runtime.expect("a runtime").block_on(async {
        // However it ends, what it has started ends with it.
        tokio::select! {
            outcome = scenarios::NAME.scope(name, whole) => outcome,
            () = tokio::time::sleep(DEADLINE) => Err(anyhow::anyhow!("not done within {DEADLINE:?}")),
            () = interrupted() => Err(anyhow::anyhow!("interrupted")),
        }
    });
    let seconds = start.elapsed().as_secs();
    match outcome {
        Ok(()) => {
            println!("{name}: passed in {seconds} s");
            Outcome::Passed
        }
        Err(error) if error.is::<scenarios::Skip>() => {
            println!("{name}: skipped, {error}");
            Outcome::Skipped
        }
        Err(error) => {
            println!("{name}: FAILED after {seconds} s: {error:#}");
            Outcome::Failed
        }
    }
}

/// SIGINT or SIGTERM.
async fn interrupted() {
    let mut terminate = signal(SignalKind::terminate()).expect("a handler of SIGTERM");
    let mut interrupt = signal(SignalKind::interrupt()).expect("a handler of SIGINT");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    INTERRUPTED.store(true, Ordering::Relaxed);
}
