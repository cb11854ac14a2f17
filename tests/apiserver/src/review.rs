//! Reviews: asked by POST, stored nowhere.

use http::StatusCode;
use serde_json::{Value, json};

use crate::kinds::Origin;
use crate::negotiate::Negotiated;
use crate::request_info::RequestInfo;
use crate::serve::{Answer, Call};
use crate::status::Status;
use crate::{auth, json};

pub(crate) fn is_review(resource: &str) -> bool {
    matches!(
        resource,
        "tokenreviews" | "subjectaccessreviews" | "selfsubjectaccessreviews" | "selfsubjectreviews"
    )
}

/// Answers in JSON; protobuf requests are refused, since reviews keep their content outside the metadata.
pub(crate) async fn answer(mut call: Call) -> Answer {
    if call.method != http::Method::POST {
        return Err(Status::method_not_allowed());
    }
    let mut review = call
        .read_object()
        .await?
        .ok_or_else(|| Status::bad_request("the body is empty"))?;
    review["status"] = match call.info.resource.as_str() {
        "tokenreviews" => token(&call, &review["spec"]),
        "selfsubjectreviews" => json!({"userInfo": {"username": call.user.name, "groups": call.user.groups}}),
        _ => access(&call, &review["spec"]),
    };
    let bytes = json::bytes(&review, Origin::BuiltIn, false);
    Ok(call.respond(StatusCode::CREATED, &Negotiated::JSON, bytes))
}

fn token(call: &Call, spec: &Value) -> Value {
    let user = call
        .shared
        .cluster
        .tokens
        .user(spec["token"].as_str().unwrap_or_default());
    match user {
        Some(user) => json!({"authenticated": true, "user": {"username": user.name, "groups": user.groups}}),
        None => json!({"user": {}, "error": "[invalid bearer token]"}),
    }
}

fn access(call: &Call, spec: &Value) -> Value {
    let groups = || {
        spec["groups"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|g| g.as_str().map(str::to_owned))
    };
    let user = match spec["user"].as_str() {
        Some(name) => auth::User {
            name: name.to_owned(),
            groups: groups().collect(),
        },
        None => call.user.clone(),
    };
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let asked = &spec["resourceAttributes"];
    let info = RequestInfo {
        is_resource: asked.is_object(),
        path: text(&spec["nonResourceAttributes"]["path"]),
        verb: if asked.is_object() {
            text(&asked["verb"])
        } else {
            text(&spec["nonResourceAttributes"]["verb"])
        },
        group: text(&asked["group"]),
        version: text(&asked["version"]),
        namespace: text(&asked["namespace"]),
        resource: text(&asked["resource"]),
        subresource: text(&asked["subresource"]),
        name: text(&asked["name"]),
    };
    json!({"allowed": call.shared.cluster.rbac.lock().authorize(&user, &info).is_ok()})
}
