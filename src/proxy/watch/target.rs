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

#[cfg(test)]
mod tests {
    use super::*;

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
