//! Watch events: what was read can be written and read again.
#![no_main]

use edgehold::wire::collection::Collection;
use edgehold::wire::watch::{WatchEvent, read_event};
use edgehold_fuzz::input;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some(input) = input(data) else { return };
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
        _ => {}
    }
});
