//! One tunnel: CONNECT, its answer, and the socket back.

use std::fmt;
use std::future::Future;
use std::pin::pin;

use http::uri::Authority;
use http::{HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::client::conn::http1;
use hyper::upgrade::Parts;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::runtime::body::{self, Body};

use super::super::cause::Cause;
use super::super::error::chain;

/// More than any proxy has to say about a tunnel.
const LARGEST_HEAD: usize = 16 * 1024;

/// Why there is no tunnel.
#[derive(Debug)]
pub(in super::super) enum TunnelError {
    /// The proxy has answered, but with this.
    Refused(StatusCode),
    /// It has not answered, or not with HTTP.
    Broken(hyper::Error),
    /// Bytes came through the tunnel before anything was sent into it: no TLS server does that.
    Early,
    /// The target is not a host and a port.
    Target,
    /// A SOCKS proxy does not lead there.
    Socks(tokio_socks::Error),
}

/// Makes the proxy at the other end of `tcp` connect to `target`, and gives the socket back: from then on it leads there.
///
/// # Errors
/// Every answer but 2xx. The socket is closed then.
pub(in super::super) async fn tunnel(
    tcp: TcpStream,
    target: &str,
    authorization: Option<HeaderValue>,
) -> Result<TcpStream, TunnelError> {
    let request = connect(target, authorization).ok_or(TunnelError::Target)?;
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(LARGEST_HEAD)
        .handshake(TokioIo::new(tcp))
        .await
        .map_err(TunnelError::Broken)?;
    let exchange = async move {
        let response = sender.send_request(request).await.map_err(TunnelError::Broken)?;
        if !response.status().is_success() {
            return Err(TunnelError::Refused(response.status()));
        }
        hyper::upgrade::on(response).await.map_err(TunnelError::Broken)
    };
    let upgraded = driven(exchange, connection.with_upgrades()).await?;
    // What goes in comes out: it is the stream that the handshake got.
    let parts = upgraded
        .downcast::<TokioIo<TcpStream>>()
        .map_err(|_| TunnelError::Target)?;
    let Parts { io, read_buf, .. } = parts;
    if !read_buf.is_empty() {
        return Err(TunnelError::Early);
    }
    Ok(io.into_inner())
}

fn connect(target: &str, authorization: Option<HeaderValue>) -> Option<Request<Body>> {
    let authority: Authority = target.parse().ok()?;
    let mut request = Request::new(body::empty());
    *request.method_mut() = Method::CONNECT;
    *request.uri_mut() = Uri::from(authority);
    let headers = request.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(target).ok()?);
    if let Some(authorization) = authorization {
        headers.insert(header::PROXY_AUTHORIZATION, authorization);
    }
    Some(request)
}

/// What comes of the exchange, while the connection that it needs is driven.
async fn driven<T>(exchange: impl Future<Output = T>, connection: impl Future) -> T {
    let (mut exchange, mut connection) = (pin!(exchange), pin!(connection));
    tokio::select! {
        done = exchange.as_mut() => done,
        // How it ended is told to the exchange.
        _ended = connection.as_mut() => exchange.await,
    }
}

impl TunnelError {
    pub(in super::super) fn cause(&self) -> Cause {
        match self {
            Self::Refused(status) => Cause::ProxyRefused(status.as_u16()),
            Self::Broken(_) | Self::Early | Self::Target | Self::Socks(_) => Cause::ProxyBroken,
        }
    }
}

impl fmt::Display for TunnelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(status) => {
                write!(f, "it answered {status}")?;
                if *status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
                    f.write_str(" (see upstream.proxyCredentialsFile)")?;
                }
                Ok(())
            }
            Self::Broken(error) => write!(f, "it did not answer CONNECT: {}", chain(error)),
            Self::Early => f.write_str("it sent something into the tunnel itself"),
            Self::Target => f.write_str("no tunnel can be asked for"),
            Self::Socks(
                error @ (tokio_socks::Error::PasswordAuthFailure(_)
                | tokio_socks::Error::NoAcceptableAuthMethods),
            ) => {
                write!(f, "{error} (see upstream.proxyCredentialsFile)")
            }
            Self::Socks(error) => write!(f, "{error}"),
        }
    }
}
