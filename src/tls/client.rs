//! The upstream side: a connector from the authorities and, for a configured common name, its identity.
//!
//! Sessions are resumed within one [`ClientTls`], and so never across identities: a new leaf or CA is a new connector.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use rustls::pki_types;
use rustls::sign::SingleCertAndKey;
use rustls::{AlertDescription, CertificateError, ClientConfig, Error, InvalidMessage};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::handshake::{TlsConfigError, is_closed, tls_error};
use super::pem::{ClientIdentity, Roots};
use super::time::TrustedTime;
use super::verify::UpstreamVerifier;

/// A connection after its handshake.
pub type ClientStream<IO = TcpStream> = tokio_rustls::client::TlsStream<IO>;

/// The HTTP version that a connection is for, or the best that a connector offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `h2`
    H2,
    /// `http/1.1`
    Http1,
}

impl Alpn {
    /// For log fields and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Http1 => "http/1.1",
        }
    }

    pub(super) fn wire(self) -> &'static [u8] {
        self.as_str().as_bytes()
    }

    pub(super) fn from_wire(wire: &[u8]) -> Option<Self> {
        [Self::H2, Self::Http1]
            .into_iter()
            .find(|alpn| alpn.wire() == wire)
    }
}

/// The name that a server's certificate must carry: a DNS name or an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerName(pki_types::ServerName<'static>);

/// Neither a DNS name nor an IP address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a DNS name nor an IP address")]
pub struct ServerNameError(String);

impl ServerName {
    pub(super) fn as_rustls(&self) -> &pki_types::ServerName<'static> {
        &self.0
    }
}

impl FromStr for ServerName {
    type Err = ServerNameError;

    /// Takes the host of a URL as it is, an IPv6 address with or without its brackets.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ServerNameError(text.to_owned());
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let address: std::net::Ipv6Addr = inner.parse().map_err(|_| error())?;
            return Ok(IpAddr::V6(address).into());
        }
        pki_types::ServerName::try_from(text.to_owned())
            .map(Self)
            .map_err(|_| error())
    }
}

impl From<IpAddr> for ServerName {
    fn from(address: IpAddr) -> Self {
        Self(pki_types::ServerName::from(address))
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_str())
    }
}

/// Why there is no connection to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TlsConnectErrorKind {
    /// Its certificate is not by one of the configured authorities.
    UntrustedServer,
    /// Its certificate is for other names.
    WrongServerName,
    /// Its certificate's time is over or has not come.
    ServerCertificateTime,
    /// Its certificate is bad in another way.
    BadServerCertificate,
    /// It refused with an alert: often our own certificate. With TLS 1.3 that alert may come only at the first read.
    Refused,
    /// No common protocol version, cipher suite or ALPN.
    Incompatible,
    /// What answers does not speak TLS.
    NotTls,
    /// It went away.
    Closed,
    /// TLS, but against the protocol.
    Protocol,
    /// The socket failed.
    Io,
}

impl TlsConnectErrorKind {
    /// For log fields and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::UntrustedServer => "untrusted_server",
            Self::WrongServerName => "wrong_server_name",
            Self::ServerCertificateTime => "server_certificate_time",
            Self::BadServerCertificate => "bad_server_certificate",
            Self::Refused => "refused",
            Self::Incompatible => "incompatible",
            Self::NotTls => "not_tls",
            Self::Closed => "closed",
            Self::Protocol => "protocol",
            Self::Io => "io",
        }
    }

    /// What TLS said, if that is among the causes of an error.
    pub fn within(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(cause) = next {
            if let Some(io) = cause.downcast_ref::<io::Error>()
                && tls_error(io).is_some()
            {
                return Some(Self::of(io));
            }
            next = cause.source();
        }
        None
    }

    fn of(error: &io::Error) -> Self {
        match tls_error(error) {
            None if is_closed(error) => Self::Closed,
            None => Self::Io,
            Some(Error::InvalidCertificate(error)) => match error {
                // Another authority of the same name, as kubeadm gives to that of every cluster, is a bad signature.
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UntrustedServer,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    Self::WrongServerName
                }
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::ServerCertificateTime,
                _ => Self::BadServerCertificate,
            },
            Some(
                Error::PeerIncompatible(_)
                | Error::NoApplicationProtocol
                | Error::AlertReceived(
                    AlertDescription::NoApplicationProtocol | AlertDescription::ProtocolVersion,
                ),
            ) => Self::Incompatible,
            Some(Error::AlertReceived(_)) => Self::Refused,
            Some(Error::InvalidMessage(InvalidMessage::InvalidContentType)) => Self::NotTls,
            Some(_) => Self::Protocol,
        }
    }
}

/// A connection that did not come about.
#[derive(Debug, thiserror::Error)]
#[error("TLS to {server} failed ({}): {source}", kind.as_str())]
pub struct TlsConnectError {
    /// Which kind, to be counted.
    pub kind: TlsConnectErrorKind,
    /// The name that was asked for.
    pub server: String,
    /// What TLS or the socket said.
    pub source: io::Error,
}

/// A connector; cheap to clone, clones share their sessions.
#[derive(Clone)]
pub struct ClientTls {
    config: Arc<ClientConfig>,
    alpn: Alpn,
}

impl ClientTls {
    /// Without `roots` nothing can be trusted: [`TlsConfigError::NoCa`]. With an `identity` its certificate is
    /// presented to every server; without one never any. Server certificates are judged at `time`, the last contact
    /// at the earliest: a clock that restarted in 1970 does not keep the node from its cloud.
    pub fn new(
        roots: Option<&Roots>,
        identity: Option<&ClientIdentity>,
        alpn: Alpn,
        time: &Arc<TrustedTime>,
    ) -> Result<Self, TlsConfigError> {
        let roots = roots.ok_or(TlsConfigError::NoCa)?;
        let builder = ClientConfig::builder_with_details(super::crypto::provider(), Arc::clone(time) as _)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(UpstreamVerifier::new(roots, time)?));
        let mut config = match identity {
            Some(identity) => {
                time.issued(identity.leaf().not_before);
                let key = Arc::clone(&identity.pair().certified);
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key)))
            }
            None => builder.with_no_client_auth(),
        };
        let offered: &[Alpn] = match alpn {
            Alpn::H2 => &[Alpn::H2, Alpn::Http1],
            Alpn::Http1 => &[Alpn::Http1],
        };
        config.alpn_protocols = offered.iter().map(|alpn| alpn.wire().to_vec()).collect();
        Ok(Self {
            config: Arc::new(config),
            alpn,
        })
    }

    /// Shakes hands over an open connection. The time limit is the caller's. [`agreed`] says for which HTTP version.
    pub async fn connect<IO>(
        &self,
        server: &ServerName,
        stream: IO,
    ) -> Result<ClientStream<IO>, TlsConnectError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let failed = |kind, source| TlsConnectError {
            kind,
            server: server.to_string(),
            source,
        };
        TlsConnector::from(Arc::clone(&self.config))
            .connect(server.0.clone(), stream)
            .await
            .map_err(|source| failed(TlsConnectErrorKind::of(&source), source))
    }
}

/// What the server chose. One that knows no ALPN is taken to speak HTTP/1.1.
pub fn agreed<IO>(stream: &ClientStream<IO>) -> Alpn {
    let chosen = stream.get_ref().1.alpn_protocol();
    chosen.and_then(Alpn::from_wire).unwrap_or(Alpn::Http1)
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientTls")
            .field("alpn", &self.alpn)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_dns_names_or_addresses() {
        for (text, shown) in [
            ("203.0.113.10", "203.0.113.10"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("kubernetes.default.svc", "kubernetes.default.svc"),
            ("edge-1", "edge-1"),
        ] {
            assert_eq!(text.parse::<ServerName>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "a b",
            "[203.0.113.10]",
            "[::1",
            "::1]",
            "host:6443",
            "a..b",
            "https://a",
        ] {
            assert!(text.parse::<ServerName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn without_authorities_there_is_no_connector() {
        let error = ClientTls::new(None, None, Alpn::H2, &TrustedTime::new()).unwrap_err();
        assert!(matches!(error, TlsConfigError::NoCa));
        assert_eq!(error.to_string(), "no CA");
    }

    proptest! {
        #[test]
        fn any_text_as_a_name_is_an_answer_not_a_panic(text in any::<String>()) {
            let _ = text.parse::<ServerName>();
        }
    }
}
