//! Signatures of certificates and revocation lists that webpki does not judge, verified with the same algorithms.
//!
//! Owns where the signed bytes, the algorithm and the signature stand in the DER (RFC 5280, sections 4.1.1 and 5.1.1). What a
//! good signature is, the provider's algorithms say: those of rustls, and no others. SHA-1 is not among them.

use std::fmt;
use std::sync::Arc;

use rustls::pki_types::SignatureVerificationAlgorithm;
use rustls::{CertificateError, DigitallySignedStruct};
use x509_parser::asn1_rs::{Any, FromDer as _, Tag};

/// A `SIGNED` structure: a certificate or a revocation list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Signed<'a> {
    /// With tag and length.
    content: &'a [u8],
    /// The AlgorithmIdentifier, without tag and length.
    algorithm: &'a [u8],
    signature: &'a [u8],
}

/// A SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy)]
pub(super) struct PublicKey<'a> {
    /// The AlgorithmIdentifier, without tag and length.
    algorithm: &'a [u8],
    key: &'a [u8],
}

impl<'a> Signed<'a> {
    /// Reads a whole DER; `None` if it is no such structure.
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let (rest, whole) = element(der, Tag::Sequence)?;
        let (after, _) = element(whole, Tag::Sequence)?;
        let content = whole.get(..whole.len().checked_sub(after.len())?)?;
        let (after, algorithm) = element(after, Tag::Sequence)?;
        let (end, signature) = bits(after)?;
        (rest.is_empty() && end.is_empty()).then_some(Self {
            content,
            algorithm,
            signature,
        })
    }

    /// Whether this key signed it.
    ///
    /// # Errors
    /// An algorithm that is not supported, or a bad signature.
    pub(super) fn is_by(&self, key: &PublicKey<'_>) -> Result<(), CertificateError> {
        let known = super::crypto::provider().signature_verification_algorithms.all;
        let fitting = known
            .iter()
            .filter(|known| known.signature_alg_id().as_ref() == self.algorithm);
        key.verify(fitting.copied(), self.content, self.signature)
    }
}

impl<'a> PublicKey<'a> {
    /// Reads one with its tag and length.
    pub(super) fn read(der: &'a [u8]) -> Option<Self> {
        let (rest, content) = element(der, Tag::Sequence)?;
        Self::read_content(content).filter(|_| rest.is_empty())
    }

    /// Reads one without its tag and length, as a trust anchor holds it.
    pub(super) fn read_content(content: &'a [u8]) -> Option<Self> {
        let (after, algorithm) = element(content, Tag::Sequence)?;
        let (end, key) = bits(after)?;
        end.is_empty().then_some(Self { algorithm, key })
    }

    /// Verifies a TLS 1.2 handshake: its scheme stands for one of several algorithms (RFC 5246, section 7.4.8).
    pub(super) fn verify_tls12(
        &self,
        message: &[u8],
        signed: &DigitallySignedStruct,
    ) -> Result<(), CertificateError> {
        let mapping = super::crypto::provider()
            .signature_verification_algorithms
            .mapping;
        let fitting = mapping
            .iter()
            .filter(|(scheme, _)| *scheme == signed.scheme)
            .flat_map(|(_, algorithms)| algorithms.iter().copied());
        self.verify(fitting, message, signed.signature())
    }

    /// Verifies with the one of these that is for such a key.
    fn verify(
        &self,
        mut algorithms: impl Iterator<Item = &'static dyn SignatureVerificationAlgorithm>,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), CertificateError> {
        let fitting = algorithms.find(|known| known.public_key_alg_id().as_ref() == self.algorithm);
        let Some(algorithm) = fitting else {
            return Err(CertificateError::Other(rustls::OtherError(Arc::new(Unsupported))));
        };
        algorithm
            .verify_signature(self.key, message, signature)
            .map_err(|_| CertificateError::BadSignature)
    }
}

/// A signature by an algorithm that is not supported: SHA-1, DSA, a curve that rustls does not know.
#[derive(thiserror::Error)]
#[error("its signature algorithm is not supported (SHA-1 is not: sign it again with SHA-256)")]
struct Unsupported;

/// rustls shows errors of others by their `Debug`.
impl fmt::Debug for Unsupported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The content of the next element, which has this tag, and what follows it.
fn element(der: &[u8], tag: Tag) -> Option<(&[u8], &[u8])> {
    let (rest, any) = Any::from_der(der).ok()?;
    (any.header.tag() == tag).then_some((rest, any.data))
}

/// The next element, a bit string of whole bytes, and what follows it.
fn bits(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, content) = element(der, Tag::BitString)?;
    let (unused, bytes) = content.split_first()?;
    (*unused == 0).then_some((rest, bytes))
}
