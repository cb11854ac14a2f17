//! Protobuf as Kubernetes frames it, without schemas.
//!
//! Metadata is encoded with its real field numbers; whatever else an object has is JSON text in field 100, so the
//! messages are structurally real and come back whole through [`decode`].

use serde_json::{Map, Value, json};

use crate::{clock, network};

/// In front of every protobuf body.
pub(crate) const MAGIC: &[u8] = b"k8s\0";
/// Where the rest of an object is kept; no Kubernetes type uses it.
pub(crate) const REST: u32 = 100;

pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).expect("seven bits"));
}

pub(crate) fn field(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    varint(out, u64::from(number << 3 | 2));
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn number(out: &mut Vec<u8>, field: u32, value: u64) {
    varint(out, u64::from(field << 3));
    varint(out, value);
}

/// `magic + runtime.Unknown`.
pub(crate) fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = envelope_head(api_version, kind, raw.len());
    out.extend_from_slice(raw);
    out.extend_from_slice(ENVELOPE_TAIL);
    out
}

/// Everything before the raw message, whose length must be known.
pub(crate) fn envelope_head(api_version: &str, kind: &str, raw_len: usize) -> Vec<u8> {
    let mut type_meta = Vec::new();
    field(&mut type_meta, 1, api_version.as_bytes());
    field(&mut type_meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    field(&mut out, 1, &type_meta);
    varint(&mut out, 2 << 3 | 2);
    varint(&mut out, raw_len as u64);
    out
}

/// Empty contentEncoding and contentType.
pub(crate) const ENVELOPE_TAIL: &[u8] = &[0x1a, 0, 0x22, 0];

/// A length-prefixed watch frame; `object` is a whole envelope.
pub(crate) fn watch_frame(event: &str, object: &[u8]) -> Vec<u8> {
    let mut extension = Vec::new();
    field(&mut extension, 1, object);
    let mut message = Vec::new();
    field(&mut message, 1, event.as_bytes());
    field(&mut message, 2, &extension);
    let mut out = u32::try_from(message.len())
        .expect("a frame under 4 GiB")
        .to_be_bytes()
        .to_vec();
    out.extend(message);
    out
}

/// The message of one object: metadata in field 1, the rest in field 100.
pub(crate) fn message(object: &Value) -> Vec<u8> {
    let mut out = partial(object);
    out.extend(network::fields(object));
    let mut rest = object.as_object().cloned().unwrap_or_default();
    for known in ["kind", "apiVersion", "metadata"] {
        rest.remove(known);
    }
    let mut metadata = object["metadata"].as_object().cloned().unwrap_or_default();
    metadata.retain(|k, _| !META.contains(&k.as_str()));
    if !metadata.is_empty() {
        rest.insert("metadata".into(), Value::Object(metadata));
    }
    if !rest.is_empty() {
        field(&mut out, REST, Value::Object(rest).to_string().as_bytes());
    }
    out
}

/// A message with metadata alone, as `PartialObjectMetadata` is.
pub(crate) fn partial(object: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, 1, &object_meta(&object["metadata"]));
    out
}

/// Metadata keys that [`object_meta`] writes.
const META: &[&str] = &[
    "name",
    "generateName",
    "namespace",
    "selfLink",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "finalizers",
];

fn object_meta(meta: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    let text = |key: &str| meta[key].as_str().unwrap_or_default().as_bytes();
    for (n, key) in (1..).zip(&META[..6]) {
        field(&mut out, n, text(key));
    }
    number(&mut out, 7, meta["generation"].as_u64().unwrap_or(0));
    field(&mut out, 8, &time(&meta["creationTimestamp"]).unwrap_or_default());
    if let Some(at) = time(&meta["deletionTimestamp"]) {
        field(&mut out, 9, &at);
    }
    if let Some(seconds) = meta["deletionGracePeriodSeconds"].as_u64() {
        number(&mut out, 10, seconds);
    }
    for (n, key) in [(11, "labels"), (12, "annotations")] {
        let mut entries: Vec<_> = meta[key].as_object().into_iter().flatten().collect();
        entries.sort_by_key(|(k, _)| k.as_str());
        for (k, v) in entries {
            let mut entry = Vec::new();
            field(&mut entry, 1, k.as_bytes());
            field(&mut entry, 2, v.as_str().unwrap_or_default().as_bytes());
            field(&mut out, n, &entry);
        }
    }
    for finalizer in meta["finalizers"].as_array().into_iter().flatten() {
        field(&mut out, 14, finalizer.as_str().unwrap_or_default().as_bytes());
    }
    out
}

/// `Time {seconds, nanos}`, or `None` if it is not a time.
pub(crate) fn time(value: &Value) -> Option<Vec<u8>> {
    let seconds = clock::parse_rfc3339(value.as_str()?)?;
    let mut out = Vec::new();
    number(&mut out, 1, u64::try_from(seconds).ok()?);
    number(&mut out, 2, 0);
    Some(out)
}

/// ListMeta without selfLink.
pub(crate) fn list_meta(revision: &str, token: &str, remaining: Option<u64>) -> Vec<u8> {
    let mut out = Vec::new();
    field(&mut out, 1, b"");
    field(&mut out, 2, revision.as_bytes());
    field(&mut out, 3, token.as_bytes());
    if let Some(n) = remaining {
        number(&mut out, 4, n);
    }
    out
}

/// A whole `Status` envelope from its JSON form.
pub(crate) fn status(value: &Value) -> Vec<u8> {
    let text = |v: &Value| v.as_str().unwrap_or_default().as_bytes().to_vec();
    let mut out = Vec::new();
    field(
        &mut out,
        1,
        &list_meta(
            "",
            value["metadata"]["continue"].as_str().unwrap_or_default(),
            None,
        ),
    );
    field(&mut out, 2, &text(&value["status"]));
    field(&mut out, 3, &text(&value["message"]));
    field(&mut out, 4, &text(&value["reason"]));
    if let Some(details) = value.get("details") {
        let mut message = Vec::new();
        for (n, key) in [(1, "name"), (2, "group"), (3, "kind")] {
            field(&mut message, n, &text(&details[key]));
        }
        for cause in details["causes"].as_array().into_iter().flatten() {
            let mut inner = Vec::new();
            for (n, key) in [(1, "reason"), (2, "message"), (3, "field")] {
                field(&mut inner, n, &text(&cause[key]));
            }
            field(&mut message, 4, &inner);
        }
        number(
            &mut message,
            5,
            details["retryAfterSeconds"].as_u64().unwrap_or(0),
        );
        field(&mut message, 6, &text(&details["uid"]));
        field(&mut out, 5, &message);
    }
    number(&mut out, 6, value["code"].as_u64().unwrap_or(0));
    envelope("v1", "Status", &out)
}

/// One field of a message.
pub(crate) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// Splits a message into its fields; `None` when it is not protobuf.
pub(crate) fn fields(mut bytes: &[u8]) -> Option<Vec<(u32, Field<'_>)>> {
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let tag = take_varint(&mut bytes)?;
        let number = u32::try_from(tag >> 3).ok()?;
        let value = match tag & 7 {
            0 => Field::Number(take_varint(&mut bytes)?),
            2 => {
                let len = usize::try_from(take_varint(&mut bytes)?).ok()?;
                let (head, tail) = bytes.split_at_checked(len)?;
                bytes = tail;
                Field::Bytes(head)
            }
            _ => return None,
        };
        out.push((number, value));
    }
    Some(out)
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

/// The text in field `number` of a message.
pub(crate) fn text(fields: &[(u32, Field<'_>)], number: u32) -> Option<String> {
    bytes_of(fields, number).map(|b| String::from_utf8_lossy(b).into_owned())
}

/// The bytes in field `number` of a message.
pub(crate) fn bytes_of<'a>(fields: &[(u32, Field<'a>)], number: u32) -> Option<&'a [u8]> {
    fields.iter().rev().find_map(|(n, f)| match f {
        Field::Bytes(b) if *n == number => Some(*b),
        _ => None,
    })
}

/// apiVersion, kind and raw message of an envelope.
pub(crate) fn open(body: &[u8]) -> Option<(String, String, &[u8])> {
    let unknown = fields(body.strip_prefix(MAGIC)?)?;
    let type_meta = fields(bytes_of(&unknown, 1)?)?;
    Some((
        text(&type_meta, 1)?,
        text(&type_meta, 2)?,
        bytes_of(&unknown, 2).unwrap_or_default(),
    ))
}

/// An object from a protobuf body: metadata, and what field 100 holds. Fields of real types are not understood.
pub(crate) fn decode(body: &[u8]) -> Option<Value> {
    let (api_version, kind, raw) = open(body)?;
    let message = fields(raw)?;
    let mut object = match bytes_of(&message, REST) {
        Some(rest) => serde_json::from_slice(rest).ok()?,
        None => Value::Object(Map::new()),
    };
    let mut meta = decode_meta(bytes_of(&message, 1).unwrap_or_default())?;
    if let Value::Object(rest) = object["metadata"].take() {
        meta.extend(rest);
    }
    object["metadata"] = Value::Object(meta);
    object["apiVersion"] = json!(api_version);
    object["kind"] = json!(kind);
    Some(object)
}

fn decode_meta(bytes: &[u8]) -> Option<Map<String, Value>> {
    let mut meta = Map::new();
    for (n, f) in fields(bytes)? {
        match (n, f) {
            (1..=6, Field::Bytes(b)) if !b.is_empty() => {
                meta.insert(META[n as usize - 1].into(), json!(String::from_utf8_lossy(b)));
            }
            (7, Field::Number(v)) if v > 0 => {
                meta.insert("generation".into(), json!(v));
            }
            (8 | 9, Field::Bytes(b)) if !b.is_empty() => {
                if let Some((1, Field::Number(seconds))) = fields(b)?.first() {
                    let at = clock::rfc3339(i64::try_from(*seconds).ok()?);
                    meta.insert(META[n as usize - 1].into(), json!(at));
                }
            }
            (10, Field::Number(v)) => {
                meta.insert("deletionGracePeriodSeconds".into(), json!(v));
            }
            (11 | 12, Field::Bytes(b)) => {
                let key = if n == 11 { "labels" } else { "annotations" };
                let entry = fields(b)?;
                let map = meta.entry(key).or_insert_with(|| json!({}));
                map[text(&entry, 1)?] = json!(text(&entry, 2).unwrap_or_default());
            }
            (14, Field::Bytes(b)) => {
                let list = meta.entry("finalizers").or_insert_with(|| json!([]));
                list.as_array_mut()?.push(json!(String::from_utf8_lossy(b)));
            }
            _ => {}
        }
    }
    Some(meta)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
        digits
            .chunks(2)
            .map(|c| u8::from_str_radix(&c.iter().collect::<String>(), 16).unwrap())
            .collect()
    }

    #[test]
    fn an_end_bookmark_is_the_real_serializers_bytes() {
        let object = json!({"metadata": {"resourceVersion": "42", "annotations": {"k8s.io/initial-events-end": "true"}}});
        let frame = watch_frame("BOOKMARK", &envelope("v1", "ConfigMap", &message(&object)));
        assert_eq!(
            frame,
            hex("000000600a08424f4f4b4d41524b12540a526b3873000a0f0a0276311209436f
                 6e6669674d617012370a350a0012001a0022002a00320234323800420062210a
                 196b38732e696f2f696e697469616c2d6576656e74732d656e64120474727565
                 1a002200")
        );
    }

    #[test]
    fn an_error_frame_is_the_real_serializers_bytes() {
        let status = status(&crate::status::Status::too_old(5, 9).value());
        assert_eq!(
            watch_frame("ERROR", &status),
            hex("000000610a054552524f5212580a566b3873000a0c0a02763112065374617475
                 73123e0a060a0012001a0012074661696c7572651a1f746f6f206f6c64207265
                 736f757263652076657273696f6e3a203520283929220745787069726564309a
                 031a002200")
        );
    }

    #[test]
    fn metadata_with_times_and_labels_is_the_real_serializers_bytes() {
        let object = json!({"metadata": {"name": "a", "namespace": "ns1", "uid": "u-1", "resourceVersion": "10",
            "labels": {"x": "y"}}});
        assert_eq!(
            partial(&object),
            hex("0a210a0161 1200 1a036e7331 2200 2a03752d31 32023130 3800 4200 5a06 0a0178 120179")
        );
        let object = json!({"metadata": {"name": "d", "namespace": "ns1", "uid": "u-4", "resourceVersion": "14",
            "creationTimestamp": "2023-11-14T22:13:20Z", "deletionTimestamp": "2023-11-14T22:13:20Z"}});
        assert_eq!(
            partial(&object),
            hex("0a2b0a016412001a036e733122002a03752d3432023134380042080880e2cfaa0610004a080880e2cfaa061000")
        );
    }

    #[test]
    fn an_object_survives_its_protobuf_form() {
        let object = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "p", "namespace": "n", "uid": "u",
            "resourceVersion": "7", "generation": 2, "creationTimestamp": "2023-11-14T22:13:20Z",
            "labels": {"a": "b"}, "finalizers": ["f"], "ownerReferences": [{"name": "o"}]},
            "spec": {"nodeName": "edge-1"}});
        let body = envelope("v1", "Pod", &message(&object));
        assert_eq!(decode(&body), Some(object));
    }
}
