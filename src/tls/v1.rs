//! X.509 v1 client certificates. webpki reads v3 alone; kube-apiserver (Go) takes v1 too, and clusters hand them out: MicroK8s,
//! and every `openssl x509 -req` without `-extfile`.
//!
//! A v1 certificate has no extensions: nothing narrows what it is for, and it can be no authority. So what is to be judged
//! is its issuer, its signature, its time, and whether a list revokes it: as strictly as webpki judges them in v3. Only
//! one that an authority of the bundle has signed itself is taken, not one behind an intermediate.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, SubjectPublicKeyInfoDer, TrustAnchor, UnixTime,
};
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore};
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::x509::X509Version;

use super::certificate::system_time;
use super::signed::{PublicKey, Signed};
use super::time::unix;

/// A certificate of version 1.
pub(super) struct V1Certificate<'a> {
    parsed: X509Certificate<'a>,
    signed: Signed<'a>,
}

impl<'a> V1Certificate<'a> {
    /// Reads a certificate; `None` if it is none, or of another version.
    pub(super) fn read(der: &'a CertificateDer<'_>) -> Option<Self> {
        let (rest, parsed) = X509Certificate::from_der(der).ok()?;
        let is_v1 = parsed.version() == X509Version::V1
            && parsed.extensions().is_empty()
            && parsed.issuer_uid.is_none()
            && parsed.subject_uid.is_none();
        // RFC 5280, section 4.1.1.2: the algorithm is stated twice, outside of what is signed and inside.
        let is_sound = rest.is_empty() && parsed.signature_algorithm == parsed.signature;
        let signed = Signed::read(der)?;
        (is_v1 && is_sound).then_some(Self { parsed, signed })
    }

    /// Whether an authority of `roots` signed it, it is valid at `at`, and no list revokes it.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn verify(
        &self,
        roots: &RootCertStore,
        lists: &[CertificateRevocationListDer<'_>],
        at: UnixTime,
    ) -> Result<(), Error> {
        let mut verdict = CertificateError::UnknownIssuer;
        for anchor in &roots.roots {
            match self.verify_by(anchor, lists) {
                Ok(()) => return self.is_valid(at).map_err(Error::from),
                Err(CertificateError::UnknownIssuer) => {}
                Err(CertificateError::Revoked) => return Err(CertificateError::Revoked.into()),
                // Authorities may share a name (clusters call theirs `kubernetes`).
                Err(error) => verdict = error,
            }
        }
        Err(verdict.into())
    }

    fn verify_by(
        &self,
        anchor: &TrustAnchor<'_>,
        lists: &[CertificateRevocationListDer<'_>],
    ) -> Result<(), CertificateError> {
        if content(self.parsed.issuer().as_raw()) != Some(anchor.subject.as_ref()) {
            return Err(CertificateError::UnknownIssuer);
        }
        let key = PublicKey::read_content(anchor.subject_public_key_info.as_ref())
            .ok_or(CertificateError::UnknownIssuer)?;
        self.signed.is_by(&key)?;
        if lists.iter().any(|list| self.is_revoked_by(list, &key)) {
            return Err(CertificateError::Revoked);
        }
        Ok(())
    }

    /// A list by another authority of the same name says nothing.
    fn is_revoked_by(&self, list: &CertificateRevocationListDer<'_>, authority: &PublicKey<'_>) -> bool {
        let Ok((_, parsed)) = CertificateRevocationList::from_der(list) else {
            return false;
        };
        parsed.issuer().as_raw() == self.parsed.issuer().as_raw()
            && Signed::read(list).is_some_and(|signed| signed.is_by(authority).is_ok())
            && parsed
                .iter_revoked_certificates()
                .any(|revoked| revoked.raw_serial() == self.parsed.raw_serial())
    }

    fn is_valid(&self, at: UnixTime) -> Result<(), CertificateError> {
        let validity = self.parsed.validity();
        let (start, end) = (system_time(validity.not_before), system_time(validity.not_after));
        if at < unix(start) {
            Err(CertificateError::NotValidYet)
        } else if at > unix(end) {
            Err(CertificateError::Expired)
        } else {
            Ok(())
        }
    }

    /// Whether its key made this signature in a TLS 1.2 handshake.
    pub(super) fn verify_tls12(
        &self,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = PublicKey::read(self.parsed.public_key().raw).ok_or(CertificateError::BadEncoding)?;
        key.verify_tls12(message, signed)?;
        Ok(HandshakeSignatureValid::assertion())
    }

    /// Whether its key made this signature in a TLS 1.3 handshake.
    pub(super) fn verify_tls13(
        &self,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(self.parsed.public_key().raw);
        let algorithms = super::crypto::provider().signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signed, &algorithms)
    }
}

/// What stands within tag and length.
fn content(der: &[u8]) -> Option<&[u8]> {
    Some(Any::from_der(der).ok()?.1.data)
}

#[cfg(test)]
mod tests;
