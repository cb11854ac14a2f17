//! Objects, lists, watch events and bookmarks in the negotiated form.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::kinds::{Kind, Origin};
use crate::negotiate::{Format, Negotiated, Shape};
use crate::{json, proto, table};

/// What stands around the items of a list.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListHead {
    pub revision: u64,
    pub token: String,
    pub remaining: Option<u64>,
}

/// `includeObject` of a Table request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn parse(text: &str) -> Self {
        match text {
            "None" => Self::None,
            "Object" => Self::Object,
            _ => Self::Metadata,
        }
    }
}

/// Encodes one kind for one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoder {
    pub kind: &'static Kind,
    pub form: Negotiated,
    pub include: Include,
}

impl Encoder {
    /// A single object.
    pub(crate) fn object(&self, object: &Value) -> Vec<u8> {
        match (self.form.format, self.form.shape) {
            (Format::Json, Shape::Full) => json::bytes(object, self.kind.origin, self.form.pretty),
            (Format::Json, Shape::Partial(meta)) => json::bytes(
                &partial(object, meta.api_version()),
                Origin::BuiltIn,
                self.form.pretty,
            ),
            (Format::Json, Shape::Table(meta)) => {
                let revision = object["metadata"]["resourceVersion"].clone();
                let rows = table::rows([object], self.include);
                let head = json!({"resourceVersion": revision});
                json::bytes(
                    &table::table(head, rows, true, meta.api_version()),
                    Origin::BuiltIn,
                    self.form.pretty,
                )
            }
            (Format::Protobuf, _) => self.protobuf(object),
        }
    }

    fn protobuf(&self, object: &Value) -> Vec<u8> {
        match self.form.shape {
            Shape::Partial(meta) => proto::envelope(
                meta.api_version(),
                "PartialObjectMetadata",
                &proto::partial(object),
            ),
            _ => proto::envelope(&self.kind.api_version(), self.kind.kind, &proto::message(object)),
        }
    }

    /// A whole collection.
    pub(crate) fn list(&self, items: &[Arc<Value>], head: &ListHead) -> Vec<u8> {
        match self.form.format {
            Format::Json => self.json_list(items, head),
            Format::Protobuf => self.protobuf_list(items, head),
        }
    }

    fn json_list(&self, items: &[Arc<Value>], head: &ListHead) -> Vec<u8> {
        let mut metadata = json!({"resourceVersion": head.revision.to_string()});
        if !head.token.is_empty() {
            metadata["continue"] = json!(head.token);
        }
        if let Some(n) = head.remaining {
            metadata["remainingItemCount"] = json!(n);
        }
        let (value, origin) = match self.form.shape {
            Shape::Table(meta) => {
                let rows = table::rows(items.iter().map(Arc::as_ref), self.include);
                (
                    table::table(metadata, rows, true, meta.api_version()),
                    Origin::BuiltIn,
                )
            }
            Shape::Partial(meta) => {
                let items: Vec<Value> = items.iter().map(|i| partial(i, meta.api_version())).collect();
                let value = json!({"kind": "PartialObjectMetadataList", "apiVersion": meta.api_version(),
                    "metadata": metadata, "items": items});
                (value, Origin::BuiltIn)
            }
            Shape::Full => {
                if self.kind.origin == Origin::Custom && metadata.get("continue").is_none() {
                    metadata["continue"] = json!("");
                }
                let items: Vec<Value> = items.iter().map(|i| self.list_item(i)).collect();
                let value = json!({"kind": self.kind.list_kind(), "apiVersion": self.kind.api_version(),
                    "metadata": metadata, "items": items});
                (value, self.kind.origin)
            }
        };
        json::bytes(&value, origin, self.form.pretty)
    }

    /// Items of built-in lists carry no kind and apiVersion, those of custom lists do.
    fn list_item(&self, item: &Value) -> Value {
        let mut item = item.clone();
        if let (Origin::BuiltIn, Some(map)) = (self.kind.origin, item.as_object_mut()) {
            map.remove("kind");
            map.remove("apiVersion");
        }
        item
    }

    fn protobuf_list(&self, items: &[Arc<Value>], head: &ListHead) -> Vec<u8> {
        let meta = proto::list_meta(&head.revision.to_string(), &head.token, head.remaining);
        // The one live exception to "metadata is field 1, items are field 2".
        let (api_version, kind, meta_field, item_field) = match self.form.shape {
            Shape::Partial(crate::negotiate::Meta::V1beta1) => (
                "meta.k8s.io/v1beta1".to_owned(),
                "PartialObjectMetadataList".to_owned(),
                2,
                1,
            ),
            Shape::Partial(v) => (
                v.api_version().to_owned(),
                "PartialObjectMetadataList".to_owned(),
                1,
                2,
            ),
            _ => (self.kind.api_version(), self.kind.list_kind(), 1, 2),
        };
        let mut raw = Vec::new();
        if meta_field == 1 {
            proto::field(&mut raw, 1, &meta);
        }
        for item in items {
            let message = match self.form.shape {
                Shape::Partial(_) => proto::partial(item),
                _ => proto::message(item),
            };
            proto::field(&mut raw, item_field, &message);
        }
        if meta_field == 2 {
            proto::field(&mut raw, 2, &meta);
        }
        proto::envelope(&api_version, &kind, &raw)
    }

    /// One framed watch event. Only the first event of a Table watch names its columns.
    pub(crate) fn event(&self, event: &str, object: &Value, first: bool) -> Vec<u8> {
        match (self.form.format, self.form.shape) {
            (Format::Protobuf, _) => proto::watch_frame(event, &self.protobuf(object)),
            (_, Shape::Full) => wrap(event, &json::bytes(object, self.kind.origin, false)),
            (_, Shape::Partial(meta)) => wrap(
                event,
                &json::bytes(&partial(object, meta.api_version()), Origin::BuiltIn, false),
            ),
            (_, Shape::Table(meta)) => {
                let head = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
                let rows = table::rows([object], self.include);
                let value = table::table(head, rows, first, meta.api_version());
                wrap(event, &json::bytes(&value, Origin::BuiltIn, false))
            }
        }
    }

    /// A bookmark at `revision`.
    pub(crate) fn bookmark(&self, revision: u64, end: End, first: bool) -> Vec<u8> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if end == End::OfInitialEvents {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object =
            json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata});
        self.event("BOOKMARK", &object, first)
    }

    /// An ERROR event.
    pub(crate) fn error(&self, status: &Value) -> Vec<u8> {
        match self.form.format {
            Format::Json => wrap("ERROR", &json::bytes(status, Origin::BuiltIn, false)),
            Format::Protobuf => proto::watch_frame("ERROR", &proto::status(status)),
        }
    }
}

/// Whether a bookmark marks the end of the initial events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    OfInitialEvents,
    No,
}

fn wrap(event: &str, object: &[u8]) -> Vec<u8> {
    let mut out = format!("{{\"type\":\"{event}\",\"object\":").into_bytes();
    out.extend_from_slice(object.trim_ascii_end());
    out.extend_from_slice(b"}\n");
    out
}

/// `PartialObjectMetadata` of an object.
pub(crate) fn partial(object: &Value, api_version: &str) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": api_version, "metadata": object["metadata"]})
}
