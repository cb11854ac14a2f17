//! Objects, one revision counter, and a window of history.
//!
//! Owns the truth that lists and watches are cut from. Knows nothing of HTTP. Invariants: revisions only grow (but
//! for [`Store::rewind`]); the history holds every change with a revision above `compacted`, in order, so any state
//! between `compacted` and now can be rebuilt by undoing changes.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::clock;
use crate::kinds::{self, Kind};
use crate::status::Status;

type Objects = BTreeMap<String, Arc<Value>>;

/// One step of history.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub revision: u64,
    pub kind: &'static Kind,
    pub key: String,
    pub old: Option<Arc<Value>>,
    pub new: Option<Arc<Value>>,
}

/// What a watcher learns when it asks for changes.
#[derive(Debug)]
pub(crate) struct News {
    pub changes: Vec<Change>,
    /// Everything up to here is in `changes` or was seen before.
    pub revision: u64,
    /// Changes when the revision went backwards.
    pub epoch: u64,
}

/// A state of one collection.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub items: Objects,
    pub revision: u64,
}

/// The asked revision is not in the window any more; `oldest` still is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Compacted {
    pub oldest: u64,
}

#[derive(Debug)]
pub(crate) struct Store {
    state: Mutex<State>,
    changed: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    revision: u64,
    compacted: u64,
    epoch: u64,
    window: usize,
    objects: Vec<Objects>,
    history: VecDeque<Change>,
    /// Revision that reads with resourceVersion=0 see, if it lags.
    lag: Option<u64>,
}

impl Store {
    pub(crate) fn new(revision: u64, window: usize) -> Self {
        let state = State {
            revision,
            compacted: revision,
            epoch: 0,
            window,
            objects: vec![Objects::new(); kinds::ALL.len()],
            history: VecDeque::new(),
            lag: None,
        };
        Self {
            state: Mutex::new(state),
            changed: watch::Sender::new(0),
        }
    }

    pub(crate) fn revision(&self) -> u64 {
        self.state.lock().revision
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn get(&self, kind: &'static Kind, key: &str) -> Option<Arc<Value>> {
        self.state.lock().objects[kind.index()].get(key).cloned()
    }

    /// The collection as it is now.
    pub(crate) fn now(&self, kind: &'static Kind) -> Snapshot {
        let state = self.state.lock();
        Snapshot {
            items: state.objects[kind.index()].clone(),
            revision: state.revision,
        }
    }

    /// The collection as a read with resourceVersion=0 sees it.
    pub(crate) fn cached(&self, kind: &'static Kind) -> Snapshot {
        let lag = self.state.lock().lag;
        lag.and_then(|at| self.at(kind, at).ok())
            .unwrap_or_else(|| self.now(kind))
    }

    /// One object as a read with resourceVersion=0 sees it.
    pub(crate) fn cached_object(&self, kind: &'static Kind, key: &str) -> Option<Arc<Value>> {
        let lag = self.state.lock().lag;
        match lag.and_then(|at| self.at(kind, at).ok()) {
            Some(snapshot) => snapshot.items.get(key).cloned(),
            None => self.get(kind, key),
        }
    }

    /// The collection as it was at `revision` (not above the current one).
    pub(crate) fn at(&self, kind: &'static Kind, revision: u64) -> Result<Snapshot, Compacted> {
        let state = self.state.lock();
        if revision < state.compacted {
            return Err(Compacted {
                oldest: state.compacted,
            });
        }
        let mut items = state.objects[kind.index()].clone();
        for change in state.history.iter().rev().take_while(|c| c.revision > revision) {
            if std::ptr::eq(change.kind, kind) {
                assign(&mut items, &change.key, change.old.clone());
            }
        }
        Ok(Snapshot { items, revision })
    }

    /// Every change of `kind` above `revision`.
    pub(crate) fn since(&self, kind: &'static Kind, revision: u64) -> Result<News, Compacted> {
        let state = self.state.lock();
        if revision < state.compacted {
            return Err(Compacted {
                oldest: state.compacted,
            });
        }
        let start = state.history.partition_point(|c| c.revision <= revision);
        let changes = state
            .history
            .range(start..)
            .filter(|c| std::ptr::eq(c.kind, kind))
            .cloned()
            .collect();
        Ok(News {
            changes,
            revision: state.revision,
            epoch: state.epoch,
        })
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.state.lock().epoch
    }

    /// Replaces the object at `key` by what `decide` makes of it, in one revision. `decide` gets the present object;
    /// `Ok(None)` removes it, an equal object changes nothing.
    pub(crate) fn change(
        &self,
        kind: &'static Kind,
        key: &str,
        decide: impl FnOnce(Option<&Value>) -> Result<Option<Value>, Status>,
    ) -> Result<Option<Arc<Value>>, Status> {
        let result = self.state.lock().change(kind, key, decide)?;
        self.changed.send_modify(|n| *n += 1);
        Ok(result)
    }

    /// Forgets all history: watches and pages below the present revision answer 410.
    pub(crate) fn compact(&self) {
        let mut state = self.state.lock();
        state.compacted = state.revision;
        state.history.clear();
    }

    /// Restores the state at `revision` and counts on from there, as etcd restored from a backup does. Objects whose
    /// past is compacted stay if they are not newer. Running watches end.
    pub(crate) fn rewind(&self, revision: u64) {
        {
            let mut guard = self.state.lock();
            let state = &mut *guard;
            while state.history.back().is_some_and(|c| c.revision > revision) {
                if let Some(change) = state.history.pop_back() {
                    assign(&mut state.objects[change.kind.index()], &change.key, change.old);
                }
            }
            for objects in &mut state.objects {
                objects.retain(|_, o| revision_of(o).is_some_and(|r| r <= revision));
            }
            state.history.clear();
            state.revision = revision;
            state.compacted = revision;
            state.epoch += 1;
        }
        self.changed.send_modify(|n| *n += 1);
    }

    /// Advances the revision without touching any object, as writes to other resources do.
    pub(crate) fn advance(&self, by: u64) {
        self.state.lock().revision += by;
        self.changed.send_modify(|n| *n += 1);
    }

    pub(crate) fn set_lag(&self, revision: Option<u64>) {
        self.state.lock().lag = revision;
    }
}

impl State {
    fn change(
        &mut self,
        kind: &'static Kind,
        key: &str,
        decide: impl FnOnce(Option<&Value>) -> Result<Option<Value>, Status>,
    ) -> Result<Option<Arc<Value>>, Status> {
        let index = kind.index();
        let old = self.objects[index].get(key).cloned();
        let mut new = decide(old.as_deref())?;
        if let (Some(new), Some(old)) = (&mut new, &old) {
            inherit(new, old);
        }
        if new.as_ref() == old.as_deref() {
            return Ok(old);
        }
        self.revision += 1;
        let revision = self.revision;
        let new = new.map(|mut object| {
            if kind.kind == "Secret" {
                crate::secrets::register_values(&object);
            }
            complete(&mut object, kind, revision);
            Arc::new(object)
        });
        assign(&mut self.objects[index], key, new.clone());
        self.history.push_back(Change {
            revision,
            kind,
            key: key.to_owned(),
            old: old.clone(),
            new: new.clone(),
        });
        while self.history.len() > self.window {
            if let Some(dropped) = self.history.pop_front() {
                self.compacted = dropped.revision;
            }
        }
        // A removal answers with the last content at the revision of the removal.
        Ok(new.or_else(|| old.map(|o| Arc::new(at_revision(&o, revision)))))
    }
}

/// The object with another resourceVersion, as DELETED events carry it.
pub(crate) fn at_revision(object: &Value, revision: u64) -> Value {
    let mut object = object.clone();
    object["metadata"]["resourceVersion"] = json!(revision.to_string());
    object
}

/// What an update cannot change.
fn inherit(new: &mut Value, old: &Value) {
    for key in ["kind", "apiVersion"] {
        new[key] = old[key].clone();
    }
    for key in ["uid", "creationTimestamp", "resourceVersion"] {
        new["metadata"][key] = old["metadata"][key].clone();
    }
}

/// The fields that the server owns.
fn complete(object: &mut Value, kind: &Kind, revision: u64) {
    object["kind"] = json!(kind.kind);
    object["apiVersion"] = json!(kind.api_version());
    let meta = &mut object["metadata"];
    meta["resourceVersion"] = json!(revision.to_string());
    if meta["uid"].is_null() {
        meta["uid"] = json!(uuid::Uuid::new_v4().to_string());
    }
    if meta["creationTimestamp"].is_null() {
        meta["creationTimestamp"] = json!(clock::rfc3339(clock::unix()));
    }
}

fn assign(objects: &mut Objects, key: &str, value: Option<Arc<Value>>) {
    match value {
        Some(v) => objects.insert(key.to_owned(), v),
        None => objects.remove(key),
    };
}

fn revision_of(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cm() -> &'static Kind {
        kinds::by_resource("", "v1", "configmaps").unwrap()
    }

    fn put(store: &Store, name: &str, value: &str) -> u64 {
        let made = store.change(cm(), &format!("n/{name}"), |_| {
            Ok(Some(
                json!({"metadata": {"name": name, "namespace": "n"}, "data": {"k": value}}),
            ))
        });
        revision_of(&made.unwrap().unwrap()).unwrap()
    }

    #[test]
    fn the_past_is_rebuilt_by_undoing_changes() {
        let store = Store::new(100, 10);
        put(&store, "a", "1");
        put(&store, "a", "2");
        store.change(cm(), "n/a", |_| Ok(None)).unwrap();
        assert_eq!(store.at(cm(), 101).unwrap().items["n/a"]["data"]["k"], "1");
        assert_eq!(store.at(cm(), 102).unwrap().items["n/a"]["data"]["k"], "2");
        assert!(store.at(cm(), 103).unwrap().items.is_empty());
        assert!(store.at(cm(), 100).unwrap().items.is_empty());
        assert_eq!(store.at(cm(), 99).unwrap_err(), Compacted { oldest: 100 });
    }

    #[test]
    fn an_update_keeps_uid_and_an_equal_one_changes_nothing() {
        let store = Store::new(100, 10);
        put(&store, "a", "1");
        let first = store.get(cm(), "n/a").unwrap();
        let again = store
            .change(cm(), "n/a", |old| Ok(old.cloned()))
            .unwrap()
            .unwrap();
        assert_eq!((store.revision(), again), (101, first.clone()));
        put(&store, "a", "2");
        assert_eq!(
            store.get(cm(), "n/a").unwrap()["metadata"]["uid"],
            first["metadata"]["uid"]
        );
    }

    #[test]
    fn the_window_forgets_the_oldest_change() {
        let store = Store::new(100, 2);
        for value in ["1", "2", "3"] {
            put(&store, "a", value);
        }
        assert_eq!(store.since(cm(), 100).unwrap_err(), Compacted { oldest: 101 });
        assert_eq!(store.since(cm(), 101).unwrap().changes.len(), 2);
    }

    #[test]
    fn rewinding_restores_the_state_of_that_revision() {
        let store = Store::new(100, 10);
        put(&store, "a", "1");
        put(&store, "a", "2");
        put(&store, "b", "1");
        store.rewind(101);
        assert_eq!(store.revision(), 101);
        let now = store.now(cm());
        assert_eq!(now.items.keys().collect::<Vec<_>>(), ["n/a"]);
        assert_eq!(now.items["n/a"]["data"]["k"], "1");
        assert_eq!(put(&store, "c", "1"), 102);
    }
}
