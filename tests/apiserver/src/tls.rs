//! TLS as kube-apiserver does it: a client certificate is asked for and only judged when a request comes.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::FromDer;

use crate::auth::Certificate;
use crate::options::Options;
use crate::pki::{Pair, Pki};

/// Server side TLS of one stand-in.
#[derive(Debug)]
pub(crate) struct Tls {
    pub config: Arc<ServerConfig>,
    strict: Arc<dyn ClientCertVerifier>,
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

impl Tls {
    pub(crate) fn new(pki: &Pki, serving: &Pair, options: &Options) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(pki.ca_der()).expect("own CA");
        let strict = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
            .allow_unauthenticated()
            .build()
            .expect("verifier");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(Arc::new(Lenient {
                strict: strict.clone(),
                mandatory: options.demand_certificate,
            }))
            .with_single_cert(serving.chain(), serving.key())
            .expect("serving pair");
        config.alpn_protocols = options.alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Self {
            config: Arc::new(config),
            strict,
        }
    }

    /// What the certificates of a finished handshake prove.
    pub(crate) fn judge(&self, peer: Option<&[CertificateDer<'_>]>) -> Certificate {
        let Some((leaf, chain)) = peer.and_then(<[_]>::split_first) else {
            return Certificate::None;
        };
        let (cn, orgs) = subject(leaf);
        match self.strict.verify_client_cert(leaf, chain, UnixTime::now()) {
            Ok(_) => Certificate::Verified { cn, orgs },
            Err(_) => Certificate::Refused { cn },
        }
    }
}

fn subject(leaf: &CertificateDer<'_>) -> (Option<String>, Vec<String>) {
    let Ok((_, cert)) = x509_parser::certificate::X509Certificate::from_der(leaf) else {
        return (None, Vec::new());
    };
    let subject = cert.subject();
    let cn = subject
        .iter_common_name()
        .filter_map(|a| a.as_str().ok())
        .find(|s| !s.is_empty());
    let orgs = subject
        .iter_organization()
        .filter_map(|a| a.as_str().ok())
        .map(str::to_owned)
        .collect();
    (cn.map(str::to_owned), orgs)
}

/// Lets every certificate through whose key the client holds.
#[derive(Debug)]
struct Lenient {
    strict: Arc<dyn ClientCertVerifier>,
    mandatory: bool,
}

impl ClientCertVerifier for Lenient {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.strict.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}
