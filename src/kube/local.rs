//! What a kube-apiserver answers itself, and what it may pass on to the server of an aggregated group.

use super::groups;
use super::request::plain_path;

/// Whether nobody but a kube-apiserver answers under this path, but for what it passes on to pods, nodes and services. The paths
/// of aggregated groups, resources and documents alike, are those of other servers, and those of custom resources look the same; a path whose meaning is not beyond
/// doubt counts among them.
pub fn is_served_by_apiserver(raw_path: &str) -> bool {
    let Some(path) = plain_path(raw_path) else {
        return false;
    };
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    match segments.as_slice() {
        ["apis" | "openapi"] | ["openapi", "v2" | "v3"] => true,
        ["apis", group, ..] | ["openapi", "v3", "apis", group, ..] => groups::is_built_in(group),
        ["openapi", "v3", "api", ..] => true,
        ["openapi", ..] => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aggregated_groups_are_served_by_others_whatever_is_asked_for() {
        for path in [
            "/",
            "/version",
            "/readyz/etcd",
            "/openid/v1/jwks",
            "/api",
            "/api/v1/namespaces/shop/pods",
            "/apis",
            "/apis/apps",
            "/apis/apps/v1/deployments",
            "/apis/rbac.authorization.k8s.io/v1/roles",
            "/openapi/v2",
            "/openapi/v3",
            "/openapi/v3/api/v1",
            "/openapi/v3/apis/apps/v1",
        ] {
            assert!(is_served_by_apiserver(path), "{path}");
        }
        for path in [
            "/apis/metrics.k8s.io",
            "/apis/metrics.k8s.io/v1beta1",
            "/apis/metrics.k8s.io/v1beta1/nodes",
            "/apis/custom.metrics.k8s.io/v1beta2",
            "/apis/example.com/v1/widgets",
            "/apis/APPS/v1",
            "/apis//apps/v1",
            "/apis/apps/../metrics.k8s.io/v1beta1",
            "/apis/%61pps/v1",
            "/openapi/v3/apis/metrics.k8s.io/v1beta1",
            "/openapi/v3/metrics",
            "//apis/metrics.k8s.io",
        ] {
            assert!(!is_served_by_apiserver(path), "{path}");
        }
    }
}
