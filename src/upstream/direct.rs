//! Requests to one server, each on a connection of its own: for commands that speak to a cluster from wherever they run.
//!
//! Tries nothing again. Invariant: a token never travels on a connection that presents a certificate.

use std::error::Error;
use std::fmt;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::{self, Either};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::runtime::body::{self, Body};
use crate::tls::{ClientStream, ClientTls, TlsConnectError};

use super::cause::Cause;
use super::endpoint::Endpoint;
use super::error::chain;
use super::proxy::{Credentials, UpstreamProxy};
use super::route::{Route, RouteError};

const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(30);

/// Bytes of an answer: a list of all requests for certificates of a large cluster.
const LARGEST: usize = 32 << 20;

/// Larger is no token.
const LARGEST_TOKEN: u64 = 64 << 10;

/// The way to one server, as one identity.
#[derive(Clone)]
pub struct Direct {
    /// The server.
    pub endpoint: Endpoint,
    /// What may lie between.
    pub proxy: Option<UpstreamProxy>,
    /// With a certificate, or without one and with a token.
    pub identity: Identity,
}

/// Who asks.
#[derive(Clone)]
pub enum Identity {
    /// Whoever the certificate of this configuration says.
    Certificate(ClientTls),
    /// The owner of a token; the configuration presents no certificate.
    Token(ClientTls, Token),
}

/// Where a token comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// It is here.
    Text(String),
    /// A file that is read for each request: tokens of pods are renewed.
    File(PathBuf),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text(not shown)"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
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

impl Obstacle {
    pub(super) fn broken(error: &dyn Error) -> Self {
        Self::Broken(chain(error))
    }
}

impl Direct {
    /// Sends a request with the path as its target, and receives the whole answer.
    ///
    /// # Errors
    /// Where the way ends.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Obstacle> {
        let (mut head, content) = request.into_parts();
        let host =
            HeaderValue::try_from(self.endpoint.to_string()).map_err(|error| Obstacle::broken(&error))?;
        head.headers.insert(HOST, host);
        if let Some(path) = head.uri.path_and_query() {
            head.uri = Uri::from(self.endpoint.target(path));
        }
        let tls = match &self.identity {
            Identity::Certificate(tls) => tls,
            Identity::Token(tls, token) => {
                head.headers.insert(AUTHORIZATION, token.bearer()?);
                tls
            }
        };
        let route = Route::new(&self.endpoint, self.proxy.as_ref(), None);
        let stream = session(route, tls, CONNECT).await?;
        let request = Request::from_parts(head, content);
        let asking = exchange(stream, request, async |answer| {
            let (head, content) = answer.into_parts();
            let content = Limited::new(content, LARGEST).collect().await;
            let content = content.map_err(|error| Obstacle::broken(&*error))?.to_bytes();
            Ok(Response::from_parts(head, body::full(content)))
        });
        within(ANSWER, Stage::Answer, asking).await
    }
}

impl Token {
    fn bearer(&self) -> Result<HeaderValue, Obstacle> {
        let content: String;
        let text = match self {
            Self::Text(text) => text.as_str(),
            Self::File(path) => {
                content =
                    read(path).map_err(|error| Obstacle::Broken(format!("{}: {error}", path.display())))?;
                content.trim()
            }
        };
        let mut value = HeaderValue::try_from(format!("Bearer {text}"))
            .map_err(|_| Obstacle::Broken("the token cannot be sent".to_owned()))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(LARGEST_TOKEN)
        .read_to_string(&mut text)?;
    Ok(text)
}

pub(super) async fn within<T>(
    limit: Duration,
    stage: Stage,
    part: impl Future<Output = Result<T, Obstacle>>,
) -> Result<T, Obstacle> {
    let done = tokio::time::timeout(limit, part).await;
    done.unwrap_or(Err(Obstacle::Late { stage, limit }))
}

/// A TLS session with the server. TCP with a proxy's tunnel may take so long, and TLS again.
pub(super) async fn session(
    route: Route<'_>,
    tls: &ClientTls,
    limit: Duration,
) -> Result<ClientStream<TcpStream>, Obstacle> {
    let tcp = within(limit, Stage::Connection, socket(route)).await?;
    let shaking = async {
        let connected = tls.connect(&route.endpoint.server_name, tcp).await;
        connected.map_err(Obstacle::Tls)
    };
    within(limit, Stage::Handshake, shaking).await
}

async fn socket(route: Route<'_>) -> Result<TcpStream, Obstacle> {
    let of_proxy = |said: &dyn fmt::Display| Obstacle::Proxy {
        proxy: route.proxy.map(ToString::to_string).unwrap_or_default(),
        said: said.to_string(),
    };
    let credentials = route.proxy.and_then(|proxy| proxy.credentials.as_ref());
    let pair = credentials.map(Credentials::pair).transpose();
    let pair = pair.map_err(|error| of_proxy(&error))?;
    let connected = route.connect(pair, |_| {}).await;
    connected.map_err(|error| match error {
        RouteError::Server(Cause::Name, error) => Obstacle::Name(error),
        RouteError::Server(_, error) => Obstacle::Connect(error),
        RouteError::Proxy(_, error) => of_proxy(&error),
        RouteError::Tunnel(error) => of_proxy(&error),
    })
}

/// Sends a request and has its answer received while the connection is driven.
pub(super) async fn exchange<T>(
    stream: ClientStream<TcpStream>,
    request: Request<Body>,
    receive: impl AsyncFnOnce(Response<Incoming>) -> Result<T, Obstacle>,
) -> Result<T, Obstacle> {
    let broken = |error: hyper::Error| Obstacle::broken(&error);
    let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let asking = Box::pin(async move {
        sender.ready().await.map_err(broken)?;
        receive(sender.send_request(request).await.map_err(broken)?).await
    });
    match future::select(asking, Box::pin(driver)).await {
        Either::Left((answer, _)) => answer,
        // What made it end says more than that it has ended.
        Either::Right((Err(error), _)) => Err(broken(error)),
        Either::Right((Ok(()), asking)) => asking.await,
    }
}
