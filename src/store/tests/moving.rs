//! A store that began in memory and goes over to a disk, and logs that nobody has open any more.

use super::sim::{Fault, Sim, Survives};
use super::*;

fn deferred() -> LogStore {
    let store = LogStore::deferred().unwrap();
    replace(&store, &pods(), &[("a", "1")], "1").unwrap();
    let open = replace(&store, &LogId::new("o", "open"), &[("b", "2")], "2").unwrap();
    open.append(put("c", "3"), "3", at(3)).unwrap();
    store
}

#[test]
fn what_is_in_memory_is_on_the_disk_after_going_over_and_what_comes_then_too() {
    let store = deferred();
    let open = store.load(&LogId::new("o", "open")).unwrap().unwrap();
    let sim = Sim::new(Fault::Never);
    store.go_over_to(Arc::new(sim.clone())).unwrap();
    open.append(put("d", "4"), "4", at(4)).unwrap();
    replace(&store, &LogId::new("o", "new"), &[("e", "5")], "5").unwrap();
    store.sync().unwrap();
    let next = LogStore::on(Arc::new(sim.after(Survives::Synced))).unwrap();
    for (id, position, len) in [
        (pods(), "1", 1),
        (open.id().clone(), "4", 3),
        (LogId::new("o", "new"), "5", 1),
    ] {
        let log = next.load(&id).unwrap().unwrap();
        assert_eq!((&*log.position(), log.len()), (position, len), "{id}");
        assert_eq!(seen(&store, &id), seen(&next, &id));
    }
    store.remove(&pods()).unwrap();
    assert!(store.load(&pods()).unwrap().is_none(), "not from memory either");
}

#[test]
fn a_disk_that_takes_nothing_is_not_gone_over_to() {
    let store = deferred();
    let full = Sim::new(Fault::Fail { from: 1, count: 100 });
    store.go_over_to(Arc::new(full)).unwrap_err();
    replace(&store, &pods(), &[("a", "2")], "2").unwrap();
    assert_eq!(seen(&store, &pods()).unwrap().0, "2");
    store.go_over_to(Arc::new(Sim::new(Fault::Never))).unwrap();
    assert_eq!(seen(&store, &pods()).unwrap().0, "2");
}

#[test]
fn wherever_the_disk_fails_while_going_over_nothing_is_lost_and_the_rest_follows() {
    for from in 1..40 {
        let store = deferred();
        let sim = Sim::new(Fault::Fail { from, count: 1 });
        let went = store.go_over_to(Arc::new(sim.clone()));
        let open = LogId::new("o", "open");
        for (id, position) in [(pods(), "1"), (open.clone(), "3")] {
            assert_eq!(seen(&store, &id).unwrap().0, position, "{from}");
        }
        if went.is_err() {
            store.go_over_to(Arc::new(sim.clone())).unwrap();
        }
        for _ in 0..2 {
            let _next_time = store.compact_due();
        }
        let _next_time = store.sync();
        store.sync().unwrap();
        let next = LogStore::on(Arc::new(sim.after(Survives::Synced))).unwrap();
        assert_eq!(seen(&next, &pods()).unwrap().0, "1", "{from}");
        assert_eq!(seen(&next, &open).unwrap().0, "3", "{from}");
    }
}

#[test]
fn a_log_that_nobody_has_open_any_more_is_rewritten_after_a_failed_sync() {
    let written = |fault| {
        let sim = Sim::new(fault);
        let store = LogStore::on(Arc::new(sim.clone())).unwrap();
        let log = replace(&store, &pods(), &[("a", "1")], "1").unwrap();
        log.append(put("b", "2"), "2", at(2)).unwrap();
        (sim, store)
    };
    let before = written(Fault::Never).0.ops();
    let (sim, store) = written(Fault::Fail {
        from: before + 1,
        count: 1,
    });
    store.sync().unwrap_err();
    assert_eq!(store.compact_due().unwrap(), 1);
    store.sync().unwrap();
    let next = LogStore::on(Arc::new(sim.after(Survives::Synced))).unwrap();
    let log = next.load(&pods()).unwrap().unwrap();
    assert_eq!((&*log.position(), log.len()), ("2", 2));
}
