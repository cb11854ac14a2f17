//! What the answer to a write says of the object that was written: that it is still there, or gone.
//!
//! Source: `registry/generic/registry/store.go` (`Delete`, `finalizeDelete`, `ShouldDeleteDuringUpdate`). A deletion is
//! answered with a Status and the uid, or (pods, services and a few others) with the object as it was last, or, while
//! finalizers or a grace period keep it, with the object that stays and now has a deletionTimestamp.

use crate::kube::media::Encoding;

use super::WireError;
use super::edit::{Field, Message};
use super::object::read_object;
use super::status::read_status;

const METADATA: Field = Field::new("metadata", 1);
const GRACE: Field = Field::new("deletionGracePeriodSeconds", 10);
const FINALIZERS: Field = Field::new("finalizers", 14);

const STATUS: Field = Field::new("status", 2);
const DETAILS: Field = Field::new("details", 5);
const UID: Field = Field::new("uid", 6);

const DRY_RUN: Field = Field::new("dryRun", 5);

/// What a write left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remains {
    /// The object of this uid is gone; the uid is empty if it was not said.
    Nothing {
        /// Of the object that was deleted.
        uid: String,
    },
    /// The object, as the answer has it.
    Object,
}

/// What a good answer to a DELETE says; `None` if that cannot be read.
pub fn after_delete(encoding: Encoding, body: &[u8]) -> Option<Remains> {
    if read_status(encoding, body).is_some() {
        return deleted(encoding, body).ok().flatten();
    }
    let object = read_object(encoding, body).ok()?;
    let stays = object.meta.deleting && is_kept(encoding, body).ok()?;
    Some(match stays {
        true => Remains::Object,
        false => Remains::Nothing { uid: object.meta.uid },
    })
}

/// What a good answer to any other write says; `None` if that cannot be read. Who takes the last finalizer off an object
/// that waits to be deleted has deleted it.
pub fn after_update(encoding: Encoding, body: &[u8]) -> Option<Remains> {
    let object = read_object(encoding, body).ok()?;
    Some(match object.meta.deleting && !is_kept(encoding, body).ok()? {
        true => Remains::Nothing { uid: object.meta.uid },
        false => Remains::Object,
    })
}

/// Whether DeleteOptions ask for a dry run; `None` if they cannot be read.
pub fn is_dry_run(encoding: Encoding, options: &[u8]) -> Option<bool> {
    if options.is_empty() {
        return Some(false);
    }
    let options = Message::of_body(encoding, options).ok()?;
    Some(!options.texts(DRY_RUN).ok()?.is_empty())
}

/// Whether finalizers or a grace period keep an object that is being deleted.
fn is_kept(encoding: Encoding, body: &[u8]) -> Result<bool, WireError> {
    let Some(metadata) = Message::of_body(encoding, body)?.message(METADATA)? else {
        return Ok(false);
    };
    Ok(!metadata.texts(FINALIZERS)?.is_empty() || metadata.number(GRACE)?.is_some_and(|grace| grace > 0))
}

fn deleted(encoding: Encoding, body: &[u8]) -> Result<Option<Remains>, WireError> {
    let status = Message::of_body(encoding, body)?;
    if status.text(STATUS)? != "Success" {
        return Ok(None);
    }
    let uid = match status.message(DETAILS)? {
        Some(details) => details.text(UID)?,
        None => String::new(),
    };
    Ok(Some(Remains::Nothing { uid }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::edit::{Value, message};

    const ALL: [Encoding; 3] = [Encoding::Json, Encoding::Protobuf, Encoding::Cbor];
    const NAME: Field = Field::new("name", 1);
    const OBJECT_UID: Field = Field::new("uid", 5);
    const DELETION: Field = Field::new("deletionTimestamp", 9);

    fn text(text: &str) -> Value {
        Value::Text(text.to_owned())
    }

    /// A body in its envelope.
    fn body(encoding: Encoding, kind: &str, fields: &[(Field, Value)]) -> Vec<u8> {
        if encoding != Encoding::Protobuf {
            let mut all = vec![
                (Field::new("kind", 0), text(kind)),
                (Field::new("apiVersion", 0), text("v1")),
            ];
            all.extend_from_slice(fields);
            return message(encoding, &all).unwrap();
        }
        let types = message(
            encoding,
            &[(Field::new("", 1), text("v1")), (Field::new("", 2), text(kind))],
        )
        .unwrap();
        let raw = message(encoding, fields).unwrap();
        let unknown = [
            (Field::new("", 1), Value::Message(types)),
            (Field::new("", 2), Value::Message(raw)),
        ];
        [b"k8s\0".to_vec(), message(encoding, &unknown).unwrap()].concat()
    }

    fn object(encoding: Encoding, metadata: &[(Field, Value)]) -> Vec<u8> {
        let mut all = vec![(NAME, text("a")), (OBJECT_UID, text("u"))];
        all.extend_from_slice(metadata);
        let metadata = Value::Message(message(encoding, &all).unwrap());
        body(encoding, "Pod", &[(METADATA, metadata)])
    }

    fn deleting(encoding: Encoding) -> (Field, Value) {
        let time = match encoding {
            Encoding::Protobuf => {
                Value::Message(message(encoding, &[(Field::new("", 1), Value::Number(9))]).unwrap())
            }
            _ => text("2026-01-01T00:00:00Z"),
        };
        (DELETION, time)
    }

    fn gone() -> Option<Remains> {
        Some(Remains::Nothing { uid: "u".to_owned() })
    }

    #[test]
    fn a_status_of_success_says_that_the_object_is_gone() {
        for encoding in ALL {
            let details = Value::Message(message(encoding, &[(UID, text("u"))]).unwrap());
            let success = body(
                encoding,
                "Status",
                &[(STATUS, text("Success")), (DETAILS, details)],
            );
            assert_eq!(after_delete(encoding, &success), gone(), "{encoding:?}");
            let failure = body(encoding, "Status", &[(STATUS, text("Failure"))]);
            assert_eq!(after_delete(encoding, &failure), None, "{encoding:?}");
        }
        assert_eq!(after_delete(Encoding::Json, b"<html>"), None);
    }

    #[test]
    fn an_object_that_finalizers_or_a_grace_period_keep_stays() {
        for encoding in ALL {
            let finalizers = (FINALIZERS, Value::Texts(vec!["f".to_owned()]));
            let time = deleting(encoding);
            for (metadata, stays) in [
                (vec![], false),
                (vec![time.clone()], false),
                (vec![time.clone(), (GRACE, Value::Number(0))], false),
                (vec![time.clone(), (GRACE, Value::Number(30))], true),
                (vec![time.clone(), finalizers.clone()], true),
                // No deletionTimestamp: it was deleted at once, and this is what it was.
                (vec![finalizers], false),
            ] {
                let body = object(encoding, &metadata);
                let expected = if stays { Some(Remains::Object) } else { gone() };
                assert_eq!(
                    after_delete(encoding, &body),
                    expected,
                    "{encoding:?} {metadata:?}"
                );
                let waits = metadata.contains(&time);
                let expected = if stays || !waits {
                    Some(Remains::Object)
                } else {
                    gone()
                };
                assert_eq!(
                    after_update(encoding, &body),
                    expected,
                    "{encoding:?} {metadata:?}"
                );
            }
        }
    }

    #[test]
    fn a_dry_run_is_known_by_its_options() {
        for encoding in ALL {
            let options = |fields: &[(Field, Value)]| body(encoding, "DeleteOptions", fields);
            let dry = options(&[(DRY_RUN, Value::Texts(vec!["All".to_owned()]))]);
            assert_eq!(is_dry_run(encoding, &dry), Some(true), "{encoding:?}");
            let real = options(&[(Field::new("propagationPolicy", 4), text("Background"))]);
            assert_eq!(is_dry_run(encoding, &real), Some(false), "{encoding:?}");
        }
        assert_eq!(is_dry_run(Encoding::Json, b""), Some(false));
        assert_eq!(is_dry_run(Encoding::Yaml, b"dryRun: [All]"), None);
        assert_eq!(is_dry_run(Encoding::Json, b"[]"), None);
    }
}
