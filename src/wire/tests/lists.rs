//! Forms of lists and frames that the recordings do not show.

use super::*;
use crate::kube::event::EventType;
use crate::wire::MAX_ITEM;
use crate::wire::meta::TypeMeta;
use crate::wire::object::{Style, read_object};
use crate::wire::protobuf;
use crate::wire::watch::MAX_FRAME;

fn json(body: &str) -> Result<(ListHead, Vec<Item>), WireError> {
    read_list(Encoding::Json, body.as_bytes())
}

fn names(items: &[Item]) -> Vec<String> {
    items.iter().map(|(meta, _)| meta.key()).collect()
}

#[test]
fn decoys_are_not_items() {
    let item = r#"{"metadata":{"name":"a","annotations":{"items":"[{"}},"items":[{"metadata":{"name":"x"}}],"s":"\"items\":[{\\"}"#;
    let body = format!(
        r#"{{"kind":"AList","x":{{"items":[{{"metadata":{{"name":"no"}}}}]}},"y":"\"items\":[{{","apiVersion":"g/v1","metadata":{{"resourceVersion":"1"}},"items":[{item}]}}"#
    );
    let (_, items) = json(&body).unwrap();
    assert_eq!(names(&items), ["a"]);
    assert_bytes(&items[0].1, item.as_bytes());
}

#[test]
fn null_items_are_an_empty_list() {
    let (head, items) = json(r#"{"kind":"AList","apiVersion":"g/v1","items":null,"metadata":{}}"#).unwrap();
    assert!(items.is_empty());
    let list = Collection::from_list(Encoding::Json, &head).list("5", []);
    assert_bytes(&list, b"{\"kind\":\"AList\",\"apiVersion\":\"g/v1\",\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[]}\n");
}

#[test]
fn escaped_spellings_of_keys_are_the_same_keys() {
    let body = r#"{"kind":"AList","apiVersion":"g/v1","metadata":{"resource\u0056ersion":"7"},"\u0069tems":[{"meta\u0064ata":{"name":"\u0061"}}]}"#;
    let (head, items) = json(body).unwrap();
    assert_eq!(
        (names(&items), head.resource_version.as_str()),
        (vec!["a".to_owned()], "7")
    );
}

#[test]
fn repeated_texts_read_as_the_last_one() {
    let item = r#"{"metadata":{"name":"a","name":"b","labels":{"l":"1","l":"2"}},"data":{"k":1,"k":2}}"#;
    let body = format!(r#"{{"kind":"AList","apiVersion":"g/v1","metadata":{{}},"items":[{item}]}}"#);
    let (_, items) = json(&body).unwrap();
    assert_eq!(names(&items), ["b"]);
    assert_eq!(items[0].0.labels["l"], "2");
    assert_bytes(&items[0].1, item.as_bytes());
}

#[test]
fn ambiguous_or_broken_lists_are_refused() {
    let table = [
        (
            "two arrays of items",
            r#"{"kind":"AList","apiVersion":"v1","items":[],"items":[]}"#,
        ),
        (
            "items twice",
            r#"{"kind":"AList","apiVersion":"v1","items":[{"metadata":{"name":"a"}}],"items":null}"#,
        ),
        (
            "metadata twice",
            r#"{"kind":"AList","apiVersion":"v1","items":[{"metadata":{"name":"a"},"metadata":{}}]}"#,
        ),
        (
            "comma at the end",
            r#"{"kind":"AList","apiVersion":"v1","items":[{"metadata":{"name":"a"}},]}"#,
        ),
        (
            "no comma",
            r#"{"kind":"AList","apiVersion":"v1","items":[{"metadata":{"name":"a"}}{"metadata":{"name":"b"}}]}"#,
        ),
        (
            "a null item",
            r#"{"kind":"AList","apiVersion":"v1","items":[null]}"#,
        ),
        (
            "text behind",
            r#"{"kind":"AList","apiVersion":"v1","items":[]} x"#,
        ),
        (
            "another document behind",
            r#"{"kind":"AList","apiVersion":"v1","items":[]}{}"#,
        ),
        ("an array", r#"[{"kind":"AList","apiVersion":"v1","items":[]}]"#),
        (
            "brackets mixed",
            r#"{"kind":"AList","apiVersion":"v1","items":[{"metadata":{"name":"a"]}}}"#,
        ),
        (
            "numeric name",
            r#"{"kind":"AList","apiVersion":"v1","items":[{"metadata":{"name":5}}]}"#,
        ),
        ("no kind", r#"{"items":[]}"#),
        (
            "half a type",
            r#"{"kind":"AList","apiVersion":"v1","items":[{"kind":"A","metadata":{"name":"a"}}]}"#,
        ),
    ];
    for (what, body) in table {
        assert!(json(body).is_err(), "{what}");
        let bytes: Vec<_> = body.as_bytes().chunks(1).collect();
        assert!(
            read_list_in(Encoding::Json, bytes).is_err(),
            "{what}, byte by byte"
        );
    }
    assert!(read_list(Encoding::Json, b"{\"kind\":\"AList\",\"apiVersion\":\"v1\",\"items\":[{\"metadata\":{\"name\":\"a\"},\"x\":\"\xff\"}]}").is_err());
}

#[test]
fn an_item_without_a_name_is_refused() {
    for item in [
        "{}",
        r#"{"metadata":{}}"#,
        r#"{"metadata":null}"#,
        r#"{"metadata":{"name":""}}"#,
        r#"{"metadata":{"name":null}}"#,
    ] {
        let body = format!(r#"{{"kind":"AList","apiVersion":"v1","metadata":{{}},"items":[{item}]}}"#);
        assert_eq!(json(&body).err(), Some(WireError::Nameless), "{item}");
        let object = item
            .replacen('{', r#"{"kind":"A","apiVersion":"v1","z":1,"#, 1)
            .replace(",}", "}");
        assert_eq!(
            read_object(Encoding::Json, object.as_bytes()).err(),
            Some(WireError::Nameless),
            "{object}"
        );
    }
}

#[test]
fn lists_of_several_types_are_refused() {
    let body = r#"{"kind":"AList","apiVersion":"v1","items":[{"kind":"A","apiVersion":"v1","metadata":{"name":"a"}},{"kind":"B","apiVersion":"v1","metadata":{"name":"b"}}]}"#;
    assert!(matches!(json(body), Err(WireError::Unsplittable { .. })));
    let body = r#"{"kind":"List","apiVersion":"v1","metadata":{},"items":[{"kind":"A","apiVersion":"v1","metadata":{"name":"a"}}]}"#;
    assert!(matches!(json(body), Err(WireError::Unsplittable { .. })));
}

#[test]
fn deep_nesting_costs_no_stack() {
    let deep = "[".repeat(200_000) + &"]".repeat(200_000);
    let object =
        format!(r#"{{"kind":"A","apiVersion":"v1","metadata":{{"name":"a","x":{deep}}},"y":{deep}}}"#);
    let read = read_object(Encoding::Json, object.as_bytes()).unwrap();
    let list = Collection::from_object(&read).list("1", [&*read.item]);
    assert_eq!(read_list(Encoding::Json, &list).unwrap().1[0].1, *read.item);
    let event = Collection::from_object(&read).event(EventType::Added, &read.item);
    assert!(matches!(
        read_event(Encoding::Json, &event),
        Ok(WatchEvent::Item { .. })
    ));
    assert!(read_object(Encoding::Cbor, &[0x81; 100_000]).is_err());
}

#[test]
fn errors_do_not_quote_the_body() {
    for body in [
        r#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a"},"data":"hunter2"x}"#,
        r#"{"kind":"A","apiVersion":"v1","metadata":"hunter2"}"#,
        r#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a","labels":["hunter2"]}}"#,
    ] {
        let error = read_object(Encoding::Json, body.as_bytes()).unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}

#[test]
fn a_refusing_receiver_stops_the_reader() {
    #[derive(Debug, PartialEq)]
    enum Refusal {
        Full,
        Wire(WireError),
    }
    impl From<WireError> for Refusal {
        fn from(error: WireError) -> Self {
            Self::Wire(error)
        }
    }
    let body = br#"{"kind":"AList","apiVersion":"v1","items":[{"metadata":{"name":"a"}},{"metadata":{"name":"b"}}]}"#;
    let mut reader = ListReader::new(Encoding::Json).unwrap();
    let mut seen = 0;
    let refused = reader.push(body, &mut |_| {
        seen += 1;
        Err(Refusal::Full)
    });
    assert_eq!((refused, seen), (Err(Refusal::Full), 1));
    assert_eq!(
        reader.push(b"", &mut |_| Ok(())),
        Err(Refusal::Wire(WireError::Failed))
    );
    assert_eq!(reader.finish(), Err(WireError::Failed));
}

#[test]
fn items_above_the_limit_are_refused_and_those_at_it_are_not() {
    let list = |len: usize| {
        let frame = r#"{"metadata":{"name":"a"},"x":""}"#.len();
        let fill = "x".repeat(len - frame);
        format!(
            r#"{{"kind":"AList","apiVersion":"v1","items":[{{"metadata":{{"name":"a"}},"x":"{fill}"}}]}}"#
        )
    };
    assert_eq!(json(&list(MAX_ITEM)).unwrap().1[0].1.len(), MAX_ITEM);
    let body = list(MAX_ITEM + 1);
    assert!(matches!(json(&body), Err(WireError::TooLarge { .. })));
    let pieces = body.as_bytes().chunks(64 << 10);
    assert!(matches!(
        read_list_in(Encoding::Json, pieces),
        Err(WireError::TooLarge { .. })
    ));
    let mut length = unhex("6b3873000a130a027631120d436f6e6669674d61704c69737412ffffff7f12");
    protobuf::put_varint(&mut length, MAX_ITEM as u64 + 1);
    assert!(matches!(
        read_list(Encoding::Protobuf, &length),
        Err(WireError::TooLarge { .. })
    ));
}

#[test]
fn a_body_that_is_no_list_takes_little_memory() {
    let mut reader = ListReader::new(Encoding::Json).unwrap();
    let mut each = |_: crate::wire::list::ListItem<'_>| Ok::<(), WireError>(());
    reader.push(br#"{"kind":"Table","rows":["#, &mut each).unwrap();
    let refused = (0..1000).find_map(|_| reader.push(&[b' '; 4096], &mut each).err());
    assert!(matches!(refused, Some(WireError::TooLarge { .. })));
}

/// A protobuf list message in parts, to be put together in another order.
struct Parts {
    types: Vec<u8>,
    raw: Vec<u8>,
}

fn parts(types: &TypeMeta, fields: &[(u8, &[u8])]) -> Parts {
    let mut message = Vec::new();
    for (field, value) in fields {
        protobuf::put_bytes(&mut message, *field, value);
    }
    let mut inner = Vec::new();
    protobuf::put_bytes(&mut inner, 1, types.api_version.as_bytes());
    protobuf::put_bytes(&mut inner, 2, types.kind.as_bytes());
    let (mut types, mut raw) = (Vec::new(), Vec::new());
    protobuf::put_bytes(&mut types, 1, &inner);
    protobuf::put_bytes(&mut raw, 2, &message);
    Parts { types, raw }
}

const META: &[u8] = &[0x12, 2, b'1', b'5'];
const ITEM: &[u8] = &[0x0a, 3, 0x0a, 1, b'a'];

#[test]
fn protobuf_fields_come_in_any_order() {
    let list = TypeMeta::new("v1", "AList");
    let unknown: &[u8] = &[
        0x7d, 1, 2, 3, 4, 0x79, 1, 2, 3, 4, 5, 6, 7, 8, 0x78, 0xff, 1, 0x7a, 2, 9, 9, 0x7a, 0,
    ];
    for fields in [[(1, META), (2, ITEM)], [(2, ITEM), (1, META)]] {
        let Parts { types, raw } = parts(&list, &fields);
        for order in [[&types, &raw], [&raw, &types]] {
            let body = [b"k8s\0", &order[0][..], unknown, &order[1][..]].concat();
            for size in [1, 3, body.len()] {
                let (head, items) = read_list_in(Encoding::Protobuf, body.chunks(size)).unwrap();
                assert_eq!(
                    (names(&items), head.resource_version.as_str()),
                    (vec!["a".to_owned()], "15")
                );
                assert_eq!(items[0].1, ITEM);
            }
        }
    }
    let mut message = vec![0x12, unknown.len() as u8 + 7];
    message.extend_from_slice(unknown);
    protobuf::put_bytes(&mut message, 2, ITEM);
    let Parts { types, .. } = parts(&list, &[]);
    let (_, items) = read_list(Encoding::Protobuf, &[b"k8s\0", &types[..], &message[..]].concat()).unwrap();
    assert_eq!(names(&items), ["a"]);
}

#[test]
fn the_swapped_list_needs_its_type_first() {
    let types = TypeMeta::new("meta.k8s.io/v1beta1", "PartialObjectMetadataList");
    let Parts { types, raw } = parts(&types, &[(1, ITEM), (2, META)]);
    let (head, items) = read_list(Encoding::Protobuf, &[b"k8s\0", &types[..], &raw[..]].concat()).unwrap();
    assert_eq!(
        (names(&items), head.resource_version.as_str()),
        (vec!["a".to_owned()], "15")
    );
    assert!(read_list(Encoding::Protobuf, &[b"k8s\0", &raw[..], &types[..]].concat()).is_err());
}

#[test]
fn of_repeated_metadata_the_last_counts() {
    let twice = [ITEM, &[0x0a, 3, 0x0a, 1, b'b']].concat();
    let Parts { types, raw } = parts(&TypeMeta::new("v1", "AList"), &[(1, META), (2, &twice)]);
    let (_, items) = read_list(Encoding::Protobuf, &[b"k8s\0", &types[..], &raw[..]].concat()).unwrap();
    assert_eq!(names(&items), ["b"]);
    let erased = [ITEM, &[0x0a, 0]].concat();
    let Parts { types, raw } = parts(&TypeMeta::new("v1", "AList"), &[(1, META), (2, &erased)]);
    let body = [b"k8s\0", &types[..], &raw[..]].concat();
    assert_eq!(
        read_list(Encoding::Protobuf, &body).err(),
        Some(WireError::Nameless)
    );
}

#[test]
fn broken_protobuf_lists_are_refused() {
    type Change<'a> = &'a dyn Fn(&mut Vec<u8>);
    let list = TypeMeta::new("v1", "AList");
    let Parts { types, raw } = parts(&list, &[(1, META), (2, ITEM)]);
    let whole = [b"k8s\0", &types[..], &raw[..]].concat();
    assert!(read_list(Encoding::Protobuf, &whole).is_ok());
    let with = |change: Change<'_>| {
        let mut body = whole.clone();
        change(&mut body);
        [1, body.len()].map(|size| read_list_in(Encoding::Protobuf, body.chunks(size)).err())
    };
    let refused: [(&str, Change<'_>); 6] = [
        ("magic", &|body| body[3] = 1),
        ("raw twice", &|body| body.extend_from_slice(&raw)),
        ("compressed", &|body| {
            body.extend_from_slice(&[0x1a, 4, b'g', b'z', b'i', b'p'])
        }),
        ("item overruns raw", &|body| {
            let at = body.len() - ITEM.len() - 1;
            body[at] += 1;
            body.push(0);
        }),
        ("raw cuts the item", &|body| {
            let at = body.len() - raw.len() + 1;
            body[at] -= 1;
        }),
        ("a varint without end", &|body| {
            body.extend_from_slice(&[0xff; 11])
        }),
    ];
    for (what, change) in refused {
        for error in with(change) {
            assert!(error.is_some(), "{what}");
        }
    }
    for kind in ["A", "APIGroupList", "List", "Status"] {
        let Parts { types, raw } = parts(&TypeMeta::new("v1", kind), &[(1, META), (2, ITEM)]);
        for order in [[&types, &raw], [&raw, &types]] {
            let body = [b"k8s\0", &order[0][..], &order[1][..]].concat();
            assert!(read_list(Encoding::Protobuf, &body).is_err(), "{kind}");
        }
    }
}

#[test]
fn cbor_lists_in_other_spellings() {
    // Text keys, indefinite lengths, metadata and items in front, a tagged item, an unknown member.
    let item = "d9d9f7bf686d65746164617461a1646e616d6561619f01ffff";
    let item = item.replace("9f01ff", "61789f01ff");
    let list = format!(
        "bf{meta}{items}9f{item}ff{other}{kind}{api}ff",
        meta = "686d65746164617461a14f7265736f7572636556657273696f6e423135",
        items = "656974656d73",
        other = "6178820102",
        kind = "446b696e64654c4c697374",
        api = "4a61706956657273696f6e427631",
    );
    let body = unhex(&list);
    for size in 1..=body.len() {
        let (head, items) = read_list_in(Encoding::Cbor, body.chunks(size)).unwrap();
        assert_eq!(
            (names(&items), head.resource_version.as_str()),
            (vec!["a".to_owned()], "15")
        );
        assert_eq!(head.type_meta, TypeMeta::new("v1", "LList"));
        assert_eq!(items[0].1, unhex(&item));
        let collection = Collection::from_list(Encoding::Cbor, &head);
        let frame = collection.event(EventType::Modified, &items[0].1);
        match read_event(Encoding::Cbor, &frame).unwrap() {
            WatchEvent::Item { object, .. } => assert_eq!(object.type_meta, collection.item),
            other => panic!("{other:?}"),
        }
    }
    let null = unhex("a3446b696e64454c4c697374456974656d73f64a61706956657273696f6e427631");
    assert_eq!(read_list(Encoding::Cbor, &null).unwrap().0.count, 0);
    let twice = unhex("a4446b696e64454c4c697374456974656d7380456974656d73804a61706956657273696f6e427631");
    assert!(read_list(Encoding::Cbor, &twice).is_err());
    let no_items = unhex("a2446b696e64454c4c6973744a61706956657273696f6e427631");
    assert!(matches!(
        read_list(Encoding::Cbor, &no_items),
        Err(WireError::NotAList { .. })
    ));
}

#[test]
fn a_typed_object_finds_its_way_into_a_bare_list_and_back() {
    let typed = br#"{"apiVersion":"v1","kind":"A","metadata":{"name":"a"},"z":1}"#;
    let object = read_object(Encoding::Json, typed).unwrap();
    assert_eq!(object.style, Style::Custom);
    let mut bare = Collection {
        style: Style::BuiltIn,
        ..Collection::from_object(&object)
    };
    let item = bare.adopt(object).unwrap();
    assert_bytes(&item, br#"{"metadata":{"name":"a"},"z":1}"#);
    let first = bare.object(&item);
    let object = read_object(Encoding::Json, &first).unwrap();
    assert_eq!(object.style, Style::BuiltIn);
    let mut sorted = Collection {
        style: Style::Custom,
        ..bare
    };
    let item = sorted.adopt(object).unwrap();
    assert_bytes(
        &item,
        br#"{"kind":"A","apiVersion":"v1","metadata":{"name":"a"},"z":1}"#,
    );
}

#[test]
fn a_late_line_break_is_not_held_back() {
    let event = br#"{"type":"ADDED","object":{"kind":"A","apiVersion":"v1","metadata":{"name":"a"}}}"#;
    let mut reader = FrameReader::new(Encoding::Json).unwrap();
    reader.push(bytes::Bytes::from_static(event));
    assert_eq!(reader.next().unwrap().unwrap(), &event[..]);
    assert_eq!((reader.next(), reader.pending()), (Ok(None), 0));
    reader.push(bytes::Bytes::from_static(b"\r\n{"));
    let blank = reader.next().unwrap().unwrap();
    assert_eq!(read_event(Encoding::Json, &blank), Ok(WatchEvent::Blank));
    assert_eq!((reader.next(), reader.pending()), (Ok(None), 1));
}

#[test]
fn frames_in_one_piece_are_not_copied() {
    let chunk = bytes::Bytes::from_static(b"{\"a\":1}\n{\"b\":2}\n");
    let mut reader = FrameReader::new(Encoding::Json).unwrap();
    reader.push(chunk.clone());
    assert_eq!(reader.next().unwrap().unwrap().as_ptr(), chunk.as_ptr());
    assert_eq!(reader.next().unwrap().unwrap().as_ptr(), chunk[8..].as_ptr());
}

#[test]
fn frames_above_the_limit_are_refused() {
    let mut reader = FrameReader::new(Encoding::Protobuf).unwrap();
    reader.push(bytes::Bytes::copy_from_slice(
        &(MAX_FRAME as u32 + 1).to_be_bytes(),
    ));
    assert!(matches!(reader.next(), Err(WireError::TooLarge { .. })));
    let mut reader = FrameReader::new(Encoding::Json).unwrap();
    reader.push(bytes::Bytes::from_static(b"{\"a\":\""));
    let piece = bytes::Bytes::from(vec![b'x'; 1 << 20]);
    let refused = (0..20).find_map(|_| {
        reader.push(piece.clone());
        reader.next().err()
    });
    assert!(matches!(refused, Some(WireError::TooLarge { .. })));
    assert!(reader.next().is_err(), "and stays so");
}

#[test]
fn events_of_unknown_make_are_refused() {
    for frame in [
        r#"{"type":"RENAMED","object":{"kind":"A","apiVersion":"v1","metadata":{"name":"a"}}}"#,
        r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#,
        r#"{"type":"ADDED","object":{"kind":"A","apiVersion":"v1","metadata":{}}}"#,
        r#"{"type":"BOOKMARK","object":{"kind":"A","apiVersion":"v1","metadata":{}}}"#,
        r#"{"type":"ERROR","object":{"kind":"A","apiVersion":"v1","metadata":{"name":"a"}}}"#,
        r#"{"type":"ADDED"}"#,
        r#"{"type":"ADDED","object":null}"#,
        r#"[]"#,
    ] {
        assert!(read_event(Encoding::Json, frame.as_bytes()).is_err(), "{frame}");
    }
}
