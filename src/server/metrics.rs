//! What the listener counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Why a connection was closed before its first request, as a metric label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Rejected {
    /// A handshake error kind, or `timeout`, `too_many_connections`, `not_ready`, `accept_error`.
    pub reason: &'static str,
}

/// Counters of the listener. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub struct ServerMetrics {
    /// Connections whose TLS handshake succeeded.
    pub accepted: Counter,
    /// Connections that were closed before a request.
    pub rejected: Family<Rejected, Counter>,
    /// Connections that are open now.
    pub open: Gauge,
    /// Answers given up because their client took nothing of them.
    pub stalled: Counter,
}

impl ServerMetrics {
    /// New counters, registered under `edgehold_connections_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "edgehold_connections_accepted",
            "Client connections whose TLS handshake succeeded",
            metrics.accepted.clone(),
        );
        registry.register(
            "edgehold_connections_rejected",
            "Client connections closed before a request",
            metrics.rejected.clone(),
        );
        registry.register(
            "edgehold_connections_open",
            "Open client connections",
            metrics.open.clone(),
        );
        registry.register(
            "edgehold_clients_stalled",
            "Answers given up because their client took nothing of them",
            metrics.stalled.clone(),
        );
        metrics
    }

    /// Counts a connection that was closed before a request.
    pub fn reject(&self, reason: &'static str) {
        self.rejected.get_or_create(&Rejected { reason }).inc();
    }
}
