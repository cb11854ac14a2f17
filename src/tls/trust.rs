//! Which clients are trusted: the authorities that may have signed a certificate, and the lists of those revoked.
//!
//! Chain, signature, key usage and revocation are webpki's, but for two kinds of certificate that it does not take and
//! kube-apiserver does: [`super::v1`] and [`super::pinned`]. Owns how several lists count together, and that a
//! connection can be judged again when authorities or lists change, by what its client showed.
//!
//! Invariant: what was good stays good for as long as neither authorities nor lists speak against it: the moment at which
//! it is judged again is the one at which it was good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier as _};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{CertificateError, Error};

use super::handshake::TlsConfigError;
use super::pem::Roots;
use super::pinned::{Pinned, Usage};
use super::revocation::RevocationLists;
use super::time::unix;
use super::v1::V1Certificate;

/// Authorities and lists, ready to verify with.
#[derive(Debug)]
pub struct ClientTrust {
    chain: Arc<dyn ClientCertVerifier>,
    /// One for each list: authorities of one name (clusters call theirs `kubernetes`) may have a list each, and webpki
    /// would take the first for both.
    lists: Vec<Arc<dyn ClientCertVerifier>>,
    roots: Roots,
    revoked: Vec<CertificateRevocationListDer<'static>>,
    fingerprint: String,
    /// Said once, not at each handshake.
    spoke_of_bad_list: AtomicBool,
}

impl ClientTrust {
    /// A certificate is asked for and not required. One that a list does not know is not revoked.
    ///
    /// # Errors
    /// Authorities or lists that cannot be used.
    pub(super) fn new(roots: &Roots, revoked: Option<&RevocationLists>) -> Result<Self, TlsConfigError> {
        let builder = || {
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots.store()), super::crypto::provider())
        };
        let der = revoked.map(RevocationLists::lists).unwrap_or_default();
        let lists = der.iter().map(|list| {
            builder()
                .with_crls([list.clone()])
                .allow_unknown_revocation_status()
                .build()
        });
        let digest = revoked.map(RevocationLists::fingerprint).unwrap_or_default();
        Ok(Self {
            chain: builder().allow_unauthenticated().build()?,
            lists: lists.collect::<Result<_, _>>()?,
            roots: roots.clone(),
            revoked: der.to_vec(),
            fingerprint: format!("{}{digest}", roots.fingerprint()),
            spoke_of_bad_list: AtomicBool::new(false),
        })
    }

    /// Equal where the authorities and lists are.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Whether a client that was verified would be verified now.
    ///
    /// # Errors
    /// Why it would not.
    pub fn judge_again(&self, shown: &ShownChain) -> Result<(), TlsConfigError> {
        let (leaf, rest) = shown.chain.split_first().ok_or(TlsConfigError::NoCa)?;
        let first = self.verify(leaf, rest, unix(shown.at));
        let verified = match (first, shown.or_at) {
            (Err(_), Some(then)) => self.verify(leaf, rest, unix(then)),
            (first, _) => first,
        };
        Ok(verified.map(drop)?)
    }

    /// The verdict at a moment.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        at: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = match self.chain.verify_client_cert(leaf, rest, at) {
            Ok(verified) => verified,
            Err(error) => return self.verify_otherwise(leaf, at, error),
        };
        for list in &self.lists {
            match list.verify_client_cert(leaf, rest, at) {
                Ok(_) => {}
                Err(Error::InvalidCertificate(CertificateError::Revoked)) => {
                    return Err(CertificateError::Revoked.into());
                }
                // By another authority of the same name, or not fit to judge this certificate: it says nothing of it.
                Err(error) => self.speak_of_bad_list(&error),
            }
        }
        Ok(verified)
    }

    /// The verdict on what webpki has refused, which stands where the certificate is not of the two kinds.
    fn verify_otherwise(
        &self,
        leaf: &CertificateDer<'_>,
        at: UnixTime,
        error: Error,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(v1) = V1Certificate::read(leaf) {
            v1.verify(self.roots.store(), &self.revoked, at)?;
        } else if let Some(pinned) = Pinned::find(leaf, &self.roots) {
            pinned.verify(Usage::Client, at)?;
        } else {
            return Err(error);
        }
        Ok(ClientCertVerified::assertion())
    }

    /// For what TLS asks beside the chain.
    pub(super) fn plain(&self) -> &dyn ClientCertVerifier {
        &*self.chain
    }

    fn speak_of_bad_list(&self, error: &Error) {
        if !self.spoke_of_bad_list.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %error,
                "a list of revoked certificates is not by the authority that it names, and says nothing of its clients"
            );
        }
    }
}

/// Which servers are trusted.
#[derive(Debug)]
pub(super) struct ServerTrust {
    chain: Arc<WebPkiServerVerifier>,
    roots: Roots,
}

impl ServerTrust {
    /// # Errors
    /// Authorities that cannot be used.
    pub(super) fn new(roots: &Roots) -> Result<Self, TlsConfigError> {
        let chain =
            WebPkiServerVerifier::builder_with_provider(Arc::clone(roots.store()), super::crypto::provider())
                .build()?;
        Ok(Self {
            chain,
            roots: roots.clone(),
        })
    }

    /// The verdict at a moment, for a server that is called `name`.
    pub(super) fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        at: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let refused = match self.chain.verify_server_cert(leaf, rest, name, &[], at) {
            Ok(verified) => return Ok(verified),
            Err(error) => error,
        };
        let Some(pinned) = Pinned::find(leaf, &self.roots) else {
            return Err(refused);
        };
        pinned.verify(Usage::Server, at)?;
        verify_server_name(&ParsedCertificate::try_from(leaf)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    /// For what TLS asks beside the chain.
    pub(super) fn plain(&self) -> &WebPkiServerVerifier {
        &self.chain
    }
}

/// What the client of a connection showed, and when it was good.
#[derive(Debug, Clone)]
pub struct ShownChain {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) at: SystemTime,
    /// The second look, where there was one.
    pub(super) or_at: Option<SystemTime>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Issued, LeafSpec, days, lists};

    fn shown(issued: &Issued) -> ShownChain {
        ShownChain {
            chain: vec![issued.der.clone().into()],
            at: days(0),
            or_at: None,
        }
    }

    fn is_revoked(trust: &ClientTrust, issued: &Issued) -> bool {
        match trust.judge_again(&shown(issued)) {
            Ok(()) => false,
            Err(error) => {
                assert!(error.to_string().contains("Revoked"), "{error}");
                true
            }
        }
    }

    #[test]
    fn a_revoked_certificate_is_refused_and_its_neighbour_is_not() {
        let authority = Authority::new("kubernetes");
        let (bad, good) = (LeafSpec::client("a"), LeafSpec::client("a"));
        let (bad, good) = (authority.issue(&bad), authority.issue(&good));
        let revoked = lists(&[authority.revoke(&[&bad], days(1))]);
        let trust = ClientTrust::new(&authority.roots(), Some(&revoked)).unwrap();
        assert!(is_revoked(&trust, &bad));
        assert!(!is_revoked(&trust, &good));
        let without = ClientTrust::new(&authority.roots(), None).unwrap();
        assert!(!is_revoked(&without, &bad));
        assert_ne!(trust.fingerprint(), without.fingerprint());
    }

    #[test]
    fn a_list_that_is_overdue_counts_all_the_same() {
        let authority = Authority::new("kubernetes");
        let (bad, good) = (LeafSpec::client("a"), LeafSpec::client("b"));
        let (bad, good) = (authority.issue(&bad), authority.issue(&good));
        let overdue = lists(&[authority.revoke(&[&bad], days(-1))]);
        let trust = ClientTrust::new(&authority.roots(), Some(&overdue)).unwrap();
        assert!(is_revoked(&trust, &bad));
        assert!(!is_revoked(&trust, &good));
    }

    #[test]
    fn authorities_of_one_name_each_have_their_own_list_in_any_order() {
        let (old, new) = (Authority::new("kubernetes"), Authority::new("kubernetes"));
        let both = Authority::bundle(&[&old, &new]);
        let issue = |authority: &Authority| authority.issue(&LeafSpec::client("a"));
        let (old_bad, new_bad) = (issue(&old), issue(&new));
        let (old_good, new_good) = (issue(&old), issue(&new));
        let mut texts = [old.revoke(&[&old_bad], days(1)), new.revoke(&[&new_bad], days(1))];
        for _ in 0..2 {
            let trust = ClientTrust::new(&both, Some(&lists(&texts))).unwrap();
            assert!(is_revoked(&trust, &old_bad) && is_revoked(&trust, &new_bad));
            assert!(!is_revoked(&trust, &old_good) && !is_revoked(&trust, &new_good));
            texts.reverse();
        }
    }

    #[test]
    fn a_list_by_a_stranger_of_the_same_name_revokes_nothing() {
        let (ours, stranger) = (Authority::new("kubernetes"), Authority::new("kubernetes"));
        let leaf = ours.issue(&LeafSpec::client("a"));
        let theirs = lists(&[stranger.revoke(&[&leaf], days(1))]);
        let trust = ClientTrust::new(&ours.roots(), Some(&theirs)).unwrap();
        assert!(!is_revoked(&trust, &leaf));
    }

    #[test]
    fn what_expired_since_it_was_verified_is_judged_by_its_authority_alone() {
        let (authority, other) = (Authority::new("kubernetes"), Authority::new("other"));
        let leaf = authority.issue(&LeafSpec::client("a").valid(days(-9), days(-2)));
        let trust = ClientTrust::new(&Authority::bundle(&[&authority, &other]), None).unwrap();
        let verified = |at, or_at| ShownChain {
            at,
            or_at,
            ..shown(&leaf)
        };
        assert!(trust.judge_again(&verified(days(-3), None)).is_ok());
        assert!(trust.judge_again(&verified(days(0), Some(days(-3)))).is_ok());
        assert!(trust.judge_again(&verified(days(0), None)).is_err());
        let removed = ClientTrust::new(&other.roots(), None).unwrap();
        assert!(removed.judge_again(&verified(days(-3), Some(days(-3)))).is_err());
    }
}
