//! The entries of the log of objects: their keys and values. An older release's are read.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Deserialize;

use crate::kube::media::{Encoding, Representation, Shape};
use crate::kube::version::ResourceVersion;
use crate::view::newest::{Mark, Outcome, Removal, Sighting};
use crate::wire::object::{Object, read_object};

/// What the value of an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tag {
    Object = 0,
    Absent = 1,
    Withdrawn = 2,
    Unclear = 3,
    Shown = 4,
}

/// An entry, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    Object(Bytes),
    Refusal(Refusal),
    /// That it was shown, and not what.
    Shown(Sighting),
}

/// What stands in the way of what is known of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The apiserver said 403.
    Withdrawn,
    /// It said 404, or the object was deleted.
    Removed(Removal),
}

/// `tag u8 | nanoseconds since 1970 u64 BE | body`.
pub(super) fn encode_object(at: SystemTime, body: &[u8]) -> Vec<u8> {
    encode(Tag::Object, at, body)
}

pub(super) fn encode_refusal(at: SystemTime, refusal: &Refusal) -> Vec<u8> {
    match refusal {
        Refusal::Withdrawn => encode(Tag::Withdrawn, at, &[]),
        Refusal::Removed(removal) => {
            let tag = match removal.outcome {
                Outcome::Gone => Tag::Absent,
                Outcome::Unclear => Tag::Unclear,
            };
            // Plain texts always encode.
            encode(tag, at, &serde_json::to_vec(removal).unwrap_or_default())
        }
    }
}

pub(super) fn encode_shown(at: SystemTime, seen: &Sighting) -> Vec<u8> {
    let version = seen.version.as_ref().map_or("", ResourceVersion::as_str);
    // Plain texts always encode.
    encode(
        Tag::Shown,
        at,
        &serde_json::to_vec(&[version, &seen.uid]).unwrap_or_default(),
    )
}

fn shown(body: &[u8]) -> Option<Sighting> {
    let [version, uid] = serde_json::from_slice::<[String; 2]>(body).ok()?;
    Some(Sighting {
        version: ResourceVersion::new(&version),
        uid,
        at: None,
    })
}

fn encode(tag: Tag, at: SystemTime, body: &[u8]) -> Vec<u8> {
    let nanos = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    let mut value = Vec::with_capacity(9 + body.len());
    value.push(tag as u8);
    value.extend_from_slice(&nanos.to_be_bytes());
    value.extend_from_slice(body);
    value
}

/// The entry and when it was written; `None` for one of a newer release.
pub(super) fn decode(value: &Bytes) -> Option<(Entry, SystemTime)> {
    let (tag, rest) = value.split_first()?;
    let (nanos, body) = rest.split_first_chunk::<8>()?;
    let tag = [Tag::Object, Tag::Absent, Tag::Withdrawn, Tag::Unclear, Tag::Shown]
        .into_iter()
        .find(|t| *t as u8 == *tag)?;
    let entry = match tag {
        Tag::Object => Entry::Object(value.slice_ref(body)),
        Tag::Withdrawn => Entry::Refusal(Refusal::Withdrawn),
        Tag::Shown => Entry::Shown(shown(body)?),
        Tag::Absent | Tag::Unclear => Entry::Refusal(Refusal::Removed(removal(tag, body))),
    };
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(u64::from_be_bytes(*nanos)))?;
    Some((entry, at))
}

/// An absence that an older release wrote has no place among the versions.
fn removal(tag: Tag, body: &[u8]) -> Removal {
    serde_json::from_slice(body).unwrap_or_else(|_| Removal {
        outcome: match tag {
            Tag::Absent => Outcome::Gone,
            _ => Outcome::Unclear,
        },
        uid: String::new(),
        floor: Mark::Start,
        ceiling: Mark::End,
    })
}

/// `path`, a line feed, the representation: a plain path has no line feed, so keys of two paths never meet.
pub(super) fn object_key(path: &str, representation: &Representation) -> Vec<u8> {
    format!("{path}\n{representation}").into_bytes()
}

pub(super) fn refusal_key(path: &str) -> Vec<u8> {
    format!("{path}\n!").into_bytes()
}

/// Where it is remembered that a view has lost the object.
pub(super) fn shown_key(path: &str) -> Vec<u8> {
    format!("{path}\n-").into_bytes()
}

/// The path of a refusal's key.
pub(super) fn refused_path(key: &[u8]) -> Option<&str> {
    std::str::from_utf8(key).ok()?.strip_suffix("\n!")
}

/// The path of a key under which no object is kept, but word of one.
pub(super) fn marked_path(key: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(key).ok()?;
    text.strip_suffix("\n!").or_else(|| text.strip_suffix("\n-"))
}

/// What the keys of a path's entries begin with, and those of requests for it with parameters that are not known.
pub(super) fn prefixes_of(path: &str) -> [Vec<u8>; 2] {
    [format!("{path}\n").into_bytes(), format!("{path}?").into_bytes()]
}

/// The form of an object's key.
pub(super) fn form_of(key: &[u8]) -> Option<&str> {
    Some(std::str::from_utf8(key).ok()?.split_once('\n')?.1)
}

/// What the body of an answer shows, if it is what the path names: a gateway's greeting is not.
pub(super) fn answer_shows(path: &str, representation: &Representation, body: &[u8]) -> Option<Sighting> {
    let encoding = representation.encoding;
    if matches!(representation.shape, Shape::Table(_)) {
        return table(encoding, body);
    }
    let object = read_object(encoding, body).ok()?;
    let metadata_only = object.type_meta.kind == "PartialObjectMetadata";
    let path = path.split('?').next().unwrap_or_default();
    let name = path.rsplit('/').next().unwrap_or_default();
    // A subresource (`/scale`, `/status`) is named by the segment before the last.
    let owner = path.rsplit('/').nth(1).unwrap_or_default();
    let is_asked = metadata_only == matches!(representation.shape, Shape::Metadata(_))
        && (object.meta.name == name || object.meta.name == owner);
    is_asked.then(|| of_object(object))
}

/// What a kept body shows; something without version if it cannot be read.
pub(in crate::cache) fn kept_shows(encoding: Encoding, body: &[u8]) -> Sighting {
    match read_object(encoding, body) {
        Ok(object) => of_object(object),
        Err(_) => table(encoding, body).unwrap_or_default(),
    }
}

fn of_object(object: Object<'_>) -> Sighting {
    Sighting {
        version: ResourceVersion::new(&object.meta.resource_version),
        uid: object.meta.uid,
        ..Sighting::default()
    }
}

fn table(encoding: Encoding, body: &[u8]) -> Option<Sighting> {
    if encoding != Encoding::Json {
        return None;
    }
    let table = serde_json::from_slice::<Table>(body).ok()?;
    (table.kind == "Table").then(|| Sighting {
        version: ResourceVersion::new(&table.metadata.resource_version),
        ..Sighting::default()
    })
}

#[derive(Deserialize)]
struct Table {
    kind: String,
    #[serde(default)]
    metadata: TableMeta,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TableMeta {
    #[serde(default)]
    resource_version: String,
}
