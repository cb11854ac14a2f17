//! POST, PUT, PATCH, DELETE.

use std::sync::Arc;

use http::StatusCode;
use http::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::encode::ListHead;
use crate::kinds::{Kind, Origin, Scope};
use crate::serve::{Answer, Call, first};
use crate::status::{self, Status};
use crate::{clock, json};

pub(crate) async fn create(mut call: Call, kind: &'static Kind) -> Answer {
    if !call.info.name.is_empty() {
        return Err(Status::method_not_allowed());
    }
    let encoder = call.encoder(kind, true)?;
    let mut object = call
        .read_object()
        .await?
        .ok_or_else(|| Status::bad_request("the body is empty"))?;
    let meta = &mut object["metadata"];
    if let (true, Some(prefix)) = (meta["name"].is_null(), meta["generateName"].as_str()) {
        let suffix = uuid::Uuid::new_v4().simple().to_string();
        meta["name"] = json!(format!("{prefix}{}", &suffix[..5]));
    }
    settle(&call, kind, &mut object)?;
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        let message = format!(
            "{} \"\" is invalid: metadata.name: Required value: name or generateName is required",
            kind.kind
        );
        return Err(Status::new(422, "Invalid", message));
    }
    for owned in ["uid", "resourceVersion", "creationTimestamp"] {
        if let Some(meta) = object["metadata"].as_object_mut() {
            meta.remove(owned);
        }
    }
    if object.get("spec").is_some() {
        object["metadata"]["generation"] = json!(1);
    }
    let made = change(&call, kind, &name, |old| match old {
        Some(_) => Err(Status::already_exists(kind, &name)),
        None => Ok(Some(object)),
    })?;
    Ok(call.respond(StatusCode::CREATED, &encoder.form, encoder.object(&made)))
}

pub(crate) async fn update(mut call: Call, kind: &'static Kind) -> Answer {
    let encoder = call.encoder(kind, true)?;
    let mut object = call
        .read_object()
        .await?
        .ok_or_else(|| Status::bad_request("the body is empty"))?;
    settle(&call, kind, &mut object)?;
    let (name, subresource) = (call.info.name.clone(), call.info.subresource.clone());
    if object["metadata"]["name"] != json!(name) {
        let message = "the name of the object does not match the name on the URL";
        return Err(Status::bad_request(message));
    }
    let mut emptied = None;
    let made = change(&call, kind, &name, |old| {
        let old = old.ok_or_else(|| Status::not_found(kind, &name))?;
        check_revision(kind, &name, &object, old)?;
        Ok(finished(
            merge_subresource(kind, &subresource, object, old),
            &mut emptied,
        ))
    })?;
    let made = emptied.map_or(made, Arc::new);
    Ok(call.respond(StatusCode::OK, &encoder.form, encoder.object(&made)))
}

pub(crate) async fn patch(mut call: Call, kind: &'static Kind) -> Answer {
    let encoder = call.encoder(kind, true)?;
    let media = first(&call.headers, &CONTENT_TYPE)
        .split(';')
        .next()
        .unwrap_or_default()
        .to_owned();
    if !matches!(
        media.as_str(),
        "application/merge-patch+json" | "application/strategic-merge-patch+json"
    ) {
        return Err(Status::unsupported_media_type(&media));
    }
    if media.contains("strategic") && kind.origin == Origin::Custom {
        return Err(Status::unsupported_media_type(&media));
    }
    let body = call.read_body().await?;
    let patch: Value = serde_json::from_slice(&body).map_err(|e| Status::bad_request(e.to_string()))?;
    let (name, subresource) = (call.info.name.clone(), call.info.subresource.clone());
    let mut emptied = None;
    let made = change(&call, kind, &name, |old| {
        let old = old.ok_or_else(|| Status::not_found(kind, &name))?;
        let mut object = old.clone();
        merge(&mut object, &patch);
        check_uid(kind, &name, &patch["metadata"]["uid"], old)?;
        check_revision(kind, &name, &patch, old)?;
        Ok(finished(
            merge_subresource(kind, &subresource, object, old),
            &mut emptied,
        ))
    })?;
    let made = emptied.map_or(made, Arc::new);
    Ok(call.respond(StatusCode::OK, &encoder.form, encoder.object(&made)))
}

pub(crate) async fn delete(mut call: Call, kind: &'static Kind) -> Answer {
    let encoder = call.encoder(kind, true)?;
    let options = delete_options(&mut call).await?;
    let name = call.info.name.clone();
    let mut left = None;
    let last = change(&call, kind, &name, |old| {
        let old = old.ok_or_else(|| Status::not_found(kind, &name))?;
        check_uid(kind, &name, &options["preconditions"]["uid"], old)?;
        left = condemned(kind, old, &options);
        Ok(left.clone())
    })?;
    if left.is_some() {
        return Ok(call.respond(StatusCode::OK, &encoder.form, encoder.object(&last)));
    }
    let value = status::deleted(kind, &name, &last["metadata"]["uid"]);
    Ok(call.respond(
        StatusCode::OK,
        &crate::negotiate::Negotiated::JSON,
        json::bytes(&value, Origin::BuiltIn, false),
    ))
}

pub(crate) async fn delete_collection(mut call: Call, kind: &'static Kind) -> Answer {
    let encoder = call.encoder(kind, false)?;
    let options = delete_options(&mut call).await?;
    let selector = call.selector(kind)?;
    let store = call.shared.cluster.store.clone();
    let mut gone = Vec::new();
    for (key, object) in store.now(kind).items {
        if call.in_scope(kind, &key) && selector.matches(&object) {
            let last = store.change(kind, &key, |old| {
                Ok(old.and_then(|o| condemned(kind, o, &options)))
            })?;
            gone.extend(last);
        }
    }
    let head = ListHead {
        revision: store.revision(),
        ..ListHead::default()
    };
    Ok(call.respond(StatusCode::OK, &encoder.form, encoder.list(&gone, &head)))
}

/// DeleteOptions of the body; in protobuf they are not read.
async fn delete_options(call: &mut Call) -> Result<Value, Status> {
    let bytes = call.read_body().await?;
    Ok(serde_json::from_slice(&bytes).unwrap_or(Value::Null))
}

/// What is left of an object that shall be deleted: with finalizers, or for a pod with a grace period, it stays with a
/// deletionTimestamp.
fn condemned(kind: &Kind, old: &Value, options: &Value) -> Option<Value> {
    let finalizers = old["metadata"]["finalizers"]
        .as_array()
        .is_some_and(|f| !f.is_empty());
    let grace = options["gracePeriodSeconds"]
        .as_u64()
        .filter(|g| *g > 0 && kind.resource == "pods");
    if !finalizers && grace.is_none() {
        return None;
    }
    let mut object = old.clone();
    if object["metadata"]["deletionTimestamp"].is_null() {
        let grace = grace.unwrap_or(0);
        let at = clock::unix() + i64::try_from(grace).unwrap_or(0);
        object["metadata"]["deletionTimestamp"] = json!(clock::rfc3339(at));
        object["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
    }
    Some(object)
}

/// An object whose last finalizer was taken away while it waited to be deleted is gone; the answer has it without.
fn finished(object: Value, emptied: &mut Option<Value>) -> Option<Value> {
    let meta = &object["metadata"];
    let waiting = meta["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let grace = meta["deletionGracePeriodSeconds"].as_u64().unwrap_or(0);
    if !meta["deletionTimestamp"].is_null() && !waiting && grace == 0 {
        *emptied = Some(object);
        None
    } else {
        Some(object)
    }
}

fn change(
    call: &Call,
    kind: &'static Kind,
    name: &str,
    decide: impl FnOnce(Option<&Value>) -> Result<Option<Value>, Status>,
) -> Result<Arc<Value>, Status> {
    let key = kind.key(&call.info.namespace, name);
    let store = &call.shared.cluster.store;
    if call.query.truthy("dryRun") {
        let old = store.get(kind, &key);
        let dry = decide(old.as_deref())?;
        return dry
            .map(Arc::new)
            .or(old)
            .ok_or_else(|| Status::not_found(kind, name));
    }
    let changed = store.change(kind, &key, decide)?;
    changed.ok_or_else(|| Status::not_found(kind, name))
}

/// Kind, apiVersion and namespace as the URL says.
fn settle(call: &Call, kind: &Kind, object: &mut Value) -> Result<(), Status> {
    if !object.is_object() || !(object["metadata"].is_object() || object["metadata"].is_null()) {
        return Err(Status::bad_request("the object provided is unrecognized"));
    }
    let stated = |key: &str| object[key].as_str().map(str::to_owned);
    let (found, version) = (stated("kind"), stated("apiVersion"));
    if found.is_some_and(|k| k != kind.kind) || version.is_some_and(|v| v != kind.api_version()) {
        let message = "the object provided does not match the kind of the URL";
        return Err(Status::bad_request(message));
    }
    object["kind"] = json!(kind.kind);
    object["apiVersion"] = json!(kind.api_version());
    if kind.scope == Scope::Namespaced {
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
        if !namespace.is_empty() && namespace != call.info.namespace {
            let message =
                "the namespace of the provided object does not match the namespace sent on the request";
            return Err(Status::bad_request(message));
        }
        object["metadata"]["namespace"] = json!(call.info.namespace);
    }
    Ok(())
}

fn check_revision(kind: &Kind, name: &str, new: &Value, old: &Value) -> Result<(), Status> {
    let sent = new["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    if sent.is_empty() || old["metadata"]["resourceVersion"] == sent {
        return Ok(());
    }
    let why = "the object has been modified; please apply your changes to the latest version and try again";
    Err(Status::conflict(kind, name, why))
}

fn check_uid(kind: &Kind, name: &str, sent: &Value, old: &Value) -> Result<(), Status> {
    let (Some(sent), Some(held)) = (sent.as_str(), old["metadata"]["uid"].as_str()) else {
        return Ok(());
    };
    if sent == held {
        return Ok(());
    }
    let why = format!("Precondition failed: UID in precondition: {sent}, UID in object meta: {held}");
    Err(Status::conflict(kind, name, &why))
}

/// A write to `status` changes status and metadata only, any other write leaves the status alone; a changed spec
/// counts the generation up.
fn merge_subresource(kind: &Kind, subresource: &str, new: Value, old: &Value) -> Value {
    let mut object = if subresource == "status" {
        old.clone()
    } else {
        new.clone()
    };
    if subresource == "status" {
        object["metadata"] = new["metadata"].clone();
        object["status"] = new["status"].clone();
    } else if kind.status && subresource.is_empty() {
        match old.get("status") {
            Some(status) => object["status"] = status.clone(),
            None => {
                object.as_object_mut().map(|o| o.remove("status"));
            }
        }
    }
    if let Some(generation) = old["metadata"]["generation"].as_u64() {
        let step = u64::from(object["spec"] != old["spec"]);
        object["metadata"]["generation"] = json!(generation + step);
    }
    for kept in ["deletionTimestamp", "deletionGracePeriodSeconds"] {
        if let Some(value) = old["metadata"].get(kept) {
            object["metadata"][kept] = value.clone();
        }
    }
    object
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (key, value) in patch {
        if value.is_null() {
            target.as_object_mut().map(|t| t.remove(key));
        } else {
            merge(&mut target[key], value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_patch_removes_nulls_and_replaces_lists() {
        let mut target = json!({"a": {"b": 1, "c": [1, 2]}, "d": "x"});
        merge(
            &mut target,
            &json!({"a": {"b": null, "c": [3]}, "d": {"e": {"f": null}}}),
        );
        assert_eq!(target, json!({"a": {"c": [3]}, "d": {"e": {}}}));
    }
}
