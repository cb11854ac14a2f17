//! JSON in the key order kube-apiserver writes: struct order for built-in kinds, sorted keys for custom ones.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::Value;

use crate::kinds::Origin;

/// Compact or indented bytes with a final newline.
pub(crate) fn bytes(value: &Value, origin: Origin, pretty: bool) -> Vec<u8> {
    let ordered = Ordered {
        value,
        order: Order::of(origin),
    };
    let written = if pretty {
        serde_json::to_vec_pretty(&ordered)
    } else {
        serde_json::to_vec(&ordered)
    };
    let mut out = written.expect("a JSON value always serializes");
    if !pretty {
        out.push(b'\n');
    }
    out
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// Go struct order, as far as [`RANKS`] knows it; other keys follow alphabetically.
    Struct,
    /// The same inside `details` of a Status.
    Details,
    Causes,
    ManagedFields,
    /// Go maps: alphabetical.
    Sorted,
}

impl Order {
    fn of(origin: Origin) -> Self {
        match origin {
            Origin::BuiltIn => Self::Struct,
            Origin::Custom => Self::Sorted,
        }
    }

    fn below(self, key: &str) -> Self {
        match (self, key) {
            (Self::Sorted, _)
            | (
                _,
                "labels" | "annotations" | "data" | "stringData" | "binaryData" | "matchLabels" | "fieldsV1",
            ) => Self::Sorted,
            (_, "selector") => Self::Sorted,
            (_, "details") => Self::Details,
            (_, "causes") => Self::Causes,
            (_, "managedFields") => Self::ManagedFields,
            _ => Self::Struct,
        }
    }

    fn rank(self, key: &str) -> usize {
        let table: &[&str] = match self {
            Self::Sorted => return 0,
            Self::Struct => RANKS,
            Self::Details => &["name", "group", "kind", "uid", "causes"],
            Self::Causes => &["reason", "message", "field"],
            Self::ManagedFields => &[
                "manager",
                "operation",
                "apiVersion",
                "time",
                "fieldsType",
                "fieldsV1",
            ],
        };
        table.iter().position(|k| *k == key).unwrap_or(table.len())
    }
}

/// `status` to `code` stand in the order of Status; every other kind has nothing behind `status`.
const RANKS: &[&str] = &[
    "kind",
    "apiVersion",
    "metadata",
    "name",
    "type",
    "object",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "continue",
    "remainingItemCount",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
    "managedFields",
    "groupVersion",
    "items",
    "columnDefinitions",
    "rows",
    "cells",
    "format",
    "description",
    "priority",
    "spec",
    "status",
    "message",
    "reason",
    "details",
    "code",
];

struct Ordered<'a> {
    value: &'a Value,
    order: Order,
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.value {
            Value::Object(map) => {
                let mut keys: Vec<&String> = map.keys().collect();
                keys.sort_by(|a, b| self.order.rank(a).cmp(&self.order.rank(b)).then_with(|| a.cmp(b)));
                let mut out = serializer.serialize_map(Some(keys.len()))?;
                for key in keys {
                    out.serialize_entry(
                        key,
                        &Ordered {
                            value: &map[key],
                            order: self.order.below(key),
                        },
                    )?;
                }
                out.end()
            }
            Value::Array(items) => {
                let mut out = serializer.serialize_seq(Some(items.len()))?;
                for value in items {
                    out.serialize_element(&Ordered {
                        value,
                        order: self.order,
                    })?;
                }
                out.end()
            }
            plain => plain.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(value: Value, origin: Origin) -> String {
        String::from_utf8(bytes(&value, origin, false)).unwrap()
    }

    #[test]
    fn built_in_kinds_keep_struct_order_and_maps_are_sorted() {
        let value = json!({"data": {"name": "1", "kind": "2"}, "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"uid": "u", "name": "a", "labels": {"name": "x", "app": "y"}, "resourceVersion": "1", "namespace": "n"}});
        assert_eq!(
            text(value, Origin::BuiltIn),
            "{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"a\",\"namespace\":\"n\",\"uid\":\"u\",\
             \"resourceVersion\":\"1\",\"labels\":{\"app\":\"y\",\"name\":\"x\"}},\"data\":{\"kind\":\"2\",\"name\":\"1\"}}\n"
        );
    }

    #[test]
    fn custom_kinds_are_sorted_throughout() {
        let value = json!({"kind": "GaugeList", "metadata": {"continue": "", "resourceVersion": "1"}, "items": [],
            "apiVersion": "edge.example.io/v1"});
        assert_eq!(
            text(value, Origin::Custom),
            "{\"apiVersion\":\"edge.example.io/v1\",\"items\":[],\"kind\":\"GaugeList\",\
             \"metadata\":{\"continue\":\"\",\"resourceVersion\":\"1\"}}\n"
        );
    }

    #[test]
    fn a_status_is_written_as_the_real_one() {
        let kind = crate::kinds::by_resource("", "v1", "configmaps").unwrap();
        assert_eq!(
            text(
                crate::status::Status::not_found(kind, "nope").value(),
                Origin::BuiltIn
            ),
            "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"configmaps \
             \\\"nope\\\" not found\",\"reason\":\"NotFound\",\"details\":{\"name\":\"nope\",\"kind\":\"configmaps\"},\
             \"code\":404}\n"
        );
    }
}
