//! The request target with which a held watch is re-opened upstream.

use std::time::Duration;

use http::uri::PathAndQuery;

use crate::kube::version::ResourceVersion;

/// The same watch from `position` on, without initial events. Every other parameter stays as the client wrote it:
/// selectors are part of what is authorized. `left` is what remains of the client's `timeoutSeconds`.
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

/// The same watch from `version` on, with nothing else changed, and the position that it had.
pub(super) fn moved(
    original: &PathAndQuery,
    version: &ResourceVersion,
) -> Option<(PathAndQuery, ResourceVersion)> {
    let mut position = None;
    let mut query = Vec::new();
    for pair in original.query()?.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("resourceVersion", value)) => {
                // Of a repeated parameter the first counts.
                position = position.or_else(|| Some(value.to_owned()));
            }
            _ => query.push(pair),
        }
    }
    let position = form_urlencoded::parse(format!("v={}", position?).as_bytes())
        .next()
        .and_then(|(_, value)| ResourceVersion::new(&value))?;
    let version = format!(
        "resourceVersion={}",
        form_urlencoded::byte_serialize(version.as_str().as_bytes()).collect::<String>()
    );
    query.push(&version);
    let target = format!("{}?{}", original.path(), query.join("&")).parse().ok()?;
    Some((target, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_is_moved_by_its_version_alone() {
        let original = "/api/v1/pods?allowWatchBookmarks=true&resourceVersion=77&timeout=5m12s&timeoutSeconds=312&watch=true";
        let earlier = ResourceVersion::new("70").unwrap();
        let (target, position) = moved(&original.parse().unwrap(), &earlier).unwrap();
        assert_eq!(
            target.as_str(),
            "/api/v1/pods?allowWatchBookmarks=true&timeout=5m12s&timeoutSeconds=312&watch=true&resourceVersion=70"
        );
        assert_eq!(position.as_str(), "77");
        for without in [
            "/api/v1/pods?watch=true",
            "/api/v1/pods",
            "/api/v1/pods?resourceVersion=&watch=1",
        ] {
            assert!(moved(&without.parse().unwrap(), &earlier).is_none(), "{without}");
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
