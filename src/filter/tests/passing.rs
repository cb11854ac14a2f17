//! How bodies pass: at any cut the same, without a copy where nothing changes, in bounded memory.

use proptest::prelude::*;

use super::*;
use crate::kube::event::EventType;

/// Bodies of every form and encoding with the target that they answer.
fn bodies() -> Vec<(String, Encoding, Vec<u8>)> {
    let mut all = Vec::new();
    for encoding in ENCODINGS {
        let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes".to_owned();
        all.push((endpoints, encoding, body("kubernetes-endpoints", encoding)));
        for (name, target) in [("svc-list", SERVICES), ("endpointslices", SLICES)] {
            let list = body(name, encoding);
            let (collection, items, version) = split(encoding, &list);
            let mut stream = collection.event(EventType::Added, &items[0]);
            stream.extend(collection.bookmark(&version, false));
            // Two items are enough: each cut reads all of it.
            let list = collection.list(&version, items[..2].iter().map(Vec::as_slice));
            all.push((target.to_owned(), encoding, list));
            all.push((format!("{target}?watch=1"), encoding, stream));
        }
    }
    all
}

#[test]
fn a_cut_at_any_byte_changes_nothing() {
    for (target, encoding, body) in bodies() {
        let whole = rewritten(LOCAL, &target, encoding, &body);
        assert_ne!(whole, body);
        for cut in 0..=body.len() {
            let (head, tail) = body.split_at(cut);
            let found = through(rewriter(LOCAL, &target, encoding), [head, tail]).unwrap();
            assert!(found == whole, "{target} in {encoding:?} cut at {cut}");
        }
        for size in [1, 2, 7, 64] {
            let found = through(rewriter(LOCAL, &target, encoding), body.chunks(size)).unwrap();
            assert!(found == whole, "{target} in {encoding:?} in pieces of {size}");
        }
    }
}

#[test]
fn an_answer_without_the_object_passes_in_the_very_buffers_in_which_it_came() {
    for encoding in ENCODINGS {
        for (target, name) in [(SERVICES, "svc-list"), (SLICES, "endpointslices")] {
            let (collection, items, version) = split(encoding, &body(name, encoding));
            let list = collection.list(&version, items[1..].iter().map(Vec::as_slice));
            let pieces: Vec<Bytes> = list.chunks(100).map(Bytes::copy_from_slice).collect();
            let mut rewriter = rewriter(LOCAL, target, encoding);
            let mut out = Vec::new();
            for piece in &pieces {
                rewriter.push(piece.clone()).unwrap();
            }
            rewriter.finish().unwrap();
            while let Some(piece) = rewriter.take() {
                out.push(piece);
            }
            assert_bytes(&out.concat(), &list);
            let is_part = |piece: &Bytes| {
                pieces
                    .iter()
                    .any(|whole| whole.as_ptr_range().contains(&piece.as_ptr()))
            };
            assert!(out.iter().all(is_part), "something was copied");
        }
    }
}

/// Lists as large as no node should hold.
fn large(encoding: Encoding, with_ours: bool) -> (Collection, Vec<Vec<u8>>, String) {
    let (collection, items, version) = split(encoding, &body("endpointslices", encoding));
    let mut many: Vec<Vec<u8>> = std::iter::repeat_n(items[1].clone(), 4000).collect();
    if with_ours {
        many.insert(3000, items[0].clone());
        many.insert(3500, items[0].clone());
    }
    (collection, many, version)
}

#[test]
fn a_large_list_streams() {
    for encoding in ENCODINGS {
        let (collection, items, version) = large(encoding, true);
        let list = collection.list(&version, items.iter().map(Vec::as_slice));
        let mut rewriter = rewriter(LOCAL, SLICES, encoding);
        let (mut given, mut taken, mut most) = (0, 0, 0);
        let mut out = Vec::new();
        for piece in list.chunks(16 << 10) {
            given += piece.len();
            rewriter.push(Bytes::copy_from_slice(piece)).unwrap();
            while let Some(piece) = rewriter.take() {
                taken += piece.len();
                out.extend_from_slice(&piece);
            }
            most = most.max(given.saturating_sub(taken));
        }
        rewriter.finish().unwrap();
        while let Some(piece) = rewriter.take() {
            out.extend_from_slice(&piece);
        }
        let bound = match encoding {
            Encoding::Protobuf => (1 << 20) + (32 << 10),
            _ => 32 << 10,
        };
        assert!(
            list.len() > 2 << 20 && most <= bound,
            "{most} of {} bytes held",
            list.len()
        );
        let (_, found, _) = split(encoding, &out);
        let changed: Vec<usize> = (0..items.len()).filter(|at| found[*at] != items[*at]).collect();
        assert_eq!((found.len(), changed), (items.len(), vec![3000, 3500]));
        let ours = rewritten(
            LOCAL,
            SLICES,
            encoding,
            &collection.list(&version, [items[3000].as_slice()]),
        );
        assert_eq!(found[3000], split(encoding, &ours).1[0]);
    }
}

/// Its length was stated before it was known what is in it.
#[test]
fn a_large_protobuf_list_is_filled_up_to_its_stated_length() {
    let (collection, items, version) = large(Encoding::Protobuf, false);
    let list = collection.list(&version, items.iter().map(Vec::as_slice));
    let found = through(rewriter(LOCAL, SLICES, Encoding::Protobuf), list.chunks(5000)).unwrap();
    assert_eq!(found.len(), list.len() + 4096);
    assert_eq!(split(Encoding::Protobuf, &found).1, items);
    // Field 15 of the list, which no reader knows, then the end of the envelope.
    assert_eq!(&found[found.len() - 4100..][..3], [0x7a, 0xfd, 0x1f]);
    assert!(found.ends_with(&[0, 0, 0x1a, 0, 0x22, 0]));
    // Cut short, it must not look whole.
    let cut = through(
        rewriter(LOCAL, SLICES, Encoding::Protobuf),
        list[..list.len() - 10].chunks(5000),
    );
    assert!(cut.is_err());
}

#[test]
fn what_is_no_list_or_object_passes() {
    let status = br#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","code":410}"#;
    let table = recorded("cm-table.json");
    let partial = br#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":{"resourceVersion":"1"},"items":[{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":{"name":"kubernetes","namespace":"default","labels":{"kubernetes.io/service-name":"kubernetes"}}}]}"#;
    let slice = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/x";
    for body in [
        &status[..],
        &table,
        partial,
        b"",
        b"{",
        b"[1]",
        b"nonsense",
        b"k8s\0\x0a",
        b"\xd9\xd9\xf7\xff",
    ] {
        for target in [SERVICES, ENDPOINTS, SLICES, slice] {
            for encoding in ENCODINGS {
                let found = through(rewriter(LOCAL, target, encoding), body.chunks(3)).unwrap();
                assert_bytes(&found, body);
            }
        }
    }
}

#[test]
fn metadata_only_protobuf_passes() {
    let whole = body("endpointslices", Encoding::Protobuf);
    let text = whole
        .windows(17)
        .position(|bytes| bytes == b"EndpointSliceList")
        .unwrap();
    // The same items under the name of metadata-only lists: shorter by nothing, of another kind.
    let mut other = whole.clone();
    other[text..text + 17].copy_from_slice(b"PartialObjectList");
    assert_bytes(&rewritten(LOCAL, SLICES, Encoding::Protobuf, &other), &other);
    assert_ne!(rewritten(LOCAL, SLICES, Encoding::Protobuf, &whole), whole);
}

#[test]
fn a_stream_that_is_no_watch_is_broken_off() {
    for encoding in ENCODINGS {
        let watch = format!("{SLICES}?watch=1");
        let garbled = through(rewriter(LOCAL, &watch, encoding), [&[0xff; 8][..]]);
        assert!(garbled.is_err(), "{encoding:?}");
        let cut = through(
            rewriter(LOCAL, &watch, encoding),
            [match encoding {
                Encoding::Json => &b"{\"type\":"[..],
                Encoding::Protobuf => &[0, 0, 0, 9, 1],
                _ => &[0xa2, 0x41],
            }],
        );
        assert!(cut.is_err(), "{encoding:?}");
    }
}

#[test]
fn only_reads_of_the_objects_by_named_users_are_filtered() {
    let filters = filters(LOCAL);
    let is_filtered = |target: &str, user: &str| {
        let user = user.to_owned();
        filters.of_read(&request(target), || Some(user)).is_some()
    };
    for (target, user) in [
        (SERVICES, "system:node:edge-1"),
        (
            "/api/v1/namespaces/default/services?fieldSelector=metadata.name%3Dkubernetes",
            "system:node:edge-1",
        ),
        (
            "/api/v1/watch/namespaces/default/services/kubernetes",
            "system:node:edge-1",
        ),
        (ENDPOINTS, "system:kube-proxy"),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/any",
            "system:kube-proxy",
        ),
    ] {
        assert!(is_filtered(target, user), "{target}");
        assert!(!is_filtered(target, "system:other"), "{target}");
        let nobody = filters.of_read(&request(target), || None);
        assert!(
            nobody.is_none()
                && Filters::default()
                    .of_read(&request(target), || Some(user.into()))
                    .is_none()
        );
    }
    for target in [
        "/api/v1/namespaces/shop/services",
        "/api/v1/namespaces/default/services/web",
        "/api/v1/namespaces/default/services/kubernetes/status",
        "/api/v1/pods",
        "/apis/discovery.k8s.io/v1beta1/endpointslices",
    ] {
        assert!(
            !is_filtered(target, "system:node:edge-1") && !is_filtered(target, "system:kube-proxy"),
            "{target}"
        );
    }
    assert!(!is_filtered(SERVICES, "system:kube-proxy") && !is_filtered(SLICES, "system:node:edge-1"));
}

#[test]
fn only_a_put_of_a_filtered_object_would_echo() {
    let would = |method: Method, path: &str, user: &str| {
        let RequestInfo::Resource(request) = RequestInfo::parse(&method, path, None) else {
            panic!("{path}")
        };
        filters(LOCAL).would_echo(&request, || Some(user.to_owned()))
    };
    let path = "/api/v1/namespaces/default/endpoints/kubernetes";
    assert!(would(Method::PUT, path, "system:kube-proxy"));
    assert!(!would(Method::PUT, path, "system:node:edge-1"));
    for method in [Method::GET, Method::PATCH, Method::DELETE] {
        assert!(!would(method, path, "system:kube-proxy"));
    }
    assert!(!would(
        Method::PUT,
        "/api/v1/namespaces/default/endpoints/other",
        "system:kube-proxy"
    ));
    assert!(!would(
        Method::PUT,
        "/api/v1/namespaces/default/services/kubernetes/status",
        "system:node:edge-1"
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is broken in it: the same at any cut, or broken off at any cut.
    #[test]
    fn damaged_bodies_do_not_depend_on_how_they_arrive(
        which in 0_usize..15, at in any::<prop::sample::Index>(), byte in any::<u8>(), size in 1_usize..200,
    ) {
        let all = bodies();
        let (target, encoding, mut body) = all[which % all.len()].clone();
        let at = at.index(body.len());
        body[at] = byte;
        let whole = through(rewriter(LOCAL, &target, encoding), [body.as_slice()]);
        let pieces = through(rewriter(LOCAL, &target, encoding), body.chunks(size));
        prop_assert_eq!(whole.is_ok(), pieces.is_ok());
        if let (Ok(whole), Ok(pieces)) = (whole, pieces) {
            prop_assert!(whole == pieces);
        }
    }
}
