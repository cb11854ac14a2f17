//! Objects as JSON for people: they are those that the cache takes them for.

use crate::{Outcome, input};
use edgehold::kube::media::Encoding;
use edgehold::wire::object::read_object;
use edgehold::wire::plain;

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let Some(input) = input(data) else {
        return Outcome::Refused;
    };
    let Ok(plain) = plain::read(input.encoding, input.body) else {
        return Outcome::Refused;
    };
    let text = plain.value.to_string();
    assert!(text.starts_with('{') && text.ends_with('}'));
    // Of a protobuf message in several parts the cache reads one.
    if input.encoding != Encoding::Protobuf
        && let Ok(object) = read_object(input.encoding, input.body)
    {
        assert_eq!(plain.value["metadata"]["name"], object.meta.name.as_str());
    }
    Outcome::Accepted
}
