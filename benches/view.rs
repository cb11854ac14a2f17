//! What one watch event costs a view: read, judged by the state machine, put into the store's log. It must not depend
//! on how many items the view holds: 100 000 may cost at most 1.5 times what 1 000 do.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use edgehold::kube::event::EventType;
use edgehold::kube::media::Encoding;
use edgehold::kube::version::ResourceVersion;
use edgehold::store::{Change, Log, LogId, LogStore, Store};
use edgehold::view::event::{Action, Event, Input, Start, StreamId};
use edgehold::view::machine::{Limits, View};
use edgehold::wire::collection::Collection;
use edgehold::wire::object::Object;
use edgehold::wire::watch::{WatchEvent, read_event};

const STREAM: StreamId = StreamId(1);
const LIMITS: Limits = Limits {
    parked_events: 4096,
    parked_bytes: 4 << 20,
};

fn at() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1)
}

fn name(n: usize) -> String {
    format!("some-config-{n:07}")
}

/// A watch frame of about 2 KB.
fn frame(n: usize, version: u64) -> Vec<u8> {
    format!(
        "{{\"type\":\"MODIFIED\",\"object\":{{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{{\"name\":\"{}\",\
         \"namespace\":\"shop\",\"uid\":\"00000000-0000-4000-8000-{n:012}\",\"resourceVersion\":\"{version}\"}},\
         \"data\":{{\"blob\":\"{version:01800}\"}}}}}}\n",
        name(n)
    )
    .into_bytes()
}

fn object(frame: &[u8]) -> Object<'static> {
    match read_event(Encoding::Json, frame).unwrap() {
        WatchEvent::Item { object, .. } => object.into_owned(),
        other => panic!("{other:?}"),
    }
}

/// A view as the product keeps one: items in a log on disk, the machine beside it.
struct Kept {
    _dir: tempfile::TempDir,
    log: Arc<dyn Log>,
    machine: View<Object<'static>>,
    form: Collection,
    items: usize,
    version: u64,
}

impl Kept {
    fn with(items: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LogStore::open(dir.path()).unwrap();
        let id = LogId::new("cn:system:node:edge-1", "configmaps");
        let mut staging = store.stage(&id).unwrap();
        let first = object(&frame(0, 1));
        let mut form = Collection::from_object(&first);
        for n in 0..items {
            let object = object(&frame(n, 1));
            let key = object.meta.key();
            let item = form.adopt(object).unwrap();
            staging.put(key.as_bytes(), &item).unwrap();
        }
        let log = staging.commit(b"{}", "1", at()).unwrap();
        let start = ResourceVersion::new("1").unwrap();
        let mut machine = View::new(Some(start.clone()), LIMITS);
        let opened = Input::StreamOpened {
            stream: STREAM,
            start: Start::At(start),
        };
        assert_eq!(machine.step(opened).count(), 0);
        Self {
            _dir: dir,
            log,
            machine,
            form,
            items,
            version: 1,
        }
    }

    fn event(&mut self) {
        self.version += 1;
        let n = usize::try_from(self.version).unwrap() * 7919 % self.items;
        let object = object(&frame(n, self.version));
        let event = Event {
            change: EventType::Modified,
            version: ResourceVersion::new(&object.meta.resource_version).unwrap(),
            size: object.item.len(),
            payload: object,
        };
        let mut appended = 0;
        for action in self.machine.step(Input::Event {
            stream: STREAM,
            event,
        }) {
            let Action::Append { payload, version, .. } = action else {
                panic!("the stream does not drive the view")
            };
            let key = payload.meta.key();
            let item = self.form.adopt(payload).unwrap();
            let change = Change::Put {
                key: key.as_bytes(),
                value: &item,
            };
            self.log.append(change, version.as_str(), at()).unwrap();
            appended += 1;
        }
        assert_eq!(appended, 1);
    }
}

fn event(c: &mut Criterion) {
    let mut group = c.benchmark_group("one event of 2 KB");
    for items in [1_000, 100_000] {
        let mut view = Kept::with(items);
        group.bench_function(BenchmarkId::from_parameter(format!("{items} items")), |b| {
            b.iter(|| view.event());
        });
    }
    group.finish();
}

criterion_group!(benches, event);
criterion_main!(benches);
