//! Reads the few members that matter of a whole, well-formed value. Repeated keys are refused, as in Go.

use std::borrow::Cow;
use std::collections::BTreeSet;

use minicbor::Decoder;
use minicbor::data::Type;

use super::{BROKEN, check_whole, untagged};
use crate::wire::WireError;
use crate::wire::meta::{INITIAL_EVENTS_END, ListMeta, ObjectHead, TypeMeta};
use crate::wire::status::StatusSummary;

impl From<minicbor::decode::Error> for WireError {
    fn from(_: minicbor::decode::Error) -> Self {
        BROKEN
    }
}

/// Reads the type and metadata of an object.
pub(in crate::wire) fn read_head(object: &[u8]) -> Result<ObjectHead, WireError> {
    check_whole(object)?;
    let mut head = ObjectHead::default();
    members(&mut Decoder::new(object), |key, value| {
        match key {
            "kind" => head.types.kind = text(value)?.into_owned(),
            "apiVersion" => head.types.api_version = text(value)?.into_owned(),
            "metadata" => read_meta(value, &mut head)?,
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok(head)
}

fn read_meta(decoder: &mut Decoder<'_>, head: &mut ObjectHead) -> Result<(), WireError> {
    members(decoder, |key, value| {
        let meta = &mut head.meta;
        match key {
            "name" => meta.name = text(value)?.into_owned(),
            "namespace" => meta.namespace = text(value)?.into_owned(),
            "uid" => meta.uid = text(value)?.into_owned(),
            "resourceVersion" => meta.resource_version = text(value)?.into_owned(),
            "deletionTimestamp" => {
                meta.deleting = value.datatype()? != Type::Null;
                value.skip()?;
            }
            "labels" => members(value, |key, value| {
                meta.labels.insert(key.to_owned(), text(value)?.into_owned());
                Ok(())
            })?,
            "annotations" => members(value, |key, value| {
                match key == INITIAL_EVENTS_END {
                    true => head.initial_events_end = text(value)? == "true",
                    false => value.skip()?,
                }
                Ok(())
            })?,
            _ => value.skip()?,
        }
        Ok(())
    })
}

/// Reads the metadata of a list.
pub(in crate::wire) fn read_list_meta(value: &[u8]) -> Result<ListMeta, WireError> {
    let mut meta = ListMeta::default();
    members(&mut Decoder::new(value), |key, value| {
        match key {
            "resourceVersion" => meta.resource_version = text(value)?.into_owned(),
            "continue" => meta.continue_token = text(value)?.into_owned(),
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok(meta)
}

/// Reads a whole string value.
pub(in crate::wire) fn read_text(value: &[u8]) -> Result<String, WireError> {
    text(&mut Decoder::new(value)).map(Cow::into_owned)
}

/// The two members of a watch event.
pub(in crate::wire) struct EventParts<'a> {
    pub(in crate::wire) change: String,
    /// Without the self-described tag.
    pub(in crate::wire) object: &'a [u8],
}

/// Reads one whole watch event.
pub(in crate::wire) fn read_event(frame: &[u8]) -> Result<EventParts<'_>, WireError> {
    check_whole(frame)?;
    let (mut change, mut object) = (None, None);
    members(&mut Decoder::new(frame), |key, value| {
        match key {
            "type" => change = Some(text(value)?.into_owned()),
            "object" => {
                let start = value.position();
                value.skip()?;
                object = frame.get(start..value.position());
            }
            _ => value.skip()?,
        }
        Ok(())
    })?;
    match (change, object) {
        (Some(change), Some(object)) => Ok(EventParts {
            change,
            object: untagged(object),
        }),
        _ => Err(WireError::Malformed("watch event")),
    }
}

/// Reads a Status and the type that it states.
pub(in crate::wire) fn read_status(object: &[u8]) -> Result<(TypeMeta, StatusSummary), WireError> {
    check_whole(object)?;
    let (mut types, mut status) = (TypeMeta::default(), StatusSummary::default());
    members(&mut Decoder::new(object), |key, value| {
        match key {
            "kind" => types.kind = text(value)?.into_owned(),
            "apiVersion" => types.api_version = text(value)?.into_owned(),
            "reason" => status.reason = text(value)?.into_owned(),
            "message" => status.message = text(value)?.into_owned(),
            "code" => status.code = value.u16()?,
            "details" => members(value, |key, value| {
                match key {
                    "name" => status.name = text(value)?.into_owned(),
                    "kind" => status.kind = text(value)?.into_owned(),
                    _ => value.skip()?,
                }
                Ok(())
            })?,
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok((types, status))
}

/// Walks a map; `null` is the empty one. `each` must consume exactly the value.
pub(in crate::wire) fn members<'a>(
    decoder: &mut Decoder<'a>,
    mut each: impl FnMut(&str, &mut Decoder<'a>) -> Result<(), WireError>,
) -> Result<(), WireError> {
    skip_tags(decoder)?;
    if decoder.datatype()? == Type::Null {
        return Ok(decoder.null()?);
    }
    let mut left = decoder.map()?;
    let mut seen = BTreeSet::new();
    loop {
        match &mut left {
            Some(0) => return Ok(()),
            Some(n) => *n -= 1,
            None if decoder.datatype()? == Type::Break => {
                decoder.set_position(decoder.position() + 1);
                return Ok(());
            }
            None => {}
        }
        let key = text(decoder)?;
        each(&key, decoder)?;
        if !seen.insert(key) {
            return Err(WireError::Malformed("CBOR map: repeated key"));
        }
    }
}

/// A text or byte string, in one piece or in chunks; `null` is the empty one.
pub(in crate::wire) fn text<'a>(decoder: &mut Decoder<'a>) -> Result<Cow<'a, str>, WireError> {
    skip_tags(decoder)?;
    match decoder.datatype()? {
        Type::Null => {
            decoder.null()?;
            Ok(Cow::Borrowed(""))
        }
        Type::String => Ok(Cow::Borrowed(decoder.str()?)),
        Type::Bytes => Ok(Cow::Borrowed(
            std::str::from_utf8(decoder.bytes()?).map_err(|_| BROKEN)?,
        )),
        Type::StringIndef => {
            let chunks: Result<String, _> = decoder.str_iter()?.collect();
            Ok(Cow::Owned(chunks?))
        }
        Type::BytesIndef => {
            let mut whole = Vec::new();
            for chunk in decoder.bytes_iter()? {
                whole.extend_from_slice(chunk?);
            }
            Ok(Cow::Owned(String::from_utf8(whole).map_err(|_| BROKEN)?))
        }
        _ => Err(BROKEN),
    }
}

fn skip_tags(decoder: &mut Decoder<'_>) -> Result<(), WireError> {
    while decoder.datatype()? == Type::Tag {
        decoder.tag()?;
    }
    Ok(())
}
