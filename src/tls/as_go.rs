//! What the verifiers of edgehold say of odd certificates, beside what Go's `crypto/x509` says: the rows of
//! docs/certificates.md. Each test is one row; a new version of webpki that decides otherwise shows here.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SerialNumber,
};
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, Error};

use super::pem::Roots;
use super::testing::{Authority, LeafSpec, at, days, tagged};
use super::time::unix;
use super::trust::{ClientTrust, ServerTrust};

/// A certificate with its key, to sign with.
struct Signer {
    der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(edit: impl FnOnce(&mut CertificateParams)) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    (params.not_before, params.not_after) = (days(-1).into(), days(99).into());
    edit(&mut params);
    (params, KeyPair::generate().unwrap())
}

impl Signer {
    fn root(edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = authority(edit);
        let der = params.self_signed(&key).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    fn intermediate(&self, edit: impl FnOnce(&mut CertificateParams)) -> Self {
        let (mut params, key) = authority(edit);
        params
            .distinguished_name
            .push(DnType::OrganizationalUnitName, "intermediate");
        let der = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        let issuer = Issuer::new(params, key);
        Self { der, issuer }
    }

    fn leaf(&self, names: &[&str], edit: impl FnOnce(&mut CertificateParams)) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, "leaf.test");
        (params.not_before, params.not_after) = (days(-1).into(), days(9).into());
        edit(&mut params);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().clone()
    }
}

fn roots(certificates: &[&CertificateDer<'_>]) -> Roots {
    let pem: String = certificates
        .iter()
        .map(|der| {
            use base64::Engine as _;
            let text = base64::prelude::BASE64_STANDARD.encode(der);
            format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
        })
        .collect();
    Roots::parse(pem.as_bytes(), std::path::Path::new("ca.pem")).unwrap()
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Taken,
    Refused,
}

fn verdict<T>(result: Result<T, Error>) -> Verdict {
    match result {
        Ok(_) => Verdict::Taken,
        Err(_) => Verdict::Refused,
    }
}

fn client(bundle: &Roots, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Verdict {
    let trust = ClientTrust::new(bundle, None).unwrap();
    verdict(trust.verify(leaf, rest, unix(days(0))))
}

fn server(bundle: &Roots, leaf: &CertificateDer<'_>, rest: &[CertificateDer<'_>]) -> Verdict {
    let trust = ServerTrust::new(bundle).unwrap();
    verdict(trust.verify(leaf, rest, &"leaf.test".try_into().unwrap(), unix(days(0))))
}

#[test]
fn a_servers_own_leaf_as_its_authority() {
    let (ours, other) = (Signer::root(|_| {}), Signer::root(|_| {}));
    let leaf = ours.leaf(&["leaf.test"], |_| {});
    assert_eq!(server(&roots(&[&leaf]), &leaf, &[]), Verdict::Taken);
    let stranger = other.leaf(&["leaf.test"], |_| {});
    assert_eq!(
        server(&roots(&[&leaf]), &stranger, &[]),
        Verdict::Refused,
        "other bytes"
    );
    let elsewhere = ours.leaf(&["other.test"], |_| {});
    assert_eq!(
        server(&roots(&[&elsewhere]), &elsewhere, &[]),
        Verdict::Refused,
        "its names count"
    );
    let late = ours.leaf(&["leaf.test"], |params| params.not_after = days(0).into());
    let trust = ServerTrust::new(&roots(&[&late])).unwrap();
    let name = "leaf.test".try_into().unwrap();
    let error = trust.verify(&late, &[], &name, unix(days(1))).unwrap_err();
    assert_eq!(error, CertificateError::Expired.into(), "its time counts");
    let for_clients = ours.leaf(&["leaf.test"], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    assert_eq!(
        server(&roots(&[&for_clients]), &for_clients, &[]),
        Verdict::Refused,
        "its usage counts"
    );
}

#[test]
fn a_self_signed_certificate_that_says_it_is_an_authority() {
    let own = Signer::root(|params| {
        params.subject_alt_names = vec![rcgen::SanType::DnsName("leaf.test".try_into().unwrap())];
    });
    assert_eq!(server(&roots(&[&own.der]), &own.der, &[]), Verdict::Taken);
    assert_eq!(client(&roots(&[&own.der]), &own.der, &[]), Verdict::Taken);
    let stranger = Signer::root(|_| {});
    assert_eq!(client(&roots(&[&own.der]), &stranger.der, &[]), Verdict::Refused);
}

#[test]
fn x509_v1_by_an_authority_of_the_bundle() {
    let authority = Authority::new("clients");
    let leaf = authority.issue_v1(&LeafSpec::client("a")).der.into();
    assert_eq!(client(&authority.roots(), &leaf, &[]), Verdict::Taken);
}

#[test]
fn x509_v1_behind_an_intermediate() {
    let root = Signer::root(|_| {});
    let authority = Authority::new("clients");
    let leaf = authority.issue_v1(&LeafSpec::client("a")).der.into();
    let intermediate = root.intermediate(|_| {});
    assert_eq!(
        client(&roots(&[&root.der]), &leaf, &[intermediate.der]),
        Verdict::Refused
    );
}

#[test]
fn name_constraints_of_an_authority() {
    for (permitted, expected) in [("leaf.test", Verdict::Taken), ("other.test", Verdict::Refused)] {
        let root = Signer::root(|params| {
            params.name_constraints = Some(NameConstraints {
                permitted_subtrees: vec![GeneralSubtree::DnsName(permitted.to_owned())],
                excluded_subtrees: vec![],
            });
        });
        let leaf = root.leaf(&["leaf.test"], |_| {});
        assert_eq!(server(&roots(&[&root.der]), &leaf, &[]), expected, "{permitted}");
    }
}

#[test]
fn the_path_length_of_an_authority() {
    for (length, expected) in [(1, Verdict::Taken), (0, Verdict::Refused)] {
        let root = Signer::root(|_| {});
        let upper =
            root.intermediate(|params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(length)));
        let lower = upper.intermediate(|_| {});
        let leaf = lower.leaf(&[], |_| {});
        let rest = [lower.der.clone(), upper.der.clone()];
        assert_eq!(client(&roots(&[&root.der]), &leaf, &rest), expected, "{length}");
    }
}

#[test]
fn an_intermediate_without_the_right_to_sign() {
    let root = Signer::root(|_| {});
    let no_authority = root.intermediate(|params| params.is_ca = IsCa::ExplicitNoCa);
    let leaf = no_authority.leaf(&[], |_| {});
    assert_eq!(
        client(
            &roots(&[&root.der]),
            &leaf,
            std::slice::from_ref(&no_authority.der)
        ),
        Verdict::Refused
    );
    let other_usage = root.intermediate(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let leaf = other_usage.leaf(&[], |_| {});
    assert_eq!(
        client(
            &roots(&[&root.der]),
            &leaf,
            std::slice::from_ref(&other_usage.der)
        ),
        Verdict::Taken
    );
}

#[test]
fn extended_key_usages_of_a_client() {
    use ExtendedKeyUsagePurpose::{Any, ClientAuth, ServerAuth};
    let root = Signer::root(|_| {});
    for (usages, expected) in [
        (vec![], Verdict::Taken),
        (vec![ClientAuth], Verdict::Taken),
        (vec![ServerAuth, ClientAuth], Verdict::Taken),
        (vec![ServerAuth], Verdict::Refused),
        (vec![Any], Verdict::Refused),
    ] {
        let leaf = root.leaf(&[], |params| params.extended_key_usages = usages.clone());
        assert_eq!(client(&roots(&[&root.der]), &leaf, &[]), expected, "{usages:?}");
    }
}

#[test]
fn an_extension_that_nobody_knows() {
    let root = Signer::root(|_| {});
    for (critical, expected) in [(false, Verdict::Taken), (true, Verdict::Refused)] {
        let leaf = root.leaf(&[], |params| {
            let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
            extension.set_criticality(critical);
            params.custom_extensions = vec![extension];
        });
        assert_eq!(
            client(&roots(&[&root.der]), &leaf, &[]),
            expected,
            "critical: {critical}"
        );
    }
}

#[test]
fn serial_numbers() {
    let root = Signer::root(|_| {});
    let zero = root.leaf(&[], |params| {
        params.serial_number = Some(SerialNumber::from(0_u64))
    });
    assert_eq!(client(&roots(&[&root.der]), &zero, &[]), Verdict::Taken);
    let authority = Authority::new("clients");
    let negative = authority.issue_edited(&LeafSpec::client("a"), |fields| fields[1] = tagged(2, &[0x80]));
    assert_eq!(
        client(&authority.roots(), &negative.der.into(), &[]),
        Verdict::Taken
    );
}

#[test]
fn periods_of_validity() {
    let root =
        Signer::root(|params| params.not_after = (days(0) + Duration::from_secs(86_400 * 365 * 500)).into());
    let bundle = roots(&[&root.der]);
    let century = root.leaf(&[], |params| {
        (params.not_before, params.not_after) = (at(0).into(), days(36_500).into());
    });
    assert_eq!(client(&bundle, &century, &[]), Verdict::Taken);
    let backwards = root.leaf(&[], |params| {
        (params.not_before, params.not_after) = (days(1).into(), days(-1).into());
    });
    assert_eq!(client(&bundle, &backwards, &[]), Verdict::Refused);
}

#[test]
fn a_signature_with_sha1() {
    // ecdsa-with-SHA1 (RFC 3279, section 2.2.3).
    const ALGORITHM: [u8; 9] = [6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1];
    let authority = Authority::new("clients");
    let leaf = authority.issue_edited(&LeafSpec::client("a"), |fields| {
        fields[2] = tagged(0x30, &ALGORITHM)
    });
    assert_eq!(
        client(&authority.roots(), &leaf.der.into(), &[]),
        Verdict::Refused
    );
    let v1 = authority.issue_edited(&LeafSpec::client("a"), |fields| {
        fields[2] = tagged(0x30, &ALGORITHM);
        *fields = fields[1..7].to_vec();
    });
    let trust = ClientTrust::new(&authority.roots(), None).unwrap();
    let error = trust.verify(&v1.der.into(), &[], unix(days(0))).unwrap_err();
    assert!(error.to_string().contains("SHA-1"), "{error}");
}

#[test]
fn a_server_with_a_common_name_and_no_alternative_name() {
    let root = Signer::root(|_| {});
    let leaf = root.leaf(&[], |_| {});
    assert_eq!(server(&roots(&[&root.der]), &leaf, &[]), Verdict::Refused);
    let named = root.leaf(&["leaf.test"], |_| {});
    assert_eq!(server(&roots(&[&root.der]), &named, &[]), Verdict::Taken);
}

#[test]
fn an_authority_that_has_expired() {
    let root = Signer::root(|params| params.not_after = days(-1).into());
    let leaf = root.leaf(&[], |params| params.not_before = days(-2).into());
    assert_eq!(client(&roots(&[&root.der]), &leaf, &[]), Verdict::Taken);
}
