//! The bytes of a Kubernetes `Status` in each encoding, as an answer and as the last event of a watch.
//!
//! Which status to answer is decided elsewhere; here a status is only written and recognised (wire contract 6.1).

use std::borrow::Cow;

use crate::kube::media::Encoding;
use crate::kube::status::{Details, Status};

use super::meta::TypeMeta;
use super::{cbor, json, protobuf, watch};

/// What was read of a Status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusSummary {
    /// HTTP status code; 0 if absent.
    pub code: u16,
    /// Machine-readable reason; may be empty.
    pub reason: String,
    /// For people; may be empty.
    pub message: String,
    /// Name of the object that it is about; empty if it is about none.
    pub name: String,
    /// The resource of that object (`configmaps`, `deployments/scale`); may be empty.
    pub kind: String,
}

/// A Status as the body of an answer. For YAML it is JSON, which is YAML too.
pub fn encode_status(encoding: Encoding, status: &Status) -> Vec<u8> {
    let mut out = Vec::with_capacity(status.message.len() + 160);
    match encoding {
        Encoding::Json | Encoding::Yaml => {
            put_json(&mut out, status);
            out.push(b'\n');
        }
        Encoding::Protobuf => protobuf::put_unknown(&mut out, &types(), &protobuf_message(status)),
        Encoding::Cbor => {
            out.extend_from_slice(&cbor::SELF_DESCRIBED);
            put_cbor(&mut out, status);
        }
    }
    out
}

/// An `ERROR` watch event: one whole frame.
pub fn error_frame(encoding: Encoding, status: &Status) -> Vec<u8> {
    watch::put_frame(encoding, watch::ERROR, &encode_status(encoding, status))
}

/// Reads a body; `Some` only if it really is a v1 Status. Always `None` for YAML.
pub fn read_status(encoding: Encoding, body: &[u8]) -> Option<StatusSummary> {
    let (types, summary) = match encoding {
        Encoding::Yaml => return None,
        Encoding::Json => {
            let fields: json::StatusFields = json::read_exact(body, "Status").ok()?;
            let summary = StatusSummary {
                code: fields.code.unwrap_or_default(),
                reason: fields.reason,
                message: fields.message,
                name: fields.details.name,
                kind: fields.details.kind,
            };
            (fields.types, summary)
        }
        Encoding::Protobuf => {
            let unknown = protobuf::read_unknown(body).ok()?;
            let summary = read_message(unknown.raw)?;
            (unknown.types, summary)
        }
        Encoding::Cbor => cbor::read_status(body).ok()?,
    };
    types.is_status().then_some(summary)
}

/// What stands in `details`, if anything does.
fn details(status: &Status) -> Option<(Cow<'_, Details>, u32)> {
    let retry_after_seconds = status.retry_after_seconds.unwrap_or_default();
    match status.details.as_deref() {
        None if retry_after_seconds == 0 => None,
        None => Some((Cow::Owned(Details::default()), retry_after_seconds)),
        Some(details) => Some((Cow::Borrowed(details), retry_after_seconds)),
    }
}

fn types() -> TypeMeta {
    TypeMeta::new("v1", "Status")
}

fn read_message(message: &[u8]) -> Option<StatusSummary> {
    let mut summary = StatusSummary::default();
    let mut fields = protobuf::Fields::of(message);
    while let Some((field, value)) = fields.next().ok()? {
        match field {
            3 => summary.message = value.text().ok()?,
            4 => summary.reason = value.text().ok()?,
            5 => (summary.name, summary.kind) = read_details(value.bytes().ok()?)?,
            6 => summary.code = u16::try_from(value.varint().ok()?).ok()?,
            _ => {}
        }
    }
    Some(summary)
}

/// Name and kind in a message of details.
fn read_details(details: &[u8]) -> Option<(String, String)> {
    let (mut name, mut kind) = (String::new(), String::new());
    let mut fields = protobuf::Fields::of(details);
    while let Some((field, value)) = fields.next().ok()? {
        match field {
            1 => name = value.text().ok()?,
            3 => kind = value.text().ok()?,
            _ => {}
        }
    }
    Some((name, kind))
}

fn put_json(out: &mut Vec<u8>, status: &Status) {
    out.extend_from_slice(br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure""#);
    put_json_text(out, "message", &status.message);
    put_json_text(out, "reason", &status.reason);
    if let Some((details, retry_after_seconds)) = details(status) {
        json::put_key(out, "details");
        out.push(b'{');
        put_json_text(out, "name", &details.name);
        put_json_text(out, "group", &details.group);
        put_json_text(out, "kind", &details.kind);
        if !details.causes.is_empty() {
            json::put_key(out, "causes");
            out.push(b'[');
            for (at, (reason, message)) in details.causes.iter().enumerate() {
                out.extend_from_slice(if at == 0 { b"{" } else { b",{" });
                put_json_text(out, "reason", reason);
                put_json_text(out, "message", message);
                out.push(b'}');
            }
            out.push(b']');
        }
        if retry_after_seconds > 0 {
            json::put_key(out, "retryAfterSeconds");
            out.extend_from_slice(retry_after_seconds.to_string().as_bytes());
        }
        out.push(b'}');
    }
    json::put_key(out, "code");
    out.extend_from_slice(status.code.as_str().as_bytes());
    out.push(b'}');
}

fn put_json_text(out: &mut Vec<u8>, key: &str, text: &str) {
    if !text.is_empty() {
        json::put_key(out, key);
        json::put_text(out, text);
    }
}

/// Go writes every field that is no pointer, also the empty ones.
fn protobuf_message(status: &Status) -> Vec<u8> {
    use protobuf::{put_bytes, put_number};
    let mut out = Vec::with_capacity(status.message.len() + 64);
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, b"");
    put_bytes(&mut meta, 2, b"");
    put_bytes(&mut meta, 3, b"");
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, b"Failure");
    put_bytes(&mut out, 3, status.message.as_bytes());
    put_bytes(&mut out, 4, status.reason.as_bytes());
    if let Some((details, retry_after_seconds)) = details(status) {
        let mut message = Vec::new();
        put_bytes(&mut message, 1, details.name.as_bytes());
        put_bytes(&mut message, 2, details.group.as_bytes());
        put_bytes(&mut message, 3, details.kind.as_bytes());
        for (reason, text) in &details.causes {
            let mut cause = Vec::new();
            put_bytes(&mut cause, 1, reason.as_bytes());
            put_bytes(&mut cause, 2, text.as_bytes());
            put_bytes(&mut cause, 3, b"");
            put_bytes(&mut message, 4, &cause);
        }
        put_number(&mut message, 5, retry_after_seconds.into());
        put_bytes(&mut message, 6, b"");
        put_bytes(&mut out, 5, &message);
    }
    put_number(&mut out, 6, status.code.as_u16().into());
    out
}

/// Collects the members of a CBOR map, whose head states their number.
#[derive(Default)]
struct CborMap {
    count: u64,
    body: Vec<u8>,
}

impl CborMap {
    fn text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            cbor::put_text(self.key(key), text);
        }
    }

    fn key(&mut self, key: &str) -> &mut Vec<u8> {
        self.count += 1;
        cbor::put_text(&mut self.body, key);
        &mut self.body
    }

    fn put(self, out: &mut Vec<u8>) {
        cbor::put_head(out, 5, self.count);
        out.extend_from_slice(&self.body);
    }
}

fn put_cbor(out: &mut Vec<u8>, status: &Status) {
    let mut map = CborMap::default();
    map.text("kind", "Status");
    map.text("apiVersion", "v1");
    CborMap::default().put(map.key("metadata"));
    map.text("status", "Failure");
    map.text("message", &status.message);
    map.text("reason", &status.reason);
    if let Some((details, retry_after_seconds)) = details(status) {
        let mut inner = CborMap::default();
        inner.text("name", &details.name);
        inner.text("group", &details.group);
        inner.text("kind", &details.kind);
        if !details.causes.is_empty() {
            let causes = inner.key("causes");
            cbor::put_head(causes, 4, details.causes.len() as u64);
            for (reason, message) in &details.causes {
                let mut cause = CborMap::default();
                cause.text("reason", reason);
                cause.text("message", message);
                cause.put(causes);
            }
        }
        if retry_after_seconds > 0 {
            cbor::put_head(inner.key("retryAfterSeconds"), 0, retry_after_seconds.into());
        }
        inner.put(map.key("details"));
    }
    cbor::put_head(map.key("code"), 0, status.code.as_u16().into());
    map.put(out);
}
