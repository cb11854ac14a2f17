//! Fields of a CBOR map.

use super::{Field, Value};
use crate::wire::WireError;
use crate::wire::cbor::{Members, elements, put_head, put_text, read_text, untagged};

const BROKEN: WireError = WireError::Malformed("CBOR map");

/// `null`.
const NULL: u8 = 0xf6;
const TRUE: u8 = 0xf5;

pub(super) fn values(map: &[u8], field: Field) -> Result<Vec<&[u8]>, WireError> {
    let map = untagged(map);
    let mut found = None;
    let mut members = Members::of(map)?;
    while let Some(member) = members.next()? {
        if member.key == field.name && found.replace(map.get(member.value).ok_or(BROKEN)?).is_some() {
            return Err(BROKEN);
        }
    }
    let Some(value) = found.filter(|value| untagged(value).first() != Some(&NULL)) else {
        return Ok(Vec::new());
    };
    Ok(elements(value)?.unwrap_or_else(|| vec![value]))
}

pub(super) fn number(value: &[u8]) -> Result<i64, WireError> {
    minicbor::decode(untagged(value)).map_err(|_| BROKEN)
}

pub(super) fn text(value: &[u8]) -> Result<String, WireError> {
    read_text(value)
}

pub(super) fn with(map: &[u8], changes: &[(Field, Value)]) -> Result<Vec<u8>, WireError> {
    let tags = map.len() - untagged(map).len();
    let (tags, map) = map.split_at_checked(tags).ok_or(BROKEN)?;
    let mut members = Members::of(map)?;
    let mut body = Vec::with_capacity(map.len() + 64);
    let mut copied = members.head_len();
    let mut done = vec![false; changes.len()];
    while let Some(member) = members.next()? {
        let changed = changes
            .iter()
            .zip(&mut done)
            .find(|((field, _), _)| field.name == member.key);
        let Some(((_, value), done)) = changed else {
            continue;
        };
        if std::mem::replace(done, true) {
            return Err(BROKEN);
        }
        body.extend_from_slice(map.get(copied..member.value.start).ok_or(BROKEN)?);
        put(&mut body, value);
        copied = member.value.end;
    }
    body.extend_from_slice(map.get(copied..members.position()).ok_or(BROKEN)?);
    let mut added = 0;
    for ((field, value), _) in changes.iter().zip(done).filter(|(_, done)| !done) {
        put_text(&mut body, field.name);
        put(&mut body, value);
        added += 1;
    }
    let mut out = tags.to_vec();
    match members.count() {
        Some(count) if added > 0 => put_head(&mut out, 5, count.saturating_add(added)),
        _ => out.extend_from_slice(map.get(..members.head_len()).ok_or(BROKEN)?),
    }
    out.extend_from_slice(&body);
    out.extend_from_slice(map.get(members.position()..).ok_or(BROKEN)?);
    Ok(out)
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(text) => put_text(out, text),
        Value::Texts(texts) => {
            put_head(out, 4, texts.len() as u64);
            texts.iter().for_each(|text| put_text(out, text));
        }
        Value::Number(number) => put_head(out, 0, u64::from(*number)),
        Value::True => out.push(TRUE),
        Value::Message(message) => out.extend_from_slice(message),
        Value::Messages(messages) => {
            put_head(out, 4, messages.len() as u64);
            messages.iter().for_each(|message| out.extend_from_slice(message));
        }
    }
}
