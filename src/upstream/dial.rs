//! Making connections: TCP, the tunnel of a proxy if there is one, and TLS, within `connectTimeout`.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::runtime::socket;
use crate::runtime::tasks::Tasks;
use crate::tls::{ClientStream, ClientTls};

use super::activity::{ConnectionActivity, Tracked, while_heard};
use super::cause::Cause;
use super::endpoint::Endpoint;
use super::error::{UpstreamError, chain};
use super::failure::Failure;
use super::happy_eyeballs;
use super::interface_selection::Seen;
use super::metrics::UpstreamMetrics;
use super::proxy::UpstreamProxy;
use super::route::{Route, RouteError};
use super::server::Server;
use super::settings::DialSettings;

/// Over which of the configured interfaces a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Via {
    /// That which works, as far as is known, else any other.
    Best,
    /// This one, to see whether it works.
    Only(usize),
}

/// Which way a connection took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    /// The number of its interface; 0 if none is configured.
    pub(super) interface: usize,
    /// The other end: the server, or the proxy on the way to it.
    pub(super) address: Option<SocketAddr>,
}

/// A new connection after its TLS handshake.
pub(super) struct Dialed {
    pub(super) stream: ClientStream<Tracked<TcpStream>>,
    pub(super) activity: Arc<ConnectionActivity>,
    pub(super) path: Path,
}

/// Makes connections to one server.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    server: Arc<Server>,
    settings: DialSettings,
    metrics: UpstreamMetrics,
    tasks: Tasks,
}

impl Dialer {
    pub(super) fn new(
        server: Arc<Server>,
        settings: DialSettings,
        metrics: UpstreamMetrics,
        tasks: Tasks,
    ) -> Self {
        Self {
            server,
            settings,
            metrics,
            tasks,
        }
    }

    pub(super) fn server(&self) -> &Arc<Server> {
        &self.server
    }

    pub(super) fn settings(&self) -> &DialSettings {
        &self.settings
    }

    pub(super) fn metrics(&self) -> &UpstreamMetrics {
        &self.metrics
    }

    /// A connection after its TLS handshake. `limit` is for the silence of the server: on a link that others fill the
    /// handshakes take as long as they take.
    pub(super) async fn connect(
        &self,
        tls: &ClientTls,
        limit: Duration,
        via: Via,
    ) -> Result<Dialed, UpstreamError> {
        self.metrics.dialed(self.server.name());
        let connected = self.connected(tls, limit, via).await;
        if via == Via::Best && self.proxy().is_some() {
            let obstacle = connected.as_ref().err();
            self.server.way_is(obstacle.map(|error| error.message.as_str()));
        }
        connected
    }

    async fn connected(&self, tls: &ClientTls, limit: Duration, via: Via) -> Result<Dialed, UpstreamError> {
        let late = || self.late(limit);
        let of_server = self.server.activity();
        let socket = while_heard(|| of_server.heard(), limit, self.socket(via));
        let (tcp, interface) = self.impatiently(socket, via).await.ok_or_else(late)??;
        let seen = |seen| {
            if via == Via::Best {
                self.server.interface_seen(seen);
            }
        };
        socket::set_up(&tcp);
        let address = tcp.peer_addr().ok();
        let activity = ConnectionActivity::new(of_server);
        let tracked = Tracked::new(tcp, Arc::clone(&activity));
        let handshake = tls.connect(&self.server.endpoint().server_name, tracked);
        let stream = while_heard(|| of_server.heard(), limit, handshake)
            .await
            .ok_or_else(late);
        let stream = stream.and_then(|stream| {
            let message = |error| format!("{}: {}", self.way(), chain(&error));
            stream.map_err(|error| {
                let cause = Cause::Tls(error.kind);
                UpstreamError::unsent(Failure::Tls, message(error)).because(cause)
            })
        });
        let stream = stream.inspect_err(|_| seen(Seen::Misled(interface)))?;
        seen(Seen::Connected(interface));
        Ok(Dialed {
            stream,
            activity,
            path: Path { interface, address },
        })
    }

    /// A probe waits for a proxy longer than a person should before the log says so.
    async fn impatiently<T>(&self, socket: impl Future<Output = T>, via: Via) -> T {
        let late = async {
            tokio::time::sleep(self.settings.connect_timeout).await;
            if via == Via::Best && self.proxy().is_some() {
                let late = self.late(self.settings.connect_timeout);
                self.server.way_is(Some(&late.message));
            }
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            biased;
            connected = socket => connected,
            never = late => match never {},
        }
    }

    /// There was no connection in this time.
    fn late(&self, limit: Duration) -> UpstreamError {
        UpstreamError::unsent(
            Failure::Connect,
            format!("{}: no connection in {limit:?}", self.way()),
        )
        .because(Cause::Late)
    }

    /// A socket that leads to the server, and the number of its interface.
    async fn socket(&self, via: Via) -> Result<(TcpStream, usize), UpstreamError> {
        let interfaces = &self.settings.interfaces;
        if interfaces.is_empty() {
            return self.socket_over(None).await.map(|socket| (socket, 0));
        }
        let order = match via {
            Via::Best => self.server.interface_selections().borrow().order(),
            Via::Only(one) => vec![one],
        };
        let order: Vec<_> = order
            .into_iter()
            .filter_map(|i| Some((i, interfaces.get(i)?)))
            .collect();
        let ways = u32::try_from(order.len().max(1)).unwrap_or(u32::MAX);
        // Each has its share of the time alone.
        let stagger = self.settings.connect_timeout / ways;
        let none = UpstreamError::unsent(Failure::Connect, format!("{}: no interface", self.way()));
        let over = async |(i, interface): (usize, &String)| {
            let socket = self.socket_over(Some(interface)).await?;
            Ok((socket, i))
        };
        happy_eyeballs::staggered(order, stagger, none, over).await
    }

    async fn socket_over(&self, interface: Option<&str>) -> Result<TcpStream, UpstreamError> {
        let failed = |failure: Failure, cause: Cause, error: &dyn fmt::Display| {
            let over = interface.map(|name| format!(" over {name}")).unwrap_or_default();
            let message = format!("{}{over}: {error}", self.way());
            UpstreamError::unsent(failure, message).because(cause)
        };
        let of_socket = |cause, error: io::Error| failed(Failure::of_connecting(&error), cause, &error);
        let route = self.route(interface);
        let pair = match route.proxy.and_then(|proxy| proxy.credentials.clone()) {
            None => None,
            Some(credentials) => {
                let read = self.tasks.spawn_blocking(move || credentials.pair());
                let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
                Some(read.map_err(|error| of_socket(Cause::ProxyBroken, error))?)
            }
        };
        let bound = |bound: Result<(), &io::Error>| {
            let problem = bound.err().map(ToString::to_string);
            let interface = interface.unwrap_or_default();
            self.server.interface_is(interface, problem.as_deref());
        };
        let connected = route.connect(pair, bound).await;
        connected.map_err(|error| match error {
            RouteError::Server(cause, error) | RouteError::Proxy(cause, error) => of_socket(cause, error),
            RouteError::Tunnel(error) => failed(Failure::Connect, error.cause(), &error),
        })
    }

    fn route<'r>(&'r self, interface: Option<&'r str>) -> Route<'r> {
        Route::new(self.server.endpoint(), self.settings.proxy.as_ref(), interface)
    }

    /// The proxy that the way to this server leads through.
    fn proxy(&self) -> Option<&UpstreamProxy> {
        self.route(None).proxy
    }

    /// The host that is looked up for a connection, and the port there.
    pub(super) fn looked_up(&self) -> (&str, u16) {
        let Endpoint { host, port, .. } = self.server.endpoint();
        self.proxy()
            .map_or((host, *port), |proxy| (&proxy.host, proxy.port))
    }

    /// For messages: the server, and what lies on the way to it.
    fn way(&self) -> String {
        match self.proxy() {
            None => self.server.to_string(),
            Some(proxy) => format!("{} through the proxy {proxy}", self.server),
        }
    }
}
