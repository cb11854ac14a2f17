//! Whole answers: exactly the fields that are to change do, in every encoding and form.

use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::*;
use crate::kube::event::EventType;

/// What the recording says where ours is to be.
const THEIR_SERVICE: Local = Local {
    v4: Some(std::net::Ipv4Addr::new(10, 96, 0, 1)),
    v6: None,
    port: 443,
};
const THEIR_ENDPOINT: Local = Local {
    v4: Some(std::net::Ipv4Addr::new(10, 255, 255, 1)),
    v6: None,
    port: 6443,
};

/// The recorded JSON with ours put in by hand.
fn by_hand(name: &str) -> Vec<u8> {
    let mut text = String::from_utf8(recorded(&format!("{name}.json"))).unwrap();
    for (theirs, ours) in [
        (
            r#""clusterIP":"10.96.0.1","clusterIPs":["10.96.0.1"]"#,
            r#""clusterIP":"169.254.20.11","clusterIPs":["169.254.20.11"]"#,
        ),
        (
            r#""port":443,"targetPort":6443"#,
            r#""port":51003,"targetPort":6443"#,
        ),
        (r#"{"ip":"10.255.255.1"}"#, r#"{"ip":"169.254.20.11"}"#),
        (
            r#""addresses":["10.255.255.1"]"#,
            r#""addresses":["169.254.20.11"]"#,
        ),
        (
            r#""port":6443,"protocol":"TCP"}"#,
            r#""port":51003,"protocol":"TCP"}"#,
        ),
        (
            r#""protocol":"TCP","port":6443}"#,
            r#""protocol":"TCP","port":51003}"#,
        ),
    ] {
        assert!(text.matches(theirs).count() <= 1, "{theirs}");
        text = text.replace(theirs, ours);
    }
    text.into_bytes()
}

#[test]
fn a_list_differs_in_the_changed_fields_alone() {
    for (name, target) in [("svc-list", SERVICES), ("endpointslices", SLICES)] {
        let json = body(name, Encoding::Json);
        let found = rewritten(LOCAL, target, Encoding::Json, &json);
        assert_ne!(found, json);
        assert_bytes(&found, &by_hand(name));
        let cbor = rewritten(LOCAL, target, Encoding::Cbor, &body(name, Encoding::Cbor));
        assert_eq!(
            json_of(&cbor),
            serde_json::from_slice::<Value>(&by_hand(name)).unwrap()
        );
    }
}

/// With the original values put back, the original bytes come back: nothing else has changed.
#[test]
fn what_is_rewritten_back_is_the_original_byte_for_byte() {
    for (name, target, theirs) in [
        ("svc-list", SERVICES, THEIR_SERVICE),
        ("endpointslices", SLICES, THEIR_ENDPOINT),
    ] {
        for encoding in ENCODINGS {
            let original = body(name, encoding);
            let ours = rewritten(LOCAL, target, encoding, &original);
            assert_ne!(ours, original);
            let back = rewritten(theirs, target, encoding, &ours);
            if encoding == Encoding::Cbor {
                // A new endpoint's keys come in an order of ours.
                assert_eq!(json_of(&back), json_of(&original));
            } else {
                assert_bytes(&back, &original);
            }
        }
    }
}

#[test]
fn endpoints_of_a_recorded_answer_are_ours() {
    let target = "/api/v1/namespaces/default/endpoints/kubernetes";
    let found = rewritten(
        LOCAL,
        target,
        Encoding::Json,
        &body("kubernetes-endpoints", Encoding::Json),
    );
    assert_bytes(&found, &by_hand("kubernetes-endpoints"));

    let original = body("kubernetes-endpoints", Encoding::Protobuf);
    let found = rewritten(LOCAL, target, Encoding::Protobuf, &original);
    // subsets: addresses{ip}, ports{name, port, protocol} - and everything before and behind them as it was, but for
    // the length of the whole.
    let subset = b"\x12\x23\x0a\x0f\x0a\x0d169.254.20.11\x1a\x10\x0a\x05https\x10\xbb\x8e\x03\x1a\x03TCP";
    let at = original
        .windows(2)
        .position(|bytes| bytes == b"\x12\x23")
        .unwrap();
    let head_end = 4 + 2 + 15 + 1 + 2;
    let mut wanted = original[..head_end - 2].to_vec();
    let raw = (at - head_end + subset.len()) as u64;
    assert!((128..1 << 14).contains(&raw), "two bytes, as before");
    wanted.extend([(raw & 0x7f) as u8 | 0x80, (raw >> 7) as u8]);
    wanted.extend_from_slice(&original[head_end..at]);
    wanted.extend_from_slice(subset);
    wanted.extend_from_slice(&original[at + 2 + 0x23..]);
    assert_bytes(&found, &wanted);
}

/// The objects of a list as single answers and as events, against what the rewritten list holds.
#[test]
fn objects_and_events_are_rewritten_as_the_items_of_lists() {
    for (name, target, one) in [
        (
            "svc-list",
            SERVICES,
            "/api/v1/namespaces/default/services/kubernetes",
        ),
        (
            "endpointslices",
            SLICES,
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes",
        ),
    ] {
        for encoding in ENCODINGS {
            let original = body(name, encoding);
            let (collection, items, version) = split(encoding, &original);
            let (_, wanted, wanted_version) = split(encoding, &rewritten(LOCAL, target, encoding, &original));
            assert_eq!((items.len(), &version), (wanted.len(), &wanted_version));
            assert_ne!(items[0], wanted[0]);
            assert_eq!(items[1..], wanted[1..]);

            let found = rewritten(LOCAL, one, encoding, &collection.object(&items[0]));
            assert_bytes(&found, &collection.object(&wanted[0]));

            let stream = |items: &[Vec<u8>]| {
                let mut stream: Vec<u8> = items
                    .iter()
                    .flat_map(|item| collection.event(EventType::Added, item))
                    .collect();
                stream.extend(collection.bookmark(&version, true));
                stream.extend(collection.event(EventType::Modified, &items[0]));
                stream.extend(collection.event(EventType::Deleted, &items[0]));
                stream
            };
            let watch = format!("{target}?watch=true&resourceVersion=1");
            let found = rewritten(LOCAL, &watch, encoding, &stream(&items));
            assert_bytes(&found, &stream(&wanted));
        }
    }
}

#[test]
fn typed_clients_read_the_rewritten_objects() {
    let read = |name: &str, target: &str| {
        let list = rewritten(LOCAL, target, Encoding::Json, &body(name, Encoding::Json));
        serde_json::from_slice::<Value>(&list).unwrap()["items"][0].clone()
    };
    let service: Service = serde_json::from_value(read("svc-list", SERVICES)).unwrap();
    let spec = service.spec.unwrap();
    assert_eq!(spec.cluster_ip.as_deref(), Some("169.254.20.11"));
    assert_eq!(spec.cluster_ips.unwrap(), ["169.254.20.11"]);
    assert_eq!(spec.ip_families.unwrap(), ["IPv4"]);
    let ports = spec.ports.unwrap();
    assert_eq!(
        (ports.len(), ports[0].port, ports[0].name.as_deref()),
        (1, 51003, Some("https"))
    );

    let slice: EndpointSlice = serde_json::from_value(read("endpointslices", SLICES)).unwrap();
    let port = &slice.ports.unwrap()[0];
    assert_eq!((port.name.as_deref(), port.port), (Some("https"), Some(51003)));
    let endpoints = slice.endpoints;
    assert_eq!(
        (endpoints.len(), &endpoints[0].addresses[..]),
        (1, &["169.254.20.11".to_owned()][..])
    );
    assert_eq!(endpoints[0].conditions.as_ref().unwrap().ready, Some(true));

    let target = "/api/v1/namespaces/default/endpoints/kubernetes";
    let found = rewritten(
        LOCAL,
        target,
        Encoding::Json,
        &body("kubernetes-endpoints", Encoding::Json),
    );
    let endpoints: Endpoints = serde_json::from_slice(&found).unwrap();
    let subsets = endpoints.subsets.unwrap();
    assert_eq!(subsets[0].addresses.as_ref().unwrap()[0].ip, "169.254.20.11");
    assert_eq!(subsets[0].ports.as_ref().unwrap()[0].port, 51003);
}
