//! The bytes of a Kubernetes `Status` in each encoding, as an answer and as the last event of a watch.
//!
//! Which status to answer is decided elsewhere; here a status is only written and recognised (wire contract 6.1).

use crate::kube::media::Encoding;

use super::meta::TypeMeta;
use super::{cbor, json, protobuf, watch};

/// A failure to be told to a client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusFields<'a> {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason, e.g. `ServiceUnavailable`; left out if empty.
    pub reason: &'a str,
    /// For people; left out if empty.
    pub message: &'a str,
    /// What the failure is about.
    pub details: Option<StatusDetails<'a>>,
    /// A new token with which an expired paged list may go on; left out if empty.
    pub continue_token: &'a str,
}

/// What a failure is about. Empty texts and zero are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusDetails<'a> {
    /// Name of the object.
    pub name: &'a str,
    /// API group.
    pub group: &'a str,
    /// Resource, despite the name (`configmaps`).
    pub kind: &'a str,
    /// Pairs of reason and message.
    pub causes: Vec<(&'a str, &'a str)>,
    /// Seconds after which to try again.
    pub retry_after_seconds: u32,
}

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
pub fn encode_status(encoding: Encoding, status: &StatusFields<'_>) -> Vec<u8> {
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
pub fn error_frame(encoding: Encoding, status: &StatusFields<'_>) -> Vec<u8> {
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

fn put_json(out: &mut Vec<u8>, status: &StatusFields<'_>) {
    out.extend_from_slice(br#"{"kind":"Status","apiVersion":"v1","metadata":{"#);
    put_json_text(out, "continue", status.continue_token);
    out.extend_from_slice(br#"},"status":"Failure""#);
    put_json_text(out, "message", status.message);
    put_json_text(out, "reason", status.reason);
    if let Some(details) = &status.details {
        json::put_key(out, "details");
        out.push(b'{');
        put_json_text(out, "name", details.name);
        put_json_text(out, "group", details.group);
        put_json_text(out, "kind", details.kind);
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
        if details.retry_after_seconds > 0 {
            json::put_key(out, "retryAfterSeconds");
            out.extend_from_slice(details.retry_after_seconds.to_string().as_bytes());
        }
        out.push(b'}');
    }
    json::put_key(out, "code");
    out.extend_from_slice(status.code.to_string().as_bytes());
    out.push(b'}');
}

fn put_json_text(out: &mut Vec<u8>, key: &str, text: &str) {
    if !text.is_empty() {
        json::put_key(out, key);
        json::put_text(out, text);
    }
}

/// Go writes every field that is no pointer, also the empty ones.
fn protobuf_message(status: &StatusFields<'_>) -> Vec<u8> {
    use protobuf::{put_bytes, put_number};
    let mut out = Vec::with_capacity(status.message.len() + 64);
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, b"");
    put_bytes(&mut meta, 2, b"");
    put_bytes(&mut meta, 3, status.continue_token.as_bytes());
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, b"Failure");
    put_bytes(&mut out, 3, status.message.as_bytes());
    put_bytes(&mut out, 4, status.reason.as_bytes());
    if let Some(details) = &status.details {
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
        put_number(&mut message, 5, details.retry_after_seconds.into());
        put_bytes(&mut message, 6, b"");
        put_bytes(&mut out, 5, &message);
    }
    put_number(&mut out, 6, status.code.into());
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

fn put_cbor(out: &mut Vec<u8>, status: &StatusFields<'_>) {
    let mut map = CborMap::default();
    map.text("kind", "Status");
    map.text("apiVersion", "v1");
    let mut meta = CborMap::default();
    meta.text("continue", status.continue_token);
    meta.put(map.key("metadata"));
    map.text("status", "Failure");
    map.text("message", status.message);
    map.text("reason", status.reason);
    if let Some(details) = &status.details {
        let mut inner = CborMap::default();
        inner.text("name", details.name);
        inner.text("group", details.group);
        inner.text("kind", details.kind);
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
        if details.retry_after_seconds > 0 {
            cbor::put_head(
                inner.key("retryAfterSeconds"),
                0,
                details.retry_after_seconds.into(),
            );
        }
        inner.put(map.key("details"));
    }
    cbor::put_head(map.key("code"), 0, status.code.into());
    map.put(out);
}
