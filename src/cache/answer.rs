//! Answers from the cache to reads that the cloud cannot answer now.
//!
//! An answer is what the apiserver last said to this principal, or follows from it beyond doubt; else it is `Unknown`,
//! never an empty list and never 404 (promise 2).

use std::cmp::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::kube::media::Representation;
use crate::kube::options::ListOptions;
use crate::kube::request::ResourceRequest;
use crate::kube::status::Status;
use crate::kube::version::ResourceVersion;
use crate::runtime::body::{self, Body};
use crate::view::derive::{self, ObjectName};
use crate::view::key::ViewKey;
use crate::view::newest::{Newest, Sighting, Told};
use crate::view::offline::{self, ListAnswer, Missing, ReadAs};
use crate::wire::collection::Collection;
use crate::wire::object::read_object;

use super::collection::ViewRead;
use super::documents::{self, Chunks, Document};
use super::list_assembly::{ListBytes, totals};
use super::missing::late;
use super::objects::{Kept, Known};
use super::query::{Query, Target, view_key};
use super::stream::body_of;
use super::tables::{self, Unselected};
use super::{Cache, ViewHandle, in_time};

/// What the cache says to a read.
pub enum Answer {
    /// What was read before.
    Found(Box<Found>),
    /// A refusal that follows from what is known: not found, expired, invalid.
    Refused(Status),
    /// Nothing can be said, and why.
    Unknown(Missing),
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

impl Cache {
    /// Answers a get, list or document read; watches have [`Cache::plan_watch`].
    pub async fn answer(&self, query: &Query) -> Answer {
        let told = in_time(self.told(query)).await;
        told.unwrap_or(Answer::Unknown(Missing::SlowDisk))
    }

    async fn told(&self, query: &Query) -> Answer {
        match &query.target {
            Target::Document(name) => self.document(query, name).await,
            Target::Object { path, resource } => self.object(query, path, resource).await,
            Target::Collection(resource) => self.list(query, resource).await,
        }
    }

    async fn document(&self, query: &Query, name: &str) -> Answer {
        let variants = documents::wanted_variants(query.accept.as_deref());
        for variant in &variants {
            if let Some(document) = self.load_document(&query.owner, name, variant).await {
                return self.found_document(query, document);
            }
        }
        let logs = variants
            .iter()
            .map(|variant| documents::document_id(&query.owner, name, variant));
        Answer::Unknown(match self.is_damaged(logs.collect()).await {
            true => Missing::Damaged,
            false => Missing::NotRead,
        })
    }

    async fn load_document(&self, owner: &str, name: &str, variant: &str) -> Option<Document> {
        let id = documents::document_id(owner, name, variant);
        let confirmed = self.confirmed(&id);
        let store = self.store().clone();
        let loaded = self
            .tasks()
            .on_disk(move || documents::load(&store, &id))
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
        let not_before = resource.options.resource_version.as_deref();
        let not_before = not_before
            .filter(|version| *version != "0")
            .and_then(ResourceVersion::new);
        let plain = path.split('?').next().unwrap_or_default();
        let whole = match resource.subresource.as_str() {
            "" => plain,
            subresource => plain
                .strip_suffix(subresource)
                .and_then(|path| path.strip_suffix('/'))
                .unwrap_or(plain),
        };
        let (told, shows) = match self.told_of(&query.owner, whole, resource).await {
            Ok(told) => told,
            Err(missing) => return Answer::Unknown(missing),
        };
        let newest = told.newest(not_before.as_ref());
        if newest == Newest::Unknown {
            tracing::debug!(path, ?told, "what is known of an object says nothing certain");
        }
        if !resource.subresource.is_empty() || !resource.options.unknown.is_empty() {
            // Views hold objects, not their subresources, nor what an unknown parameter makes of them.
            return self.aspect(query, path, &newest).await;
        }
        match newest {
            Newest::Seen(version) => {
                let newest = shows.into_iter().filter(|show| show.seen.version == version);
                shown_as_asked(query, newest.collect())
            }
            Newest::Absent if may_tell_absence(resource) => Answer::Refused(Status::not_found(
                &resource.group,
                &resource.resource,
                &resource.name,
            )),
            Newest::Unknown if told.is_nothing() => {
                Answer::Unknown(Box::pin(self.missing_object(query, resource)).await)
            }
            Newest::Unknown if told.newest(None) != Newest::Unknown => Answer::Unknown(Missing::TooOld),
            Newest::Absent | Newest::Unknown => Answer::Unknown(Missing::Unclear),
        }
    }

    /// What was read of an object in some particular way, unless the object is known to have changed since.
    async fn aspect(&self, query: &Query, path: &str, newest: &Newest) -> Answer {
        let kept = match self.known(&query.owner, path).await {
            Ok(Known::Told { removals, kept, lost }) if removals.is_empty() => {
                if kept.is_empty() && lost.is_empty() {
                    return Answer::Unknown(Missing::NotRead);
                }
                let is_newest = |kept: &Kept| lost.iter().all(|lost| is_at_least(&kept.seen, lost));
                kept.into_iter().filter(is_newest).collect::<Vec<_>>()
            }
            Ok(Known::Told { .. } | Known::Overrun) => return Answer::Unknown(Missing::Unclear),
            Ok(Known::Withdrawn) => return Answer::Unknown(Missing::Withdrawn),
            Err(missing) => return Answer::Unknown(missing),
        };
        let is_outdated = |seen: &Sighting| match (newest, &seen.version) {
            (Newest::Seen(Some(newest)), Some(seen)) => newest.is_after(seen),
            (Newest::Absent, _) => true,
            (Newest::Seen(_) | Newest::Unknown, _) => false,
        };
        let current: Vec<Kept> = kept.into_iter().filter(|kept| !is_outdated(&kept.seen)).collect();
        shown_as_asked(query, current)
    }

    /// All that this principal was told of one object, by whichever way, in whichever form and API version; why not, if it may
    /// not be told. The views are asked first: a removal that was told while a list was under way is placed once that is a view.
    pub(super) async fn told_of(
        &self,
        owner: &str,
        path: &str,
        resource: &ResourceRequest,
    ) -> Result<(Told, Vec<Kept>), Missing> {
        let mut told = Told::default();
        let mut shows = Vec::new();
        let (key, name) = (object_key(resource), object_name(resource));
        for (view_key, view) in self.views_where(owner, |k| derive::may_hold(k, &name)) {
            let asked = key.clone();
            let read = view
                .run(move |view| (view.item(&asked), view.version(), view.is_certain()))
                .await;
            // What a view that does not answer knows may be newer than all the rest.
            let (item, at, is_certain) = read.map_err(late)?;
            let (Some((item, form, validated)), Some(at)) = (item, at) else {
                continue;
            };
            if !is_certain {
                // What its clients were told, and it was not, may be of this object.
                return Err(Missing::Unclear);
            }
            match item {
                Some(item) if view_key.version == resource.version => {
                    shows.extend(shown_by_view(&view_key, &form, (&item, at), validated));
                }
                // In another API version: that it is there counts.
                Some(item) => {
                    let shown = shown_by_view(&view_key, &form, (&item, at), validated);
                    told.sightings.extend(shown.map(|shown| shown.seen));
                }
                // A complete view that does not hold the object: as of then there is none.
                None if derive::proves_absence(&view_key, &name) => {
                    let is_known = told.missing.as_ref().is_some_and(|known| !at.is_after(known));
                    told.missing = told.missing.filter(|_| is_known).or(Some(at));
                }
                None => {}
            }
        }
        let (removals, kept, lost) = match self.known(owner, path).await? {
            Known::Told { removals, kept, lost } => (removals, kept, lost),
            Known::Withdrawn => return Err(Missing::Withdrawn),
            Known::Overrun => return Err(Missing::Unclear),
        };
        if let Some(missing) = &told.missing
            && !self.may_say_absent(owner, resource, missing).await?
        {
            told.missing = None;
        }
        shows.extend(kept);
        told.removals = removals;
        let shown = shows.iter().map(|show| show.seen.clone());
        told.sightings.extend(shown.chain(lost));
        Ok((told, shows))
    }

    /// What is recorded of a path; if that cannot be read nothing may be told.
    async fn known(&self, owner: &str, path: &str) -> Result<Known, Missing> {
        let asked = path.to_owned();
        let known = self
            .owner(owner)
            .objects
            .run(move |objects| objects.known(&asked))
            .await;
        known.map_err(late)?.map_err(|error| {
            tracing::warn!(%error, "cannot read a stored object");
            Missing::Damaged
        })
    }

    /// Whether a view that stands there may say of an object that it is absent.
    async fn may_say_absent(
        &self,
        owner: &str,
        resource: &ResourceRequest,
        at: &ResourceVersion,
    ) -> Result<bool, Missing> {
        let (resource, at) = (resource.clone(), at.clone());
        let objects = &self.owner(owner).objects;
        let known = objects
            .run(move |objects| objects.absences_after(&resource))
            .await;
        let after = known.map_err(late)?.map_err(|error| {
            tracing::warn!(%error, "what is known of a resource cannot be read");
            Missing::Damaged
        })?;
        Ok(after.is_none_or(|after| at.is_after(&after)))
    }

    async fn list(&self, query: &Query, resource: &ResourceRequest) -> Answer {
        let options = &resource.options;
        let (mut view, mut opaque) = (None::<(Representation, Source)>, None);
        for representation in query.representations() {
            if let Some(source) = self.source_of(query, resource, &representation).await
                && view
                    .as_ref()
                    .is_none_or(|(_, best)| source.version.is_after(&best.version))
            {
                view = Some((representation.clone(), source));
            }
            if opaque.is_none() {
                opaque = self.opaque(query, resource, &representation).await;
            }
        }
        if let Some((table, filter)) = opaque
            && options.resource_version.is_none()
            && options.continue_token.is_empty()
            && self
                .is_as_new(&table, view.as_ref().map(|(_, source)| &source.version))
                .await
        {
            match self.found_table(query, table, filter).await {
                Answer::Unknown(_) if view.is_some() => {}
                answer => return answer,
            }
        }
        let read = match view {
            Some((representation, source)) => source.read(resource).await.map(|read| (read, representation)),
            None => None,
        };
        match read {
            Some(((read, filter), representation)) => match offline::list(options, Some(&read.version)) {
                ListAnswer::Serve => self.found_list(read, filter, &representation).await,
                other => refused_list(other, options),
            },
            None => match refused_list(offline::list(options, None), options) {
                Answer::Unknown(Missing::NotRead) => {
                    Answer::Unknown(Box::pin(self.missing_collection(query, resource)).await)
                }
                refused => refused,
            },
        }
    }

    /// The newest list that is kept as it came, and what of it is asked for. Of all but Tables that is everything.
    async fn opaque(
        &self,
        query: &Query,
        resource: &ResourceRequest,
        representation: &Representation,
    ) -> Option<(Document, derive::Filter)> {
        let mut candidates = derive::candidates(&view_key(resource, representation));
        if !tables::is_separable(representation) {
            candidates.truncate(1);
        }
        let mut newest: Option<(Document, derive::Filter)> = None;
        for candidate in candidates {
            let id = documents::document_id(&query.owner, &candidate.key.to_text(), "");
            if !self.store().holds(&id) {
                continue;
            }
            let Some(document) = self
                .load_document(&query.owner, &candidate.key.to_text(), "")
                .await
            else {
                continue;
            };
            let is_newer = match &newest {
                Some((known, _)) => match (self.version_of(known).await, self.version_of(&document).await) {
                    (Some(known), Some(version)) => version.is_after(&known),
                    _ => false,
                },
                None => true,
            };
            if is_newer {
                newest = Some((document, candidate.filter));
            }
        }
        newest
    }

    /// A Table is a snapshot that nothing kept up to date: only if there is nothing newer (wire contract 2.5).
    async fn is_as_new(&self, table: &Document, view: Option<&ResourceVersion>) -> bool {
        let Some(view) = view else { return true };
        let version = self.version_of(table).await;
        version.is_some_and(|version| version.compare(view).is_some_and(|order| order != Ordering::Less))
    }

    async fn version_of(&self, table: &Document) -> Option<ResourceVersion> {
        let chunks = Chunks::of(table);
        let version = self.tasks().on_disk(move || documents::version(chunks)).await;
        version.ok().flatten()
    }

    async fn found_table(&self, query: &Query, table: Document, filter: derive::Filter) -> Answer {
        if filter.passes_all() {
            return self.found_document(query, table);
        }
        let chunks = Chunks::of(&table);
        let selected = self
            .tasks()
            .on_disk(move || tables::select(chunks, &filter))
            .await;
        let rows = match selected {
            Ok(Ok(rows)) => rows,
            Ok(Err(Unselected::Inseparable)) | Err(_) => {
                return Answer::Unknown(Missing::OtherForm(ReadAs::Table));
            }
            Ok(Err(error @ Unselected::Unreadable(_))) => {
                tracing::warn!(%error, "a stored table gives no rows");
                return Answer::Unknown(Missing::Damaged);
            }
        };
        Answer::Found(Box::new(Found {
            status: StatusCode::OK,
            headers: content_type_of(&table.headers),
            body: body::full(rows),
            validated: table.written,
        }))
    }

    async fn found_list(
        &self,
        read: ViewRead,
        filter: derive::Filter,
        representation: &Representation,
    ) -> Answer {
        let counted = self
            .tasks()
            .on_disk(move || totals(&read, &filter).map(|totals| (read, filter, totals)))
            .await;
        let Ok(Ok((read, filter, totals))) = counted else {
            tracing::warn!("a stored list cannot be read");
            return Answer::Unknown(Missing::Damaged);
        };
        let (bytes, length) = ListBytes::new(&read, &filter, totals);
        Answer::Found(Box::new(Found {
            status: StatusCode::OK,
            headers: content_type(representation.encoding.media_type()),
            body: body_of(bytes, length, self.tasks()),
            validated: read.validated,
        }))
    }

    /// The newest view from which a collection can be answered in this representation, read.
    pub(super) async fn read_collection(
        &self,
        query: &Query,
        resource: &ResourceRequest,
        representation: &Representation,
    ) -> Option<(ViewRead, derive::Filter)> {
        self.source_of(query, resource, representation)
            .await?
            .read(resource)
            .await
    }

    /// The newest view from which a collection can be answered in this representation; of equally new ones the most exact.
    async fn source_of(
        &self,
        query: &Query,
        resource: &ResourceRequest,
        representation: &Representation,
    ) -> Option<Source> {
        let mut best: Option<Source> = None;
        for candidate in derive::candidates(&view_key(resource, representation)) {
            let Some(view) = self.existing_view(&query.owner, &candidate.key) else {
                continue;
            };
            let Ok(Some(version)) = view.run(|view| view.version()).await else {
                continue;
            };
            if best.as_ref().is_none_or(|best| version.is_after(&best.version)) {
                best = Some(Source {
                    view,
                    candidate,
                    version,
                });
            }
        }
        best
    }
}

/// Whether one sighting is certainly not older than another.
fn is_at_least(one: &Sighting, other: &Sighting) -> bool {
    let (one, other) = (one.version.as_ref(), other.version.as_ref());
    let order = one.zip(other).and_then(|(one, other)| one.compare(other));
    matches!(order, Some(Ordering::Greater | Ordering::Equal))
}

/// A view from which a collection can be answered.
struct Source {
    view: ViewHandle,
    candidate: derive::Candidate,
    version: ResourceVersion,
}

impl Source {
    async fn read(self, resource: &ResourceRequest) -> Option<(ViewRead, derive::Filter)> {
        let Self { view, candidate, .. } = self;
        // Only a namespaced list out of a cluster-wide view needs a part of the keys.
        let narrowed = candidate.key.namespace.is_none() && !resource.namespace.is_empty();
        let prefix = narrowed.then(|| format!("{}/", resource.namespace));
        let read = view.run(move |view| view.read(prefix.as_deref())).await.ok()??;
        Some((read, candidate.filter))
    }
}

/// An object as a view holds it; `None` if it cannot be read.
fn shown_by_view(
    key: &ViewKey,
    form: &Collection,
    (item, at): (&[u8], ResourceVersion),
    validated: SystemTime,
) -> Option<Kept> {
    let body = Bytes::from(form.object(item));
    let object = read_object(form.encoding, &body).ok()?;
    let seen = Sighting {
        version: ResourceVersion::new(&object.meta.resource_version),
        uid: object.meta.uid,
        at: Some(at),
    };
    Some(Kept {
        body,
        encoding: form.encoding,
        // What an unknown parameter made of it is only for who asks for that list.
        form: if key.is_understood() {
            key.representation.clone()
        } else {
            String::new()
        },
        validated,
        seen,
    })
}

fn refused_list(answer: ListAnswer, options: &ListOptions) -> Answer {
    match answer {
        ListAnswer::Serve => Answer::Unknown(Missing::NotRead),
        ListAnswer::Unavailable(missing) => Answer::Unknown(missing),
        ListAnswer::Gone(message) => Answer::Refused(Status::expired(message)),
        ListAnswer::Invalid(violation) => Answer::Refused(invalid(violation, options)),
    }
}

/// 422 as the apiserver words it.
pub(super) fn invalid(violation: offline::Violation, options: &ListOptions) -> Status {
    Status::invalid_list_options(violation.field(), violation.reason(), &violation.message(options))
}

/// Of what is kept of an object the form that the client likes best, and of equal ones what was confirmed last.
fn shown_as_asked(query: &Query, kept: Vec<Kept>) -> Answer {
    let forms: Vec<String> = query.representations().iter().map(ToString::to_string).collect();
    let other = kept.first().map(|kept| ReadAs::of(&kept.form));
    let best = kept
        .into_iter()
        .filter_map(|kept| Some((forms.iter().position(|form| *form == kept.form)?, kept)))
        .min_by_key(|(rank, kept)| (*rank, std::cmp::Reverse(kept.validated)));
    match (best, other) {
        (Some((_, kept)), _) => found(kept),
        (None, Some(form)) => Answer::Unknown(Missing::OtherForm(form)),
        // It was shown, and what was shown is not kept any more.
        (None, None) => Answer::Unknown(Missing::Unclear),
    }
}

fn found(kept: Kept) -> Answer {
    Answer::Found(Box::new(Found {
        status: StatusCode::OK,
        headers: content_type(kept.encoding.media_type()),
        body: body::full(kept.body),
        validated: kept.validated,
    }))
}

fn content_type_of(headers: &HeaderMap) -> HeaderMap {
    let value = headers.get(header::CONTENT_TYPE).cloned();
    HeaderMap::from_iter(value.map(|value| (header::CONTENT_TYPE, value)))
}

fn content_type(media_type: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(media_type))])
}

/// A kubelet that hears 404 for its CSINode creates it, and exits when that does not succeed in time (wire contract
/// 7.2): offline it cannot, so it must go on waiting.
fn may_tell_absence(resource: &ResourceRequest) -> bool {
    !(resource.group == "storage.k8s.io" && resource.resource == "csinodes")
}

/// The object's key in a view. A Namespace is cluster-scoped, though its request carries a namespace.
pub(super) fn object_key(resource: &ResourceRequest) -> String {
    match namespace_of(resource) {
        Some(namespace) => format!("{namespace}/{}", resource.name),
        None => resource.name.clone(),
    }
}

pub(super) fn object_name(resource: &ResourceRequest) -> ObjectName<'_> {
    ObjectName {
        group: &resource.group,
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
