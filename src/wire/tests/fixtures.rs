//! Recorded answers of a kube-apiserver 1.36 (tests/fixtures/kube-apiserver-1.36/README.md).

use std::fs;
use std::io::Read;
use std::path::Path;

use super::*;
use crate::kube::status::Status;
use crate::wire::meta::TypeMeta;
use crate::wire::object::{Style, read_object};
use crate::wire::status::{encode_status, read_status};

fn body(name: &str) -> Vec<u8> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kube-apiserver-1.36");
    let bytes = fs::read(dir.join(format!("{name}.body"))).unwrap();
    if !name.contains("gzip") {
        return bytes;
    }
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_end(&mut plain)
        .unwrap();
    plain
}

fn encoding_of(name: &str) -> Encoding {
    match name.ends_with(".proto") {
        true => Encoding::Protobuf,
        false => Encoding::Json,
    }
}

/// Every recorded list of objects, apart from single pages.
const LISTS: &[&str] = &[
    "clusterroles-list.json",
    "clusterroles-list.proto",
    "cm-list-all.json",
    "cm-list-all.proto",
    "cm-list-big.gzip.proto",
    "cm-list-byname.json",
    "cm-list-byname.proto",
    "cm-list-empty.json",
    "cm-list-empty.proto",
    "cm-list-label-after.json",
    "cm-list-label-after.proto",
    "cm-list-label.json",
    "cm-list-label.proto",
    "cm-list-ns-after.json",
    "cm-list-ns-after.proto",
    "cm-list-ns.json",
    "cm-list-ns.proto",
    "cm-meta-list-v1beta1.proto",
    "cm-meta-list.json",
    "cm-meta-list.proto",
    "endpointslices.json",
    "endpointslices.proto",
    "gauges-list-after.json",
    "gauges-list-fallback",
    "gauges-list.json",
    "gauges-meta-list.json",
    "gauges-meta-list.proto",
    "pods-by-node.json",
    "pods-by-node.proto",
    "secret-list.json",
    "secret-list.proto",
    "svc-list.json",
    "svc-list.proto",
];

const WATCHES: &[&str] = &[
    "cm-watch-label.json",
    "cm-watch-label.proto",
    "cm-watch-meta.json",
    "cm-watch-meta.proto",
    "cm-watch-rv0.json",
    "cm-watch-rv0.proto",
    "cm-watch-table.json",
    "cm-watch.json",
    "cm-watch.proto",
    "cm-watchlist.json",
    "cm-watchlist.proto",
    "gauges-watchlist.json",
    "watch-too-old",
];

#[test]
fn every_list_comes_back_byte_for_byte() {
    for name in LISTS {
        let body = body(name);
        let encoding = encoding_of(name);
        let (head, items) = read_list(encoding, &body).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(head.count, items.len());
        let stored = serde_json::to_string(&Collection::from_list(encoding, &head)).unwrap();
        let collection: Collection = serde_json::from_str(&stored).unwrap();
        let again = collection.list(
            &head.resource_version,
            items.iter().map(|(_, bytes)| bytes.as_slice()),
        );
        assert_bytes(&again, &body);
        let totals = collection.totals(items.iter().map(|(_, bytes)| bytes.len()));
        assert_eq!(
            collection.list_len(&head.resource_version, totals),
            body.len() as u64,
            "{name}"
        );
        let mut keys: Vec<_> = items.iter().map(|(meta, _)| meta.key()).collect();
        let listed = keys.clone();
        keys.sort();
        assert_eq!(keys, listed, "{name} is in key order");
    }
}

#[test]
fn the_pieces_in_which_a_list_arrives_make_no_difference() {
    for name in LISTS {
        let body = body(name);
        let whole = read_list(encoding_of(name), &body).unwrap();
        for size in [1, 2, 3, 5, 7, 64, 1000, 4096] {
            assert_eq!(
                read_list_in(encoding_of(name), body.chunks(size)).unwrap(),
                whole,
                "{name} by {size}"
            );
        }
    }
}

#[test]
fn a_list_cut_anywhere_is_no_list() {
    for name in [
        "cm-list-label.json",
        "cm-list-label.proto",
        "cm-meta-list-v1beta1.proto",
        "gauges-meta-list.json",
        "cm-list-empty.json",
    ] {
        let body = body(name);
        let end = match encoding_of(name) {
            // The last line break, and the two empty fields behind the message.
            Encoding::Json => body.len() - 1,
            _ => body.len() - 4,
        };
        for len in 0..end {
            assert!(
                read_list(encoding_of(name), &body[..len]).is_err(),
                "{name} cut at {len}"
            );
        }
    }
}

#[test]
fn an_indented_list_gives_one_line_events() {
    let body = body("cm-list-big.gzip.json");
    assert!(body.starts_with(b"{\n"), "recorded as curl asked for it");
    let (head, items) = read_list(Encoding::Json, &body).unwrap();
    let collection = Collection::from_list(Encoding::Json, &head);
    assert_eq!(collection.style, Style::BuiltIn);
    let again = collection.list(
        &head.resource_version,
        items.iter().map(|(_, bytes)| bytes.as_slice()),
    );
    let value = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
    assert_eq!(value(&again), value(&body));
    for (meta, item) in &items {
        let frame = collection.event(crate::kube::event::EventType::Added, item);
        assert_eq!(frame.iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!(frame.last(), Some(&b'\n'));
        match read_event(Encoding::Json, &frame).unwrap() {
            WatchEvent::Item { object, .. } => assert_eq!(object.meta, *meta),
            other => panic!("{other:?}"),
        }
        let mut object = value(item);
        object["kind"] = "ConfigMap".into();
        object["apiVersion"] = "v1".into();
        assert_eq!(value(&frame)["object"], object);
    }
}

#[test]
fn the_style_of_a_list_is_recognised() {
    let table = [
        ("cm-list-ns.json", Style::BuiltIn, "ConfigMap"),
        ("cm-list-empty.json", Style::BuiltIn, "Secret"),
        ("gauges-list.json", Style::Custom, "Gauge"),
        (
            "gauges-meta-list.json",
            Style::PartialMetadata,
            "PartialObjectMetadata",
        ),
        (
            "cm-meta-list.json",
            Style::PartialMetadata,
            "PartialObjectMetadata",
        ),
        ("cm-meta-list.proto", Style::BuiltIn, "PartialObjectMetadata"),
    ];
    for (name, style, kind) in table {
        let (head, _) = read_list(encoding_of(name), &body(name)).unwrap();
        let collection = Collection::from_list(encoding_of(name), &head);
        assert_eq!(
            (collection.style, collection.item.kind.as_str()),
            (style, kind),
            "{name}"
        );
    }
}

#[test]
fn json_and_protobuf_tell_the_same_of_each_item() {
    for name in [
        "cm-list-all",
        "clusterroles-list",
        "pods-by-node",
        "svc-list",
        "cm-meta-list",
        "gauges-meta-list",
    ] {
        let read = |suffix: &str| {
            let name = format!("{name}.{suffix}");
            let (_, items) = read_list(encoding_of(&name), &body(&name)).unwrap();
            items.into_iter().map(|(meta, _)| meta).collect::<Vec<_>>()
        };
        assert_eq!(read("json"), read("proto"), "{name}");
    }
}

/// Applies a stream to a list and compares with the list taken afterwards.
fn assert_leads_to(mut view: View, watch: &str, after: &str) {
    let encoding = encoding_of(watch);
    view.apply(encoding, &body(watch));
    let wanted = View::of_list(encoding, &body(after));
    assert_eq!(
        view.items.keys().collect::<Vec<_>>(),
        wanted.items.keys().collect::<Vec<_>>()
    );
    for (key, item) in &view.items {
        assert_bytes(item, &wanted.items[key]);
    }
    // The list was taken after the last event, so only its version may be later.
    view.rv = wanted.rv;
    assert_bytes(&view.list(), &body(after));
}

#[test]
fn a_watch_leads_from_one_list_to_the_next() {
    for suffix in ["json", "proto"] {
        for (before, watch, after) in [
            ("cm-list-ns", "cm-watch", "cm-list-ns-after"),
            ("cm-list-label", "cm-watch-label", "cm-list-label-after"),
        ] {
            let [before, watch, after] = [before, watch, after].map(|name| format!("{name}.{suffix}"));
            let view = View::of_list(encoding_of(&before), &body(&before));
            assert_leads_to(view, &watch, &after);
        }
    }
}

#[test]
fn a_watch_list_needs_no_list() {
    assert_leads_to(View::empty(), "cm-watchlist.json", "cm-list-ns-after.json");
    assert_leads_to(View::empty(), "cm-watchlist.proto", "cm-list-ns-after.proto");
    assert_leads_to(View::empty(), "cm-watch-rv0.json", "cm-list-ns-after.json");
    assert_leads_to(View::empty(), "cm-watch-rv0.proto", "cm-list-ns-after.proto");
    assert_leads_to(View::empty(), "gauges-watchlist.json", "gauges-list-after.json");
}

#[test]
fn pages_together_are_the_list() {
    let whole = body("cm-list-all.json");
    let mut pages = Vec::new();
    let mut rv = String::new();
    let mut collection = None;
    for page in 1..=6 {
        let (head, items) = read_list(Encoding::Json, &body(&format!("cm-page{page}.json"))).unwrap();
        assert_eq!(head.continue_token.is_empty(), page == 6);
        pages.extend(items.into_iter().map(|(_, bytes)| bytes));
        collection = Some(Collection::from_list(Encoding::Json, &head));
        rv = head.resource_version;
    }
    assert_bytes(
        &collection.unwrap().list(&rv, pages.iter().map(Vec::as_slice)),
        &whole,
    );
}

#[test]
fn single_objects_are_answered_from_their_list() {
    for (list, get, key) in [
        ("cm-list-all.json", "cm-get.json", "shop/cm-2"),
        ("cm-list-all.proto", "cm-get.proto", "shop/cm-2"),
        ("gauges-list.json", "gauges-get.json", "shop/g-0"),
        ("cm-meta-list.json", "cm-meta-get.json", "shop/cm-2"),
        ("cm-meta-list.proto", "cm-meta-get.proto", "shop/cm-2"),
    ] {
        let view = View::of_list(encoding_of(list), &body(list));
        let wanted = body(get);
        let collection = view.collection.unwrap();
        assert_bytes(&collection.object(&view.items[key]), &wanted);
        let object = read_object(encoding_of(get), &wanted).unwrap();
        assert_eq!(object.meta.key(), key);
        assert_bytes(&object.item, &view.items[key]);
        assert_eq!(Collection::from_object(&object).item, collection.item);
    }
}

#[test]
fn every_frame_is_written_as_it_was_read() {
    for name in WATCHES {
        let encoding = encoding_of(name);
        let stream = body(name);
        let (frames, left) = frames_in(encoding, [&stream[..]]).unwrap();
        assert_eq!((frames.concat(), left), (stream, 0), "{name}");
        for frame in frames {
            match read_event(encoding, &frame).unwrap() {
                WatchEvent::Item { change, object } => {
                    assert_bytes(
                        &Collection::from_object(&object).event(change, &object.item),
                        &frame,
                    );
                }
                WatchEvent::Bookmark(bookmark) => {
                    let collection = Collection::from_bookmark(encoding, &bookmark);
                    let again = collection.bookmark(&bookmark.resource_version, bookmark.initial_events_end);
                    assert_bytes(&again, &frame);
                }
                WatchEvent::Opaque {
                    type_meta,
                    change,
                    resource_version,
                } => {
                    assert!(type_meta.is_table());
                    assert_eq!(*name, "cm-watch-table.json");
                    let frame: serde_json::Value = serde_json::from_slice(&frame).unwrap();
                    let row = &frame["object"]["rows"][0]["object"]["metadata"];
                    assert_eq!(row["resourceVersion"], resource_version.as_str());
                    assert_eq!(frame["type"], change.unwrap().as_str());
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }
}

#[test]
fn what_is_no_list_is_refused() {
    for name in [
        "cm-table.json",
        "gauges-table.json",
        "cm-get.json",
        "cm-get.proto",
        "notfound.json",
        "notfound.proto",
        "discovery-api-v1",
        "discovery-apis-plain",
        "version",
        "jwks",
    ] {
        let found = read_list(encoding_of(name), &body(name));
        assert!(
            matches!(found, Err(WireError::NotAList { .. })),
            "{name}: {found:?}"
        );
    }
    // Aggregated discovery does have `items`; its kind gives it away.
    assert!(read_list(Encoding::Json, &body("discovery-apis-aggregated")).is_err());
}

#[test]
fn status_is_recognised() {
    for name in ["notfound.json", "notfound.proto"] {
        let status = read_status(encoding_of(name), &body(name)).unwrap();
        assert_eq!((status.code, status.reason.as_str()), (404, "NotFound"), "{name}");
        assert_eq!(status.message, r#"configmaps "nope" not found"#);
        assert_eq!(status.name, "nope");
        assert!(read_object(encoding_of(name), &body(name)).is_err());
    }
    let refused = read_status(Encoding::Protobuf, &body("gauges-list-proto-refused")).unwrap();
    assert_eq!((refused.code, refused.reason.as_str()), (406, "NotAcceptable"));
    for name in [
        "cm-get.json",
        "cm-get.proto",
        "cm-list-ns.json",
        "version",
        "discovery-api-v1",
    ] {
        assert_eq!(read_status(encoding_of(name), &body(name)), None, "{name}");
    }
}

#[test]
fn recorded_status_bodies_are_written_alike() {
    let status = Status::not_found("", "configmaps", "nope");
    assert_bytes(&encode_status(Encoding::Json, &status), &body("notfound.json"));
    assert_bytes(
        &encode_status(Encoding::Protobuf, &status),
        &body("notfound.proto"),
    );
}

#[test]
fn an_object_of_another_kind_is_not_adopted() {
    let cm = body("cm-get.json");
    let (head, _) = read_list(Encoding::Json, &body("gauges-list.json")).unwrap();
    let mut gauges = Collection::from_list(Encoding::Json, &head);
    let object = read_object(Encoding::Json, &cm).unwrap();
    assert!(matches!(
        gauges.adopt(object.clone()),
        Err(WireError::Mismatch { .. })
    ));
    let mut unknown = Collection {
        item: TypeMeta::new("v1", "ConfigMaps"),
        item_seen: false,
        ..Collection::from_object(&object)
    };
    let mut elsewhere = Collection {
        item: TypeMeta::new("g.io/v1", "ConfigMap"),
        ..unknown.clone()
    };
    assert!(elsewhere.adopt(object.clone()).is_err());
    assert!(unknown.adopt(object).is_ok());
    assert_eq!(
        (unknown.item.kind.as_str(), unknown.item_seen),
        ("ConfigMap", true)
    );
}
