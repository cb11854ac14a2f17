//! What nobody is told who has not asked for it: the content of Secrets and of what is like them. Pure.
//!
//! What stays is named here, not what goes: type, identity, and of `data` the keys. Annotations go as a whole: several
//! programs keep a copy of the object in one, `kubectl apply` in `last-applied-configuration`.

use serde_json::{Map, Value};

/// Instead of a value.
const HIDDEN: &str = "(hidden)";

const KEPT: [&str; 4] = ["apiVersion", "kind", "type", "immutable"];

/// Where the keys are told.
const DATA: [&str; 2] = ["data", "stringData"];

const METADATA: [&str; 13] = [
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "ownerReferences",
    "finalizers",
    "selfLink",
];

/// Whether what objects of this resource hold is secret: Secrets, bootstrap tokens among them, and what other groups call so
/// (`oauthaccesstokens.oauth.openshift.io`, `tokens.management.cattle.io`).
pub(super) fn is_secret(resource: &str) -> bool {
    ["secrets", "tokens", "credentials", "passwords"]
        .iter()
        .any(|ending| resource.ends_with(ending))
}

/// Takes the values out of one.
pub(super) fn values(object: &mut Value) {
    let Value::Object(members) = std::mem::take(object) else {
        return;
    };
    let kept = members.into_iter().filter_map(|(key, value)| {
        let key_text = key.as_str();
        if KEPT.contains(&key_text) {
            Some((key, value))
        } else if DATA.contains(&key_text) {
            Some((key, only_keys(value)))
        } else if key_text == "metadata" {
            Some((key, identity(value)))
        } else {
            None
        }
    });
    *object = Value::Object(kept.collect());
}

fn only_keys(value: Value) -> Value {
    let Value::Object(members) = value else {
        return Value::String(HIDDEN.to_owned());
    };
    let keys = members
        .into_iter()
        .map(|(key, _)| (key, Value::String(HIDDEN.to_owned())));
    Value::Object(keys.collect())
}

fn identity(metadata: Value) -> Value {
    let Value::Object(members) = metadata else {
        return Value::Object(Map::new());
    };
    let known = members
        .into_iter()
        .filter(|(key, _)| METADATA.contains(&key.as_str()));
    Value::Object(known.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn of_a_secret_nothing_is_told_but_what_it_is_and_its_keys() {
        let mut secret = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
            "metadata": {
                "name": "s", "namespace": "a", "labels": {"app": "web"},
                "annotations": {"kubectl.kubernetes.io/last-applied-configuration": "{\"data\":{\"p\":\"cGxhbnRlZA==\"}}", "other": "planted"},
                "managedFields": [{"fieldsV1": {"f:data": {"f:p": {}}}}],
            },
            "data": {"p": "cGxhbnRlZA=="}, "stringData": {"q": "planted"}, "spec": {"password": "planted"},
        });
        values(&mut secret);
        assert_eq!(
            secret,
            json!({
                "apiVersion": "v1", "kind": "Secret", "type": "Opaque", "immutable": true,
                "metadata": {"name": "s", "namespace": "a", "labels": {"app": "web"}},
                "data": {"p": "(hidden)"}, "stringData": {"q": "(hidden)"},
            })
        );
        let mut odd = json!({"kind": "Secret", "data": "planted", "metadata": "planted"});
        values(&mut odd);
        assert!(!odd.to_string().contains("planted"), "{odd}");
    }

    #[test]
    fn what_is_like_a_secret_is_known_by_its_name() {
        for (resource, expected) in [
            ("secrets", true),
            ("sealedsecrets", true),
            ("oauthaccesstokens", true),
            ("tokens", true),
            ("configmaps", false),
            ("pods", false),
        ] {
            assert_eq!(is_secret(resource), expected, "{resource}");
        }
    }
}
