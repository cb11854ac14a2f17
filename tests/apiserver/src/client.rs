//! A plain HTTPS client for tests: one connection, no pool, no retries, so that what a test sees is what was sent.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::Value;
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

use crate::pki::Pair;
use crate::secrets;
use crate::seen::Protocol;
use crate::tls::provider;

/// How long a request, a read or anything else that is waited for may take before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// How to connect.
#[derive(Clone, Debug)]
pub struct Client {
    addr: SocketAddr,
    source: Option<IpAddr>,
    config: Arc<ClientConfig>,
    protocol: Protocol,
    headers: HeaderMap,
}

/// An error of a client, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientError(pub String);

impl std::fmt::Display for ClientError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ClientError {}

fn text(error: impl std::fmt::Debug) -> ClientError {
    ClientError(format!("{error:?}"))
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body as sent; still compressed if it was.
    pub body: Bytes,
    /// Trailers, empty if there were none.
    pub trailers: HeaderMap,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {:?}", self.body))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// A header as text, empty if it is missing.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|v| v.to_str().ok())
            .unwrap_or_default()
    }
}

/// A TCP connection, from a certain address of this machine or any.
pub async fn connect(source: Option<IpAddr>, to: SocketAddr) -> std::io::Result<TcpStream> {
    let Some(source) = source else {
        return TcpStream::connect(to).await;
    };
    let socket = if source.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.bind(SocketAddr::new(source, 0))?;
    socket.connect(to).await
}

impl Client {
    /// A client on HTTP/2 that trusts `ca_pem` and presents `pair`.
    ///
    /// # Panics
    /// If the PEM is not what it should be.
    #[must_use]
    pub fn new(addr: SocketAddr, ca_pem: &str, pair: Option<&Pair>) -> Self {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
            roots.add(cert.expect("PEM")).expect("a CA");
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots);
        let config = match pair {
            Some(pair) => builder
                .with_client_auth_cert(pair.chain(), pair.key())
                .expect("pair"),
            None => builder.with_no_client_auth(),
        };
        Self {
            addr,
            source: None,
            config: Arc::new(config),
            protocol: Protocol::Http2,
            headers: HeaderMap::new(),
        }
        .protocol(Protocol::Http2)
    }

    /// Connects to another address.
    #[must_use]
    pub fn at(mut self, addr: SocketAddr) -> Self {
        self.addr = addr;
        self
    }

    /// Connects from this address, of the same family.
    #[must_use]
    pub fn from_address(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Speaks this protocol.
    #[must_use]
    pub fn protocol(mut self, protocol: Protocol) -> Self {
        let alpn: &[u8] = if protocol == Protocol::Http2 {
            b"h2"
        } else {
            b"http/1.1"
        };
        Arc::make_mut(&mut self.config).alpn_protocols = vec![alpn.to_vec()];
        self.protocol = protocol;
        self
    }

    /// Sends this header with every request.
    ///
    /// # Panics
    /// If it is not a legal header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if name == "authorization" {
            secrets::register_token(value.rsplit(' ').next().unwrap_or_default());
        }
        self.headers.insert(name, value.parse().expect("header value"));
        self
    }

    /// Sends this bearer token with every request.
    #[must_use]
    pub fn token(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<Connection, ClientError> {
        tokio::time::timeout(DEADLINE, self.connect_patiently())
            .await
            .map_err(text)?
    }

    async fn connect_patiently(&self) -> Result<Connection, ClientError> {
        let stream = connect(self.source, self.addr).await.map_err(text)?;
        stream.set_nodelay(true).map_err(text)?;
        let name = ServerName::IpAddress(self.addr.ip().into());
        let tls = TlsConnector::from(self.config.clone())
            .connect(name, stream)
            .await
            .map_err(text)?;
        let io = TokioIo::new(tls);
        let sender = match self.protocol {
            Protocol::Http2 => {
                let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await.map_err(text)?;
                tokio::spawn(driver);
                Sender::Http2(sender)
            }
            Protocol::Http1 => {
                let (sender, driver) = http1::handshake(io).await.map_err(text)?;
                tokio::spawn(driver.with_upgrades());
                Sender::Http1(sender)
            }
        };
        Ok(Connection {
            sender,
            client: self.clone(),
        })
    }

    /// One request on a connection of its own, read to the end.
    pub async fn send(
        &self,
        method: &str,
        target: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, ClientError> {
        self.connect().await?.send(method, target, body).await
    }

    /// GET on a connection of its own.
    ///
    /// # Panics
    /// If there is no whole answer.
    pub async fn get(&self, target: &str) -> Answer {
        self.send("GET", target, "")
            .await
            .unwrap_or_else(|e| panic!("GET {target}: {e}"))
    }
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    client: Client,
}

impl Connection {
    /// The same connection, for a request beside those that are under way; `None` on HTTP/1.1.
    #[must_use]
    pub fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => Some(Self {
                sender: Sender::Http2(sender.clone()),
                client: self.client.clone(),
            }),
        }
    }

    /// From now on its requests carry the headers of this client.
    pub fn as_client(&mut self, client: Client) {
        self.client = client;
    }

    /// Sends a request and gives the answer as soon as its headers are there.
    pub async fn open(
        &mut self,
        method: &str,
        target: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response<Incoming>, ClientError> {
        tokio::time::timeout(DEADLINE, self.open_patiently(method, target, body.into()))
            .await
            .map_err(text)?
    }

    /// As [`Connection::open`], without a deadline.
    pub async fn open_patiently(
        &mut self,
        method: &str,
        target: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let uri = match self.sender {
            Sender::Http1(_) => target.to_owned(),
            Sender::Http2(_) => format!("https://{}{target}", self.client.addr),
        };
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .body(Full::new(body))
            .map_err(text)?;
        *request.headers_mut() = self.client.headers.clone();
        match &mut self.sender {
            Sender::Http1(sender) => {
                let host = self.client.addr.to_string().parse().map_err(text)?;
                request.headers_mut().insert("host", host);
                sender.ready().await.map_err(text)?;
                sender.send_request(request).await.map_err(text)
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(text)?;
                sender.send_request(request).await.map_err(text)
            }
        }
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(
        &mut self,
        method: &str,
        target: &str,
        body: impl Into<Bytes>,
    ) -> Result<Answer, ClientError> {
        let response = self.open(method, target, body).await?;
        read(response).await
    }

    /// Opens a stream that is read event by event, such as a JSON watch.
    pub async fn lines(&mut self, target: &str) -> Result<Lines, ClientError> {
        Ok(Lines {
            response: self.open("GET", target, "").await?,
            buffer: Vec::new(),
        })
    }
}

/// Reads an answer to its end.
pub async fn read(response: Response<Incoming>) -> Result<Answer, ClientError> {
    let (parts, body) = response.into_parts();
    let whole = tokio::time::timeout(DEADLINE, body.collect())
        .await
        .map_err(text)?
        .map_err(text)?;
    let trailers = whole.trailers().cloned().unwrap_or_default();
    let body = whole.to_bytes();
    if parts.status.as_u16() >= 400 {
        let headers = format!("{:?}", parts.headers);
        let leaked = secrets::found_in(headers.as_bytes()).or_else(|| secrets::found_in(&body));
        assert!(
            leaked.is_none(),
            "LEAKED: {leaked:?} is in an answer of {}",
            parts.status
        );
    }
    Ok(Answer {
        status: parts.status.as_u16(),
        headers: parts.headers,
        body,
        trailers,
    })
}

/// A body read line by line.
#[derive(Debug)]
pub struct Lines {
    /// The answer's head, and the rest of its body.
    pub response: Response<Incoming>,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next line as JSON; `None` at a clean end. Waits at most ten seconds.
    pub async fn next(&mut self) -> Result<Option<Value>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(text);
            }
            let frame = tokio::time::timeout(DEADLINE, self.response.body_mut().frame())
                .await
                .map_err(text)?;
            match frame {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(ClientError("ended inside a line".into())),
                Some(frame) => {
                    let data = frame.map_err(text)?.into_data().unwrap_or_default();
                    self.buffer.extend_from_slice(&data);
                }
            }
        }
    }
}
