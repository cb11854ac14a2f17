//! Requests for resources: finds the kind and the handler of the verb.

use crate::kinds;
use crate::request_info::RequestInfo;
use crate::serve::{Answer, Call};
use crate::status::Status;
use crate::{huge, list, review, stream, token, watch, write};

pub(crate) async fn answer(call: Call) -> Answer {
    let RequestInfo {
        group,
        version,
        resource,
        ..
    } = &call.info;
    if review::is_review(resource) {
        return review::answer(call).await;
    }
    let kind = kinds::by_resource(group, version, resource).ok_or_else(Status::unknown_resource)?;
    if let Some(size) = call.shared.options.huge.filter(|_| huge::is_target(&call.info)) {
        return huge::answer(&call, kind, size);
    }
    match (kind.resource, call.info.subresource.as_str()) {
        ("pods", "log") => return stream::log(&call, kind),
        ("pods", "exec" | "attach" | "portforward") => return stream::upgrade(call, kind),
        ("serviceaccounts", "token") => return token::request(call, kind).await,
        (_, "") => {}
        ("namespaces", "finalize") | ("certificatesigningrequests", "approval") => {}
        (_, "status") if kind.status => {}
        _ => return Err(Status::unknown_resource()),
    }
    match call.info.verb.as_str() {
        "get" => list::get(&call, kind).await,
        "list" => list::list(&call, kind).await,
        "watch" => watch::watch(&call, kind),
        "create" => write::create(call, kind).await,
        "update" => write::update(call, kind).await,
        "patch" => write::patch(call, kind).await,
        "delete" => write::delete(call, kind).await,
        "deletecollection" => write::delete_collection(call, kind).await,
        _ => Err(Status::method_not_allowed()),
    }
}
