//! Watches: recording a live one, and what a held one starts with.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::kube::media::{Encoding, Representation, Shape, answered_shape};
use crate::kube::request::ResourceRequest;
use crate::kube::status::Status;
use crate::kube::version::ResourceVersion;
use crate::runtime::body::Feeder;
use crate::runtime::clock;
use crate::view::derive::{self, Filter};
use crate::view::event::{Change, Freshness, InitialEnd, Input, Start, StreamId};
use crate::view::offline::{self, Initial, Opening, WatchAnswer};
use crate::wire::collection::Collection;
use crate::wire::watch::{ItemChange, WatchEvent};

use super::answer::{invalid, offline_options};
use super::collection::ViewRead;
use super::lists::InitialEvents;
use super::query::{Query, Target, view_key};
use super::stream::{Unsent, send_all};
use super::tee::DELAY_BUDGET;
use super::{Cache, ViewHandle};

/// How an offline watch is answered.
pub enum WatchPlan {
    /// 200 and a stream that is held.
    Hold(Box<HeldStart>),
    /// 200, one ERROR event with this Status, and the end.
    Gone(Encoding, Status),
    /// A refusal.
    Refused(Status),
    /// Nothing is known that this watch could start from.
    Unknown,
}

/// What a held watch starts with.
pub struct HeldStart {
    /// The encoding of the stream.
    pub representation: Representation,
    /// What the client knows once the start has been sent.
    pub known: ResourceVersion,
    /// To make bookmarks of the right kind; `None` where no view says which.
    pub form: Option<Collection>,
    initial: Option<(ViewRead, Filter, bool)>,
}

impl HeldStart {
    /// Sends the initial events, if any are wanted. `false`: the client has gone, or the view cannot be read and the
    /// stream must be broken off.
    pub async fn send_initial(&mut self, cache: &Cache, feeder: &Feeder) -> bool {
        let Some((read, filter, bookmark)) = self.initial.take() else {
            return true;
        };
        let events = InitialEvents::new(&read, &filter, bookmark.then_some(&self.known));
        match send_all(events, feeder, cache.tasks()).await {
            Ok(()) => true,
            Err(Unsent::ReaderGone) => false,
            Err(Unsent::Damaged(error)) => {
                tracing::warn!(%error, "a stored view cannot be read");
                false
            }
        }
    }

    /// Whether initial events are part of the start.
    pub fn sends_initial(&self) -> bool {
        self.initial.is_some()
    }
}

impl Cache {
    /// Decides how a watch is answered without the cloud (wire contract 5.7).
    pub async fn plan_watch(&self, query: &Query) -> WatchPlan {
        let Target::Collection(resource) = &query.target else {
            return WatchPlan::Unknown;
        };
        let options = offline_options(resource);
        let wanted: Vec<Representation> = query
            .representations()
            .into_iter()
            .filter(|r| !matches!(r.shape, Shape::Table(_)) && r.encoding != Encoding::Yaml)
            .collect();
        for representation in &wanted {
            if let Some((read, filter)) = self.read_collection(query, resource, representation).await {
                let answer = offline::watch(&options, Some(&read.version));
                return plan(answer, representation, Some((read, filter)), &options);
            }
        }
        match wanted.first() {
            Some(representation) => plan(offline::watch(&options, None), representation, None, &options),
            None => WatchPlan::Unknown,
        }
    }

    /// The form of a watched collection in one encoding, where some view shows it: what a bookmark is made of.
    pub async fn form_of(&self, query: &Query, encoding: Encoding) -> Option<Collection> {
        let Target::Collection(resource) = &query.target else {
            return None;
        };
        let shape = answered_shape(query.accept.as_deref(), encoding)?;
        let representation = Representation { encoding, shape };
        for candidate in derive::candidates(&view_key(resource, &representation)) {
            let Some(view) = self.existing_view(&query.owner, &candidate.key) else {
                continue;
            };
            if let Ok(Some(form)) = view.run(|view| view.form()).await {
                return Some(form);
            }
        }
        None
    }

    /// Where the view of this watch stands, if that is before the position at which the watch begins: what is between was not
    /// recorded (edgehold was killed, or the disk too slow), so that this watch alone could not carry the view on (V3).
    /// `None` also where nothing can be resumed from the view.
    pub async fn behind(&self, query: &Query) -> Option<ResourceVersion> {
        let Target::Collection(resource) = &query.target else {
            return None;
        };
        let Start::At(position) = start_of(resource) else {
            return None;
        };
        for representation in query.representations() {
            let Some(view) = self.existing_view(&query.owner, &view_key(resource, &representation)) else {
                continue;
            };
            if let Ok(Some(version)) = view.run(|view| view.resumable()).await {
                return position.is_after(&version).then_some(version);
            }
        }
        None
    }

    /// Begins to record a watch whose request is about to be sent, so that the view knows where it stood then.
    pub fn record_watch(&self, query: &Query) -> Option<WatchRecording> {
        let Target::Collection(resource) = &query.target else {
            return None;
        };
        let foreseen = query.representations().into_iter().next()?;
        self.open_watch(query, resource, foreseen, start_of(resource))
    }

    fn open_watch(
        &self,
        query: &Query,
        resource: &ResourceRequest,
        representation: Representation,
        start: Start,
    ) -> Option<WatchRecording> {
        if matches!(representation.shape, Shape::Table(_)) || representation.encoding == Encoding::Yaml {
            return None;
        }
        let view = self.view(&query.owner, &view_key(resource, &representation));
        let stream = StreamId(self.next_number());
        view.post(move |view| view.input(Input::StreamOpened { stream, start }));
        let budget = Arc::clone(&self.inner.events);
        Some(WatchRecording {
            view,
            stream,
            representation,
            budget,
            used: Duration::ZERO,
            given_up: false,
        })
    }

    /// Upstream answered the watch with 200 in this `Content-Type`: the recording goes on if that is what was
    /// foreseen, else in the view that it belongs to.
    pub fn confirm_watch(
        &self,
        query: &Query,
        recording: Option<WatchRecording>,
        content_type: &str,
    ) -> Option<WatchRecording> {
        let Target::Collection(resource) = &query.target else {
            return None;
        };
        let encoding = Encoding::of_content_type(content_type)?;
        let representation = Representation {
            encoding,
            shape: answered_shape(query.accept.as_deref(), encoding)?,
        };
        if let Some(recording) = recording.filter(|recording| recording.representation == representation) {
            return Some(recording);
        }
        // Where the view stood when the request was sent is not known: it may not prove that history went back.
        let start = match start_of(resource) {
            Start::Initial { end, .. } => Start::Initial {
                freshness: Freshness::Cached,
                end,
            },
            start => start,
        };
        self.open_watch(query, resource, representation, start)
    }
}

fn plan(
    answer: WatchAnswer,
    representation: &Representation,
    view: Option<(ViewRead, Filter)>,
    options: &offline::ListOptions<'_>,
) -> WatchPlan {
    match answer {
        WatchAnswer::Hold(Opening { initial, known }) => {
            let form = view.as_ref().map(|(read, _)| read.form.clone());
            let initial = match initial {
                Initial::Nothing => None,
                Initial::Items => view.map(|(read, filter)| (read, filter, false)),
                Initial::ItemsAndBookmark => view.map(|(read, filter)| (read, filter, true)),
            };
            WatchPlan::Hold(Box::new(HeldStart {
                representation: representation.clone(),
                known,
                form,
                initial,
            }))
        }
        WatchAnswer::Gone { message } => WatchPlan::Gone(representation.encoding, Status::expired(message)),
        WatchAnswer::Unavailable(_) => WatchPlan::Unknown,
        WatchAnswer::Invalid(violation) => WatchPlan::Refused(invalid(violation, options)),
    }
}

fn start_of(resource: &ResourceRequest) -> Start {
    let options = &resource.options;
    let version = options.resource_version.as_deref().and_then(ResourceVersion::new);
    match version {
        Some(version) if !options.starts_with_state() => Start::At(version),
        version => Start::Initial {
            freshness: if version.is_none() {
                Freshness::Latest
            } else {
                Freshness::Cached
            },
            end: match (options.send_initial_events, options.allow_watch_bookmarks) {
                (Some(true), true) => InitialEnd::Bookmark,
                _ => InitialEnd::FirstChange,
            },
        },
    }
}

/// A live watch being recorded. Dropped, its stream has ended.
pub struct WatchRecording {
    view: ViewHandle,
    stream: StreamId,
    representation: Representation,
    budget: Arc<Semaphore>,
    used: Duration,
    given_up: bool,
}

impl WatchRecording {
    /// Hands one event over, before its frame goes to the client (rule V5). All waiting of one watch together is at
    /// most 100 ms; past that the recording is given up and the view stays where it is.
    pub async fn event(&mut self, event: &WatchEvent<'_>, size: usize) {
        if self.given_up {
            return;
        }
        let Some(permit) = self.room(size).await else {
            tracing::warn!(view = %self.view.id(), "the disk is too slow for this watch, its recording is given up");
            return self.give_up();
        };
        let stream = self.stream;
        match event {
            WatchEvent::Item { change, object } => {
                let metadata_only = matches!(self.representation.shape, Shape::Metadata(_));
                if (object.type_meta.kind == "PartialObjectMetadata") != metadata_only {
                    return self.give_up();
                }
                let change = match change {
                    ItemChange::Added => Change::Added,
                    ItemChange::Modified => Change::Modified,
                    ItemChange::Deleted => Change::Deleted,
                };
                let object = object.clone().into_owned();
                self.view.post(move |view| {
                    view.event(stream, change, object);
                    drop(permit);
                });
            }
            WatchEvent::Bookmark(bookmark) => {
                let (bookmark, encoding) = (bookmark.clone(), self.representation.encoding);
                self.view
                    .post(move |view| view.bookmark(stream, encoding, &bookmark));
            }
            WatchEvent::Error(status) if status.code == 410 => {
                self.view.post(move |view| view.input(Input::Gone { stream }));
            }
            WatchEvent::Error(_) | WatchEvent::Blank => {}
            WatchEvent::Opaque { .. } => self.give_up(),
        }
    }

    /// A frame that could not be read: what follows cannot be trusted to be contiguous.
    pub fn give_up(&mut self) {
        if !self.given_up {
            self.given_up = true;
            self.close();
        }
    }

    async fn room(&mut self, size: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(size / 1024 + 1).ok()?;
        if let Ok(permit) = Arc::clone(&self.budget).try_acquire_many_owned(kib) {
            return Some(permit);
        }
        let since = clock::now();
        let patience = DELAY_BUDGET.saturating_sub(self.used);
        let permit = tokio::time::timeout(patience, Arc::clone(&self.budget).acquire_many_owned(kib)).await;
        self.used += clock::now() - since;
        permit.ok()?.ok()
    }

    fn close(&self) {
        let stream = self.stream;
        self.view.post(move |view| view.closed(stream));
    }
}

impl Drop for WatchRecording {
    fn drop(&mut self) {
        if !self.given_up {
            self.close();
        }
    }
}
