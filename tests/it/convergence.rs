//! Random writes, cuts, restarts and compactions: whatever happens, every client converges and nothing is untrue.
//!
//! `EDGEHOLD_SEED=<n>` repeats a run's choices; the seed is printed when it fails.
#![allow(clippy::disallowed_methods)] // a test may spawn

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver_standin::{Client, ClientError, Connection, Lines, Options};
use edgehold::runtime::clock;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{
    DEADLINE, Dice, Node, Setup, config_map, ends_initial, offline_list, told, version, watch_from,
};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const SELECTED: &str = "/api/v1/namespaces/shop/configmaps?labelSelector=app%3Dweb";
const OBJECTS: u64 = 50;
const ROUNDS: usize = 10;

/// How long a client waits before it tries again.
const BACKOFF: Duration = Duration::from_millis(50);

/// The version of every object by its name.
type State = BTreeMap<String, u64>;

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("no version: {text:?}"))
}

fn state_of<'a>(objects: impl IntoIterator<Item = &'a Value>) -> State {
    let of = |object: &'a Value| {
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        (name, number(&version(object)))
    };
    objects.into_iter().map(of).collect()
}

/// Every state that the stand-in was ever in: all objects, and the selected ones.
#[derive(Default)]
struct History(BTreeMap<u64, (State, State)>);

impl History {
    fn note(&mut self, node: &Node) {
        let objects = node.api.list("ConfigMap", "shop");
        let selected = objects
            .iter()
            .filter(|object| object["metadata"]["labels"]["app"] == "web");
        let states = (state_of(&objects), state_of(selected));
        self.0.insert(node.api.revision(), states);
    }

    fn at(&self, version: u64, collection: &str) -> &State {
        let (_, (all, selected)) = self.0.range(..=version).next_back().expect("a state");
        if collection == LIST { all } else { selected }
    }
}

/// What a client knows, for the test to look at.
#[derive(Default)]
struct Known {
    store: State,
    version: Option<u64>,
    synced: bool,
    wrong: Vec<String>,
}

/// A client that follows client-go's rules (wire contract 5.2).
#[derive(Clone)]
struct Informer {
    name: &'static str,
    collection: &'static str,
    lists_first: bool,
    known: Arc<Mutex<Known>>,
    /// A restarted edgehold listens elsewhere.
    client: Arc<Mutex<Client>>,
}

/// How a stream was left.
enum Left {
    WatchAgain,
    ListAgain,
}

impl Informer {
    fn new(
        name: &'static str,
        collection: &'static str,
        lists_first: bool,
        client: &Arc<Mutex<Client>>,
    ) -> Self {
        Self {
            name,
            collection,
            lists_first,
            known: Arc::default(),
            client: Arc::clone(client),
        }
    }

    async fn run(self) {
        loop {
            let left = match self.start().await {
                Ok(Some((watch, connection))) => self.follow(watch, connection).await,
                Ok(None) => Left::WatchAgain,
                Err(_) => Left::ListAgain,
            };
            if let Left::ListAgain = left {
                tokio::time::sleep(BACKOFF).await;
                continue;
            }
            while let Left::WatchAgain = self.watch().await {}
            tokio::time::sleep(BACKOFF).await;
        }
    }

    /// Gets a whole state; with a stream if it came by a watch-list.
    async fn start(&self) -> Result<Option<(Lines, Connection)>, ClientError> {
        if !self.lists_first
            && let Ok(stream) = self.watch_list().await
        {
            return Ok(Some(stream));
        }
        self.list().await.map(|()| None)
    }

    fn knows(&self) -> Option<u64> {
        self.known.lock().version
    }

    fn parameters(&self, rest: &str) -> String {
        let separator = if self.collection.contains('?') { '&' } else { '?' };
        format!("{}{separator}{rest}", self.collection)
    }

    async fn connect(&self) -> Result<Connection, ClientError> {
        let client = self.client.lock().clone();
        client.connect().await
    }

    async fn list(&self) -> Result<(), ClientError> {
        let known = self.knows().unwrap_or(0);
        let target = self.parameters(&format!("resourceVersion={known}"));
        let answer = self.connect().await?.send("GET", &target, "").await?;
        if answer.status != 200 {
            return Err(ClientError(answer.text()));
        }
        let list = answer.json();
        let at = number(&version(&list));
        self.replace(state_of(list["items"].as_array().unwrap()), at);
        Ok(())
    }

    async fn watch_list(&self) -> Result<(Lines, Connection), ClientError> {
        let from = self
            .knows()
            .map_or_else(String::new, |at| format!("&resourceVersion={at}"));
        let target = self.parameters(&format!(
            "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\
             &timeoutSeconds=300{from}"
        ));
        let mut connection = self.connect().await?;
        let mut watch = connection.lines(&target).await?;
        if watch.response.status() != 200 {
            return Err(ClientError(watch.response.status().to_string()));
        }
        let mut received = State::new();
        loop {
            let event = watch.next().await?.ok_or(ClientError("ended early".into()))?;
            let (kind, name, version) = told(&event);
            match kind.as_str() {
                "ADDED" => drop(received.insert(name, number(&version))),
                "BOOKMARK" if ends_initial(&event) => {
                    self.replace(received, number(&version));
                    return Ok((watch, connection));
                }
                _ => return Err(ClientError(event.to_string())),
            }
        }
    }

    fn replace(&self, state: State, at: u64) {
        let mut known = self.known.lock();
        if let Some(before) = known.version.filter(|before| at < *before) {
            known
                .wrong
                .push(format!("a list went back from {before} to {at}"));
        }
        *known = Known {
            store: state,
            version: Some(at),
            synced: true,
            wrong: std::mem::take(&mut known.wrong),
        };
    }

    /// A plain watch from where the client stands.
    async fn watch(&self) -> Left {
        let Some(at) = self.knows() else {
            return Left::ListAgain;
        };
        let target = format!(
            "{}&timeoutSeconds=300",
            watch_from(self.collection, &at.to_string())
        );
        let Ok(mut connection) = self.connect().await else {
            // Refused: back off, and again from the same version.
            tokio::time::sleep(BACKOFF).await;
            return Left::WatchAgain;
        };
        match connection.lines(&target).await {
            Ok(watch) if watch.response.status() == 200 => self.follow(watch, connection).await,
            Ok(_) => Left::ListAgain,
            Err(_) => {
                tokio::time::sleep(BACKOFF).await;
                Left::WatchAgain
            }
        }
    }

    async fn follow(&self, mut watch: Lines, _connection: Connection) -> Left {
        let started = clock::now();
        let mut spoke = false;
        while let Ok(Some(event)) = watch.next().await {
            spoke = true;
            if event["type"] == "ERROR" {
                return Left::ListAgain;
            }
            self.apply(&event);
        }
        if !spoke && clock::now() - started < Duration::from_secs(1) {
            return Left::ListAgain;
        }
        Left::WatchAgain
    }

    fn apply(&self, event: &Value) {
        let (kind, name, version) = told(event);
        let version = number(&version);
        let mut known = self.known.lock();
        let before = known.version.unwrap_or(0);
        let goes_on = version > before || (kind == "BOOKMARK" && version == before);
        if !goes_on {
            known.wrong.push(format!("after {before}: {event}"));
        }
        let held = known.store.get(&name).copied();
        let fits = match kind.as_str() {
            "ADDED" => {
                known.store.insert(name, version);
                held.is_none()
            }
            "MODIFIED" => {
                known.store.insert(name, version);
                held.is_some()
            }
            "DELETED" => known.store.remove(&name).is_some(),
            kind => kind == "BOOKMARK",
        };
        if !fits {
            known.wrong.push(format!("held {held:?} before {event}"));
        }
        known.version = Some(version);
    }
}

/// One random change.
fn write(node: &Node, dice: &mut Dice, history: &mut History) {
    let name = format!("object-{:02}", dice.below(OBJECTS));
    if dice.chance(25) {
        node.api.delete("ConfigMap", "shop", &name);
    } else {
        let mut object = config_map("shop", &name, &dice.below(1000).to_string());
        object["metadata"]["labels"]["app"] = json!(if dice.chance(60) { "web" } else { "db" });
        node.api.put(object);
    }
    history.note(node);
    if dice.chance(10) {
        node.api.advance(1 + dice.below(3));
        history.note(node);
    }
}

async fn writes(node: &Node, dice: &mut Dice, history: &mut History) {
    for _ in 0..=dice.below(30) {
        write(node, dice, history);
        if dice.chance(30) {
            tokio::task::yield_now().await;
        }
    }
}

/// What is answered offline is what was true at its version, and not less than what the clients of the view know.
async fn check_offline(node: &Node, history: &History, informers: &[Informer]) {
    for collection in [LIST, SELECTED] {
        let of_view = informers.iter().filter(|i| i.collection == collection);
        let furthest = of_view.filter_map(Informer::knows).max();
        let list = offline_list(&node.kubelet(), collection).await;
        let at = number(&version(&list));
        assert_eq!(
            &state_of(list["items"].as_array().unwrap()),
            history.at(at, collection),
            "{collection} at {at}"
        );
        assert!(
            Some(at) >= furthest,
            "{collection}: the view is at {at}, a client at {furthest:?}"
        );
    }
}

fn check_clients(informers: &[Informer]) {
    for informer in informers {
        let wrong = &informer.known.lock().wrong;
        assert!(wrong.is_empty(), "{}: {wrong:#?}", informer.name);
    }
}

async fn converge(node: &Node, history: &History, informers: &[Informer]) {
    let started = clock::now();
    for informer in informers {
        let expected = history.at(node.api.revision(), informer.collection);
        loop {
            {
                let known = informer.known.lock();
                if known.synced && known.store == *expected {
                    break;
                }
                assert!(
                    clock::now() - started < DEADLINE,
                    "{} stayed at {:?} of {}: {:?}, not {expected:?}",
                    informer.name,
                    known.version,
                    node.api.revision(),
                    known.store,
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_converges_and_what_is_answered_offline_was_true() {
    let mut dice = Dice::from_environment();
    let options = Options {
        bookmark_interval: Duration::from_millis(100),
        ..Options::default()
    };
    let mut node = Node::with(options, Setup::default()).await;
    let mut history = History::default();
    history.note(&node);
    writes(&node, &mut dice, &mut history).await;

    let client = Arc::new(Mutex::new(node.kubelet()));
    let informers = [
        Informer::new("list and watch", LIST, true, &client),
        Informer::new("watch-list", LIST, false, &client),
        Informer::new("selected watch-list", SELECTED, false, &client),
    ];
    let mut running = JoinSet::new();
    for informer in &informers {
        running.spawn(informer.clone().run());
    }
    converge(&node, &history, &informers).await;

    for _round in 0..ROUNDS {
        writes(&node, &mut dice, &mut history).await;
        let away = dice.chance(70);
        if away {
            node.cut().await;
            check_offline(&node, &history, &informers).await;
            writes(&node, &mut dice, &mut history).await;
            if dice.chance(20) {
                node.api.compact();
            }
        }
        if dice.chance(30) {
            node.stop().await;
            writes(&node, &mut dice, &mut history).await;
            node.launch().await;
            *client.lock() = node.kubelet();
        }
        if away {
            if *node.running().link().borrow() == edgehold::upstream::LinkState::Offline {
                check_offline(&node, &history, &informers).await;
            }
            writes(&node, &mut dice, &mut history).await;
            node.heal().await;
        }
        if dice.chance(50) {
            converge(&node, &history, &informers).await;
        }
        check_clients(&informers);
    }
    converge(&node, &history, &informers).await;
    check_clients(&informers);
    node.cut().await;
    check_offline(&node, &history, &informers).await;
}
