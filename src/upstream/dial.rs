//! Making connections: TCP and TLS within `connectTimeout`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;

use crate::tls::{ClientStream, ClientTls};

use super::error::{Failure, UpstreamError, chain};
use super::eyeballs;
use super::metrics::UpstreamMetrics;
use super::pulse::{Felt, Pulse, while_heard};
use super::server::Server;
use super::settings::DialSettings;

/// Makes connections to one server.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    server: Arc<Server>,
    settings: DialSettings,
    metrics: UpstreamMetrics,
}

impl Dialer {
    pub(super) fn new(server: Arc<Server>, settings: DialSettings, metrics: UpstreamMetrics) -> Self {
        Self {
            server,
            settings,
            metrics,
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
        let late = || {
            let message = format!("{}: no connection in {limit:?}", self.server);
            UpstreamError::unsent(Failure::Connect, message)
        };
        let tcp = tokio::time::timeout(limit, self.tcp())
            .await
            .map_err(|_| late())??;
        let _best_effort = tcp.set_nodelay(true);
        let pulse = Pulse::new(self.server.vitals());
        let felt = Felt::new(tcp, Arc::clone(&pulse));
        let handshake = tls.connect(&self.server.endpoint().server_name, felt);
        let stream = while_heard(&pulse, limit, handshake).await.ok_or_else(late)?;
        let stream = stream.map_err(|error| UpstreamError::unsent(Failure::Tls, chain(&error)))?;
        Ok((stream, pulse))
    }

    async fn tcp(&self) -> Result<TcpStream, UpstreamError> {
        let endpoint = self.server.endpoint();
        let failed =
            |error: io::Error| UpstreamError::unsent(Failure::Connect, format!("{}: {error}", self.server));
        // Looked up for every connection: what the name leads to may have changed.
        let addresses = eyeballs::resolve(&endpoint.host, endpoint.port)
            .await
            .map_err(failed)?;
        eyeballs::race(addresses, TcpStream::connect)
            .await
            .map_err(failed)
    }
}
