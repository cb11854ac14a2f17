//! The connections of one identity: streams spread under the apiserver's limit, watches apart from the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::runtime::body::{self, Body, Holding};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::tls::{self, ClientStream, ClientTls, ServerName};

use super::Purpose;
use super::connection::{Connection, Lease, SendFailed, to_http1};
use super::error::{Failure, UpstreamError, chain};

/// In the extensions of every answer: whether the identity by which it came has been replaced since.
#[derive(Debug, Clone)]
pub struct Retirement(CancellationToken);

impl Retirement {
    /// Resolves when it has been: long-lived streams should move over.
    pub async fn reached(&self) {
        self.0.cancelled().await;
    }
}

/// Where the connections lead.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) server_name: ServerName,
    pub(super) connect_timeout: Duration,
}

/// At most so many connections for each purpose: 3 200 streams.
const MAX_CONNECTIONS: usize = 32;

/// How often a request that was not processed is sent again; each time on another connection.
const RETRIES: usize = 4;

/// Connections of one identity. Replaced as a whole when the identity or the CA changes.
pub(super) struct Pool {
    target: Target,
    http2: ClientTls,
    http1: ClientTls,
    short: Lane,
    watch: Lane,
    tasks: Tasks,
    retired: CancellationToken,
}

#[derive(Default)]
struct Lane {
    connections: Mutex<Vec<Arc<Connection>>>,
    released: Arc<Notify>,
    dialing: tokio::sync::Mutex<Option<(tokio::time::Instant, UpstreamError)>>,
}

impl Pool {
    pub(super) fn new(target: Target, http2: ClientTls, http1: ClientTls, tasks: Tasks) -> Self {
        let retired = CancellationToken::new();
        Self {
            target,
            http2,
            http1,
            short: Lane::default(),
            watch: Lane::default(),
            tasks,
            retired,
        }
    }

    /// Takes no new requests; connections end with their last stream, watches are told through their [`Retirement`].
    pub(super) fn retire(&self) {
        self.retired.cancel();
        self.forget_connections();
    }

    /// Forgets every connection, so that the next requests dial: after an outage the old ones may be dead without
    /// knowing it. What is under way on them goes on.
    pub(super) fn forget_connections(&self) {
        for lane in [&self.short, &self.watch] {
            lane.connections.lock().clear();
        }
    }

    /// Open connections and streams, by purpose.
    pub(super) fn usage(&self) -> HashMap<Purpose, (usize, usize)> {
        let usage = |lane: &Lane| {
            let connections = lane.connections.lock();
            (connections.len(), connections.iter().map(|c| c.streams()).sum())
        };
        HashMap::from([
            (Purpose::Short, usage(&self.short)),
            (Purpose::Watch, usage(&self.watch)),
        ])
    }

    /// Sends a request and returns the head of the answer with a streaming body. A request that certainly was not
    /// processed (GOAWAY, a connection closed while idle) is tried again on another connection.
    pub(super) async fn send(
        &self,
        request: Request<Body>,
        purpose: Purpose,
    ) -> Result<Response<Body>, UpstreamError> {
        let mut request = request;
        let mut retries = 0;
        loop {
            let mut lease = self.lease(purpose).await?;
            match lease.send(request).await {
                Ok(response) => {
                    let mut response = response.map(|incoming| {
                        use http_body_util::BodyExt;
                        Holding::new(body::incoming(incoming), lease).boxed_unsync()
                    });
                    response.extensions_mut().insert(Retirement(self.retired.clone()));
                    return Ok(response);
                }
                Err(SendFailed {
                    unsent: Some(unsent), ..
                }) if retries < RETRIES => {
                    retries += 1;
                    request = unsent;
                }
                Err(SendFailed { error, .. }) => return Err(error),
            }
        }
    }

    /// Sends a request on a new HTTP/1.1 connection of its own: upgrades, and probes that must try the real way.
    pub(super) async fn send_alone(
        &self,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, UpstreamError> {
        let stream = Box::pin(self.dial(&self.http1)).await?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, driver) = hyper::client::conn::http1::handshake(io)
            .await
            .map_err(|e| UpstreamError::unsent(Failure::Broken, chain(&e)))?;
        self.tasks.spawn("upstream-own-connection", async move {
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(error = %chain(&error), "upstream connection of one request ended");
            }
        });
        sender
            .send_request(to_http1(request))
            .await
            .map_err(|e| UpstreamError::maybe_sent(Failure::Broken, chain(&e)))
    }

    fn lane(&self, purpose: Purpose) -> &Lane {
        match purpose {
            Purpose::Short => &self.short,
            Purpose::Watch => &self.watch,
        }
    }

    async fn lease(&self, purpose: Purpose) -> Result<Lease, UpstreamError> {
        let lane = self.lane(purpose);
        let asked = clock::now();
        loop {
            if let Some(lease) = lane.try_lease() {
                return Ok(lease);
            }
            let released = lane.released.notified();
            let mut last_failure = lane.dialing.lock().await;
            if let Some(lease) = lane.try_lease() {
                return Ok(lease);
            }
            // Whoever waited for the dial that failed shares its failure, or each would wait in turn.
            if let Some((_, error)) = last_failure.as_ref().filter(|(at, _)| *at >= asked) {
                return Err(error.clone());
            }
            if lane.connections.lock().len() >= MAX_CONNECTIONS {
                drop(last_failure);
                released.await;
                continue;
            }
            // Dialing is rare and its future is large: it must not be a part of every request and watch.
            match Box::pin(self.open(lane)).await {
                Ok(lease) => return Ok(lease),
                Err(error) => {
                    *last_failure = Some((clock::now(), error.clone()));
                    return Err(error);
                }
            }
        }
    }

    async fn open(&self, lane: &Lane) -> Result<Lease, UpstreamError> {
        let handshake = async {
            // A load balancer in between may speak HTTP/1.1 only; then each connection carries one request.
            let stream = self.dial(&self.http2).await?;
            let agreed = tls::agreed(&stream);
            Connection::open(stream, agreed, &self.tasks, self.retired.clone()).await
        };
        let connection = tokio::time::timeout(self.target.connect_timeout, handshake)
            .await
            .map_err(|_| {
                UpstreamError::unsent(
                    Failure::Connect,
                    format!("no connection in {:?}", self.target.connect_timeout),
                )
            })??;
        let lease = connection.try_lease(&lane.released);
        if !self.retired.is_cancelled() {
            lane.connections.lock().push(connection);
        }
        lease.ok_or_else(|| UpstreamError::unsent(Failure::Broken, "the new connection closed at once"))
    }

    async fn dial(&self, tls: &ClientTls) -> Result<ClientStream, UpstreamError> {
        let Target {
            host,
            port,
            server_name,
            connect_timeout,
        } = &self.target;
        let connect = async {
            let tcp = TcpStream::connect((host.as_str(), *port))
                .await
                .map_err(|e| UpstreamError::unsent(Failure::Connect, format!("{host}:{port}: {e}")))?;
            let _best_effort = tcp.set_nodelay(true);
            tls.connect(server_name, tcp)
                .await
                .map_err(|error| UpstreamError::unsent(Failure::Tls, chain(&error)))
        };
        tokio::time::timeout(*connect_timeout, connect)
            .await
            .unwrap_or_else(|_| {
                let message = format!("{host}:{port}: no connection in {connect_timeout:?}");
                Err(UpstreamError::unsent(Failure::Connect, message))
            })
    }
}

impl Lane {
    /// A stream on the fullest connection that has room, so that the emptier ones can end.
    fn try_lease(&self) -> Option<Lease> {
        let mut connections = self.connections.lock();
        connections.retain(|connection| !connection.is_gone());
        connections
            .iter()
            .find_map(|connection| connection.try_lease(&self.released))
    }
}
