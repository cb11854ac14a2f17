//! One connection to the apiserver and the streams on it.
//!
//! HTTP/2 where the server agrees, else HTTP/1.1 with one request at a time. We count streams ourselves: past the
//! peer's limit hyper would queue a request silently.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use http::{Request, Response, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runtime::body::Body;
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::tls::Alpn;

use super::activity::ConnectionActivity;
use super::cause::Cause;
use super::dial::Path;
use super::error::{UpstreamError, chain};
use super::failure::Failure;
use super::liveness::Liveness;
use super::replay::{Replay, is_unprocessed};
use super::retry::Idempotency;

/// Streams on one HTTP/2 connection, unless the peer allows fewer: kube-apiserver's default
/// `--http2-max-streams-per-connection` (wire contract 8.3).
pub(super) const MAX_STREAMS: usize = 100;

/// Until the peer's SETTINGS say how many it allows (RFC 9113, section 5.1.2).
const UNSETTLED_STREAMS: usize = 1;

/// A peer that has said nothing after this time allows no more.
const SETTLING: Duration = Duration::from_secs(5);

/// Windows as design.md's section Upstream: with hyper's defaults three clients that stop reading starve every
/// other stream of their connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = (1 << 31) - 1;

/// hyper would end a connection whose PING is not answered, whatever else arrives on it. On a narrow link the
/// acknowledgement comes behind everything that waits in the server's buffers, 16 s of it behind a list of 127 KB at
/// 64 kbit/s (measured). [`Liveness`] judges by the bytes instead; hyper only has to ask.
const NEVER: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Bytes of an answer's headers, in the sense of `SETTINGS_MAX_HEADER_LIST_SIZE` (RFC 9113, section 6.5.2): as many as edgehold
/// takes from its own clients. hyper would take 16 KiB, Go's client takes 10 MiB.
const LARGEST_HEAD: u32 = 1 << 20;

/// Headers of an answer over HTTP/1.1, of which hyper would take 100 and Go's client as many as fit.
const MOST_HEADERS: usize = 1000;

/// How a request sent on a connection failed: with the request itself where it certainly was not sent.
pub(super) struct SendFailed {
    pub(super) error: UpstreamError,
    pub(super) unsent: Option<Request<Body>>,
}

enum Sender {
    Http2 {
        requests: http2::SendRequest<Body>,
        allowance: Arc<Allowance>,
    },
    Http1 {
        /// There while the connection can take a request.
        idle: Mutex<Option<http1::SendRequest<Body>>>,
        /// It comes back when its answer has been read, or will not be.
        used: mpsc::UnboundedSender<Used>,
    },
}

/// How many streams the peer of an HTTP/2 connection allows. Only hyper's driver knows: it is asked whenever it is polled,
/// which each request causes, or when somebody wants to know.
struct Allowance {
    streams: AtomicUsize,
    /// An answer has come, and the peer's SETTINGS before it.
    answered: AtomicBool,
    /// Looked at after that.
    settled: AtomicBool,
    asked: Notify,
}

impl Allowance {
    fn unsettled() -> Arc<Self> {
        Arc::new(Self {
            streams: AtomicUsize::new(UNSETTLED_STREAMS),
            answered: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            asked: Notify::new(),
        })
    }

    fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Whether the peer has said how many.
    fn is_settled(&self) -> bool {
        self.streams() != UNSETTLED_STREAMS || self.settled.load(Ordering::Acquire)
    }

    fn answered(&self) {
        if !self.answered.swap(true, Ordering::Release) {
            self.asked.notify_one();
        }
    }

    /// Drives the connection to its end.
    async fn learn<S>(
        self: Arc<Self>,
        driver: http2::Connection<S, Body, Executor>,
    ) -> Result<(), hyper::Error>
    where
        S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let mut driver = std::pin::pin!(driver);
        loop {
            let driven = std::future::poll_fn(|cx| {
                let answered = self.answered.load(Ordering::Acquire);
                let polled = driver.as_mut().poll(cx);
                self.streams
                    .store(driver.current_max_send_streams(), Ordering::Relaxed);
                if answered {
                    self.settled.store(true, Ordering::Release);
                }
                polled
            });
            tokio::select! {
                biased;
                ended = driven => return ended,
                () = self.asked.notified() => {}
            }
        }
    }
}

/// An HTTP/1.1 connection after a request.
struct Used {
    sender: http1::SendRequest<Body>,
    released: Arc<Notify>,
}

/// What a connection is opened with.
pub(super) struct Opening {
    pub(super) version: Alpn,
    /// Tells when nothing arrives any more.
    pub(super) liveness: Liveness,
    /// Cancelled when the streams on it should move to another one.
    pub(super) drained: CancellationToken,
    /// Counts open connections, and the streams on them.
    pub(super) gauges: Gauges,
    /// The way that it took.
    pub(super) path: Path,
}

/// What is counted of connections.
#[derive(Debug, Clone, Default)]
pub(super) struct Gauges {
    pub(super) connections: Gauge,
    pub(super) streams: Gauge,
}

/// An open connection.
pub(super) struct Connection {
    sender: Sender,
    streams: AtomicUsize,
    closed: AtomicBool,
    drained: CancellationToken,
    opened: Instant,
    idle_since: Mutex<Instant>,
    activity: Arc<ConnectionActivity>,
    path: Path,
    gauge: Gauge,
}

/// One stream of a connection, counted until dropped.
pub(super) struct Lease {
    connection: Arc<Connection>,
    http1: Option<http1::SendRequest<Body>>,
    released: Arc<Notify>,
}

impl Connection {
    /// Performs the HTTP handshake on an established TLS stream and drives the connection until it is forgotten and
    /// its streams have ended, or it breaks.
    pub(super) async fn open<S>(
        stream: S,
        opening: Opening,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, UpstreamError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |e: hyper::Error| {
            UpstreamError::unsent(Failure::Broken, chain(&e)).because(Cause::of_breaking(&e))
        };
        let io = TokioIo::new(stream);
        if opening.version == Alpn::H2 {
            let (sender, driver) = http2::Builder::new(Executor(tasks.clone()))
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .adaptive_window(false)
                .max_frame_size(64 * 1024)
                .initial_max_send_streams(UNSETTLED_STREAMS)
                .max_header_list_size(LARGEST_HEAD)
                .keep_alive_interval(opening.liveness.ping_interval())
                .keep_alive_timeout(NEVER)
                .keep_alive_while_idle(true)
                // An answer that a client gave up is no error of the server. Counted are all of the life of a connection.
                .max_local_error_reset_streams(None)
                .handshake(io)
                .await
                .map_err(failed)?;
            let allowance = Allowance::unsettled();
            let driver = Arc::clone(&allowance).learn(driver);
            let sender = Sender::Http2 {
                requests: sender,
                allowance,
            };
            Ok(Self::drive(sender, driver, opening, tasks))
        } else {
            let (sender, driver) = http1::Builder::new()
                .max_headers(MOST_HEADERS)
                .handshake(io)
                .await
                .map_err(failed)?;
            let (used, returned) = mpsc::unbounded_channel();
            let idle = Mutex::new(None);
            let connection = Self::drive(Sender::Http1 { idle, used }, driver, opening, tasks);
            // hyper takes a request only after its driver has run for the first time.
            let sender = ready(sender).await.map_err(failed)?;
            connection.rest(sender);
            tasks.spawn("upstream-idle", reuse(Arc::downgrade(&connection), returned));
            Ok(connection)
        }
    }

    fn drive<D>(sender: Sender, driver: D, opening: Opening, tasks: &Tasks) -> Arc<Self>
    where
        D: Future<Output = Result<(), hyper::Error>> + Send + 'static,
    {
        let connection = Arc::new(Self {
            sender,
            streams: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            drained: opening.drained.clone(),
            opened: clock::now(),
            idle_since: Mutex::new(clock::now()),
            activity: Arc::clone(opening.liveness.activity()),
            path: opening.path,
            gauge: opening.gauges.streams,
        });
        let own = Arc::downgrade(&connection);
        let activity = Arc::clone(&connection.activity);
        let open = Counted::one(opening.gauges.connections);
        let drained = opening.drained;
        // HTTP/1.1 has no PINGs: there silence says nothing.
        let liveness = (opening.version == Alpn::H2).then_some(opening.liveness);
        tasks.spawn("upstream-connection", async move {
            let _open = open;
            let silent = async {
                match liveness {
                    Some(liveness) => liveness.end().await,
                    None => std::future::pending().await,
                }
            };
            let mut driver = std::pin::pin!(driver);
            // Draining only drops the pool's sender: hyper then ends the connection after its last stream.
            let ended = tokio::select! {
                ended = driver.as_mut() => ended,
                () = silent => {
                    tracing::debug!("an upstream connection that has gone silent is given up");
                    activity.sever();
                    driver.await
                }
            };
            if let Some(connection) = own.upgrade() {
                connection.closed.store(true, Ordering::Relaxed);
            }
            if let Err(error) = ended {
                tracing::debug!(error = %chain(&error), drained = drained.is_cancelled(), "upstream connection ended");
            }
        });
        connection
    }

    fn is_closed(&self) -> bool {
        let gone = match &self.sender {
            Sender::Http2 { requests, .. } => requests.is_closed(),
            Sender::Http1 { .. } => false,
        };
        gone || self.closed.load(Ordering::Relaxed)
    }

    /// Whether the pool should forget this connection.
    pub(super) fn is_gone(&self) -> bool {
        self.is_closed() || self.activity.overtaken().is_cancelled()
    }

    /// An HTTP/1.1 connection can take a request again.
    fn rest(&self, sender: http1::SendRequest<Body>) {
        if let Sender::Http1 { idle, .. } = &self.sender {
            *idle.lock() = Some(sender);
        }
    }

    /// What is heard on it.
    pub(super) fn activity(&self) -> &ConnectionActivity {
        &self.activity
    }

    /// The way that it took.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// How many streams are open.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Since when it has had no stream; `None` while it has one.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        (self.streams() == 0).then(|| *self.idle_since.lock())
    }

    /// Cancelled when the streams on it should move to another one.
    pub(super) fn drained(&self) -> &CancellationToken {
        &self.drained
    }

    /// Whether the peer's SETTINGS may still be on their way, so that there may soon be room. Has them looked for.
    pub(super) fn is_settling(&self) -> bool {
        let Sender::Http2 { allowance, .. } = &self.sender else {
            return false;
        };
        if allowance.is_settled() {
            return false;
        }
        allowance.asked.notify_one();
        !self.is_gone() && clock::now() < self.opened + SETTLING
    }

    /// How many streams it takes at once, as far as is known; at least one.
    pub(super) fn allows(&self) -> usize {
        match &self.sender {
            Sender::Http2 { allowance, .. } if allowance.is_settled() => {
                allowance.streams().clamp(1, MAX_STREAMS)
            }
            Sender::Http2 { .. } => MAX_STREAMS,
            Sender::Http1 { .. } => 1,
        }
    }

    /// Takes a stream if there is room: what the peer allows now counts, for it may change its mind.
    pub(super) fn try_lease(self: &Arc<Self>, released: &Arc<Notify>) -> Option<Lease> {
        if self.is_gone() {
            return None;
        }
        let http1 = match &self.sender {
            Sender::Http2 { allowance, .. } => {
                let room = allowance.streams().min(MAX_STREAMS);
                let take = |n: usize| (n < room).then_some(n + 1);
                self.streams
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .ok()?;
                None
            }
            Sender::Http1 { idle, .. } => {
                let sender = idle.lock().take()?;
                self.streams.store(1, Ordering::Relaxed);
                Some(sender)
            }
        };
        self.gauge.inc();
        Some(Lease {
            connection: Arc::clone(self),
            http1,
            released: Arc::clone(released),
        })
    }
}

/// Counts one for as long as it lives.
struct Counted(Gauge);

impl Counted {
    fn one(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Lease {
    /// Cancelled when the stream should move to another connection.
    pub(super) fn drained(&self) -> &CancellationToken {
        self.connection.drained()
    }

    /// Sends a request; resolves with the head of the answer. One whose repetition is harmless does not wait for it on a
    /// connection that others overtake.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
        idempotency: Idempotency,
    ) -> Result<Response<Incoming>, SendFailed> {
        let overtaken = self.connection.activity().overtaken().clone();
        tokio::select! {
            biased;
            sent = self.exchange(request) => sent,
            () = overtaken.cancelled(), if idempotency == Idempotency::Idempotent => {
                let message = "nothing arrived on its connection while new ones were answered";
                Err(SendFailed {
                    error: UpstreamError::maybe_sent(Failure::Silent, message),
                    unsent: None,
                })
            }
        }
    }

    async fn exchange(&mut self, request: Request<Body>) -> Result<Response<Incoming>, SendFailed> {
        // A connection may go away just when hyper has handed a request over: then hyper reports the GOAWAY, though the
        // apiserver may have processed what was whole with its head.
        let once = request.body().is_end_stream() && !request.method().is_safe();
        let (copy, request) = Replay::of(request);
        let sent = match (&self.connection.sender, self.http1.as_mut()) {
            (Sender::Http2 { requests, .. }, _) => requests.clone().try_send_request(to_http2(request)).await,
            (Sender::Http1 { .. }, Some(sender)) => sender.try_send_request(to_http1(request)).await,
            (Sender::Http1 { .. }, None) => {
                let error = UpstreamError::unsent(Failure::Broken, "the connection is in use");
                return Err(SendFailed {
                    error,
                    unsent: Some(request),
                });
            }
        };
        if let (Ok(_), Sender::Http2 { allowance, .. }) = (&sent, &self.connection.sender) {
            allowance.answered();
        }
        let sent = sent.map(|mut response| {
            // It is this connection's, and the client's may have another.
            *response.version_mut() = Version::default();
            response
        });
        sent.map_err(|mut failed| {
            let mut unsent = failed.take_message();
            let left = is_unprocessed(failed.error());
            if left {
                // It takes no more requests, whether hyper has noticed or not.
                self.connection.closed.store(true, Ordering::Relaxed);
            }
            let unprocessed = left && !once;
            if unprocessed {
                unsent = unsent.or_else(|| copy.again());
            }
            let message = chain(failed.error());
            let cause = Cause::of_breaking(failed.error());
            let error = if unsent.is_some() || unprocessed {
                UpstreamError::unsent(Failure::Broken, message)
            } else {
                UpstreamError::maybe_sent(Failure::Broken, message)
            };
            let error = error.because(cause);
            SendFailed { error, unsent }
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        *self.connection.idle_since.lock() = clock::now();
        self.connection.gauge.dec();
        self.connection.streams.fetch_sub(1, Ordering::Relaxed);
        if let (Sender::Http1 { used, .. }, Some(sender)) = (&self.connection.sender, self.http1.take()) {
            let released = Arc::clone(&self.released);
            // Only a connection that has ended does not take it back.
            let _ended = used.send(Used { sender, released });
        } else {
            self.released.notify_one();
        }
    }
}

async fn ready(mut sender: http1::SendRequest<Body>) -> Result<http1::SendRequest<Body>, hyper::Error> {
    sender.ready().await?;
    Ok(sender)
}

/// Makes an HTTP/1.1 connection available again after each request, until it ends: it is idle once hyper has read the answer to its
/// end.
async fn reuse(connection: Weak<Connection>, mut returned: mpsc::UnboundedReceiver<Used>) {
    while let Some(Used { sender, released }) = returned.recv().await {
        let sender = ready(sender).await;
        let Some(connection) = connection.upgrade() else {
            return;
        };
        match sender {
            Ok(sender) => connection.rest(sender),
            // The answer was not read to its end, or upstream closes after each.
            Err(_) => connection.closed.store(true, Ordering::Relaxed),
        }
        released.notify_one();
    }
}

/// HTTP/2 carries the authority in the target, so `Host` would say it twice.
fn to_http2(mut request: Request<Body>) -> Request<Body> {
    request.headers_mut().remove(http::header::HOST);
    request
}

/// HTTP/1.1 wants the origin form and a `Host` header.
pub(super) fn to_http1(mut request: Request<Body>) -> Request<Body> {
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = http::HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(http::header::HOST, host);
    }
    if let Some(target) = request.uri().path_and_query().cloned() {
        *request.uri_mut() = http::Uri::from(target);
    }
    *request.version_mut() = http::Version::HTTP_11;
    request
}

#[derive(Clone)]
struct Executor(Tasks);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn("upstream-stream", future);
    }
}

#[cfg(test)]
mod tests;
