//! Making connections: TCP, the tunnel of a proxy if there is one, and TLS, within `connectTimeout`.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::runtime::tasks::Tasks;
use crate::tls::{ClientStream, ClientTls};

use super::error::{Failure, UpstreamError, chain};
use super::eyeballs;
use super::metrics::UpstreamMetrics;
use super::proxy::{self, HttpProxy};
use super::pulse::{Felt, Pulse, while_heard};
use super::server::Server;
use super::settings::{DialSettings, Endpoint};

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

    /// A connection after its TLS handshake, and its pulse. `limit` is for TCP, and for silence during the handshake:
    /// on a slow link that takes as long as it takes.
    pub(super) async fn connect(
        &self,
        tls: &ClientTls,
        limit: Duration,
    ) -> Result<(ClientStream<Felt<TcpStream>>, Arc<Pulse>), UpstreamError> {
        self.metrics.dialed(self.server.name());
        let connected = async {
            let late = || self.late(limit);
            let tcp = tokio::time::timeout(limit, self.socket());
            let tcp = self.impatiently(tcp).await.map_err(|_| late())??;
            let _best_effort = tcp.set_nodelay(true);
            let pulse = Pulse::new(self.server.vitals());
            let felt = Felt::new(tcp, Arc::clone(&pulse));
            let handshake = tls.connect(&self.server.endpoint().server_name, felt);
            let stream = while_heard(&pulse, limit, handshake).await.ok_or_else(late)?;
            let stream = stream.map_err(|error| {
                UpstreamError::unsent(Failure::Tls, format!("{}: {}", self.way(), chain(&error)))
            })?;
            Ok((stream, pulse))
        };
        let connected = connected.await;
        if self.proxy().is_some() {
            let obstacle = connected.as_ref().err();
            self.server
                .way_is(obstacle.map(|error: &UpstreamError| error.message.as_str()));
        }
        connected
    }

    /// A probe waits for a proxy longer than a person should before the log says so.
    async fn impatiently<T>(&self, socket: impl Future<Output = T>) -> T {
        let late = async {
            tokio::time::sleep(self.settings.connect_timeout).await;
            if self.proxy().is_some() {
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
    }

    /// A socket that leads to the server.
    async fn socket(&self) -> Result<TcpStream, UpstreamError> {
        let failed =
            |error: String| UpstreamError::unsent(Failure::Connect, format!("{}: {error}", self.way()));
        let Some(proxy) = self.proxy() else {
            let Endpoint { host, port, .. } = self.server.endpoint();
            return tcp(host, *port).await.map_err(|error| failed(error.to_string()));
        };
        let authorization = match &proxy.credentials {
            None => None,
            Some(credentials) => {
                let credentials = credentials.clone();
                let read = self.tasks.spawn_blocking(move || credentials.authorization());
                let read = read.await.unwrap_or_else(|error| Err(io::Error::other(error)));
                Some(read.map_err(|error| failed(error.to_string()))?)
            }
        };
        let tcp = tcp(&proxy.host, proxy.port)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let tunnel = proxy::tunnel(tcp, self.server.name(), authorization).await;
        tunnel.map_err(|error| failed(error.to_string()))
    }

    /// The proxy that the way to this server leads through.
    fn proxy(&self) -> Option<&HttpProxy> {
        let Endpoint { host, port, .. } = self.server.endpoint();
        let proxy = self.settings.proxy.as_ref();
        proxy.filter(|proxy| proxy.serves(host, *port))
    }

    /// For messages: the server, and what lies on the way to it.
    fn way(&self) -> String {
        match self.proxy() {
            None => self.server.to_string(),
            Some(proxy) => format!("{} through the proxy {proxy}", self.server),
        }
    }
}

/// A connection to a host, which is looked up for every one: what the name leads to may have changed.
async fn tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = eyeballs::resolve(host, port).await?;
    eyeballs::race(addresses, TcpStream::connect).await
}
