//! What both sides' configurations share: the error of building one, and the reading of rustls's errors.

use std::io;

/// Why a configuration cannot be built from what is loaded.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// No authority to verify the peer against: nothing may be trusted.
    #[error("no CA")]
    NoCa,
    /// The verifier refused the authorities.
    #[error("the CA bundle cannot be used: {0}")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// The provider does not support what is asked.
    #[error("the TLS configuration cannot be used: {0}")]
    Rustls(#[from] rustls::Error),
}

impl TlsConfigError {
    /// Whether a certificate was refused because its extended key usage does not allow what it is shown for.
    pub fn is_about_purpose(&self) -> bool {
        matches!(
            self,
            Self::Rustls(rustls::Error::InvalidCertificate(
                rustls::CertificateError::InvalidPurpose
                    | rustls::CertificateError::InvalidPurposeContext { .. }
            ))
        )
    }
}

/// The TLS error inside an I/O error, if it is one.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Whether the peer went away rather than anything having failed.
pub(super) fn is_closed(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}
