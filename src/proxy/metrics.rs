//! What the proxy counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::filter::{Kind, Outcome};
use crate::wire::WireError;

use super::tally::RequestMetrics;
use super::watch::Census;

/// Counters of the proxy. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub struct ProxyMetrics {
    /// Compressed bytes received and unpacked here: of watches, and of reads whose clients do not take gzip.
    pub gzip_received: Counter,
    /// Bytes that they unpacked to beyond that: what the link was spared.
    pub gzip_saved: Counter,
    /// Answers that upstream broke by what it sent.
    unreadable: Family<Unreadable, Counter>,
    /// Objects of `default/kubernetes` on their way to clients of `inCluster`.
    filtered: Family<Filtered, Counter>,
    /// Requests.
    pub(super) requests: RequestMetrics,
    /// Watches.
    pub(super) watches: Census,
    /// Lists that edgehold asked for by itself, for views that had lost their place.
    healed: Family<Healed, Counter>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Healed {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Filtered {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Unreadable {
    reason: &'static str,
}

impl ProxyMetrics {
    /// New counters, registered under `edgehold_requests*`, `edgehold_cache_misses`, `edgehold_watches*`,
    /// `edgehold_upstream_gzip_*`, `edgehold_upstream_unreadable`, `edgehold_filtered_objects` and
    /// `edgehold_healing_lists`.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        metrics.requests.register(registry);
        metrics.watches.register(registry);
        registry.register(
            "edgehold_upstream_gzip_received_bytes",
            "Compressed bytes received and unpacked here: of watches, and of reads whose clients do not take gzip",
            metrics.gzip_received.clone(),
        );
        registry.register(
            "edgehold_upstream_gzip_saved_bytes",
            "Bytes that the link was spared by asking for compression",
            metrics.gzip_saved.clone(),
        );
        registry.register(
            "edgehold_upstream_unreadable",
            "Answers broken off because of what upstream sent: damaged gzip, an unknown content coding of a watch, what is no \
             watch event or too large for one",
            metrics.unreadable.clone(),
        );
        registry.register(
            "edgehold_filtered_objects",
            "Service and endpoints of default/kubernetes on their way to clients of inCluster, by what became of them",
            metrics.filtered.clone(),
        );
        registry.register(
            "edgehold_healing_lists",
            "Lists asked for by edgehold itself because a view had lost its place while a client watched, by what came of them",
            metrics.healed.clone(),
        );
        metrics
    }

    pub(super) fn unreadable(&self, error: &WireError) {
        let reason = error.as_str();
        self.unreadable.get_or_create(&Unreadable { reason }).inc();
    }

    pub(super) fn healed(&self, outcome: &'static str) {
        self.healed.get_or_create(&Healed { outcome }).inc();
    }

    pub(super) fn filtered(&self, kind: Kind, outcome: Outcome) {
        let (kind, outcome) = (kind.as_str(), outcome.as_str());
        self.filtered.get_or_create(&Filtered { kind, outcome }).inc();
    }
}
