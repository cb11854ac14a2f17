//! Protobuf, with the names of [`tables`](super::tables).

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};

use super::Plain;
use super::tables::{self, Form, Named};
use crate::wire::WireError;
use crate::wire::protobuf::{self as walk, Fields, read_entry, read_unknown};

const BROKEN: WireError = WireError::Malformed("protobuf message");

/// The first second of the year 10000, for which RFC 3339 has no form.
const END_OF_TIME: u64 = 253_402_300_800;

pub(super) fn read(body: &[u8]) -> Result<Plain, WireError> {
    let unknown = read_unknown(body)?;
    let types = unknown.types;
    let mut object = Map::new();
    let is_whole = message(unknown.raw, tables::of(&types), &mut object)?;
    object.insert("apiVersion".to_owned(), Value::String(types.api_version));
    object.insert("kind".to_owned(), Value::String(types.kind));
    Ok(Plain {
        value: Value::Object(object),
        is_whole,
    })
}

/// Adds the fields of a message that have names. Gives whether all have.
fn message(bytes: &[u8], table: &[Named], object: &mut Map<String, Value>) -> Result<bool, WireError> {
    let mut is_whole = true;
    let mut fields = Fields::of(bytes);
    while let Some((number, value)) = fields.next()? {
        match table.iter().find(|named| named.number == number) {
            Some(named) => is_whole &= field(named, value, object)?,
            None => is_whole = false,
        }
    }
    Ok(is_whole)
}

/// Adds one field, unless JSON leaves it out.
fn field(named: &Named, value: walk::Value<'_>, object: &mut Map<String, Value>) -> Result<bool, WireError> {
    let name = named.name.to_owned();
    let mut is_whole = true;
    match named.form {
        Form::Text => {
            let text = value.text()?;
            if !text.is_empty() {
                object.insert(name, Value::String(text));
            }
        }
        Form::Flag => {
            object.insert(name, Value::Bool(value.varint()? != 0));
        }
        Form::Number => {
            object.insert(name, Value::from(value.varint()?.cast_signed()));
        }
        Form::NumberUnlessZero => {
            let number = value.varint()?.cast_signed();
            if number != 0 {
                object.insert(name, Value::from(number));
            }
        }
        Form::Time => {
            if let Some(time) = time(value.bytes()?)? {
                object.insert(name, Value::String(time));
            }
        }
        Form::Json => {
            let raw = Fields::of(value.bytes()?).next()?;
            if let Some((1, raw)) = raw {
                let json = serde_json::from_slice(raw.bytes()?).map_err(|_| BROKEN)?;
                object.insert(name, json);
            }
        }
        Form::Texts => list(object, name)?.push(Value::String(value.text()?)),
        Form::TextMap => {
            let (key, value) = read_entry(value.bytes()?)?;
            let text = walk::Value::Bytes(value).text()?;
            map(object, name)?.insert(utf8(key)?, Value::String(text));
        }
        Form::BytesMap => {
            let (key, value) = read_entry(value.bytes()?)?;
            map(object, name)?.insert(utf8(key)?, Value::String(STANDARD.encode(value)));
        }
        Form::Message(table) => is_whole = message(value.bytes()?, table, map(object, name)?)?,
        Form::Messages(table) => {
            let mut element = Map::new();
            is_whole = message(value.bytes()?, table, &mut element)?;
            list(object, name)?.push(Value::Object(element));
        }
    }
    Ok(is_whole)
}

fn list(object: &mut Map<String, Value>, name: String) -> Result<&mut Vec<Value>, WireError> {
    let value = object.entry(name).or_insert_with(|| Value::Array(Vec::new()));
    value.as_array_mut().ok_or(BROKEN)
}

/// A message that comes in several parts is one.
fn map(object: &mut Map<String, Value>, name: String) -> Result<&mut Map<String, Value>, WireError> {
    let value = object.entry(name).or_insert_with(|| Value::Object(Map::new()));
    value.as_object_mut().ok_or(BROKEN)
}

fn utf8(key: &[u8]) -> Result<String, WireError> {
    walk::Value::Bytes(key).text()
}

/// `metav1.Time` to the second, as in JSON; `None` for Go's zero time.
fn time(bytes: &[u8]) -> Result<Option<String>, WireError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let mut seconds = 0;
    let mut fields = Fields::of(bytes);
    while let Some((number, value)) = fields.next()? {
        if number == 1 {
            seconds = value.varint()?;
        }
    }
    // Beyond, and before 1970, which is a negative number and a large one here, nothing was created.
    if seconds >= END_OF_TIME {
        return Err(BROKEN);
    }
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    Ok(Some(humantime::format_rfc3339_seconds(time).to_string()))
}
