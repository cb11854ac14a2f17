//! The vectors of wire contract 3.4, 3.6 and appendix A.1 to A.4.

use super::*;
use crate::kube::event::EventType;
use crate::kube::status::{Details, Status};
use crate::wire::meta::TypeMeta;
use crate::wire::object::{Style, read_object};
use crate::wire::status::{StatusSummary, encode_status, error_frame, read_status};

const OBJECT: &str = "6b3873000a0f0a0276311209436f6e6669674d6170122b0a210a016112001a036e733122002a03752d3132023130380042005a060a017812017912060a016b1201761a002200";
const ITEM_A: &str = "0a210a016112001a036e733122002a03752d3132023130380042005a060a017812017912060a016b120176";
const ITEM_B: &str = "0a190a016212001a036e733122002a03752d31320231323800420012060a016b120176";

fn config_maps(encoding: Encoding) -> Collection {
    Collection {
        encoding,
        item: TypeMeta::new("v1", "ConfigMap"),
        list: TypeMeta::new("v1", "ConfigMapList"),
        style: Style::BuiltIn,
        item_seen: true,
    }
}

fn proto_list(rv: &str, items: &[&str]) -> Vec<u8> {
    let items: Vec<_> = items.iter().map(|item| unhex(item)).collect();
    config_maps(Encoding::Protobuf).list(rv, items.iter().map(Vec::as_slice))
}

#[test]
fn protobuf_objects_split_and_join() {
    let body = unhex(OBJECT);
    let object = read_object(Encoding::Protobuf, &body).unwrap();
    assert_eq!(object.type_meta, TypeMeta::new("v1", "ConfigMap"));
    assert_eq!(object.meta.key(), "ns1/a");
    assert_eq!(
        (object.meta.uid.as_str(), object.meta.resource_version.as_str()),
        ("u-1", "10")
    );
    assert_eq!(
        object.meta.labels,
        BTreeMap::from([("x".to_owned(), "y".to_owned())])
    );
    assert!(!object.meta.deleting);
    assert_eq!(*object.item, unhex(ITEM_A));
    assert_bytes(&Collection::from_object(&object).object(&object.item), &body);
}

#[test]
fn protobuf_lists_of_none_one_and_two() {
    let wanted = [
        "6b3873000a130a027631120d436f6e6669674d61704c697374120a0a080a00120231351a001a002200",
        "6b3873000a130a027631120d436f6e6669674d61704c69737412370a080a00120231351a00122b0a210a016112001a036e733122002a03752d3132023130380042005a060a017812017912060a016b1201761a002200",
        "6b3873000a130a027631120d436f6e6669674d61704c697374125c0a080a00120231351a00122b0a210a016112001a036e733122002a03752d3132023130380042005a060a017812017912060a016b12017612230a190a016212001a036e733122002a03752d31320231323800420012060a016b1201761a002200",
    ];
    for (count, wanted) in wanted.iter().enumerate() {
        let body = unhex(wanted);
        assert_bytes(&proto_list("15", &[ITEM_A, ITEM_B][..count]), &body);
        let (head, items) = read_list(Encoding::Protobuf, &body).unwrap();
        assert_eq!(
            (head.count, items.len(), head.resource_version.as_str()),
            (count, count, "15")
        );
        assert_eq!(
            Collection::from_list(Encoding::Protobuf, &head).item.kind,
            "ConfigMap"
        );
    }
}

#[test]
fn a_protobuf_continue_token_is_read() {
    let body =
        unhex("6b3873000a130a027631120d436f6e6669674d61704c697374120f0a0d0a00120231351a0361626320071a002200");
    let (head, _) = read_list(Encoding::Protobuf, &body).unwrap();
    assert_eq!(head.continue_token, "abc");
}

#[test]
fn protobuf_frames() {
    let collection = config_maps(Encoding::Protobuf);
    let added = unhex(
        "000000510a05414444454412480a466b3873000a0f0a0276311209436f6e6669674d6170122b0a210a016112001a036e733122002a03752d3132023130380042005a060a017812017912060a016b1201761a002200",
    );
    assert_bytes(&collection.event(EventType::Added, &unhex(ITEM_A)), &added);
    match read_event(Encoding::Protobuf, &added).unwrap() {
        WatchEvent::Item { change, object } => {
            assert_eq!((change, object.meta.key().as_str()), (EventType::Added, "ns1/a"));
            assert_eq!(*object.item, unhex(ITEM_A));
        }
        other => panic!("{other:?}"),
    }
    let bookmarks = [
        (
            false,
            "0000003d0a08424f4f4b4d41524b12310a2f6b3873000a0f0a0276311209436f6e6669674d617012140a120a0012001a0022002a0032023432380042001a002200",
        ),
        (
            true,
            "000000600a08424f4f4b4d41524b12540a526b3873000a0f0a0276311209436f6e6669674d617012370a350a0012001a0022002a00320234323800420062210a196b38732e696f2f696e697469616c2d6576656e74732d656e641204747275651a002200",
        ),
    ];
    for (end, frame) in bookmarks {
        let frame = unhex(frame);
        assert_bytes(&collection.bookmark("42", end), &frame);
        match read_event(Encoding::Protobuf, &frame).unwrap() {
            WatchEvent::Bookmark(bookmark) => {
                assert_eq!(
                    (bookmark.resource_version.as_str(), bookmark.initial_events_end),
                    ("42", end)
                );
                assert_eq!(
                    Collection::from_bookmark(Encoding::Protobuf, &bookmark),
                    collection
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn protobuf_status() {
    let expired = Status::expired("too old resource version: 5 (9)");
    let frame = unhex(
        "000000610a054552524f5212580a566b3873000a0c0a0276311206537461747573123e0a060a0012001a0012074661696c7572651a1f746f6f206f6c64207265736f757263652076657273696f6e3a203520283929220745787069726564309a031a002200",
    );
    assert_bytes(&error_frame(Encoding::Protobuf, &expired), &frame);
    let summary = StatusSummary {
        code: 410,
        reason: "Expired".into(),
        message: "too old resource version: 5 (9)".into(),
        name: String::new(),
        kind: String::new(),
    };
    assert_eq!(
        read_event(Encoding::Protobuf, &frame),
        Ok(WatchEvent::Error(summary))
    );
    let body = unhex(
        "6b3873000a0c0a027631120653746174757312510a060a0012001a0012074661696c7572651a27656467652070726f78793a20636c6f75642061706973657276657220756e726561636861626c65221253657276696365556e617661696c61626c6530f7031a002200",
    );
    assert_bytes(&encode_status(Encoding::Protobuf, &unreachable()), &body);
    assert_eq!(read_status(Encoding::Protobuf, &body).unwrap().code, 503);
}

fn unreachable() -> Status {
    Status::unavailable("edge proxy: cloud apiserver unreachable")
}

#[test]
fn protobuf_deletion_is_seen() {
    let body = unhex(
        "6b3873000a0f0a0276311209436f6e6669674d617012350a2b0a016412001a036e733122002a03752d3132023134380042080880e2cfaa0610004a080880e2cfaa06100012060a016b1201761a002200",
    );
    let object = read_object(Encoding::Protobuf, &body).unwrap();
    assert!(object.meta.deleting);
    assert_eq!(object.meta.key(), "ns1/d");
}

#[test]
fn protobuf_metadata_lists_in_both_versions() {
    let bodies = [
        "6b3873000a2b0a0e6d6574612e6b38732e696f2f763112195061727469616c4f626a6563744d657461646174614c697374122f0a080a00120231351a0012230a210a016112001a036e733122002a03752d3132023130380042005a060a01781201791a002200",
        "6b3873000a300a136d6574612e6b38732e696f2f7631626574613112195061727469616c4f626a6563744d657461646174614c697374122f0a230a210a016112001a036e733122002a03752d3132023130380042005a060a017812017912080a00120231351a001a002200",
    ];
    for body in bodies {
        let body = unhex(body);
        let (head, items) = read_list(Encoding::Protobuf, &body).unwrap();
        assert_eq!(
            (items[0].0.key().as_str(), head.resource_version.as_str()),
            ("ns1/a", "15")
        );
        let collection = Collection::from_list(Encoding::Protobuf, &head);
        assert_eq!(collection.item.kind, "PartialObjectMetadata");
        assert_bytes(
            &collection.list("15", items.iter().map(|(_, bytes)| bytes.as_slice())),
            &body,
        );
    }
}

#[test]
fn protobuf_long_lengths() {
    let z = "7a".repeat(200);
    let body = unhex(&format!(
        "6b3873000a0f0a0276311209436f6e6669674d617012f7010aec010a0362696712001a036e733122002a03752d3132023133380042005ace010a017812c801{z}12060a016b1201761a002200"
    ));
    assert_eq!(body.len(), 275);
    let object = read_object(Encoding::Protobuf, &body).unwrap();
    assert_eq!(object.meta.labels["x"], "z".repeat(200));
    let collection = Collection::from_object(&object);
    assert_bytes(&collection.object(&object.item), &body);
    let list = collection.list("13", [&*object.item]);
    assert_eq!(read_list(Encoding::Protobuf, &list).unwrap().1[0].1, *object.item);
}

#[test]
fn protobuf_sequence() {
    let steps = [
        (
            "0000003d0a05414444454412340a326b3873000a0f0a0276311209436f6e6669674d617012170a150a016212001a016e22002a017532023132380042001a002200",
            "12",
            "6b3873000a130a027631120d436f6e6669674d61704c697374123c0a080a00120231321a0012170a150a016112001a016e22002a0175320231303800420012170a150a016212001a016e22002a017532023132380042001a002200",
        ),
        (
            "0000003f0a0744454c4554454412340a326b3873000a0f0a0276311209436f6e6669674d617012170a150a016112001a016e22002a017532023133380042001a002200",
            "13",
            "6b3873000a130a027631120d436f6e6669674d61704c69737412230a080a00120231331a0012170a150a016212001a016e22002a017532023132380042001a002200",
        ),
        (
            "0000003d0a08424f4f4b4d41524b12310a2f6b3873000a0f0a0276311209436f6e6669674d617012140a120a0012001a0022002a0032023230380042001a002200",
            "20",
            "6b3873000a130a027631120d436f6e6669674d61704c69737412230a080a00120232301a0012170a150a016212001a016e22002a017532023132380042001a002200",
        ),
    ];
    let first = unhex(
        "6b3873000a130a027631120d436f6e6669674d61704c69737412230a080a00120231311a0012170a150a016112001a016e22002a017532023130380042001a002200",
    );
    let mut view = View::of_list(Encoding::Protobuf, &first);
    assert_bytes(&view.list(), &first);
    for (frame, rv, list) in steps {
        view.apply_frame(Encoding::Protobuf, &unhex(frame));
        assert_eq!(view.rv, rv);
        assert_bytes(&view.list(), &unhex(list));
    }
}

#[test]
fn json_sequence() {
    let first = concat!(
        r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"11"},"items":[{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"10"}}]}"#,
        "\n"
    );
    let steps = [
        (
            r#"{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"b","namespace":"n","uid":"u","resourceVersion":"12"}}}"#,
            r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"12"},"items":[{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"10"}},{"metadata":{"name":"b","namespace":"n","uid":"u","resourceVersion":"12"}}]}"#,
        ),
        (
            r#"{"type":"DELETED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"13"}}}"#,
            r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"13"},"items":[{"metadata":{"name":"b","namespace":"n","uid":"u","resourceVersion":"12"}}]}"#,
        ),
    ];
    let mut view = View::of_list(Encoding::Json, first.as_bytes());
    assert_bytes(&view.list(), first.as_bytes());
    for (frame, list) in steps {
        let frame = format!("{frame}\n");
        view.apply_frame(Encoding::Json, frame.as_bytes());
        assert_bytes(&view.list(), format!("{list}\n").as_bytes());
        if let WatchEvent::Item { change, object } = read_event(Encoding::Json, frame.as_bytes()).unwrap() {
            let again = view.collection.as_ref().unwrap().event(change, &object.item);
            assert_bytes(&again, frame.as_bytes());
        }
    }
}

#[test]
fn json_objects_and_bookmarks() {
    let body = concat!(
        r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"a","namespace":"ns1","uid":"u-1","resourceVersion":"10","labels":{"x":"y"}},"data":{"k":"v"}}"#,
        "\n"
    );
    let object = read_object(Encoding::Json, body.as_bytes()).unwrap();
    assert_eq!(object.meta.labels["x"], "y");
    assert!(object.item.starts_with(br#"{"metadata""#));
    let collection = Collection::from_object(&object);
    assert_bytes(&collection.object(&object.item), body.as_bytes());
    assert_bytes(
        &collection.list("15", []),
        concat!(
            r#"{"kind":"ConfigMapList","apiVersion":"v1","metadata":{"resourceVersion":"15"},"items":[]}"#,
            "\n"
        )
        .as_bytes(),
    );
    assert_bytes(
        &collection.bookmark("42", true),
        concat!(r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"resourceVersion":"42","annotations":{"k8s.io/initial-events-end":"true"}}}}"#, "\n").as_bytes(),
    );
}

#[test]
fn json_custom_list() {
    let body = concat!(
        r#"{"apiVersion":"g.io/v1","items":[{"apiVersion":"g.io/v1","kind":"Foo","metadata":{"name":"a","namespace":"n","resourceVersion":"10"},"spec":{"n":3}}],"kind":"FooList","metadata":{"continue":"","resourceVersion":"15"}}"#,
        "\n"
    );
    let view = View::of_list(Encoding::Json, body.as_bytes());
    assert_bytes(&view.list(), body.as_bytes());
    let collection = view.collection.unwrap();
    assert_eq!(
        (collection.style, collection.item),
        (Style::Custom, TypeMeta::new("g.io/v1", "Foo"))
    );
}

#[test]
fn json_status() {
    let table: [(Status, &str); 4] = [
        (
            unreachable(),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"edge proxy: cloud apiserver unreachable","reason":"ServiceUnavailable","code":503}"#,
        ),
        (
            Status::not_found("", "configmaps", "zz"),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"configmaps \"zz\" not found","reason":"NotFound","details":{"name":"zz","kind":"configmaps"},"code":404}"#,
        ),
        (
            Status {
                details: Some(Box::new(Details {
                    causes: vec![(
                        "ResourceVersionTooLarge".to_owned(),
                        "Too large resource version".to_owned(),
                    )],
                    ..Details::default()
                })),
                retry_after_seconds: Some(1),
                ..Status::timeout("Timeout: Too large resource version: 20, current: 10")
            },
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Timeout: Too large resource version: 20, current: 10","reason":"Timeout","details":{"causes":[{"reason":"ResourceVersionTooLarge","message":"Too large resource version"}],"retryAfterSeconds":1},"code":504}"#,
        ),
        (
            Status::too_many_requests("x"),
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"x","reason":"TooManyRequests","details":{"retryAfterSeconds":1},"code":429}"#,
        ),
    ];
    for (status, wanted) in table {
        assert_bytes(
            &encode_status(Encoding::Json, &status),
            format!("{wanted}\n").as_bytes(),
        );
        for encoding in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor] {
            let read = read_status(encoding, &encode_status(encoding, &status)).unwrap();
            let given = (status.code.as_u16(), &*status.reason, &*status.message);
            assert_eq!((read.code, read.reason.as_str(), read.message.as_str()), given);
            let about = status.details.clone().unwrap_or_default();
            assert_eq!((&read.name, &read.kind), (&about.name, &about.kind));
            let frame = error_frame(encoding, &status);
            assert_eq!(read_event(encoding, &frame), Ok(WatchEvent::Error(read)));
            assert_eq!(frames_in(encoding, [&frame[..]]).unwrap(), (vec![frame], 0));
        }
    }
    assert_bytes(
        &error_frame(Encoding::Json, &Status::expired("too old resource version: 5 (9)")),
        concat!(r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"too old resource version: 5 (9)","reason":"Expired","code":410}}"#, "\n").as_bytes(),
    );
}

#[test]
fn cbor_object_and_empty_list() {
    let object_bytes = unhex(
        "d9d9f7a44464617461a1416b4176446b696e6449436f6e6669674d6170486d65746164617461a54375696443752d31446e616d654161466c6162656c73a141784179496e616d657370616365436e73314f7265736f7572636556657273696f6e4231304a61706956657273696f6e427631",
    );
    let object = read_object(Encoding::Cbor, &object_bytes).unwrap();
    assert_eq!(object.type_meta, TypeMeta::new("v1", "ConfigMap"));
    assert_eq!(
        (object.meta.key().as_str(), object.meta.labels["x"].as_str()),
        ("ns1/a", "y")
    );
    assert_bytes(
        &Collection::from_object(&object).object(&object.item),
        &object_bytes,
    );
    let list = unhex(
        "d9d9f7a4446b696e644d436f6e6669674d61704c697374456974656d7380486d65746164617461a14f7265736f7572636556657273696f6e4231354a61706956657273696f6e427631",
    );
    assert_bytes(&View::of_list(Encoding::Cbor, &list).list(), &list);
}

#[test]
fn cbor_sequence() {
    let lists = [
        "d9d9f7a4446b696e644d436f6e6669674d61704c697374456974656d7381a1486d65746164617461a4437569644175446e616d654161496e616d657370616365416e4f7265736f7572636556657273696f6e423130486d65746164617461a14f7265736f7572636556657273696f6e4231314a61706956657273696f6e427631",
        "d9d9f7a4446b696e644d436f6e6669674d61704c697374456974656d7382a1486d65746164617461a4437569644175446e616d654161496e616d657370616365416e4f7265736f7572636556657273696f6e423130a1486d65746164617461a4437569644175446e616d654162496e616d657370616365416e4f7265736f7572636556657273696f6e423132486d65746164617461a14f7265736f7572636556657273696f6e4231324a61706956657273696f6e427631",
        "d9d9f7a4446b696e644d436f6e6669674d61704c697374456974656d7381a1486d65746164617461a4437569644175446e616d654162496e616d657370616365416e4f7265736f7572636556657273696f6e423132486d65746164617461a14f7265736f7572636556657273696f6e4231334a61706956657273696f6e427631",
    ];
    let events = [
        "d9d9f7a24474797065454144444544466f626a656374d9d9f7a3446b696e6449436f6e6669674d6170486d65746164617461a4437569644175446e616d654162496e616d657370616365416e4f7265736f7572636556657273696f6e4231324a61706956657273696f6e427631",
        "d9d9f7a244747970654744454c45544544466f626a656374d9d9f7a3446b696e6449436f6e6669674d6170486d65746164617461a4437569644175446e616d654161496e616d657370616365416e4f7265736f7572636556657273696f6e4231334a61706956657273696f6e427631",
    ];
    let mut view = View::of_list(Encoding::Cbor, &unhex(lists[0]));
    assert_bytes(&view.list(), &unhex(lists[0]));
    for (event, list) in events.iter().zip(&lists[1..]) {
        view.apply_frame(Encoding::Cbor, &unhex(event));
        assert_bytes(&view.list(), &unhex(list));
    }
    let collection = view.collection.as_ref().unwrap();
    let again = collection.event(EventType::Added, &view.items["n/b"]);
    match read_event(Encoding::Cbor, &again).unwrap() {
        WatchEvent::Item { object, .. } => assert_eq!(object.type_meta, collection.item),
        other => panic!("{other:?}"),
    }
    match read_event(Encoding::Cbor, &collection.bookmark("42", true)).unwrap() {
        WatchEvent::Bookmark(bookmark) => assert!(bookmark.initial_events_end),
        other => panic!("{other:?}"),
    }
}

#[test]
fn cbor_tagged_values_are_stepped_over() {
    let secret = unhex(
        "d9d9f7a44464617461a1416bd64176446b696e6446536563726574486d65746164617461a1446e616d6541734a61706956657273696f6e427631",
    );
    let object = read_object(Encoding::Cbor, &secret).unwrap();
    assert_eq!(
        (object.type_meta.kind.as_str(), object.meta.key().as_str()),
        ("Secret", "s")
    );
}

#[test]
fn yaml_is_never_split() {
    let unsupported = Some(WireError::Unsupported(Encoding::Yaml));
    assert_eq!(ListReader::new(Encoding::Yaml).err(), unsupported);
    assert_eq!(FrameReader::new(Encoding::Yaml).err(), unsupported);
    assert_eq!(read_object(Encoding::Yaml, b"kind: A").err(), unsupported);
    assert_eq!(read_event(Encoding::Yaml, b"type: A").err(), unsupported);
    assert_eq!(
        read_status(Encoding::Yaml, &encode_status(Encoding::Yaml, &unreachable())),
        None
    );
}
