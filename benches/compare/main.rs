//! edgehold beside nginx and HAProxy at their own job, measured in one run.
//!
//! `benches/compare/run` installs both (Debian, as root) and prints a Markdown table: the same certificates, the same upstream
//! (nginx with files, or the stand-in apiserver where events are needed), client, upstream and proxies on the same machine, rounds
//! interleaved, medians with the least and the most. Ratios count; figures of other machines do not compare.
//!
//! `COMPARE_ROUNDS` (5) and `COMPARE_SECONDS` (3, of each measurement) make it longer; words choose cases: `-- gets lists`;
//! `COMPARE_EDGEHOLD` is another build of edgehold to measure.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

mod contenders;
mod load;
mod process;
mod report;
mod watches;

use std::time::Duration;

use contenders::{Contender, Field};
use report::{Case, Report};

/// The cases, as they are named on the command line.
const CASES: [&str; 6] = ["gets", "one", "lists", "offline", "idle", "watches"];

fn main() {
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    if let Some(unknown) = asked.iter().find(|word| !CASES.contains(&word.as_str())) {
        eprintln!("there is no case {unknown}: {}", CASES.join(", "));
        std::process::exit(2);
    }
    let wanted = |case: &str| asked.is_empty() || asked.iter().any(|word| word == case);
    let (rounds, seconds) = (number("COMPARE_ROUNDS", 5), number("COMPARE_SECONDS", 3));
    let plan = Plan {
        rounds,
        each: Duration::from_secs(seconds),
    };
    let mut report = Report::default();
    if ["gets", "one", "lists", "idle", "offline"]
        .iter()
        .any(|case| wanted(case))
    {
        let mut field = Field::start();
        if wanted("idle") {
            report.add(idle(&field));
        }
        if wanted("gets") {
            report.extend(gets(&field, plan, "gets", 32));
        }
        if wanted("one") {
            report.extend(gets(&field, plan, "one", 1));
        }
        if wanted("lists") {
            report.extend(lists(&field, plan));
        }
        if wanted("offline") {
            report.extend(offline(&mut field, plan));
        }
    }
    if wanted("watches") {
        report.extend(watches::measure(1000));
    }
    println!("{report}");
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(otherwise)
}

/// How often and how long.
#[derive(Clone, Copy)]
struct Plan {
    rounds: u64,
    each: Duration,
}

/// Small answers over some connections, HTTP/1.1.
fn gets(field: &Field, plan: Plan, name: &str, connections: usize) -> Vec<Case> {
    let title = |what: &str| match connections {
        1 => format!("GET 2 KB, one connection, h1: {what}"),
        n => format!("GET 2 KB, {n} connections, h1: {what}"),
    };
    let mut cases = [
        Case::new(title("requests/s"), "/s"),
        Case::new(title("p50"), "µs"),
        Case::new(title("p99"), "µs"),
        Case::new(title("processor time of the proxy a request"), "µs"),
        Case::new(title("context switches of the proxy a request"), ""),
    ];
    for contender in field.contenders() {
        field.load(contender, contenders::OBJECT, connections, plan.each / 3);
    }
    for round in 0..plan.rounds {
        for contender in field.contenders() {
            let before = process::usage(&contender.pids());
            let load = field.load(contender, contenders::OBJECT, connections, plan.each);
            let used = process::usage(&contender.pids()) - before;
            let count = load.requests() as f64;
            cases[0].note(contender.name, load.rate());
            cases[1].note(contender.name, load.percentile(50));
            cases[2].note(contender.name, load.percentile(99));
            if contender.is_proxy() {
                cases[3].note(contender.name, used.cpu.as_secs_f64() * 1e6 / count);
                cases[4].note(contender.name, used.switches as f64 / count);
            }
            eprintln!("{name}, round {round}: {} {:.0}/s", contender.name, load.rate());
        }
    }
    cases.into()
}

/// A large list over one connection.
fn lists(field: &Field, plan: Plan) -> Vec<Case> {
    let mut rate = Case::new("LIST 20 MB, one connection, h1".to_owned(), "MB/s");
    let mut cpu = Case::new("LIST 20 MB: processor time of the proxy a MB".to_owned(), "µs");
    let mut memory = Case::new("resident after the lists".to_owned(), "MiB");
    for contender in field.contenders() {
        field.load(contender, contenders::LIST, 1, plan.each / 3);
    }
    for round in 0..plan.rounds {
        for contender in field.contenders() {
            let before = process::usage(&contender.pids());
            let load = field.load(contender, contenders::LIST, 1, plan.each);
            let used = process::usage(&contender.pids()) - before;
            rate.note(contender.name, load.megabytes() / load.seconds());
            if contender.is_proxy() {
                cpu.note(contender.name, used.cpu.as_secs_f64() * 1e6 / load.megabytes());
                memory.note(contender.name, process::resident(&contender.pids()));
            }
            eprintln!(
                "lists, round {round}: {} {:.0} MB/s",
                contender.name,
                load.megabytes() / load.seconds()
            );
        }
    }
    vec![rate, cpu, memory]
}

/// What edgehold says out of its cache, beside what it says online and nginx says out of a file.
fn offline(field: &mut Field, plan: Plan) -> Vec<Case> {
    let mut gets = Case::new("GET 2 KB, 32 connections, from the cache".to_owned(), "/s");
    let mut lists = Case::new("LIST 20 MB, one connection, from the cache".to_owned(), "MB/s");
    let edgehold = field.edgehold();
    let nginx = field.direct();
    for path in [contenders::OBJECT, contenders::LIST] {
        field.load(&edgehold, path, 1, Duration::from_millis(1));
    }
    field.recorded();
    for _ in 0..plan.rounds {
        let online = field.load(&edgehold, contenders::OBJECT, 32, plan.each);
        gets.note("edgehold online", online.rate());
        gets.note(
            "nginx, a file",
            field.load(&nginx, contenders::OBJECT, 32, plan.each).rate(),
        );
        let list = field.load(&nginx, contenders::LIST, 1, plan.each);
        lists.note("nginx, a file", list.megabytes() / list.seconds());
    }
    field.cut();
    for _ in 0..plan.rounds {
        gets.note(
            "edgehold",
            field.load(&edgehold, contenders::OBJECT, 32, plan.each).rate(),
        );
        let list = field.load(&edgehold, contenders::LIST, 1, plan.each);
        lists.note("edgehold", list.megabytes() / list.seconds());
    }
    vec![gets, lists]
}

/// What each takes before anybody has asked it for anything.
fn idle(field: &Field) -> Case {
    let mut case = Case::new("resident, idle".to_owned(), "MiB");
    for contender in field.contenders().iter().filter(|c: &&Contender| c.is_proxy()) {
        case.note(contender.name, process::resident(&contender.pids()));
    }
    case
}
