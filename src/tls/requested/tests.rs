use rcgen::{Attribute, CustomExtension, PublicKeyData as _};

use super::*;

const EXTENSION_REQUEST: &[u64] = &[1, 2, 840, 113_549, 1, 9, 14];
const CHALLENGE_PASSWORD: &[u64] = &[1, 2, 840, 113_549, 1, 9, 7];
const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];

fn params(names: &[&str]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, "system:node:edge-1");
    for name in names {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName((*name).try_into().unwrap()),
        });
    }
    params
}

fn pem(params: &CertificateParams) -> String {
    let key = KeyPair::generate().unwrap();
    params.serialize_request(&key).unwrap().pem().unwrap()
}

fn with_attribute(oid: &'static [u64], values: Vec<u8>) -> String {
    let attribute = Attribute { oid, values };
    let key = KeyPair::generate().unwrap();
    let request = params(&["kubernetes"]).serialize_request_with_attributes(&key, vec![attribute]);
    request.unwrap().pem().unwrap()
}

fn read(text: &str) -> Result<Requested, NotPlain> {
    Requested::parse(text.as_bytes())
}

#[test]
fn a_plain_request_is_read_in_full_whatever_its_key() {
    let names = [
        "kubernetes",
        "10.96.0.1",
        "KUBERNETES.default",
        "fd00::b",
        "a\nDNS:b",
    ];
    let requested = read(&pem(&params(&names))).unwrap();
    assert_eq!(
        (&*requested.common_name, &*requested.organization),
        ("system:node:edge-1", "system:nodes")
    );
    let read_names: Vec<String> = requested.names.iter().map(AltName::to_string).collect();
    assert_eq!(read_names, names);
    for algorithm in [&rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let text = params(&["a"]).serialize_request(&key).unwrap().pem().unwrap();
        assert!(read(&text).is_ok(), "{:?}", key.algorithm());
        assert!(read(&text.replace('\n', "\r\n")).is_ok());
    }
}

#[test]
fn nothing_else_may_be_asked_for() {
    let mut constrained = params(&["kubernetes"]);
    constrained.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let mut usages = params(&["kubernetes"]);
    usages.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let mut private = params(&["kubernetes"]);
    private.custom_extensions.push(CustomExtension::from_oid_content(
        &[1, 3, 6, 1, 4, 1, 1],
        vec![5, 0],
    ));
    let mut twice = params(&["kubernetes"]);
    // `evil` as the only DNS name.
    let evil = b"\x30\x06\x82\x04evil".to_vec();
    twice
        .custom_extensions
        .push(CustomExtension::from_oid_content(SUBJECT_ALT_NAME, evil.clone()));
    let mut longer = params(&[]);
    let content = [evil.as_slice(), b"\x05\x00"].concat();
    longer
        .custom_extensions
        .push(CustomExtension::from_oid_content(SUBJECT_ALT_NAME, content));
    for (name, request) in [
        ("basic constraints", constrained),
        ("usages", usages),
        ("a private extension", private),
        ("names twice", twice),
        ("bytes behind the names", longer),
    ] {
        assert!(
            matches!(read(&pem(&request)), Err(NotPlain::More | NotPlain::OtherName)),
            "{name}"
        );
    }
    let second = b"\x31\x11\x30\x0f\x30\x0d\x06\x03\x55\x1d\x11\x04\x06\x30\x04\x82\x02xy".to_vec();
    for text in [
        with_attribute(EXTENSION_REQUEST, second),
        with_attribute(CHALLENGE_PASSWORD, b"\x31\x03\x0c\x01x".to_vec()),
        with_attribute(&[1, 3, 6, 1, 4, 1, 1], b"\x31\x02\x05\x00".to_vec()),
    ] {
        assert!(
            matches!(read(&text), Err(NotPlain::More | NotPlain::OtherName)),
            "{:?}",
            read(&text)
        );
    }
}

#[test]
fn names_of_other_kinds_and_no_names_are_not_taken() {
    let other = |name: SanType| {
        let mut params = params(&["kubernetes"]);
        params.subject_alt_names.push(name);
        read(&pem(&params))
    };
    let mail = SanType::Rfc822Name("a@b".try_into().unwrap());
    let uri = SanType::URI("https://a".try_into().unwrap());
    for name in [mail, uri] {
        assert_eq!(other(name), Err(NotPlain::OtherName));
    }
    assert_eq!(read(&pem(&params(&[]))), Err(NotPlain::NoNames));
}

#[test]
fn the_subject_is_one_name_and_one_organization() {
    let subject = |parts: &[(DnType, &str)]| {
        let mut params = params(&["kubernetes"]);
        params.distinguished_name = DistinguishedName::new();
        for (kind, text) in parts {
            params.distinguished_name.push(kind.clone(), *text);
        }
        read(&pem(&params))
    };
    let (cn, o) = (DnType::CommonName, DnType::OrganizationName);
    assert!(
        subject(&[(cn.clone(), "a"), (o.clone(), "b")]).is_ok(),
        "in any order"
    );
    for parts in [
        vec![],
        vec![(cn.clone(), "a")],
        vec![(o.clone(), "b")],
        vec![(cn, "a"), (o, "b"), (DnType::OrganizationalUnitName, "c")],
    ] {
        assert_eq!(subject(&parts), Err(NotPlain::Subject), "{parts:?}");
    }
}

#[test]
fn the_text_is_one_block_written_in_the_usual_way() {
    let good = pem(&params(&["kubernetes"]));
    let other = pem(&params(&["evil"]));
    assert!(read(good.trim_end()).is_ok());
    for text in [
        String::new(),
        format!("{good}{other}"),
        format!("{other}{good}"),
        format!(" {good}"),
        format!("{good}x"),
        good.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"),
        good.replacen("-----\n", "-----\nProc-Type: 4\n\n", 1),
        good.replacen('\n', "\n\n", 2),
        good.replace("-----BEGIN", "-----BEGIN CERTIFICATE-----\nAAAA\n-----BEGIN"),
    ] {
        assert_eq!(read(&text), Err(NotPlain::Encoding), "{text}");
    }
}

#[test]
fn the_signature_is_by_its_key() {
    let good = params(&["kubernetes"]);
    let (one, two) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let der = good.serialize_request(&one).unwrap().der().to_vec();
    let (old, new) = (one.subject_public_key_info(), two.subject_public_key_info());
    let at = der.windows(old.len()).position(|part| part == old).unwrap();
    let mut swapped = der;
    swapped[at..at + new.len()].copy_from_slice(&new);
    let text = STANDARD.encode(&swapped);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(64)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let text = format!(
        "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
        lines.join("\n")
    );
    assert_eq!(read(&text), Err(NotPlain::Signature));
}
