//! Answers from the cache to reads that the cloud cannot answer now.
//!
//! An answer is what the apiserver last said to this principal, or follows from it beyond doubt; else it is `Unknown`,
//! never an empty list and never 404 (promise 2).

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::kube::media::Representation;
use crate::kube::request::ResourceRequest;
use crate::kube::status::Status;
use crate::kube::version::ResourceVersion;
use crate::runtime::body::{self, Body};
use crate::view::derive::{self, ObjectName};
use crate::view::offline::{self, ListAnswer};
use crate::wire::object::read_object;

use super::collection::ViewRead;
use super::documents::{self, Chunks, Document};
use super::lists::{ListBytes, totals};
use super::objects::Known;
use super::query::{Query, Target, view_key};
use super::stream::body_of;
use super::{Cache, ViewHandle};

/// What the cache says to a read.
pub enum Answer {
    /// What was read before.
    Found(Box<Found>),
    /// A refusal that follows from what is known: not found, expired, invalid.
    Refused(Status),
    /// Nothing can be said.
    Unknown,
}

/// A cached answer.
pub struct Found {
    /// 200 or 304.
    pub status: StatusCode,
    /// `Content-Type`, and for documents what else was kept.
    pub headers: HeaderMap,
    /// The body, streamed from disk.
    pub body: Body,
    /// When the content was last known to be current.
    pub validated: SystemTime,
}

/// One object as some view holds it.
struct Sighting {
    body: Bytes,
    version: Option<ResourceVersion>,
    validated: SystemTime,
}

impl Cache {
    /// Answers a get, list or document read; watches have [`Cache::plan_watch`].
    pub async fn answer(&self, query: &Query) -> Answer {
        match &query.target {
            Target::Document(name) => self.document(query, name).await,
            Target::Object { path, resource, .. } => self.object(query, path, resource).await,
            Target::Collection(resource) => self.list(query, resource).await,
        }
    }

    async fn document(&self, query: &Query, name: &str) -> Answer {
        for variant in documents::wanted_variants(query.accept.as_deref()) {
            if let Some(document) = self.load_document(&query.owner, name, &variant).await {
                return self.found_document(query, document);
            }
        }
        Answer::Unknown
    }

    async fn load_document(&self, owner: &str, name: &str, variant: &str) -> Option<Document> {
        let id = documents::document_id(owner, name, variant);
        let confirmed = self.confirmed(&id);
        let store = self.store().clone();
        let loaded = self
            .tasks()
            .spawn_blocking(move || documents::load(&store, &id))
            .await
            .ok()?;
        let document = loaded
            .inspect_err(|error| tracing::warn!(%error, "cannot read a stored document"))
            .ok()??;
        Some(Document {
            written: confirmed.unwrap_or(document.written),
            ..document
        })
    }

    fn found_document(&self, query: &Query, document: Document) -> Answer {
        let matches = document
            .etag()
            .and_then(|etag| etag.to_str().ok())
            .is_some_and(|etag| query.if_none_match.as_deref() == Some(etag));
        let (status, body) = if matches {
            (StatusCode::NOT_MODIFIED, body::empty())
        } else {
            (
                StatusCode::OK,
                body_of(Chunks::of(&document), document.length(), self.tasks()),
            )
        };
        let mut headers = document.headers;
        if matches {
            headers.remove(header::CONTENT_TYPE);
        }
        Answer::Found(Box::new(Found {
            status,
            headers,
            body,
            validated: document.written,
        }))
    }

    async fn object(&self, query: &Query, path: &str, resource: &ResourceRequest) -> Answer {
        let wanted = query.representations();
        let owner = self.owner(&query.owner);
        let (asked, wanted_there) = (path.to_owned(), wanted.clone());
        let known = owner
            .objects
            .run(move |objects| objects.known(&asked, &wanted_there))
            .await;
        let entry = match known {
            Ok(Ok(known)) => known,
            Ok(Err(error)) => {
                tracing::warn!(%error, "cannot read a stored object");
                Known::Unknown
            }
            Err(_) => Known::Unknown,
        };
        if entry == Known::Withdrawn {
            return Answer::Unknown;
        }
        if !resource.subresource.is_empty() {
            // Views hold objects, not their subresources.
            return match entry {
                Known::Object {
                    body,
                    representation,
                    validated,
                } => found(body, &representation, validated),
                _ => Answer::Unknown,
            };
        }
        for representation in &wanted {
            if let Some(sighting) = self.sighting(query, resource, representation, &entry).await {
                return found(sighting.body, representation, sighting.validated);
            }
        }
        if may_tell_absence(resource) && self.is_absent(query, resource, &entry).await {
            return Answer::Refused(Status::not_found(
                &resource.group,
                &resource.resource,
                &resource.name,
            ));
        }
        Answer::Unknown
    }

    /// The newest sighting of an object in one representation, unless a later view or answer knows it to be absent.
    async fn sighting(
        &self,
        query: &Query,
        resource: &ResourceRequest,
        representation: &Representation,
        entry: &Known,
    ) -> Option<Sighting> {
        let mut best: Option<Sighting> = match entry {
            Known::Object {
                body,
                representation: held,
                validated,
            } if held == representation => Some(Sighting {
                version: read_object(held.encoding, body)
                    .ok()
                    .and_then(|object| ResourceVersion::new(&object.meta.resource_version)),
                body: body.clone(),
                validated: *validated,
            }),
            _ => None,
        };
        let form = representation.to_string();
        let key = object_key(resource);
        let name = object_name(resource);
        for (view_key, view) in self.views_where(&query.owner, |k| {
            k.representation == form && derive::may_hold(k, &name)
        }) {
            let asked = key.clone();
            let read = view.run(move |view| (view.item(&asked), view.version())).await;
            let Ok((Some((item, form, validated)), Some(at))) = read else {
                continue;
            };
            match item {
                Some(item) => {
                    let body = Bytes::from(form.object(&item));
                    let version = read_object(representation.encoding, &body)
                        .ok()
                        .and_then(|object| ResourceVersion::new(&object.meta.resource_version));
                    let sighting = Sighting {
                        body,
                        version,
                        validated,
                    };
                    if best.as_ref().is_none_or(|best| is_newer(&sighting, best)) {
                        best = Some(sighting);
                    }
                }
                // A complete view that has got past the sighting and does not hold the object: it is gone.
                None if derive::proves_absence(&view_key, &name) => {
                    let outdated =
                        |seen: &Sighting| seen.version.as_ref().is_some_and(|seen| at.is_after(seen));
                    if best.as_ref().is_some_and(outdated) {
                        best = None;
                    }
                }
                None => {}
            }
        }
        match (entry, &best) {
            (Known::Absent { since }, Some(seen)) if *since > seen.validated => None,
            _ => best,
        }
    }

    /// Rule V8: a 404 for this very object, or a complete view without it.
    async fn is_absent(&self, query: &Query, resource: &ResourceRequest, entry: &Known) -> bool {
        match entry {
            Known::Absent { .. } => return true,
            // Seen in another representation than the client takes: it exists.
            Known::Object { .. } | Known::Withdrawn => return false,
            Known::Unknown => {}
        }
        let name = object_name(resource);
        let key = object_key(resource);
        let mut absent = false;
        for (view_key, view) in self.views_where(&query.owner, |k| derive::may_hold(k, &name)) {
            let asked = key.clone();
            match view.run(move |view| view.item(&asked)).await {
                Ok(Some((Some(_), _, _))) => return false,
                Ok(Some((None, _, _))) => absent |= derive::proves_absence(&view_key, &name),
                Ok(None) | Err(_) => {}
            }
        }
        absent
    }

    async fn list(&self, query: &Query, resource: &ResourceRequest) -> Answer {
        let options = offline_options(resource);
        let (mut view, mut opaque) = (None, None);
        for representation in query.representations() {
            if view.is_none() {
                view = self
                    .read_collection(query, resource, &representation)
                    .await
                    .map(|(read, filter)| (read, filter, representation.clone()));
            }
            if opaque.is_none() {
                let name = view_key(resource, &representation).to_text();
                opaque = self.load_document(&query.owner, &name, "").await;
            }
        }
        // A Table is a snapshot that nothing kept up to date: only if there is nothing better (wire contract 2.5).
        let opaque = opaque.filter(|opaque| {
            view.as_ref()
                .is_none_or(|(read, ..)| opaque.written > read.validated)
        });
        match (opaque, view) {
            (Some(opaque), _) if options.resource_version.is_empty() && options.continue_token.is_empty() => {
                self.found_document(query, opaque)
            }
            (_, Some((read, filter, representation))) => match offline::list(&options, Some(&read.version)) {
                ListAnswer::Serve => self.found_list(read, filter, &representation).await,
                other => refused_list(other, &options),
            },
            (_, None) => refused_list(offline::list(&options, None), &options),
        }
    }

    async fn found_list(
        &self,
        read: ViewRead,
        filter: derive::Filter,
        representation: &Representation,
    ) -> Answer {
        let counted = self
            .tasks()
            .spawn_blocking(move || totals(&read, &filter).map(|totals| (read, filter, totals)))
            .await;
        let Ok(Ok((read, filter, totals))) = counted else {
            tracing::warn!("a stored list cannot be read");
            return Answer::Unknown;
        };
        let (bytes, length) = ListBytes::new(&read, &filter, totals);
        Answer::Found(Box::new(Found {
            status: StatusCode::OK,
            headers: content_type(representation.encoding.media_type()),
            body: body_of(bytes, length, self.tasks()),
            validated: read.validated,
        }))
    }

    /// The first view from which a collection can be answered in this representation.
    pub(super) async fn read_collection(
        &self,
        query: &Query,
        resource: &ResourceRequest,
        representation: &Representation,
    ) -> Option<(ViewRead, derive::Filter)> {
        for candidate in derive::candidates(&view_key(resource, representation)) {
            let Some(view) = self.existing_view(&query.owner, &candidate.key) else {
                continue;
            };
            if let Some(read) = read_view(&view, resource, &candidate).await {
                return Some((read, candidate.filter));
            }
        }
        None
    }
}

async fn read_view(
    view: &ViewHandle,
    resource: &ResourceRequest,
    candidate: &derive::Candidate,
) -> Option<ViewRead> {
    // Only a namespaced list out of a cluster-wide view needs a part of the keys.
    let narrowed = candidate.key.namespace.is_none() && !resource.namespace.is_empty();
    let prefix = narrowed.then(|| format!("{}/", resource.namespace));
    view.run(move |view| view.read(prefix.as_deref())).await.ok()?
}

pub(super) fn offline_options(resource: &ResourceRequest) -> offline::ListOptions<'_> {
    offline::ListOptions {
        resource_version: resource.options.resource_version.as_deref().unwrap_or_default(),
        resource_version_match: &resource.options.resource_version_match,
        send_initial_events: resource.options.send_initial_events,
        allow_watch_bookmarks: resource.options.allow_watch_bookmarks,
        continue_token: &resource.options.continue_token,
    }
}

fn refused_list(answer: ListAnswer, options: &offline::ListOptions<'_>) -> Answer {
    match answer {
        ListAnswer::Serve | ListAnswer::Unavailable(_) => Answer::Unknown,
        ListAnswer::Gone(message) => Answer::Refused(Status::expired(message)),
        ListAnswer::Invalid(violation) => Answer::Refused(invalid(violation, options)),
    }
}

/// 422 as the apiserver words it.
pub(super) fn invalid(violation: offline::Violation, options: &offline::ListOptions<'_>) -> Status {
    Status::invalid_list_options(violation.field(), violation.reason(), &violation.message(options))
}

fn found(body: Bytes, representation: &Representation, validated: SystemTime) -> Answer {
    Answer::Found(Box::new(Found {
        status: StatusCode::OK,
        headers: content_type(representation.encoding.media_type()),
        body: body::full(body),
        validated,
    }))
}

fn content_type(media_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

fn is_newer(one: &Sighting, other: &Sighting) -> bool {
    match (&one.version, &other.version) {
        (Some(one_version), Some(other_version)) if one_version.compare(other_version).is_some() => {
            one_version.is_after(other_version)
        }
        _ => one.validated > other.validated,
    }
}

/// A kubelet that hears 404 for its CSINode creates it, and exits when that does not succeed in time (wire contract
/// 7.2): offline it cannot, so it must go on waiting.
fn may_tell_absence(resource: &ResourceRequest) -> bool {
    !(resource.group == "storage.k8s.io" && resource.resource == "csinodes")
}

/// The object's key in a view. A Namespace is cluster-scoped, though its request carries a namespace.
fn object_key(resource: &ResourceRequest) -> String {
    match namespace_of(resource) {
        Some(namespace) => format!("{namespace}/{}", resource.name),
        None => resource.name.clone(),
    }
}

fn object_name(resource: &ResourceRequest) -> ObjectName<'_> {
    ObjectName {
        group: &resource.group,
        version: &resource.version,
        resource: &resource.resource,
        namespace: namespace_of(resource),
        name: &resource.name,
    }
}

fn namespace_of(resource: &ResourceRequest) -> Option<&str> {
    let cluster_scoped =
        resource.namespace.is_empty() || (resource.group.is_empty() && resource.resource == "namespaces");
    (!cluster_scoped).then_some(resource.namespace.as_str())
}
