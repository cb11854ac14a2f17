//! What the proxy counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::filter::{Kind, Outcome};

/// Counters of the proxy. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub struct ProxyMetrics {
    /// Compressed bytes received for clients that did not ask for compression.
    pub gzip_received: Counter,
    /// Bytes that they unpacked to beyond that: what the link was spared.
    pub gzip_saved: Counter,
    /// Objects of `default/kubernetes` on their way to clients of `inCluster`.
    filtered: Family<Filtered, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Filtered {
    kind: &'static str,
    outcome: &'static str,
}

impl ProxyMetrics {
    /// New counters, registered under `edgehold_upstream_gzip_*` and `edgehold_filtered_objects`.
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
        registry.register(
            "edgehold_filtered_objects",
            "Service and endpoints of default/kubernetes on their way to clients of inCluster, by what became of them",
            metrics.filtered.clone(),
        );
        metrics
    }

    pub(super) fn filtered(&self, kind: Kind, outcome: Outcome) {
        let (kind, outcome) = (kind.as_str(), outcome.as_str());
        self.filtered.get_or_create(&Filtered { kind, outcome }).inc();
    }
}
