use super::*;
use crate::tls::testing::{Authority, Issued, LeafSpec, days, lists};
use crate::tls::{ClientTrust, RevocationLists};

fn verdict(
    authority: &Authority,
    revoked: Option<&RevocationLists>,
    issued: &Issued,
) -> Result<(), CertificateError> {
    let trust = ClientTrust::new(&authority.roots(), revoked).unwrap();
    match trust.verify(&issued.der.clone().into(), &[], unix(days(0))) {
        Ok(_) => Ok(()),
        Err(Error::InvalidCertificate(error)) => Err(error),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn one_that_an_authority_signed_is_taken_and_it_is_of_version_1() {
    let authority = Authority::new("clients");
    let issued = authority.issue_v1(&LeafSpec::client("a").organizations(&["b"]));
    let (_, parsed) = X509Certificate::from_der(&issued.der).unwrap();
    assert_eq!(parsed.version(), X509Version::V1);
    assert_eq!(verdict(&authority, None, &issued), Ok(()));
}

#[test]
fn one_by_a_stranger_of_the_same_name_is_refused() {
    let (ours, stranger) = (Authority::new("kubernetes"), Authority::new("kubernetes"));
    let forged = stranger.issue_v1(&LeafSpec::client("a"));
    assert_eq!(verdict(&ours, None, &forged), Err(CertificateError::BadSignature));
    let other = Authority::new("other").issue_v1(&LeafSpec::client("a"));
    assert_eq!(verdict(&ours, None, &other), Err(CertificateError::UnknownIssuer));
}

#[test]
fn authorities_of_one_name_are_all_tried() {
    let (old, new) = (Authority::new("kubernetes"), Authority::new("kubernetes"));
    let trust = ClientTrust::new(&Authority::bundle(&[&old, &new]), None).unwrap();
    for authority in [&old, &new] {
        let leaf = authority.issue_v1(&LeafSpec::client("a")).der.into();
        assert!(trust.verify(&leaf, &[], unix(days(0))).is_ok());
    }
}

#[test]
fn its_time_counts() {
    let authority = Authority::new("clients");
    let expired = authority.issue_v1(&LeafSpec::client("a").valid(days(-9), days(-1)));
    assert_eq!(
        verdict(&authority, None, &expired),
        Err(CertificateError::Expired)
    );
    let future = authority.issue_v1(&LeafSpec::client("a").valid(days(1), days(9)));
    assert_eq!(
        verdict(&authority, None, &future),
        Err(CertificateError::NotValidYet)
    );
}

#[test]
fn a_list_revokes_it_and_a_strangers_list_does_not() {
    let authority = Authority::new("kubernetes");
    let (bad, good) = (LeafSpec::client("a"), LeafSpec::client("a"));
    let (bad, good) = (authority.issue_v1(&bad), authority.issue_v1(&good));
    let ours = lists(&[authority.revoke(&[&bad], days(1))]);
    assert_eq!(
        verdict(&authority, Some(&ours), &bad),
        Err(CertificateError::Revoked)
    );
    assert_eq!(verdict(&authority, Some(&ours), &good), Ok(()));
    let theirs = lists(&[Authority::new("kubernetes").revoke(&[&bad], days(1))]);
    assert_eq!(verdict(&authority, Some(&theirs), &bad), Ok(()));
}

#[test]
fn each_byte_that_is_changed_spoils_it() {
    let authority = Authority::new("clients");
    let issued = authority.issue_v1(&LeafSpec::client("a"));
    for at in 0..issued.der.len() {
        let mut der = issued.der.clone();
        der[at] ^= 1;
        let changed = Issued {
            der,
            ..authority.issue_v1(&LeafSpec::client("a"))
        };
        assert!(verdict(&authority, None, &changed).is_err(), "byte {at}");
    }
}

#[test]
fn version_3_is_not_read_here() {
    let issued = Authority::shared().issue(&LeafSpec::client("a"));
    assert!(V1Certificate::read(&issued.der.into()).is_none());
}
