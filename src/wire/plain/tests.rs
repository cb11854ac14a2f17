//! Compared with what an apiserver sent in JSON.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::*;
use crate::wire::collection::Collection;
use crate::wire::list::ListReader;

/// Each object of a recorded list, as the body of an answer.
fn objects(name: &str, encoding: Encoding) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/kube-apiserver-1.36");
    let body = fs::read(dir.join(name)).unwrap();
    let mut reader = ListReader::new(encoding).unwrap();
    let mut items = Vec::new();
    let mut each = |item: crate::wire::list::ListItem<'_>| {
        items.push(item.bytes.to_vec());
        Ok(())
    };
    reader.push::<WireError>(&body, &mut each).unwrap();
    let form = Collection::from_list(encoding, &reader.finish().unwrap());
    items.iter().map(|item| form.object(item)).collect()
}

/// All that `told` has, `whole` has too, and with the same values.
fn assert_part(told: &Value, whole: &Value, at: &str) {
    match (told, whole) {
        (Value::Object(told), Value::Object(whole)) => {
            for (key, value) in told {
                let other = whole
                    .get(key)
                    .unwrap_or_else(|| panic!("{at}.{key} is made up: {value}"));
                assert_part(value, other, &format!("{at}.{key}"));
            }
        }
        (Value::Array(told), Value::Array(whole)) => {
            assert_eq!(told.len(), whole.len(), "{at}");
            told.iter()
                .zip(whole)
                .for_each(|(told, whole)| assert_part(told, whole, at));
        }
        _ => assert_eq!(told, whole, "{at}"),
    }
}

#[test]
fn what_protobuf_says_is_what_json_says() {
    for (list, is_whole) in [
        ("cm-list-all", true),
        ("secret-list", true),
        ("cm-meta-list", true),
        ("pods-by-node", false),
        ("svc-list", false),
        ("clusterroles-list", false),
    ] {
        let protobuf = objects(&format!("{list}.proto.body"), Encoding::Protobuf);
        let json = objects(&format!("{list}.json.body"), Encoding::Json);
        assert!(!json.is_empty() && json.len() == protobuf.len(), "{list}");
        for (protobuf, json) in protobuf.iter().zip(&json) {
            let told = read(Encoding::Protobuf, protobuf).unwrap();
            let whole = read(Encoding::Json, json).unwrap();
            assert!(whole.is_whole);
            assert_eq!(told.is_whole, is_whole, "{list}");
            assert_part(&told.value, &whole.value, list);
            assert_part(&whole.value["metadata"], &told.value["metadata"], list);
            if is_whole {
                assert_eq!(told.value, whole.value);
            }
        }
    }
}

#[test]
fn of_a_pod_in_protobuf_all_is_told_that_kubectl_shows() {
    let pods = objects("pods-by-node.proto.body", Encoding::Protobuf);
    let pod = read(Encoding::Protobuf, &pods[0]).unwrap().value;
    assert_eq!(
        pod["status"],
        json!({"phase": "Pending", "qosClass": "BestEffort"})
    );
    assert_eq!(
        pod["spec"]["containers"],
        json!([{"name": "c", "image": "nginx"}])
    );
    assert_eq!(pod["spec"]["nodeName"], "edge-1");
    // With a container that runs and was restarted, one that waits, and one that ended; as Go writes it.
    let text = |field: u8, text: &[u8]| [&[field << 3 | 2, u8::try_from(text.len()).unwrap()], text].concat();
    let time = |seconds: &[u8]| text(1, &[&[8][..], seconds].concat());
    let ended = text(
        3,
        &[
            &[8, 137, 1, 16, 0][..],
            &text(3, b"OOMKilled"),
            &text(6, &[8, 60]),
        ]
        .concat(),
    );
    let running = [
        text(1, b"a"),
        text(2, &text(2, &time(&[30]))),
        text(3, &ended),
        vec![4 << 3, 1, 5 << 3, 3],
    ]
    .concat();
    let waiting = [
        text(1, b"b"),
        text(2, &text(1, &text(1, b"CrashLoopBackOff"))),
        vec![4 << 3, 0, 5 << 3, 0],
    ]
    .concat();
    let status = [text(1, b"Running"), text(8, &running), text(8, &waiting)].concat();
    let pod = [text(1, &text(1, b"p")), text(3, &status)].concat();
    let types = [text(1, b"v1"), text(2, b"Pod")].concat();
    let body = [b"k8s\0".to_vec(), text(1, &types), text(2, &pod)].concat();
    let read = read(Encoding::Protobuf, &body).unwrap();
    assert!(read.is_whole);
    assert_eq!(
        read.value,
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
            "status": {"phase": "Running", "containerStatuses": [
                {
                    "name": "a", "ready": true, "restartCount": 3, "state": {"running": {"startedAt": "1970-01-01T00:00:30Z"}},
                    "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "1970-01-01T00:01:00Z"}},
                },
                {"name": "b", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
            ]},
        })
    );
}

#[test]
fn cbor_says_all_that_it_holds() {
    // {"k": [1, -2, 1.5, true, null, {"b": h'00ff' for Base64}], "n": {indefinite: "x"}, "h": 0.5 in 16 bits}, keys as bytes
    let body = [
        &[0xd9, 0xd9, 0xf7, 0xa3, 0x41, b'k', 0x86, 0x01, 0x21, 0xfb][..],
        &1.5_f64.to_be_bytes(),
        &[0xf5, 0xf6, 0xa1, 0x41, b'b', 0xd6, 0x42, 0x00, 0xff],
        &[0x61, b'n', 0xbf, 0x41, b'x', 0x9f, 0x61, b'y', 0xff, 0xff],
        &[0x41, b'h', 0xf9, 0x38, 0x00],
    ]
    .concat();
    let read = read(Encoding::Cbor, &body).unwrap();
    let expected = json!({"k": [1, -2, 1.5, true, null, {"b": "AP8="}], "n": {"x": ["y"]}, "h": 0.5});
    assert_eq!((read.value, read.is_whole), (expected, true));
}

#[test]
fn what_cannot_be_read_is_an_error_and_nothing_is_made_up() {
    for (encoding, body) in [
        (Encoding::Json, &b"[1]"[..]),
        (Encoding::Json, b"{"),
        (Encoding::Cbor, &[0x81, 0x01]),
        (Encoding::Cbor, &[0xa1, 0x41, b'k', 0xf9, 0x7c, 0x00]), // infinity
        (Encoding::Cbor, &[0xa1, 0x41, b'k', 0x41, 0xff]),       // bytes that are no text
        (Encoding::Protobuf, b"k8s\0"),
        // A creationTimestamp before 1970.
        (
            Encoding::Protobuf,
            &[
                0x6b, 0x38, 0x73, 0, 0x12, 17, 0x0a, 15, 0x0a, 1, b'a', 0x42, 10, 8, 255, 255, 255, 255, 255,
                255, 255, 255, 1,
            ],
        ),
        (Encoding::Yaml, b"a: b"),
    ] {
        assert!(read(encoding, body).is_err(), "{encoding:?} {body:?}");
    }
    let deep = [&[0xa1, 0x41, b'k'][..], &[0x81; 200], &[0x01]].concat();
    assert!(read(Encoding::Cbor, &deep).is_err());
}
