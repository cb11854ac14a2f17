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
        "selfsubjectreviews" => json!({"userInfo": call.user.info()}),
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
        Some(user) => json!({"authenticated": true, "user": user.info()}),
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
            uid: text_of(&spec["uid"]),
            extra: spec["extra"].clone(),
        },
        None => call.user.clone(),
    };
    let asked = &spec["resourceAttributes"];
    let info = RequestInfo {
        is_resource: asked.is_object(),
        path: text_of(&spec["nonResourceAttributes"]["path"]),
        verb: if asked.is_object() {
            text_of(&asked["verb"])
        } else {
            text_of(&spec["nonResourceAttributes"]["verb"])
        },
        group: text_of(&asked["group"]),
        version: text_of(&asked["version"]),
        namespace: text_of(&asked["namespace"]),
        resource: text_of(&asked["resource"]),
        subresource: text_of(&asked["subresource"]),
        name: text_of(&asked["name"]),
    };
    json!({"allowed": call.shared.cluster.rbac.lock().authorize(&user, &info).is_ok()})
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
