//! Requests to one server, each on a connection of its own: for commands that speak to a cluster from wherever they run.
//!
//! Tries nothing again. Invariant: a token never travels on a connection that presents a certificate.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::future::{self, Either};
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use crate::runtime::body::{self, Body};
use crate::tls::ClientTls;

use super::endpoint::Endpoint;
use super::error::chain;
use super::look::{self, Obstacle, Stage, Way};
use super::proxy::UpstreamProxy;

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

impl Direct {
    /// Sends a request with the path as its target, and receives the whole answer.
    ///
    /// # Errors
    /// Where the way ends.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Body>, Obstacle> {
        let (mut head, content) = request.into_parts();
        let broken = |error: &dyn std::error::Error| Obstacle::Broken(chain(error));
        let host = HeaderValue::try_from(self.endpoint.to_string()).map_err(|error| broken(&error))?;
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
        let way = Way {
            endpoint: &self.endpoint,
            proxy: self.proxy.as_ref(),
            interface: None,
        };
        let tcp = look::within(CONNECT, Stage::Connection, look::socket(way)).await?;
        let shaking = async {
            let connected = tls.connect(&self.endpoint.server_name, tcp).await;
            connected.map_err(Obstacle::Tls)
        };
        let stream = look::within(CONNECT, Stage::Handshake, shaking).await?;
        let asking = ask(TokioIo::new(stream), Request::from_parts(head, content));
        look::within(ANSWER, Stage::Answer, asking).await
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

async fn ask<IO>(io: IO, request: Request<Body>) -> Result<Response<Body>, Obstacle>
where
    IO: hyper::rt::Read + hyper::rt::Write + Unpin,
{
    let broken = |error: &dyn std::error::Error| Obstacle::Broken(chain(error));
    let (mut sender, driver) = http1::handshake(io).await.map_err(|error| broken(&error))?;
    let asking = Box::pin(async move {
        sender.ready().await.map_err(|error| broken(&error))?;
        let answer = sender
            .send_request(request)
            .await
            .map_err(|error| broken(&error))?;
        let (head, content) = answer.into_parts();
        let content = Limited::new(content, LARGEST).collect().await;
        let content = content.map_err(|error| broken(&*error))?.to_bytes();
        Ok(Response::from_parts(head, body::full(content)))
    });
    match future::select(asking, Box::pin(driver)).await {
        Either::Left((answer, _)) => answer,
        // What made it end says more than that it has ended.
        Either::Right((Err(error), _)) => Err(broken(&error)),
        Either::Right((Ok(()), asking)) => asking.await,
    }
}
