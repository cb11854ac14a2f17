//! Writes: what a good answer says of the object is newer than all that is kept of it.
//!
//! kubelet reads its CSINode, finds none, creates it and reads it again: offline it must find what it created. And nobody
//! must find what he deleted. A dry run changes nothing, here as there.

use std::sync::Arc;

use http::{HeaderMap, Method, StatusCode, Uri, header, response};
use parking_lot::Mutex;

use crate::kube::media::{self, Encoding, Representation, Rows};
use crate::kube::request::{ResourceRequest, Verb, is_plain_name, named_path};
use crate::kube::version::ResourceVersion;
use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::Body;
use crate::view::newest::{Mark, Outcome};
use crate::wire::WireError;
use crate::wire::coding::Coding;
use crate::wire::deletion::{Remains, after_delete, after_update};
use crate::wire::list::ListReader;
use crate::wire::meta::ItemMeta;
use crate::wire::object::read_object;
use crate::wire::status::{StatusSummary, read_status};

use self::options::{DeleteOptions, Sent, watched};
use super::Cache;
use super::decode::Decoded;
use super::objects::{Answered, Asked, Moment, Objects, Origin, Removed};
use super::query::text_of;
use super::tee::{Handover, tee};

mod options;

/// The answer to a write is at most so large: it is held in memory for a moment.
const LARGEST: usize = 4 << 20;

/// Subresources whose writes are answered with the whole object.
const WHOLE: [&str; 5] = ["", "status", "finalize", "ephemeralcontainers", "resize"];

/// A write under way.
pub struct Write {
    cache: Cache,
    owner: String,
    resource: ResourceRequest,
    /// Of the object, or of the collection.
    path: String,
    accept: Option<String>,
    asked: Asked,
    options: Arc<Mutex<DeleteOptions>>,
}

/// Watches the answer to a write; `None` for one that says nothing about an object.
pub fn refresh_after_write(
    cache: &Cache,
    owner: &str,
    resource: &ResourceRequest,
    uri: &Uri,
    headers: &HeaderMap,
) -> Option<Write> {
    // A node renews its lease every ten seconds: not worth its flash.
    let is_lease = resource.group == "coordination.k8s.io";
    let shows_object = match resource.verb {
        Verb::Create | Verb::Update | Verb::Patch => WHOLE.contains(&resource.subresource.as_str()),
        Verb::Delete | Verb::DeleteCollection => resource.subresource.is_empty(),
        _ => false,
    };
    let is_delete = matches!(resource.verb, Verb::Delete | Verb::DeleteCollection);
    let is_dry =
        form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()).any(|(name, _)| name == "dryRun");
    if is_lease || !shows_object || (is_dry && !is_delete) {
        return None;
    }
    let path = named_path(uri.path())?;
    let path = match resource.subresource.as_str() {
        "" => path.as_ref(),
        subresource => path.strip_suffix(subresource)?.strip_suffix('/')?,
    };
    let text = |name| headers.get(name).map(text_of);
    Some(Write {
        cache: cache.clone(),
        owner: owner.to_owned(),
        resource: ResourceRequest {
            subresource: String::new(),
            ..resource.clone()
        },
        path: path.to_owned(),
        accept: text(header::ACCEPT),
        asked: cache.asked(owner, resource, Origin::Write),
        options: Arc::new(Mutex::new(DeleteOptions {
            is_dry,
            encoding: text(header::CONTENT_TYPE)
                .map_or(Some(Encoding::Json), |sent| Encoding::of_content_type(&sent)),
            sent: Sent::default(),
        })),
    })
}

impl Write {
    /// One that was begun when its answer had come already: what was learned meanwhile may be newer.
    #[must_use]
    pub fn late(self) -> Self {
        let asked = Asked {
            sent: Moment::default(),
            shown: Mark::Start,
            ..self.asked
        };
        Self { asked, ..self }
    }

    /// Wraps the body of the request, which of a DELETE are its options.
    pub fn sends(&self, body: Body) -> Body {
        match self.resource.verb {
            Verb::Delete | Verb::DeleteCollection => watched(body, Arc::clone(&self.options)),
            _ => body,
        }
    }

    /// Wraps the body of the answer so that what it says of the object counts.
    pub fn answered(self, method: &Method, head: &response::Parts, body: Body) -> Body {
        if !is_from_apiserver(&head.headers, &head.extensions) || method == Method::HEAD {
            return body;
        }
        let form = Form::of(&head.headers, self.accept.as_deref());
        match (self.resource.verb, head.status) {
            (Verb::Delete | Verb::Update | Verb::Patch, StatusCode::NOT_FOUND) => {
                // Of the others only those are here that are for good.
                let is_meant = self.resource.verb != Verb::Delete || self.is_dry() == Some(false);
                match form.filter(|_| is_meant) {
                    Some(form) => tee(body, Box::new(move |handover| self.not_found(handover, form))),
                    None => body,
                }
            }
            (_, status) if !status.is_success() => body,
            (Verb::Delete | Verb::DeleteCollection, _) => {
                let is_dry = self.is_dry();
                if is_dry == Some(true) {
                    return body;
                }
                // Whatever becomes of the answer, the object is no more what it was.
                let open = Unsettled(Some(self));
                let (Some(form), Some(false)) = (form, is_dry) else {
                    return body;
                };
                tee(body, Box::new(move |handover| open.settle(handover, form)))
            }
            _ => match form {
                Some(form) => tee(body, Box::new(move |handover| self.changed(handover, form))),
                None => body,
            },
        }
    }

    /// Whether it is a deletion for show; `None` if nobody can say.
    fn is_dry(&self) -> Option<bool> {
        self.options.lock().is_dry_run()
    }

    fn changed(self, handover: Handover, form: Form) {
        collect(self, handover, form, |write, form, recorded, body| {
            let Some(body) = body else { return };
            let Ok(object) = read_object(form.encoding, &body) else {
                return;
            };
            let path = if write.resource.verb == Verb::Create {
                if !is_plain_name(&object.meta.name) {
                    return;
                }
                format!("{}/{}", write.path, object.meta.name)
            } else {
                write.path.clone()
            };
            match after_update(form.encoding, &body) {
                Some(Remains::Object) => write.keep(path, form, body, recorded),
                Some(Remains::Nothing { uid }) => write.removed(Outcome::Gone, uid, recorded),
                None => {}
            }
        });
    }

    fn not_found(self, handover: Handover, form: Form) {
        collect(self, handover, form, |write, form, recorded, body| {
            let status = body.and_then(|body| read_status(form.encoding, &body));
            if status.is_some_and(|status| write.is_missing(&status)) {
                write.removed(Outcome::Gone, String::new(), recorded);
            }
        });
    }

    /// Whether it is the object that there is not. A Status that names none is of a path that is not served, and what
    /// admission looks for, a namespace for example, may be missing too.
    fn is_missing(&self, status: &StatusSummary) -> bool {
        let resource = status.kind.split('/').next().unwrap_or_default();
        status.code == StatusCode::NOT_FOUND.as_u16()
            && status.name == self.resource.name
            && (resource.is_empty() || resource == self.resource.resource)
    }

    fn keep(&self, path: String, form: Form, body: Vec<u8>, recorded: Moment) {
        let Some(representation) = form.representation else {
            return;
        };
        let answered = Answered {
            path,
            representation,
            body,
            asked: self.asked.clone(),
            recorded,
        };
        let Some(under_way) = self.cache.under_way(&self.owner) else {
            return;
        };
        self.if_known(answered.path.clone(), move |objects| {
            let _until_done = under_way;
            objects.keep(&answered);
        });
    }

    fn removed(&self, outcome: Outcome, uid: String, recorded: Moment) {
        let removed = Removed {
            path: self.path.clone(),
            outcome,
            uid,
            asked: self.asked.clone(),
            recorded,
        };
        self.record(vec![removed]);
    }

    /// Only what somebody has read is worth keeping: events are created all day long.
    fn if_known(&self, path: String, record: impl FnOnce(&mut Objects) + Send + 'static) {
        let is_viewed = self.is_viewed();
        self.cache.owner(&self.owner).objects.post(move |objects| {
            // An unreadable log is told so by the record itself.
            if is_viewed || objects.knows(&path).unwrap_or(true) {
                record(objects);
            }
        });
    }

    fn is_viewed(&self) -> bool {
        self.cache.is_viewed(&self.owner, &self.resource)
    }

    fn deleted(&self, form: Form, recorded: Moment, body: Option<Vec<u8>>) {
        let Some(body) = body else {
            return self.unclear(recorded);
        };
        match after_delete(form.encoding, &body) {
            Some(Remains::Object) if form.representation.is_some() => {
                self.keep(self.path.clone(), form, body, recorded);
            }
            Some(Remains::Nothing { uid }) => self.removed(Outcome::Gone, uid, recorded),
            Some(Remains::Object) | None => self.unclear(recorded),
        }
    }

    /// The answer lists what is deleted, or is going to be, as it was before.
    fn collection_deleted(&self, form: &Form, recorded: Moment, body: Option<Vec<u8>>) {
        let items = body.map(|body| items_of(form.encoding, &body));
        let Some(Ok(items)) = items else {
            return self.unclear(recorded);
        };
        for version in items
            .iter()
            .filter_map(|item| ResourceVersion::new(&item.resource_version))
        {
            self.asked.level.raise(&version);
        }
        let named = items.into_iter().filter(|item| is_plain_name(&item.name));
        let removed = named.map(|item| Removed {
            path: format!("{}/{}", self.path, item.name),
            outcome: Outcome::Unclear,
            uid: item.uid,
            asked: self.asked.clone(),
            recorded,
        });
        let removed: Vec<Removed> = removed.collect();
        self.record(removed);
    }

    fn record(&self, removed: Vec<Removed>) {
        let Some(under_way) = self.cache.under_way(&self.owner) else {
            return self.cache.removal_overrun(&self.owner, &self.resource);
        };
        if self.is_viewed() {
            let concerned = (self.owner.as_str(), &self.resource);
            return self.cache.record_removals(concerned, removed, under_way);
        }
        self.cache.owner(&self.owner).objects.post(move |objects| {
            let _until_done = under_way;
            for removed in &removed {
                if objects.knows(&removed.path).unwrap_or(true) {
                    objects.remove(removed);
                }
            }
        });
    }

    /// Deleted, or going to be, or changed: nobody can say.
    fn unclear(&self, recorded: Moment) {
        if self.resource.verb == Verb::Delete {
            return self.removed(Outcome::Unclear, String::new(), recorded);
        }
        // Of a whole collection: what was known of it is not known any more.
        self.cache
            .forget_collection(&self.owner, &self.resource, &self.path);
    }
}

/// A deletion whose answer is awaited.
struct Unsettled(Option<Write>);

impl Unsettled {
    fn settle(mut self, handover: Handover, form: Form) {
        let Some(write) = self.0.take() else { return };
        collect(write, handover, form, |write, form, recorded, body| {
            match write.resource.verb {
                Verb::DeleteCollection => write.collection_deleted(&form, recorded, body),
                _ => write.deleted(form, recorded, body),
            }
        });
    }
}

impl Drop for Unsettled {
    fn drop(&mut self) {
        if let Some(write) = self.0.take() {
            write.unclear(Moment(write.cache.next_number()));
        }
    }
}

/// How an answer is encoded.
struct Form {
    coding: Coding,
    encoding: Encoding,
    /// `None` for a Status, which may come in a form that was not asked for.
    representation: Option<Representation>,
}

impl Form {
    fn of(headers: &HeaderMap, accept: Option<&str>) -> Option<Self> {
        let content_type = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
        let encoding = Encoding::of_content_type(content_type)?;
        Some(Self {
            coding: Coding::of(headers).ok()?,
            encoding,
            representation: media::answered(accept, Rows::default(), encoding),
        })
    }
}

/// Collects the answer and says what it is, `None` if it broke off or is too large.
fn collect(
    write: Write,
    handover: Handover,
    form: Form,
    then: impl FnOnce(&Write, Form, Moment, Option<Vec<u8>>) + Send + 'static,
) {
    let recorded = Moment(write.cache.next_number());
    let is_whole = matches!(handover, Handover::Whole(_));
    let source = write.cache.source(handover);
    let coding = form.coding;
    let body = move || Decoded::new(source, coding).collect(LARGEST).ok().flatten();
    if is_whole {
        // It is all here, and small: what is asked for next is asked of who knows it.
        return then(&write, form, recorded, body());
    }
    let Some(under_way) = write.cache.under_way_slowly(&write.owner) else {
        return then(&write, form, recorded, None);
    };
    write.cache.tasks().clone().spawn_blocking(move || {
        then(&write, form, recorded, body());
        drop(under_way);
    });
}

fn items_of(encoding: Encoding, body: &[u8]) -> Result<Vec<ItemMeta>, WireError> {
    let mut items = Vec::new();
    let mut reader = ListReader::new(encoding)?;
    reader.push::<WireError>(body, &mut |item| {
        items.push(item.meta.clone());
        Ok(())
    })?;
    reader.finish()?;
    Ok(items)
}
