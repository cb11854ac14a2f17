//! Everything that is not a resource: version, health, discovery, OpenAPI, the token issuer.

use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use http::{Method, Response, StatusCode};
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::json;
use crate::jwt::ISSUER;
use crate::kinds::{self, Kind, Origin, Scope};
use crate::negotiate::{Offer, negotiate};
use crate::serve::{Answer, Call, first};
use crate::status::Status;

pub(crate) fn answer(call: &Call) -> Answer {
    if !matches!(call.method, Method::GET | Method::HEAD) {
        return Err(Status::unknown_resource());
    }
    let path = call.info.path.trim_end_matches('/');
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["version"] => Ok(indented(&version())),
        ["healthz" | "livez" | "readyz", ..] => Ok(health()),
        ["api"] => groups(call, &api_versions(call), "api"),
        ["apis"] => groups(call, &group_list(), "apis"),
        ["api", "v1"] => resources(call, "", "v1"),
        ["apis", group] => plain(call, &api_group(group).ok_or_else(Status::unknown_resource)?),
        ["apis", group, version] => resources(call, group, version),
        ["openapi", "v2"] => Ok(tagged(
            call,
            &openapi_v2(),
            "application/json",
            "no-cache, private",
        )),
        ["openapi", "v3"] => Ok(tagged(
            call,
            &openapi_v3(),
            "application/json",
            "no-cache, private",
        )),
        ["openapi", "v3", ..] => Ok(openapi_of(call, &parts[2..].join("/"))),
        ["openid", "v1", "jwks"] => jwks(call),
        [".well-known", "openid-configuration"] => Ok(tagless(
            &issuer(call).to_string(),
            "application/json",
            "public, max-age=3600",
        )),
        _ => Err(Status::of_code(404)),
    }
}

fn tagless(body: &str, media: &str, cache: &str) -> Response<Body> {
    let response = Response::builder()
        .header(CONTENT_TYPE, media)
        .header(CACHE_CONTROL, cache);
    response.body(body::whole(body.to_owned())).expect("valid")
}

fn indented(value: &Value) -> Response<Body> {
    tagless(
        &serde_json::to_string_pretty(value).expect("JSON"),
        "application/json",
        "no-cache, private",
    )
}

fn version() -> Value {
    json!({"major": "1", "minor": "36", "gitVersion": "v1.36.2", "gitCommit": "stand-in", "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc", "platform": "linux/amd64"})
}

fn health() -> Response<Body> {
    let response = Response::builder()
        .header(CONTENT_TYPE, "text/plain; charset=utf-8")
        .header("X-Content-Type-Options", "nosniff");
    response.body(body::full("ok")).expect("valid")
}

/// A document in JSON, which is all that a client without JSON in its Accept is refused for.
fn plain(call: &Call, value: &Value) -> Answer {
    let offer = Offer {
        protobuf: false,
        single: true,
    };
    let form = negotiate(call.accept(), offer).ok_or_else(Status::not_acceptable)?;
    Ok(call.respond(
        StatusCode::OK,
        &form,
        json::bytes(value, Origin::BuiltIn, form.pretty),
    ))
}

/// `/api` and `/apis`: aggregated when an acceptable clause asks for it before any plain one.
fn groups(call: &Call, legacy: &Value, root: &str) -> Answer {
    const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let wants = |clause: &str| {
        let has = |p| clause.split(';').any(|part| part.trim() == p);
        has("application/json")
            && has("g=apidiscovery.k8s.io")
            && has("v=v2")
            && has("as=APIGroupDiscoveryList")
    };
    if !call.accept().split(',').any(wants) {
        return plain(call, legacy);
    }
    let mut response = tagged(call, &aggregated(root), AGGREGATED, "public");
    response
        .headers_mut()
        .insert(VARY, http::HeaderValue::from_static("Accept"));
    Ok(response)
}

/// A document with an ETag, or 304.
fn tagged(call: &Call, value: &Value, media: &str, cache: &str) -> Response<Body> {
    let bytes = json::bytes(value, Origin::BuiltIn, false);
    let tag = format!("\"{}\"", hash(&bytes));
    let same = first(&call.headers, &IF_NONE_MATCH) == tag;
    let status = if same {
        StatusCode::NOT_MODIFIED
    } else {
        StatusCode::OK
    };
    let response = Response::builder()
        .status(status)
        .header(CONTENT_TYPE, media)
        .header(CACHE_CONTROL, cache)
        .header(VARY, "Accept")
        .header(ETAG, tag);
    let body = if same { body::empty() } else { body::whole(bytes) };
    response.body(body).expect("valid")
}

fn hash(bytes: &[u8]) -> String {
    use aws_lc_rs::digest::{SHA512, digest};
    digest(&SHA512, bytes)
        .as_ref()
        .iter()
        .map(|b| format!("{b:02X}"))
        .collect()
}

fn api_versions(call: &Call) -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [
        {"clientCIDR": "0.0.0.0/0", "serverAddress": call.shared.door.addr().to_string()}]})
}

/// Group names in the order of the table, without core.
fn group_names() -> Vec<&'static str> {
    let mut names: Vec<&str> = kinds::ALL
        .iter()
        .map(|k| k.group)
        .filter(|g| !g.is_empty())
        .collect();
    names.dedup();
    names
}

fn api_group(group: &str) -> Option<Value> {
    let version = kinds::ALL
        .iter()
        .find(|k| k.group == group && !group.is_empty())?
        .version;
    let one = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    Some(
        json!({"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": [one], "preferredVersion": one}),
    )
}

fn group_list() -> Value {
    let groups: Vec<Value> = group_names()
        .into_iter()
        .filter_map(api_group)
        .map(|mut g| {
            g.as_object_mut()
                .map(|g| (g.remove("kind"), g.remove("apiVersion")));
            g
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

const VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

fn resources(call: &Call, group: &str, version: &str) -> Answer {
    let of_group: Vec<&Kind> = kinds::ALL
        .iter()
        .filter(|k| k.group == group && k.version == version)
        .collect();
    let first = of_group.first().ok_or_else(Status::unknown_resource)?;
    let mut list = Vec::new();
    for kind in &of_group {
        list.push(json!({"name": kind.resource, "singularName": kind.singular,
            "namespaced": kind.scope == Scope::Namespaced, "kind": kind.kind, "verbs": VERBS,
            "shortNames": kind.short}));
        for (subresource, kind_of, verbs) in subresources(kind) {
            list.push(
                json!({"name": format!("{}/{subresource}", kind.resource), "singularName": "",
                "namespaced": kind.scope == Scope::Namespaced, "kind": kind_of, "verbs": verbs}),
            );
        }
    }
    let value = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": first.api_version(),
        "resources": list});
    plain(call, &value)
}

fn subresources(kind: &Kind) -> Vec<(&'static str, &'static str, &'static [&'static str])> {
    let mut list: Vec<(&str, &str, &'static [&str])> = Vec::new();
    match kind.resource {
        "pods" => {
            for name in ["attach", "exec", "portforward"] {
                list.push((name, "PodExecOptions", &["create", "get"]));
            }
            list.push(("log", "Pod", &["get"]));
        }
        "serviceaccounts" => list.push(("token", "TokenRequest", &["create"])),
        _ => {}
    }
    if kind.status {
        list.push(("status", kind.kind, &["get", "patch", "update"]));
    }
    list
}

fn aggregated(root: &str) -> Value {
    let names = if root == "api" { vec![""] } else { group_names() };
    let items: Vec<Value> = names.into_iter().map(aggregated_group).collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items})
}

fn aggregated_group(group: &str) -> Value {
    let of_group: Vec<&Kind> = kinds::ALL.iter().filter(|k| k.group == group).collect();
    let version = of_group.first().map_or("v1", |k| k.version);
    let response_kind = |kind: &str| json!({"group": "", "version": "", "kind": kind});
    let one = |kind: &&Kind| {
        let scope = if kind.scope == Scope::Namespaced {
            "Namespaced"
        } else {
            "Cluster"
        };
        let subs: Vec<Value> = subresources(kind)
            .into_iter()
            .map(|(name, of, verbs)| json!({"subresource": name, "responseKind": response_kind(of), "verbs": verbs}))
            .collect();
        json!({"resource": kind.resource, "responseKind": response_kind(kind.kind), "scope": scope,
            "singularResource": kind.singular, "verbs": VERBS, "shortNames": kind.short, "subresources": subs})
    };
    let metadata = if group.is_empty() {
        json!({})
    } else {
        json!({"name": group})
    };
    let resources: Vec<Value> = of_group.iter().map(one).collect();
    json!({"metadata": metadata, "versions": [{"version": version, "resources": resources, "freshness": "Current"}]})
}

fn openapi_v2() -> Value {
    json!({"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1.36.2"}, "paths": {}, "definitions": {}})
}

fn openapi_document(path: &str) -> Value {
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.2"}, "paths": {},
        "components": {"schemas": {}}, "x-path": path})
}

fn openapi_hash(path: &str) -> String {
    hash(&json::bytes(&openapi_document(path), Origin::BuiltIn, false))
}

fn openapi_v3() -> Value {
    let mut paths = json!({});
    let groups = group_names().into_iter().map(|g| format!("apis/{g}/v1"));
    for path in groups.chain(["api/v1".to_owned()]) {
        let url = format!("/openapi/v3/{path}?hash={}", openapi_hash(&path));
        paths[path] = json!({"serverRelativeURL": url});
    }
    json!({"paths": paths})
}

/// With the right hash it may be kept for ever; with a wrong one the client is sent to the right one.
fn openapi_of(call: &Call, path: &str) -> Response<Body> {
    let right = openapi_hash(path);
    match call.query.get("hash") {
        Some(hash) if hash == right => tagged(
            call,
            &openapi_document(path),
            "application/json",
            "public, immutable",
        ),
        Some(_) => {
            let location = format!("/openapi/v3/{path}?hash={right}");
            let response = Response::builder()
                .status(StatusCode::MOVED_PERMANENTLY)
                .header("Location", location);
            response.body(body::empty()).expect("valid")
        }
        None => tagged(
            call,
            &openapi_document(path),
            "application/json",
            "no-cache, private",
        ),
    }
}

/// The only media type is `application/jwk-set+json`; plain JSON is refused, as the recording shows.
fn jwks(call: &Call) -> Answer {
    const MEDIA: &str = "application/jwk-set+json";
    let accept = call.accept();
    let media = |clause: &str| clause.split(';').next().unwrap_or_default().trim().to_owned();
    if !accept.is_empty()
        && !accept
            .split(',')
            .any(|c| matches!(media(c).as_str(), MEDIA | "*/*" | "application/*"))
    {
        let message = format!("406: Not Acceptable\n\nAvailable representations: {MEDIA}");
        return Err(Status::new(406, "NotAcceptable", message));
    }
    Ok(tagless(
        &call.shared.cluster.signers.jwks().to_string(),
        MEDIA,
        "public, max-age=3600",
    ))
}

fn issuer(call: &Call) -> Value {
    json!({"issuer": ISSUER, "jwks_uri": format!("https://{}/openid/v1/jwks", call.shared.door.addr()),
        "response_types_supported": ["id_token"], "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256", "ES384", "ES512"]})
}
