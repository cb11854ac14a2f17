//! Fields of a JSON object.

use super::{Field, Value};
use crate::wire::WireError;
use crate::wire::json::{Walk, elements, put_key, put_text};

const BROKEN: WireError = WireError::Malformed("JSON object");

pub(super) fn values(object: &[u8], field: Field) -> Result<Vec<&[u8]>, WireError> {
    let mut found = None;
    let mut members = Walk::of(object)?;
    while let Some(member) = members.next()? {
        if member.key == field.name && found.replace(object.get(member.value).ok_or(BROKEN)?).is_some() {
            return Err(BROKEN);
        }
    }
    match found {
        None | Some(b"null") => Ok(Vec::new()),
        Some(value) if value.starts_with(b"[") => elements(value),
        Some(value) => Ok(vec![value]),
    }
}

pub(super) fn number(value: &[u8]) -> Result<i64, WireError> {
    serde_json::from_slice(value).map_err(|_| BROKEN)
}

pub(super) fn text(value: &[u8]) -> Result<String, WireError> {
    serde_json::from_slice(value).map_err(|_| BROKEN)
}

pub(super) fn with(object: &[u8], changes: &[(Field, Value)]) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::with_capacity(object.len() + 64);
    let mut members = Walk::of(object)?;
    // Behind the opening brace, later behind a value.
    let mut copied = 0;
    let mut end = members.position();
    let mut done = vec![false; changes.len()];
    while let Some(member) = members.next()? {
        end = member.value.end;
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
        out.extend_from_slice(object.get(copied..member.value.start).ok_or(BROKEN)?);
        put(&mut out, value);
        copied = member.value.end;
    }
    out.extend_from_slice(object.get(copied..end).ok_or(BROKEN)?);
    for ((field, value), _) in changes.iter().zip(done).filter(|(_, done)| !done) {
        put_key(&mut out, field.name);
        put(&mut out, value);
    }
    out.extend_from_slice(object.get(end..).ok_or(BROKEN)?);
    Ok(out)
}

fn put(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Text(text) => put_text(out, text),
        Value::Texts(texts) => put_list(out, texts, |out, text| put_text(out, text)),
        Value::Number(number) => out.extend_from_slice(number.to_string().as_bytes()),
        Value::True => out.extend_from_slice(b"true"),
        Value::Message(message) => out.extend_from_slice(message),
        Value::Messages(messages) => put_list(out, messages, |out, message| out.extend_from_slice(message)),
    }
}

fn put_list<T>(out: &mut Vec<u8>, values: &[T], put: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (at, value) in values.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        put(out, value);
    }
    out.push(b']');
}
