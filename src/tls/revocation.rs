//! Lists of revoked certificates (CRL, RFC 5280 section 5): PEM in, lists that a verifier can use out.
//!
//! Owns what makes such a file unusable. Does not know who signed a list: that shows when a certificate is verified.
//!
//! Invariant: [`RevocationLists`] holds at least one list, and each of them can be used.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::client::VerifierBuilderError;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateRevocationListDer, Der, TrustAnchor};
use rustls::server::WebPkiClientVerifier;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::certificate::{sha256_hex, system_time};
use super::pem::{self, LoadError};

/// The lists of one file.
#[derive(Debug, Clone)]
pub struct RevocationLists {
    lists: Vec<CertificateRevocationListDer<'static>>,
    fingerprint: String,
    next_update: Option<SystemTime>,
    revoked: usize,
}

impl RevocationLists {
    /// Reads a file. Blocking.
    ///
    /// # Errors
    /// What a running edgehold would say of it.
    pub fn load(path: &Path) -> Result<Self, LoadError> {
        Self::parse(&pem::read(path)?, path)
    }

    fn parse(pem: &[u8], path: &Path) -> Result<Self, LoadError> {
        let mut lists = Vec::new();
        for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(pem) {
            let (kind, der) = section.map_err(|error| pem::broken(path, &error))?;
            if kind == SectionKind::Crl {
                lists.push(CertificateRevocationListDer::from(der));
            }
        }
        if lists.is_empty() {
            return Err(LoadError::NoList {
                path: path.to_owned(),
            });
        }
        let damaged = |reason: String| LoadError::Damaged {
            path: path.to_owned(),
            reason,
        };
        let mut next_updates = Vec::new();
        let mut revoked = 0;
        for der in &lists {
            check(der).map_err(&damaged)?;
            let (_, list) = CertificateRevocationList::from_der(der)
                .map_err(|_| damaged("not a whole list of revoked certificates".to_owned()))?;
            next_updates.extend(list.next_update().map(system_time));
            revoked += list.iter_revoked_certificates().count();
        }
        let parts: Vec<&[u8]> = lists.iter().map(AsRef::as_ref).collect();
        Ok(Self {
            fingerprint: sha256_hex(&parts),
            lists,
            next_update: next_updates.into_iter().min(),
            revoked,
        })
    }

    /// SHA-256 over all lists, lower-case hex.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// When the first of them is due to be replaced. It counts after that all the same: what it revokes stays revoked.
    pub fn next_update(&self) -> Option<SystemTime> {
        self.next_update
    }

    /// How many certificates they revoke.
    pub fn revoked(&self) -> usize {
        self.revoked
    }

    pub(super) fn lists(&self) -> &[CertificateRevocationListDer<'static>] {
        &self.lists
    }
}

/// Whether the verifier can use a list: it reads one only beside some authority, so it is given one without a name.
fn check(list: &CertificateRevocationListDer<'static>) -> Result<(), String> {
    let nobody = TrustAnchor {
        subject: Der::from_slice(&[]),
        subject_public_key_info: Der::from_slice(&[]),
        name_constraints: None,
    };
    let roots = Arc::new(RootCertStore { roots: vec![nobody] });
    let built = WebPkiClientVerifier::builder_with_provider(roots, super::crypto::provider())
        .with_crls([list.clone()])
        .build();
    match built {
        Ok(_) => Ok(()),
        Err(VerifierBuilderError::InvalidCrl(error)) => Err(format!("the list cannot be used: {error:?}")),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::status::CertificateState;
    use crate::tls::testing::{Authority, days};

    fn parsed(pem: &str) -> Result<RevocationLists, LoadError> {
        RevocationLists::parse(pem.as_bytes(), Path::new("crl.pem"))
    }

    #[test]
    fn one_or_several_lists_are_read_and_the_first_end_is_theirs() {
        let (one, other) = (Authority::new("one"), Authority::new("other"));
        let text = format!("{}{}", one.revoke(&[], days(9)), other.revoke(&[], days(3)));
        let lists = parsed(&text).unwrap();
        assert_eq!(lists.lists().len(), 2);
        let end = lists.next_update().unwrap();
        assert!(days(2) < end && end < days(4), "{end:?}");
        assert_ne!(
            lists.fingerprint(),
            parsed(&one.revoke(&[], days(9))).unwrap().fingerprint()
        );
    }

    #[test]
    fn what_is_no_list_is_refused() {
        let authority = Authority::shared();
        let good = authority.revoke(&[], days(1));
        let half = &good[..good.len() / 2];
        let nonsense = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n".to_owned();
        for (text, state) in [
            ("", CertificateState::Incomplete),
            (&authority.pem, CertificateState::Incomplete),
            (half, CertificateState::Damaged),
            (&nonsense, CertificateState::Damaged),
            (&format!("{good}{nonsense}"), CertificateState::Damaged),
        ] {
            assert_eq!(parsed(text).unwrap_err().state(), state, "{text}");
        }
    }
}
