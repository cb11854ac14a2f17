//! Who is believed in a handshake: webpki's verdict, and the moment at which it is asked for.
//!
//! Whom to trust is [`super::trust`]'s. Only where it refuses because of the time is there a second look, at another moment:
//! [`TrustedTime`] says whether there is one.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::certificate::CertificateInfo;
use super::handshake::TlsConfigError;
use super::pem::Roots;
use super::time::{TrustedTime, unix};
use super::trust::{ClientTrust, ServerTrust};
use super::v1::V1Certificate;

/// Verifies clients, and during an outage gives an expired certificate a second look at the last contact.
#[derive(Debug)]
pub(super) struct ClientVerifier {
    trust: Arc<ClientTrust>,
    time: Arc<TrustedTime>,
}

impl ClientVerifier {
    /// A certificate is asked for and not required.
    pub(super) fn new(trust: &Arc<ClientTrust>, time: &Arc<TrustedTime>) -> Self {
        Self {
            trust: Arc::clone(trust),
            time: Arc::clone(time),
        }
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.trust.plain().offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.trust.plain().client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.trust.plain().root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .trust
            .verify(end_entity, intermediates, now)
            .or_else(|error| match self.time.second_look() {
                Some(then) if is_about_time(&error) => {
                    self.trust.verify(end_entity, intermediates, unix(then))
                }
                _ => Err(error),
            })?;
        // A certificate whose names we cannot read must not come to be taken for none.
        CertificateInfo::parse(end_entity).map_err(|_| Error::from(CertificateError::BadEncoding))?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match V1Certificate::read(cert) {
            Some(v1) => v1.verify_tls12(message, dss),
            None => self.trust.plain().verify_tls12_signature(message, cert, dss),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match V1Certificate::read(cert) {
            Some(v1) => v1.verify_tls13(message, dss),
            None => self.trust.plain().verify_tls13_signature(message, cert, dss),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.plain().supported_verify_schemes()
    }
}

/// Verifies apiservers, and remembers when the certificate that was shown is valid: an apiserver's clock is believed
/// within that. There is no second look: that a server's certificate has expired is no reason to hand tokens to whoever
/// holds its key.
#[derive(Debug)]
pub(super) struct UpstreamVerifier {
    trust: ServerTrust,
    time: Arc<TrustedTime>,
}

impl UpstreamVerifier {
    pub(super) fn new(roots: &Roots, time: &Arc<TrustedTime>) -> Result<Self, TlsConfigError> {
        Ok(Self {
            trust: ServerTrust::new(roots)?,
            time: Arc::clone(time),
        })
    }
}

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.trust.verify(end_entity, intermediates, server_name, now)?;
        if let Ok(leaf) = CertificateInfo::parse(end_entity) {
            self.time.shown(&leaf);
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.plain().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.trust.plain().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.plain().supported_verify_schemes()
    }
}

fn is_about_time(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}
