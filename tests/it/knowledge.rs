//! Random reads, writes and watches of two clients through slow answers, failures, outages, restarts and a disk that is full at
//! times: no answer may be untrue, and none may be older than what its client was told before. While the disk is full this
//! holds for nothing that is told then: it cannot be kept.
//!
//! `EDGEHOLD_SEED=<n>` makes other choices, `EDGEHOLD_STEPS=<n>` more of them.
#![allow(clippy::disallowed_methods)] // a test may spawn, and fill a disk

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver_standin::{Answer, Client, Fault, Options};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::durable::SmallDisk;
use crate::support::{Dice, Node, Setup, config_map, version, watch_from};

const NAMESPACES: [&str; 2] = ["red", "blue"];
const NAMES: [&str; 3] = ["x", "y", "z"];
const APPS: [&str; 2] = ["web", "db"];
const CLIENTS: [&str; 2] = ["kubelet", "kube-proxy"];
const STEPS: u64 = 400;
const SEED: u64 = 1;

/// Later than `responseTimeout`, so that the cache would stand in if the server did not answer its probes.
const SLOW: Duration = Duration::from_millis(400);

/// Namespace and name.
type Key = (String, String);

/// Version and label of what there is.
type State = BTreeMap<Key, (u64, String)>;

/// What a list or watch asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Selection {
    namespace: Option<&'static str>,
    app: Option<&'static str>,
}

impl Selection {
    fn target(self) -> String {
        let path = self.namespace.map_or_else(
            || "/api/v1/configmaps".to_owned(),
            |namespace| format!("/api/v1/namespaces/{namespace}/configmaps"),
        );
        match self.app {
            Some(app) => format!("{path}?labelSelector=app%3D{app}"),
            None => path,
        }
    }

    fn may_have(self, key: &Key) -> bool {
        self.namespace.is_none_or(|namespace| namespace == key.0)
    }

    /// Whether that it lacks an object proves that there is none.
    fn is_complete_for(self, key: &Key) -> bool {
        self.app.is_none() && self.may_have(key)
    }

    fn covers(self, other: Self) -> bool {
        let wider = |mine: Option<&str>, of: Option<&str>| mine.is_none() || mine == of;
        wider(self.namespace, other.namespace) && wider(self.app, other.app)
    }

    fn of(self, state: &State) -> State {
        let has = |key: &Key, app: &str| self.may_have(key) && self.app.is_none_or(|wanted| wanted == app);
        let chosen = state.iter().filter(|(key, (_, app))| has(key, app));
        chosen.map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Every state that there ever was.
#[derive(Default)]
struct History(BTreeMap<u64, State>);

impl History {
    fn note(&mut self, node: &Node) {
        let objects = NAMESPACES
            .iter()
            .flat_map(|namespace| node.api.list("ConfigMap", namespace));
        let state = objects.map(|object| shown(&object)).collect();
        self.0.insert(node.api.revision(), state);
    }

    fn at(&self, version: u64) -> &State {
        self.0.range(..=version).next_back().expect("a state").1
    }

    fn now(&self) -> u64 {
        *self.0.last_key_value().expect("a state").0
    }
}

fn shown(object: &Value) -> (Key, (u64, String)) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let meta = &object["metadata"];
    let key = (text(&meta["namespace"]), text(&meta["name"]));
    (key, (number(&version(object)), text(&meta["labels"]["app"])))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("no version: {text:?}"))
}

/// What one answer or event told.
#[derive(Debug, Clone)]
enum Fact {
    /// An object at this version.
    Seen(Key, u64),
    /// At this revision there was none.
    Absent(Key, u64),
    /// The state of a selection at this revision.
    State(Selection, u64),
    /// What was told last answered a write, and to write is not to read.
    Written,
}

/// What one client was told, in this order.
type Facts = Arc<Mutex<Told>>;

#[derive(Debug, Clone, Default)]
struct Told {
    facts: Vec<Fact>,
    /// What is before this may have been forgotten.
    binding_from: usize,
}

impl Told {
    fn push(&mut self, fact: Fact) {
        self.facts.push(fact);
    }

    fn binding(&self) -> &[Fact] {
        &self.facts[self.binding_from..]
    }

    fn release(&mut self) {
        self.binding_from = self.facts.len();
    }

    /// The newest version of an object that must be remembered, and the last revision at which it must be, or may be,
    /// remembered that there was none.
    fn of(&self, history: &History, key: &Key) -> Known {
        let (seen, absent) = known_of(self.binding(), history, key);
        let (_, ever_absent) = known_of(&self.facts, history, key);
        Known {
            seen,
            absent,
            ever_absent,
        }
    }
}

/// What a client knows of an object.
#[derive(Debug, Clone, Copy)]
struct Known {
    seen: Option<u64>,
    absent: Option<u64>,
    ever_absent: Option<u64>,
}

/// What the facts say of one object: the newest version shown, and the last revision at which it was absent.
fn known_of(facts: &[Fact], history: &History, key: &Key) -> (Option<u64>, Option<u64>) {
    let (mut seen, mut absent) = (None, None);
    for fact in facts {
        match fact {
            Fact::Seen(of, version) if of == key => seen = seen.max(Some(*version)),
            Fact::Absent(of, at) if of == key => absent = absent.max(Some(*at)),
            Fact::State(selection, at) => match selection.of(history.at(*at)).get(key) {
                Some((version, _)) => seen = seen.max(Some(*version)),
                None if selection.is_complete_for(key) => absent = absent.max(Some(*at)),
                None => {}
            },
            Fact::Seen(..) | Fact::Absent(..) | Fact::Written => {}
        }
    }
    (seen, absent)
}

/// A watch that the test reads in the background.
struct Follower {
    client: usize,
    selection: Selection,
    task: JoinHandle<()>,
}

struct World {
    dice: Dice,
    node: Node,
    history: History,
    facts: [Facts; 2],
    followers: Vec<Follower>,
    is_away: bool,
    /// Where the cache is, if it can be filled, and what fills it.
    disk: Option<SmallDisk>,
    filler: Option<std::path::PathBuf>,
    told: Tally,
    trace: Vec<String>,
}

/// What was answered offline, to see that this is not a test of refusals.
#[derive(Debug, Default)]
struct Tally {
    objects: u64,
    absences: u64,
    lists: u64,
    unknown: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.trace.len().saturating_sub(60);
            eprintln!("{}", self.trace[from..].join("\n"));
            for (client, facts) in CLIENTS.iter().zip(&self.facts) {
                let told = facts.lock();
                let from = told.facts.len().saturating_sub(25);
                eprintln!(
                    "{client} was told: {:?}, binding from {}",
                    &told.facts[from..],
                    told.binding_from
                );
            }
        }
    }
}

impl World {
    fn client(&self, client: usize) -> Client {
        self.node.client(Some(&self.node.pair(CLIENTS[client])))
    }

    fn key(&mut self) -> Key {
        (
            self.dice.pick(&NAMESPACES).to_owned(),
            self.dice.pick(&NAMES).to_owned(),
        )
    }

    fn selection(&mut self) -> Selection {
        Selection {
            namespace: self.dice.pick(&[None, Some(NAMESPACES[0]), Some(NAMESPACES[1])]),
            app: self.dice.pick(&[None, None, Some(APPS[0]), Some(APPS[1])]),
        }
    }

    fn note(&mut self, what: &str) {
        let since = match (self.is_away, self.filler.is_some()) {
            (true, false) => "away",
            (false, false) => "there",
            (true, true) => "away, disk full",
            (false, true) => "there, disk full",
        };
        self.trace
            .push(format!("at {}, {since}: {what}", self.history.now()));
    }

    fn learn(&self, client: usize, fact: Fact) {
        let mut told = self.facts[client].lock();
        told.push(fact);
        if self.filler.is_some() {
            told.release();
        }
    }

    /// Somebody else changes something.
    fn change(&mut self) {
        let (namespace, name) = self.key();
        self.note(&format!("{namespace}/{name} changes"));
        if self.dice.chance(30) {
            self.node.api.delete("ConfigMap", &namespace, &name);
        } else {
            let mut object = config_map(&namespace, &name, &self.dice.below(1000).to_string());
            object["metadata"]["labels"]["app"] = json!(self.dice.pick(&APPS));
            self.node.api.put(object);
        }
        self.history.note(&self.node);
        if self.dice.chance(10) {
            self.node.api.advance(1 + self.dice.below(3));
            self.history.note(&self.node);
        }
        if self.dice.chance(3) {
            self.node.api.compact();
        }
    }

    async fn get(&mut self, client: usize) {
        let key = self.key();
        let answer = self.client(client).get(&object_path(&key)).await;
        let facts = self.facts[client].lock().clone();
        let Known {
            seen,
            absent,
            ever_absent,
        } = facts.of(&self.history, &key);
        let says = format!(
            "{} GET {key:?}: {} {}, seen {seen:?}, absent {absent:?}",
            CLIENTS[client],
            answer.status,
            told_by(&answer)
        );
        self.note(&says);
        match answer.status {
            200 => {
                let (of, (version, app)) = shown(&answer.json());
                assert_eq!(of, key);
                let was = |state: &State| state.get(&key) == Some(&(version, app.clone()));
                assert!(self.history.0.values().any(was), "it was never so: {says}");
                assert!(seen.is_none_or(|seen| seen <= version), "{version}: {says}");
                assert!(absent.is_none_or(|absent| absent < version), "{version}: {says}");
                if self.is_live(&answer) {
                    assert!(
                        was(self.history.at(self.history.now())),
                        "not what there is: {says}"
                    );
                    self.learn(client, Fact::Seen(key, version));
                } else {
                    self.told.objects += 1;
                }
            }
            404 if self.is_live(&answer) => {
                assert!(!self.history.at(self.history.now()).contains_key(&key), "{says}");
                self.learn(client, Fact::Absent(key, self.history.now()));
            }
            404 => {
                assert!(
                    ever_absent.is_some_and(|absent| seen.is_none_or(|seen| seen <= absent)),
                    "{says}"
                );
                self.told.absences += 1;
            }
            503 => {
                self.told.unknown += 1;
                let is_last = match facts.binding().last() {
                    Some(Fact::Seen(of, _) | Fact::Absent(of, _)) => *of == key,
                    Some(Fact::State(..) | Fact::Written) | None => false,
                };
                assert!(!is_last || !self.is_away, "it was read last: {says}");
            }
            _ => panic!("{says}: {}", answer.text()),
        }
    }

    async fn list(&mut self, client: usize, selection: Selection) -> Option<u64> {
        let answer = self.client(client).get(&selection.target()).await;
        let facts = self.facts[client].lock().clone();
        let newest = facts.binding().iter().filter_map(|fact| match fact {
            Fact::State(wider, at) if wider.covers(selection) => Some(*at),
            _ => None,
        });
        let newest = newest.max();
        let says = format!(
            "{} LIST {selection:?}: {} {}, known at {newest:?}",
            CLIENTS[client],
            answer.status,
            told_by(&answer)
        );
        self.note(&says);
        if answer.status == 503 {
            self.told.unknown += 1;
            assert!(newest.is_none() || !self.is_away, "{says}");
            return None;
        }
        assert_eq!(answer.status, 200, "{says}: {}", answer.text());
        let list = answer.json();
        let at = number(&version(&list));
        let items: State = list["items"].as_array().unwrap().iter().map(shown).collect();
        assert_eq!(items, selection.of(self.history.at(at)), "at {at}: {says}");
        assert!(newest.is_none_or(|newest| newest <= at), "at {at}: {says}");
        if self.is_live(&answer) {
            let now = self.history.at(self.history.now());
            assert_eq!(items, selection.of(now), "not what there is: {says}");
        } else {
            self.told.lists += 1;
        }
        self.learn(client, Fact::State(selection, at));
        Some(at)
    }

    async fn write(&mut self, client: usize) {
        let (namespace, name) = self.key();
        let path = object_path(&(namespace.clone(), name.clone()));
        let way = self.dice.below(3);
        let dry = self.dice.chance(20);
        let query = if dry { "?dryRun=All" } else { "" };
        let mut object = config_map(&namespace, &name, &self.dice.below(1000).to_string());
        object["metadata"]["labels"]["app"] = json!(self.dice.pick(&APPS));
        let plain = self.client(client);
        let answer = match way {
            0 => {
                let all = path.rsplit_once('/').unwrap().0;
                let plain = plain.header("content-type", "application/json");
                plain
                    .send("POST", &format!("{all}{query}"), object.to_string())
                    .await
            }
            1 => {
                let plain = plain.header("content-type", "application/merge-patch+json");
                plain
                    .send("PATCH", &format!("{path}{query}"), object.to_string())
                    .await
            }
            _ => plain.send("DELETE", &format!("{path}{query}"), "").await,
        };
        let answer = answer.unwrap();
        self.history.note(&self.node);
        self.note(&format!(
            "{} writes ({way}, dry: {dry}) {path}: {}",
            CLIENTS[client], answer.status
        ));
        let key = (namespace, name);
        match (answer.status, way) {
            _ if dry => {}
            (200, 2) => self.learn(client, Fact::Absent(key, self.history.now())),
            (404, 1 | 2) if !self.is_away => self.learn(client, Fact::Absent(key, self.history.now())),
            (200 | 201, _) => {
                let (of, (version, _)) = shown(&answer.json());
                assert_eq!(of, key);
                self.learn(client, Fact::Seen(key, version));
            }
            // It is there already, there is none, or the cloud failed or is away.
            (404 | 409 | 503, _) => {}
            (status, _) => panic!("{path}: {status} {}", answer.text()),
        }
        self.learn(client, Fact::Written);
        assert!(
            !self.is_away || answer.status == 503,
            "{path}: {} while away",
            answer.status
        );
    }

    /// A list, and a watch from there.
    async fn follow(&mut self, client: usize) {
        let selection = self.selection();
        self.followers.retain(|follower| !follower.task.is_finished());
        let is_taken = |follower: &Follower| follower.client == client && follower.selection == selection;
        if self.followers.iter().any(is_taken) {
            return;
        }
        // From a list that the cloud gave: a view of its own follows such a watch from its first event on.
        let Some(at) = self.list(client, selection).await.filter(|_| !self.is_away) else {
            return;
        };
        if self.filler.is_some() {
            // What is told now has no view to go on from.
            return;
        }
        let Ok(mut connection) = self.client(client).connect().await else {
            return;
        };
        let target = watch_from(&selection.target(), &at.to_string());
        let Ok(mut lines) = connection.lines(&target).await else {
            return;
        };
        let facts = Arc::clone(&self.facts[client]);
        let task = tokio::spawn(async move {
            let _open = connection;
            while let Ok(Some(event)) = lines.next().await {
                if event["type"] == "ERROR" {
                    break;
                }
                // Whoever was told of this event knows the state at its version.
                let at = number(&version(&event["object"]));
                facts.lock().push(Fact::State(selection, at));
            }
        });
        self.note(&format!("{} watches {selection:?} from {at}", CLIENTS[client]));
        self.followers.push(Follower {
            client,
            selection,
            task,
        });
    }

    /// Whether the cloud gave this answer, and just now.
    fn is_live(&self, answer: &Answer) -> bool {
        !self.is_away && told_by(answer).is_empty()
    }

    async fn read(&mut self) {
        let client = self.dice.pick(&[0, 1]);
        if self.dice.chance(60) {
            self.get(client).await;
        } else {
            let selection = self.selection();
            self.list(client, selection).await;
        }
    }

    async fn step(&mut self) {
        match self.dice.below(100) {
            0..25 => self.change(),
            25..60 => self.read().await,
            60..70 => {
                let client = self.dice.pick(&[0, 1]);
                self.write(client).await;
            }
            70..78 => {
                let client = self.dice.pick(&[0, 1]);
                self.follow(client).await;
            }
            78..81 if !self.is_away => {
                self.node.api.fault(Fault::Delay(SLOW).on("/api/v1/").times(1));
                self.read().await;
                self.node.api.clear_faults();
            }
            81..84 if !self.is_away => {
                let code = self.dice.pick(&[500, 503]);
                self.node.api.fault(Fault::Status(code).on("/api/v1/").times(1));
                self.refused().await;
                self.node.api.clear_faults();
            }
            84..94 if !self.is_away => {
                self.node.cut().await;
                self.is_away = true;
            }
            84..94 => {
                self.node.heal().await;
                self.is_away = false;
            }
            94..96 => {
                if self.filler.is_some() {
                    // It would begin in memory, and go over to the disk at some time.
                    return;
                }
                self.note("edgehold starts again");
                self.followers.clear();
                self.node.restart().await;
                if self.is_away {
                    self.node.cut().await;
                }
            }
            96..98 => {
                if let Some(follower) = self.followers.pop() {
                    follower.task.abort();
                }
            }
            98 => self.fill_or_clear_disk().await,
            _ => self.change(),
        }
    }

    /// The disk is full, or has room again. What cannot be kept is not remembered, nor what the same view knew before.
    async fn fill_or_clear_disk(&mut self) {
        let Some(disk) = &self.disk else { return };
        self.node.settle().await;
        for follower in self.followers.drain(..) {
            follower.task.abort();
        }
        match self.filler.take() {
            None => self.filler = Some(disk.fill()),
            Some(filler) => std::fs::remove_file(filler).expect("the filler"),
        }
        self.facts.iter().for_each(|told| told.lock().release());
        self.note("the disk changes");
    }

    /// A read that the cloud itself may have refused.
    async fn refused(&mut self) {
        let client = self.dice.pick(&[0, 1]);
        let key = self.key();
        let answer = self.client(client).get(&object_path(&key)).await;
        let facts = self.facts[client].lock().clone();
        let Known { seen, absent, .. } = facts.of(&self.history, &key);
        match answer.status {
            500 | 503 => {}
            // Something else met the fault.
            404 if told_by(&answer).is_empty() => {
                assert!(!self.history.at(self.history.now()).contains_key(&key))
            }
            200 => {
                let (_, (version, _)) = shown(&answer.json());
                assert!(
                    seen.is_none_or(|seen| seen <= version),
                    "{key:?} {version}, seen {seen:?}"
                );
                assert!(
                    absent.is_none_or(|absent| absent < version),
                    "{key:?} {version}, absent {absent:?}"
                );
            }
            status => panic!("{key:?}: {status} {}", answer.text()),
        }
    }
}

fn object_path(key: &Key) -> String {
    format!("/api/v1/namespaces/{}/configmaps/{}", key.0, key.1)
}

/// What edgehold says of its part in an answer; nothing if it is the cloud's.
fn told_by(answer: &Answer) -> &str {
    answer.header("cache-status")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_is_untrue_or_older_than_what_its_client_was_told() {
    let options = Options {
        bookmark_interval: Duration::from_millis(200),
        ..Options::default()
    };
    let setup = Setup {
        response_timeout: "200ms",
        ..Setup::default()
    };
    let mut node = Node::with(options, setup).await;
    let disk = SmallDisk::under(&mut node).await;
    let mut world = World {
        dice: Dice::from_environment_or(SEED),
        node,
        history: History::default(),
        facts: [Facts::default(), Facts::default()],
        followers: Vec::new(),
        is_away: false,
        disk,
        filler: None,
        told: Tally::default(),
        trace: Vec::new(),
    };
    world.history.note(&world.node);
    let steps = std::env::var("EDGEHOLD_STEPS").map_or(STEPS, |steps| number(&steps));
    for _ in 0..steps {
        world.step().await;
    }
    println!("{steps} steps, offline: {:?}", world.told);
    world.node.stop().await;
    assert!(world.told.objects > 0 && world.told.lists > 0, "{:?}", world.told);
}
