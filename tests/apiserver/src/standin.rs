//! The handle that tests hold: start, inspect, break, repair, change objects, shut down.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::auth::Tokens;
use crate::client::DEADLINE;
use crate::fault::{Existing, Fault, Faults, Rule};
use crate::jwt::{ServiceAccountToken, Signers, TokenKey};
use crate::kinds::{self, Kind};
use crate::listener::Door;
use crate::options::Options;
use crate::pki::Pki;
use crate::rbac::Rbac;
use crate::replay::Replay;
use crate::seen::{Counters, Recorder, Seen};
use crate::server::{self, Shared, Tasks};
use crate::store::Store;
use crate::stream::Logs;
use crate::tls::Tls;

/// What several stand-ins of one cluster share: objects, tokens, rules, logs, the certificate authority.
#[derive(Clone, Debug)]
pub struct Cluster {
    pub(crate) store: Arc<Store>,
    pub(crate) tokens: Arc<Tokens>,
    pub(crate) rbac: Arc<Mutex<Rbac>>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) signers: Arc<Signers>,
    pub(crate) pki: Pki,
}

impl Cluster {
    fn new(options: &Options) -> Self {
        Self {
            store: Arc::new(Store::new(options.start_revision, options.history)),
            tokens: Arc::default(),
            rbac: Arc::new(Mutex::new(options.rbac.clone())),
            logs: Arc::default(),
            signers: Arc::new(Signers::new()),
            pki: options.pki.clone().unwrap_or_default(),
        }
    }

    /// Signs and registers a token; the service account need not exist.
    pub(crate) fn issue(&self, token: &ServiceAccountToken) -> String {
        let kind = kinds::by_resource("", "v1", "serviceaccounts").expect("in the table");
        let stored = || self.store.get(kind, &kind.key(&token.namespace, &token.name));
        let uid = token
            .uid
            .clone()
            .or_else(|| Some(stored()?["metadata"]["uid"].as_str()?.to_owned()));
        let signed = self.signers.sign(token, &uid.unwrap_or_default());
        self.tokens
            .add(&signed, &token.user(), token.groups(), Some(token.expires()));
        signed
    }
}

/// A running stand-in kube-apiserver. Dropping it ends all its tasks and connections.
#[derive(Debug)]
pub struct Standin {
    shared: Arc<Shared>,
    runtime: Handle,
}

impl Standin {
    /// Starts a server; it listens when this returns. Must be called inside a tokio runtime. Not async: no `.await`.
    ///
    /// # Panics
    /// If the address cannot be bound, or the fixtures cannot be read.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let cluster = options.cluster.clone().unwrap_or_else(|| Cluster::new(&options));
        let serving = options.serving.clone().unwrap_or_else(|| cluster.pki.server(&[]));
        let shared = Arc::new(Shared {
            tls: Tls::new(&cluster.pki, &serving, &options),
            door: Door::open_at(options.listen).expect("bind"),
            faults: Faults::default(),
            recorder: Recorder::new(options.remember),
            replay: options.fixtures.as_deref().map(Replay::load),
            connections: Mutex::default(),
            go_away: watch::Sender::new(0),
            tasks: Tasks::default(),
            watches: Mutex::default(),
            skew: std::sync::atomic::AtomicI64::default(),
            cluster,
            options,
        });
        shared.tasks.spawn(server::accept(shared.clone()));
        Self {
            shared,
            runtime: Handle::current(),
        }
    }

    /// Where it listens. The port stays the same over [`Fault::Refuse`].
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.shared.door.addr()
    }

    /// `https://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.addr())
    }

    /// The authority of the serving certificate and of the clients.
    #[must_use]
    pub fn pki(&self) -> &Pki {
        &self.shared.cluster.pki
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        self.pki().ca_pem()
    }

    /// What a second stand-in needs to serve the same cluster ([`Options::cluster`]).
    #[must_use]
    pub fn cluster(&self) -> Cluster {
        self.shared.cluster.clone()
    }

    /// Ends everything and waits until every task is gone.
    pub async fn shutdown(self) {
        let tasks = self.shared.tasks.clone();
        drop(self);
        tasks.tracker.wait().await;
    }
}

impl Drop for Standin {
    fn drop(&mut self) {
        self.shared.door.shut();
        self.shared.tasks.cancel.cancel();
        self.shared.tasks.tracker.close();
    }
}

/// Faults.
impl Standin {
    /// Puts a fault in force at once: `fault(Fault::Stall)`, or `fault(Fault::Status(503).on("/api").times(2))`.
    /// Faults add up until [`Standin::clear_faults`]; of those that fit a request the first decides.
    pub fn fault(&self, rule: impl Into<Rule>) {
        let rule = rule.into();
        let fault = rule.fault;
        self.shared.faults.add(rule);
        match fault {
            Fault::Refuse(existing) => {
                self.shared.door.shut();
                if existing == Existing::Cut {
                    self.cut_connections();
                }
            }
            Fault::BlackHole => self.silence(true),
            _ => {}
        }
    }

    /// Ends all faults: the port listens again and silent connections go on. Requests that stall keep stalling.
    ///
    /// # Panics
    /// If the port cannot be listened on again.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
        let _inside = self.runtime.enter();
        self.shared.door.open().expect("listen again");
        self.silence(false);
    }

    fn silence(&self, silent: bool) {
        self.shared
            .connections
            .lock()
            .values()
            .for_each(|c| c.silence(silent));
    }

    /// Resets (TCP RST) every open connection at once.
    pub fn cut_connections(&self) {
        self.shared.connections.lock().values().for_each(|c| c.cut());
    }

    /// Asks every HTTP/2 client to leave (GOAWAY; running streams may end), and HTTP/1.1 ones to close when idle.
    pub fn go_away(&self) {
        self.shared.go_away.send_modify(|n| *n += 1);
    }
}

/// Inspection.
impl Standin {
    /// All remembered requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.shared.recorder.requests()
    }

    /// Forgets the requests so far; counters stay.
    pub fn forget_requests(&self) {
        self.shared.recorder.forget();
    }

    /// Connections and streams, open and in total.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.shared.recorder.counters()
    }

    /// How many watches of this user stream now.
    #[must_use]
    pub fn watches_of(&self, user: &str) -> usize {
        self.shared.watches.lock().get(user).copied().unwrap_or_default()
    }

    /// The first remembered request for which `found` holds, now or later.
    ///
    /// # Panics
    /// If there is none within half a minute; the message lists what did arrive.
    pub async fn wait_for(&self, found: impl FnMut(&Seen) -> bool) -> Seen {
        match self.wait_for_within(DEADLINE, found).await {
            Some(seen) => seen,
            None => panic!("no such request; arrived: {:#?}", self.summary()),
        }
    }

    /// As [`Standin::wait_for`], but `None` after `deadline`.
    pub async fn wait_for_within(
        &self,
        deadline: Duration,
        mut found: impl FnMut(&Seen) -> bool,
    ) -> Option<Seen> {
        self.shared
            .recorder
            .wait(deadline, |all, _| all.iter().find(|s| found(s)).cloned())
            .await
    }

    /// Waits until the counters satisfy `holds`.
    ///
    /// # Panics
    /// If they do not within half a minute.
    pub async fn wait_counters(&self, mut holds: impl FnMut(Counters) -> bool) -> Counters {
        let found = self
            .shared
            .recorder
            .wait(DEADLINE, |_, c| holds(c).then_some(c))
            .await;
        found.unwrap_or_else(|| panic!("counters stayed at {:?}", self.counters()))
    }

    fn summary(&self) -> Vec<String> {
        self.requests()
            .iter()
            .map(|s| format!("{} {}", s.method, s.target))
            .collect()
    }
}

/// Identity.
impl Standin {
    /// Registers a bearer token for `user` in `groups`.
    pub fn add_token(&self, token: &str, user: &str, groups: &[&str]) {
        let groups = groups.iter().map(|g| (*g).to_owned()).collect();
        self.shared.cluster.tokens.add(token, user, groups, None);
    }

    /// The UID and the extra fields of the owner of a registered token.
    pub fn describe_owner(&self, token: &str, uid: &str, extra: serde_json::Value) {
        self.shared.cluster.tokens.describe(token, uid, extra);
    }

    /// A signed service account token, registered, good for a year. The service account is created if it is missing.
    pub fn service_account_token(&self, namespace: &str, name: &str) -> String {
        if self.get("ServiceAccount", namespace, name).is_none() {
            self.put(json!({"apiVersion": "v1", "kind": "ServiceAccount",
                "metadata": {"namespace": namespace, "name": name}}));
        }
        self.issue(&ServiceAccountToken::new(namespace, name))
    }

    /// Signs and registers a token with these claims.
    #[must_use]
    pub fn issue(&self, token: &ServiceAccountToken) -> String {
        self.shared.cluster.issue(token)
    }

    /// From now on a new key signs tokens; those of before are published still.
    pub fn rotate_token_key(&self, kind: TokenKey) {
        self.shared.cluster.signers.rotate(kind);
    }

    /// From now on this token is answered with 401.
    pub fn revoke_token(&self, token: &str) {
        self.shared.cluster.tokens.revoke(token);
    }

    /// Whether this token would be accepted now.
    #[must_use]
    pub fn accepts(&self, token: &str) -> bool {
        self.shared.cluster.tokens.user(token).is_some()
    }

    /// Replaces the authorization rules.
    pub fn set_rbac(&self, rbac: Rbac) {
        *self.shared.cluster.rbac.lock() = rbac;
    }
}

/// Objects. `kind` is a kind name (`"ConfigMap"`), or `"group/Kind"` where two groups have the same kind.
impl Standin {
    /// Creates or replaces an object as a controller would, past authorization. It needs `apiVersion`, `kind` and
    /// `metadata.name`. uid and creationTimestamp of an existing object stay; an equal object changes nothing.
    /// Returns it with its new resourceVersion.
    ///
    /// # Panics
    /// If the kind is not one of those served, or a name is missing.
    pub fn put(&self, object: Value) -> Value {
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let kind = kinds::by_kind(&text(&object["apiVersion"]), &text(&object["kind"]));
        let kind = kind.unwrap_or_else(|| panic!("not a kind of this stand-in: {object}"));
        let (namespace, name) = (
            text(&object["metadata"]["namespace"]),
            text(&object["metadata"]["name"]),
        );
        assert!(!name.is_empty(), "an object needs a name: {object}");
        let namespaced = kind.scope == kinds::Scope::Namespaced;
        assert_eq!(
            namespaced,
            !namespace.is_empty(),
            "namespace of a {}: {object}",
            kind.kind
        );
        let made = self
            .shared
            .cluster
            .store
            .change(kind, &kind.key(&namespace, &name), |_| Ok(Some(object)));
        (*made.expect("a put cannot be refused").expect("an object")).clone()
    }

    /// Removes an object at once, finalizers or not. Returns its last content with the revision of the removal.
    pub fn delete(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = kind_of(kind);
        let key = kind.key(namespace, name);
        let gone = self
            .shared
            .cluster
            .store
            .change(kind, &key, |_| Ok(None))
            .expect("a delete cannot be refused");
        gone.map(|o| (*o).clone())
    }

    /// The object as stored.
    #[must_use]
    pub fn get(&self, kind: &str, namespace: &str, name: &str) -> Option<Value> {
        let kind = kind_of(kind);
        self.shared
            .cluster
            .store
            .get(kind, &kind.key(namespace, name))
            .map(|o| (*o).clone())
    }

    /// All objects of a kind in key order; an empty namespace means all.
    #[must_use]
    pub fn list(&self, kind: &str, namespace: &str) -> Vec<Value> {
        let items = self.shared.cluster.store.now(kind_of(kind)).items;
        let all = items.into_values().map(|o| (*o).clone());
        all.filter(|o| namespace.is_empty() || o["metadata"]["namespace"] == namespace)
            .collect()
    }

    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.cluster.store.revision()
    }

    /// Counts the revision up without changing an object, as writes to other resources would.
    pub fn advance(&self, by: u64) {
        self.shared.cluster.store.advance(by);
    }

    /// Forgets all history: a watch from before now gets 410, page tokens expire.
    pub fn compact(&self) {
        self.shared.cluster.store.compact();
    }

    /// Goes back to the state at `revision`, as etcd restored from a backup. Running watches end.
    pub fn rewind(&self, revision: u64) {
        self.shared.cluster.store.rewind(revision);
    }

    /// Reads with `resourceVersion=0` see the state at this revision, as from a lagging watch cache; `None` ends that.
    pub fn lag(&self, revision: Option<u64>) {
        self.shared.cluster.store.set_lag(revision);
    }

    /// Appends a line to a pod's log.
    pub fn log_line(&self, namespace: &str, pod: &str, line: &str) {
        self.shared
            .cluster
            .logs
            .write(&format!("{namespace}/{pod}"), line);
    }

    /// Ends a pod's log: followers see the end of the stream.
    pub fn log_end(&self, namespace: &str, pod: &str) {
        self.shared.cluster.logs.end(&format!("{namespace}/{pod}"));
    }

    /// From now on the `Date` of answers is off by this many seconds, as with a clock that is wrong.
    pub fn skew_date(&self, seconds: i64) {
        self.shared
            .skew
            .store(seconds, std::sync::atomic::Ordering::Relaxed);
    }

    /// In replay: of several recordings that fit a request, prefer those whose name contains `part` (`"-after"`).
    pub fn prefer_recordings(&self, part: &str) {
        if let Some(replay) = &self.shared.replay {
            replay.prefer(part);
        }
    }
}

fn kind_of(text: &str) -> &'static Kind {
    let (group, kind) = text.rsplit_once('/').map_or((None, text), |(g, k)| (Some(g), k));
    let found = kinds::ALL
        .iter()
        .find(|k| k.kind == kind && group.is_none_or(|g| g == k.group));
    found.unwrap_or_else(|| panic!("not a kind of this stand-in: {text}"))
}
