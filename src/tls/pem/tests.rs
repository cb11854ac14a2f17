use super::*;
use crate::tls::testing::{Authority, LeafSpec};

fn pair(cert_pem: &[u8], key_pem: &[u8]) -> Result<KeyPair, LoadError> {
    let paths = PairPaths {
        cert: "cert.pem".into(),
        key: "key.pem".into(),
    };
    parse_pair(cert_pem, key_pem, &paths)
}

fn section(label: &str) -> String {
    format!("-----BEGIN {label}-----\nMIIB\n-----END {label}-----\n")
}

#[test]
fn what_is_no_private_key_is_called_what_it_is() {
    let issued = Authority::shared().issue(&LeafSpec::client("a"));
    let old = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\nMIIB\n-----END RSA PRIVATE KEY-----\n";
    for (content, found) in [
        (section("ENCRYPTED PRIVATE KEY"), Unusual::EncryptedKey),
        (old.to_owned(), Unusual::EncryptedKey),
        (section("OPENSSH PRIVATE KEY"), Unusual::OpensshKey),
        (section("PUBLIC KEY"), Unusual::PublicKey),
        (section("EC PARAMETERS"), Unusual::CurveParameters),
        (issued.cert_pem.clone(), Unusual::Certificate),
        (section("CERTIFICATE REQUEST"), Unusual::Request),
        (String::new(), Unusual::Empty),
    ] {
        let error = pair(issued.cert_pem.as_bytes(), content.as_bytes()).unwrap_err();
        let LoadError::Unusual {
            wanted, found: is, ..
        } = &error
        else {
            panic!("{content}: {error}");
        };
        assert_eq!((*wanted, *is), ("private key", found), "{content}");
        assert!(
            error
                .to_string()
                .starts_with("key.pem: no private key in it; it is "),
            "{error}"
        );
        assert!(
            !error.to_string().contains("MIIB"),
            "nothing of the file: {error}"
        );
    }
}

#[test]
fn what_is_no_certificate_is_called_what_it_is() {
    let issued = Authority::shared().issue(&LeafSpec::client("a"));
    let utf16: Vec<u8> = std::iter::once(0xfeff)
        .chain(issued.cert_pem.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect();
    for (content, found) in [
        (
            section("TRUSTED CERTIFICATE").into_bytes(),
            Unusual::TrustedCertificate,
        ),
        (section("PKCS7").into_bytes(), Unusual::Pkcs7),
        (issued.key_pem.clone().into_bytes(), Unusual::PrivateKey),
        (issued.der.clone(), Unusual::Binary),
        (utf16, Unusual::Utf16),
    ] {
        let error = pair(&content, issued.key_pem.as_bytes()).unwrap_err();
        let LoadError::Unusual {
            wanted, found: is, ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!((*wanted, *is), ("certificate", found), "{error}");
        let bundle = parse_bundle(&content, Path::new("ca.pem")).unwrap_err();
        assert!(matches!(bundle, LoadError::Unusual { .. }), "{bundle}");
    }
}

#[test]
fn what_editors_and_openssl_add_does_no_harm() {
    let issued = Authority::shared().issue(&LeafSpec::client("a"));
    let with_parameters = format!("{}{}", section("EC PARAMETERS"), issued.key_pem);
    let windows = issued.cert_pem.replace('\n', "\r\n");
    let with_text = format!(
        "Certificate:\n    Data: of openssl x509 -text\n{}",
        issued.cert_pem
    );
    for (cert, key) in [
        (issued.cert_pem.clone(), with_parameters),
        (windows, issued.key_pem.replace('\n', "\r\n")),
        (with_text, issued.key_pem.clone()),
    ] {
        let loaded = pair(cert.as_bytes(), key.as_bytes()).unwrap();
        assert_eq!(loaded.leaf.common_name.as_deref(), Some("a"));
    }
}

#[test]
fn a_pair_of_version_1_is_a_pair_and_another_key_is_not_its_own() {
    let authority = Authority::new("clients");
    let (one, other) = (LeafSpec::client("a"), LeafSpec::client("a"));
    let (one, other) = (authority.issue_v1(&one), authority.issue_v1(&other));
    let loaded = pair(one.cert_pem.as_bytes(), one.key_pem.as_bytes()).unwrap();
    assert_eq!(loaded.leaf.common_name.as_deref(), Some("a"));
    let mixed = pair(one.cert_pem.as_bytes(), other.key_pem.as_bytes()).unwrap_err();
    assert!(matches!(mixed, LoadError::KeyMismatch { .. }), "{mixed}");
}
