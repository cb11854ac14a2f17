//! What stands around the items of a list, byte for byte, in each encoding and style (wire contract 3.4-3.7).

use std::ops::Deref;

use crate::kube::media::Encoding;
use crate::wire::meta::INITIAL_EVENTS_END;
use crate::wire::object::Style;
use crate::wire::{cbor, json, protobuf};

use super::{Collection, ItemTotals};

/// The few bytes before an item: a comma, or a tag and a length.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Prefix {
    bytes: [u8; 11],
    len: u8,
}

impl Deref for Prefix {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len.into()).unwrap_or_default()
    }
}

impl Prefix {
    fn of(bytes: &[u8]) -> Self {
        let mut prefix = Self::default();
        for (slot, byte) in prefix.bytes.iter_mut().zip(bytes) {
            *slot = *byte;
            prefix.len += 1;
        }
        prefix
    }
}

pub(super) fn item_prefix(of: &Collection, index: usize, item_len: usize) -> Prefix {
    match of.encoding {
        Encoding::Json | Encoding::Yaml if index > 0 => Prefix::of(b","),
        Encoding::Json | Encoding::Yaml | Encoding::Cbor => Prefix::default(),
        Encoding::Protobuf => {
            let mut tag = Vec::with_capacity(11);
            protobuf::put_len(&mut tag, fields(of).items, item_len);
            Prefix::of(&tag)
        }
    }
}

pub(super) fn list_head(of: &Collection, rv: &str, totals: ItemTotals) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    match of.encoding {
        Encoding::Json | Encoding::Yaml => json_head(&mut out, of, rv),
        Encoding::Protobuf => {
            let meta = list_meta(rv);
            let raw = protobuf::field_len(meta.len() as u64) + totals.bytes;
            protobuf::put_envelope(&mut out, &of.list, raw);
            if !fields(of).items_first {
                protobuf::put_bytes(&mut out, fields(of).meta, &meta);
            }
        }
        Encoding::Cbor => {
            out.extend_from_slice(&cbor::SELF_DESCRIBED);
            cbor::put_head(&mut out, 5, 4);
            cbor::put_text(&mut out, "kind");
            cbor::put_text(&mut out, &of.list.kind);
            cbor::put_text(&mut out, "items");
            cbor::put_head(&mut out, 4, totals.count as u64);
        }
    }
    out
}

pub(super) fn list_tail(of: &Collection, rv: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    match of.encoding {
        Encoding::Json | Encoding::Yaml => {
            out.push(b']');
            if of.style == Style::Custom {
                put_member(&mut out, "kind", &of.list.kind);
                json::put_key(&mut out, "metadata");
                out.push(b'{');
                put_member(&mut out, "continue", "");
                put_member(&mut out, "resourceVersion", rv);
                out.push(b'}');
            }
            out.extend_from_slice(b"}\n");
        }
        Encoding::Protobuf => {
            if fields(of).items_first {
                protobuf::put_bytes(&mut out, fields(of).meta, &list_meta(rv));
            }
            out.extend_from_slice(&protobuf::ENVELOPE_END);
        }
        Encoding::Cbor => {
            cbor::put_text(&mut out, "metadata");
            put_cbor_rv(&mut out, rv, false);
            cbor::put_text(&mut out, "apiVersion");
            cbor::put_text(&mut out, &of.list.api_version);
        }
    }
    out
}

/// Appends the object inside a bookmark: a type, a resourceVersion, and the annotation if it ends initial events.
pub(super) fn put_bookmark(out: &mut Vec<u8>, of: &Collection, rv: &str, end: bool) {
    match of.encoding {
        Encoding::Json | Encoding::Yaml => json_bookmark(out, of, rv, end),
        Encoding::Protobuf => {
            use protobuf::{put_bytes, put_number};
            // Go writes every field of ObjectMeta that is no pointer, also the empty ones.
            let mut meta = Vec::with_capacity(rv.len() + 64);
            for field in 1..=5 {
                put_bytes(&mut meta, field, b"");
            }
            put_bytes(&mut meta, 6, rv.as_bytes());
            put_number(&mut meta, 7, 0);
            put_bytes(&mut meta, 8, b"");
            if end {
                let mut entry = Vec::with_capacity(40);
                put_bytes(&mut entry, 1, INITIAL_EVENTS_END.as_bytes());
                put_bytes(&mut entry, 2, b"true");
                put_bytes(&mut meta, 12, &entry);
            }
            let mut object = Vec::with_capacity(meta.len() + 4);
            put_bytes(&mut object, 1, &meta);
            protobuf::put_unknown(out, &of.item, &object);
        }
        Encoding::Cbor => {
            out.extend_from_slice(&cbor::SELF_DESCRIBED);
            cbor::put_head(out, 5, 3);
            cbor::put_text(out, "kind");
            cbor::put_text(out, &of.item.kind);
            cbor::put_text(out, "metadata");
            put_cbor_rv(out, rv, end);
            cbor::put_text(out, "apiVersion");
            cbor::put_text(out, &of.item.api_version);
        }
    }
}

fn json_head(out: &mut Vec<u8>, of: &Collection, rv: &str) {
    out.push(b'{');
    if of.style == Style::Custom {
        put_member(out, "apiVersion", &of.list.api_version);
    } else {
        put_member(out, "kind", &of.list.kind);
        put_member(out, "apiVersion", &of.list.api_version);
        json::put_key(out, "metadata");
        out.push(b'{');
        if !rv.is_empty() {
            put_member(out, "resourceVersion", rv);
        }
        out.push(b'}');
    }
    json::put_key(out, "items");
    out.push(b'[');
}

fn json_bookmark(out: &mut Vec<u8>, of: &Collection, rv: &str, end: bool) {
    let annotations = |out: &mut Vec<u8>| {
        if end {
            json::put_key(out, "annotations");
            out.push(b'{');
            put_member(out, INITIAL_EVENTS_END, "true");
            out.push(b'}');
        }
    };
    out.push(b'{');
    let sorted = of.style == Style::Custom;
    if sorted {
        put_member(out, "apiVersion", &of.item.api_version);
        put_member(out, "kind", &of.item.kind);
    } else {
        put_member(out, "kind", &of.item.kind);
        put_member(out, "apiVersion", &of.item.api_version);
    }
    json::put_key(out, "metadata");
    out.push(b'{');
    if sorted {
        annotations(out);
    }
    put_member(out, "resourceVersion", rv);
    if !sorted {
        annotations(out);
    }
    out.extend_from_slice(b"}}");
}

fn put_member(out: &mut Vec<u8>, key: &str, value: &str) {
    json::put_key(out, key);
    json::put_text(out, value);
}

/// `metav1.ListMeta` without a continue token.
fn list_meta(rv: &str) -> Vec<u8> {
    let mut meta = Vec::with_capacity(rv.len() + 6);
    protobuf::put_bytes(&mut meta, 1, b"");
    protobuf::put_bytes(&mut meta, 2, rv.as_bytes());
    protobuf::put_bytes(&mut meta, 3, b"");
    meta
}

fn put_cbor_rv(out: &mut Vec<u8>, rv: &str, end: bool) {
    cbor::put_head(out, 5, 1 + u64::from(end));
    cbor::put_text(out, "resourceVersion");
    cbor::put_text(out, rv);
    if end {
        cbor::put_text(out, "annotations");
        cbor::put_head(out, 5, 1);
        cbor::put_text(out, INITIAL_EVENTS_END);
        cbor::put_text(out, "true");
    }
}

/// Field numbers of a list message.
struct ListFields {
    meta: u8,
    items: u8,
    items_first: bool,
}

fn fields(of: &Collection) -> ListFields {
    match of.list.has_swapped_fields() {
        true => ListFields {
            meta: 2,
            items: 1,
            items_first: true,
        },
        false => ListFields {
            meta: 1,
            items: 2,
            items_first: false,
        },
    }
}
