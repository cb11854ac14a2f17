//! Watches: recording a live one, and what a held one starts with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use crate::kube::media::{Encoding, Representation, Shape};
use crate::kube::options::ListOptions;
use crate::kube::request::ResourceRequest;
use crate::kube::status::Status;
use crate::kube::version::ResourceVersion;
use crate::runtime::body::Feeder;
use crate::runtime::clock;
use crate::runtime::shares::{Share, Shares};
use crate::view::derive::{self, Filter};
use crate::view::event::{Freshness, InitialEnd, Input, Start, StreamId};
use crate::view::offline::{self, Initial, Missing, Opening, WatchAnswer};
use crate::wire::collection::Collection;
use crate::wire::watch::WatchEvent;

use super::answer::invalid;
use super::collection::ViewRead;
use super::healing::Followed;
use super::list_assembly::InitialEvents;
use super::query::{Query, Target, view_key};
use super::stream::{Unsent, send_all};
use super::tee::DELAY_BUDGET;
use super::{Cache, ViewHandle, in_time};

/// How an offline watch is answered.
pub enum WatchPlan {
    /// 200 and a stream that is held.
    Hold(Box<HeldStart>),
    /// 200, one ERROR event with this Status, and the end.
    Gone(Encoding, Status),
    /// A refusal.
    Refused(Status),
    /// Nothing is known that this watch could start from, and why.
    Unknown(Missing),
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
        in_time(self.planned_watch(query))
            .await
            .unwrap_or(WatchPlan::Unknown(Missing::SlowDisk))
    }

    async fn planned_watch(&self, query: &Query) -> WatchPlan {
        let Target::Collection(resource) = &query.target else {
            return WatchPlan::Unknown(Missing::NotRead);
        };
        let options = &resource.options;
        let wanted: Vec<Representation> = query
            .representations()
            .into_iter()
            .filter(|r| !matches!(r.shape, Shape::Table(_)) && r.encoding != Encoding::Yaml)
            .collect();
        for representation in &wanted {
            if let Some((read, filter)) = self.read_collection(query, resource, representation).await {
                let answer = offline::watch(options, Some(&read.version));
                return plan(answer, representation, Some((read, filter)), options);
            }
        }
        let plan = wanted
            .first()
            .map(|representation| plan(offline::watch(options, None), representation, None, options));
        match plan {
            None | Some(WatchPlan::Unknown(Missing::NotRead)) => {
                WatchPlan::Unknown(Box::pin(self.missing_collection(query, resource)).await)
            }
            Some(plan) => plan,
        }
    }

    /// The form of a watched collection in one encoding, where some view shows it: what a bookmark is made of.
    pub async fn form_of(&self, query: &Query, encoding: Encoding) -> Option<Collection> {
        let Target::Collection(resource) = &query.target else {
            return None;
        };
        let representation = query.answered(encoding)?;
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
        let is_late = view.is_stuck();
        if is_late {
            view.open_late(stream, start);
        } else {
            view.post(move |view| view.input(Input::StreamOpened { stream, start }));
        }
        let budget = self.inner.events.clone();
        Some(WatchRecording {
            view,
            stream,
            is_late,
            representation,
            budget,
            used: Duration::ZERO,
            missed: Arc::default(),
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
        let representation = query.answered(Encoding::of_content_type(content_type)?)?;
        if let Some(recording) = recording.filter(|recording| recording.representation == representation) {
            return Some(recording.answered());
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
            .map(WatchRecording::answered)
    }
}

fn plan(
    answer: WatchAnswer,
    representation: &Representation,
    view: Option<(ViewRead, Filter)>,
    options: &ListOptions,
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
        WatchAnswer::Unavailable(missing) => WatchPlan::Unknown(missing),
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
    /// The view was stuck, and hears of the stream once it works again: nothing is posted to it before.
    is_late: bool,
    representation: Representation,
    budget: Shares,
    used: Duration,
    /// The view will be told that it missed something, and not yet been.
    missed: Arc<AtomicBool>,
    given_up: bool,
}

impl WatchRecording {
    /// Upstream has accepted the watch.
    fn answered(self) -> Self {
        let stream = self.stream;
        // Of one of which it hears late the view takes it for granted.
        if !self.is_late {
            self.view
                .post(move |view| view.input(Input::StreamAnswered { stream }));
        }
        self
    }

    /// Whether the view knows of the stream.
    fn is_open(&mut self) -> bool {
        self.is_late = self.is_late && self.view.is_late(self.stream);
        !self.is_late
    }

    /// Whether the view follows what the client watches.
    pub fn followed(&self) -> Followed {
        Followed::new(self.view.clone(), self.representation.clone())
    }

    /// Hands one event over, before its frame goes to the client (rule V5). All waiting of one watch together is at
    /// most 100 ms; past that what finds no room is missed, and it takes a list to carry the view on.
    pub async fn event(&mut self, event: &WatchEvent<'_>, size: usize) {
        let version = match event {
            WatchEvent::Item { object, .. } => ResourceVersion::new(&object.meta.resource_version),
            WatchEvent::Bookmark(bookmark) => ResourceVersion::new(&bookmark.resource_version),
            WatchEvent::Error(_) | WatchEvent::Blank | WatchEvent::Opaque { .. } => None,
        };
        if let Some(version) = version {
            self.view.shown(&version);
        }
        if self.given_up || !self.is_open() {
            return;
        }
        let Some(permit) = self.room(size).await else {
            return self.miss("the disk is too slow for this watch");
        };
        let stream = self.stream;
        match event {
            WatchEvent::Item { change, object } => {
                let metadata_only = matches!(self.representation.shape, Shape::Metadata(_));
                if (object.type_meta.kind == "PartialObjectMetadata") != metadata_only {
                    return self.give_up();
                }
                let (change, object) = (*change, object.clone().into_owned());
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

    /// A frame is not handed over: what follows is not contiguous. At most one word of it waits for the view at a time,
    /// however many are missed meanwhile.
    pub fn miss(&mut self, why: &str) {
        if self.given_up || !self.is_open() || self.missed.swap(true, Ordering::AcqRel) {
            return;
        }
        tracing::warn!(view = %self.view.id(), why, "a view misses an event, it takes a list to carry it on");
        let (stream, missed) = (self.stream, Arc::clone(&self.missed));
        let level = Arc::clone(&self.view.level);
        self.view.post(move |view| {
            // What is missed from now on is another word.
            missed.store(false, Ordering::Release);
            view.missed(stream, &level.shown());
        });
    }

    /// What comes is nothing that this view could hold.
    fn give_up(&mut self) {
        if !self.given_up {
            self.given_up = true;
            self.close();
        }
    }

    async fn room(&mut self, size: usize) -> Option<(OwnedSemaphorePermit, Share)> {
        let kib = u32::try_from(size / 1024 + 1).ok()?;
        let room = async {
            let backlog = Arc::clone(&self.view.backlog)
                .acquire_many_owned(kib)
                .await
                .ok()?;
            let share = self.budget.take(&self.view.id().owner, kib as usize).await;
            Some((backlog, share))
        };
        let since = clock::now();
        // It waits rarely, and every watch would have room for it.
        let room = tokio::time::timeout(DELAY_BUDGET.saturating_sub(self.used), Box::pin(room)).await;
        self.used += clock::now() - since;
        room.ok()?
    }

    fn close(&self) {
        if self.is_late && self.view.forget_late(self.stream) {
            return;
        }
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
