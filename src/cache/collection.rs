//! One stored view: drives the pure state machine of `view` and carries out its orders in the store.
//!
//! Lives on a strand, so everything here blocks and happens in the order in which it was posted; an answer read
//! through the strand has seen every event that was forwarded before (rule V5).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::watch as publish;

use crate::kube::event::EventType;
use crate::kube::media::Encoding;
use crate::kube::version::ResourceVersion;
use crate::runtime::clock;
use crate::store::{self, Change, Log, LogId, LogSnapshot, Staging, Store, StoreError};
use crate::view::event::{Action, Event, Input, StreamId, Ticket};
use crate::view::key::ViewKey;
use crate::view::machine::{Limits, View};
use crate::view::newest::{Mark, Sighting};
use crate::wire::collection::Collection;
use crate::wire::object::Object;
use crate::wire::{WireError, watch};

use super::health::{Health, Validated};
use super::objects;

/// Events kept in memory while a list that may reach their start is still being received.
const PARKED: Limits = Limits {
    parked_events: 4096,
    parked_bytes: 4 << 20,
};

/// A snapshot that has been received but is not the view yet.
pub(super) struct Received {
    pub(super) staging: Box<dyn Staging>,
    pub(super) form: Collection,
    pub(super) version: ResourceVersion,
    /// When the answer began to arrive, by our clock.
    pub(super) seen: SystemTime,
}

/// A view at one moment, to be read at leisure.
pub(super) struct ViewRead {
    pub(super) items: LogSnapshot,
    pub(super) form: Collection,
    /// R: at least the version that is on disk.
    pub(super) version: ResourceVersion,
    pub(super) validated: SystemTime,
}

/// What is stored beside the items.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename = "view")]
struct Header {
    form: Collection,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("nothing is staged for this order")]
    NothingStaged,
    #[error("there is no view to change")]
    NoView,
    #[error("encoding the header: {0}")]
    Header(#[from] serde_json::Error),
}

struct Staged {
    staging: Box<dyn Staging>,
    form: Collection,
}

/// An object that clients of the view were shown and that it does not hold.
pub(super) struct Lost {
    /// Its key: `namespace/name`, or `name`.
    pub(super) key: String,
    /// As it was shown last.
    pub(super) seen: Sighting,
    pub(super) why: Why,
}

/// Why a view does not hold what was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It held it: it was deleted, or is not selected any more.
    Left,
    /// It does not follow the stream that told of it, and has not come so far.
    Behind,
}

/// The state of one view and what is being received for it.
pub(super) struct StoredView {
    store: Arc<dyn Store>,
    id: LogId,
    machine: View<Object<'static>>,
    log: Option<Arc<dyn Log>>,
    form: Option<Collection>,
    /// There may be a log; it could not be opened, for want of a descriptor for example.
    is_unread: bool,
    snapshots: HashMap<Ticket, Received>,
    stagings: HashMap<StreamId, Staged>,
    /// The form that a stream's bookmarks show: all there is of an empty collection.
    shown: HashMap<StreamId, Collection>,
    validated: Validated,
    restarted: bool,
    health: publish::Sender<Health>,
    /// It is selected: what it does not hold may exist.
    is_partial: bool,
    /// What was shown and is not held, since that was last asked for.
    lost: Vec<Lost>,
    /// Up to there something was told that was not recorded: which object it was about is not known.
    missed: Mark,
    /// The number of the request whose answer became the view last, and the version.
    committed: Option<(u64, ResourceVersion)>,
}

impl StoredView {
    /// The view as the store holds it, or none yet; `validated` is what an earlier opening of it knew. Whether it follows
    /// its streams is published.
    pub(super) fn open(
        store: Arc<dyn Store>,
        id: LogId,
        validated: Validated,
        health: publish::Sender<Health>,
    ) -> Self {
        let loaded = store
            .load(&id)
            .map(|loaded| loaded.and_then(|log| readable(&id, log)));
        let is_unread = loaded.is_err();
        let loaded = loaded.unwrap_or_else(|error| {
            tracing::warn!(view = %id, %error, "cannot open a stored view");
            None
        });
        let (log, form) = loaded.unzip();
        let version = log.as_ref().and_then(version_of);
        let is_partial = ViewKey::parse(&id.name).is_none_or(|key| !key.is_complete());
        if let Some(log) = &log {
            validated.set(validated.at().max(log.updated()));
        }
        Self {
            store,
            id,
            machine: View::new(version, PARKED),
            log,
            form,
            is_unread,
            snapshots: HashMap::new(),
            stagings: HashMap::new(),
            shown: HashMap::new(),
            validated,
            restarted: false,
            health,
            is_partial,
            lost: Vec::new(),
            missed: Mark::Start,
            committed: None,
        }
    }

    /// Opens the log if that was not possible before. What was told meanwhile has no place in it.
    pub(super) fn open_again(&mut self) {
        if !self.is_unread {
            return;
        }
        let Ok(loaded) = self.store.load(&self.id) else {
            return;
        };
        self.is_unread = false;
        let found = loaded.and_then(|log| readable(&self.id, log));
        let Some((log, form)) = found.filter(|_| self.log.is_none()) else {
            return;
        };
        self.validated.set(self.validated.at().max(log.updated()));
        let stored = version_of(&log);
        self.log = Some(log);
        self.form = Some(form);
        for action in self.machine.step(Input::Broken { stored }) {
            // Only what is staged is dropped, which cannot fail.
            let _dropped = self.carry_out(action);
        }
        self.publish();
    }

    /// Whether its log could not be opened yet.
    pub(super) fn is_unread(&self) -> bool {
        self.is_unread
    }

    /// Takes one input and carries out what follows from it.
    pub(super) fn input(&mut self, input: Input<Object<'static>>) {
        for action in self.machine.step(input) {
            if let Err(error) = self.carry_out(action) {
                tracing::warn!(view = %self.id, %error, "a view could not be kept up to date; the next list repairs it");
                let stored = self.log.as_ref().and_then(version_of);
                for action in self.machine.step(Input::Broken { stored }) {
                    // Only what is staged is dropped, which cannot fail.
                    let _dropped = self.carry_out(action);
                }
                break;
            }
        }
        self.publish();
    }

    /// An event of a stream.
    pub(super) fn event(&mut self, stream: StreamId, change: EventType, object: Object<'static>) {
        let Some(version) = ResourceVersion::new(&object.meta.resource_version) else {
            return self.input(Input::StreamClosed { stream });
        };
        let size = object.item.len() + object.meta.name.len() + 256;
        // The state that a watch-list begins with is nothing before all of it is there.
        let told = (!self.machine.is_staging(stream)).then(|| Lost {
            key: object.meta.key(),
            seen: Sighting {
                version: Some(version.clone()),
                uid: object.meta.uid.clone(),
                at: None,
            },
            why: Why::Behind,
        });
        self.input(Input::Event {
            stream,
            event: Event {
                change,
                version: version.clone(),
                payload: object,
                size,
            },
        });
        self.validate(&version);
        let is_held = self.version().is_some_and(|held| !version.is_after(&held));
        self.lost.extend(told.filter(|_| !is_held));
    }

    /// A bookmark of a stream.
    pub(super) fn bookmark(&mut self, stream: StreamId, encoding: Encoding, bookmark: &watch::Bookmark) {
        let Some(version) = ResourceVersion::new(&bookmark.resource_version) else {
            return;
        };
        let form = known_form(self.form.as_ref(), Collection::from_bookmark(encoding, bookmark));
        self.shown.insert(stream, form);
        self.input(Input::Bookmark {
            stream,
            version: version.clone(),
            initial_events_end: bookmark.initial_events_end,
        });
        self.validate(&version);
    }

    /// Upstream has just spoken of this version: if it is where the view stands, the view is current. A stream that
    /// the view does not follow says nothing about it.
    fn validate(&mut self, version: &ResourceVersion) {
        if self.log.is_some() && self.machine.version() == Some(version) {
            self.validated.set(clock::wall());
        }
    }

    /// Something of a stream was told and not recorded; all of it is at or below what has been shown.
    pub(super) fn missed(&mut self, stream: StreamId, shown: &Mark) {
        self.missed = std::mem::take(&mut self.missed).max(shown);
        self.input(Input::Missed { stream });
    }

    /// Whether what it shows of an object is at least as new as all that its clients were told.
    pub(super) fn is_certain(&self) -> bool {
        self.missed == Mark::Start
    }

    /// A stream has ended.
    pub(super) fn closed(&mut self, stream: StreamId) {
        self.input(Input::StreamClosed { stream });
        self.stagings.remove(&stream);
        self.shown.remove(&stream);
    }

    /// A list was received whole.
    pub(super) fn received(&mut self, ticket: Ticket, received: Received) {
        let version = received.version.clone();
        self.snapshots.insert(ticket, received);
        self.input(Input::SnapshotComplete { ticket, version });
        self.snapshots.remove(&ticket);
    }

    /// Drops the view: the apiserver said 403.
    pub(super) fn withdraw(&mut self) {
        self.input(Input::Withdrawn);
    }

    /// Whether history was seen to be restarted since the last call.
    pub(super) fn take_restarted(&mut self) -> bool {
        std::mem::take(&mut self.restarted)
    }

    /// The quota took the log: its file is let go of, and the view is none until the next list.
    pub(super) fn evicted(&mut self) {
        if self.log.is_none() || self.store.holds(&self.id) {
            return;
        }
        self.log = None;
        self.form = None;
        for action in self.machine.step(Input::Broken { stored: None }) {
            // Only what is staged is dropped, which cannot fail.
            let _dropped = self.carry_out(action);
        }
        self.publish();
    }

    fn publish(&self) {
        let now = self.machine.condition();
        self.health.send_if_modified(|health| health.update(now));
    }

    /// What was shown and is not held, since the last call.
    pub(super) fn take_lost(&mut self) -> Vec<Lost> {
        std::mem::take(&mut self.lost)
    }

    /// The number of the request whose whole answer has become the view since the last call, and its version.
    pub(super) fn take_committed(&mut self) -> Option<(u64, ResourceVersion)> {
        self.committed.take()
    }

    /// R, if there is a view.
    pub(super) fn version(&self) -> Option<ResourceVersion> {
        self.log.as_ref()?;
        self.machine.version().cloned()
    }

    /// The form of its items, if there is a view.
    pub(super) fn form(&self) -> Option<Collection> {
        self.log.as_ref()?;
        self.form.clone()
    }

    /// Which of these keys are those of items that it holds.
    pub(super) fn held(&self, keys: Vec<String>) -> Vec<String> {
        let holds = |key: &String| self.log.as_ref().is_some_and(|log| log.contains(key.as_bytes()));
        keys.into_iter().filter(holds).collect()
    }

    /// The keys of all items that it holds.
    pub(super) fn keys(&self) -> Vec<String> {
        let keys = self.log.iter().flat_map(|log| store::keys_of(&**log));
        keys.filter_map(|key| String::from_utf8(key.into_vec()).ok())
            .collect()
    }

    /// The view as it is now; `prefix` narrows it to keys that start with it.
    pub(super) fn read(&self, prefix: Option<&str>) -> Option<ViewRead> {
        let log = self.log.as_ref()?;
        let items = prefix.map_or_else(|| log.snapshot(), |prefix| log.snapshot_of(prefix.as_bytes()));
        let version = self.machine.version()?.clone();
        Some(ViewRead {
            items,
            form: self.form.clone()?,
            version,
            validated: self.validated.at(),
        })
    }

    /// One item, with the form to put it together again; the outer `None` means that there is no view.
    pub(super) fn item(&self, key: &str) -> Option<(Option<bytes::Bytes>, Collection, SystemTime)> {
        let log = self.log.as_ref()?;
        let item = log
            .get(key.as_bytes())
            .inspect_err(|error| tracing::warn!(view = %self.id, %error, "cannot read a stored item"))
            .ok()?;
        Some((item, self.form.clone()?, self.validated.at()))
    }

    fn carry_out(&mut self, action: Action<Object<'static>>) -> Result<(), Failed> {
        match action {
            Action::Append {
                change,
                payload,
                version,
            } => self.append(change, payload, &version),
            Action::Progress { version } => self.progress(&version),
            Action::Stage {
                stream,
                change,
                payload,
            } => self.stage(stream, change, payload),
            Action::CommitSnapshot { ticket, version } => {
                let Received {
                    staging, form, seen, ..
                } = self.snapshots.remove(&ticket).ok_or(Failed::NothingStaged)?;
                self.commit(staging, form, &version, seen)?;
                self.committed = Some((ticket.0, version));
                Ok(())
            }
            Action::CommitStaging { stream, version } => {
                let Staged { staging, form } = match self.stagings.remove(&stream) {
                    Some(staged) => staged,
                    None => {
                        let form = self.shown.get(&stream).cloned().ok_or(Failed::NothingStaged)?;
                        Staged {
                            staging: self.store.stage(&self.id)?,
                            form,
                        }
                    }
                };
                self.commit(staging, form, &version, clock::wall())?;
                self.committed = Some((stream.0, version));
                Ok(())
            }
            Action::DiscardSnapshot { ticket, why } => {
                self.snapshots.remove(&ticket);
                tracing::debug!(view = %self.id, why = why.as_str(), "a received list does not become the view");
                Ok(())
            }
            Action::DropStaging { stream, why } => {
                self.stagings.remove(&stream);
                tracing::debug!(view = %self.id, why = why.as_str(), "a received watch-list does not become the view");
                Ok(())
            }
            Action::HistoryRestarted => {
                tracing::warn!(view = %self.id, "the cluster's history was restarted (restored from a backup?)");
                self.restarted = true;
                self.missed = Mark::Start;
                Ok(())
            }
            Action::Forget => Ok(self.forget()?),
        }
    }

    fn append(
        &mut self,
        change: EventType,
        object: Object<'static>,
        version: &ResourceVersion,
    ) -> Result<(), Failed> {
        let log = self.log.as_ref().ok_or(Failed::NoView)?;
        let form = self.form.as_mut().ok_or(Failed::NoView)?;
        let key = object.meta.key();
        let item = form.adopt(object)?;
        let lost = match change {
            EventType::Deleted => log.get(key.as_bytes())?.map(|item| shown(form, &item)),
            EventType::Added | EventType::Modified => None,
        };
        let record = match change {
            EventType::Added | EventType::Modified => Change::Put {
                key: key.as_bytes(),
                value: &item,
            },
            EventType::Deleted => Change::Delete { key: key.as_bytes() },
        };
        log.append(record, version.as_str(), clock::wall())?;
        let why = Why::Left;
        self.lost.extend(lost.map(|seen| Lost { key, seen, why }));
        Ok(())
    }

    /// Writes R down, so that after a restart no client that goes on from its last bookmark is ahead of the view.
    fn progress(&mut self, version: &ResourceVersion) -> Result<(), Failed> {
        let log = self.log.as_ref().ok_or(Failed::NoView)?;
        log.append(Change::Progress, version.as_str(), clock::wall())?;
        Ok(())
    }

    fn stage(&mut self, stream: StreamId, change: EventType, object: Object<'static>) -> Result<(), Failed> {
        let staged = match self.stagings.entry(stream) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(entry) => {
                let form = known_form(self.form.as_ref(), Collection::from_object(&object));
                entry.insert(Staged {
                    staging: self.store.stage(&self.id)?,
                    form,
                })
            }
        };
        let key = object.meta.key();
        let item = staged.form.adopt(object)?;
        match change {
            EventType::Added | EventType::Modified => staged.staging.put(key.as_bytes(), &item)?,
            EventType::Deleted => staged.staging.delete(key.as_bytes())?,
        }
        Ok(())
    }

    fn commit(
        &mut self,
        staging: Box<dyn Staging>,
        form: Collection,
        version: &ResourceVersion,
        seen: SystemTime,
    ) -> Result<(), Failed> {
        let header = serde_json::to_vec(&Header { form: form.clone() })?;
        let items = staging.len();
        let before = self.earlier().filter(|_| self.is_partial);
        let log = staging.commit(&header, version.as_str(), seen)?;
        if let Some(before) = before {
            match before.lost_in(&*log, version) {
                Ok(lost) => self.lost.extend(lost),
                Err(error) => {
                    tracing::warn!(view = %self.id, %error, "what a list does not hold any more cannot be read");
                }
            }
        }
        if self.missed.covers(Some(version)) == Some(false) || self.missed == Mark::At(version.clone()) {
            self.missed = Mark::Start;
        }
        self.log = Some(log);
        self.form = Some(form);
        self.validated.set(seen);
        tracing::debug!(view = %self.id, %version, items, "view recorded");
        Ok(())
    }

    fn earlier(&self) -> Option<Earlier> {
        let log = self.log.clone()?;
        let form = self.form.clone()?;
        let version = version_of(&log)?;
        Some(Earlier { log, form, version })
    }

    fn forget(&mut self) -> Result<(), StoreError> {
        self.missed = Mark::Start;
        self.log = None;
        self.form = None;
        self.store.remove(&self.id)
    }
}

/// A log and the form of its items, if its header says which.
fn readable(id: &LogId, log: Arc<dyn Log>) -> Option<(Arc<dyn Log>, Collection)> {
    let header = serde_json::from_slice::<Header>(&log.header())
        .inspect_err(|error| tracing::warn!(view = %id, %error, "a stored view has an unreadable header"));
    Some((log, header.ok()?.form))
}

fn version_of(log: &Arc<dyn Log>) -> Option<ResourceVersion> {
    ResourceVersion::new(&log.position())
}

/// A view before it was read again.
struct Earlier {
    log: Arc<dyn Log>,
    form: Collection,
    version: ResourceVersion,
}

impl Earlier {
    /// What it held and the later state does not hold. Only these are read.
    fn lost_in(&self, after: &dyn Log, version: &ResourceVersion) -> Result<Vec<Lost>, StoreError> {
        if !version.is_after(&self.version) {
            return Ok(Vec::new());
        }
        let mut lost = Vec::new();
        for key in store::keys_of(&*self.log).filter(|key| !after.contains(key)) {
            if let Some(item) = self.log.get(&key)? {
                lost.push(Lost {
                    key: String::from_utf8_lossy(&key).into_owned(),
                    seen: shown(&self.form, &item),
                    why: Why::Left,
                });
            }
        }
        Ok(lost)
    }
}

fn shown(form: &Collection, item: &[u8]) -> Sighting {
    objects::kept_shows(form.encoding, &form.object(item))
}

/// The form that lists of this collection are known to have, if it is that of the same items: an event shows neither
/// the list's kind nor a missing style.
fn known_form(known: Option<&Collection>, shown: Collection) -> Collection {
    match known {
        Some(known) if known.item == shown.item && known.encoding == shown.encoding => known.clone(),
        _ => shown,
    }
}
