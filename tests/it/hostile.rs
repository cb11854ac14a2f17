//! A hostile neighbour: whatever it does, random and at once, three honest clients are answered as they are without it.
//!
//! Two nodes, each with a cloud of its own, are asked the same in step; beside one of them is the neighbour. Every answer (status,
//! body, what edgehold says of its part) and every event must be the same, while the clouds are there and while they are away.
//!
//! A node alone is not always answered like another: an event may be told before or after an answer that was asked for at the same
//! time, and edgehold's own list for a view that its client has outrun comes half a second later, or a whole. So nothing is
//! asked before all is told, recorded and settled; and only where a view is still behind when the clouds go, two answers from the
//! cache may differ until they are back: one side knows more.
//!
//! `EDGEHOLD_SEED=<n>` makes other choices, of the clients and of the neighbour; `EDGEHOLD_STEPS=<n>` more of them, and
//! `EDGEHOLD_SECONDS=<n>` goes on for that long.
#![allow(clippy::disallowed_methods)] // a test may spawn

mod neighbour;

use std::time::Duration;

use apiserver_standin::{
    Answer, Client, ClientError, Connection, Lines, Options, Protocol, Rbac, Rule, ServiceAccountToken,
    Subject,
};
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, Dice, HIT, KUBELET, METADATA, Node, PROTOBUF, Setup, eventually, version, watch_from,
    watch_list,
};

use self::neighbour::Neighbour;

const SEED: u64 = 1;
const STEPS: u64 = 60;
const CLIENTS: [&str; 3] = ["kubelet", "kube-proxy", "pod"];
/// As whom the clouds know them.
const USERS: [&str; 3] = [KUBELET, "system:kube-proxy", "system:serviceaccount:shop:web"];
const NAMES: [&str; 4] = ["x", "y", "z", "sentinel"];

/// How long edgehold's own lists are waited for.
const HEALING: Duration = Duration::from_secs(5);

/// What only the honest clients may read.
const SECRET: &str = "sauerkraut";

/// What they list and watch; each of them shows every change of the sentinel.
const TARGETS: [&str; 4] = [
    "/api/v1/namespaces/shop/configmaps",
    "/api/v1/namespaces/shop/configmaps?labelSelector=app%3Dweb",
    "/api/v1/namespaces/shop/configmaps?labelSelector=app%21%3Dnone",
    "/api/v1/configmaps?labelSelector=app%3Dweb",
];

/// The pod may not list what is in other namespaces.
fn targets_of(client: usize) -> &'static [&'static str] {
    if client == 2 { &TARGETS[..3] } else { &TARGETS }
}

/// One of both nodes, and what the clients have open there.
struct Side {
    node: Node,
    token: String,
    kept: [Option<Connection>; 3],
    watches: Vec<(Connection, Lines)>,
}

impl Side {
    async fn start() -> Self {
        let options = Options {
            // What a view knows by a bookmark depends on the time.
            bookmark_interval: Duration::from_secs(3600),
            history: 1_000_000,
            rbac: rights(),
            ..Options::default()
        };
        let setup = Setup {
            // Nothing here is late but for a slow machine.
            response_timeout: "25s",
            probe_timeout: "10s",
            ..Setup::default()
        };
        let node = Node::with(options, setup).await;
        let account = ServiceAccountToken {
            uid: Some("su".into()),
            ..ServiceAccountToken::new("shop", "web")
        };
        let token = node.api.issue(&account);
        Self {
            node,
            token,
            kept: Default::default(),
            watches: Vec::new(),
        }
    }

    fn client(&self, client: usize) -> Client {
        match client {
            0 => self.node.client(Some(&self.node.pair("kubelet"))),
            1 => {
                let proxy = self.node.client(Some(&self.node.pair("kube-proxy")));
                proxy.protocol(Protocol::Http1)
            }
            // A pod has an address of its own.
            _ => self
                .node
                .token_client(&self.token)
                .from_address([127, 0, 0, 9].into()),
        }
    }

    /// Asks on a connection that is kept, or on one of its own.
    async fn ask(&mut self, ask: &Ask) -> Told {
        let mut client = self.client(ask.client).header("accept", ask.accept);
        if !ask.content_type.is_empty() {
            client = client.header("content-type", ask.content_type);
        }
        let body = ask.body.to_string();
        if !ask.is_kept {
            return Told::of(client.send(ask.method, &ask.target, body).await);
        }
        let kept = &mut self.kept[ask.client];
        if kept.is_none() {
            *kept = client.connect().await.ok();
        }
        let Some(connection) = kept else {
            return Told::of(Err(ClientError("no connection".to_owned())));
        };
        connection.as_client(client);
        let told = Told::of(connection.send(ask.method, &ask.target, body).await);
        if told.status == 0 {
            *kept = None;
        }
        told
    }

    fn is_behind(&self) -> bool {
        self.node.running().proxy().cache().stats().views_behind > 0
    }

    async fn watch(&mut self, client: usize, target: &str) -> Option<u16> {
        let mut connection = self.client(client).connect().await.ok()?;
        let lines = connection.lines(target).await.ok()?;
        let status = lines.response.status().as_u16();
        if status == 200 {
            self.watches.push((connection, lines));
        }
        Some(status)
    }

    /// The next events of one watch, up to that of the sentinel with this value.
    async fn events(&mut self, watch: usize, sentinel: u64) -> Vec<Value> {
        let mut events = Vec::new();
        loop {
            match self.watches[watch].1.next().await {
                // When one comes depends on the time.
                Ok(Some(event)) if event["type"] == "BOOKMARK" => {}
                Ok(Some(event)) => {
                    let object = &event["object"];
                    let is_it = object["metadata"]["name"] == "sentinel"
                        && object["data"]["k"] == sentinel.to_string().as_str();
                    events.push(event);
                    if is_it {
                        return events;
                    }
                }
                ended => {
                    events.push(json!(format!("{ended:?}")));
                    return events;
                }
            }
        }
    }
}

/// Who may do what in both clouds: the neighbour's account is an honest one's in another namespace.
fn rights() -> Rbac {
    let user = |name: &str| Subject::User(name.to_owned());
    let evil = || user("system:serviceaccount:own:evil");
    let web = || user("system:serviceaccount:shop:web");
    Rbac::deny_all()
        .with(Rule::allow(user(KUBELET), &["*"], &["*"]))
        .with(Rule::allow(user("system:kube-proxy"), &["*"], &["*"]))
        .with(Rule::allow(web(), &["*"], &["*"]).in_namespace("shop"))
        .with(Rule::allow(evil(), &["get", "list", "watch"], &["*"]).in_namespace("own"))
        .with(Rule::allow(evil(), &["get", "create"], &["pods/exec"]).in_namespace("own"))
}

/// A request.
#[derive(Debug)]
struct Ask {
    client: usize,
    method: &'static str,
    target: String,
    accept: &'static str,
    content_type: &'static str,
    body: Value,
    is_kept: bool,
}

/// What an answer says; 0: there was none.
#[derive(Debug, PartialEq)]
struct Told {
    status: u16,
    kind: String,
    part: String,
    body: String,
}

impl Told {
    /// An answer from the cache, or that there is none.
    fn is_what_was_kept(&self) -> bool {
        self.status == 503 || self.part == HIT
    }

    fn of(answer: Result<Answer, ClientError>) -> Self {
        match answer {
            Ok(answer) => {
                let kind = answer.header("content-type").to_owned();
                let body = match answer.status {
                    // Why the cloud is away, in brackets, has its address.
                    503 if kind == "application/json" => before(&answer.text(), " (").to_owned(),
                    503 => String::new(),
                    _ => answer.text(),
                };
                Self {
                    status: answer.status,
                    kind,
                    part: answer.header("cache-status").to_owned(),
                    body,
                }
            }
            Err(error) => Self {
                status: 0,
                kind: String::new(),
                part: String::new(),
                body: error.to_string(),
            },
        }
    }
}

fn before<'t>(text: &'t str, mark: &str) -> &'t str {
    text.split(mark).next().unwrap_or_default()
}

/// The same for both nodes.
struct World {
    dice: Dice,
    quiet: Side,
    beside: Side,
    neighbour: Neighbour,
    /// Who watches what, in the order of both sides.
    watches: Vec<(usize, String)>,
    sentinel: u64,
    is_away: bool,
    /// A view of a client was behind when the clouds went.
    is_behind: bool,
    /// Of every object, so that none is taken for one that was there before.
    uids: u64,
    told: Tally,
    trace: Vec<String>,
}

/// What was compared, to see that it is not only refusals.
#[derive(Debug, Default)]
struct Tally {
    live: u64,
    cached: u64,
    refused: u64,
    events: u64,
    /// What only one of both has kept, because a view was behind when the clouds went.
    otherwise: u64,
    /// How often all views were whole when the clouds went, and how often one was not.
    whole: u64,
    behind: u64,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let from = self.trace.len().saturating_sub(40);
            eprintln!("{}", self.trace[from..].join("\n"));
            eprintln!("the neighbour at last: {:?}", self.neighbour.recent());
        }
    }
}

impl World {
    /// The neighbour has tried everything, and its clients have been told something of each kind.
    fn has_seen_all(&self) -> bool {
        let Tally {
            live,
            cached,
            refused,
            events,
            whole,
            ..
        } = self.told;
        self.neighbour.has_done_all()
            && [live, cached, refused, events, whole]
                .iter()
                .all(|told| *told > 0)
    }

    fn note(&mut self, what: String) {
        let cloud = if self.is_away { "away" } else { "there" };
        self.trace.push(format!("{cloud}: {what}"));
    }

    fn put(&mut self, name: &str, value: &str, app: &str) {
        self.uids += 1;
        let mut object = config_map("shop", name, value, app);
        // One that is there keeps its own.
        object["metadata"]["uid"] = json!(format!("uid-{}", self.uids));
        for side in [&self.quiet, &self.beside] {
            side.node.api.put(object.clone());
        }
    }

    async fn change(&mut self) {
        let name = self.dice.pick(&NAMES[..3]);
        if self.dice.chance(30) {
            self.note(format!("{name} is deleted"));
            for side in [&self.quiet, &self.beside] {
                side.node.api.delete("ConfigMap", "shop", name);
            }
        } else {
            let value = format!("{SECRET}-{}", self.dice.below(1000));
            let app = self.dice.pick(&["web", "db"]);
            self.note(format!("{name} becomes {value} of {app}"));
            self.put(name, &value, app);
        }
        self.meet().await;
    }

    async fn ask(&mut self, ask: Ask) -> Told {
        let (mut told, mut beside) = tokio::join!(self.quiet.ask(&ask), self.beside.ask(&ask));
        if told.status == 0 && told == beside && ask.is_kept {
            // edgehold ends a connection of HTTP/1.1 after what it has not read to its end; clients make another.
            (told, beside) = tokio::join!(self.quiet.ask(&ask), self.beside.ask(&ask));
        }
        self.note(format!("{ask:?}: {}", told.status));
        let is_kept = told.is_what_was_kept() && beside.is_what_was_kept();
        if self.is_away && self.is_behind && told != beside && is_kept {
            self.told.otherwise += 1;
            return told;
        }
        assert_eq!(beside, told, "with the neighbour, and without: {ask:?}");
        assert_ne!(told.status, 0, "{ask:?}: {}", told.body);
        match told.status {
            200 if told.part.is_empty() => self.told.live += 1,
            200 => self.told.cached += 1,
            _ => self.told.refused += 1,
        }
        told
    }

    fn anybody(&mut self) -> usize {
        usize::try_from(self.dice.below(3)).unwrap()
    }

    async fn read(&mut self) {
        let client = self.anybody();
        let target = if self.dice.chance(50) {
            format!("{}/{}", TARGETS[0], self.dice.pick(&NAMES))
        } else {
            self.dice.pick(targets_of(client)).to_owned()
        };
        let accept = self
            .dice
            .pick(&["application/json", "application/json", PROTOBUF, METADATA]);
        let is_kept = self.dice.chance(50);
        let ask = Ask {
            client,
            method: "GET",
            target,
            accept,
            content_type: "",
            body: Value::Null,
            is_kept,
        };
        self.ask(ask).await;
    }

    async fn write(&mut self) {
        let client = self.anybody();
        let name = self.dice.pick(&NAMES[..3]);
        let value = format!("{SECRET}-{}", self.dice.below(1000));
        let object = config_map("shop", name, &value, self.dice.pick(&["web", "db"]));
        let (method, content_type, body) = match self.dice.below(3) {
            0 => ("PUT", "application/json", object),
            1 => (
                "PATCH",
                "application/merge-patch+json",
                json!({"data": {"k": value}}),
            ),
            _ => ("DELETE", "application/json", json!({"gracePeriodSeconds": 0})),
        };
        let ask = Ask {
            client,
            method,
            target: format!("{}/{name}", TARGETS[0]),
            accept: "application/json",
            content_type,
            body,
            is_kept: self.dice.chance(50),
        };
        self.ask(ask).await;
        self.meet().await;
    }

    /// A list, and a watch from there; or a watch that tells what there is.
    async fn follow(&mut self) {
        // Where both do not know the same, they would go on from where both are not.
        if self.watches.len() >= 12 || (self.is_away && self.is_behind) {
            return;
        }
        let client = self.anybody();
        let target = self.dice.pick(targets_of(client));
        let watch = if self.dice.chance(30) {
            watch_list(target)
        } else {
            let ask = Ask {
                client,
                method: "GET",
                target: target.to_owned(),
                accept: "application/json",
                content_type: "",
                body: Value::Null,
                is_kept: false,
            };
            let told = self.ask(ask).await;
            if told.status != 200 {
                return;
            }
            let list: Value = serde_json::from_str(&told.body).unwrap();
            watch_from(target, &version(&list))
        };
        let (quiet, beside) = tokio::join!(
            self.quiet.watch(client, &watch),
            self.beside.watch(client, &watch)
        );
        self.note(format!("{} watches {watch}: {quiet:?}", CLIENTS[client]));
        assert_eq!(beside, quiet, "with the neighbour, and without: {watch}");
        if quiet == Some(200) {
            self.watches.push((client, watch));
        }
        self.meet().await;
    }

    /// Ends a watch, and waits until edgehold has heard of it: what comes after is not recorded by it.
    async fn leave(&mut self) {
        let gone = usize::try_from(self.dice.below(self.watches.len() as u64)).unwrap();
        if self.is_one_behind().await {
            return;
        }
        let (client, watch) = self.watches.remove(gone);
        self.note(format!("{} watches {watch} no more", CLIENTS[client]));
        for side in [&mut self.quiet, &mut self.beside] {
            side.watches.remove(gone);
        }
        for side in [&self.quiet, &self.beside] {
            for (client, user) in USERS.into_iter().enumerate() {
                let left = self.watches.iter().filter(|(of, _)| *of == client).count();
                eventually("the watch has ended", || async {
                    side.node.api.watches_of(user) == left
                })
                .await;
            }
        }
    }

    /// Waits until every watch has told all there is, the same on both sides.
    async fn meet(&mut self) {
        if self.is_away {
            return;
        }
        self.sentinel += 1;
        let sentinel = self.sentinel;
        self.put("sentinel", &sentinel.to_string(), "web");
        for watch in 0..self.watches.len() {
            let (quiet, beside) = tokio::join!(
                self.quiet.events(watch, sentinel),
                self.beside.events(watch, sentinel)
            );
            self.told.events += quiet.len() as u64;
            let whose = &self.watches[watch];
            assert_eq!(beside, quiet, "with the neighbour, and without: {whose:?}");
            let last = quiet.last();
            assert!(last.is_some_and(Value::is_object), "{whose:?}: {last:?}");
        }
        self.settle().await;
    }

    /// Waits until all that was told is recorded.
    async fn settle(&self) {
        for side in [&self.quiet, &self.beside] {
            // What a view has lost is recorded of the object, after it.
            for _ in 0..2 {
                side.node.settle().await;
            }
        }
    }

    /// Whether a view stays behind if what watches it ends now.
    async fn is_one_behind(&self) -> bool {
        if self.is_away {
            self.is_behind
        } else {
            self.awaits_healing().await
        }
    }

    /// Whether a view of a client does not follow its watch; edgehold's own list makes it whole, some time.
    async fn awaits_healing(&self) -> bool {
        let behind = || [&self.quiet, &self.beside].iter().any(|side| side.is_behind());
        let healed = async {
            while behind() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _not_yet = tokio::time::timeout(HEALING, healed).await;
        self.settle().await;
        behind()
    }

    async fn cut(&mut self) {
        self.meet().await;
        self.is_behind = self.awaits_healing().await;
        if self.is_behind {
            self.told.behind += 1;
        } else {
            self.told.whole += 1;
        }
        tokio::join!(self.quiet.node.cut(), self.beside.node.cut());
        self.is_away = true;
        self.note("the clouds are away".to_owned());
    }

    async fn heal(&mut self) {
        tokio::join!(self.quiet.node.heal(), self.beside.node.heal());
        self.is_away = false;
        self.note("the clouds are back".to_owned());
        self.meet().await;
    }

    async fn restart(&mut self) {
        self.meet().await;
        if self.is_one_behind().await {
            return;
        }
        self.watches.clear();
        for side in [&mut self.quiet, &mut self.beside] {
            side.watches.clear();
            side.kept = Default::default();
            side.node.restart().await;
            if self.is_away {
                side.node.cut().await;
            }
        }
        self.neighbour.moves_to(self.beside.node.running().addresses()[0]);
        self.note("edgehold has started again".to_owned());
    }

    async fn step(&mut self) {
        match self.dice.below(100) {
            0..25 => self.change().await,
            25..60 => self.read().await,
            60..72 => self.write().await,
            72..80 => self.follow().await,
            // A held watch is nobody's to be seen.
            80..83 if !self.watches.is_empty() && !self.is_away => self.leave().await,
            83..93 if self.is_away => self.heal().await,
            83..93 => self.cut().await,
            93..95 => self.restart().await,
            _ => self.meet().await,
        }
    }
}

/// The same bytes in both clouds.
fn config_map(namespace: &str, name: &str, value: &str, app: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {"app": app}},
        "data": {"k": value},
    })
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text:?}")),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_what_a_hostile_neighbour_does() {
    let mut dice = Dice::from_environment_or(SEED);
    let (quiet, beside) = (Side::start().await, Side::start().await);
    for side in [&quiet, &beside] {
        let api = &side.node.api;
        // No list of an honest client has it: the recording of a large one may be given up.
        api.put(config_map("own", "large", &"x".repeat(300 << 10), "none"));
        api.put(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "own", "name": "p"}, "spec": {}}),
        );
        // Whom no apiserver has accepted yet shares with those who never will be.
        assert_eq!(side.client(2).get("/version").await.status, 200);
    }
    let neighbour = Neighbour::start(&beside.node, dice.below(u64::MAX));
    let mut world = World {
        dice,
        quiet,
        beside,
        neighbour,
        watches: Vec::new(),
        sentinel: 0,
        is_away: false,
        is_behind: false,
        uids: 0,
        told: Tally::default(),
        trace: Vec::new(),
    };
    let began = tokio::time::Instant::now();
    let seconds = Duration::from_secs(number("EDGEHOLD_SECONDS").unwrap_or(0));
    let least = number("EDGEHOLD_STEPS").unwrap_or(STEPS);
    let mut steps = 0;
    while steps < least || began.elapsed() < seconds || world.is_away || !world.has_seen_all() {
        world.step().await;
        steps += 1;
        assert!(
            world.has_seen_all() || began.elapsed() < seconds + 20 * DEADLINE,
            "not all was tried: {:?}, {:?}",
            world.neighbour.done(),
            world.told
        );
    }
    world.meet().await;
    let done = world.neighbour.stop().await;
    println!(
        "{steps} steps in {:?}: {:?}; the neighbour: {done:?}",
        began.elapsed(),
        world.told
    );
    let Tally { whole, behind, .. } = world.told;
    assert!(whole >= behind, "{:?}", world.told);
}
