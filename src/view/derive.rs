//! Which views can answer for a collection that was never asked for, and which prove that an object is absent.
//!
//! All within one principal and one representation. A view contains every object of its scope that its selectors
//! select, so a narrower collection is that view filtered by what the view lacks, as long as the filter can be
//! evaluated without a schema: namespaces, labels, and equality of `metadata.name` and `metadata.namespace`.
//! Shards are never derived from or for, nor what was asked for with a parameter that is not known. An object is the same one
//! in all API versions of its group, so that it is, or is not, in whichever view; what a view shows of it is of one version.

use super::key::ViewKey;
use super::selector::fields::{FieldSelector, Identity};
use super::selector::labels::LabelSelector;

/// A view that can answer, and what to keep of its items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The view's key.
    pub key: ViewKey,
    /// What its items have to pass.
    pub filter: Filter,
}

/// What an item has to be to belong to a derived collection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    namespace: Option<String>,
    labels: LabelSelector,
    identity: Identity,
}

impl Filter {
    /// Whether every item passes: the view is the answer, byte for byte.
    pub fn passes_all(&self) -> bool {
        self.namespace.is_none() && self.labels.is_empty() && self.identity.is_empty()
    }

    /// Whether an item passes. `namespace` is empty for a cluster-scoped one; `label` finds a label by its key.
    pub fn passes<'a>(&self, namespace: &str, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.identity.matches(namespace, name)
            && self.labels.matches(label)
    }
}

/// The views from which `wanted` can be answered, the most exact first. The first one is the collection itself.
pub fn candidates(wanted: &ViewKey) -> Vec<Candidate> {
    let wanted = wanted.clone().canonical();
    let exact = Candidate {
        key: wanted.clone(),
        filter: Filter::default(),
    };
    let labels = LabelSelector::parse(&wanted.label_selector);
    let fields = FieldSelector::parse(&wanted.field_selector);
    let derivable = wanted.shard_selector.is_empty() && wanted.is_understood();
    let (true, Ok(labels), Ok(fields)) = (derivable, labels, fields) else {
        return vec![exact];
    };
    let (identity, rest) = fields.split_identity();

    let mut found = vec![exact];
    // Each step drops one restriction from the key and adds it to the filter, for every candidate so far.
    if !identity.is_empty() {
        widen(&mut found, |candidate| {
            candidate.key.field_selector = rest.to_string();
            candidate.filter.identity = identity.clone();
        });
    }
    if wanted.namespace.is_some() {
        widen(&mut found, |candidate| {
            candidate.filter.namespace = candidate.key.namespace.take();
        });
    }
    if !labels.is_empty() {
        widen(&mut found, |candidate| {
            candidate.key.label_selector.clear();
            candidate.filter.labels = labels.clone();
        });
    }
    found
}

fn widen(found: &mut Vec<Candidate>, drop: impl Fn(&mut Candidate)) {
    let mut wider = found.clone();
    wider.iter_mut().for_each(drop);
    found.append(&mut wider);
}

/// One object's place in the API. Its API version is none of it: whatever that is, the object is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObjectName<'a> {
    /// The API group; empty for the core group.
    pub group: &'a str,
    /// The resource, plural.
    pub resource: &'a str,
    /// `None` for a cluster-scoped object; a Namespace is one.
    pub namespace: Option<&'a str>,
    /// The object's name.
    pub name: &'a str,
}

/// Whether an object can be in the view of this key at all, as far as its name tells. One that is exists, but what a view
/// shows that is not understood is only for who asked for it.
pub fn may_hold(key: &ViewKey, object: &ObjectName<'_>) -> bool {
    let named = |fields: FieldSelector| is_named(&fields.split_identity().0, object);
    is_in_scope(key, object) && FieldSelector::parse(&key.field_selector).map_or(true, named)
}

/// Whether an object that is not in the view of this key does not exist, as of that view (rule V8): the object
/// would be in it whatever its content. Its representation does not matter as long as it is understood.
pub fn proves_absence(key: &ViewKey, object: &ObjectName<'_>) -> bool {
    let is_whole = key.label_selector.is_empty() && key.shard_selector.is_empty() && key.is_understood();
    if !is_in_scope(key, object) || !is_whole {
        return false;
    }
    let Ok(fields) = FieldSelector::parse(&key.field_selector) else {
        return false;
    };
    let (identity, rest) = fields.split_identity();
    rest.is_empty() && is_named(&identity, object)
}

fn is_in_scope(key: &ViewKey, object: &ObjectName<'_>) -> bool {
    let same_resource = (key.group.as_str(), key.resource.as_str()) == (object.group, object.resource);
    same_resource && (key.namespace.is_none() || key.namespace.as_deref() == object.namespace)
}

fn is_named(identity: &Identity, object: &ObjectName<'_>) -> bool {
    identity.matches(object.namespace.unwrap_or_default(), object.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(namespace: &str, labels: &str, fields: &str) -> ViewKey {
        ViewKey {
            group: String::new(),
            version: "v1".to_owned(),
            resource: "pods".to_owned(),
            namespace: (!namespace.is_empty()).then(|| namespace.to_owned()),
            label_selector: labels.to_owned(),
            field_selector: fields.to_owned(),
            shard_selector: String::new(),
            representation: "json".to_owned(),
        }
    }

    /// Namespace, labels and fields of every candidate.
    fn sources(wanted: &ViewKey) -> Vec<(String, String, String)> {
        let source = |Candidate { key, .. }| {
            let ViewKey {
                namespace,
                label_selector,
                field_selector,
                ..
            } = key;
            (namespace.unwrap_or_default(), label_selector, field_selector)
        };
        candidates(wanted).into_iter().map(source).collect()
    }

    #[test]
    fn a_cluster_wide_collection_without_selectors_is_only_itself() {
        let found = candidates(&key("", "", ""));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].key, key("", "", ""));
        assert!(found[0].filter.passes_all());
    }

    #[test]
    fn every_restriction_that_can_be_evaluated_can_be_dropped_from_the_view() {
        let wanted = key("ns", "app=a", "spec.nodeName=n,metadata.name==p");
        let expected = [
            ("ns", "app=a", "metadata.name=p,spec.nodeName=n"),
            ("ns", "app=a", "spec.nodeName=n"),
            ("", "app=a", "metadata.name=p,spec.nodeName=n"),
            ("", "app=a", "spec.nodeName=n"),
            ("ns", "", "metadata.name=p,spec.nodeName=n"),
            ("ns", "", "spec.nodeName=n"),
            ("", "", "metadata.name=p,spec.nodeName=n"),
            ("", "", "spec.nodeName=n"),
        ];
        let expected = expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned()));
        assert_eq!(sources(&wanted), expected);
    }

    #[test]
    fn a_derived_collection_keeps_what_its_own_selection_would() {
        let wanted = key("ns", "app=a", "metadata.name=p");
        let app_a = |key: &str| (key == "app").then_some("a");
        for candidate in candidates(&wanted).iter().skip(1) {
            let filter = &candidate.filter;
            assert!(!filter.passes_all());
            assert!(filter.passes("ns", "p", app_a));
            let strays = [
                filter.passes("other", "p", app_a),
                filter.passes("ns", "q", app_a),
                filter.passes("ns", "p", |_| None),
            ];
            // What the view itself guarantees need not be tested again; what it lacks must be.
            let lacks = [
                candidate.key.namespace.is_none(),
                candidate.key.field_selector.is_empty(),
                candidate.key.label_selector.is_empty(),
            ];
            assert_eq!(strays.map(|passes| !passes), lacks);
        }
    }

    #[test]
    fn fields_that_need_a_schema_stay_in_the_view() {
        for fields in ["spec.nodeName=n", "metadata.name!=p", "metadata.namespace!=ns"] {
            assert_eq!(sources(&key("", "", fields)).len(), 1, "{fields}");
        }
    }

    #[test]
    fn selectors_that_upstream_refuses_derive_nothing() {
        assert_eq!(candidates(&key("ns", "a b", "metadata.name=p")).len(), 1);
        assert_eq!(candidates(&key("ns", "a", "metadata.name")).len(), 1);
    }

    #[test]
    fn shards_derive_nothing() {
        let wanted = ViewKey {
            shard_selector: "s".to_owned(),
            ..key("ns", "a", "metadata.name=p")
        };
        assert_eq!(candidates(&wanted).len(), 1);
    }

    #[test]
    fn nothing_is_derived_across_an_unknown_parameter() {
        for representation in ["json;drop=x", "json?shape=x", "json;drop=x|"] {
            let unknown = |key| ViewKey {
                representation: representation.to_owned(),
                ..key
            };
            let wanted = unknown(key("ns", "app=a", "metadata.name=p"));
            assert_eq!(candidates(&wanted).len(), 1, "{representation}");
            assert_eq!(candidates(&wanted)[0].key, wanted);
            let pod = ObjectName {
                group: "",
                resource: "pods",
                namespace: Some("ns"),
                name: "p",
            };
            assert!(
                !proves_absence(&unknown(key("", "", "")), &pod),
                "{representation}"
            );
        }
        let known = candidates(&key("ns", "app=a", "metadata.name=p"));
        assert!(known.iter().all(|candidate| candidate.key.is_understood()));
    }

    #[test]
    fn a_view_of_other_names_or_namespaces_cannot_hold_an_object() {
        let pod = ObjectName {
            group: "",
            resource: "pods",
            namespace: Some("ns"),
            name: "p",
        };
        for (view, may) in [
            (key("", "", ""), true),
            (key("ns", "app=a", "metadata.name=p,spec.nodeName=n"), true),
            (key("", "", "what upstream refuses"), true),
            (key("other", "", ""), false),
            (key("ns", "", "metadata.name=q"), false),
            (key("", "", "metadata.namespace=other"), false),
        ] {
            assert_eq!(may_hold(&view, &pod), may, "{view:?}");
        }
        let services = ObjectName {
            resource: "services",
            ..pod
        };
        assert!(!may_hold(&key("", "", ""), &services));
        let another_version = ViewKey {
            version: "v2".to_owned(),
            ..key("", "", "")
        };
        assert!(may_hold(&another_version, &pod) && proves_absence(&another_version, &pod));
    }

    #[test]
    fn absence_is_proved_only_by_a_view_that_would_hold_the_object() {
        let pod = ObjectName {
            group: "",
            resource: "pods",
            namespace: Some("ns"),
            name: "p",
        };
        for (view, proves) in [
            (key("", "", ""), true),
            (key("ns", "", ""), true),
            (key("other", "", ""), false),
            (key("", "", "metadata.name=p"), true),
            (key("ns", "", "metadata.name=p"), true),
            (key("", "", "metadata.name=p,metadata.namespace=ns"), true),
            (key("", "", "metadata.namespace=other"), false),
            (key("", "", "metadata.name=q"), false),
            (key("", "", "metadata.name!=q"), false),
            (key("", "", "spec.nodeName=n"), false),
            (key("", "", "metadata.name=p,spec.nodeName=n"), false),
            (key("", "", "metadata.name"), false),
            (key("", "app=a", ""), false),
            (key("", "!app", ""), false),
        ] {
            assert_eq!(proves_absence(&view, &pod), proves, "{view:?}");
        }
        let table = ViewKey {
            representation: "json;Table".to_owned(),
            ..key("", "", "")
        };
        assert!(proves_absence(&table, &pod));
        let shard = ViewKey {
            shard_selector: "s".to_owned(),
            ..key("", "", "")
        };
        assert!(!proves_absence(&shard, &pod));
        let metrics = ViewKey {
            group: "metrics.k8s.io".to_owned(),
            ..key("", "", "")
        };
        assert!(!proves_absence(&metrics, &pod));
        let node = ObjectName {
            resource: "pods",
            namespace: None,
            ..pod
        };
        assert!(proves_absence(&key("", "", ""), &node) && !proves_absence(&key("ns", "", ""), &node));
    }
}
