//! Binding and the accept loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::proxy::Proxy;
use crate::runtime::clock;
use crate::runtime::socket;
use crate::runtime::tasks::Tasks;
use crate::tls::{ServerMaterial, TrustedTime};

use super::accept_backoff::{AcceptBackoff, News};
use super::bind;
use super::connection::{self, ConnectionConfig};
use super::metrics::ServerMetrics;
use super::seats::{Room, Seats};
use super::serving::Serving;

/// What a listener needs to know.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// Where to listen; port 0 picks a free one.
    pub addresses: Vec<SocketAddr>,
    /// So many connections at once: half for configured clients, three eighths for others, and an eighth for handshakes. A further one takes the place of the one of its kind that has been idle for longest.
    pub max_connections: usize,
    /// For the TLS handshake.
    pub handshake_timeout: Duration,
    /// For the first request to arrive, and for every header block on HTTP/1.1.
    pub header_timeout: Duration,
    /// How long a stop waits for requests under way.
    pub drain_timeout: Duration,
    /// A client that takes nothing of what is ready for it for so long is dropped.
    pub write_timeout: Duration,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub struct ListenError {
    /// The configured address.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

/// The listener before it serves.
pub struct Listener;

impl Listener {
    /// Binds every address, or none; an address that the node does not have yet counts as bound.
    ///
    /// # Errors
    /// The first address that cannot be bound.
    pub async fn bind(config: ListenerConfig) -> Result<Bound, ListenError> {
        let listeners = config.addresses.iter().map(|address| at(*address));
        let listeners = listeners.collect::<Result<_, _>>()?;
        Ok(Bound { config, listeners })
    }

    /// Whether an address could be listened on. Needs a tokio runtime.
    ///
    /// # Errors
    /// As [`Listener::bind`].
    pub fn try_address(address: SocketAddr) -> Result<(), ListenError> {
        at(address).map(drop)
    }
}

fn at(address: SocketAddr) -> Result<TcpListener, ListenError> {
    bind::listen(address).map_err(|source| ListenError { address, source })
}

/// A listener that knows its addresses.
pub struct Bound {
    config: ListenerConfig,
    listeners: Vec<TcpListener>,
}

impl Bound {
    /// The bound addresses, in the configured order.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners
            .iter()
            .filter_map(|listener| listener.local_addr().ok())
            .collect()
    }

    /// Serves until `tasks` is stopped.
    pub fn spawn(
        self,
        proxy: &Arc<Proxy>,
        material: &watch::Receiver<Option<Arc<ServerMaterial>>>,
        time: &Arc<TrustedTime>,
        metrics: &ServerMetrics,
        tasks: &Tasks,
    ) {
        let seats = Seats::new(Room::of(self.config.max_connections));
        for listener in self.listeners {
            let acceptor = Acceptor {
                serving: Serving::new(material.clone(), Arc::clone(time)),
                seats: seats.clone(),
                proxy: Arc::clone(proxy),
                metrics: metrics.clone(),
                config: ConnectionConfig {
                    handshake_timeout: self.config.handshake_timeout,
                    header_timeout: self.config.header_timeout,
                    drain_timeout: self.config.drain_timeout,
                    write_timeout: self.config.write_timeout,
                },
                tasks: tasks.clone(),
            };
            tasks.spawn_critical("accept", acceptor.run(listener));
        }
    }
}

struct Acceptor {
    serving: Serving,
    seats: Seats,
    proxy: Arc<Proxy>,
    metrics: ServerMetrics,
    config: ConnectionConfig,
    tasks: Tasks,
}

/// Between two tries when the process is out of file descriptors or memory.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

impl Acceptor {
    async fn run(mut self, listener: TcpListener) {
        let mut backoff = AcceptBackoff::None;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let (state, news) = backoff.accepted(clock::now());
                    backoff = state;
                    if news == News::Over {
                        tracing::info!("connections are accepted again");
                    }
                    self.accepted(stream, peer);
                }
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    let (state, news) = backoff.failed(clock::now());
                    backoff = state;
                    if news == News::Begun {
                        tracing::warn!(%error, "cannot accept connections, trying again");
                    }
                    self.metrics.reject("accept_error");
                    tokio::time::sleep(ACCEPT_BACKOFF).await;
                }
            }
        }
    }

    fn accepted(&mut self, stream: TcpStream, peer: SocketAddr) {
        let Some(serving) = self.serving.current() else {
            self.metrics.reject("not_ready");
            tracing::debug!(%peer, "no serving certificate or client CA yet, closing the connection");
            return;
        };
        socket::set_up(&stream);
        let connection = connection::serve(
            (stream, self.seats.arrive(peer.ip().to_canonical())),
            peer,
            serving,
            Arc::clone(&self.proxy),
            self.config.clone(),
            (self.metrics.clone(), self.tasks.clone()),
        );
        self.tasks.spawn("connection", connection);
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
