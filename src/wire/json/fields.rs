//! Reads the few members that matter of an object, a list head or a watch event, with serde_json, and skips
//! the rest while validating it.
//!
//! Follows the reading of Go clients: keys are case-sensitive, `null` is the empty value, the last of two equal keys
//! wins for texts and map entries. For repeated *objects* Go merges and others replace, so those are refused.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::wire::WireError;
use crate::wire::meta::{INITIAL_EVENTS_END, ItemMeta, ListMeta, ObjectHead, TypeMeta};

/// Reads the whole of `bytes` as one JSON object.
pub(in crate::wire) fn read_exact<'de, T: Members<'de>>(
    bytes: &'de [u8],
    what: &'static str,
) -> Result<T, WireError> {
    // serde_json leaves the strings that it skips unchecked.
    let text = std::str::from_utf8(bytes).map_err(|_| WireError::Malformed(what))?;
    if !super::trim(bytes).starts_with(b"{") {
        return Err(WireError::Malformed(what));
    }
    match serde_json::from_str::<Read<T>>(text) {
        Ok(read) => Ok(read.0),
        Err(error) if error.is_eof() => Err(WireError::Truncated(what)),
        // serde_json's own text may quote the body.
        Err(_) => Err(WireError::Malformed(what)),
    }
}

/// A value read member by member.
pub(in crate::wire) trait Members<'de>: Default {
    /// Takes the value of one member; must take exactly one.
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error>;
}

/// An object read as `T`; `null` reads as the empty `T`.
#[derive(Default)]
pub(in crate::wire) struct Read<T>(pub(in crate::wire) T);

impl<'de, T: Members<'de>> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Walk<T>(PhantomData<T>);
        impl<'de, T: Members<'de>> Visitor<'de> for Walk<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_unit<E>(self) -> Result<T, E> {
                Ok(T::default())
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
                let mut value = T::default();
                while let Some(Text(key)) = map.next_key()? {
                    value.member(&key, &mut map)?;
                }
                Ok(value)
            }
        }
        deserializer.deserialize_any(Walk(PhantomData)).map(Read)
    }
}

/// A string, borrowed where it has no escapes; `null` reads as the empty one.
pub(in crate::wire) struct Text<'de>(pub(in crate::wire) Cow<'de, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Take;
        impl<'de> Visitor<'de> for Take {
            type Value = Cow<'de, str>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(""))
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Cow::Borrowed(text))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Cow::Owned(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Take).map(Text)
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<String, A::Error> {
    map.next_value::<Text<'de>>().map(|text| text.0.into_owned())
}

fn skip<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>().map(|_| ())
}

fn once<E: Error>(slot: &mut bool) -> Result<(), E> {
    if std::mem::replace(slot, true) {
        return Err(E::custom("repeated member"));
    }
    Ok(())
}

/// A whole object.
#[derive(Default)]
pub(in crate::wire) struct ObjectFields {
    pub(in crate::wire) head: ObjectHead,
    started: bool,
    metadata: bool,
}

impl<'de> Members<'de> for ObjectFields {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let first = !std::mem::replace(&mut self.started, true);
        match key {
            "apiVersion" => {
                self.head.sorted_keys |= first;
                self.head.types.api_version = text(map)?;
            }
            "kind" => self.head.types.kind = text(map)?,
            "metadata" => {
                once(&mut self.metadata)?;
                let Read(fields) = map.next_value::<Read<MetaFields>>()?;
                self.head.meta = fields.meta;
                self.head.initial_events_end = fields.end.0;
            }
            _ => skip(map)?,
        }
        Ok(())
    }
}

#[derive(Default)]
struct MetaFields {
    meta: ItemMeta,
    end: EndAnnotation,
    labels: bool,
    annotations: bool,
}

impl<'de> Members<'de> for MetaFields {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "name" => self.meta.name = text(map)?,
            "namespace" => self.meta.namespace = text(map)?,
            "uid" => self.meta.uid = text(map)?,
            "resourceVersion" => self.meta.resource_version = text(map)?,
            "deletionTimestamp" => self.meta.deleting = !map.next_value::<Text<'de>>()?.0.is_empty(),
            "labels" => {
                once(&mut self.labels)?;
                self.meta.labels = map.next_value::<Read<Labels>>()?.0.0;
            }
            "annotations" => {
                once(&mut self.annotations)?;
                self.end = map.next_value::<Read<EndAnnotation>>()?.0;
            }
            _ => skip(map)?,
        }
        Ok(())
    }
}

#[derive(Default)]
struct Labels(BTreeMap<String, String>);

impl<'de> Members<'de> for Labels {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let value = text(map)?;
        self.0.insert(key.to_owned(), value);
        Ok(())
    }
}

/// Of the annotations only the one that ends the initial events.
#[derive(Default)]
struct EndAnnotation(bool);

impl<'de> Members<'de> for EndAnnotation {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        if key == INITIAL_EVENTS_END {
            self.0 = map.next_value::<Text<'de>>()?.0 == "true";
            return Ok(());
        }
        skip(map)
    }
}

/// A list without its items: the reader has cut them out.
#[derive(Default)]
pub(in crate::wire) struct ListFields {
    pub(in crate::wire) types: TypeMeta,
    pub(in crate::wire) meta: ListMeta,
    pub(in crate::wire) sorted_keys: bool,
    /// Whether there was an `items` member: an array, or `null`.
    pub(in crate::wire) items: bool,
    started: bool,
    metadata: bool,
}

impl<'de> Members<'de> for ListFields {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        let first = !std::mem::replace(&mut self.started, true);
        match key {
            "apiVersion" => {
                self.sorted_keys |= first;
                self.types.api_version = text(map)?;
            }
            "kind" => self.types.kind = text(map)?,
            "metadata" => {
                once(&mut self.metadata)?;
                self.meta = map.next_value::<Read<ListMeta>>()?.0;
            }
            "items" => {
                once(&mut self.items)?;
                // An element left here would be an item that the scanner had missed.
                if map
                    .next_value::<Option<Vec<IgnoredAny>>>()?
                    .is_some_and(|left| !left.is_empty())
                {
                    return Err(A::Error::custom("items out of place"));
                }
            }
            _ => skip(map)?,
        }
        Ok(())
    }
}

impl<'de> Members<'de> for ListMeta {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "resourceVersion" => self.resource_version = text(map)?,
            "continue" => self.continue_token = text(map)?,
            _ => skip(map)?,
        }
        Ok(())
    }
}

/// A watch event; the object's bytes are kept as they came.
#[derive(Default)]
pub(in crate::wire) struct EventFields<'de> {
    pub(in crate::wire) change: Cow<'de, str>,
    pub(in crate::wire) object: Option<&'de RawValue>,
    change_seen: bool,
}

impl<'de> Members<'de> for EventFields<'de> {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "type" => {
                once(&mut self.change_seen)?;
                self.change = map.next_value::<Text<'de>>()?.0;
            }
            "object" => {
                let mut seen = self.object.is_some();
                once(&mut seen)?;
                self.object = Some(map.next_value()?);
            }
            _ => skip(map)?,
        }
        Ok(())
    }
}

/// A v1 Status.
#[derive(Default)]
pub(in crate::wire) struct StatusFields {
    pub(in crate::wire) types: TypeMeta,
    pub(in crate::wire) code: Option<u16>,
    pub(in crate::wire) reason: String,
    pub(in crate::wire) message: String,
    pub(in crate::wire) details: DetailsFields,
}

/// What a Status is about.
#[derive(Default)]
pub(in crate::wire) struct DetailsFields {
    pub(in crate::wire) name: String,
    pub(in crate::wire) kind: String,
}

impl<'de> Members<'de> for DetailsFields {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "name" => self.name = text(map)?,
            "kind" => self.kind = text(map)?,
            _ => skip(map)?,
        }
        Ok(())
    }
}

impl<'de> Members<'de> for StatusFields {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "apiVersion" => self.types.api_version = text(map)?,
            "kind" => self.types.kind = text(map)?,
            "code" => self.code = map.next_value()?,
            "reason" => self.reason = text(map)?,
            "message" => self.message = text(map)?,
            "details" => self.details = map.next_value::<Read<DetailsFields>>()?.0,
            _ => skip(map)?,
        }
        Ok(())
    }
}
