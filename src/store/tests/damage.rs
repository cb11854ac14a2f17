//! Torn tails and rotten bytes: what is found is a moment of the past or nothing, never something else.

use proptest::prelude::*;

use super::sim::{Fault, Sim, Survives};
use super::*;

/// A log file with the state at each of its lengths: `(length, state)`; before the first there is no log.
struct Sample {
    coat: Coat,
    path: String,
    bytes: Vec<u8>,
    states: Vec<(usize, Seen)>,
}

fn sample() -> Sample {
    sample_of(Coat::Plain)
}

fn sample_of(coat: Coat) -> Sample {
    let sim = Sim::new(Fault::Never);
    let store = coat.open(&sim).unwrap();
    let all = [("ns/a", "first"), ("ns/b", "second"), ("ns/c", "")];
    let log = replace(&store, &pods(), &all, "10").unwrap();
    let path = sim.files().into_keys().next().unwrap();
    let mut states = Vec::new();
    let mut note = || states.push((sim.files()[&path].len(), seen(&store, &pods())));
    note();
    let changes = [
        put("ns/a", "changed"),
        delete("ns/b"),
        Change::Progress,
        put("ns/d", "new"),
        put("ns/a", "first"),
        delete("ns/a"),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        log.append(change, &(11 + n).to_string(), at(2)).unwrap();
        note();
    }
    let bytes = sim.files()[&path].clone();
    Sample {
        coat,
        path,
        bytes,
        states,
    }
}

impl Sample {
    /// Opens a store with these bytes in place of the log's.
    fn open(&self, bytes: &[u8]) -> (Sim, LogStore, Seen) {
        let sim = Sim::new(Fault::Never);
        sim.plant(&self.path, bytes);
        let store = self.coat.open(&sim).unwrap();
        let found = seen(&store, &pods());
        (sim, store, found)
    }

    /// The state that the first `len` bytes hold.
    fn state_at(&self, len: usize) -> Seen {
        let before = self.states.iter().rev().find(|(end, _)| *end <= len);
        before.and_then(|(_, state)| state.clone())
    }

    fn snapshot_end(&self) -> usize {
        self.states[0].0
    }

    fn last_record(&self) -> usize {
        self.states[self.states.len() - 2].0
    }

    fn is_prefix(&self, found: &Seen) -> bool {
        found.is_none() || self.states.iter().any(|(_, state)| state == found)
    }
}

fn quarantined(sim: &Sim) -> Vec<Vec<u8>> {
    let files = sim.files().into_iter();
    files
        .filter(|(path, _)| path.starts_with("quarantine/"))
        .map(|(_, bytes)| bytes)
        .collect()
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_the_log_goes_on() {
    for sample in Coat::BOTH.map(sample_of) {
        for len in 0..=sample.bytes.len() {
            let (sim, store, found) = sample.open(&sample.bytes[..len]);
            assert_eq!(found, sample.state_at(len), "{len} bytes");
            if len < sample.snapshot_end() {
                assert_eq!(quarantined(&sim), [&sample.bytes[..len]], "{len} bytes");
                assert_eq!(store.logs(), [], "{len} bytes");
                continue;
            }
            let whole = sample.states.iter().any(|(end, _)| *end == len);
            assert_eq!(store.stats().torn, u64::from(!whole), "{len} bytes");
            assert_eq!(store.stats().quarantined, 0, "{len} bytes");
            let log = store.load(&pods()).unwrap().unwrap();
            log.append(put("later", "x"), "99", at(3)).unwrap();
            let next = sample.coat.open(&sim.after(Survives::Told)).unwrap();
            assert_eq!(seen(&next, &pods()), seen(&store, &pods()), "{len} bytes");
            assert_eq!(next.stats().torn, 0);
        }
    }
}

#[test]
fn every_flipped_bit_costs_what_stands_behind_it_and_the_original_is_kept() {
    for sample in Coat::BOTH.map(sample_of) {
        for bit in 0..sample.bytes.len() * 8 {
            let mut bytes = sample.bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (sim, store, found) = sample.open(&bytes);
            assert_eq!(found, sample.state_at(bit / 8), "bit {bit}");
            let stats = store.stats();
            // Nothing tells rot in the last body from a write that was cut off.
            let torn = bit / 8 >= sample.last_record() && stats.torn == 1;
            assert_eq!(
                (stats.quarantined, stats.torn),
                if torn { (0, 1) } else { (1, 0) },
                "bit {bit}"
            );
            assert_eq!(
                quarantined(&sim),
                if torn { vec![] } else { vec![bytes] },
                "bit {bit}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_happens_to_the_bytes_only_the_past_is_found(
        edits in proptest::collection::vec((0..4u8, any::<u16>(), any::<u16>(), any::<u8>()), 1..4),
        sealed: bool,
    ) {
        let sample = sample_of(if sealed { Coat::Sealed } else { Coat::Plain });
        let mut bytes = sample.bytes.clone();
        for (kind, a, b, value) in edits {
            if bytes.is_empty() {
                break;
            }
            let (a, b) = (usize::from(a) % bytes.len(), usize::from(b) % bytes.len());
            let (from, to) = (a.min(b), a.max(b));
            match kind {
                0 => bytes[a] ^= value,
                1 => bytes[from..to].fill(value),
                2 => drop(bytes.drain(from..to)),
                _ => {
                    let copy = bytes[from..to].to_vec();
                    bytes.splice(from..from, copy);
                }
            }
        }
        let (_, _, found) = sample.open(&bytes);
        prop_assert!(sample.is_prefix(&found), "{found:?}");
    }
}

#[test]
fn a_record_that_is_missing_in_the_middle_ends_the_log_there() {
    for sample in Coat::BOTH.map(sample_of) {
        let (from, to) = (sample.states[1].0, sample.states[2].0);
        let mut bytes = sample.bytes.clone();
        bytes.drain(from..to);
        assert_eq!(sample.open(&bytes).2, sample.states[1].1);
    }
}

#[test]
fn a_tail_of_zeros_is_a_torn_tail() {
    for sample in Coat::BOTH.map(sample_of) {
        for zeros in [1, 11, 12, 100, 3 << 20] {
            let mut bytes = sample.bytes.clone();
            bytes.resize(bytes.len() + zeros, 0);
            let (sim, store, found) = sample.open(&bytes);
            assert_eq!(found, sample.state_at(sample.bytes.len()));
            assert_eq!(
                (store.stats().torn, store.stats().quarantined),
                (1, 0),
                "{zeros} zeros"
            );
            assert_eq!(sim.files()[&sample.path], sample.bytes);
        }
    }
}

#[test]
fn one_damaged_file_harms_one_log() {
    let sample = sample();
    let sim = Sim::new(Fault::Never);
    let store = LogStore::on(Arc::new(sim.clone())).unwrap();
    let other = LogId::new(pods().owner, "services");
    replace(&store, &other, &[("a", "1")], "5").unwrap();
    drop(store);
    sim.plant(&sample.path, b"this is no log");
    let store = LogStore::on(Arc::new(sim)).unwrap();
    assert_eq!(seen(&store, &other).unwrap().0, "5");
    assert_eq!(seen(&store, &pods()), None);
    assert_eq!(store.stats().quarantined, 1);
    replace(&store, &pods(), &[("b", "2")], "6").unwrap();
    assert_eq!(seen(&store, &pods()).unwrap().0, "6");
}

#[test]
fn a_file_under_the_name_of_another_log_is_not_taken_for_it() {
    for sample in Coat::BOTH.map(sample_of) {
        let sim = Sim::new(Fault::Never);
        let path = format!("{0}/{0}.log", "0".repeat(32));
        sim.plant(&path, &sample.bytes);
        let store = sample.coat.open(&sim).unwrap();
        assert_eq!(store.logs(), []);
        assert_eq!(quarantined(&sim), [sample.bytes]);
    }
}

#[test]
fn a_log_of_a_newer_format_is_left_alone_until_it_is_replaced() {
    let sample = sample();
    let mut bytes = sample.bytes.clone();
    bytes[8] = 2;
    let crc = crc32fast::hash(&bytes[..12]).to_le_bytes();
    bytes[12..16].copy_from_slice(&crc);
    let (sim, store, found) = sample.open(&bytes);
    assert_eq!((found, store.stats().skipped), (None, 1));
    assert_eq!(sim.files()[&sample.path], bytes);
    replace(&store, &pods(), &[("a", "1")], "20").unwrap();
    assert_eq!(seen(&store, &pods()).unwrap().0, "20");
}

#[test]
fn removing_or_scrubbing_a_log_empties_its_quarantine() {
    for sample in Coat::BOTH.map(sample_of) {
        let mut bytes = sample.bytes.clone();
        bytes[sample.snapshot_end()] ^= 1;
        let (sim, store, _) = sample.open(&bytes);
        assert_eq!(quarantined(&sim).len(), 1);
        store.load(&pods()).unwrap().unwrap().scrub().unwrap();
        assert_eq!(quarantined(&sim).len(), 0);
        let (sim, store, _) = sample.open(&bytes[..40]);
        assert_eq!(quarantined(&sim).len(), 1);
        store.remove(&pods()).unwrap();
        assert_eq!(quarantined(&sim).len(), 0);
    }
}

#[test]
fn the_quarantine_keeps_only_the_newest() {
    let sample = sample();
    let sim = Sim::new(Fault::Never);
    for n in 0..20u8 {
        sim.plant(&sample.path, &[n; 10]);
        drop(LogStore::on(Arc::new(sim.clone())).unwrap());
    }
    let mut kept: Vec<u8> = quarantined(&sim).iter().map(|bytes| bytes[0]).collect();
    kept.sort_unstable();
    assert!(kept.into_iter().eq(4..20));
}

#[test]
fn rot_under_an_open_log_is_not_copied_into_a_new_file() {
    let sample = sample();
    // The value, then the key, of an item of the snapshot.
    for rotten in [&b"ns/c"[..], b"new"] {
        let (sim, store, found) = sample.open(&sample.bytes);
        let log = store.load(&pods()).unwrap().unwrap();
        let place = sample
            .bytes
            .windows(rotten.len())
            .rposition(|bytes| bytes == rotten)
            .unwrap();
        sim.rot(&sample.path, place);
        let refused = log.scrub().unwrap_err();
        assert!(matches!(refused, StoreError::Damaged), "{refused}");
        log.append(Change::Progress, "50", at(5)).unwrap();
        // A new snapshot that is equal to what is in memory must be written out, not confirmed.
        let items = found.unwrap().1;
        let items: Vec<_> = items
            .iter()
            .map(|(k, v)| (str::from_utf8(k).unwrap(), str::from_utf8(v).unwrap()))
            .collect();
        let new = replace(&store, &pods(), &items, "51").unwrap();
        assert!(!Arc::ptr_eq(&log, &new));
        assert_eq!(super::items(&*new), pairs(&items));
        new.scrub().unwrap();
    }
}

#[test]
fn a_staging_notices_rot_in_the_log_it_was_equal_to() {
    let sample = sample();
    let (sim, store, _) = sample.open(&sample.bytes);
    let log = store.load(&pods()).unwrap().unwrap();
    let place = sample
        .bytes
        .windows(3)
        .rposition(|bytes| bytes == b"new")
        .unwrap();
    sim.rot(&sample.path, place);
    let mut staging = store.stage(&pods()).unwrap();
    staging.put(b"ns/d", b"new").unwrap();
    assert!(matches!(staging.put(b"other", b"1"), Err(StoreError::Damaged)));
    // The next one does not lean on it.
    let all = [("ns/d", "new"), ("other", "1")];
    let new = replace(&store, &pods(), &all, "60").unwrap();
    assert_eq!(items(&*new), pairs(&all));
    drop(log);
}
