//! Asks the admin listener of a running edgehold: what `edgehold status`, `certs` and `cache` are made of.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{self, Either};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::config::AdminAddress;
use crate::runtime::body;

/// For a whole answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer is that about a full cache.
const LARGEST: usize = 32 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody is there, or may be asked by this user.
    #[error("no answer at {address}: {source}")]
    Away {
        /// Where.
        address: String,
        /// What the socket said.
        source: io::Error,
    },
    /// The connection broke, or the answer is not one.
    #[error("no answer at {address}: {said}")]
    Broken {
        /// Where.
        address: String,
        /// What happened.
        said: String,
    },
    /// An answer, but not a good one.
    #[error("{address} answers {status}: {said}")]
    Refused {
        /// Where.
        address: String,
        /// Of the answer.
        status: StatusCode,
        /// Its text.
        said: String,
    },
}

/// Gets `path`.
///
/// # Errors
/// See [`AskError`].
pub async fn get(address: &AdminAddress, path: &str, token: Option<&str>) -> Result<Bytes, AskError> {
    let asking = async {
        let away = |source| AskError::Away {
            address: address.to_string(),
            source,
        };
        let asked = match address {
            AdminAddress::Unix(socket) => {
                let stream = UnixStream::connect(socket).await.map_err(away)?;
                exchange(stream, "localhost", path, token).await
            }
            AdminAddress::Tcp(tcp) => {
                let stream = TcpStream::connect(tcp).await.map_err(away)?;
                exchange(stream, &tcp.to_string(), path, token).await
            }
        };
        let (status, body) = asked.map_err(|said| AskError::Broken {
            address: address.to_string(),
            said,
        })?;
        if status.is_success() {
            return Ok(body);
        }
        Err(AskError::Refused {
            address: address.to_string(),
            status,
            said: String::from_utf8_lossy(&body).trim().to_owned(),
        })
    };
    let answered = tokio::time::timeout(TIMEOUT, asking).await;
    answered.unwrap_or_else(|_| {
        Err(AskError::Broken {
            address: address.to_string(),
            said: format!("nothing in {TIMEOUT:?}"),
        })
    })
}

async fn exchange<S>(
    stream: S,
    host: &str,
    path: &str,
    token: Option<&str>,
) -> Result<(StatusCode, Bytes), String>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let said = |error: hyper::Error| error.to_string();
    let mut request = Request::get(path).header(header::HOST, host);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    let request = request.body(body::empty()).map_err(|error| error.to_string())?;
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let asking = Box::pin(async move {
        let response = sender.send_request(request).await.map_err(said)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), LARGEST).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, body))
    });
    match future::select(asking, Box::pin(driver)).await {
        Either::Left((answer, _)) => answer,
        // How it ended is told to whoever asks.
        Either::Right((_ended, asking)) => asking.await,
    }
}
