//! Recording: what becomes of the answer to one forwarded read.
//!
//! A recording begins before its request is sent, so that a view knows where it stood then. Only an apiserver's own
//! answer counts (it carries `Audit-Id`): a gateway's page proves nothing.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderName, StatusCode, header, response};
use parking_lot::{Condvar, Mutex};

use crate::kube::media::{Encoding, Representation, Shape, answered_shape};
use crate::kube::request::ResourceRequest;
use crate::kube::version::ResourceVersion;
use crate::runtime::body::Body;
use crate::runtime::clock;
use crate::store::{Staging, Store, StoreError};
use crate::view::derive;
use crate::view::event::{Freshness, Input, Ticket};
use crate::view::key::ViewKey;
use crate::view::pages::{Answer as PageAnswer, Chain, Outcome, Request as PageRequest};
use crate::wire::collection::Collection;
use crate::wire::list::{ListHead, ListReader};
use crate::wire::{self, WireError};

use super::collection::Received;
use super::decode::{Coding, Decoded};
use super::documents;
use super::objects::{Answered, Moment};
use super::query::{Query, Target, view_key};
use super::source::{Source, SourceError};
use super::tee::{Handover, tee};
use super::{Cache, ViewHandle};

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Answers to a GET beyond this are not kept; etcd allows objects of 1.5 MiB.
const LARGEST_OBJECT: usize = 16 << 20;

/// A page of an opaque list beyond this is not kept; it is held in memory to see whether another follows.
const LARGEST_PAGE: usize = 16 << 20;
/// How long a page waits for the one before it to be on disk.
const PAGE_PATIENCE: Duration = Duration::from_secs(5);

/// Whether an apiserver itself gave this answer.
pub fn is_from_apiserver(headers: &HeaderMap) -> bool {
    headers.contains_key(AUDIT_ID)
}

/// A forwarded read whose answer may be kept.
pub struct Recording {
    cache: Cache,
    query: Query,
    sent: Moment,
    list: Option<OpenList>,
}

/// A list under way.
struct OpenList {
    part: Part,
    page_key: String,
    /// Its place among the pages that are being received.
    turn: PageTurn,
}

/// Which part of a list a request asks for.
enum Part {
    /// The first page, and mostly the only one.
    First(OpenTicket),
    /// What this token continues. The page before may still be on its way to the disk when a client that has just
    /// read it asks for the next, so its chain is looked up no sooner than it is needed.
    Next(String),
}

/// The pages of lists that are being received, by page key, in the order in which they were asked for.
#[derive(Default)]
pub(super) struct PageTurns {
    under_way: Mutex<HashMap<String, BTreeSet<u64>>>,
    done: Condvar,
}

/// A page that is being received, until dropped.
struct PageTurn {
    turns: Arc<PageTurns>,
    page_key: String,
    number: u64,
}

impl PageTurns {
    fn begin(self: &Arc<Self>, page_key: &str, number: u64) -> PageTurn {
        let mut under_way = self.under_way.lock();
        under_way.entry(page_key.to_owned()).or_default().insert(number);
        PageTurn {
            turns: Arc::clone(self),
            page_key: page_key.to_owned(),
            number,
        }
    }
}

impl PageTurn {
    /// Blocks until no page is being received that was asked for before this one, at most [`PAGE_PATIENCE`]; gives
    /// whether there was one to wait for.
    fn wait_for_earlier(&self) -> bool {
        let mut under_way = self.turns.under_way.lock();
        let is_next = |under_way: &HashMap<String, BTreeSet<u64>>| {
            under_way
                .get(&self.page_key)
                .and_then(BTreeSet::first)
                .is_none_or(|first| *first >= self.number)
        };
        if is_next(&under_way) {
            return false;
        }
        self.turns
            .done
            .wait_while_for(&mut under_way, |under_way| !is_next(under_way), PAGE_PATIENCE);
        true
    }
}

impl Drop for PageTurn {
    fn drop(&mut self) {
        let mut under_way = self.turns.under_way.lock();
        if let Some(numbers) = under_way.get_mut(&self.page_key) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                under_way.remove(&self.page_key);
            }
        }
        self.turns.done.notify_all();
    }
}

/// A ticket of a view that is told of its failure when dropped.
pub(super) struct OpenTicket {
    view: ViewHandle,
    ticket: Ticket,
    settled: bool,
}

/// What is received of a chain between two pages.
#[derive(Default)]
pub(super) struct PageStage {
    ticket: Option<OpenTicket>,
    /// When the first page began to arrive: all of them show the state of before.
    seen: Option<SystemTime>,
    staged: Option<(Box<dyn Staging>, Collection)>,
}

#[derive(Debug, thiserror::Error)]
enum Unkept {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("a {0} is not what was asked for")]
    OtherShape(String),
    #[error("it continues no list that is known")]
    Discontinued,
    #[error("the list has no resourceVersion to resume from")]
    NotResumable,
}

impl OpenTicket {
    fn begin(cache: &Cache, view: ViewHandle, freshness: Freshness) -> Self {
        let ticket = Ticket(cache.next_number());
        view.post(move |view| view.input(Input::SnapshotBegun { ticket, freshness }));
        Self {
            view,
            ticket,
            settled: false,
        }
    }

    fn settle(&mut self, received: Received) {
        self.settled = true;
        let ticket = self.ticket;
        self.view.post(move |view| view.received(ticket, received));
    }
}

impl Drop for OpenTicket {
    fn drop(&mut self) {
        if !self.settled {
            let ticket = self.ticket;
            self.view
                .post(move |view| view.input(Input::SnapshotFailed { ticket }));
        }
    }
}

impl Recording {
    /// Begins to record a read that is about to be sent. A watch is recorded by its own means.
    pub(super) fn begin(cache: &Cache, query: &Query) -> Self {
        let list = match &query.target {
            Target::Collection(resource) if !resource.options.watch => open_list(cache, query, resource),
            _ => None,
        };
        Self {
            cache: cache.clone(),
            query: query.clone(),
            sent: Moment(cache.next_number()),
            list,
        }
    }

    /// Wraps the body of the answer so that what is to be kept of it is.
    pub fn answered(self, head: &response::Parts, body: Body) -> Body {
        if !is_from_apiserver(&head.headers) || self.query.head {
            return body;
        }
        let Some(coding) = Coding::of(&head.headers) else {
            return body;
        };
        match head.status {
            StatusCode::OK => self.keep(&head.headers, coding, body),
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => self.refused(head, coding, body),
            _ => body,
        }
    }

    fn keep(self, headers: &HeaderMap, coding: Coding, body: Body) -> Body {
        let Some(content_type) = headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
        else {
            return body;
        };
        let Self {
            cache,
            query,
            sent,
            list,
        } = self;
        if let Target::Document(name) = &query.target {
            let variant = documents::answered_variant(query.accept.as_deref(), content_type);
            let id = documents::document_id(&query.owner, name, &variant);
            return keep_document(cache, id, headers.clone(), coding, body);
        }
        let Some(representation) = answered_representation(&query, content_type) else {
            return body;
        };
        match query.target.clone() {
            Target::Document(_) => body,
            Target::Object { path, may_lag, .. } => {
                keep_object(cache, query, (path, representation, may_lag, sent), coding, body)
            }
            Target::Collection(resource) => {
                let key = view_key(&resource, &representation);
                if matches!(representation.shape, Shape::Table(_))
                    || representation.encoding == Encoding::Yaml
                {
                    if !resource.options.continue_token.is_empty() {
                        return body;
                    }
                    let id = documents::document_id(&query.owner, &key.to_text(), "");
                    let keep = if resource.options.limit > 0 {
                        keep_only_page
                    } else {
                        keep_document
                    };
                    return keep(cache, id, headers.clone(), coding, body);
                }
                let view = cache.view(&query.owner, &key);
                let Some(mut list) = list else { return body };
                if let Part::First(ticket) = &list.part
                    && ticket.view.id() != view.id()
                {
                    // Another encoding than foreseen (a custom resource asked for in protobuf). The view's version
                    // when the request was sent is not known, so this list may not prove that history went back.
                    list.part = Part::First(OpenTicket::begin(&cache, view.clone(), Freshness::Cached));
                }
                keep_list(cache, list, view, representation, coding, body)
            }
        }
    }

    /// 404 and 403 count once their body proves to be a Status.
    fn refused(self, head: &response::Parts, coding: Coding, body: Body) -> Body {
        let Self { cache, query, .. } = self;
        let encoding = head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(Encoding::of_content_type);
        let Some(encoding) = encoding else { return body };
        let (code, seen) = (head.status, clock::wall());
        let recorder = move |handover: Handover| {
            let Handover::Whole(chunks) = handover else { return };
            let owner = cache.owner(&query.owner);
            let objects = owner.objects.clone();
            objects.post(move |objects| {
                let whole = Decoded::new(Source::whole(chunks), coding).collect(LARGEST_OBJECT);
                let Ok(Some(body)) = whole else { return };
                if wire::status::read_status(encoding, &body)
                    .is_none_or(|status| status.code != code.as_u16())
                {
                    return;
                }
                let done = match &query.target {
                    Target::Object { path, .. } if code == StatusCode::NOT_FOUND => {
                        objects.absent(path, seen)
                    }
                    Target::Object { path, .. } => objects.withdrawn(path),
                    Target::Collection(resource) if code == StatusCode::FORBIDDEN => {
                        withdraw_views(&cache, &query.owner, resource);
                        Ok(())
                    }
                    Target::Document(name) if code == StatusCode::FORBIDDEN => {
                        cache.forget_documents(&query.owner, std::slice::from_ref(name))
                    }
                    Target::Document(_) | Target::Collection(_) => Ok(()),
                };
                if let Err(error) = done {
                    tracing::error!(owner = %query.owner, %error, "a refusal could not be recorded");
                }
            });
        };
        tee(body, Box::new(recorder))
    }
}

/// Withdraws a collection and every wider one that it could be answered from: who may not read the part may not read
/// the whole, because authorizers only ever add rights.
fn withdraw_views(cache: &Cache, owner: &str, resource: &ResourceRequest) {
    let keys: BTreeSet<ViewKey> = Representation::all()
        .flat_map(|representation| derive::candidates(&view_key(resource, &representation)))
        .map(|candidate| candidate.key)
        .collect();
    for key in &keys {
        if let Some(view) = cache.existing_view(owner, key) {
            view.post(super::collection::StoredView::withdraw);
        }
    }
    let names: Vec<String> = keys.iter().map(ViewKey::to_text).collect();
    if let Err(error) = cache.forget_documents(owner, &names) {
        tracing::error!(%owner, %error, "withdrawn data could not be removed from disk");
    }
}

fn open_list(cache: &Cache, query: &Query, resource: &ResourceRequest) -> Option<OpenList> {
    let foreseen = query.representations().into_iter().next()?;
    let page_key = page_key(query, resource);
    let turn = cache.page_turns().begin(&page_key, cache.next_number());
    let token = &resource.options.continue_token;
    let part = if token.is_empty() {
        let freshness = match resource.options.resource_version {
            None => Freshness::Latest,
            Some(_) => Freshness::Cached,
        };
        let view = cache.view(&query.owner, &view_key(resource, &foreseen));
        Part::First(OpenTicket::begin(cache, view, freshness))
    } else {
        Part::Next(token.clone())
    };
    Some(OpenList { part, page_key, turn })
}

/// What all pages of a list have in common: whose they are, what they select, and the forms that were asked for.
fn page_key(query: &Query, resource: &ResourceRequest) -> String {
    let accept = query.accept.as_deref().unwrap_or_default();
    let any = Representation::full(Encoding::Json);
    format!(
        "{}\n{accept}\n{}",
        query.owner,
        view_key(resource, &any).to_text()
    )
}

fn answered_representation(query: &Query, content_type: &str) -> Option<Representation> {
    let encoding = Encoding::of_content_type(content_type)?;
    let shape = answered_shape(query.accept.as_deref(), encoding)?;
    Some(Representation { encoding, shape })
}

fn keep_document(
    cache: Cache,
    id: crate::store::LogId,
    headers: HeaderMap,
    coding: Coding,
    body: Body,
) -> Body {
    let recorder = move |handover: Handover| {
        let own = cache.clone();
        receive(&cache, handover, move |source| {
            match documents::keep(own.store(), &id, &headers, Decoded::new(source, coding)) {
                Ok(()) => own.document_kept(&id),
                Err(error) => tracing::debug!(document = %id.name, %error, "a document was not kept"),
            }
        });
    };
    tee(body, Box::new(recorder))
}

/// Keeps the first page of an opaque list if there is no other: `kubectl get` always asks for pages.
fn keep_only_page(
    cache: Cache,
    id: crate::store::LogId,
    headers: HeaderMap,
    coding: Coding,
    body: Body,
) -> Body {
    let recorder = move |handover: Handover| {
        let own = cache.clone();
        receive(&cache, handover, move |source| {
            let page = match Decoded::new(source, coding).collect(LARGEST_PAGE) {
                Ok(Some(page)) if documents::is_only_page(&page) => Source::whole(vec![page.into()]),
                _ => return,
            };
            match documents::keep(own.store(), &id, &headers, Decoded::new(page, Coding::Identity)) {
                Ok(()) => own.document_kept(&id),
                Err(error) => tracing::debug!(document = %id.name, %error, "a document was not kept"),
            }
        });
    };
    tee(body, Box::new(recorder))
}

fn keep_object(
    cache: Cache,
    query: Query,
    (path, representation, may_lag, sent): (String, Representation, bool, Moment),
    coding: Coding,
    body: Body,
) -> Body {
    let recorder = move |handover: Handover| {
        let owner = cache.owner(&query.owner);
        let recorded = Moment(cache.next_number());
        let read = move |source: Source| match Decoded::new(source, coding).collect(LARGEST_OBJECT) {
            Ok(body) => body.map(|body| Answered {
                path,
                representation,
                body,
                may_lag,
                sent,
                recorded,
            }),
            Err(error) => {
                tracing::debug!(%path, %error, "an object was not kept");
                None
            }
        };
        if let Handover::Whole(chunks) = handover {
            let Some(under_way) = cache.under_way() else {
                return;
            };
            // It is all here: no thread but the strand's is needed.
            return owner.objects.post(move |objects| {
                let _until_done = under_way;
                if let Some(answered) = read(Source::whole(chunks)) {
                    objects.keep(&answered);
                }
            });
        }
        // A large object is received outside the strand: a slow one must not hold up the others.
        receive(&cache, handover, move |source| {
            if let Some(answered) = read(source) {
                owner.objects.post(move |objects| objects.keep(&answered));
            }
        });
    };
    tee(body, Box::new(recorder))
}

/// Receives an answer on a blocking thread. One that is still arriving needs a slot: slow clients must not take all
/// threads.
fn receive(cache: &Cache, handover: Handover, work: impl FnOnce(Source) + Send + 'static) {
    let slot = match &handover {
        Handover::Whole(_) => None,
        Handover::Live(_) => match cache.recording_slot() {
            None => {
                tracing::warn!("too many answers are being received at once, one is not kept");
                return;
            }
            slot => slot,
        },
    };
    let Some(under_way) = cache.under_way() else {
        return;
    };
    let source = cache.source(handover);
    cache.tasks().spawn_blocking(move || {
        work(source);
        drop((slot, under_way));
    });
}

fn keep_list(
    cache: Cache,
    list: OpenList,
    view: ViewHandle,
    representation: Representation,
    coding: Coding,
    body: Body,
) -> Body {
    let seen = clock::wall();
    let recorder = move |handover: Handover| {
        let own = cache.clone();
        receive(&cache, handover, move |source| {
            let received = receive_list(
                &own,
                list,
                &view,
                &representation,
                seen,
                Decoded::new(source, coding),
            );
            if let Err(error) = received {
                tracing::debug!(view = %view.id(), %error, "a list was not kept");
            }
        });
    };
    tee(body, Box::new(recorder))
}

/// Receives one page (of which there is mostly one), and settles the ticket when it was the last.
fn receive_list(
    cache: &Cache,
    list: OpenList,
    view: &ViewHandle,
    representation: &Representation,
    seen: SystemTime,
    source: Decoded,
) -> Result<(), Unkept> {
    let OpenList { part, page_key, turn } = list;
    let (ticket, mut chain) = match part {
        Part::First(ticket) => (ticket, Chain::new(PageStage::default())),
        Part::Next(token) => continued(cache, &page_key, &token, &turn).ok_or(Unkept::Discontinued)?,
    };
    if ticket.view.id() != view.id() {
        return Err(Unkept::Discontinued);
    }
    let earlier = chain.staging.staged.take();
    let (mut staging, earlier) = match earlier {
        Some((staging, form)) => (staging, Some(form)),
        None => (stage(cache.store(), &ticket)?, None),
    };
    let seen = *chain.staging.seen.get_or_insert(seen);
    let head = split(staging.as_mut(), representation, source)?;
    let form = match earlier {
        Some(form) if head.item_type.is_none() => form,
        _ => Collection::from_list(representation.encoding, &head),
    };
    let version = ResourceVersion::new(&head.resource_version);
    if version.is_none() {
        return Err(Unkept::NotResumable);
    }
    let answer = PageAnswer::Page {
        version,
        next: &head.continue_token,
    };
    // Between two pages the ticket stays open with the chain; a chain that is evicted drops and thereby fails it.
    chain.staging = PageStage {
        ticket: Some(ticket),
        seen: Some(seen),
        staged: Some((staging, form)),
    };
    let outcome = cache.pages().answered(page_key, chain, answer, clock::now());
    if let Outcome::Complete {
        staging:
            PageStage {
                staged: Some((staging, form)),
                ticket: Some(mut ticket),
                ..
            },
        version,
    } = outcome
    {
        ticket.settle(Received {
            staging,
            form,
            version,
            seen,
        });
    }
    Ok(())
}

/// The chain that a token continues. Blocks while the page that gave the token is still being received.
fn continued(
    cache: &Cache,
    page_key: &String,
    token: &str,
    turn: &PageTurn,
) -> Option<(OpenTicket, Chain<PageStage>)> {
    let find = || match cache.pages().request(page_key, token, clock::now()) {
        PageRequest::Next(chain) => Some(chain),
        PageRequest::First | PageRequest::Unknown => None,
    };
    let mut chain = find().or_else(|| turn.wait_for_earlier().then(find).flatten())?;
    let ticket = chain.staging.ticket.take()?;
    Some((ticket, chain))
}

fn stage(store: &Arc<dyn Store>, ticket: &OpenTicket) -> Result<Box<dyn Staging>, StoreError> {
    store.stage(ticket.view.id())
}

fn split(
    staging: &mut dyn Staging,
    representation: &Representation,
    mut source: Decoded,
) -> Result<ListHead, Unkept> {
    let mut reader = ListReader::new(representation.encoding)?;
    while let Some(chunk) = source.next()? {
        reader.push::<Unkept>(&chunk, &mut |item| {
            Ok(staging.put(item.meta.key().as_bytes(), item.bytes)?)
        })?;
    }
    let head = reader.finish()?;
    let metadata_only = head.type_meta.kind == "PartialObjectMetadataList";
    if metadata_only != matches!(representation.shape, Shape::Metadata(_)) {
        return Err(Unkept::OtherShape(head.type_meta.kind));
    }
    Ok(head)
}
