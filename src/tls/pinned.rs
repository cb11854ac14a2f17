//! A certificate that stands in the bundle itself: its holder is trusted without a chain, as Go's verifier does.
//!
//! People give a server's own leaf as its CA, or a self-signed certificate that says it is an authority; webpki refuses the
//! first for want of an issuer and the second as a leaf. Its time, its usage and its names count as ever.

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::{CertificateError, Error};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::FromDer as _;

use super::certificate::system_time;
use super::pem::Roots;
use super::time::unix;

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usage {
    Client,
    Server,
}

/// A certificate that was found in a bundle.
pub(super) struct Pinned<'a> {
    parsed: X509Certificate<'a>,
}

impl<'a> Pinned<'a> {
    /// `None` if the bundle does not hold these very bytes.
    pub(super) fn find(leaf: &'a CertificateDer<'_>, roots: &Roots) -> Option<Self> {
        if !roots.holds(leaf) {
            return None;
        }
        let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
        Some(Self { parsed })
    }

    /// Whether it may be used so at `at`.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn verify(&self, usage: Usage, at: UnixTime) -> Result<(), Error> {
        let validity = self.parsed.validity();
        if at < unix(system_time(validity.not_before)) {
            return Err(CertificateError::NotValidYet.into());
        }
        if at > unix(system_time(validity.not_after)) {
            return Err(CertificateError::Expired.into());
        }
        for extension in self.parsed.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::ExtendedKeyUsage(stated) => {
                    let is_for = stated.any
                        || match usage {
                            Usage::Client => stated.client_auth,
                            Usage::Server => stated.server_auth,
                        };
                    if !is_for {
                        return Err(CertificateError::InvalidPurpose.into());
                    }
                }
                ParsedExtension::UnsupportedExtension { .. } | ParsedExtension::ParseError { .. }
                    if extension.critical =>
                {
                    return Err(CertificateError::UnhandledCriticalExtension.into());
                }
                _ => {}
            }
        }
        Ok(())
    }
}
