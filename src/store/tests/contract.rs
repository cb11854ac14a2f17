//! What every backend promises.

use super::*;

/// Runs one check on every backend.
fn on_both(check: impl Fn(&dyn Store)) {
    let dir = tempfile::tempdir().unwrap();
    check(&LogStore::open(&dir.path().join("store")).unwrap());
    check(&LogStore::memory().unwrap());
}

#[test]
fn a_store_is_empty_at_first_and_an_unknown_log_is_none() {
    on_both(|store| {
        assert_eq!(store.logs(), []);
        assert!(store.load(&pods()).unwrap().is_none());
        assert_eq!(store.stats(), StoreStats::default());
        store.remove(&pods()).unwrap();
        store.sync().unwrap();
    });
}

#[test]
fn a_committed_snapshot_is_the_log() {
    on_both(|store| {
        let log = replace(store, &pods(), &[("ns/b", "2"), ("ns/a", "1")], "15").unwrap();
        assert_eq!(items(&*log), pairs(&[("ns/a", "1"), ("ns/b", "2")]));
        assert_eq!(&*log.position(), "15");
        assert_eq!(&log.header()[..], b"header");
        assert_eq!(log.updated(), at(1));
        assert_eq!((log.len(), log.is_empty()), (2, false));
        assert_eq!(log.id(), &pods());
        assert_eq!(log.get(b"ns/a").unwrap().unwrap(), "1");
        assert_eq!(log.get(b"ns/c").unwrap(), None);
        assert!(log.contains(b"ns/b") && !log.contains(b"ns/"));
        let summary = store.logs().remove(0);
        assert_eq!((summary.id, summary.modified), (pods(), at(1)));
        assert_eq!(store.stats().bytes, summary.bytes);
        assert!(summary.bytes > 0);
    });
}

#[test]
fn an_empty_snapshot_is_a_log_with_a_position() {
    on_both(|store| {
        let log = replace(store, &pods(), &[], "7").unwrap();
        assert_eq!((log.len(), &*log.position()), (0, "7"));
        assert!(log.snapshot().is_empty());
    });
}

#[test]
fn the_same_handle_is_given_while_one_lives() {
    on_both(|store| {
        let log = replace(store, &pods(), &[("a", "1")], "1").unwrap();
        assert!(Arc::ptr_eq(&log, &store.load(&pods()).unwrap().unwrap()));
        drop(log);
        let log = store.load(&pods()).unwrap().unwrap();
        assert_eq!(items(&*log), pairs(&[("a", "1")]));
    });
}

#[test]
fn an_append_moves_item_position_and_time_together_and_is_found_again() {
    on_both(|store| {
        let log = replace(store, &pods(), &[("a", "1"), ("b", "1")], "1").unwrap();
        assert_eq!(log.append(put("a", "2"), "2", at(2)).unwrap(), Written::Appended);
        assert_eq!((&*log.position(), log.updated()), ("2", at(2)));
        assert_eq!(log.append(delete("b"), "3", at(3)).unwrap(), Written::Appended);
        assert_eq!(log.append(put("c", ""), "4", at(4)).unwrap(), Written::Appended);
        assert_eq!(
            log.append(Change::Progress, "5", at(5)).unwrap(),
            Written::Appended
        );
        for _ in 0..2 {
            let log = store.load(&pods()).unwrap().unwrap();
            assert_eq!(items(&*log), pairs(&[("a", "2"), ("c", "")]));
            assert_eq!((&*log.position(), log.updated()), ("5", at(5)));
            assert_eq!(&log.header()[..], b"header");
        }
        drop(log);
        let log = store.load(&pods()).unwrap().unwrap();
        assert_eq!(items(&*log), pairs(&[("a", "2"), ("c", "")]));
        assert_eq!((&*log.position(), log.updated()), ("5", at(5)));
    });
}

#[test]
fn a_change_that_says_nothing_new_writes_nothing() {
    on_both(|store| {
        let log = replace(store, &pods(), &[("a", "1")], "1").unwrap();
        let bytes = store.stats().bytes;
        for change in [put("a", "1"), delete("b")] {
            assert_eq!(log.append(change, "1", at(9)).unwrap(), Written::Unchanged);
        }
        assert_eq!(
            log.append(Change::Progress, "1", at(1)).unwrap(),
            Written::Unchanged
        );
        assert_eq!((store.stats().bytes, log.updated()), (bytes, at(1)));
        // A new position must be kept, but the value need not be written again.
        let large = "x".repeat(5000);
        log.append(put("a", &large), "2", at(2)).unwrap();
        let bytes = store.stats().bytes;
        assert_eq!(
            log.append(put("a", &large), "3", at(3)).unwrap(),
            Written::Appended
        );
        assert_eq!(&*log.position(), "3");
        assert!(store.stats().bytes - bytes < 100);
    });
}

#[test]
fn create_makes_an_empty_log_and_keeps_one_that_exists() {
    on_both(|store| {
        let id = LogId::new("cn:edge", "objects");
        let log = store.create(&id, b"h1").unwrap();
        assert_eq!(
            (log.len(), &*log.position(), &log.header()[..]),
            (0, "", &b"h1"[..])
        );
        log.append(put("k", "v"), "", at(1)).unwrap();
        drop(log);
        let log = store.create(&id, b"h2").unwrap();
        assert_eq!(
            (items(&*log), &log.header()[..]),
            (pairs(&[("k", "v")]), &b"h1"[..])
        );
    });
}

#[test]
fn two_creates_at_once_give_the_same_log() {
    on_both(|store| {
        for round in 0..20 {
            let id = LogId::new("o", format!("log-{round}"));
            let [a, b] = std::thread::scope(|scope| {
                [0, 1]
                    .map(|n| {
                        let id = &id;
                        scope.spawn(move || {
                            let log = store.create(id, b"").unwrap();
                            log.append(put(&n.to_string(), "v"), "", at(1)).unwrap();
                            log
                        })
                    })
                    .map(|thread| thread.join().unwrap())
            });
            assert!(Arc::ptr_eq(&a, &b));
            assert_eq!(a.len(), 2);
        }
    });
}

#[test]
fn a_staging_is_invisible_until_committed_and_leaves_nothing_when_dropped() {
    on_both(|store| {
        let mut staging = store.stage(&pods()).unwrap();
        staging.put(b"a", b"1").unwrap();
        assert!(store.load(&pods()).unwrap().is_none());
        assert_eq!(store.logs(), []);
        drop(staging);
        assert!(store.load(&pods()).unwrap().is_none());

        let log = replace(store, &pods(), &[("a", "1")], "1").unwrap();
        let mut staging = store.stage(&pods()).unwrap();
        staging.put(b"b", b"2").unwrap();
        assert_eq!(items(&*log), pairs(&[("a", "1")]));
        drop(staging);
        log.append(put("c", "3"), "2", at(2)).unwrap();
        assert_eq!(items(&*log), pairs(&[("a", "1"), ("c", "3")]));
    });
}

#[test]
fn a_staging_can_be_read_changed_and_counted() {
    on_both(|store| {
        replace(store, &pods(), &[("a", "1"), ("b", "2")], "1").unwrap();
        let large = "x".repeat(300 << 10);
        let mut staging = store.stage(&pods()).unwrap();
        assert!(staging.is_empty());
        staging.put(b"a", b"1").unwrap();
        assert_eq!(staging.get(b"a").unwrap().unwrap(), "1");
        assert_eq!(staging.get(b"b").unwrap(), None);
        staging.put(b"a", b"changed").unwrap();
        staging.put(b"large", large.as_bytes()).unwrap();
        staging.put(b"last", b"3").unwrap();
        staging.put(b"b", b"2").unwrap();
        staging.delete(b"b").unwrap();
        staging.delete(b"unknown").unwrap();
        assert_eq!(staging.len(), 3);
        assert_eq!(staging.get(b"a").unwrap().unwrap(), "changed");
        assert_eq!(staging.get(b"large").unwrap().unwrap(), large);
        assert_eq!(staging.get(b"last").unwrap().unwrap(), "3");
        assert_eq!(staging.get(b"b").unwrap(), None);
        let log = staging.commit(b"", "2", at(2)).unwrap();
        drop(log);
        let log = store.load(&pods()).unwrap().unwrap();
        assert_eq!(
            items(&*log),
            pairs(&[("a", "changed"), ("large", &large), ("last", "3")])
        );
    });
}

#[test]
fn a_replaced_handle_is_stale_and_its_snapshots_stay_readable() {
    on_both(|store| {
        let old = replace(store, &pods(), &[("a", "1"), ("b", "2")], "1").unwrap();
        let snapshot = old.snapshot();
        let new = replace(store, &pods(), &[("a", "2")], "2").unwrap();
        assert!(!Arc::ptr_eq(&old, &new));
        assert!(Arc::ptr_eq(&new, &store.load(&pods()).unwrap().unwrap()));
        let refused = old.append(put("c", "3"), "3", at(3)).unwrap_err();
        assert!(matches!(refused, StoreError::Replaced), "{refused}");
        assert!(matches!(old.scrub(), Err(StoreError::Replaced)));
        assert_eq!(items_of(&snapshot), pairs(&[("a", "1"), ("b", "2")]));
        assert_eq!(snapshot.position(), "1");
        assert_eq!(items(&*new), pairs(&[("a", "2")]));
        new.append(put("c", "3"), "3", at(3)).unwrap();
        assert_eq!(store.stats().replaced, 2);
    });
}

#[test]
fn an_equal_snapshot_keeps_the_log_and_appends_only_progress() {
    on_both(|store| {
        let large = "x".repeat(10_000);
        let all = [("a", large.as_str()), ("b", "2")];
        let log = replace(store, &pods(), &all, "1").unwrap();
        let bytes = store.stats().bytes;
        let mut staging = store.stage(&pods()).unwrap();
        for (key, value) in all {
            staging.put(key.as_bytes(), value.as_bytes()).unwrap();
        }
        assert_eq!(store.stats().bytes, bytes);
        let same = staging.commit(b"header", "9", at(9)).unwrap();
        assert!(Arc::ptr_eq(&log, &same));
        assert_eq!((&*log.position(), log.updated()), ("9", at(9)));
        assert_eq!(store.stats().bytes - bytes, 12 + 1 + 8 + 1);
        assert_eq!((store.stats().replaced, store.stats().confirmed), (1, 1));
        // With another header the items need not be written either.
        let mut staging = store.stage(&pods()).unwrap();
        for (key, value) in all {
            staging.put(key.as_bytes(), value.as_bytes()).unwrap();
        }
        let same = staging.commit(b"other", "10", at(10)).unwrap();
        assert!(Arc::ptr_eq(&log, &same));
        assert!(store.stats().bytes - bytes < 100);
        drop((log, same));
        let log = store.load(&pods()).unwrap().unwrap();
        assert_eq!((&log.header()[..], &*log.position()), (&b"other"[..], "10"));
        assert_eq!(items(&*log), pairs(&all));
    });
}

#[test]
fn a_snapshot_that_differs_anywhere_replaces_the_log() {
    let base = [("a", "1"), ("b", "2"), ("c", "3")];
    let others: [&[(&str, &str)]; 6] = [
        &[("a", "0"), ("b", "2"), ("c", "3")],
        &[("a", "1"), ("b", "2"), ("c", "0")],
        &[("a", "1"), ("b", "2")],
        &[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")],
        &[("a", "1"), ("b", "2"), ("d", "3")],
        &[],
    ];
    on_both(|store| {
        for other in others {
            let old = replace(store, &pods(), &base, "1").unwrap();
            let new = replace(store, &pods(), other, "2").unwrap();
            assert_eq!(items(&*new), pairs(other));
            assert!(!Arc::ptr_eq(&old, &new));
            drop((old, new));
            let log = store.load(&pods()).unwrap().unwrap();
            assert_eq!((items(&*log), &*log.position()), (pairs(other), "2"));
        }
    });
}

#[test]
fn a_staging_is_right_though_the_log_changed_under_it() {
    on_both(|store| {
        for late in ["append", "compact", "replace", "remove"] {
            let log = replace(store, &pods(), &[("a", "1"), ("b", "2")], "1").unwrap();
            let mut staging = store.stage(&pods()).unwrap();
            staging.put(b"a", b"1").unwrap();
            match late {
                "append" => drop(log.append(put("a", "9"), "2", at(2)).unwrap()),
                "compact" => log.scrub().unwrap(),
                "replace" => drop(replace(store, &pods(), &[("z", "9")], "2").unwrap()),
                _ => store.remove(&pods()).unwrap(),
            }
            staging.put(b"b", b"2").unwrap();
            assert_eq!(staging.get(b"a").unwrap().unwrap(), "1", "{late}");
            let log = staging.commit(b"header", "3", at(3)).unwrap();
            assert_eq!(items(&*log), pairs(&[("a", "1"), ("b", "2")]), "{late}");
            assert_eq!(&*log.position(), "3");
            store.remove(&pods()).unwrap();
        }
    });
}

#[test]
fn a_removed_log_is_gone_and_its_handles_are_dead() {
    on_both(|store| {
        let log = replace(store, &pods(), &[("a", "1")], "1").unwrap();
        let snapshot = log.snapshot();
        store.remove(&pods()).unwrap();
        assert_eq!(store.logs(), []);
        assert!(store.load(&pods()).unwrap().is_none());
        let refused = log.append(put("b", "2"), "2", at(2)).unwrap_err();
        assert!(matches!(refused, StoreError::Removed), "{refused}");
        assert_eq!(items_of(&snapshot), pairs(&[("a", "1")]));
        let new = replace(store, &pods(), &[("c", "3")], "3").unwrap();
        assert_eq!(items(&*new), pairs(&[("c", "3")]));
        assert!(matches!(
            log.append(Change::Progress, "4", at(4)),
            Err(StoreError::Removed)
        ));
    });
}

#[test]
fn a_snapshot_does_not_see_what_comes_after_it() {
    on_both(|store| {
        let log = replace(store, &pods(), &[("a", "1"), ("b", "2")], "1").unwrap();
        let before = log.snapshot();
        log.append(put("a", "changed"), "2", at(2)).unwrap();
        log.append(delete("b"), "3", at(3)).unwrap();
        let after = log.snapshot();
        log.scrub().unwrap();
        log.append(put("c", "3"), "4", at(4)).unwrap();
        assert_eq!(items_of(&before), pairs(&[("a", "1"), ("b", "2")]));
        assert_eq!((before.position(), before.updated()), ("1", at(1)));
        assert_eq!(items_of(&after), pairs(&[("a", "changed")]));
        assert_eq!(after.position(), "3");
        assert_eq!(items(&*log), pairs(&[("a", "changed"), ("c", "3")]));
    });
}

#[test]
fn a_snapshot_of_a_prefix_has_just_those_keys() {
    on_both(|store| {
        let all = [
            ("a", "0"),
            ("ns/a", "1"),
            ("ns/b", "2"),
            ("ns0/a", "3"),
            ("o", "4"),
        ];
        let log = replace(store, &pods(), &all, "1").unwrap();
        let some = log.snapshot_of(b"ns/");
        assert_eq!(items_of(&some), pairs(&[("ns/a", "1"), ("ns/b", "2")]));
        assert_eq!(some.position(), "1");
        assert!(log.snapshot_of(b"x").is_empty());
        assert_eq!(log.snapshot_of(b"").len(), 5);
    });
}

#[test]
fn keys_come_in_the_order_of_their_bytes() {
    on_both(|store| {
        let sorted = ["a-b/x", "a.b/x", "a/x", "a/x-1", "a0/x", "ab/x"];
        let mut shuffled = sorted.map(|key| (key, "v"));
        shuffled.reverse();
        let log = replace(store, &pods(), &shuffled, "1").unwrap();
        let keys: Vec<_> = items(&*log).into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, sorted);
    });
}

#[test]
fn the_keys_of_a_log_are_walked_in_order_also_of_one_that_was_replaced() {
    on_both(|store| {
        let names: Vec<String> = (0..600).map(|n| format!("ns/{n:04}")).collect();
        let all: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "v")).collect();
        let log = replace(store, &pods(), &all, "1").unwrap();
        let keys = |log: &dyn Log| -> Vec<String> {
            let keys = keys_of(log).map(|key| String::from_utf8(key.into()).unwrap());
            keys.collect()
        };
        assert_eq!(keys(&*log), names);
        let next = replace(store, &pods(), &all[..2], "2").unwrap();
        assert_eq!(keys(&*log), names);
        assert_eq!(keys(&*next), names[..2]);
        assert_eq!(log.get(b"ns/0599").unwrap().unwrap(), "v");
    });
}

#[test]
fn a_snapshot_knows_the_lengths_and_reads_every_size_of_value() {
    on_both(|store| {
        let sizes = [0, 1, 100, 255 << 10, 256 << 10, 300 << 10, 0, 17 << 20, 5];
        let mut staging = store.stage(&pods()).unwrap();
        let values: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(n, len)| vec![n as u8; *len])
            .collect();
        for (n, value) in values.iter().enumerate() {
            staging.put(format!("k{n}").as_bytes(), value).unwrap();
        }
        let log = staging.commit(b"", "1", at(1)).unwrap();
        // Values that are appended later are not adjacent in the file.
        log.append(put("k2", &"y".repeat(100)), "2", at(2)).unwrap();
        let snapshot = log.snapshot();
        assert!(snapshot.value_lens().eq(sizes));
        assert_eq!(snapshot.total_value_bytes(), sizes.iter().sum::<usize>() as u64);
        let read: Vec<Bytes> = snapshot.iter().map(Result::unwrap).collect();
        for (n, value) in values.iter().enumerate() {
            let expected = if n == 2 { &vec![b'y'; 100] } else { value };
            assert!(read[n] == expected, "value {n}");
        }
        assert_eq!(snapshot.iter().count(), sizes.len());
    });
}

#[test]
fn a_value_over_the_limit_is_refused_and_harms_nothing() {
    on_both(|store| {
        let log = replace(store, &pods(), &[("a", "1")], "1").unwrap();
        let value = vec![0; 256 << 20];
        let change = Change::Put {
            key: b"b",
            value: &value,
        };
        assert!(matches!(
            log.append(change, "2", at(2)),
            Err(StoreError::TooLarge)
        ));
        let mut staging = store.stage(&pods()).unwrap();
        assert!(matches!(staging.put(b"b", &value), Err(StoreError::TooLarge)));
        log.append(put("b", "2"), "2", at(2)).unwrap();
        assert_eq!(items(&*log), pairs(&[("a", "1"), ("b", "2")]));
    });
}

#[test]
fn compaction_is_due_after_a_megabyte_of_garbage_and_keeps_everything_else() {
    on_both(|store| {
        let log = replace(store, &pods(), &[("a", "1"), ("b", "2")], "1").unwrap();
        assert_eq!(store.compact_due().unwrap(), 0);
        for n in 0..40 {
            let value = format!("{n}").repeat(20_000);
            log.append(put("a", &value), &n.to_string(), at(n)).unwrap();
        }
        let before = store.stats().bytes;
        let snapshot = log.snapshot();
        assert_eq!(store.compact_due().unwrap(), 1);
        assert_eq!(store.compact_due().unwrap(), 0);
        assert_eq!(store.stats().compactions, 1);
        assert!(
            store.stats().bytes < 50_000,
            "{} of {before}",
            store.stats().bytes
        );
        assert_eq!(items_of(&snapshot), items(&*log));
        assert_eq!((&*log.position(), log.updated(), log.len()), ("39", at(39), 2));
        log.append(put("c", "3"), "40", at(40)).unwrap();
        drop(log);
        let log = store.load(&pods()).unwrap().unwrap();
        assert_eq!(
            items(&*log),
            pairs(&[("a", &"39".repeat(20_000)), ("b", "2"), ("c", "3")])
        );
        assert_eq!((&*log.position(), &log.header()[..]), ("40", &b"header"[..]));
    });
}

#[test]
fn appends_and_reads_go_on_while_a_log_is_compacted() {
    on_both(|store| {
        let log = replace(store, &pods(), &[], "0").unwrap();
        let value = "x".repeat(500);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 1..=3000u32 {
                    let key = format!("k{}", n % 100);
                    let value = format!("{n} {value}");
                    log.append(put(&key, &value), &n.to_string(), at(1)).unwrap();
                }
            });
            let mut rounds = 0;
            while !writer.is_finished() || rounds == 0 {
                log.scrub().unwrap();
                let snapshot = log.snapshot();
                let position: u32 = snapshot.position().parse().unwrap();
                let newest = snapshot
                    .iter()
                    .map(|value| String::from_utf8(value.unwrap().to_vec()).unwrap())
                    .map(|value| value.split(' ').next().unwrap().parse::<u32>().unwrap())
                    .max();
                assert_eq!(newest.unwrap_or(0), position);
                rounds += 1;
            }
        });
        let expected = items(&*log);
        drop(log);
        let log = store.load(&pods()).unwrap().unwrap();
        assert_eq!((items(&*log), &*log.position()), (expected, "3000"));
        assert_eq!(log.len(), 100);
    });
}

#[test]
fn the_quota_removes_the_longest_unused_and_never_a_protected_log() {
    on_both(|store| {
        let id = |name: &str| LogId::new("o", name);
        let value = "x".repeat(1000);
        for name in ["a", "b", "c", "d"] {
            replace(store, &id(name), &[("k", &value)], "1").unwrap();
        }
        // Each use counts: a read, an append, a load.
        let a = store.load(&id("a")).unwrap().unwrap();
        let b = store.load(&id("b")).unwrap().unwrap();
        a.get(b"k").unwrap();
        let one = store.stats().bytes / 4;
        let worth = |log: &LogId| {
            if log.name == "c" {
                Worth::Always
            } else {
                Worth::Spare
            }
        };
        let quota = |max_bytes| Quota {
            max_bytes,
            max_idle: usize::MAX,
        };
        let removed = store.enforce(quota(one * 2 + 50), &worth);
        assert_eq!(removed, [id("d"), id("b")]);
        assert!(matches!(
            b.append(Change::Progress, "2", at(2)),
            Err(StoreError::Removed)
        ));
        let removed = store.enforce(quota(0), &worth);
        assert_eq!(removed, [id("a")]);
        let left: Vec<_> = store.logs().into_iter().map(|log| log.id).collect();
        assert_eq!(left, [id("c")]);
        assert!(store.holds(&id("c")) && !store.holds(&id("a")) && !store.holds(&id("e")));
        assert_eq!(store.stats().evicted, 3);
    });
}

#[test]
fn logs_of_one_name_and_different_owners_are_apart() {
    on_both(|store| {
        let (a, b) = (LogId::new("a", "pods"), LogId::new("b", "pods"));
        replace(store, &a, &[("k", "of a")], "1").unwrap();
        replace(store, &b, &[("k", "of b")], "2").unwrap();
        store.remove(&b).unwrap();
        assert_eq!(seen(store, &a).unwrap().0, "1");
        assert_eq!(seen(store, &b), None);
    });
}

#[test]
fn what_the_disk_refuses_is_counted_wherever_it_is_met() {
    use super::sim::{Fault, Sim};
    let sim = Sim::new(Fault::Never);
    let store = super::on(&sim);
    let mut counted = 0;
    let mut has_risen = |what: &str| {
        let stats = store.stats();
        assert!(stats.write_failures > counted, "{what}");
        counted = stats.write_failures;
        let last = stats.last_failure.unwrap().to_string();
        assert!(last.starts_with("No space left on device"), "{last}");
    };
    let log = replace(&store, &pods(), &[("a", "1")], "1").unwrap();
    assert_eq!(store.stats().write_failures, 0);

    let mut begun = store.stage(&pods()).unwrap();
    begun.put(b"b", b"2").unwrap();
    sim.fail();
    begun.put(b"c", &vec![0; 1 << 20]).unwrap_err();
    has_risen("what arrives of a large answer");
    assert!(begun.commit(b"header", "2", at(2)).is_err());
    has_risen("its end");
    assert!(replace(&store, &LogId::new("cn:x", "y"), &[], "1").is_err());
    has_risen("a new file");
    log.append(put("b", "2"), "2", at(2)).unwrap_err();
    has_risen("an event");

    assert_eq!(store.stats().sync_failures, 0);
    sim.repair();
    log.scrub().unwrap();
    log.append(put("b", "2"), "2", at(2)).unwrap();
    sim.fail();
    store.sync().unwrap_err();
    assert_eq!(store.stats().sync_failures, 1);
}
