//! The serving side: a configuration from what is loaded, the handshake, and the certificate of the client.
//!
//! A client certificate is asked for and never required; one that is presented must verify, or the handshake fails.
//! There is no session resumption: a resumed session would carry a client certificate past its expiry and past the
//! removal of its authority, and Kubernetes clients do not resume (client-go sets no session cache).
//!
//! A listener builds a new [`ServerTls`] for each new [`ServerMaterial`]; connections keep the one they began with, and
//! what their client showed, so that it can be judged again ([`shown_chain`]).

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, Error, InvalidMessage, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::certificate::CertificateInfo;
use super::client::Alpn;
use super::handshake::{TlsConfigError, is_closed, tls_error};
use super::material::ServerMaterial;
use super::time::TrustedTime;
use super::verify::ClientVerifier;

/// A connection after its handshake.
pub type ServerStream<IO = TcpStream> = tokio_rustls::server::TlsStream<IO>;

/// A serving configuration; cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// TLS 1.2 and 1.3, ALPN `h2` and `http/1.1`; client certificates are judged at `time`.
    pub fn new(material: &ServerMaterial, time: &Arc<TrustedTime>) -> Result<Self, TlsConfigError> {
        let provider = super::crypto::provider();
        time.issued(material.leaf().not_before);
        let verifier = Arc::new(ClientVerifier::new(material.clients(), time));
        let mut config = ServerConfig::builder_with_details(provider, Arc::clone(time) as _)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(
                &material.serving().certified,
            ))));
        config.alpn_protocols = vec![Alpn::H2.wire().to_vec(), Alpn::Http1.wire().to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(config),
        })
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls").finish_non_exhaustive()
    }
}

/// The verified leaf of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The last CN of the subject; `None` when there is none or it is empty.
    pub common_name: Option<String>,
    /// All O of the subject, in the order of the certificate.
    pub organizations: Vec<String>,
    /// SHA-256 of the DER, lower-case hex.
    pub fingerprint: String,
    /// Valid up to and including this moment.
    pub not_after: SystemTime,
}

/// Why a handshake failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandshakeErrorKind {
    /// The first bytes are no TLS: plain HTTP, a scanner.
    NotTls,
    /// The client's certificate does not verify.
    BadCertificate,
    /// The client refused us with an alert: it does not trust our certificate.
    Refused,
    /// No common protocol version, cipher suite or ALPN.
    Incompatible,
    /// The client went away.
    Closed,
    /// TLS, but against the protocol.
    Protocol,
    /// The socket failed.
    Io,
}

impl HandshakeErrorKind {
    /// For log fields and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotTls => "not_tls",
            Self::BadCertificate => "bad_certificate",
            Self::Refused => "refused",
            Self::Incompatible => "incompatible",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Io => "io",
        }
    }

    fn of(error: &io::Error) -> Self {
        match tls_error(error) {
            None if is_closed(error) => Self::Closed,
            None => Self::Io,
            Some(Error::InvalidMessage(
                InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion,
            )) => Self::NotTls,
            Some(Error::InvalidCertificate(_)) => Self::BadCertificate,
            Some(Error::AlertReceived(AlertDescription::CloseNotify | AlertDescription::UserCanceled)) => {
                Self::Closed
            }
            Some(
                Error::PeerIncompatible(_)
                | Error::NoApplicationProtocol
                | Error::AlertReceived(AlertDescription::ProtocolVersion),
            ) => Self::Incompatible,
            Some(Error::AlertReceived(_)) => Self::Refused,
            Some(_) => Self::Protocol,
        }
    }
}

/// A handshake that failed.
#[derive(Debug, thiserror::Error)]
#[error("TLS handshake failed ({}): {source}", kind.as_str())]
pub struct HandshakeError {
    /// Which kind, to be counted.
    pub kind: HandshakeErrorKind,
    /// What TLS or the socket said.
    pub source: io::Error,
}

/// Shakes hands. The time limit is the caller's; dropping the future drops the connection.
pub async fn accept<IO>(stream: IO, tls: &ServerTls) -> Result<ServerStream<IO>, HandshakeError>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    TlsAcceptor::from(Arc::clone(&tls.config))
        .accept(stream)
        .await
        .map_err(|source| HandshakeError {
            kind: HandshakeErrorKind::of(&source),
            source,
        })
}

/// The protocol that was agreed on; `None` if the client did not ask for one, which means HTTP/1.1.
pub fn alpn<IO>(stream: &ServerStream<IO>) -> Option<Alpn> {
    stream.get_ref().1.alpn_protocol().and_then(Alpn::from_wire)
}

/// The verified certificate of the client; `None` if it presented none.
pub fn peer_certificate<IO>(stream: &ServerStream<IO>) -> Option<PeerCertificate> {
    let leaf = stream.get_ref().1.peer_certificates()?.first()?;
    // The verifier has parsed the same bytes: it cannot fail here.
    let info = CertificateInfo::parse(leaf).ok()?;
    Some(PeerCertificate {
        common_name: info.common_name,
        organizations: info.organizations,
        fingerprint: info.fingerprint,
        not_after: info.not_after,
    })
}

#[cfg(test)]
mod tests;
