//! Random reads, writes, watches, slow and broken answers, disk faults and ends of the process over one cache, in several
//! forms and scopes, for two principals: no answer may be one that the oracle of its principal forbids.
//!
//! Seeded and repeatable: `EDGEHOLD_SIMULATION=first-seed,steps` runs others, and more. Each seed is a world of its own.

mod asking;
mod cloud;
mod oracle;
mod replies;

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, header, response};
use http_body_util::BodyExt;

use self::cloud::{APPS, By, Cloud, Key, NAMES, NAMESPACES, Selection, Thing, form, item, path};
use self::oracle::{Fact, Oracle, Told};
use self::replies::Reply;
use super::writes::Write;
use super::{Cache, CacheConfig, Query, Recording, WatchRecording, refresh_after_write};
use crate::identity::NodeKey;
use crate::kube::event::EventType;
use crate::kube::media::Encoding;
use crate::kube::request::RequestInfo;
use crate::runtime::body;
use crate::runtime::tasks::Tasks;
use crate::store::Store;
use crate::store::tests::on;
use crate::store::tests::sim::{Chance, Fault, Sim, Survives};
use crate::wire::meta::TypeMeta;
use crate::wire::object::{Style, read_object};
use crate::wire::watch::{Bookmark, WatchEvent};

const OWNERS: [&str; 2] = ["cn:one", "cn:two"];

/// Steps of one world: its history stays short, and few things are forgotten only by chance.
const LIFE: u64 = 250;

/// Without being told otherwise: a few seconds.
const STEPS: u64 = 3000;

/// Seeds that showed a fault once: always run.
const FOUND: [u64; 2] = [61, 619];

/// A request under way.
struct Pending {
    client: usize,
    sent: u64,
    /// Both what it asks and what is told of it bind only if nothing was lost meanwhile.
    epoch: u64,
    ask: Ask,
    accept: Vec<Encoding>,
    recorder: Recorder,
    reply: Option<Reply>,
}

enum Recorder {
    Read(Box<Recording>),
    Write(Box<Option<Write>>, Method),
}

#[derive(Debug, Clone)]
enum Ask {
    Get(Key, Freshness),
    List(Selection, Freshness),
    Create(Key, Mode),
    Change(Key, Mode),
    Delete(Key, Mode),
    DeleteAll(&'static str, &'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Latest,
    Lagging,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Real,
    Dry,
}

struct Stream {
    client: usize,
    epoch: u64,
    sent: u64,
    selection: Selection,
    encoding: Encoding,
    recording: WatchRecording,
    /// Everything up to here has been sent.
    cursor: u64,
    /// Of the initial state.
    initial: VecDeque<Thing>,
    is_initial: bool,
}

struct World {
    chance: Chance,
    now: u64,
    sim: Sim,
    store: Arc<dyn Store>,
    cache: Cache,
    cloud: Cloud,
    oracles: [Oracle; 2],
    pending: Vec<Pending>,
    streams: Vec<Stream>,
    epoch: u64,
    is_failing: bool,
    trace: String,
    told: Tally,
}

/// What was answered, to see that the simulation is not one of refusals.
#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    objects: u64,
    absences: u64,
    lists: u64,
    unknown: u64,
}

fn open(sim: &Sim) -> (Arc<dyn Store>, Cache) {
    let store: Arc<dyn Store> = Arc::new(on(sim));
    let config = CacheConfig {
        spool: None,
        node_key: NodeKey::from_bytes([0; 32]),
        reviews: Duration::ZERO,
    };
    let cache = Cache::new(Arc::clone(&store), config, Tasks::new());
    (store, cache)
}

fn accept_of(encodings: &[Encoding]) -> HeaderMap {
    let media: Vec<&str> = encodings.iter().map(|encoding| encoding.media_type()).collect();
    HeaderMap::from_iter([(header::ACCEPT, media.join(",").parse().unwrap())])
}

fn query(owner: &str, target: &str, accept: &[Encoding]) -> Query {
    let uri: Uri = target.parse().unwrap();
    let info = RequestInfo::parse(&Method::GET, uri.path(), uri.query());
    let class = info.class(&Method::GET);
    Query::new(owner, &Method::GET, &uri, &accept_of(accept), &info, class).unwrap()
}

fn head_of(status: StatusCode, encoding: Encoding) -> response::Parts {
    let response = http::Response::builder()
        .status(status)
        .header("audit-id", "x")
        .header(header::CONTENT_TYPE, encoding.media_type());
    response.body(()).unwrap().into_parts().0
}

impl World {
    fn new(seed: u64) -> Self {
        let sim = Sim::new(Fault::Never);
        let (store, cache) = open(&sim);
        Self {
            chance: Chance::new(seed),
            now: 0,
            sim,
            store,
            cache,
            cloud: Cloud::new(),
            oracles: [Oracle::default(), Oracle::default()],
            pending: Vec::new(),
            streams: Vec::new(),
            epoch: 0,
            is_failing: false,
            trace: String::new(),
            told: Tally::default(),
        }
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.chance.below(of.len())]
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.chance.below(n) == 0
    }

    fn key(&mut self) -> Key {
        (self.pick(&NAMESPACES), self.pick(&NAMES))
    }

    fn gap(&mut self) -> u64 {
        self.chance.below(3) as u64
    }

    fn accept(&mut self) -> Vec<Encoding> {
        let forms: [&[Encoding]; 4] = [
            &[Encoding::Json],
            &[Encoding::Json],
            &[Encoding::Protobuf],
            &[Encoding::Protobuf, Encoding::Json],
        ];
        self.pick(&forms).to_vec()
    }

    fn selection(&mut self) -> Selection {
        let namespace = self.pick(&[None, Some("a"), Some("b")]);
        let by = match self.chance.below(6) {
            0 | 1 => By::App(self.pick(&APPS)),
            2 => By::Name(self.pick(&NAMES)),
            _ => By::All,
        };
        Selection { namespace, by }
    }

    fn note(&mut self, what: impl std::fmt::Display) {
        writeln!(self.trace, "{:4} @{:3} {what}", self.now, self.cloud.head).unwrap();
    }

    fn learn(&mut self, client: usize, (sent, epoch): (u64, u64), (at, is_read): (u64, bool), told: Told) {
        let binds = epoch == self.epoch && !self.is_failing;
        self.oracles[client].learn(Fact {
            told,
            at,
            sent,
            done: self.now,
            is_read,
            binds,
        });
    }

    /// What was shown before need not be remembered any more.
    fn lose(&mut self) {
        self.epoch += 1;
        self.oracles.iter_mut().for_each(Oracle::release);
    }

    async fn step(&mut self) {
        self.now += 1;
        match self.chance.below(32) {
            0..=3 => self.others_write(),
            4..=7 => self.begin_read(),
            8..=9 => self.begin_write(),
            10..=13 => self.process(),
            14..=17 => self.deliver().await,
            18..=19 => self.open_stream(),
            20..=22 => self.advance_stream().await,
            23 => self.end().await,
            _ => self.ask().await,
        }
        // Mostly what was recorded is with its strand before the next thing happens, and sometimes it is not.
        if !self.one_in(6) {
            self.cache.settle().await;
        }
    }

    fn others_write(&mut self) {
        let (key, gap, app) = (self.key(), self.gap(), self.pick(&APPS));
        let held = self.one_in(4);
        match self.chance.below(3) {
            0 => drop(self.cloud.delete(key, gap)),
            1 => drop(self.cloud.change(key, gap, app)),
            _ => drop(self.cloud.create(key, gap, (app, held))),
        }
        let now = self.cloud.get(key).cloned();
        self.note(format_args!("cloud: {key:?} is {now:?}"));
    }

    fn begin_read(&mut self) {
        let (client, accept) = (self.chance.below(2), self.accept());
        let freshness = if self.one_in(4) {
            Freshness::Lagging
        } else {
            Freshness::Latest
        };
        let version = match freshness {
            Freshness::Latest => "",
            Freshness::Lagging => "resourceVersion=0",
        };
        let (ask, target) = if self.one_in(2) {
            let key = self.key();
            (Ask::Get(key, freshness), format!("{}?{version}", path(key)))
        } else {
            let selection = self.selection();
            (
                Ask::List(selection, freshness),
                format!("{}{version}", selection.target()),
            )
        };
        let recording = self.cache.record(&query(OWNERS[client], &target, &accept));
        self.begin(client, ask, accept, Recorder::Read(Box::new(recording)));
    }

    fn begin(&mut self, client: usize, ask: Ask, accept: Vec<Encoding>, recorder: Recorder) {
        self.note(format_args!("{client} sends {ask:?} {accept:?}"));
        self.pending.push(Pending {
            client,
            sent: self.now,
            epoch: self.epoch,
            ask,
            accept,
            recorder,
            reply: None,
        });
    }

    fn begin_write(&mut self) {
        let (client, accept, key) = (self.chance.below(2), self.accept(), self.key());
        let mode = if self.one_in(5) { Mode::Dry } else { Mode::Real };
        let collection = format!("/api/v1/namespaces/{}/configmaps", key.0);
        let (ask, method, target) = match self.chance.below(7) {
            0 | 1 => (Ask::Create(key, mode), Method::POST, collection),
            2 => (Ask::Change(key, mode), Method::PATCH, path(key)),
            3 if mode == Mode::Real => {
                let app = self.pick(&APPS);
                let target = format!("{collection}?labelSelector=app%3D{app}");
                (Ask::DeleteAll(key.0, app), Method::DELETE, target)
            }
            _ => (Ask::Delete(key, mode), Method::DELETE, path(key)),
        };
        let uri: Uri = match mode {
            Mode::Dry => format!("{target}?dryRun=All"),
            Mode::Real => target,
        }
        .parse()
        .unwrap();
        let RequestInfo::Resource(resource) = RequestInfo::parse(&method, uri.path(), uri.query()) else {
            panic!("{uri} is no resource");
        };
        let write = refresh_after_write(&self.cache, OWNERS[client], &resource, &uri, &accept_of(&accept));
        if let Some(write) = &write {
            drop(write.sends(body::empty()));
        }
        self.begin(client, ask, accept, Recorder::Write(Box::new(write), method));
    }

    /// The apiserver answers a request, and the answer is on its way.
    fn process(&mut self) {
        let waiting: Vec<usize> = (0..self.pending.len())
            .filter(|at| self.pending[*at].reply.is_none())
            .collect();
        if waiting.is_empty() {
            return;
        }
        let at = self.pick(&waiting);
        let (ask, encoding) = (self.pending[at].ask.clone(), self.pending[at].accept[0]);
        let reply = self.reply(&ask, encoding);
        self.note(format_args!(
            "answers {ask:?}: {} at {} {:?}",
            reply.status, reply.at, reply.told
        ));
        self.pending[at].reply = Some(reply);
    }

    /// An answer arrives, whole or not.
    async fn deliver(&mut self) {
        let answered: Vec<usize> = (0..self.pending.len())
            .filter(|at| self.pending[*at].reply.is_some())
            .collect();
        if answered.is_empty() {
            return;
        }
        let at = self.pick(&answered);
        let Pending {
            client,
            sent,
            epoch,
            ask,
            recorder,
            reply,
            ..
        } = self.pending.swap_remove(at);
        let Some(reply) = reply else { return };
        let breaks_off = self.one_in(10);
        self.note(format_args!(
            "{client} gets {ask:?} of {sent}, broken off: {breaks_off}"
        ));
        let head = head_of(reply.status, reply.encoding);
        let bytes = body::full(Bytes::from(reply.body));
        let (is_write, body) = match recorder {
            Recorder::Read(recording) => (false, recording.answered(&head, bytes)),
            Recorder::Write(write, method) => match *write {
                Some(write) => (true, write.answered(&method, &head, bytes)),
                None => (true, bytes),
            },
        };
        if breaks_off {
            if matches!(ask, Ask::DeleteAll(..)) {
                // All that was known of the collection is given up.
                self.lose();
            }
            return drop(body);
        }
        body.collect().await.unwrap();
        let is_read = matches!(ask, Ask::Get(..));
        for told in reply.told {
            // What a write says of an object of which nothing was read is not kept.
            let is_kept = !is_write
                || match &told {
                    Told::Seen(thing) | Told::Doomed(thing) => self.oracles[client].has_read(thing.key),
                    Told::Gone { key, .. } => self.oracles[client].has_read(*key),
                    Told::Forbidden(_) | Told::Listed(..) => true,
                };
            // A 404 that may lag places nothing.
            let is_weak = matches!(
                (&ask, &told),
                (Ask::Get(_, Freshness::Lagging), Told::Gone { .. })
            );
            let epoch = if is_kept && !is_weak { epoch } else { u64::MAX };
            self.learn(client, (sent, epoch), (reply.at, is_read), told);
        }
    }

    fn open_stream(&mut self) {
        let (client, accept, selection) = (self.chance.below(2), self.accept(), self.selection());
        let encoding = accept[0];
        let from = self.oracles[client].listed(&selection, encoding);
        let (version, cursor, is_initial) = match from {
            Some(at) if !self.one_in(4) => (format!("resourceVersion={at}"), at, false),
            _ => {
                let options =
                    "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
                (options.to_owned(), self.cloud.head, true)
            }
        };
        let target = format!("{}watch=true&{version}", selection.target());
        let query = query(OWNERS[client], &target, &accept);
        let Some(recording) = self.cache.record_watch(&query) else {
            return;
        };
        self.note(format_args!(
            "{client} watches {selection:?} {encoding:?} from {cursor}, initial: {is_initial}"
        ));
        let initial = if is_initial {
            self.cloud.state(&selection, cursor).into()
        } else {
            VecDeque::new()
        };
        self.streams.push(Stream {
            client,
            epoch: self.epoch,
            sent: self.now,
            selection,
            encoding,
            recording,
            cursor,
            initial,
            is_initial,
        });
    }

    /// The next event of some stream, or its end.
    async fn advance_stream(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        let at = self.chance.below(self.streams.len());
        if self.one_in(12) {
            let ended = self.streams.swap_remove(at);
            return self.note(format_args!(
                "{} watches {:?} no more",
                ended.client, ended.selection
            ));
        }
        let stream = &mut self.streams[at];
        let (client, selection, encoding) = (stream.client, stream.selection, stream.encoding);
        if let Some(thing) = stream.initial.pop_front() {
            send(stream, EventType::Added, &thing, thing.version).await;
            // It is not the view before all of them are.
            self.learn(client, (0, u64::MAX), (thing.version, false), Told::Seen(thing));
            return;
        }
        let next = self.cloud.after(stream.cursor).find_map(|change| {
            let (before, after) = (&change.before, &change.after);
            let before = before.as_ref().filter(|thing| selection.has(thing));
            match (before, after.as_ref().filter(|thing| selection.has(thing))) {
                (None, None) => None,
                (None, Some(thing)) => Some((change.at, EventType::Added, thing.clone())),
                (Some(_), Some(thing)) => Some((change.at, EventType::Modified, thing.clone())),
                (Some(thing), None) => Some((change.at, EventType::Deleted, thing.clone())),
            }
        });
        let reached = match next {
            Some((at, change, thing)) if !stream.is_initial => {
                send(stream, change, &thing, at).await;
                at
            }
            _ => {
                let reached = match stream.is_initial {
                    true => stream.cursor,
                    false => self.cloud.head,
                };
                let bookmark = WatchEvent::Bookmark(Bookmark {
                    type_meta: TypeMeta::new("v1", "ConfigMap"),
                    resource_version: reached.to_string(),
                    initial_events_end: stream.is_initial,
                    style: Style::BuiltIn,
                });
                stream.recording.event(&bookmark, 0).await;
                reached
            }
        };
        (stream.cursor, stream.is_initial) = (reached, false);
        let since = (stream.sent, stream.epoch);
        self.note(format_args!(
            "{client} hears of {selection:?} {encoding:?} up to {reached}"
        ));
        self.learn(client, since, (reached, false), Told::Listed(selection, encoding));
    }

    /// The disk fails or works again, the process ends, something is evicted, or nothing is left of what is void.
    async fn end(&mut self) {
        self.cache.settle().await;
        match self.chance.below(10) {
            0 if !self.is_failing => {
                self.note("the disk fails");
                self.sim.fail();
                self.lose();
                self.is_failing = true;
            }
            0..=2 if self.is_failing => self.repair(),
            1..=3 => self.restart(Survives::Told),
            4 => {
                self.lose();
                let survives = match self.one_in(2) {
                    true => Survives::Synced,
                    false => Survives::Chance(self.now),
                };
                self.restart(survives);
            }
            5 => {
                let logs = self.store.logs();
                if !logs.is_empty() {
                    let evicted = logs[self.chance.below(logs.len())].id.clone();
                    self.note(format_args!("{evicted} is evicted"));
                    self.lose();
                    let _failed = self.store.remove(&evicted);
                    self.restart(Survives::Told);
                }
            }
            6 | 7 => {
                let _failed = self.store.sync();
            }
            _ => {
                let _failed = self.store.compact_due();
            }
        }
    }

    fn repair(&mut self) {
        self.note("the disk works");
        self.sim.repair();
        self.lose();
        self.is_failing = false;
    }

    fn restart(&mut self, survives: Survives) {
        self.note(format_args!("the process ends, {survives:?}"));
        if self.is_failing {
            self.repair();
        }
        self.pending.clear();
        self.streams.clear();
        self.sim = self.sim.after(survives);
        (self.store, self.cache) = open(&self.sim);
    }
}

async fn send(stream: &mut Stream, change: EventType, thing: &Thing, version: u64) {
    let body = form(stream.encoding).object(&item(stream.encoding, thing, version));
    let object = read_object(stream.encoding, &body).unwrap();
    let event = WatchEvent::Item { change, object };
    stream.recording.event(&event, body.len()).await;
}

#[test]
fn no_answer_is_one_that_the_oracle_forbids() {
    let asked = std::env::var("EDGEHOLD_SIMULATION").unwrap_or_default();
    let (first, steps) = asked.split_once(',').unwrap_or(("1", ""));
    let (first, steps): (u64, u64) = (first.parse().unwrap_or(1), steps.parse().unwrap_or(STEPS));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut told = Tally::default();
    for seed in FOUND.into_iter().chain(first..first + steps.div_ceil(LIFE)) {
        let life = runtime.block_on(async {
            let mut world = World::new(seed);
            world.note(format_args!("seed {seed}"));
            for _ in 0..LIFE {
                world.step().await;
            }
            world.told
        });
        told.objects += life.objects;
        told.absences += life.absences;
        told.lists += life.lists;
        told.unknown += life.unknown;
    }
    println!("{steps} steps: {told:?}");
    // A cache that knows nothing is not what is tested.
    assert!(
        told.objects > told.unknown / 20 && told.absences > told.unknown / 20,
        "{told:?}"
    );
    assert!(told.lists > told.unknown / 40, "{told:?}");
}
