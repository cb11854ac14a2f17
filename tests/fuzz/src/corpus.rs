//! What the runs begin with: recorded answers of a kube-apiserver, and what is not among them.

use std::fs;
use std::io::Write;
use std::path::Path;

use edgehold::wire::watch::{FrameReader, read_event};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::input;
use crate::targets::jwt;

/// Of recordings; longer ones say the same again and take longer to read.
const LARGEST: u64 = 6 << 10;

/// From the wire contract: an object, a list and a watch event in CBOR.
const CBOR: [&str; 3] = [
    "d9d9f7a44464617461a1416b4176446b696e6449436f6e6669674d6170486d65746164617461a54375696443752d31446e616d654161466c\
     6162656c73a141784179496e616d657370616365436e73314f7265736f7572636556657273696f6e4231304a61706956657273696f6e427631",
    "d9d9f7a4446b696e644d436f6e6669674d61704c697374456974656d7381a1486d65746164617461a4437569644175446e616d654161496e\
     616d657370616365416e4f7265736f7572636556657273696f6e423130486d65746164617461a14f7265736f7572636556657273696f6e42\
     31314a61706956657273696f6e427631",
    "d9d9f7a24474797065454144444544466f626a656374d9d9f7a3446b696e6449436f6e6669674d6170486d65746164617461a44375696441\
     75446e616d654162496e616d657370616365416e4f7265736f7572636556657273696f6e4231324a61706956657273696f6e427631",
];

/// A TokenRequest as kubelet sends it, and the answer.
const TOKEN_REQUESTS: [&str; 2] = [
    "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e52657175657374122f0a100a0012001a00\
     22002a0032003800420012151a100a03506f64120276311a01702202707520971c1a040a0012001a002200",
    "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e5265717565737412550a1e0a0273611200\
     1a026e7322002a0273753200380042080880e2cfaa06100012200a0968747470733a2f2f6b1a100a03506f64120276311a01702202707520\
     971c1a110a05682e702e7312080897fecfaa0610001a002200",
];

/// Bodies behind a byte that says how they are to be read.
pub(crate) fn bodies() -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/kube-apiserver-1.36");
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    names.sort();
    let mut all = Vec::new();
    for path in names {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_small = fs::metadata(&path).unwrap().len() <= LARGEST;
        if !name.ends_with(".body") || name.contains(".gzip.") || !is_small {
            continue;
        }
        let encoding = u8::from(name.contains(".proto."));
        all.push(behind(encoding, &fs::read(&path).unwrap()));
    }
    all.extend(CBOR.map(|text| behind(2, &hex(text))));
    all.extend(TOKEN_REQUESTS.map(|text| behind(1, &hex(text))));
    all
}

/// The same bodies, each in two gzip members, behind a byte that says how they are cut.
pub(crate) fn packed() -> Vec<Vec<u8>> {
    let member = |data: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.flush().unwrap();
        encoder.finish().unwrap()
    };
    let pack = |seed: Vec<u8>| {
        let (begin, end) = seed.split_at(seed.len() / 3);
        [&seed[..1], &member(begin), &member(end)].concat()
    };
    bodies().into_iter().map(pack).collect()
}

/// The frames of the recorded watches, and what else may be taken for one.
pub(crate) fn events() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for seed in bodies() {
        let frames = input(&seed).map(|input| (input.encoding, FrameReader::new(input.encoding)));
        let Some((encoding, Ok(mut reader))) = frames else {
            continue;
        };
        reader.push(bytes::Bytes::copy_from_slice(&seed[1..]));
        while let Ok(Some(frame)) = reader.next() {
            if read_event(encoding, &frame).is_ok() {
                all.push([&seed[..1], &frame].concat());
            }
        }
    }
    all
}

/// Tokens and documents of an issuer.
pub(crate) fn tokens() -> Vec<Vec<u8>> {
    [
        jwt::TOKEN,
        jwt::KEYS,
        r#"{"issuer":"i"}"#,
        "abcdef.0123456789abcdef",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into()
}

/// In pieces of some size.
fn behind(encoding: u8, body: &[u8]) -> Vec<u8> {
    let piece = u8::try_from(body.len() % 60).unwrap();
    [&[encoding | piece << 2], body].concat()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .map(|digit| char::from(digit).to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// Targets and what was accepted with them.
pub(crate) fn requests() -> Vec<Vec<u8>> {
    const TARGETS: [&str; 8] = [
        "/api/v1/namespaces/shop/pods?labelSelector=app%3Dweb&limit=500&timeout=7s&resourceVersion=10",
        "/api/v1/pods?allowWatchBookmarks=true&fieldSelector=spec.nodeName%3Dn&timeoutSeconds=9223372036854775807&watch=true",
        "/api/v1/watch/namespaces/shop/pods/web-0?timeoutSeconds=336",
        "/apis/apps/v1/namespaces/shop/deployments/web/scale?shape=new&pretty=true",
        "/api/v1/nodes/edge-1?includeObject=None&resourceVersion=0",
        "/apis/apps/v1/?timeout=32s",
        "/openapi/v3/apis/apps/v1?hash=AB",
        "/version/",
    ];
    const ACCEPTS: [&str; 3] = [
        "application/vnd.kubernetes.protobuf;drop=metadata.managedFields,application/json;q=0.9;drop=metadata.managedFields",
        "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
        "application/json;charset=utf-8, */*;q=0.5",
    ];
    let pairs = TARGETS
        .iter()
        .flat_map(|target| ACCEPTS.iter().map(move |accept| (target, accept)));
    pairs
        .map(|(target, accept)| format!("{target}\n{accept}").into_bytes())
        .collect()
}
