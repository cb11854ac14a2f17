//! What the proxy counts.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counters of the proxy. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub struct ProxyMetrics {
    /// Compressed bytes received for clients that did not ask for compression.
    pub gzip_received: Counter,
    /// Bytes that they unpacked to beyond that: what the link was spared.
    pub gzip_saved: Counter,
}

impl ProxyMetrics {
    /// New counters, registered under `edgehold_upstream_gzip_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "edgehold_upstream_gzip_received_bytes",
            "Compressed bytes received for clients that did not ask for compression",
            metrics.gzip_received.clone(),
        );
        registry.register(
            "edgehold_upstream_gzip_saved_bytes",
            "Bytes that the link was spared by asking for compression",
            metrics.gzip_saved.clone(),
        );
        metrics
    }
}
