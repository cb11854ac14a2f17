//! Each check on each seed and on so many changed ones. `EDGEHOLD_FUZZ_RUNS` and `EDGEHOLD_FUZZ_SEED` ask for more and for
//! others.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::random::Random;
use crate::targets::{event, filter, frames, gunzip, jwt, list, object, plain, request, status, token};
use crate::{Outcome, corpus};

type Check = fn(&[u8]) -> Outcome;

/// A second or less for each check in a debug build.
const RUNS: usize = 1500;

const SEED: u64 = 1;

/// What did not hold for which input.
struct Failure {
    number: usize,
    input: Vec<u8>,
}

/// How many inputs were taken for what they may be, and how many were not.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    accepted: usize,
    refused: usize,
}

fn run(check: Check, corpus: &[Vec<u8>], seed: u64, runs: usize) -> Result<Counts, Failure> {
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    for number in 0..corpus.len() + runs {
        let input = match corpus.get(number) {
            Some(plain) => plain.clone(),
            None => random.change(corpus),
        };
        match catch_unwind(AssertUnwindSafe(|| check(&input))) {
            Ok(Outcome::Accepted) => counts.accepted += 1,
            Ok(Outcome::Refused) => counts.refused += 1,
            Err(_) => return Err(Failure { number, input }),
        }
    }
    Ok(counts)
}

fn asked(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn holds(check: Check, corpus: &[Vec<u8>]) {
    let runs = asked("EDGEHOLD_FUZZ_RUNS").map_or(RUNS, |runs| usize::try_from(runs).unwrap());
    let seed = asked("EDGEHOLD_FUZZ_SEED").unwrap_or(SEED);
    match run(check, corpus, seed, runs) {
        // One that takes nothing, or everything, checks nothing.
        Ok(counts) => assert!(
            counts.accepted > corpus.len() / 8 && counts.refused > runs / 20,
            "{counts:?}"
        ),
        Err(Failure { number, input }) => {
            panic!("input {number} of seed {seed}: {}", input.escape_ascii())
        }
    }
}

#[test]
fn events() {
    holds(event::check, &corpus::events());
}

#[test]
fn filters() {
    holds(filter::check, &corpus::bodies());
}

#[test]
fn watch_frames() {
    holds(frames::check, &corpus::bodies());
}

#[test]
fn packed_streams() {
    holds(gunzip::check, &corpus::packed());
}

#[test]
fn lists() {
    holds(list::check, &corpus::bodies());
}

#[test]
fn objects() {
    holds(object::check, &corpus::bodies());
}

#[test]
fn objects_as_json() {
    holds(plain::check, &corpus::bodies());
}

#[test]
fn requests() {
    holds(request::check, &corpus::requests());
}

#[test]
fn statuses() {
    holds(status::check, &corpus::bodies());
}

#[test]
fn token_requests() {
    holds(token::check, &corpus::bodies());
}

#[test]
fn tokens_and_issuers() {
    holds(jwt::check, &corpus::tokens());
}

/// Holds for every seed, and not for one in which a name has been cut or doubled.
fn planted(data: &[u8]) -> Outcome {
    let count = data.windows(8).filter(|part| part == b"metadata").count();
    assert!(count != 3 || data.len() % 7 != 5, "planted");
    Outcome::Accepted
}

#[test]
fn what_does_not_hold_is_found_and_can_be_tried_again() {
    let corpus: Vec<_> = corpus::bodies()
        .into_iter()
        .filter(|seed| catch_unwind(|| planted(seed)).is_ok())
        .collect();
    let found = run(planted, &corpus, SEED, RUNS);
    let Err(Failure { number, input }) = found else {
        panic!("it was not found");
    };
    assert!(number >= corpus.len(), "not among the seeds");
    assert!(catch_unwind(|| planted(&input)).is_err());
}

#[test]
fn the_same_seed_gives_the_same_inputs_and_another_seed_others() {
    let corpus = corpus::bodies();
    let inputs = |seed| {
        let mut random = Random::new(seed);
        (0..50).map(|_| random.change(&corpus)).collect::<Vec<_>>()
    };
    assert_eq!(inputs(1), inputs(1));
    assert_ne!(inputs(1), inputs(2));
}
