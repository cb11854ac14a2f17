//! What the serving certificate counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// What became of an attempt, as a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Submitted,
    Issued,
    Denied,
    Failed,
    Unusable,
    Gone,
    Refused,
    Unreachable,
}

impl Outcome {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Issued => "issued",
            Self::Denied => "denied",
            Self::Failed => "failed",
            Self::Unusable => "unusable",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: &'static str,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Metrics {
    outcomes: Family<Labels, Counter>,
    pub(super) waiting: Gauge,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "edgehold_serving_csr",
            "Requests for the serving certificate, by what became of them",
            metrics.outcomes.clone(),
        );
        registry.register(
            "edgehold_serving_csr_waiting",
            "Whether a request for the serving certificate waits for approval",
            metrics.waiting.clone(),
        );
        metrics
    }

    pub(super) fn count(&self, outcome: Outcome) {
        let outcome = outcome.as_str();
        self.outcomes.get_or_create(&Labels { outcome }).inc();
    }
}
