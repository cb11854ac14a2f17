//! Writes: the object in a successful answer refreshes what is kept of it.
//!
//! kubelet reads its CSINode, finds none, creates it and reads it again: offline it must find what it created.

use http::{HeaderMap, Method, header, response};

use crate::kube::media::{Encoding, Representation, answered_shape};
use crate::kube::request::{ResourceRequest, Verb, is_plain_path};
use crate::runtime::body::Body;
use crate::wire::object::read_object;

use super::Cache;
use super::decode::{Coding, Decoded};
use super::objects::{Answered, Moment};
use super::recording::is_from_apiserver;
use super::tee::{Handover, tee};

/// An object in the answer to a write is at most so large: it is held in memory for a moment.
const LARGEST: usize = 4 << 20;

/// A write under way.
pub struct Write {
    cache: Cache,
    owner: String,
    path: String,
    accept: Option<String>,
    verb: Verb,
    sent: Moment,
}

/// Watches the answer to a write; `None` for one that says nothing about an object.
pub fn refresh_after_write(
    cache: &Cache,
    owner: &str,
    resource: &ResourceRequest,
    path: &str,
    headers: &HeaderMap,
) -> Option<Write> {
    // A node renews its lease every ten seconds: not worth its flash.
    let is_lease = resource.group == "coordination.k8s.io";
    let whole_object = matches!(resource.subresource.as_str(), "" | "status" | "finalize");
    let changes = matches!(
        resource.verb,
        Verb::Create | Verb::Update | Verb::Patch | Verb::Delete | Verb::DeleteCollection
    );
    if is_lease || !whole_object || !changes || !is_plain_path(path) {
        return None;
    }
    let path = match resource.subresource.as_str() {
        "" => path,
        subresource => path.strip_suffix(subresource)?.strip_suffix('/')?,
    };
    Some(Write {
        cache: cache.clone(),
        owner: owner.to_owned(),
        path: path.to_owned(),
        accept: headers
            .get(header::ACCEPT)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned),
        verb: resource.verb,
        sent: Moment(cache.next_number()),
    })
}

impl Write {
    /// Wraps the body of the answer so that its object refreshes what is kept.
    pub fn answered(self, method: &Method, head: &response::Parts, body: Body) -> Body {
        let recordable =
            head.status.is_success() && is_from_apiserver(&head.headers) && method != Method::HEAD;
        if !recordable {
            return body;
        }
        if matches!(self.verb, Verb::Delete | Verb::DeleteCollection) {
            self.deleted();
            return body;
        }
        let content_type = head
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok());
        let encoding = content_type.and_then(Encoding::of_content_type);
        let (Some(coding), Some(encoding)) = (Coding::of(&head.headers), encoding) else {
            return body;
        };
        let Some(shape) = answered_shape(self.accept.as_deref(), encoding) else {
            return body;
        };
        let representation = Representation { encoding, shape };
        tee(
            body,
            Box::new(move |handover| self.refresh(handover, coding, representation)),
        )
    }

    fn refresh(self, handover: Handover, coding: Coding, representation: Representation) {
        let Self {
            cache,
            owner,
            path,
            verb,
            sent,
            ..
        } = self;
        let recorded = Moment(cache.next_number());
        let Some(under_way) = cache.under_way() else {
            return;
        };
        let (source, kept) = (cache.source(handover), cache.owner(&owner));
        cache.tasks().spawn_blocking(move || {
            let _under_way = under_way;
            let Ok(Some(body)) = Decoded::new(source, coding).collect(LARGEST) else {
                return;
            };
            let Ok(object) = read_object(representation.encoding, &body) else {
                return;
            };
            let path = if verb == Verb::Create {
                format!("{path}/{}", object.meta.name)
            } else {
                path
            };
            kept.objects.post(move |objects| {
                let answered = Answered {
                    path,
                    representation,
                    body,
                    may_lag: false,
                    sent,
                    recorded,
                };
                // Only what somebody has read is worth keeping: events are created all day long.
                let refreshed = objects.knows(&answered.path).and_then(|known| {
                    if known {
                        objects.answered(&answered)
                    } else {
                        Ok(false)
                    }
                });
                if let Err(error) = refreshed {
                    tracing::warn!(path = %answered.path, %error, "an object could not be kept");
                    objects.reopen();
                }
            });
        });
    }

    /// The object is gone, or going: its entry says neither, so it must not be told any more.
    fn deleted(self) {
        let Self { path, verb, .. } = self;
        self.cache.owner(&self.owner).objects.post(move |objects| {
            let forgotten = match verb {
                Verb::DeleteCollection => objects.forget_below(&path),
                _ => objects.forget(&path).map(|_| ()),
            };
            if let Err(error) = forgotten {
                tracing::warn!(%path, %error, "a deleted object could not be forgotten");
            }
        });
    }
}
