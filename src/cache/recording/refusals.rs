//! Refusals: what a 404 or 403 of the apiserver takes away.

use std::collections::BTreeSet;

use http::{StatusCode, header, response};

use crate::cache::decode::Decoded;
use crate::cache::objects::{Asked, Moment, Removed};
use crate::cache::query::{Query, Target, view_key};
use crate::cache::source::Source;
use crate::cache::tee::{Handover, tee};
use crate::cache::{Cache, UnderWay};
use crate::kube::media::{Encoding, Representation};
use crate::kube::request::ResourceRequest;
use crate::runtime::body::Body;
use crate::view::derive;
use crate::view::key::ViewKey;
use crate::view::newest::Outcome;
use crate::wire;
use crate::wire::coding::Coding;

use super::receive::LARGEST_OBJECT;

/// 404 and 403 count once their body proves to be a Status, and 404 only if that says which object there is not.
pub(super) fn refused(
    cache: Cache,
    (query, asked): (Query, Option<Asked>),
    head: &response::Parts,
    coding: Coding,
    body: Body,
) -> Body {
    let encoding = head
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(Encoding::of_content_type);
    let Some(encoding) = encoding else { return body };
    let code = head.status;
    let recorder = move |handover: Handover| {
        let Handover::Whole(chunks) = handover else { return };
        let recorded = Moment(cache.next_number());
        let whole = Decoded::new(Source::whole(chunks), coding).collect(LARGEST_OBJECT);
        let Ok(Some(body)) = whole else { return };
        let status = wire::status::read_status(encoding, &body);
        let Some(status) = status.filter(|status| status.code == code.as_u16()) else {
            return;
        };
        let Some(under_way) = cache.under_way(&query.owner) else {
            return overrun(&cache, &query, code);
        };
        match (query.target, asked) {
            // Since 1.38 a path that is not served is answered with a Status too, which names no object.
            (Target::Object { .. }, _) if code == StatusCode::NOT_FOUND && status.name.is_empty() => {}
            (Target::Object { path, resource, .. }, Some(asked)) if code == StatusCode::NOT_FOUND => {
                let removed = Removed {
                    path,
                    outcome: Outcome::Gone,
                    uid: String::new(),
                    asked,
                    recorded,
                };
                cache.record_removals((&query.owner, &resource), vec![removed], under_way);
            }
            (Target::Object { path, .. }, _) => {
                let objects = cache.owner(&query.owner).objects.clone();
                objects.post(move |objects| {
                    let _until_done = under_way;
                    objects.withdraw(&path, recorded);
                });
            }
            (Target::Collection(resource), _) if code == StatusCode::FORBIDDEN => {
                withdraw_views(&cache, &query.owner, &resource, under_way);
            }
            (Target::Document(name), _) if code == StatusCode::FORBIDDEN => {
                forget_documents(&cache, query.owner, under_way, move |kept| kept == name);
            }
            (Target::Document(_) | Target::Collection(_), _) => {}
        }
    };
    tee(body, Box::new(recorder))
}

/// Too much waits for the disk to note a refusal: what it may take away is not told any more.
fn overrun(cache: &Cache, query: &Query, code: StatusCode) {
    match &query.target {
        Target::Collection(resource) if code == StatusCode::FORBIDDEN => {
            let withdrawn = withdrawn(resource);
            for (_, view) in cache.views_where(&query.owner, |key| withdrawn.contains(&key.formless())) {
                view.withdraw();
            }
            cache.forget_single_answers(&query.owner);
        }
        Target::Collection(_) => {}
        Target::Object { .. } | Target::Document(_) => cache.forget_single_answers(&query.owner),
    }
}

/// A collection and every wider one that it could be answered from, in no form: who may not read the part may not read
/// the whole, because authorizers only ever add rights, and they do not look at the form.
fn withdrawn(resource: &ResourceRequest) -> BTreeSet<ViewKey> {
    let refused = view_key(resource, &Representation::full(Encoding::Json)).formless();
    let wider = derive::candidates(&refused).into_iter();
    wider.map(|candidate| candidate.key).collect()
}

/// Withdraws them, and the documents of the same names.
fn withdraw_views(cache: &Cache, owner: &str, resource: &ResourceRequest, under_way: UnderWay) {
    let withdrawn = withdrawn(resource);
    let mut had = cache.tables_of(owner, &withdrawn);
    for (key, view) in cache.views_where(owner, |key| withdrawn.contains(&key.formless())) {
        had.extend(cache.store().holds(view.id()).then_some(key));
        view.withdraw();
    }
    cache.owner(owner).views.lock().refused(&had);
    forget_documents(cache, owner.to_owned(), under_way, move |name| {
        ViewKey::parse(name).is_some_and(|key| withdrawn.contains(&key.formless()))
    });
}

/// On the strand of the objects: it touches the disk.
fn forget_documents(
    cache: &Cache,
    owner: String,
    under_way: UnderWay,
    is_one: impl Fn(&str) -> bool + Send + 'static,
) {
    let own = cache.clone();
    cache.owner(&owner).objects.post(move |_| {
        let _until_done = under_way;
        if let Err(error) = own.forget_documents(&owner, is_one) {
            tracing::error!(%owner, %error, "withdrawn data could not be removed from disk");
        }
    });
}
