//! One client connection: handshake, HTTP, drain.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use prometheus_client::metrics::gauge::Gauge;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::proxy::{Peer, Proxy};
use crate::runtime::clock;
use crate::tls::{self, Alpn, ServerTls, TrustedTime};

use super::metrics::ServerMetrics;
use super::serving::ClientCa;

/// Time limits of one connection.
#[derive(Debug, Clone)]
pub(super) struct ConnectionConfig {
    pub(super) handshake_timeout: Duration,
    pub(super) header_timeout: Duration,
    pub(super) drain_timeout: Duration,
}

/// A node holds hundreds of watches, and client-go opens one connection for all of them (wire contract 8.3).
const MAX_STREAMS: u32 = 2000;

/// kube-apiserver's own limit of a header block.
const MAX_HEADERS: u32 = 1024 * 1024;

/// Finds clients that vanished without a word; the same timing as client-go's.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);

/// Serves one accepted connection to its end. Never fails: everything that goes wrong here concerns this client only.
pub(super) async fn serve(
    stream: TcpStream,
    address: SocketAddr,
    (tls, mut client_ca, time): (ServerTls, ClientCa, Arc<TrustedTime>),
    proxy: Arc<Proxy>,
    config: ConnectionConfig,
    (metrics, stopping): (ServerMetrics, CancellationToken),
) {
    let stream = match tokio::time::timeout(config.handshake_timeout, tls::accept(stream, &tls)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            metrics.reject(error.kind.as_str());
            tracing::debug!(peer = %address, kind = error.kind.as_str(), %error, "handshake failed");
            return;
        }
        Err(_) => {
            metrics.reject("timeout");
            tracing::debug!(peer = %address, "handshake timed out");
            return;
        }
    };
    metrics.accepted.inc();
    let _open = Open::count(&metrics.open);

    let http2 = tls::alpn(&stream) == Some(Alpn::H2);
    let peer = Arc::new(Peer {
        certificate: tls::peer_certificate(&stream),
        address,
    });
    let verified = peer.certificate.is_some();
    let expired = peer
        .certificate
        .as_ref()
        .is_some_and(|certificate| certificate.not_after < time.floored(clock::wall()));
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let asked = Arc::clone(&asked);
        service_fn(move |request: Request<Incoming>| {
            asked.store(true, Ordering::Relaxed);
            let (proxy, peer) = (Arc::clone(&proxy), Arc::clone(&peer));
            // hyper keeps the place of this future for as long as the answer streams: for hours under a watch.
            let handling = Box::pin(proxy.handle(request, peer));
            async move { Ok::<_, Infallible>(handling.await) }
        })
    };
    let builder = builder(http2, &config);
    let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let mut silence = pin!(tokio::time::sleep(config.header_timeout));
    let mut silent = true;
    // A certificate is good for no longer than its authority: the client verifies anew on another connection.
    let mut leaving = pin!(async {
        tokio::select! {
            () = stopping.cancelled() => {}
            () = client_ca.replaced(), if verified => {
                tracing::debug!(peer = %address, "the client CA was replaced, draining the connection");
            }
            () = time.in_touch(), if expired => {
                tracing::debug!(peer = %address, "the outage is over, draining the connection of an expired certificate");
            }
        }
    });
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            () = silence.as_mut(), if silent => {
                silent = false;
                if !asked.load(Ordering::Relaxed) {
                    metrics.reject("timeout");
                    return;
                }
            }
            () = leaving.as_mut() => {
                connection.as_mut().graceful_shutdown();
                match tokio::time::timeout(config.drain_timeout, connection.as_mut()).await {
                    Ok(ended) => break ended,
                    Err(_) => return,
                }
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(peer = %address, %error, "client connection ended");
    }
}

fn builder(http2: bool, config: &ConnectionConfig) -> auto::Builder<hyper_util::rt::TokioExecutor> {
    // hyper spawns one task for each HTTP/2 stream; each ends with its connection.
    let mut builder = auto::Builder::new(hyper_util::rt::TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
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
        assert!(size(serve) < 8 << 10, "{} bytes", size(serve));
    }
}
