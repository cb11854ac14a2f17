//! What is asked of upstream on a watch's behalf: the same watch from another version on, and the list of
//! what it watches.

use std::time::Duration;

use http::uri::PathAndQuery;

use crate::kube::request::ResourceRequest;
use crate::kube::version::ResourceVersion;

/// The same watch from `position` on, without initial events. Every other parameter stays as the client wrote
/// it: selectors are part of what is authorized. `left` is what remains of the client's `timeoutSeconds`.
pub(super) fn resumed(
    original: &PathAndQuery,
    position: &ResourceVersion,
    left: Option<Duration>,
) -> Option<PathAndQuery> {
    let replaced = |name: &str| {
        matches!(
            name,
            "resourceVersion" | "resourceVersionMatch" | "sendInitialEvents" | "timeoutSeconds" | "timeout"
        )
    };
    let mut query: Vec<String> = original
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty() && !replaced(pair.split('=').next().unwrap_or_default()))
        .map(str::to_owned)
        .collect();
    let version = form_urlencoded::byte_serialize(position.as_str().as_bytes()).collect::<String>();
    query.push(format!("resourceVersion={version}"));
    if let Some(left) = left {
        query.push(format!("timeoutSeconds={}", left.as_secs().max(1)));
    }
    format!("{}?{}", original.path(), query.join("&")).parse().ok()
}

/// The list of what a watch watches: whole, and consistent. Selectors stay as the client wrote them: they are
/// part of what is authorized.
pub(in super::super) fn listed(original: &PathAndQuery, resource: &ResourceRequest) -> Option<PathAndQuery> {
    let by_name = resource.legacy_watch && !resource.name.is_empty();
    let of_watches = |name: &str| {
        matches!(
            name,
            "watch"
                | "resourceVersion"
                | "resourceVersionMatch"
                | "sendInitialEvents"
                | "allowWatchBookmarks"
                | "timeoutSeconds"
                | "timeout"
                | "limit"
                | "continue"
        ) || (by_name && name == "fieldSelector")
    };
    let dropped = |pair: &str| {
        let mut pairs = form_urlencoded::parse(pair.as_bytes());
        pairs.next().is_none_or(|(name, _)| of_watches(&name))
    };
    let query = original.query().unwrap_or_default();
    let mut query: Vec<&str> = query.split('&').filter(|pair| !dropped(pair)).collect();
    let mut path = original.path().to_owned();
    let named;
    if resource.legacy_watch {
        path = path.replacen("/watch/", "/", 1);
    }
    if by_name {
        let (collection, name) = path.rsplit_once('/')?;
        named = format!("fieldSelector=metadata.name%3D{name}");
        path = collection.to_owned();
        query.push(&named);
    }
    let question = if query.is_empty() { "" } else { "?" };
    format!("{path}{question}{}", query.join("&")).parse().ok()
}

/// What a client of a watch takes of a list: metadata alone have a list's kind of their own (wire contract
/// 2.2).
pub(in super::super) fn listed_accept(accept: &str) -> String {
    let part = |part: &'_ str| match part.trim() {
        "stream=watch" => None,
        "as=PartialObjectMetadata" => Some("as=PartialObjectMetadataList".to_owned()),
        _ => Some(part.to_owned()),
    };
    let clause = |clause: &str| {
        clause
            .split(';')
            .filter_map(part)
            .collect::<Vec<String>>()
            .join(";")
    };
    accept.split(',').map(clause).collect::<Vec<String>>().join(",")
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::kube::request::RequestInfo;

    #[test]
    fn a_list_is_of_what_is_watched_and_whole() {
        for (watch, list) in [
            (
                "/api/v1/pods?allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dedge-1&resourceVersion=77\
                 &timeout=5m12s&timeoutSeconds=312&watch=true",
                "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1",
            ),
            (
                "/api/v1/namespaces/a/secrets?w%61tch=1&resource%56ersion=0&fieldSelector=metadata.name%3Ds&limit=5",
                "/api/v1/namespaces/a/secrets?fieldSelector=metadata.name%3Ds",
            ),
            ("/apis/apps/v1/deployments?watch", "/apis/apps/v1/deployments"),
            (
                "/api/v1/watch/namespaces/a/pods?labelSelector=x%3Dy&resourceVersion=7",
                "/api/v1/namespaces/a/pods?labelSelector=x%3Dy",
            ),
            (
                "/api/v1/watch/namespaces/a/pods/p?fieldSelector=a%3Db&resourceVersion=7",
                "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dp",
            ),
            (
                "/api/v1/watch/namespaces/a",
                "/api/v1/namespaces?fieldSelector=metadata.name%3Da",
            ),
        ] {
            let target: PathAndQuery = watch.parse().unwrap();
            let info = RequestInfo::parse(&Method::GET, target.path(), target.query());
            let RequestInfo::Resource(resource) = info else {
                panic!("{watch}")
            };
            assert_eq!(listed(&target, &resource).unwrap().as_str(), list, "{watch}");
        }
    }

    #[test]
    fn a_list_is_asked_for_in_the_form_of_the_watch() {
        let protobuf = "application/vnd.kubernetes.protobuf";
        for (watch, list) in [
            ("application/json", "application/json"),
            (
                "application/vnd.kubernetes.protobuf;stream=watch,application/json; stream=watch;q=0.5",
                "application/vnd.kubernetes.protobuf,application/json;q=0.5",
            ),
            (protobuf, protobuf),
            (
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json",
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            ),
        ] {
            assert_eq!(listed_accept(watch), list);
        }
    }

    #[test]
    fn only_the_position_and_the_time_left_change() {
        let original = "/api/v1/pods?allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dedge-1\
                        &resourceVersionMatch=NotOlderThan&sendInitialEvents=true&timeout=5m12s&timeoutSeconds=312&watch=true";
        let position = ResourceVersion::new("77").unwrap();
        let resumed = resumed(
            &original.parse().unwrap(),
            &position,
            Some(Duration::from_secs(100)),
        )
        .unwrap();
        assert_eq!(
            resumed.as_str(),
            "/api/v1/pods?allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dedge-1&watch=true\
             &resourceVersion=77&timeoutSeconds=100"
        );
    }
}
