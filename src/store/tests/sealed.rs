//! Sealed files: what is readable without the key, rotation, and keys that are missing or wrong.

use super::sim::{Fault, Sim, Survives};
use super::*;

const SECRET: &str = "a-value-that-must-not-be-readable";

fn is_in(files: &BTreeMap<String, Vec<u8>>, needle: &str) -> bool {
    let holds = |bytes: &[u8]| bytes.windows(needle.len()).any(|part| part == needle.as_bytes());
    files
        .iter()
        .any(|(path, bytes)| path.contains(needle) || holds(bytes))
}

fn filled(keys: &[&str]) -> Sim {
    let sim = Sim::new(Fault::Never);
    let store = open_with(&sim, keys).unwrap();
    let log = replace(&store, &pods(), &[("ns/a", SECRET), ("ns/b", "2")], "10").unwrap();
    log.append(put("ns/c", SECRET), "11", at(2)).unwrap();
    sim
}

fn names(sim: &Sim) -> Vec<String> {
    let names = sim.files().into_keys();
    names
        .map(|path| path.split('/').next().unwrap().to_owned())
        .collect()
}

#[test]
fn neither_values_nor_keys_nor_owners_are_readable() {
    let sim = filled(&["1"]);
    for needle in [SECRET, "ns/a", "ns/c", "pods", "system:node", "header"] {
        assert!(!is_in(&sim.files(), needle), "{needle}");
        let seen = is_in(&filled(&[]).files(), needle);
        assert!(seen, "{needle}: the test sees it in a plain store");
    }
}

#[test]
fn the_same_content_is_never_the_same_bytes() {
    let bytes = |sim: &Sim| sim.files().into_values().next().unwrap();
    let (one, two) = (bytes(&filled(&["1"])), bytes(&filled(&["1"])));
    assert_eq!(one.len(), two.len());
    // Head and key id are the same; salt, nonces, tags and all that is sealed are not.
    let same = one
        .windows(16)
        .filter(|part| two.windows(16).any(|other| *part == other))
        .count();
    assert!(same <= 12, "{same} pieces of 16 bytes are in both files");
}

#[test]
fn a_write_that_failed_and_is_made_again_has_another_nonce() {
    let sim = filled(&["1"]);
    let before = sim.files().into_values().next().unwrap();
    let written = |value: &str| {
        let again = sim.after(Survives::Told);
        let store = open_with(&again, &["1"]).unwrap();
        let log = store.load(&pods()).unwrap().unwrap();
        log.append(put("ns/d", value), "12", at(3)).unwrap();
        again.files().into_values().next().unwrap()[before.len()..].to_vec()
    };
    // The same place in the same file, behind the same segment: with the same nonce the keystream would be the same.
    let (one, two) = (written("x"), written("x"));
    assert_eq!(one.len(), two.len());
    assert_ne!(one[8..20], two[8..20], "nonces");
    assert_ne!(one[36..], two[36..], "ciphertexts");
}

#[test]
fn large_values_and_many_items_are_read_as_they_were_written() {
    let sim = Sim::new(Fault::Never);
    let store = open_with(&sim, &["1"]).unwrap();
    let value = |n: usize| format!("{n}-").repeat(n * 37 % 9000);
    let wanted: Vec<(String, String)> = (0..200).map(|n| (format!("ns/{n:04}"), value(n))).collect();
    let pairs: Vec<(&str, &str)> = wanted.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    replace(&store, &pods(), &pairs, "10").unwrap();
    let big = "x".repeat(3 << 20);
    let log = store.load(&pods()).unwrap().unwrap();
    log.append(put("zz", &big), "11", at(2)).unwrap();
    drop((log, store));
    let store = open_with(&sim, &["1"]).unwrap();
    let log = store.load(&pods()).unwrap().unwrap();
    let mut expected = wanted.clone();
    expected.push(("zz".into(), big));
    assert_eq!(items(&*log), expected);
    for (key, value) in expected.iter().rev() {
        assert_eq!(log.get(key.as_bytes()).unwrap().unwrap(), value.as_bytes());
    }
    log.scrub().unwrap();
    assert_eq!(items(&*log), expected);
}

#[test]
fn a_plain_store_is_read_and_sealed_before_anything_is_written() {
    let sim = filled(&[]);
    let found = seen(&open_with(&sim, &[]).unwrap(), &pods());
    let store = open_with(&sim, &["1"]).unwrap();
    assert_eq!(store.logs().len(), 1);
    assert!(is_in(&sim.files(), SECRET), "nothing was opened yet");
    let log = store.load(&pods()).unwrap().unwrap();
    assert!(!is_in(&sim.files(), SECRET));
    assert_eq!(seen(&store, &pods()), found);
    log.append(put("ns/d", "new"), "12", at(3)).unwrap();
    drop((log, store));
    assert_eq!(seen(&open_with(&sim, &["1"]).unwrap(), &pods()).unwrap().0, "12");
}

#[test]
fn the_housekeeper_seals_what_nobody_opens() {
    for before in [&[][..], &["2"]] {
        let sim = filled(before);
        let found = seen(&open_with(&sim, before).unwrap(), &pods());
        let store = open_with(&sim, &["1", "2"]).unwrap();
        store.compact_due().unwrap();
        drop(store);
        // The old key is not needed any more.
        let store = open_with(&sim, &["1"]).unwrap();
        assert_eq!(
            (seen(&store, &pods()), store.stats().locked),
            (found, 0),
            "{before:?}"
        );
    }
}

#[test]
fn a_log_of_an_old_key_is_read_and_appended_to_under_the_new_one() {
    let sim = filled(&["2"]);
    let store = open_with(&sim, &["1", "2"]).unwrap();
    let log = store.load(&pods()).unwrap().unwrap();
    log.append(put("ns/d", "new"), "12", at(3)).unwrap();
    let all = items(&*log);
    drop((log, store));
    let store = open_with(&sim, &["1"]).unwrap();
    assert_eq!(items(&*store.load(&pods()).unwrap().unwrap()), all);
}

#[test]
fn a_lost_key_is_an_empty_store_and_the_right_one_brings_everything_back() {
    for keys in [&[][..], &["2"]] {
        let sim = filled(&["1"]);
        let found = seen(&open_with(&sim, &["1"]).unwrap(), &pods());
        let before: Vec<Vec<u8>> = sim.files().into_values().collect();
        let store = open_with(&sim, keys).unwrap();
        assert_eq!(
            (store.logs(), store.stats().locked, store.stats().quarantined),
            (vec![], 1, 0)
        );
        assert_eq!(names(&sim), ["locked"]);
        assert_eq!(sim.files().into_values().collect::<Vec<_>>(), before, "unharmed");
        drop(store);
        let store = open_with(&sim, &["1"]).unwrap();
        assert_eq!((seen(&store, &pods()), store.stats().locked), (found, 0));
        assert!(!names(&sim).contains(&"locked".to_owned()));
    }
}

#[test]
fn a_newer_log_wins_over_the_one_that_was_locked() {
    let sim = filled(&["1"]);
    let store = open_with(&sim, &["2"]).unwrap();
    replace(&store, &pods(), &[("ns/new", "1")], "20").unwrap();
    drop(store);
    let store = open_with(&sim, &["1", "2"]).unwrap();
    assert_eq!(seen(&store, &pods()).unwrap().0, "20");
    assert_eq!((store.stats().locked, sim.files().len()), (0, 1));
}

#[test]
fn what_is_withdrawn_while_it_is_locked_does_not_come_back() {
    let sim = filled(&["1"]);
    let store = open_with(&sim, &["2"]).unwrap();
    store.remove(&pods()).unwrap();
    drop(store);
    let store = open_with(&sim, &["1"]).unwrap();
    assert_eq!((store.logs(), sim.files().len()), (vec![], 0));
}

#[test]
fn a_segment_of_another_file_or_place_does_not_open() {
    let sim = filled(&["1"]);
    let (path, good) = sim.files().into_iter().next().unwrap();
    let other = filled(&["1"]).files().into_values().next().unwrap();
    let grown = {
        let store = open_with(&sim, &["1"]).unwrap();
        let log = store.load(&pods()).unwrap().unwrap();
        log.append(put("ns/d", SECRET), "12", at(2)).unwrap();
        sim.files().into_values().next().unwrap()
    };
    let found = |bytes: &[u8]| {
        let sim = Sim::new(Fault::Never);
        sim.plant(&path, bytes);
        seen(&open_with(&sim, &["1"]).unwrap(), &pods()).map(|(position, _)| position)
    };
    assert_eq!(found(&grown).as_deref(), Some("12"));
    // The last event of a file of the same content, and the last event twice.
    let tail = |bytes: &[u8], from: usize| bytes[from..].to_vec();
    let last = grown.len() - good.len();
    let foreign = [&good[..good.len() - last], &tail(&other, other.len() - last)].concat();
    assert_eq!(found(&foreign).as_deref(), Some("10"));
    let twice = [&grown[..], &tail(&grown, good.len())].concat();
    assert_eq!(found(&twice).as_deref(), Some("12"));
}
