//! Which API groups kube-apiserver serves by itself.

/// The groups that are compiled into kube-apiserver (`pkg/controlplane/instance.go`); core is the empty name. Any other
/// group is made of custom resources, or belongs to a server behind it (an APIService): from outside they look the same.
const BUILT_IN: [&str; 23] = [
    "",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "apps",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "events.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "internal.apiserver.k8s.io",
    "networking.k8s.io",
    "node.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
    "storagemigration.k8s.io",
];

/// Whether kube-apiserver itself serves this group, without another server behind it.
pub fn is_built_in(group: &str) -> bool {
    built_in(group).is_some()
}

/// The same group, if it is built in: from a closed list.
pub fn built_in(group: &str) -> Option<&'static str> {
    BUILT_IN.into_iter().find(|known| *known == group)
}

/// The group that a document is about: `/apis/G`, `/apis/G/V`, `/openapi/v3/apis/G/V`; empty for those of all groups, of
/// core, or of none.
pub fn of_document(path: &str) -> &str {
    let path = path.strip_prefix("/openapi/v3").unwrap_or(path);
    let rest = path.strip_prefix("/apis/").unwrap_or_default();
    rest.split('/').next().unwrap_or_default()
}

/// A resource with its group, as kubectl writes it: `pods`, `deployments.apps`.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_about_one_group_or_all() {
        for (path, group) in [
            ("/apis", ""),
            ("/apis/", ""),
            ("/api/v1", ""),
            ("/version", ""),
            ("/openapi/v3", ""),
            ("/openapi/v3/api/v1", ""),
            ("/apis/metrics.k8s.io", "metrics.k8s.io"),
            ("/apis/metrics.k8s.io/v1beta1/", "metrics.k8s.io"),
            ("/openapi/v3/apis/apps/v1", "apps"),
        ] {
            assert_eq!(of_document(path), group, "{path}");
        }
    }

    #[test]
    fn groups_of_others_are_told_apart() {
        for group in ["", "apps", "storage.k8s.io", "coordination.k8s.io"] {
            assert!(is_built_in(group), "{group}");
        }
        for group in ["metrics.k8s.io", "custom.metrics.k8s.io", "example.com", "k8s.io"] {
            assert!(!is_built_in(group), "{group}");
        }
    }
}
