//! Recording lists: a ticket with the view, a staging that nobody sees, and one commit at the end of the last page.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;

use crate::kube::media::{Representation, Shape};
use crate::kube::request::ResourceRequest;
use crate::kube::version::ResourceVersion;
use crate::runtime::body::Body;
use crate::runtime::clock;
use crate::store::{Staging, Store, StoreError};
use crate::view::event::{Freshness, Input, Ticket};
use crate::view::pages::{Chain, Outcome};
use crate::wire::WireError;
use crate::wire::coding::Coding;
use crate::wire::collection::Collection;
use crate::wire::list::{ListHead, ListReader};

use super::pages::{PageTurn, page_key};
use super::receive::{Start, receive};
use crate::cache::collection::Received;
use crate::cache::decode::Decoded;
use crate::cache::query::{Query, view_key};
use crate::cache::source::SourceError;
use crate::cache::tee::{Handover, tee_with};
use crate::cache::{Cache, ViewHandle};

/// A list under way.
pub(super) struct OpenList {
    pub(super) part: Part,
    page_key: String,
    /// Its place among the pages that are being received.
    turn: PageTurn,
}

/// Which part of a list a request asks for.
pub(super) enum Part {
    /// The first page, and mostly the only one.
    First(OpenTicket),
    /// What this token continues. The page before may still be on its way to the disk when a client that has just
    /// read it asks for the next, so its chain is looked up no sooner than it is needed.
    Next(String),
}

/// A ticket of a view that is told of its failure when dropped.
pub(super) struct OpenTicket {
    view: ViewHandle,
    ticket: Ticket,
    settled: bool,
    /// To be told when the view has heard of the end.
    heard: Option<oneshot::Sender<()>>,
}

/// What is received of a chain between two pages.
#[derive(Default)]
pub(crate) struct PageStage {
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

impl Unkept {
    /// Whether the disk is at fault: it is full, for example.
    fn is_of_disk(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Source(SourceError::Spool(_)))
    }
}

impl OpenTicket {
    pub(super) fn begin(cache: &Cache, view: ViewHandle, freshness: Freshness) -> Self {
        let ticket = Ticket(cache.next_number());
        view.post(move |view| view.input(Input::SnapshotBegun { ticket, freshness }));
        Self {
            view,
            ticket,
            settled: false,
            heard: None,
        }
    }

    pub(super) fn view(&self) -> &ViewHandle {
        &self.view
    }

    fn settle(&mut self, received: Received) {
        self.settled = true;
        let (ticket, heard) = (self.ticket, self.heard.take());
        self.view.post(move |view| {
            view.received(ticket, received);
            tell(heard);
        });
    }
}

impl Drop for OpenTicket {
    fn drop(&mut self) {
        if !self.settled {
            let (ticket, heard) = (self.ticket, self.heard.take());
            self.view.post(move |view| {
                view.input(Input::SnapshotFailed { ticket });
                tell(heard);
            });
        }
    }
}

fn tell(heard: Option<oneshot::Sender<()>>) {
    if let Some(heard) = heard {
        let _nobody_waits = heard.send(());
    }
}

pub(super) fn open_list(
    cache: &Cache,
    query: &Query,
    resource: &ResourceRequest,
    start: Start,
) -> Option<OpenList> {
    let foreseen = query.representations().into_iter().next()?;
    let page_key = page_key(query, resource);
    let turn = cache.page_turns().begin(&page_key, cache.next_number());
    let token = &resource.options.continue_token;
    let part = if token.is_empty() {
        let freshness = match (&resource.options.resource_version, start) {
            (None, Start::Foreseen) => Freshness::Latest,
            (Some(_), _) | (_, Start::Late) => Freshness::Cached,
        };
        let view = cache.view(&query.owner, &view_key(resource, &foreseen));
        if view.is_stuck() {
            return None;
        }
        Part::First(OpenTicket::begin(cache, view, freshness))
    } else {
        Part::Next(token.clone())
    };
    Some(OpenList { part, page_key, turn })
}

/// The same for a list that makes this view whole, asked for on its own account; `settled` is told when the view has
/// taken it, or will not.
pub(super) fn open_list_for(
    cache: &Cache,
    query: &Query,
    resource: &ResourceRequest,
    view: ViewHandle,
    settled: oneshot::Sender<()>,
) -> OpenList {
    let page_key = page_key(query, resource);
    let turn = cache.page_turns().begin(&page_key, cache.next_number());
    let mut ticket = OpenTicket::begin(cache, view, Freshness::Latest);
    ticket.heard = Some(settled);
    OpenList {
        part: Part::First(ticket),
        page_key,
        turn,
    }
}

/// Keeps what is received of a list; the body waits no longer than this for the disk, in all.
pub(super) fn keep_list(
    cache: Cache,
    list: OpenList,
    view: ViewHandle,
    representation: Representation,
    coding: Coding,
    (body, delay_budget): (Body, Duration),
) -> Body {
    let seen = clock::wall();
    let recorder = move |handover: Handover| {
        let own = cache.clone();
        let owner = view.id().owner.clone();
        receive(&cache, &owner, handover, move |source, _under_way| {
            let received = receive_list(
                &own,
                list,
                &view,
                &representation,
                seen,
                Decoded::new(source, coding),
            );
            match received {
                Ok(()) => {}
                Err(error) if error.is_of_disk() => {
                    tracing::warn!(view = %view.id(), %error, "a list could not be recorded");
                }
                Err(error) => tracing::debug!(view = %view.id(), %error, "a list was not kept"),
            }
        });
    };
    tee_with(body, Box::new(recorder), delay_budget)
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
    let version = ResourceVersion::new(&head.resource_version).ok_or(Unkept::NotResumable)?;
    // Between two pages the ticket stays open with the chain; a chain that is evicted drops and thereby fails it.
    chain.staging = PageStage {
        ticket: Some(ticket),
        seen: Some(seen),
        staged: Some((staging, form)),
    };
    let outcome = cache
        .pages()
        .answered(page_key, chain, (version, &head.continue_token), clock::now());
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
    let find = || cache.pages().take(page_key, token, clock::now());
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
