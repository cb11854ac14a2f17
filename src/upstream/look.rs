//! One look at a server, for people: the whole way once, and where on it something is wrong.
//!
//! For `edgehold check`. Keeps nothing, tries nothing again, and tells nobody but its caller.

use std::error::Error;
use std::io;
use std::time::Duration;

use futures_util::future::{self, Either};
use http::{HeaderMap, Request, StatusCode, header};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::runtime::body;
use crate::tls::{ClientTls, TlsConnectError};

use super::dial;
use super::endpoint::Endpoint;
use super::error::chain;
use super::eyeballs;
use super::gateway;
use super::proxy::{Credentials, UpstreamProxy};

/// What answered, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answered {
    /// The status of the answer.
    pub status: StatusCode,
    /// Who gave it.
    pub by: Author,
}

/// Who gave an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Author {
    /// An apiserver: its answers carry `Audit-Id`.
    Apiserver,
    /// One that does not say so: something on the way may have taken `Audit-Id` off.
    Unaudited,
    /// Something on the way there.
    Another,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Obstacle {
    /// The name leads nowhere.
    #[error("the name cannot be looked up: {0}")]
    Name(io::Error),
    /// No TCP connection.
    #[error("no connection: {0}")]
    Connect(io::Error),
    /// No way through the proxy; it tells nothing of its credentials.
    #[error("through the proxy {proxy}: {said}")]
    Proxy {
        /// Which one.
        proxy: String,
        /// What it or the system said.
        said: String,
    },
    /// No TLS session.
    #[error("{0}")]
    Tls(TlsConnectError),
    /// The connection broke after the handshake. With TLS 1.3 a refusal of our certificate comes here.
    #[error("it broke off: {0}")]
    Broken(String),
    /// It took too long.
    #[error("no {} in {limit:?}", stage.as_str())]
    Late {
        /// What was waited for.
        stage: Stage,
        /// For how long.
        limit: Duration,
    },
}

/// The parts of the way that may take too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The name, TCP, and the tunnel of a proxy.
    Connection,
    /// TLS.
    Handshake,
    /// The head of the answer.
    Answer,
}

impl Stage {
    /// For a person.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Handshake => "TLS handshake",
            Self::Answer => "answer",
        }
    }
}

/// How long each part of the way may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For TCP with a proxy's tunnel, and again for TLS.
    pub connect: Duration,
    /// For the head of the answer.
    pub answer: Duration,
}

/// The way that a look takes.
#[derive(Debug, Clone, Copy)]
pub struct Way<'w> {
    /// The server.
    pub endpoint: &'w Endpoint,
    /// What may lie between.
    pub proxy: Option<&'w UpstreamProxy>,
    /// The interface to go out by; `None`: as the node's routes say.
    pub interface: Option<&'w str>,
}

/// Asks for `path` over a connection of its own, through the proxy if the way leads there. Reads the file with the proxy's
/// password on this very thread.
///
/// # Errors
/// Where the way ends.
pub async fn look(
    way: Way<'_>,
    tls: &ClientTls,
    path: &str,
    patience: Patience,
) -> Result<Answered, Obstacle> {
    let endpoint = way.endpoint;
    let tcp = within(patience.connect, Stage::Connection, socket(way)).await?;
    let shaking = async {
        tls.connect(&endpoint.server_name, tcp)
            .await
            .map_err(Obstacle::Tls)
    };
    let stream = within(patience.connect, Stage::Handshake, shaking).await?;
    let asking = ask(endpoint, TokioIo::new(stream), path);
    within(patience.answer, Stage::Answer, asking).await
}

pub(super) async fn within<T>(
    limit: Duration,
    stage: Stage,
    part: impl Future<Output = Result<T, Obstacle>>,
) -> Result<T, Obstacle> {
    let done = tokio::time::timeout(limit, part).await;
    done.unwrap_or(Err(Obstacle::Late { stage, limit }))
}

/// A socket that leads to the server.
pub(super) async fn socket(way: Way<'_>) -> Result<TcpStream, Obstacle> {
    let (endpoint, interface) = (way.endpoint, way.interface);
    let Endpoint { host, port, .. } = endpoint;
    let Some(proxy) = way.proxy.filter(|proxy| proxy.serves(host, *port)) else {
        return tcp(host, *port, interface).await;
    };
    let obstacle = |said: String| Obstacle::Proxy {
        proxy: proxy.to_string(),
        said,
    };
    let pair = proxy.credentials.as_ref().map(Credentials::pair);
    let pair = pair.transpose().map_err(|e| obstacle(e.to_string()))?;
    let tcp = tcp(&proxy.host, proxy.port, interface).await;
    let tcp = tcp.map_err(|e| obstacle(e.to_string()))?;
    let tunnel = proxy.lead(tcp, endpoint, pair).await;
    tunnel.map_err(|e| obstacle(e.to_string()))
}

async fn tcp(host: &str, port: u16, interface: Option<&str>) -> Result<TcpStream, Obstacle> {
    let addresses = eyeballs::resolve(host, port).await.map_err(Obstacle::Name)?;
    let connect = async |address| match interface {
        None => TcpStream::connect(address).await,
        Some(interface) => dial::bound(address, interface)?.connect(address).await,
    };
    eyeballs::race(addresses, connect)
        .await
        .map_err(Obstacle::Connect)
}

async fn ask<IO>(endpoint: &Endpoint, io: IO, path: &str) -> Result<Answered, Obstacle>
where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let broken = |error: &dyn Error| Obstacle::Broken(chain(error));
    let request = Request::get(format!("{}{path}", endpoint.base))
        .header(header::HOST, endpoint.to_string())
        .header(
            header::USER_AGENT,
            concat!("edgehold/", env!("CARGO_PKG_VERSION")),
        )
        .body(body::empty())
        .map_err(|error| broken(&error))?;
    let (mut sender, driver) = http1::handshake(io).await.map_err(|error| broken(&error))?;
    let asking = Box::pin(async move {
        sender.ready().await?;
        sender.send_request(request).await
    });
    let answer = match future::select(asking, Box::pin(driver)).await {
        Either::Left((answer, _)) => answer.map_err(|error| broken(&error))?,
        // What made it end says more than that it has ended.
        Either::Right((Err(error), _)) => return Err(broken(&error)),
        Either::Right((Ok(()), asking)) => asking.await.map_err(|error| broken(&error))?,
    };
    Ok(Answered {
        status: answer.status(),
        by: author(answer.status(), answer.headers()),
    })
}

fn author(status: StatusCode, headers: &HeaderMap) -> Author {
    if gateway::from_apiserver(headers) {
        Author::Apiserver
    } else if gateway::is_page(headers) || gateway::is_down(status) || gateway::is_of_the_way(status) {
        Author::Another
    } else {
        Author::Unaudited
    }
}
