//! The apiserver of the simulation: the whole history of one resource, and the bytes in which it tells of it.

use std::collections::BTreeMap;

use crate::kube::media::Encoding;
use crate::wire::collection::Collection;
use crate::wire::edit::{Field, Value, message};
use crate::wire::meta::TypeMeta;
use crate::wire::object::Style;

pub(super) const NAMESPACES: [&str; 2] = ["a", "b"];
pub(super) const NAMES: [&str; 3] = ["x", "y", "z"];
pub(super) const APPS: [&str; 2] = ["red", "blue"];

/// Namespace and name.
pub(super) type Key = (&'static str, &'static str);

pub(super) fn path(key: Key) -> String {
    format!("/api/v1/namespaces/{}/configmaps/{}", key.0, key.1)
}

/// One object at one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Thing {
    pub(super) key: Key,
    pub(super) uid: u64,
    pub(super) version: u64,
    pub(super) app: &'static str,
    /// A finalizer keeps it.
    pub(super) held: bool,
    pub(super) deleting: bool,
}

/// Which objects a list or watch asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Selection {
    pub(super) namespace: Option<&'static str>,
    pub(super) by: By,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum By {
    All,
    App(&'static str),
    Name(&'static str),
}

impl Selection {
    pub(super) fn has(&self, thing: &Thing) -> bool {
        self.may_have(thing.key)
            && match self.by {
                By::App(app) => app == thing.app,
                By::All | By::Name(_) => true,
            }
    }

    /// As far as the name tells.
    pub(super) fn may_have(&self, key: Key) -> bool {
        self.namespace.is_none_or(|namespace| namespace == key.0)
            && match self.by {
                By::Name(name) => name == key.1,
                By::All | By::App(_) => true,
            }
    }

    /// Whether it has the object of this key if there is one.
    pub(super) fn is_complete_for(&self, key: Key) -> bool {
        self.may_have(key) && !matches!(self.by, By::App(_))
    }

    /// Whether the other one can be answered from it.
    pub(super) fn covers(&self, other: &Self) -> bool {
        (self.namespace.is_none() || self.namespace == other.namespace)
            && (self.by == By::All || self.by == other.by)
    }

    pub(super) fn target(&self) -> String {
        let path = match self.namespace {
            Some(namespace) => format!("/api/v1/namespaces/{namespace}/configmaps?"),
            None => "/api/v1/configmaps?".to_owned(),
        };
        match self.by {
            By::All => path,
            By::App(app) => format!("{path}labelSelector=app%3D{app}&"),
            By::Name(name) => format!("{path}fieldSelector=metadata.name%3D{name}&"),
        }
    }
}

/// What happened at one revision.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) at: u64,
    pub(super) before: Option<Thing>,
    pub(super) after: Option<Thing>,
}

impl Change {
    pub(super) fn key(&self) -> Key {
        let thing = self.after.as_ref().or(self.before.as_ref());
        thing.expect("something changed").key
    }
}

#[derive(Default)]
pub(super) struct Cloud {
    pub(super) head: u64,
    history: Vec<Change>,
    now: BTreeMap<Key, Thing>,
    uids: u64,
}

impl Cloud {
    /// Begins where versions get one digit more.
    pub(super) fn new() -> Self {
        Self {
            head: 95,
            ..Self::default()
        }
    }

    pub(super) fn get(&self, key: Key) -> Option<&Thing> {
        self.now.get(&key)
    }

    /// Writes an object, or takes it away.
    fn write(&mut self, key: Key, gap: u64, after: Option<Thing>) -> Option<Thing> {
        self.head += 1 + gap;
        let after = after.map(|thing| Thing {
            version: self.head,
            ..thing
        });
        let before = match &after {
            Some(thing) => self.now.insert(key, thing.clone()),
            None => self.now.remove(&key),
        };
        self.history.push(Change {
            at: self.head,
            before,
            after: after.clone(),
        });
        after
    }

    /// A new object; `None` if there is one.
    pub(super) fn create(&mut self, key: Key, gap: u64, (app, held): (&'static str, bool)) -> Option<Thing> {
        if self.now.contains_key(&key) {
            return None;
        }
        self.uids += 1;
        let uid = self.uids;
        self.write(
            key,
            gap,
            Some(Thing {
                key,
                uid,
                version: 0,
                app,
                held,
                deleting: false,
            }),
        )
    }

    /// Changes the label, and takes the finalizer off: what waited for that is gone. The object as it was last.
    pub(super) fn change(&mut self, key: Key, gap: u64, app: &'static str) -> Option<Thing> {
        let thing = self.now.get(&key)?.clone();
        let changed = Thing {
            app,
            held: false,
            ..thing
        };
        if changed.deleting {
            self.write(key, gap, None);
            return Some(changed);
        }
        self.write(key, gap, Some(changed))
    }

    /// Deletes an object. The one that a finalizer keeps, or the uid of what is gone.
    pub(super) fn delete(&mut self, key: Key, gap: u64) -> Option<Result<Thing, u64>> {
        let thing = self.now.get(&key)?.clone();
        if thing.held {
            let kept = Thing {
                deleting: true,
                ..thing
            };
            return self.write(key, gap, Some(kept)).map(Ok);
        }
        self.write(key, gap, None);
        Some(Err(thing.uid))
    }

    pub(super) fn after(&self, at: u64) -> impl Iterator<Item = &Change> {
        self.history.iter().filter(move |change| change.at > at)
    }

    /// The object of a key as it was then.
    pub(super) fn then(&self, key: Key, at: u64) -> Option<&Thing> {
        let last = self
            .history
            .iter()
            .rfind(|change| change.at <= at && change.key() == key);
        last?.after.as_ref()
    }

    /// The state of a selection as it was then, in the order of lists.
    pub(super) fn state(&self, selection: &Selection, at: u64) -> Vec<Thing> {
        let keys = NAMESPACES
            .iter()
            .flat_map(|namespace| NAMES.iter().map(move |name| (*namespace, *name)));
        let then = keys.filter_map(|key| self.then(key, at));
        then.filter(|thing| selection.has(thing)).cloned().collect()
    }
}

pub(super) fn form(encoding: Encoding) -> Collection {
    Collection {
        encoding,
        item: TypeMeta::new("v1", "ConfigMap"),
        list: TypeMeta::new("v1", "ConfigMapList"),
        style: Style::BuiltIn,
        item_seen: true,
    }
}

/// The object as lists hold it; `version` is that of the event for what is deleted.
pub(super) fn item(encoding: Encoding, thing: &Thing, version: u64) -> Vec<u8> {
    let field = Field::new;
    let text = |text: &str| Value::Text(text.to_owned());
    let inner = |fields: &[(Field, Value)]| Value::Message(message(encoding, fields).unwrap());
    let labels = match encoding {
        Encoding::Protobuf => inner(&[(field("", 1), text("app")), (field("", 2), text(thing.app))]),
        _ => inner(&[(field("app", 0), text(thing.app))]),
    };
    let mut metadata = vec![
        (field("name", 1), text(thing.key.1)),
        (field("namespace", 3), text(thing.key.0)),
        (field("uid", 5), text(&format!("u{}", thing.uid))),
        (field("resourceVersion", 6), text(&version.to_string())),
    ];
    if thing.deleting {
        let time = match encoding {
            Encoding::Protobuf => inner(&[(field("", 1), Value::Number(7))]),
            _ => text("2026-01-01T00:00:00Z"),
        };
        metadata.push((field("deletionTimestamp", 9), time));
    }
    metadata.push((field("labels", 11), labels));
    if thing.held {
        let finalizers = Value::Texts(vec!["example.org/hold".to_owned()]);
        metadata.push((field("finalizers", 14), finalizers));
    }
    message(encoding, &[(field("metadata", 1), inner(&metadata))]).unwrap()
}

pub(super) fn object(encoding: Encoding, thing: &Thing) -> Vec<u8> {
    form(encoding).object(&item(encoding, thing, thing.version))
}

pub(super) fn list(encoding: Encoding, things: &[Thing], at: u64) -> Vec<u8> {
    let items: Vec<Vec<u8>> = things
        .iter()
        .map(|thing| item(encoding, thing, thing.version))
        .collect();
    form(encoding).list(&at.to_string(), items.iter().map(Vec::as_slice))
}
