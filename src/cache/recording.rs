//! Recording: what becomes of the answer to one forwarded read.
//!
//! A recording begins before its request is sent, so that a view knows where it stood then. Only an apiserver's own
//! answer counts (it carries `Audit-Id`): a gateway's page proves nothing.

mod lists;
mod pages;
mod refusals;

use http::{HeaderMap, HeaderName, StatusCode, header, response};

use crate::kube::media::{Encoding, Representation, Shape, answered_shape};
use crate::runtime::body::Body;
use crate::view::event::Freshness;

use self::lists::{OpenList, OpenTicket, Part, keep_list, open_list};
use self::refusals::refused;
use super::Cache;
use super::decode::{Coding, Decoded};
use super::documents;
use super::objects::{Answered, Moment};
use super::query::{Query, Target, view_key};
use super::source::Source;
use super::tee::{Handover, tee};

pub(super) use self::lists::PageStage;
pub(super) use self::pages::PageTurns;

const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");

/// Answers to a GET beyond this are not kept; etcd allows objects of 1.5 MiB.
const LARGEST_OBJECT: usize = 16 << 20;

/// A page of an opaque list beyond this is not kept; it is held in memory to see whether another follows.
const LARGEST_PAGE: usize = 16 << 20;

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
            StatusCode::NOT_MODIFIED => {
                self.confirmed(&head.headers);
                body
            }
            StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => {
                refused(self.cache, self.query, head, coding, body)
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
        let Some(under_way) = cache.under_way() else {
            return;
        };
        cache.tasks().clone().spawn_blocking(move || {
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
                    && ticket.view().id() != view.id()
                {
                    // Another encoding than foreseen (a custom resource asked for in protobuf). The view's version
                    // when the request was sent is not known, so this list may not prove that history went back.
                    list.part = Part::First(OpenTicket::begin(&cache, view.clone(), Freshness::Cached));
                }
                keep_list(cache, list, view, representation, coding, body)
            }
        }
    }
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
