//! What an event and a start cost on the real disk: appends must not depend on the size of the log. And what encryption at
//! rest costs, side by side: `cargo bench --bench store -- sealed`.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use edgehold::store::{Change, Keys, LogId, LogStore, Store};

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1)
}

fn id() -> LogId {
    LogId::new("cn:system:node:edge-1", "pods")
}

/// A store with one log of so many items.
fn filled(root: &std::path::Path, items: usize, value: &[u8]) -> (LogStore, LogId) {
    let store = LogStore::open(root).unwrap();
    write_list(&store, items, value, "1");
    (store, id())
}

/// A list of so many items, as a snapshot that replaces the one before.
fn write_list(store: &LogStore, items: usize, value: &[u8], version: &str) {
    let mut staging = store.stage(&id()).unwrap();
    for n in 0..items {
        staging.put(key(n).as_bytes(), value).unwrap();
    }
    staging.commit(b"header", version, at()).unwrap();
}

fn key(n: usize) -> String {
    format!("namespace-{:03}/some-pod-{n:07}", n % 100)
}

fn append(c: &mut Criterion) {
    let mut group = c.benchmark_group("append 2 KiB");
    for items in [1_000, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let (store, id) = filled(dir.path(), items, b"small");
        let log = store.load(&id).unwrap().unwrap();
        let mut n = 0usize;
        group.bench_function(BenchmarkId::from_parameter(format!("{items} items")), |b| {
            b.iter(|| {
                n += 1;
                let (key, value) = (key(n * 7919 % items), format!("{n:02048}"));
                let change = Change::Put {
                    key: key.as_bytes(),
                    value: value.as_bytes(),
                };
                log.append(change, &n.to_string(), at()).unwrap()
            });
        });
    }
    group.finish();
}

fn load(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    let (store, id) = filled(dir.path(), 100_000, &[b'x'; 2048]);
    let mut group = c.benchmark_group("100 000 x 2 KiB");
    group.sample_size(10);
    group.throughput(Throughput::Bytes(store.stats().bytes));
    group.bench_function("load", |b| {
        b.iter(|| assert_eq!(store.load(&id).unwrap().unwrap().len(), 100_000));
    });
    let log = store.load(&id).unwrap().unwrap();
    group.bench_function("snapshot", |b| b.iter(|| black_box(log.snapshot().len())));
    let snapshot = log.snapshot();
    group.bench_function("read all values", |b| {
        b.iter(|| snapshot.iter().map(|value| value.unwrap().len()).sum::<usize>());
    });
    group.finish();
}

/// Plain and sealed with AES-256-GCM, everything else equal.
fn stores(dirs: &[tempfile::TempDir; 2]) -> [(&'static str, LogStore); 2] {
    let keys = Keys::parse(&"5a".repeat(32)).unwrap();
    [
        ("plain", LogStore::open(dirs[0].path()).unwrap()),
        ("sealed", LogStore::open_sealed(dirs[1].path(), keys).unwrap()),
    ]
}

fn sealed(c: &mut Criterion) {
    const ITEMS: usize = 10_000;
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let stores = stores(&dirs);
    let mut group = c.benchmark_group("10 000 x 2 KiB, plain and sealed");
    group.sample_size(20);
    group.throughput(Throughput::Bytes(ITEMS as u64 * 2048));
    for (form, store) in &stores {
        let mut n = 0usize;
        group.bench_function(BenchmarkId::new("write the list", form), |b| {
            b.iter(|| {
                n += 1;
                // Another list each time: an equal one writes nothing.
                write_list(store, ITEMS, format!("{n:02048}").as_bytes(), &n.to_string());
            });
        });
    }
    for (form, store) in &stores {
        let snapshot = store.load(&id()).unwrap().unwrap().snapshot();
        group.bench_function(BenchmarkId::new("read all values", form), |b| {
            b.iter(|| snapshot.iter().map(|value| value.unwrap().len()).sum::<usize>());
        });
    }
    group.finish();

    let mut group = c.benchmark_group("2 KiB of 10 000, plain and sealed");
    for (form, store) in &stores {
        let log = store.load(&id()).unwrap().unwrap();
        let mut n = 0usize;
        group.bench_function(BenchmarkId::new("append an event", form), |b| {
            b.iter(|| {
                n += 1;
                let (key, value) = (key(n * 7919 % ITEMS), format!("{n:02048}"));
                let change = Change::Put {
                    key: key.as_bytes(),
                    value: value.as_bytes(),
                };
                log.append(change, &n.to_string(), at()).unwrap()
            });
        });
    }
    for (form, store) in &stores {
        let log = store.load(&id()).unwrap().unwrap();
        let mut n = 0usize;
        group.bench_function(BenchmarkId::new("read a value", form), |b| {
            b.iter(|| {
                n += 1;
                black_box(log.get(key(n * 7919 % ITEMS).as_bytes()).unwrap().unwrap().len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, append, load, sealed);
criterion_main!(benches);
