//! Recording: what becomes of the answer to one forwarded read.
//!
//! A recording begins before its request is sent, so that a view knows where it stood then. Only an apiserver's own
//! answer counts (it carries `Audit-Id`): a gateway's page proves nothing.

mod lists;
mod pages;
mod receive;
mod refusals;

use std::time::Duration;

use http::{HeaderMap, StatusCode, header, response};
use tokio::sync::oneshot;

use crate::kube::media::{Encoding, Representation, Shape};
use crate::kube::request::ResourceRequest;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::Body;
use crate::view::event::Freshness;
use crate::wire::coding::Coding;

use self::lists::{OpenList, OpenTicket, Part, keep_list, open_list, open_list_for};
use self::receive::{LARGEST_OBJECT, Start, on_disk, receive};
use self::refusals::refused;
use super::decode::Decoded;
use super::documents;
use super::objects::{Answered, Asked, Moment, Origin};
use super::query::{Query, Target, view_key};
use super::source::Source;
use super::tee::{DELAY_BUDGET, Handover, tee};
use super::{Cache, ViewHandle};

pub(super) use self::lists::PageStage;
pub(super) use self::pages::PageTurns;

/// A forwarded read whose answer may be kept.
pub struct Recording {
    cache: Cache,
    query: Query,
    asked: Option<Asked>,
    list: Option<OpenList>,
    /// How long the answer may wait for the disk, in all.
    delay_budget: Duration,
}

/// How long an answer waits for the disk, in all, that nobody but the recorder reads.
const UNREAD_DELAY_BUDGET: Duration = Duration::from_secs(60);

impl Recording {
    /// Begins to record a read that is about to be sent. A watch is recorded by its own means.
    pub(super) fn begin(cache: &Cache, query: &Query) -> Self {
        Self::begin_at(cache, query, Start::Foreseen)
    }

    /// The same when the answer has begun to arrive.
    pub(super) fn begin_late(cache: &Cache, query: &Query) -> Self {
        Self::begin_at(cache, query, Start::Late)
    }

    fn begin_at(cache: &Cache, query: &Query, start: Start) -> Self {
        let list = match &query.target {
            Target::Collection(resource) if !resource.options.watch => {
                open_list(cache, query, resource, start)
            }
            _ => None,
        };
        let asked = match &query.target {
            Target::Object { resource, .. } => {
                // What was learned since a late one was sent may be newer, too.
                let origin = match (&resource.options.resource_version, start) {
                    (None, Start::Foreseen) => Origin::Read,
                    (Some(_), _) | (None, Start::Late) => Origin::Lagging,
                };
                Some(cache.asked(&query.owner, resource, origin))
            }
            Target::Document(_) | Target::Collection(_) => None,
        };
        Self {
            cache: cache.clone(),
            query: query.clone(),
            asked,
            list,
            delay_budget: DELAY_BUDGET,
        }
    }

    /// Begins to record a consistent list of what `view` holds, which is about to be sent on the view's own account.
    pub(super) fn begin_for(
        cache: &Cache,
        query: &Query,
        resource: &ResourceRequest,
        view: ViewHandle,
    ) -> (Self, oneshot::Receiver<()>) {
        let (settled, kept) = oneshot::channel();
        let recording = Self {
            cache: cache.clone(),
            query: query.clone(),
            asked: None,
            list: Some(open_list_for(cache, query, resource, view, settled)),
            delay_budget: UNREAD_DELAY_BUDGET,
        };
        (recording, kept)
    }

    /// Wraps the body of the answer so that what is to be kept of it is.
    pub fn answered(self, head: &response::Parts, body: Body) -> Body {
        if !is_from_apiserver(&head.headers, &head.extensions) || self.query.head {
            return body;
        }
        let Ok(coding) = Coding::of(&head.headers) else {
            return body;
        };
        match head.status {
            StatusCode::OK => self.keep(&head.headers, coding, body),
            StatusCode::NOT_MODIFIED => {
                self.confirmed(&head.headers);
                body
            }
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => {
                refused(self.cache, (self.query, self.asked), head, coding, body)
            }
            _ => body,
        }
    }

    /// The document that the client has is current, so ours is if it is the same one (RFC 9111 section 4.3.4).
    fn confirmed(self, headers: &HeaderMap) {
        let Self { cache, query, .. } = self;
        let Target::Document(name) = query.target else {
            return;
        };
        let said = headers.get(header::ETAG).and_then(|etag| etag.to_str().ok());
        let Some(etag) = said.map(str::to_owned).or(query.if_none_match) else {
            return;
        };
        let Some(under_way) = cache.under_way(&query.owner) else {
            return;
        };
        on_disk(&cache.clone(), move || {
            for variant in documents::wanted_variants(query.accept.as_deref()) {
                let id = documents::document_id(&query.owner, &name, &variant);
                let ours = documents::load(cache.store(), &id).ok().flatten();
                if ours.is_some_and(|ours| {
                    ours.etag()
                        .is_some_and(|known| known.as_bytes() == etag.as_bytes())
                }) {
                    cache.document_kept(&id);
                }
            }
            drop(under_way);
        });
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
            asked,
            list,
            delay_budget,
        } = self;
        if let Target::Document(name) = &query.target {
            let variant = documents::answered_variant(query.accept.as_deref(), content_type);
            let id = documents::document_id(&query.owner, name, &variant);
            let kept = (id, documents::Keep::Any);
            return keep_document(cache, kept, headers.clone(), coding, body);
        }
        let answered = Encoding::of_content_type(content_type).and_then(|encoding| query.answered(encoding));
        let Some(representation) = answered else {
            return body;
        };
        match query.target.clone() {
            Target::Document(_) => body,
            Target::Object { path, .. } => match asked {
                Some(asked) => keep_object(cache, query, (path, representation, asked), coding, body),
                None => body,
            },
            Target::Collection(resource) => {
                let key = view_key(&resource, &representation);
                if matches!(representation.shape, Shape::Table(_))
                    || representation.encoding == Encoding::Yaml
                {
                    if !resource.options.continue_token.is_empty() {
                        return body;
                    }
                    let id = documents::document_id(&query.owner, &key.to_text(), "");
                    // `kubectl get` always asks for pages.
                    let which = if resource.options.limit > 0 {
                        documents::Keep::OnlyPage
                    } else {
                        documents::Keep::Any
                    };
                    return keep_document(cache, (id, which), headers.clone(), coding, body);
                }
                let view = cache.view(&query.owner, &key);
                let Some(mut list) = list else { return body };
                if let Part::First(ticket) = &list.part
                    && ticket.view().id() != view.id()
                {
                    // Another encoding than foreseen (a custom resource asked for in protobuf). The view's version
                    // when the request was sent is not known, so this list may not prove that history went back.
                    list.part = Part::First(OpenTicket::begin(&cache, view.clone(), Freshness::Cached));
                }
                keep_list(cache, list, view, representation, coding, (body, delay_budget))
            }
        }
    }
}

fn keep_document(
    cache: Cache,
    (id, which): (crate::store::LogId, documents::Keep),
    headers: HeaderMap,
    coding: Coding,
    body: Body,
) -> Body {
    let recorder = move |handover: Handover| {
        let own = cache.clone();
        let owner = id.owner.clone();
        receive(&cache, &owner, handover, move |source, _under_way| {
            let source = Decoded::new(source, coding);
            match documents::keep(own.store(), &id, &headers, source, which) {
                Ok(()) => own.document_kept(&id),
                Err(error) => error.tell(&id),
            }
        });
    };
    tee(body, Box::new(recorder))
}

fn keep_object(
    cache: Cache,
    query: Query,
    (path, representation, asked): (String, Representation, Asked),
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
                asked,
                recorded,
            }),
            Err(error) => {
                tracing::debug!(%path, %error, "an object was not kept");
                None
            }
        };
        if let Handover::Whole(chunks) = handover {
            let Some(under_way) = cache.under_way(&query.owner) else {
                return;
            };
            // It is all here: no thread but the strand's is needed.
            return owner.objects.post_soon(move |objects| {
                let _until_done = under_way;
                if let Some(answered) = read(Source::whole(chunks)) {
                    objects.keep(&answered);
                }
            });
        }
        // A large object is received outside the strand: a slow one must not hold up the others.
        receive(&cache, &query.owner, handover, move |source, under_way| {
            if let Some(answered) = read(source) {
                owner.objects.post(move |objects| {
                    let _until_done = under_way;
                    objects.keep(&answered);
                });
            }
        });
    };
    tee(body, Box::new(recorder))
}
