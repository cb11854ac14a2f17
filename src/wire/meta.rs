//! What is read of every object, whatever its schema: its type and the metadata that identifies it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::WireError;

/// `apiVersion` and `kind` of an object or a list.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TypeMeta {
    /// `group/version`, or `version` for the core group.
    pub api_version: String,
    /// CamelCase kind, e.g. `ConfigMapList`.
    pub kind: String,
}

impl TypeMeta {
    /// A type from its two texts.
    pub fn new(api_version: &str, kind: &str) -> Self {
        Self {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        }
    }

    /// Whether this is a Table, which is kept whole or not at all (wire contract 2.5).
    pub fn is_table(&self) -> bool {
        self.kind == "Table" && self.api_version.starts_with("meta.k8s.io/")
    }

    pub(super) fn is_status(&self) -> bool {
        self.kind == "Status" && self.api_version == "v1"
    }

    /// The one list whose protobuf fields are swapped: metadata 2, items 1 (wire contract 3.2).
    pub(super) fn has_swapped_fields(&self) -> bool {
        self.api_version == "meta.k8s.io/v1beta1" && self.kind == "PartialObjectMetadataList"
    }

    /// Whether each item of a list of this kind is one named object of one type (wire contract 3.2).
    pub(super) fn check_splittable(&self) -> Result<(), WireError> {
        let kind = || self.kind.clone();
        let group = self.api_version.split('/').next().unwrap_or_default();
        if matches!(self.kind.as_str(), "" | "Table" | "Status")
            || matches!(
                self.kind.as_str(),
                "APIGroupList" | "APIResourceList" | "APIGroupDiscoveryList"
            )
        {
            return Err(WireError::NotAList { kind: kind() });
        }
        let generic = self.kind == "List" && matches!(group, "v1" | "meta.k8s.io");
        if generic
            || matches!(
                group,
                "custom.metrics.k8s.io" | "external.metrics.k8s.io" | "audit.k8s.io"
            )
        {
            return Err(WireError::Unsplittable { kind: kind() });
        }
        Ok(())
    }
}

/// The metadata by which an item is kept and found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ItemMeta {
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Name; never empty in what the readers return.
    pub name: String,
    /// Unique in time; empty for objects that are not stored (metrics).
    pub uid: String,
    /// As upstream wrote it; may be empty.
    pub resource_version: String,
    /// All labels.
    pub labels: BTreeMap<String, String>,
    /// Whether `deletionTimestamp` is set.
    pub deleting: bool,
}

impl ItemMeta {
    /// `namespace/name`, or `name` for cluster-scoped objects. Its byte order is the order of lists (wire
    /// contract 4.5).
    pub fn key(&self) -> String {
        if self.namespace.is_empty() {
            return self.name.clone();
        }
        format!("{}/{}", self.namespace, self.name)
    }

    /// A slash in either part would let two objects share a key; Kubernetes forbids it in both.
    pub(super) fn check_identity(&self) -> Result<(), WireError> {
        if self.name.is_empty() {
            return Err(WireError::Nameless);
        }
        if self.name.contains('/') || self.namespace.contains('/') {
            return Err(WireError::Malformed("object name"));
        }
        Ok(())
    }
}

/// All that the readers take from one object, in any encoding.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ObjectHead {
    pub(super) types: TypeMeta,
    pub(super) meta: ItemMeta,
    /// The annotation that ends the initial events of a watch-list.
    pub(super) initial_events_end: bool,
    /// Whether the first key of the map was `apiVersion`: custom resources come with sorted keys (3.6).
    pub(super) sorted_keys: bool,
}

impl ObjectHead {
    pub(super) fn is_bare(&self) -> bool {
        self.types.kind.is_empty() && self.types.api_version.is_empty()
    }
}

/// Metadata of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ListMeta {
    pub(super) resource_version: String,
    pub(super) continue_token: String,
}

/// Annotation on the bookmark that ends the initial events (wire contract 5.1).
pub(super) const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, name: &str) -> String {
        ItemMeta {
            namespace: namespace.into(),
            name: name.into(),
            ..ItemMeta::default()
        }
        .key()
    }

    #[test]
    fn keys_sort_as_the_storage_sorts() {
        let wanted = [
            ("a-b", "x"),
            ("a.b", "x"),
            ("a", "x"),
            ("a", "x-1"),
            ("a0", "x"),
            ("ab", "x"),
        ];
        let mut keys: Vec<_> = wanted.iter().map(|(ns, n)| key(ns, n)).collect();
        let as_listed = keys.clone();
        keys.sort();
        assert_eq!(keys, as_listed);
        assert_eq!(key("", "node-1"), "node-1");
    }

    #[test]
    fn names_that_could_collide_are_refused() {
        for (namespace, name) in [("a", "b/c"), ("a/b", "c")] {
            let meta = ItemMeta {
                namespace: namespace.into(),
                name: name.into(),
                ..ItemMeta::default()
            };
            assert!(meta.check_identity().is_err());
        }
        assert_eq!(ItemMeta::default().check_identity(), Err(WireError::Nameless));
    }

    #[test]
    fn lists_of_anything_but_named_objects_are_told_apart() {
        for (api_version, kind) in [
            ("v1", "List"),
            ("custom.metrics.k8s.io/v1beta2", "MetricValueList"),
        ] {
            let found = TypeMeta::new(api_version, kind).check_splittable();
            assert!(matches!(found, Err(WireError::Unsplittable { .. })), "{kind}");
        }
        for (api_version, kind) in [
            ("v1", "APIGroupList"),
            ("meta.k8s.io/v1", "Table"),
            ("v1", "Status"),
        ] {
            let found = TypeMeta::new(api_version, kind).check_splittable();
            assert!(matches!(found, Err(WireError::NotAList { .. })), "{kind}");
        }
        assert_eq!(TypeMeta::new("v1", "PodList").check_splittable(), Ok(()));
    }
}
