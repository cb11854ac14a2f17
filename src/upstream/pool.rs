//! The connections of one identity to one server: streams spread under the apiserver's limit; watches,
//! large answers and the rest apart from each other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, header, response};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::client::conn::http1;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::runtime::body::{self, Body};
use crate::runtime::clock;
use crate::runtime::shares::{Share, Shares};
use crate::runtime::tasks::Tasks;
use crate::tls::{self, ClientTls};

use super::abandoned::ToTheEnd;
use super::clientele::Clientele;
use super::connection::{Connection, Gauges, Lease, Opening, SendFailed, to_http1};
use super::dial::{Dialed, Dialer, Path, Via};
use super::error::{UpstreamError, chain};
use super::failure::Failure;
use super::lane::{Lane, MAX_CONNECTIONS};
use super::lifeline::Lifeline;
use super::liveness::Liveness;
use super::metrics::UpstreamMetrics;
use super::purpose::Purpose;
use super::retry::{Idempotency, Origin, RetryPolicy};
use super::settings::DialSettings;

/// Between two looks whether a new connection's peer has said how many streams it allows.
const SETTLING_LOOK: Duration = Duration::from_millis(2);

/// A connection without a stream is closed after this time; kube-apiserver closes it after 90 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// A probe is limited by whoever sends it.
const PROBE_LIMIT: Duration = Duration::from_secs(60);

/// The TLS configurations of one identity: for HTTP/2 if the server agrees, and for HTTP/1.1 alone.
#[derive(Debug, Clone)]
pub(super) struct Connectors {
    pub(super) http2: ClientTls,
    pub(super) http1: ClientTls,
}

/// Connections of one identity to one server. Replaced as a whole when the identity, the CA or the way changes.
pub(super) struct Pool {
    dialer: Dialer,
    authority: Option<Authority>,
    connectors: Connectors,
    short: Lane,
    large: Lane,
    watch: Lane,
    /// Connections of one request each.
    alone: Shares,
    clientele: Clientele,
    tasks: Tasks,
    /// Parent of the tokens of all connections that new requests may use.
    generation: Mutex<CancellationToken>,
}

impl Pool {
    pub(super) fn new(dialer: Dialer, connectors: Connectors, clientele: Clientele, tasks: Tasks) -> Self {
        let lane = |purpose| Lane::new(&dialer, purpose);
        Self {
            // Checked with the configuration; a server name always is an authority.
            authority: dialer.server().name().parse().ok(),
            connectors,
            short: lane(Purpose::Short),
            large: lane(Purpose::Large),
            watch: lane(Purpose::Watch),
            alone: Shares::new(MAX_CONNECTIONS),
            clientele,
            tasks,
            generation: Mutex::new(CancellationToken::new()),
            dialer,
        }
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        self.dialer.metrics()
    }

    /// Whose requests it carries.
    pub(super) fn clientele(&self) -> Clientele {
        self.clientele
    }

    /// Whether it makes its connections in this way.
    pub(super) fn dials_as(&self, settings: &DialSettings) -> bool {
        self.dialer.settings() == settings
    }

    /// New requests get new connections; the old ones end with their last stream, and long-lived streams are told to
    /// move over through their [`Origin`].
    pub(super) fn drain(&self) {
        let old = std::mem::replace(&mut *self.generation.lock(), CancellationToken::new());
        self.forget_connections();
        old.cancel();
    }

    /// The host that is looked up for its connections, and the port there.
    pub(super) fn looked_up(&self) -> (&str, u16) {
        self.dialer.looked_up()
    }

    /// The other ends of its connections.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        let lanes = Purpose::ALL.map(|purpose| self.lane(purpose));
        let addresses = lanes.iter().flat_map(|lane| {
            let connections = lane.connections();
            let addresses = connections.iter().filter_map(|c| c.path().address);
            addresses.collect::<Vec<_>>()
        });
        addresses.collect()
    }

    /// Drains the connections that took such a way, and no others.
    pub(super) fn leave(&self, such: impl Fn(&Path) -> bool) {
        for lane in Purpose::ALL.map(|purpose| self.lane(purpose)) {
            let left: Vec<_> = {
                let mut connections = lane.connections();
                let left = connections.extract_if(.., |connection| such(connection.path()));
                left.collect()
            };
            left.iter().for_each(|connection| connection.drained().cancel());
        }
    }

    /// Forgets every connection, so that the next requests dial: after an outage the old ones may be dead without
    /// knowing it. What is under way on them goes on.
    pub(super) fn forget_connections(&self) {
        for lane in Purpose::ALL.map(|purpose| self.lane(purpose)) {
            lane.connections().clear();
        }
    }

    /// Closes what nobody has used for long.
    pub(super) fn close_idle(&self) {
        let now = clock::now();
        for lane in Purpose::ALL.map(|purpose| self.lane(purpose)) {
            lane.connections().retain(|connection| {
                let idle = connection.idle_since();
                !connection.is_gone() && idle.is_none_or(|since| now < since + IDLE_TIMEOUT)
            });
        }
    }

    /// Open connections and the streams on them.
    pub(super) fn usage(&self, purpose: Purpose) -> (usize, usize) {
        let connections = self.lane(purpose).connections();
        (connections.len(), connections.iter().map(|c| c.streams()).sum())
    }

    /// Sends a request and returns the head of the answer with a streaming body. A request that certainly was not
    /// processed (GOAWAY, a connection closed while idle) is tried again on another connection. One whose repetition is
    /// harmless does not wait on a connection that others overtake.
    pub(super) async fn send(
        &self,
        request: Request<Body>,
        policy: &RetryPolicy,
        idempotency: Idempotency,
    ) -> Result<Response<Body>, SendFailed> {
        let asked = request.uri().clone();
        // As it came: another server may stand below another path.
        let unsent = |request: Request<Body>| {
            let (mut head, body) = request.into_parts();
            head.uri = asked.clone();
            Request::from_parts(head, body)
        };
        let mut request = self.addressed(request);
        // The rest of a body does not come from a client that has gone.
        let is_whole = request.body().is_end_stream();
        let mut retries = 0;
        loop {
            let (mut lease, share) = match self.lease(policy).await {
                Ok(leased) => leased,
                Err(error) => {
                    return Err(SendFailed {
                        error,
                        unsent: Some(unsent(request)),
                    });
                }
            };
            let sending = async move { (lease.send(request, idempotency).await, lease, share) };
            let (sent, lease, share) = if is_whole {
                ToTheEnd::new(sending, &self.tasks).await
            } else {
                sending.await
            };
            match sent {
                Ok(response) => {
                    let drained = lease.drained().clone();
                    let origin = Origin::new(self.dialer.server(), self.clientele, drained);
                    let held = (lease, share);
                    let mut response =
                        response.map(|incoming| body::holding(body::incoming(incoming), held).boxed_unsync());
                    response.extensions_mut().insert(origin);
                    self.redirected(response.headers_mut());
                    return Ok(response);
                }
                Err(SendFailed {
                    unsent: Some(unsent), ..
                }) if retries < self.clientele.retries() => {
                    retries += 1;
                    request = unsent;
                }
                Err(failed) => {
                    return Err(SendFailed {
                        error: failed.error,
                        unsent: failed.unsent.map(unsent),
                    });
                }
            }
        }
    }

    /// A new HTTP/1.1 connection of its own: for upgrades. `holder` is the one of several callers that it is for.
    pub(super) async fn open_alone(&self, holder: Option<&str>) -> Result<Alone<'_>, UpstreamError> {
        let share = holder.map(|holder| self.alone.try_take(holder, 1).ok_or_else(over_share));
        let share = share.transpose()?.map(Arc::new);
        let limit = self.dialer.settings().connect_timeout;
        let Dialed { stream, activity, .. } =
            Box::pin(self.dialer.connect(&self.connectors.http1, limit, Via::Best)).await?;
        let keep_alive = self.dialer.settings().keep_alive;
        let lifeline = Lifeline::new(self.dialer.server(), activity, keep_alive).holding(share.clone());
        let io = hyper_util::rt::TokioIo::new(stream);
        let (sender, driver) = http1::handshake(io)
            .await
            .map_err(|e| UpstreamError::unsent(Failure::Broken, chain(&e)))?;
        self.tasks.spawn("upstream-own-connection", async move {
            let _held_until_it_ends_or_is_upgraded = share;
            if let Err(error) = driver.with_upgrades().await {
                tracing::debug!(error = %chain(&error), "upstream connection of one request ended");
            }
        });
        Ok(Alone {
            pool: self,
            sender,
            lifeline,
        })
    }

    /// Asks over a new connection, the whole way as a client's request would go. The time limit is the caller's. An
    /// apiserver ends the connections of anonymous callers: it is alive when it does so too early.
    pub(super) async fn probe(
        &self,
        request: Request<Body>,
        via: Via,
    ) -> Result<response::Parts, UpstreamError> {
        let mut request = self.addressed(request);
        let mut retries = 0;
        loop {
            let drained = CancellationToken::new();
            let connection = self
                .establish(PROBE_LIMIT, drained, Gauges::default(), via)
                .await?;
            let lease = connection.try_lease(&Arc::default());
            let mut lease = lease.ok_or_else(closed_at_once)?;
            match lease.send(request, Idempotency::NotIdempotent).await {
                Ok(response) => return Ok(response.into_parts().0),
                Err(SendFailed {
                    unsent: Some(unsent), ..
                }) if retries < Clientele::Known.retries() => {
                    retries += 1;
                    request = unsent;
                }
                Err(failed) => return Err(failed.error),
            }
        }
    }

    /// The request with this server's authority, in the target for HTTP/2 and in `Host` for HTTP/1.1.
    fn addressed(&self, mut request: Request<Body>) -> Request<Body> {
        let mut uri = std::mem::take(request.uri_mut()).into_parts();
        uri.scheme = Some(Scheme::HTTPS);
        uri.authority = self.authority.clone();
        let path = uri.path_and_query.take();
        let path = path.unwrap_or_else(|| PathAndQuery::from_static("/"));
        uri.path_and_query = Some(self.dialer.server().endpoint().target(&path));
        // Scheme, authority and path together are always a URI.
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        if let Ok(host) = HeaderValue::from_str(self.dialer.server().name()) {
            request.headers_mut().insert(header::HOST, host);
        }
        request
    }

    /// A redirect leads a client to us, not to where the server stands.
    fn redirected(&self, headers: &mut HeaderMap) {
        let Some(location) = headers
            .get(header::LOCATION)
            .and_then(|value| value.to_str().ok())
        else {
            return;
        };
        let ours = self.dialer.server().endpoint().redirect(location);
        if let Some(Ok(ours)) = ours.map(HeaderValue::from_str) {
            headers.insert(header::LOCATION, ours);
        }
    }

    fn lane(&self, purpose: Purpose) -> &Lane {
        match purpose {
            Purpose::Short => &self.short,
            Purpose::Large => &self.large,
            Purpose::Watch => &self.watch,
        }
    }

    /// A stream, and the share of its lane that it takes.
    async fn lease(&self, policy: &RetryPolicy) -> Result<(Lease, Option<Share>), UpstreamError> {
        let (lane, server) = (self.lane(policy.purpose()), self.dialer.server());
        let mut share = None;
        let mut take_share = || -> Result<(), UpstreamError> {
            // For the first of all it is known what a stream takes once it is connected.
            if share.is_none()
                && let (Some(holder), Some(weight)) = (policy.holder(), lane.weight())
            {
                share = Some(lane.take(holder, weight).ok_or_else(over_share)?);
            }
            Ok(())
        };
        let asked = clock::now();
        let lease = loop {
            take_share()?;
            policy.is_with(Some(server));
            if let Some(lease) = lane.try_lease() {
                break lease;
            }
            policy.is_with(None);
            let Some(turn) = lane.turn(asked).await else {
                continue;
            };
            take_share()?;
            policy.is_with(Some(server));
            if let Some(lease) = lane.try_lease() {
                break lease;
            }
            // Whoever waited for the dial that failed shares its failure, or each would wait in turn.
            if let Some(error) = lane.failed_since(asked) {
                return Err(error);
            }
            if lane.is_settling() {
                drop(turn);
                tokio::time::sleep(SETTLING_LOOK).await;
                continue;
            }
            if lane.is_full() {
                return Err(over_share());
            }
            // Dialing is rare and its future is large: it must not be a part of every request and watch.
            match Box::pin(self.open(lane)).await {
                Ok(lease) => {
                    take_share()?;
                    break lease;
                }
                Err(error) => {
                    lane.failed(&error);
                    return Err(error);
                }
            }
        };
        Ok((lease, share))
    }

    async fn open(&self, lane: &Lane) -> Result<Lease, UpstreamError> {
        let generation = self.generation.lock().clone();
        let limit = self.dialer.settings().connect_timeout;
        let connection = self
            .establish(limit, generation.child_token(), lane.gauges().clone(), Via::Best)
            .await?;
        connection.activity().open();
        if std::ptr::eq(lane, &raw const self.watch) {
            connection.activity().carries_watches();
        }
        let lease = connection.try_lease(lane.released());
        lane.opened(connection, !generation.is_cancelled());
        lease.ok_or_else(closed_at_once)
    }

    /// A load balancer in between may speak HTTP/1.1 only; then each connection carries one request.
    async fn establish(
        &self,
        limit: Duration,
        drained: CancellationToken,
        gauges: Gauges,
        via: Via,
    ) -> Result<Arc<Connection>, UpstreamError> {
        let dialed = self.dialer.connect(&self.connectors.http2, limit, via).await?;
        let Dialed {
            stream,
            activity,
            path,
        } = dialed;
        let opening = Opening {
            version: tls::agreed(&stream),
            liveness: Liveness::new(self.dialer.server(), activity, self.dialer.settings().keep_alive),
            drained,
            gauges,
            path,
        };
        Connection::open(stream, opening, &self.tasks).await
    }
}

fn over_share() -> UpstreamError {
    UpstreamError::unsent(Failure::OverShare, "this caller has its share of the connections")
}

fn closed_at_once() -> UpstreamError {
    UpstreamError::unsent(Failure::Broken, "the new connection closed at once")
}

/// An HTTP/1.1 connection for one request.
pub(super) struct Alone<'p> {
    pool: &'p Pool,
    sender: http1::SendRequest<Body>,
    lifeline: Lifeline,
}

impl Alone<'_> {
    pub(super) async fn send(
        mut self,
        request: Request<Body>,
    ) -> Result<Response<hyper::body::Incoming>, UpstreamError> {
        let request = to_http1(self.pool.addressed(request));
        let sent = self.sender.send_request(request).await;
        let mut response = sent.map_err(|e| UpstreamError::maybe_sent(Failure::Broken, chain(&e)))?;
        response.extensions_mut().insert(self.lifeline);
        self.pool.redirected(response.headers_mut());
        Ok(response)
    }
}
