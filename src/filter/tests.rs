//! Recorded answers of a kube-apiserver 1.36, rewritten.

mod families;
mod passing;
mod recorded;

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::{Filters, Local, Rewrite, Rewriter};
use crate::kube::media::Encoding;
use crate::kube::request::{RequestInfo, ResourceRequest};
use crate::wire::WireError;
use crate::wire::collection::Collection;
use crate::wire::list::ListReader;

const ENCODINGS: [Encoding; 3] = [Encoding::Json, Encoding::Protobuf, Encoding::Cbor];

/// What clients on the node are to see.
const LOCAL: Local = Local {
    v4: Some(std::net::Ipv4Addr::new(169, 254, 20, 11)),
    v6: None,
    port: 51003,
};

const SERVICES: &str = "/api/v1/services";
const ENDPOINTS: &str = "/api/v1/endpoints";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";

/// A recorded body.
fn recorded(name: &str) -> Vec<u8> {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kube-apiserver-1.36");
    std::fs::read(dir.join(format!("{name}.body"))).unwrap()
}

/// A recorded answer in one encoding; CBOR is made from JSON.
fn body(name: &str, encoding: Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Protobuf => recorded(&format!("{name}.proto")),
        Encoding::Cbor => cbor(&recorded(&format!("{name}.json"))),
        Encoding::Json | Encoding::Yaml => recorded(&format!("{name}.json")),
    }
}

/// The same document in CBOR as Go writes it: byte strings and any order of keys, here the reverse.
fn cbor(json: &[u8]) -> Vec<u8> {
    fn put(out: &mut minicbor::Encoder<Vec<u8>>, value: &Value) {
        match value {
            Value::Null => out.null(),
            Value::Bool(value) => out.bool(*value),
            Value::Number(value) => out.i64(value.as_i64().unwrap()),
            Value::String(text) => out.bytes(text.as_bytes()),
            Value::Array(values) => {
                out.array(values.len() as u64).unwrap();
                values.iter().for_each(|value| put(out, value));
                Ok(out)
            }
            Value::Object(members) => {
                out.map(members.len() as u64).unwrap();
                for (key, value) in members.iter().rev() {
                    out.bytes(key.as_bytes()).unwrap();
                    put(out, value);
                }
                Ok(out)
            }
        }
        .unwrap();
    }
    let mut out = minicbor::Encoder::new(vec![0xd9, 0xd9, 0xf7]);
    put(&mut out, &serde_json::from_slice(json).unwrap());
    out.into_writer()
}

/// A CBOR document as JSON.
fn json_of(cbor: &[u8]) -> Value {
    fn get(decoder: &mut minicbor::Decoder<'_>) -> Value {
        use minicbor::data::Type;
        let text = |bytes: &[u8]| Value::from(std::str::from_utf8(bytes).unwrap());
        match decoder.datatype().unwrap() {
            Type::Tag => {
                decoder.tag().unwrap();
                get(decoder)
            }
            Type::Null => decoder.null().map(|()| Value::Null).unwrap(),
            Type::Bool => decoder.bool().unwrap().into(),
            Type::Bytes => text(decoder.bytes().unwrap()),
            Type::Array => (0..decoder.array().unwrap().unwrap())
                .map(|_| get(decoder))
                .collect(),
            Type::Map => (0..decoder.map().unwrap().unwrap())
                .map(|_| (get(decoder).as_str().unwrap().to_owned(), get(decoder)))
                .collect(),
            _ => decoder.i64().unwrap().into(),
        }
    }
    let mut decoder = minicbor::Decoder::new(cbor);
    let value = get(&mut decoder);
    assert_eq!(decoder.position(), cbor.len());
    value
}

/// The request for a target, as kube-apiserver reads it.
fn request(target: &str) -> ResourceRequest {
    let (path, query) = target
        .split_once('?')
        .map_or((target, None), |(path, query)| (path, Some(query)));
    match RequestInfo::parse(&Method::GET, path, query) {
        RequestInfo::Resource(request) => Arc::unwrap_or_clone(request),
        other => panic!("{target}: {other:?}"),
    }
}

fn filters(local: Local) -> Filters {
    Filters::new(
        local,
        ["system:node:edge-1".to_owned()],
        ["system:kube-proxy".to_owned()],
    )
}

/// What the client of the target's kind of object gets rewritten.
fn rewrite(local: Local, target: &str) -> Rewrite {
    let user = match target.contains("services") {
        true => "system:node:edge-1",
        false => "system:kube-proxy",
    };
    filters(local)
        .of_read(&request(target), || Some(user.to_owned()))
        .expect("this read is filtered")
}

fn rewriter(local: Local, target: &str, encoding: Encoding) -> Rewriter {
    let rewriter = rewrite(local, target).rewriter(&request(target), encoding);
    rewriter.expect("this encoding is rewritten")
}

/// What comes out when the body arrives in these pieces.
fn through<'a>(
    mut rewriter: Rewriter,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    for piece in pieces {
        rewriter.push(Bytes::copy_from_slice(piece))?;
        while let Some(piece) = rewriter.take() {
            out.extend_from_slice(&piece);
        }
    }
    rewriter.finish()?;
    while let Some(piece) = rewriter.take() {
        out.extend_from_slice(&piece);
    }
    Ok(out)
}

/// A body, rewritten.
fn rewritten(local: Local, target: &str, encoding: Encoding, body: &[u8]) -> Vec<u8> {
    through(rewriter(local, target, encoding), [body]).unwrap()
}

/// The items of a list and how they are put together.
fn split(encoding: Encoding, list: &[u8]) -> (Collection, Vec<Vec<u8>>, String) {
    let mut reader = ListReader::new(encoding).unwrap();
    let mut items = Vec::new();
    let read = reader.push::<WireError>(list, &mut |item| {
        items.push(item.bytes.to_vec());
        Ok(())
    });
    read.unwrap();
    let head = reader.finish().unwrap();
    (
        Collection::from_list(encoding, &head),
        items,
        head.resource_version,
    )
}

#[track_caller]
fn assert_bytes(found: &[u8], wanted: &[u8]) {
    let at = found.iter().zip(wanted).take_while(|(a, b)| a == b).count();
    let show = |bytes: &[u8]| {
        String::from_utf8_lossy(&bytes[at.saturating_sub(40).min(bytes.len())..bytes.len().min(at + 80)])
            .into_owned()
    };
    assert!(
        found == wanted,
        "differ at byte {at}:\n found  {:?}\n wanted {:?}",
        show(found),
        show(wanted)
    );
}
