//! The process or the disk stops at every single operation: what is found then is a moment of the past, not before
//! the last sync, with items and position of that moment together.

use super::sim::{Chance, Fault, Sim, Survives};
use super::*;

const STEPS: usize = 40;
const SEEDS: u64 = 8;

/// What is done to the store.
#[derive(Debug, Clone)]
enum Step {
    Put(usize, String, String),
    Delete(usize, String),
    Progress(usize),
    /// A new snapshot: some items of the old one are changed, dropped or added.
    Replace(usize, Vec<(String, String)>),
    /// A snapshot equal to the log.
    Same(usize),
    Create(usize),
    Remove(usize),
    Scrub(usize),
    Sync,
    /// The process ends and a new one starts, on the same running machine.
    Restart,
}

fn ids() -> [LogId; 2] {
    [pods(), LogId::new("cn:other", "objects")]
}

fn steps(seed: u64) -> Vec<Step> {
    let mut chance = Chance::new(seed + 1);
    let mut steps = vec![Step::Create(1), Step::Replace(0, vec![("a".into(), "1".into())])];
    for n in 0..STEPS {
        let log = chance.below(2);
        let key = format!("ns/{}", chance.below(4));
        let value = format!("{n}-").repeat(1 + chance.below(40));
        steps.push(match chance.below(20) {
            0..=6 => Step::Put(log, key, value),
            7 | 8 => Step::Delete(log, key),
            9 => Step::Progress(log),
            10..=12 => {
                let item = |k| {
                    (
                        format!("ns/{k}"),
                        if k == 1 { value.clone() } else { "same".into() },
                    )
                };
                Step::Replace(log, (0..chance.below(4)).map(item).collect())
            }
            13 => Step::Same(log),
            14 => Step::Create(log),
            15 => Step::Remove(log),
            16 => Step::Scrub(log),
            17 | 18 => Step::Sync,
            _ => Step::Restart,
        });
    }
    steps
}

/// All states that a log went through, and from which on they are durable. A sync makes items durable, not a position
/// that alone was written since.
#[derive(Default)]
struct History {
    states: Vec<Seen>,
    durable: usize,
}

impl History {
    fn new() -> Self {
        Self {
            states: vec![None],
            durable: 0,
        }
    }

    fn now(&self) -> &Seen {
        self.states.last().unwrap()
    }

    fn settle(&mut self) {
        self.durable = self.states.len() - 1;
    }

    fn synced(&mut self) {
        let items = |state: &Seen| state.as_ref().map(|(_, items)| items.clone());
        let changed = |n: &usize| *n == 0 || items(&self.states[*n]) != items(&self.states[*n - 1]);
        let last_change = (0..self.states.len()).rev().find(changed).unwrap();
        self.durable = self.durable.max(last_change);
    }
}

/// What a step makes of a log, and whether it is durable when the step returns.
fn expected(step: &Step, n: usize, now: &Seen) -> (Seen, bool) {
    let position = n.to_string();
    let mut next = now.clone();
    let mut durable = false;
    match (step, &mut next) {
        (Step::Put(_, key, value), Some((at, items))) => {
            items.insert(key.clone().into(), value.clone().into());
            *at = position;
        }
        (Step::Delete(_, key), Some((at, items))) => {
            items.remove(key.as_bytes());
            *at = position;
        }
        (Step::Progress(_) | Step::Same(_), Some((at, _))) => *at = position,
        (Step::Replace(_, items), next) => {
            let items: BTreeMap<Vec<u8>, Vec<u8>> = items
                .iter()
                .map(|(k, v)| (k.clone().into(), v.clone().into()))
                .collect();
            durable = now.as_ref().is_none_or(|(_, old)| *old != items);
            *next = Some((position, items));
        }
        (Step::Create(_), next @ None) => {
            *next = Some((String::new(), BTreeMap::new()));
            durable = true;
        }
        (Step::Remove(_), next) => {
            *next = None;
            durable = true;
        }
        (Step::Scrub(_), Some(_)) => durable = true,
        _ => {}
    }
    (next, durable)
}

fn target(step: &Step) -> Option<usize> {
    match step {
        Step::Put(log, ..)
        | Step::Delete(log, _)
        | Step::Progress(log)
        | Step::Replace(log, _)
        | Step::Same(log)
        | Step::Create(log)
        | Step::Remove(log)
        | Step::Scrub(log) => Some(*log),
        Step::Sync | Step::Restart => None,
    }
}

fn perform(store: &LogStore, step: &Step, n: usize) -> Result<(), StoreError> {
    let ids = ids();
    let position = n.to_string();
    let append = |log: usize, change| match store.load(&ids[log])? {
        Some(log) => log.append(change, &position, at(n as u64)).map(drop),
        None => Ok(()),
    };
    match step {
        Step::Put(log, key, value) => append(*log, put(key, value)),
        Step::Delete(log, key) => append(*log, delete(key)),
        Step::Progress(log) => append(*log, Change::Progress),
        Step::Replace(log, items) => {
            let items: Vec<_> = items.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
            replace(store, &ids[*log], &items, &position).map(drop)
        }
        Step::Same(log) => {
            let Some(log) = store.load(&ids[*log])? else {
                return Ok(());
            };
            let mut staging = store.stage(log.id())?;
            for entry in log.snapshot().entries() {
                let (key, value) = entry?;
                staging.put(&key, &value)?;
            }
            staging.commit(&log.header(), &position, at(n as u64)).map(drop)
        }
        Step::Create(log) => store.create(&ids[*log], b"header").map(drop),
        Step::Remove(log) => store.remove(&ids[*log]),
        Step::Scrub(log) => match store.load(&ids[*log])? {
            Some(log) => log.scrub(),
            None => Ok(()),
        },
        Step::Sync => store.sync(),
        Step::Restart => Ok(()),
    }
}

/// Runs the steps until the power is cut; gives what can be found then.
fn run(coat: Coat, sim: &Sim, steps: &[Step]) -> [History; 2] {
    let mut histories = [History::new(), History::new()];
    let Ok(mut store) = coat.open(sim) else {
        return histories;
    };
    for (n, step) in steps.iter().enumerate() {
        if matches!(step, Step::Restart) {
            drop(store);
            match coat.open(sim) {
                Ok(new) => store = new,
                Err(_) => break,
            }
            continue;
        }
        let mut settles = false;
        if let Some(log) = target(step) {
            let (next, durable) = expected(step, n, histories[log].now());
            histories[log].states.push(next);
            settles = durable;
        }
        let result = perform(&store, step, n);
        if sim.is_off() {
            break;
        }
        result.unwrap_or_else(|e| panic!("step {n} {step:?} failed: {e}"));
        match target(step) {
            Some(log) if settles => histories[log].settle(),
            Some(log) => assert_eq!(
                &seen(&store, &ids()[log]),
                histories[log].now(),
                "step {n} {step:?}"
            ),
            None => histories.iter_mut().for_each(History::synced),
        }
    }
    histories
}

#[test]
fn after_a_crash_at_any_operation_each_log_is_at_a_moment_of_its_past() {
    crash_everywhere(Coat::Plain, SEEDS);
}

#[test]
fn after_a_crash_at_any_operation_each_sealed_log_is_at_a_moment_of_its_past() {
    crash_everywhere(Coat::Sealed, SEEDS / 2);
}

fn crash_everywhere(coat: Coat, seeds: u64) {
    let mut cuts = 0;
    for seed in 0..seeds {
        let steps = steps(seed);
        let whole = Sim::new(Fault::Never);
        run(coat, &whole, &steps);
        assert!(
            whole.ops() > 50,
            "seed {seed} does too little: {} operations",
            whole.ops()
        );
        for cut in 1..=whole.ops() {
            let sim = Sim::new(Fault::Cut(cut));
            let histories = run(coat, &sim, &steps);
            assert!(sim.is_off());
            cuts += 1;
            let chances = (0..4).map(|n| Survives::Chance(seed * 1000 + cut * 10 + n));
            for survives in [Survives::Told, Survives::Synced].into_iter().chain(chances) {
                let case = format!("seed {seed}, cut at {cut}, {survives:?}");
                let sim = sim.after(survives);
                let store = coat.open(&sim).unwrap();
                let found = ids().map(|id| seen(&store, &id));
                for (found, history) in found.iter().zip(&histories) {
                    let possible = &history.states[history.durable..];
                    assert!(
                        possible.contains(found),
                        "{case}: {found:?} is none of {possible:?}"
                    );
                }
                let left: Vec<_> = sim
                    .files()
                    .into_keys()
                    .filter(|path| path.ends_with(".tmp"))
                    .collect();
                assert_eq!(left, [""; 0], "{case}");
                and_goes_on(coat, &store, &sim, &found, &case);
            }
        }
    }
    assert!(cuts > 250, "only {cuts} crashes");
}

/// What was found can be written on, and a second power cut takes none of what is synced then.
fn and_goes_on(coat: Coat, store: &LogStore, sim: &Sim, found: &[Seen; 2], case: &str) {
    for (id, found) in ids().iter().zip(found) {
        let mut expected = found.clone();
        if let (Some(log), Some((at_position, items))) = (store.load(id).unwrap(), &mut expected) {
            log.append(put("later", "x"), "999", at(999)).unwrap();
            items.insert(b"later".to_vec(), b"x".to_vec());
            *at_position = "999".to_owned();
        }
        store.sync().unwrap();
        let again = coat.open(&sim.after(Survives::Synced)).unwrap();
        assert_eq!(seen(&again, id), expected, "{case}: after a second cut");
    }
}

#[test]
fn a_failed_operation_leaves_each_log_as_the_next_process_finds_it() {
    fail_everywhere(Coat::Plain, SEEDS);
}

#[test]
fn a_failed_operation_leaves_each_sealed_log_as_the_next_process_finds_it() {
    fail_everywhere(Coat::Sealed, SEEDS / 2);
}

fn fail_everywhere(coat: Coat, seeds: u64) {
    let mut broken = 0;
    for seed in 0..seeds {
        let steps = steps(seed);
        let whole = Sim::new(Fault::Never);
        run(coat, &whole, &steps);
        for (from, count) in (1..=whole.ops()).flat_map(|from| [(from, 1), (from, 2), (from, 5)]) {
            let case = format!("seed {seed}, {count} failures from {from}");
            let sim = Sim::new(Fault::Fail { from, count });
            let store = loop {
                // The store may refuse to open on a root that cannot be used, but not for ever.
                if let Ok(store) = coat.open(&sim) {
                    break store;
                }
            };
            let mut held: [Option<Arc<dyn Log>>; 2] = [None, None];
            for (n, step) in steps.iter().enumerate() {
                let log = target(step);
                let before = log.map(|log| seen(&store, &ids()[log]));
                let result = perform(&store, step, n);
                broken += u32::from(matches!(result, Err(StoreError::Broken)));
                if result.is_err()
                    && let (Some(log), Some(before)) = (log, before)
                    && !matches!(step, Step::Remove(_))
                {
                    assert_eq!(
                        seen(&store, &ids()[log]),
                        before,
                        "{case}: step {n} {step:?} failed"
                    );
                }
                // Hold the logs: what is only in memory must show.
                held = ids().map(|id| store.load(&id).unwrap());
            }
            let states = ids().map(|id| seen(&store, &id));
            let next = coat.open(&sim.after(Survives::Told)).unwrap();
            assert_eq!(ids().map(|id| seen(&next, &id)), states, "{case}: after kill -9");
            // The kernel forgets what it failed to write: what counts is what is rewritten and synced now.
            let mut rounds = 0;
            while store.sync().and(store.compact_due().map(drop)).is_err() {
                rounds += 1;
                assert!(rounds < 20, "{case}: never healed: {:?}", store.sync());
            }
            store.sync().unwrap_or_else(|e| panic!("{case}: {e}"));
            let next = coat.open(&sim.after(Survives::Synced)).unwrap();
            for (found, state) in ids().map(|id| seen(&next, &id)).iter().zip(&states) {
                let items = |seen: &Seen| seen.as_ref().map(|(_, items)| items.clone());
                let position = |seen: &Seen| seen.as_ref().and_then(|(at, _)| at.parse::<u64>().ok());
                assert_eq!(items(found), items(state), "{case}: after a power cut");
                assert!(position(found) <= position(state), "{case}: after a power cut");
            }
            sim.repair();
            for log in held.iter().flatten() {
                log.append(put("healed", "x"), "999", at(999))
                    .unwrap_or_else(|e| panic!("{case}: {e}"));
            }
        }
    }
    assert!(broken > 5, "only {broken} logs were ever broken");
}
