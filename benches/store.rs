//! What an event and a start cost on the real disk: appends must not depend on the size of the log.
#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used)]

use std::hint::black_box;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use edgehold::store::{Change, LogId, LogStore, Store};

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1)
}

/// A store with one log of so many items.
fn filled(root: &std::path::Path, items: usize, value: &[u8]) -> (LogStore, LogId) {
    let store = LogStore::open(root).unwrap();
    let id = LogId::new("cn:system:node:edge-1", "pods");
    let mut staging = store.stage(&id).unwrap();
    for n in 0..items {
        staging.put(key(n).as_bytes(), value).unwrap();
    }
    staging.commit(b"header", "1", at()).unwrap();
    (store, id)
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

criterion_group!(benches, append, load);
criterion_main!(benches);
