//! Watch events: what was read can be written and read again.

use crate::{Outcome, input};
use edgehold::wire::collection::Collection;
use edgehold::wire::watch::{WatchEvent, read_event};

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let Some(input) = input(data) else {
        return Outcome::Refused;
    };
    match read_event(input.encoding, input.body) {
        Ok(WatchEvent::Item { change, object }) => {
            let frame = Collection::from_object(&object).event(change, &object.item);
            match read_event(input.encoding, &frame) {
                Ok(WatchEvent::Item {
                    change: again,
                    object: read,
                }) => {
                    assert_eq!((again, read.meta), (change, object.meta));
                }
                other => panic!("{other:?}"),
            }
        }
        Ok(WatchEvent::Bookmark(bookmark)) => {
            let collection = Collection::from_bookmark(input.encoding, &bookmark);
            let frame = collection.bookmark(&bookmark.resource_version, bookmark.initial_events_end);
            match read_event(input.encoding, &frame) {
                Ok(WatchEvent::Bookmark(read)) => {
                    assert_eq!(read.resource_version, bookmark.resource_version)
                }
                other => panic!("{other:?}"),
            }
        }
        Ok(_) => {}
        Err(_) => return Outcome::Refused,
    }
    Outcome::Accepted
}
