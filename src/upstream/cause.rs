//! Why a server does not answer: one closed list, made where the error arises and put into words only here.
//!
//! The words name neither a proxy nor a credential: clients of every kind get to read them.

use std::error::Error;
use std::fmt;
use std::io;

use rustix::io::Errno;

use crate::tls::TlsConnectErrorKind;

use super::failure::Failure;

/// Why a server does not answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Its name leads nowhere.
    Name,
    /// Nobody listens there.
    Refused,
    /// No route leads there.
    Unreachable,
    /// No TCP connection, for another reason.
    Connect,
    /// Nothing came in time: no connection, handshake or answer.
    Late,
    /// No TLS session.
    Tls(TlsConnectErrorKind),
    /// No connection to the proxy on the way.
    ProxyAway(Reach),
    /// The proxy on the way answered with this status.
    ProxyRefused(u16),
    /// The proxy on the way does not speak HTTP, or its credentials cannot be read.
    ProxyBroken,
    /// Something on the way answered in its place; the status, if there was one.
    Gateway(Option<u16>),
    /// It answered its health check, with this status.
    NotReady(u16),
    /// The connection broke.
    Broken,
    /// Nothing arrives on a connection any more.
    Silent,
    /// The authorities that it is verified against, or the pair to show it, have not been loaded.
    NotLoaded,
    /// This node has no descriptor, memory or port left.
    Shortage,
}

/// What is wrong with a proxy that cannot be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reach {
    /// Its name leads nowhere.
    Name,
    /// Nobody listens there.
    Refused,
    /// Anything else.
    Other,
}

impl Cause {
    /// A short name for metric labels and JSON, from a closed list.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Name => "dns",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Connect => "connect",
            Self::Late => "timeout",
            Self::Tls(kind) => match kind {
                TlsConnectErrorKind::UntrustedServer => "tls_untrusted_server",
                TlsConnectErrorKind::WrongServerName => "tls_wrong_server_name",
                TlsConnectErrorKind::ServerCertificateTime => "tls_server_certificate_time",
                TlsConnectErrorKind::BadServerCertificate => "tls_bad_server_certificate",
                TlsConnectErrorKind::Refused => "tls_refused",
                TlsConnectErrorKind::Incompatible => "tls_incompatible",
                TlsConnectErrorKind::NotTls => "tls_not_tls",
                TlsConnectErrorKind::Closed => "tls_closed",
                TlsConnectErrorKind::Protocol => "tls_protocol",
                TlsConnectErrorKind::Io => "tls_io",
            },
            Self::ProxyAway(_) => "proxy_away",
            Self::ProxyRefused(_) => "proxy_refused",
            Self::ProxyBroken => "proxy_broken",
            Self::Gateway(_) => "gateway",
            Self::NotReady(_) => "not_ready",
            Self::Broken => "broken",
            Self::Silent => "silent",
            Self::NotLoaded => "not_loaded",
            Self::Shortage => "shortage",
        }
    }

    /// Why there is no TCP connection.
    pub(super) fn of_connecting(error: &io::Error) -> Self {
        if Failure::of_connecting(error) == Failure::Shortage {
            return Self::Shortage;
        }
        let is = |errnos: &[Errno]| {
            error
                .raw_os_error()
                .is_some_and(|code| errnos.iter().any(|errno| errno.raw_os_error() == code))
        };
        match error.kind() {
            // What happy_eyeballs says of a name without addresses.
            io::ErrorKind::NotFound => Self::Name,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::TimedOut => Self::Late,
            _ if is(&[
                Errno::NETUNREACH,
                Errno::HOSTUNREACH,
                Errno::NETDOWN,
                Errno::HOSTDOWN,
            ]) =>
            {
                Self::Unreachable
            }
            _ => Self::Connect,
        }
    }

    /// The same of the proxy on the way.
    pub(super) fn of_proxy(self) -> Self {
        match self {
            Self::Shortage => self,
            Self::Name => Self::ProxyAway(Reach::Name),
            Self::Refused => Self::ProxyAway(Reach::Refused),
            _ => Self::ProxyAway(Reach::Other),
        }
    }

    /// Why a connection ended: with TLS 1.3 a server says only after the handshake that it does not take a certificate.
    pub(super) fn of_breaking(error: &(dyn Error + 'static)) -> Self {
        match TlsConnectErrorKind::within(error) {
            Some(kind) => Self::Tls(kind),
            None => Self::Broken,
        }
    }
}

impl From<Failure> for Cause {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Connect => Self::Connect,
            Failure::Tls => Self::Tls(TlsConnectErrorKind::Protocol),
            Failure::NoCredentials => Self::NotLoaded,
            Failure::Broken => Self::Broken,
            Failure::Silent => Self::Silent,
            Failure::Timeout => Self::Late,
            Failure::Gateway => Self::Gateway(None),
            Failure::Shortage | Failure::OverShare => Self::Shortage,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "its name cannot be looked up (DNS)",
            Self::Refused => "connection refused",
            Self::Unreachable => "no route leads there",
            Self::Connect => "no connection comes about",
            Self::Late => "no answer in time",
            Self::Tls(kind) => match kind {
                TlsConnectErrorKind::UntrustedServer => {
                    "TLS: its certificate is not by a configured authority"
                }
                TlsConnectErrorKind::WrongServerName => "TLS: its certificate is for other names",
                TlsConnectErrorKind::ServerCertificateTime => {
                    "TLS: its certificate has expired or is not valid yet, by this node's clock"
                }
                TlsConnectErrorKind::BadServerCertificate => "TLS: its certificate cannot be used",
                TlsConnectErrorKind::Refused => "TLS: it refuses what this node shows",
                TlsConnectErrorKind::Incompatible => "TLS: no common version, cipher suite or protocol",
                TlsConnectErrorKind::NotTls => "TLS: what answers does not speak TLS",
                TlsConnectErrorKind::Closed => "TLS: it hung up in the handshake",
                TlsConnectErrorKind::Protocol => "TLS: the handshake failed",
                TlsConnectErrorKind::Io => "TLS: the connection failed in the handshake",
            },
            Self::ProxyAway(Reach::Name) => "the name of the proxy on the way cannot be looked up (DNS)",
            Self::ProxyAway(Reach::Refused) => "the proxy on the way refuses connections",
            Self::ProxyAway(Reach::Other) => "the proxy on the way cannot be reached",
            Self::ProxyRefused(status) => {
                return write!(f, "the proxy on the way answered {status}");
            }
            Self::ProxyBroken => "the proxy on the way makes no tunnel",
            Self::Gateway(None) => "something on the way answers in its place",
            Self::Gateway(Some(status)) => {
                return write!(f, "something on the way answered {status} in its place");
            }
            Self::NotReady(status) => return write!(f, "its health check says {status}"),
            Self::Broken => "the connection broke",
            Self::Silent => "nothing arrives any more",
            Self::NotLoaded => "the upstream CA has not been loaded",
            Self::Shortage => "this node has no descriptor, memory or port left for a connection",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_socket_says_is_told_apart() {
        for (errno, expected) in [
            (Errno::CONNREFUSED, Cause::Refused),
            (Errno::NETUNREACH, Cause::Unreachable),
            (Errno::HOSTUNREACH, Cause::Unreachable),
            (Errno::TIMEDOUT, Cause::Late),
            (Errno::MFILE, Cause::Shortage),
            (Errno::PERM, Cause::Connect),
        ] {
            assert_eq!(Cause::of_connecting(&errno.into()), expected, "{errno}");
        }
        let nowhere = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        assert_eq!(Cause::of_connecting(&nowhere), Cause::Name);
    }

    #[test]
    fn of_a_proxy_it_is_said_that_it_is_the_proxy() {
        for (cause, expected) in [
            (
                Cause::Name,
                "the name of the proxy on the way cannot be looked up (DNS)",
            ),
            (Cause::Refused, "the proxy on the way refuses connections"),
            (Cause::Unreachable, "the proxy on the way cannot be reached"),
        ] {
            assert_eq!(cause.of_proxy().to_string(), expected);
        }
        assert_eq!(Cause::Shortage.of_proxy(), Cause::Shortage);
    }

    #[test]
    fn words_fit_into_a_warning_header() {
        let all = [
            Cause::Name,
            Cause::Tls(TlsConnectErrorKind::ServerCertificateTime),
            Cause::ProxyRefused(407),
            Cause::Gateway(Some(502)),
            Cause::NotReady(500),
            Cause::Shortage,
        ];
        for cause in all {
            let text = cause.to_string();
            let fits = |c: char| (c == ' ' || c.is_ascii_graphic()) && c != '"' && c != '\\';
            assert!(text.chars().all(fits), "{text}");
        }
    }
}
