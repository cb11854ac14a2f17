//! Refusals: what a 404 or 403 of the apiserver takes away.

use std::collections::BTreeSet;

use http::{StatusCode, header, response};

use crate::cache::decode::{Coding, Decoded};
use crate::cache::query::{Query, Target, view_key};
use crate::cache::source::Source;
use crate::cache::tee::{Handover, tee};
use crate::cache::{Cache, collection};
use crate::kube::media::{Encoding, Representation};
use crate::kube::request::ResourceRequest;
use crate::runtime::body::Body;
use crate::runtime::clock;
use crate::view::derive;
use crate::view::key::ViewKey;
use crate::wire;

use super::LARGEST_OBJECT;

/// 404 and 403 count once their body proves to be a Status.
pub(super) fn refused(
    cache: Cache,
    query: Query,
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
    let (code, seen) = (head.status, clock::wall());
    let recorder = move |handover: Handover| {
        let Handover::Whole(chunks) = handover else { return };
        let owner = cache.owner(&query.owner);
        let objects = owner.objects.clone();
        objects.post(move |objects| {
            let whole = Decoded::new(Source::whole(chunks), coding).collect(LARGEST_OBJECT);
            let Ok(Some(body)) = whole else { return };
            if wire::status::read_status(encoding, &body).is_none_or(|status| status.code != code.as_u16()) {
                return;
            }
            let done = match &query.target {
                Target::Object { path, .. } if code == StatusCode::NOT_FOUND => objects.absent(path, seen),
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

/// Withdraws a collection and every wider one that it could be answered from: who may not read the part may not read
/// the whole, because authorizers only ever add rights.
fn withdraw_views(cache: &Cache, owner: &str, resource: &ResourceRequest) {
    let keys: BTreeSet<ViewKey> = Representation::all()
        .flat_map(|representation| derive::candidates(&view_key(resource, &representation)))
        .map(|candidate| candidate.key)
        .collect();
    for key in &keys {
        if let Some(view) = cache.existing_view(owner, key) {
            view.post(collection::StoredView::withdraw);
        }
    }
    let names: Vec<String> = keys.iter().map(ViewKey::to_text).collect();
    if let Err(error) = cache.forget_documents(owner, &names) {
        tracing::error!(%owner, %error, "withdrawn data could not be removed from disk");
    }
}
