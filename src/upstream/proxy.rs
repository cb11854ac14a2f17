//! The proxy on the way to the cloud: where it is, what it wants to be told, and what goes past it.
//!
//! Invariants: what it is told about itself (its credentials) shows in no log, error or `Debug`; of what goes through
//! it, it learns the server's name and port and nothing more, for the rest is TLS.

mod bypass;
mod credentials;
mod socks;
mod tunnel;

use std::fmt;

use tokio::net::TcpStream;

use super::endpoint::Endpoint;

use self::tunnel::tunnel;

pub use self::bypass::Bypass;
pub use self::credentials::{Credentials, Secret};
pub(super) use self::tunnel::TunnelError;

/// A proxy that is reached without TLS and leads to a server by name or address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamProxy {
    /// How it is spoken to.
    pub scheme: ProxyScheme,
    /// Host name or IP address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `None`: it asks for none.
    pub credentials: Option<Credentials>,
    /// The servers that are reached without it.
    pub bypass: Vec<Bypass>,
}

/// How a proxy is spoken to. A server's name is always looked up by the proxy, as client-go has it, so that `socks5` and
/// `socks5h` mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyScheme {
    /// CONNECT (RFC 9110 section 9.3.6), with `Proxy-Authorization: Basic`.
    Http,
    /// SOCKS version 5 (RFC 1928), with user name and password (RFC 1929).
    Socks5,
    /// The same, as some write it.
    Socks5h,
}

impl ProxyScheme {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Http, Self::Socks5, Self::Socks5h];

    /// As in a URL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Socks5 => "socks5",
            Self::Socks5h => "socks5h",
        }
    }
}

impl UpstreamProxy {
    /// Whether the way to this server (its name in lower case or its address, without brackets) leads through it.
    pub fn serves(&self, host: &str, port: u16) -> bool {
        !self.bypass.iter().any(|bypass| bypass.covers(host, port))
    }

    /// Makes the proxy at the other end of `tcp` lead to the server, and gives the socket back: from then on it is the
    /// server's. `pair` is what its [`Credentials`] give.
    pub(super) async fn lead(
        &self,
        tcp: TcpStream,
        server: &Endpoint,
        pair: Option<Secret>,
    ) -> Result<TcpStream, TunnelError> {
        match self.scheme {
            ProxyScheme::Http => {
                let authorization = pair.map(|pair| pair.basic()).transpose()?;
                tunnel(tcp, &server.to_string(), authorization).await
            }
            ProxyScheme::Socks5 | ProxyScheme::Socks5h => socks::lead(tcp, server, pair).await,
        }
    }
}

/// `scheme://host:port`, for logs and errors.
impl fmt::Display for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.as_str();
        if self.host.contains(':') {
            write!(f, "{scheme}://[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{scheme}://{}:{}", self.host, self.port)
        }
    }
}
