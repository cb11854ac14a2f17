//! The vectors of wire contract A.5, and what must not be read.

use super::*;

const REQUEST: &str = "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e52657175657374122f\
    0a100a0012001a0022002a0032003800420012151a100a03506f64120276311a01702202707520971c1a040a0012001a002200";
const ANSWER: &str = "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e526571756573741255\
    0a1e0a02736112001a026e7322002a0273753200380042080880e2cfaa06100012200a0968747470733a2f2f6b1a100a03506f64120276311a\
    01702202707520971c1a110a05682e702e7312080897fecfaa0610001a002200";
const JSON: &str = r#"{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","metadata":{},"spec":{"audiences":null,"expirationSeconds":3607,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"p","uid":"pu"}},"status":{"token":"","expirationTimestamp":null}}"#;

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn kubelets() -> TokenSpec {
    TokenSpec {
        audiences: Vec::new(),
        expiration_seconds: Some(3607),
        bound: Some(BoundObject {
            kind: "Pod".into(),
            api_version: "v1".into(),
            name: "p".into(),
            uid: "pu".into(),
        }),
    }
}

fn json(spec: &str) -> Result<TokenRequest, WireError> {
    let body = format!(r#"{{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{spec}}}"#);
    read_token_request(Encoding::Json, body.as_bytes())
}

/// A map of byte strings, as Kubernetes writes CBOR.
fn cbor_map(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = vec![0xa0 | u8::try_from(members.len()).unwrap()];
    for (key, value) in members {
        out.extend(cbor_text(key));
        out.extend(value);
    }
    out
}

fn cbor_text(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    cbor::put_head(&mut out, 2, text.len() as u64);
    out.extend(text.as_bytes());
    out
}

#[test]
fn kubelets_request_is_the_same_in_every_encoding() {
    let bound = cbor_map(&[
        ("uid", cbor_text("pu")),
        ("kind", cbor_text("Pod")),
        ("name", cbor_text("p")),
        ("apiVersion", cbor_text("v1")),
    ]);
    let spec = cbor_map(&[
        ("audiences", vec![0xf6]),
        ("expirationSeconds", vec![0x19, 0x0e, 0x17]),
        ("boundObjectRef", bound),
    ]);
    let in_cbor = [
        vec![0xd9, 0xd9, 0xf7],
        cbor_map(&[
            ("kind", cbor_text("TokenRequest")),
            ("apiVersion", cbor_text("authentication.k8s.io/v1")),
            ("spec", spec),
        ]),
    ];
    for (encoding, body) in [
        (Encoding::Protobuf, unhex(REQUEST)),
        (Encoding::Json, JSON.as_bytes().to_vec()),
        (Encoding::Cbor, in_cbor.concat()),
    ] {
        let read = read_token_request(encoding, &body).unwrap();
        assert_eq!(read.spec, kubelets(), "{}", encoding.as_str());
        assert_eq!(read.token, "");
    }
}

#[test]
fn the_answer_gives_its_token_and_the_spec_with_defaults() {
    let read = read_token_request(Encoding::Protobuf, &unhex(ANSWER)).unwrap();
    assert_eq!(read.token, "h.p.s");
    assert_eq!(read.spec.audiences, ["https://k"]);
    assert!(!format!("{read:?}").contains("h.p.s"), "a token is never shown");
}

#[test]
fn what_is_not_asked_alike_differs() {
    let same = json(
        r#"{"boundObjectRef":{"uid":"pu","name":"p","apiVersion":"v1","kind":"Pod"},"expirationSeconds":3607}"#,
    );
    assert_eq!(same.unwrap().spec, kubelets());
    for other in [
        r#"{"expirationSeconds":3607}"#,
        r#"{"expirationSeconds":3600,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"p","uid":"pu"}}"#,
        r#"{"audiences":["vault"],"expirationSeconds":3607,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"p","uid":"pu"}}"#,
        r#"{"expirationSeconds":3607,"boundObjectRef":{"kind":"Pod","apiVersion":"v1","name":"p","uid":"other"}}"#,
        r#"{"expirationSeconds":3607,"boundObjectRef":{"kind":"Node","apiVersion":"v1","name":"p","uid":"pu"}}"#,
    ] {
        assert_ne!(json(other).unwrap().spec, kubelets(), "{other}");
    }
}

#[test]
fn what_might_mean_something_else_is_not_read() {
    for odd in [
        r#"{"expirationSeconds":3607,"expirationSeconds":1}"#,
        r#"{"newField":1}"#,
        r#"{"boundObjectRef":{"kind":"Pod","namespace":"x"}}"#,
        r#"{"audiences":"vault"}"#,
        r#"{"audiences":[1]}"#,
        r#"{"expirationSeconds":"3607"}"#,
        "[]",
    ] {
        assert!(json(odd).is_err(), "{odd}");
    }
    let other = br#"{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{}}"#;
    assert!(read_token_request(Encoding::Json, other).is_err());
    assert!(read_token_request(Encoding::Yaml, b"kind: TokenRequest").is_err());
    // A sixth field of the spec, and one of the reference.
    let mut body = unhex(REQUEST);
    let at = body.len() - 12;
    assert_eq!(body[at..at + 2], [0x97, 0x1c]);
    body[at - 1] = 0x28;
    assert!(read_token_request(Encoding::Protobuf, &body).is_err());
}

#[test]
fn no_prefix_of_a_body_is_read_as_the_whole() {
    for end in 0..JSON.len() {
        assert!(
            read_token_request(Encoding::Json, &JSON.as_bytes()[..end]).is_err(),
            "{end}"
        );
    }
    let body = unhex(ANSWER);
    for end in 0..body.len() - 4 {
        assert!(
            read_token_request(Encoding::Protobuf, &body[..end]).is_err(),
            "{end}"
        );
    }
}

proptest::proptest! {
    #[test]
    fn foreign_bytes_never_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
        for encoding in [Encoding::Json, Encoding::Protobuf, Encoding::Cbor, Encoding::Yaml] {
            let _ = read_token_request(encoding, &bytes);
        }
    }
}
