//! Objects: what was read can be written and read again.

use crate::{Outcome, input};
use edgehold::wire::collection::Collection;
use edgehold::wire::object::read_object;

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let Some(input) = input(data) else {
        return Outcome::Refused;
    };
    let Ok(object) = read_object(input.encoding, input.body) else {
        return Outcome::Refused;
    };
    let mut collection = Collection::from_object(&object);
    let (meta, types) = (object.meta.clone(), object.type_meta.clone());
    let item = collection
        .adopt(object)
        .expect("an object fits the collection made from it");
    let body = collection.object(&item);
    let again = read_object(input.encoding, &body).expect("what was written can be read");
    assert_eq!((again.meta, again.type_meta), (meta, types));
    Outcome::Accepted
}
