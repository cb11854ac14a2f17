//! A model of the driver and its store: carries out actions on maps.

use std::collections::BTreeMap;

use super::{Limits, View};
use crate::kube::event::EventType;
use crate::kube::version::ResourceVersion;
use crate::view::event::{Action, Discard, Input, StreamId, Ticket};

/// Name to the position of the event that wrote it.
pub(super) type Items = BTreeMap<String, u64>;

/// A payload: what a watch event of this name and position leaves behind.
pub(super) type Object = (String, u64);

#[derive(Debug, Clone, Default)]
pub(super) struct Store {
    pub(super) items: Items,
    pub(super) version: Option<ResourceVersion>,
    pub(super) staged: BTreeMap<Ticket, Items>,
    pub(super) stagings: BTreeMap<StreamId, Items>,
}

impl Store {
    pub(super) fn carry_out(&mut self, action: Action<Object>) {
        match action {
            Action::CommitSnapshot { ticket, version } => {
                self.items = self.staged.remove(&ticket).expect("a staged snapshot");
                self.version = Some(version);
            }
            Action::DiscardSnapshot { ticket, .. } => {
                self.staged.remove(&ticket);
            }
            Action::Append {
                change,
                payload,
                version,
            } => {
                assign(&mut self.items, change, payload);
                self.version = Some(version);
            }
            Action::Progress { version } => self.version = Some(version),
            Action::Stage {
                stream,
                change,
                payload,
            } => assign(self.stagings.entry(stream).or_default(), change, payload),
            Action::CommitStaging { stream, version } => {
                self.items = self.stagings.remove(&stream).unwrap_or_default();
                self.version = Some(version);
            }
            Action::DropStaging { stream, .. } => {
                self.stagings.remove(&stream);
            }
            Action::HistoryRestarted => {}
            Action::Forget => {
                self.items.clear();
                self.version = None;
            }
        }
    }

    /// The disk refused this action, or one before it in the same step.
    pub(super) fn fail(&mut self, action: &Action<Object>) {
        match action {
            Action::CommitSnapshot { ticket, .. } | Action::DiscardSnapshot { ticket, .. } => {
                self.staged.remove(ticket);
            }
            Action::CommitStaging { stream, .. } | Action::DropStaging { stream, .. } => {
                self.stagings.remove(stream);
            }
            _ => {}
        }
    }
}

pub(super) fn assign(items: &mut Items, change: EventType, (name, at): Object) {
    match change {
        EventType::Added | EventType::Modified => items.insert(name, at),
        EventType::Deleted => items.remove(&name),
    };
}

pub(super) const LIMITS: Limits = Limits {
    parked_events: 8,
    parked_bytes: 1000,
};

/// A view with its store, for table tests.
pub(super) struct Bench {
    pub(super) view: View<Object>,
    pub(super) store: Store,
    /// Names of the actions of the last step.
    pub(super) last: Vec<&'static str>,
    pub(super) why: Option<Discard>,
}

impl Bench {
    pub(super) fn at(version: &str, names: &[&str]) -> Self {
        let version = ResourceVersion::new(version);
        let items: Items = names.iter().map(|name| ((*name).to_owned(), 0)).collect();
        Self {
            view: View::new(version.clone(), LIMITS),
            store: Store {
                items,
                version,
                ..Store::default()
            },
            last: Vec::new(),
            why: None,
        }
    }

    pub(super) fn step(&mut self, input: Input<Object>) -> &mut Self {
        self.last.clear();
        self.why = None;
        for action in self.view.step(input) {
            self.last.push(name(&action));
            if let Action::DiscardSnapshot { why, .. } | Action::DropStaging { why, .. } = &action {
                self.why = Some(*why);
            }
            self.store.carry_out(action);
        }
        assert_eq!(self.view.version(), self.store.version.as_ref());
        self
    }

    /// The items' names and R.
    pub(super) fn state(&self) -> (String, &str) {
        let names: Vec<&str> = self.store.items.keys().map(String::as_str).collect();
        let version = self.view.version().map_or("", ResourceVersion::as_str);
        (names.join(" "), version)
    }
}

fn name(action: &Action<Object>) -> &'static str {
    match action {
        Action::CommitSnapshot { .. } => "commit",
        Action::DiscardSnapshot { .. } => "discard",
        Action::Append { .. } => "append",
        Action::Progress { .. } => "progress",
        Action::Stage { .. } => "stage",
        Action::CommitStaging { .. } => "commit-staging",
        Action::DropStaging { .. } => "drop-staging",
        Action::HistoryRestarted => "history-restarted",
        Action::Forget => "forget",
    }
}
