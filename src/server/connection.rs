//! One client connection: handshake, HTTP, drain.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpStream;

use crate::proxy::{ConnectionDrain, Peer, Proxy};
use crate::runtime::body;
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::tls::{self, Alpn, PeerCertificate, ServerStream, ServerTls, TrustedTime};

use super::linger::Lingering;
use super::metrics::ServerMetrics;
use super::seats::{Holder, Seat};
use super::serving::Clients;
use super::write_timeout::{self, Streams, Taking};

/// Time limits of one connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionConfig {
    pub(super) handshake_timeout: Duration,
    pub(super) header_timeout: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) write_timeout: Duration,
}

/// What one client may have under way on a connection.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    /// Requests at once, on HTTP/2.
    streams: u32,
    /// Bytes of a header section.
    section: u32,
}

impl Bounds {
    /// A node holds hundreds of watches, and client-go opens one connection for all of them (wire contract 8.3). A section may be
    /// as large as for kube-apiserver; on HTTP/1.1 400 KB, hyper's own limit.
    const CONFIGURED: Self = Self {
        streams: 2000,
        section: 1024 * 1024,
    };

    /// Anybody may open such connections, and a section is held in memory before anything is known of who sends it. A token of a
    /// service account takes 2 KiB; kube-apiserver itself allows 100 streams.
    const STRANGERS: Self = Self {
        streams: 250,
        section: 64 * 1024,
    };

    fn of(holder: &Holder) -> Self {
        match holder {
            Holder::Configured(_) => Self::CONFIGURED,
            Holder::Stranger(_) | Holder::Shaking(_) => Self::STRANGERS,
        }
    }
}

/// What hyper reads of an HTTP/1.1 request before it is a whole head: its own default.
const HTTP1_BUFFER: u32 = 8192 + 4096 * 100;

/// What a client may upload before the apiserver takes it: with hyper's defaults (1 MiB for both) one upload that stands
/// still would stop all others of its connection. Objects are at most 3 MiB.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// What hyper keeps of an answer that its client does not take, at most one frame more.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that were reset before they were looked at: more is a flood (CVE-2023-44487), and the connection ends.
const MAX_PENDING_RESETS: usize = 20;

/// Streams that we reset for errors of the client: more is a flood (CVE-2025-8671), and the connection ends.
const MAX_ERROR_RESETS: usize = 256;

/// Finds clients that vanished without a word; the same timing as client-go's.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Why a connection was closed for another, as a metric label.
const FULL: &str = "too_many_connections";

/// Serves one accepted connection to its end. Never fails: everything that goes wrong here concerns this client only.
pub(super) async fn serve(
    (stream, seat): (TcpStream, Seat),
    address: SocketAddr,
    (tls, clients): (ServerTls, Clients),
    proxy: Arc<Proxy>,
    config: ConnectionConfig,
    (metrics, tasks): (ServerMetrics, Tasks),
) {
    let shaking = shake(stream, (&tls, &seat), address, config.handshake_timeout, &metrics);
    // While hands are shaken there is no conversation, and afterwards nothing of this.
    let Some(stream) = Box::pin(shaking).await else {
        return;
    };
    let certificate = tls::peer_certificate(&stream);
    let holder = holder(&proxy, certificate.as_ref(), address);
    let bounds = Bounds::of(&holder);
    if seat.seated(holder).is_err() {
        return metrics.reject(FULL);
    }
    metrics.accepted.inc();
    let _open = Open::count(&metrics.open);

    let time = Arc::clone(clients.time());
    let standing = clients.standing(&stream);
    let drain = ConnectionDrain::new(tasks.cancelled());
    let peer = Arc::new(Peer {
        certificate,
        standing: standing.clone(),
        address,
        write_timeout: config.write_timeout,
        drain: drain.clone(),
    });
    // In a place of its own: while hands are shaken there is none.
    let serving = Box::pin(serve_http(
        (stream, seat, bounds),
        Arc::clone(&peer),
        proxy,
        config,
        time,
        (metrics, tasks),
    ));
    let Some(standing) = standing else {
        return serving.await;
    };
    tokio::select! {
        () = serving => {}
        // At once, not with a drain: whoever holds a key that was withdrawn gets no further byte.
        error = Box::pin(standing.withdrawn()) => {
            drain.start();
            drain.cut();
            let name = peer.certificate.as_ref().and_then(|certificate| certificate.common_name.as_deref());
            tracing::info!(
                peer = %address, name, %error,
                "the certificate of a client is not good any more, its connection was cut"
            );
            drain.tunnels_ended().await;
        }
    }
}

/// Shakes hands; `None` if nothing comes of it, which is counted.
async fn shake(
    stream: TcpStream,
    (tls, seat): (&ServerTls, &Seat),
    address: SocketAddr,
    limit: Duration,
    metrics: &ServerMetrics,
) -> Option<ServerStream> {
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(limit, tls::accept(stream, tls)) => shaken,
        () = seat.sent_away() => {
            metrics.reject(FULL);
            return None;
        }
    };
    match shaken {
        Ok(Ok(stream)) => return Some(stream),
        Ok(Err(error)) => {
            metrics.reject(error.kind.as_str());
            tracing::debug!(peer = %address, kind = error.kind.as_str(), %error, "handshake failed");
        }
        Err(_) => {
            metrics.reject("timeout");
            tracing::debug!(peer = %address, "handshake timed out");
        }
    }
    None
}

/// Whose connection it is, once hands have been shaken.
fn holder(proxy: &Proxy, certificate: Option<&PeerCertificate>, address: SocketAddr) -> Holder {
    let name = certificate.and_then(|certificate| certificate.common_name.as_deref());
    match name.filter(|name| proxy.transports().named(name).is_some()) {
        Some(name) => Holder::Configured(name.into()),
        None => Holder::Stranger(address.ip().to_canonical()),
    }
}

/// HTTP, until the client ends it or it has been drained.
async fn serve_http(
    (stream, seat, bounds): (ServerStream, Seat, Bounds),
    peer: Arc<Peer>,
    proxy: Arc<Proxy>,
    config: ConnectionConfig,
    time: Arc<TrustedTime>,
    (metrics, tasks): (ServerMetrics, Tasks),
) {
    let http2 = tls::alpn(&stream) == Some(Alpn::H2);
    let (address, drain) = (peer.address, peer.drain.clone());
    let expired = peer
        .certificate
        .as_ref()
        .is_some_and(|certificate| certificate.not_after < time.floored(clock::wall()));
    let (asked, is_tunnel) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let seat = Arc::new(seat);
    let service = {
        let (asked, is_tunnel, seat) = (Arc::clone(&asked), Arc::clone(&is_tunnel), Arc::clone(&seat));
        service_fn(move |request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let busy = seat.busy();
            let (proxy, peer) = (Arc::clone(&proxy), Arc::clone(&peer));
            // hyper keeps the place of this future for as long as the answer streams: for hours under a watch.
            let handling = Box::pin(proxy.handle(request, peer));
            let is_tunnel = Arc::clone(&is_tunnel);
            async move {
                let answer = handling.await;
                if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
                    is_tunnel.store(true, Ordering::Relaxed);
                }
                let answer = answer.map(write_timeout::watched);
                Ok::<_, Infallible>(answer.map(|body| body::holding(body, busy)))
            }
        })
    };
    let streams = Streams {
        tasks: tasks.clone(),
        limit: config.write_timeout,
        metrics: metrics.clone(),
    };
    let builder = builder(http2, bounds, &config, streams);
    let taking = Taking::new(stream, config.write_timeout, metrics.clone());
    let stream = TokioIo::new(Lingering::new(taking, is_tunnel));
    let mut connection = pin!(builder.serve_connection_with_upgrades(stream, service));
    let mut silence = pin!(tokio::time::sleep(config.header_timeout));
    let mut silent = true;
    let mut leaving = Box::pin(async {
        tokio::select! {
            () = tasks.cancelled().cancelled() => {}
            () = time.in_touch(), if expired => {
                tracing::debug!(peer = %address, "the outage is over, draining the connection of an expired certificate");
            }
        }
    });
    let (ended, drained) = loop {
        tokio::select! {
            ended = connection.as_mut() => break (ended, false),
            () = seat.sent_away() => {
                tracing::debug!(peer = %address, "an idle connection makes room for another");
                return metrics.reject(FULL);
            }
            () = silence.as_mut(), if silent => {
                silent = false;
                if !asked.load(Ordering::Relaxed) {
                    metrics.reject("timeout");
                    return;
                }
            }
            () = leaving.as_mut() => {
                drain.start();
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(config.drain_timeout, connection.as_mut()).await {
                    Ok(ended) => break (ended, true),
                    Err(_) => return,
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %address, %error, "client connection ended");
    }
    // What was upgraded is still this client's connection: counted, busy, and drained as any other.
    let _busy = seat.busy();
    let mut tunnels = pin!(drain.tunnels_ended());
    if !drained {
        tokio::select! {
            biased;
            () = tunnels.as_mut() => return,
            // A watch over WebSocket ends now, as one over HTTP does.
            () = leaving => drain.start(),
        }
    }
    if tokio::time::timeout(config.drain_timeout, tunnels.as_mut())
        .await
        .is_err()
    {
        drain.cut();
        tunnels.await;
    }
}

fn builder(
    http2: bool,
    bounds: Bounds,
    config: &ConnectionConfig,
    streams: Streams,
) -> auto::Builder<Streams> {
    let mut builder = auto::Builder::new(streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_buf_size(bounds.section.min(HTTP1_BUFFER) as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(bounds.streams)
        .max_header_list_size(bounds.section)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_frame_size(64 * 1024)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    if http2 {
        builder.http2_only()
    } else {
        builder.http1_only()
    }
}

struct Open(Gauge);

impl Open {
    fn count(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, D, E, G, F: Future>(_: impl Fn(A, B, C, D, E, G) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn the_task_of_a_connection_is_small() {
        let sizes = size(serve) + size(serve_http);
        assert!(sizes < 9 << 10, "{} and {} bytes", size(serve), size(serve_http));
    }
}
