//! The names of protobuf fields: of the metadata that every object has, of what `kubectl get pods` shows, of ConfigMaps and
//! Secrets.
//!
//! From the public definitions of Kubernetes: `k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto` and
//! `k8s.io/api/core/v1/generated.proto`. Field numbers never change, new ones are only added; what is not here is not told.
//! Tests compare with what an apiserver sent in JSON.

use crate::wire::meta::TypeMeta;

/// A field with its number and JSON name.
pub(super) struct Named {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) form: Form,
}

/// What a field holds, and when Go leaves it out of JSON.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Left out if empty.
    Text,
    Flag,
    /// `omitempty` in Go on what is no pointer: protobuf has the zero, JSON does not.
    NumberUnlessZero,
    Number,
    /// `metav1.Time`.
    Time,
    /// A message with JSON in its field 1: `FieldsV1`.
    Json,
    Texts,
    TextMap,
    /// Base64 in JSON.
    BytesMap,
    Message(&'static [Named]),
    Messages(&'static [Named]),
}

/// The table of a type.
pub(super) fn of(types: &TypeMeta) -> &'static [Named] {
    match (types.api_version.as_str(), types.kind.as_str()) {
        ("v1", "Pod") => POD,
        ("v1", "ConfigMap") => CONFIG_MAP,
        ("v1", "Secret") => SECRET,
        // Field 1 of every object (wire contract 3.3).
        _ => OBJECT,
    }
}

const fn named(number: u32, name: &'static str, form: Form) -> Named {
    Named { number, name, form }
}

const OBJECT: &[Named] = &[named(1, "metadata", Form::Message(OBJECT_META))];

const OBJECT_META: &[Named] = &[
    named(1, "name", Form::Text),
    named(2, "generateName", Form::Text),
    named(3, "namespace", Form::Text),
    named(4, "selfLink", Form::Text),
    named(5, "uid", Form::Text),
    named(6, "resourceVersion", Form::Text),
    named(7, "generation", Form::NumberUnlessZero),
    named(8, "creationTimestamp", Form::Time),
    named(9, "deletionTimestamp", Form::Time),
    named(10, "deletionGracePeriodSeconds", Form::Number),
    named(11, "labels", Form::TextMap),
    named(12, "annotations", Form::TextMap),
    named(13, "ownerReferences", Form::Messages(OWNER_REFERENCE)),
    named(14, "finalizers", Form::Texts),
    named(17, "managedFields", Form::Messages(MANAGED_FIELDS)),
];

const OWNER_REFERENCE: &[Named] = &[
    named(1, "kind", Form::Text),
    named(3, "name", Form::Text),
    named(4, "uid", Form::Text),
    named(5, "apiVersion", Form::Text),
    named(6, "controller", Form::Flag),
    named(7, "blockOwnerDeletion", Form::Flag),
];

const MANAGED_FIELDS: &[Named] = &[
    named(1, "manager", Form::Text),
    named(2, "operation", Form::Text),
    named(3, "apiVersion", Form::Text),
    named(4, "time", Form::Time),
    named(6, "fieldsType", Form::Text),
    named(7, "fieldsV1", Form::Json),
    named(8, "subresource", Form::Text),
];

const CONFIG_MAP: &[Named] = &[
    named(1, "metadata", Form::Message(OBJECT_META)),
    named(2, "data", Form::TextMap),
    named(3, "binaryData", Form::BytesMap),
    named(4, "immutable", Form::Flag),
];

const SECRET: &[Named] = &[
    named(1, "metadata", Form::Message(OBJECT_META)),
    named(2, "data", Form::BytesMap),
    named(3, "type", Form::Text),
    named(4, "stringData", Form::TextMap),
    named(5, "immutable", Form::Flag),
];

const POD: &[Named] = &[
    named(1, "metadata", Form::Message(OBJECT_META)),
    named(2, "spec", Form::Message(POD_SPEC)),
    named(3, "status", Form::Message(POD_STATUS)),
];

const POD_SPEC: &[Named] = &[
    named(2, "containers", Form::Messages(CONTAINER)),
    named(3, "restartPolicy", Form::Text),
    named(9, "serviceAccount", Form::Text),
    named(8, "serviceAccountName", Form::Text),
    named(10, "nodeName", Form::Text),
    named(20, "initContainers", Form::Messages(CONTAINER)),
];

const CONTAINER: &[Named] = &[
    named(1, "name", Form::Text),
    named(2, "image", Form::Text),
    named(24, "restartPolicy", Form::Text),
];

const POD_STATUS: &[Named] = &[
    named(1, "phase", Form::Text),
    named(2, "conditions", Form::Messages(CONDITION)),
    named(3, "message", Form::Text),
    named(4, "reason", Form::Text),
    named(5, "hostIP", Form::Text),
    named(6, "podIP", Form::Text),
    named(7, "startTime", Form::Time),
    named(8, "containerStatuses", Form::Messages(CONTAINER_STATUS)),
    named(9, "qosClass", Form::Text),
    named(10, "initContainerStatuses", Form::Messages(CONTAINER_STATUS)),
    named(11, "nominatedNodeName", Form::Text),
];

const CONDITION: &[Named] = &[
    named(1, "type", Form::Text),
    named(2, "status", Form::Text),
    named(3, "lastProbeTime", Form::Time),
    named(4, "lastTransitionTime", Form::Time),
    named(5, "reason", Form::Text),
    named(6, "message", Form::Text),
    named(7, "observedGeneration", Form::NumberUnlessZero),
];

const CONTAINER_STATUS: &[Named] = &[
    named(1, "name", Form::Text),
    named(2, "state", Form::Message(CONTAINER_STATE)),
    named(3, "lastState", Form::Message(CONTAINER_STATE)),
    named(4, "ready", Form::Flag),
    named(5, "restartCount", Form::Number),
    named(6, "image", Form::Text),
    named(7, "imageID", Form::Text),
    named(8, "containerID", Form::Text),
    named(9, "started", Form::Flag),
];

const CONTAINER_STATE: &[Named] = &[
    named(1, "waiting", Form::Message(WAITING)),
    named(2, "running", Form::Message(RUNNING)),
    named(3, "terminated", Form::Message(TERMINATED)),
];

const WAITING: &[Named] = &[named(1, "reason", Form::Text), named(2, "message", Form::Text)];

const RUNNING: &[Named] = &[named(1, "startedAt", Form::Time)];

const TERMINATED: &[Named] = &[
    named(1, "exitCode", Form::Number),
    named(2, "signal", Form::NumberUnlessZero),
    named(3, "reason", Form::Text),
    named(4, "message", Form::Text),
    named(5, "startedAt", Form::Time),
    named(6, "finishedAt", Form::Time),
    named(7, "containerID", Form::Text),
];
