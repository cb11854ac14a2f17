use proptest::prelude::*;
use serde_json::json;

use super::*;

const A: Field = Field::new("a", 1);
const B: Field = Field::new("b", 2);
const C: Field = Field::new("c", 3);
const FAR: Field = Field::new("far", 18);

fn json(object: &str, changes: &[(Field, Value)]) -> Result<String, WireError> {
    let changed = Message::new(Encoding::Json, object.as_bytes()).with(changes)?;
    Ok(String::from_utf8(changed).unwrap())
}

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

#[test]
fn json_changes_touch_nothing_else() {
    let object = "{ \"a\" : 1.50e1,\n \"b\":[ {\"x\" : 1} ] , \"z\":\"\\u0061\" }\n";
    assert_eq!(
        json(object, &[(B, Value::Texts(vec!["p".into(), "q".into()]))]).unwrap(),
        "{ \"a\" : 1.50e1,\n \"b\":[\"p\",\"q\"] , \"z\":\"\\u0061\" }\n"
    );
    assert_eq!(
        json("{ }", &[(A, Value::True), (B, Value::Number(7))]).unwrap(),
        r#"{"a":true,"b":7 }"#
    );
    assert_eq!(
        json(r#"{"z":1} "#, &[(A, text("<"))]).unwrap(),
        "{\"z\":1,\"a\":\"\\u003c\"} "
    );
    assert!(
        json(r#"{"a":1,"\u0061":2}"#, &[(A, Value::True)]).is_err(),
        "readers differ on which one counts"
    );
    assert!(json("[]", &[(A, Value::True)]).is_err());
}

#[test]
fn protobuf_changes_stand_where_the_field_stood() {
    // a: "x", c: 5, b: "1", b: "2", far: "y"
    let message = [
        0x0a, 1, b'x', 0x18, 5, 0x12, 1, b'1', 0x12, 1, b'2', 0x92, 0x01, 1, b'y',
    ];
    let read = Message::new(Encoding::Protobuf, &message);
    assert_eq!(read.texts(B).unwrap(), ["1", "2"]);
    assert!(read.text(B).is_err() && read.texts(C).is_err());
    let changed = read.with(&[(B, text("9")), (FAR, text("z"))]).unwrap();
    assert_eq!(
        changed,
        [0x0a, 1, b'x', 0x18, 5, 0x12, 1, b'9', 0x92, 0x01, 1, b'z']
    );
    let added = Message::new(Encoding::Protobuf, &message[..3])
        .with(&[(FAR, text("z")), (C, Value::Number(300)), (B, Value::True)])
        .unwrap();
    assert_eq!(
        added,
        [0x0a, 1, b'x', 0x10, 1, 0x18, 0xac, 0x02, 0x92, 0x01, 1, b'z']
    );
    assert!(Message::new(Encoding::Protobuf, &message[..2]).with(&[]).is_err());
}

#[test]
fn cbor_changes_keep_tags_and_count() {
    let map = [
        0xd9, 0xd9, 0xf7, 0xa2, 0x41, b'z', 0x01, 0x61, b'a', 0x82, 0x41, b'p', 0x61, b'q',
    ];
    let read = Message::new(Encoding::Cbor, &map);
    assert_eq!(read.texts(A).unwrap(), ["p", "q"]);
    let changed = read.with(&[(A, text("r")), (B, Value::Number(51003))]).unwrap();
    assert_eq!(
        changed,
        [
            0xd9, 0xd9, 0xf7, 0xa3, 0x41, b'z', 0x01, 0x61, b'a', 0x41, b'r', 0x41, b'b', 0x19, 0xc7, 0x3b
        ]
    );
    let open_ended = [0xbf, 0x41, b'z', 0x01, 0xff];
    let changed = Message::new(Encoding::Cbor, &open_ended)
        .with(&[(A, Value::True)])
        .unwrap();
    assert_eq!(changed, [0xbf, 0x41, b'z', 0x01, 0x41, b'a', 0xf5, 0xff]);
}

#[test]
fn new_messages_are_the_same_in_every_encoding() {
    let inner = |encoding| message(encoding, &[(A, text("x")), (B, Value::True)]).unwrap();
    for encoding in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor] {
        let outer = message(
            encoding,
            &[(C, Value::Messages(vec![inner(encoding), inner(encoding)]))],
        )
        .unwrap();
        let read = Message::new(encoding, &outer);
        let messages = read.messages(C).unwrap();
        assert_eq!(messages.len(), 2);
        assert_eq!(messages[1].text(A).unwrap(), "x");
        assert_eq!(read.messages(A).unwrap().len(), 0);
        assert!(read.message(C).is_err(), "there are two");
    }
    assert!(message(Encoding::Yaml, &[]).is_err());
}

proptest! {
    #[test]
    fn json_agrees_with_serde(keys in prop::collection::btree_set("[a-f]{1,2}", 0..6), new in any::<String>(), pretty in any::<bool>()) {
        let object: serde_json::Map<_, _> = keys.iter().map(|key| (key.clone(), json!({"k": [key, 1.5, null]}))).collect();
        let bytes = if pretty { serde_json::to_vec_pretty(&object) } else { serde_json::to_vec(&object) }.unwrap();
        let changed = Message::new(Encoding::Json, &bytes).with(&[(A, Value::Text(new.clone())), (B, Value::Number(3))]).unwrap();
        let mut wanted = object;
        wanted.insert("a".into(), new.into());
        wanted.insert("b".into(), 3.into());
        prop_assert_eq!(serde_json::from_slice::<serde_json::Value>(&changed).unwrap(), serde_json::Value::Object(wanted));
    }

    #[test]
    fn nothing_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        for encoding in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor, Encoding::Yaml] {
            let read = Message::new(encoding, &bytes);
            let _any = (read.texts(A), read.messages(B), read.with(&[(A, Value::True), (FAR, Value::Number(1))]));
            let _any = edit_frame(encoding, &bytes, &mut |message| message.with(&[(A, Value::True)]).map(Some));
        }
    }
}
