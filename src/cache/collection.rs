//! One stored view: drives the pure state machine of `view` and carries out its orders in the store.
//!
//! Lives on a strand, so everything here blocks and happens in the order in which it was posted; an answer read
//! through the strand has seen every event that was forwarded before (rule V5).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::kube::media::Encoding;
use crate::kube::version::ResourceVersion;
use crate::runtime::clock;
use crate::store::{Change as Record, Log, LogId, LogSnapshot, Staging, Store, StoreError};
use crate::view::event::{Action, Change, Event, Input, StreamId, Ticket};
use crate::view::machine::{Limits, View};
use crate::wire::collection::Collection;
use crate::wire::object::Object;
use crate::wire::{WireError, watch};

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

/// The state of one view and what is being received for it.
pub(super) struct StoredView {
    store: Arc<dyn Store>,
    id: LogId,
    machine: View<Object<'static>>,
    log: Option<Arc<dyn Log>>,
    form: Option<Collection>,
    snapshots: HashMap<Ticket, Received>,
    stagings: HashMap<StreamId, Staged>,
    /// The form that a stream's bookmarks show: all there is of an empty collection.
    shown: HashMap<StreamId, Collection>,
    validated: SystemTime,
    restarted: bool,
}

impl StoredView {
    /// The view as the store holds it, or none yet.
    pub(super) fn open(store: Arc<dyn Store>, id: LogId) -> Self {
        let loaded = store.load(&id).unwrap_or_else(|error| {
            tracing::warn!(view = %id, %error, "cannot open a stored view");
            None
        });
        let form = loaded.as_ref().and_then(|log| {
            serde_json::from_slice::<Header>(&log.header())
                .inspect_err(
                    |error| tracing::warn!(view = %id, %error, "a stored view has an unreadable header"),
                )
                .ok()
        });
        let log = loaded.filter(|_| form.is_some());
        let version = log.as_ref().and_then(|log| ResourceVersion::new(&log.position()));
        let written = log.as_ref().map_or(SystemTime::UNIX_EPOCH, |log| log.updated());
        Self {
            store,
            id,
            machine: View::new(version, PARKED),
            log,
            form: form.map(|header| header.form),
            snapshots: HashMap::new(),
            stagings: HashMap::new(),
            shown: HashMap::new(),
            validated: written,
            restarted: false,
        }
    }

    /// Takes one input and carries out what follows from it.
    pub(super) fn input(&mut self, input: Input<Object<'static>>) {
        let attached = self.machine.attached();
        let actions = self.machine.step(input);
        for action in actions {
            if let Err(error) = self.carry_out(action) {
                tracing::warn!(view = %self.id, %error, "a view could not be kept up to date; the next list mends it");
                let stored = self
                    .log
                    .as_ref()
                    .and_then(|log| ResourceVersion::new(&log.position()));
                for action in self.machine.step(Input::Broken { stored }) {
                    // Only what is staged is dropped, which cannot fail.
                    let _dropped = self.carry_out(action);
                }
                return;
            }
        }
        if attached != self.machine.attached() {
            tracing::trace!(view = %self.id, attached = self.machine.attached(), "streams that drive the view");
        }
    }

    /// An event of a stream.
    pub(super) fn event(&mut self, stream: StreamId, change: Change, object: Object<'static>) {
        let Some(version) = ResourceVersion::new(&object.meta.resource_version) else {
            return self.input(Input::StreamClosed { stream });
        };
        let size = object.item.len() + object.meta.name.len() + 256;
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
            self.validated = clock::wall();
        }
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

    /// Drops the view: the apiserver said 403, or history was restarted.
    pub(super) fn withdraw(&mut self) {
        if let Err(error) = self.forget() {
            tracing::error!(view = %self.id, %error, "withdrawn data could not be removed from disk");
        }
        self.machine = View::new(None, PARKED);
        self.stagings.clear();
        self.snapshots.clear();
    }

    /// Whether history was seen to be restarted since the last call.
    pub(super) fn take_restarted(&mut self) -> bool {
        std::mem::take(&mut self.restarted)
    }

    /// Whether there is nothing worth keeping in memory.
    pub(super) fn is_void(&self) -> bool {
        self.log.is_none() && self.stagings.is_empty() && self.snapshots.is_empty()
    }

    /// R, if there is a view.
    pub(super) fn version(&self) -> Option<ResourceVersion> {
        self.log.as_ref()?;
        self.machine.version().cloned()
    }

    /// R, if as far as is known a stream can go on from there, and it takes one to carry the view on.
    pub(super) fn resumable(&self) -> Option<ResourceVersion> {
        let machine = &self.machine;
        let is_sound = !machine.is_broken() && !machine.is_expired_upstream();
        self.version().filter(|_| is_sound && !machine.awaits_snapshot())
    }

    /// The form of its items, if there is a view.
    pub(super) fn form(&self) -> Option<Collection> {
        self.log.as_ref()?;
        self.form.clone()
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
            validated: self.validated,
        })
    }

    /// One item, with the form to put it together again; the outer `None` means that there is no view.
    pub(super) fn item(&self, key: &str) -> Option<(Option<bytes::Bytes>, Collection, SystemTime)> {
        let log = self.log.as_ref()?;
        let item = log
            .get(key.as_bytes())
            .inspect_err(|error| tracing::warn!(view = %self.id, %error, "cannot read a stored item"))
            .ok()?;
        Some((item, self.form.clone()?, self.validated))
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
                self.commit(staging, form, &version, seen)
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
                self.commit(staging, form, &version, clock::wall())
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
                Ok(())
            }
            Action::Forget => Ok(self.forget()?),
        }
    }

    fn append(
        &mut self,
        change: Change,
        object: Object<'static>,
        version: &ResourceVersion,
    ) -> Result<(), Failed> {
        let log = self.log.as_ref().ok_or(Failed::NoView)?;
        let form = self.form.as_mut().ok_or(Failed::NoView)?;
        let key = object.meta.key();
        let item = form.adopt(object)?;
        let record = match change {
            Change::Added | Change::Modified => Record::Put {
                key: key.as_bytes(),
                value: &item,
            },
            Change::Deleted => Record::Delete { key: key.as_bytes() },
        };
        log.append(record, version.as_str(), clock::wall())?;
        Ok(())
    }

    /// Writes R down, so that after a restart no client that goes on from its last bookmark is ahead of the view.
    fn progress(&mut self, version: &ResourceVersion) -> Result<(), Failed> {
        let log = self.log.as_ref().ok_or(Failed::NoView)?;
        log.append(Record::Progress, version.as_str(), clock::wall())?;
        Ok(())
    }

    fn stage(&mut self, stream: StreamId, change: Change, object: Object<'static>) -> Result<(), Failed> {
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
            Change::Added | Change::Modified => staged.staging.put(key.as_bytes(), &item)?,
            Change::Deleted => staged.staging.delete(key.as_bytes())?,
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
        self.log = Some(staging.commit(&header, version.as_str(), seen)?);
        self.form = Some(form);
        self.validated = seen;
        tracing::debug!(view = %self.id, %version, items, "view recorded");
        Ok(())
    }

    fn forget(&mut self) -> Result<(), StoreError> {
        self.log = None;
        self.form = None;
        self.store.remove(&self.id)
    }
}

/// The form that lists of this collection are known to have, if it is that of the same items: an event shows neither
/// the list's kind nor a missing style.
fn known_form(known: Option<&Collection>, shown: Collection) -> Collection {
    match known {
        Some(known) if known.item == shown.item && known.encoding == shown.encoding => known.clone(),
        _ => shown,
    }
}
