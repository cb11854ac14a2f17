//! Fields of a protobuf message.

use super::{Field, Value};
use crate::wire::WireError;
use crate::wire::protobuf::{Fields, put_varint};

const BROKEN: WireError = WireError::Malformed("protobuf message");

pub(super) fn values(message: &[u8], field: Field) -> Result<Vec<&[u8]>, WireError> {
    let mut found = Vec::new();
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        if number == field.number {
            found.push(value.bytes()?);
        }
    }
    Ok(found)
}

/// The last of several counts, as everywhere in protobuf.
pub(super) fn number(message: &[u8], field: Field) -> Result<Option<i64>, WireError> {
    let mut found = None;
    let mut fields = Fields::of(message);
    while let Some((number, value)) = fields.next()? {
        if number == field.number {
            found = Some(value.varint()?.cast_signed());
        }
    }
    Ok(found)
}

pub(super) fn text(value: &[u8]) -> Result<String, WireError> {
    String::from_utf8(value.to_vec()).map_err(|_| BROKEN)
}

/// A changed field stands where its first occurrence stood, an added one before the first of a higher number.
pub(super) fn with(message: &[u8], changes: &[(Field, Value)]) -> Result<Vec<u8>, WireError> {
    let mut present = Vec::new();
    let mut fields = Fields::of(message);
    while let Some((number, _)) = fields.next()? {
        present.push(number);
    }
    let mut added: Vec<_> = changes
        .iter()
        .filter(|(field, _)| !present.contains(&field.number))
        .collect();
    added.sort_by_key(|(field, _)| std::cmp::Reverse(field.number));
    let mut out = Vec::with_capacity(message.len() + 64);
    let mut done = Vec::new();
    let mut fields = Fields::of(message);
    loop {
        let start = message.len() - fields.left();
        let Some((number, _)) = fields.next()? else { break };
        let end = message.len() - fields.left();
        while let Some((field, value)) = added.pop_if(|(field, _)| field.number < number) {
            put(&mut out, field.number, value);
        }
        match changes.iter().find(|(field, _)| field.number == number) {
            None => out.extend_from_slice(message.get(start..end).ok_or(BROKEN)?),
            Some(_) if done.contains(&number) => {}
            Some((_, value)) => {
                done.push(number);
                put(&mut out, number, value);
            }
        }
    }
    for (field, value) in added.into_iter().rev() {
        put(&mut out, field.number, value);
    }
    Ok(out)
}

fn put(out: &mut Vec<u8>, number: u32, value: &Value) {
    let mut bytes = |bytes: &[u8]| {
        put_varint(out, u64::from(number) << 3 | 2);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    };
    match value {
        Value::Text(text) => bytes(text.as_bytes()),
        Value::Texts(texts) => texts.iter().for_each(|text| bytes(text.as_bytes())),
        Value::Message(message) => bytes(message),
        Value::Messages(messages) => messages.iter().for_each(|message| bytes(message)),
        Value::Number(_) | Value::True => {
            let varint = match value {
                Value::Number(number) => u64::from(*number),
                _ => 1,
            };
            put_varint(out, u64::from(number) << 3);
            put_varint(out, varint);
        }
    }
}
