//! A collection of any size that is generated while it is sent.
//!
//! The items never change; selectors and limits are ignored, as a server may do with limits. A watch or list of all namespaces does
//! not include them.

use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use serde_json::json;

use crate::body::{self, Body, Sender};
use crate::encode::{Encoder, End};
use crate::gzip;
use crate::kinds::Kind;
use crate::negotiate::{Format, Negotiated, Shape};
use crate::options::Huge;
use crate::proto;
use crate::request_info::RequestInfo;
use crate::serve::{Answer, Call};
use crate::status::Status;

/// Bytes gathered before they are sent.
const CHUNK: usize = 64 << 10;
const NAMESPACE: &str = "huge";

pub(crate) fn is_target(info: &RequestInfo) -> bool {
    info.resource == "configmaps" && info.namespace == NAMESPACE && info.group.is_empty()
}

pub(crate) fn answer(call: &Call, kind: &'static Kind, size: Huge) -> Answer {
    let generator = Generator::new(size.object_size, call.shared.options.start_revision);
    match call.info.verb.as_str() {
        "list" => {
            let encoder = call.encoder(kind, false)?;
            if encoder.form.shape != Shape::Full {
                return Err(Status::not_acceptable());
            }
            let revision = call.shared.cluster.store.revision();
            Ok(list(call, generator, size.count, revision, encoder.form))
        }
        "watch" => watch(call, kind, generator, size.count),
        "get" => {
            let encoder = call.encoder(kind, true)?;
            let index = call.info.name.strip_prefix("cm-").and_then(|n| n.parse().ok());
            let index = index.filter(|i| *i < size.count && call.info.name == name(*i));
            let index = index.ok_or_else(|| Status::not_found(kind, &call.info.name))?;
            Ok(call.respond(
                http::StatusCode::OK,
                &encoder.form,
                encoder.object(&generator.object(index)),
            ))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

fn name(index: usize) -> String {
    format!("cm-{index:08}")
}

/// Makes items; all are of one size.
struct Generator {
    filler: String,
    object_size: usize,
    revision: u64,
}

impl Generator {
    fn new(object_size: usize, revision: u64) -> Self {
        // Text that compresses about as badly as base64 of a certificate does.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(alphabet[usize::try_from(state >> 58).unwrap_or(0)])
        };
        let filler = (0..object_size + CHUNK).map(|_| next()).collect();
        Self {
            filler,
            object_size,
            revision,
        }
    }

    fn data(&self, index: usize) -> &str {
        let start = index.wrapping_mul(7919) % CHUNK;
        &self.filler[start..start + self.object_size]
    }

    /// The object without its data.
    fn head(&self, index: usize) -> serde_json::Value {
        json!({"kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"name": name(index), "namespace": NAMESPACE,
                "uid": format!("00000000-0000-4000-8000-{index:012}"),
                "resourceVersion": self.revision.to_string(), "creationTimestamp": "2026-01-01T00:00:00Z"}})
    }

    fn object(&self, index: usize) -> serde_json::Value {
        let mut object = self.head(index);
        object["data"] = json!({"blob": self.data(index)});
        object
    }

    fn json_item(&self, index: usize) -> Vec<u8> {
        format!(
            "{{\"metadata\":{{\"name\":\"{}\",\"namespace\":\"{NAMESPACE}\",\
             \"uid\":\"00000000-0000-4000-8000-{index:012}\",\"resourceVersion\":\"{}\",\
             \"creationTimestamp\":\"2026-01-01T00:00:00Z\"}},\"data\":{{\"blob\":\"{}\"}}}}",
            name(index),
            self.revision,
            self.data(index)
        )
        .into_bytes()
    }

    /// As `proto::message` would write it, without serializing the data each time.
    fn proto_item(&self, index: usize) -> Vec<u8> {
        let mut message = proto::partial(&self.head(index));
        let rest = format!("{{\"data\":{{\"blob\":\"{}\"}}}}", self.data(index));
        proto::field(&mut message, proto::REST, rest.as_bytes());
        let mut out = Vec::new();
        proto::field(&mut out, 2, &message);
        out
    }
}

/// Head, items and tail of a list.
struct Plan {
    head: Vec<u8>,
    tail: Vec<u8>,
    format: Format,
    generator: Generator,
    count: usize,
}

impl Plan {
    fn new(generator: Generator, count: usize, revision: u64, format: Format) -> Self {
        let (head, tail) = match format {
            Format::Json => {
                let head = format!(
                    "{{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{{\"resourceVersion\":\"{revision}\"}},\"items\":["
                );
                (head.into_bytes(), b"]}\n".to_vec())
            }
            Format::Protobuf => {
                let mut meta = Vec::new();
                proto::field(&mut meta, 1, &proto::list_meta(&revision.to_string(), "", None));
                let total = meta.len() + count * generator.proto_item(0).len();
                let mut head = proto::envelope_head("v1", "ConfigMapList", total);
                head.extend(meta);
                (head, proto::ENVELOPE_TAIL.to_vec())
            }
        };
        Self {
            head,
            tail,
            format,
            generator,
            count,
        }
    }

    fn item(&self, index: usize) -> Vec<u8> {
        match self.format {
            Format::Json if index > 0 => [b",".to_vec(), self.generator.json_item(index)].concat(),
            Format::Json => self.generator.json_item(index),
            Format::Protobuf => self.generator.proto_item(index),
        }
    }

    async fn send(self, tx: Sender, mut packer: Packer) {
        let mut pending = packer.push(&self.head);
        for index in 0..self.count {
            pending.extend(packer.push(&self.item(index)));
            if pending.len() >= CHUNK {
                let chunk = Bytes::from(std::mem::take(&mut pending));
                if tx.send(Frame::data(chunk)).await.is_err() {
                    return;
                }
            }
        }
        pending.extend(packer.push(&self.tail));
        pending.extend(packer.finish());
        let _ = tx.send(Frame::data(Bytes::from(pending))).await;
    }
}

/// Compresses or not.
enum Packer {
    Plain,
    Gzip(Box<gzip::Stream>),
}

impl Packer {
    fn push(&mut self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => bytes.to_vec(),
            Self::Gzip(stream) => stream.push(bytes),
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Plain => Vec::new(),
            Self::Gzip(stream) => stream.finish(),
        }
    }
}

fn list(call: &Call, generator: Generator, count: usize, revision: u64, form: Negotiated) -> Response<Body> {
    let (tx, stream) = body::channel();
    let size = count.saturating_mul(generator.object_size);
    let plan = Plan::new(generator, count, revision, form.format);
    let mut response = Response::builder().header(CONTENT_TYPE, form.content_type());
    let packer = if call.accepts_gzip() && size > call.shared.options.gzip_above {
        response = response
            .header("Content-Encoding", "gzip")
            .header("Vary", "Accept-Encoding");
        Packer::Gzip(Box::new(gzip::Stream::new()))
    } else {
        Packer::Plain
    };
    call.shared.tasks.spawn(plan.send(tx, packer));
    response.body(stream).expect("valid")
}

/// About `size` bytes of a JSON ConfigMapList with objects of 1 KiB, uncompressed.
pub(crate) fn blob(call: &Call) -> Response<Body> {
    let size = call
        .query
        .number("size")
        .and_then(|n| usize::try_from(n).ok())
        .unwrap_or(1 << 20);
    let (tx, stream) = body::channel();
    let generator = Generator::new(1024, 1);
    let count = size / generator.json_item(0).len();
    let plan = Plan::new(generator, count, 1, Format::Json);
    call.shared.tasks.spawn(plan.send(tx, Packer::Plain));
    Response::builder()
        .header(CONTENT_TYPE, "application/json")
        .body(stream)
        .expect("valid")
}

/// Initial events if asked for, then silence until `timeoutSeconds`.
fn watch(call: &Call, kind: &'static Kind, generator: Generator, count: usize) -> Answer {
    let encoder: Encoder = call.encoder(kind, true)?;
    let initial =
        call.query.truthy("sendInitialEvents") || matches!(call.query.text("resourceVersion"), "" | "0");
    let bookmarks = call.query.truthy("allowWatchBookmarks");
    let seconds = call
        .query
        .number("timeoutSeconds")
        .map(std::time::Duration::from_secs);
    let length = seconds.unwrap_or(call.shared.options.watch_timeout);
    let revision = call.shared.cluster.store.revision();
    let (tx, stream) = body::channel();
    call.shared.tasks.spawn(async move {
        let deadline = tokio::time::Instant::now() + length;
        for index in (0..count).take_while(|_| initial) {
            let event = encoder.event("ADDED", &generator.object(index), index == 0);
            if tx.send(Frame::data(Bytes::from(event))).await.is_err() {
                return;
            }
        }
        if initial && bookmarks {
            let end = encoder.bookmark(revision, End::OfInitialEvents, count == 0);
            let _ = tx.send(Frame::data(Bytes::from(end))).await;
        }
        tokio::select! {
            () = tx.closed() => {}
            () = tokio::time::sleep_until(deadline) => {}
        }
    });
    let response = Response::builder().header(CONTENT_TYPE, encoder.form.watch_content_type());
    Ok(response.body(stream).expect("valid"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_items_are_of_one_size_in_both_encodings() {
        let generator = Generator::new(500, 100);
        for index in [1, 77, 99_999_999] {
            assert_eq!(generator.json_item(0).len(), generator.json_item(index).len());
            assert_eq!(generator.proto_item(0).len(), generator.proto_item(index).len());
        }
        let mut by_schema = Vec::new();
        proto::field(&mut by_schema, 2, &proto::message(&generator.object(7)));
        assert_eq!(generator.proto_item(7), by_schema);
        let parsed: serde_json::Value = serde_json::from_slice(&generator.json_item(3)).unwrap();
        assert_eq!(parsed["data"]["blob"].as_str().unwrap().len(), 500);
    }
}
