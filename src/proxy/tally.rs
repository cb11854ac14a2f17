//! Counts requests. Every label is from a closed list, whatever clients send.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use http::Response;

use crate::kube::groups;
use crate::kube::request::{Class, RequestInfo};
use crate::runtime::body::Body;
use crate::runtime::clock;

use super::limits::Over;
use super::respond::{FromCache, Ours};

/// Time until the head of the answer: from what the cache needs to what a slow link takes.
const BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0,
];

/// Time spent in edgehold itself: a few hundred microseconds, or the wait in a queue.
const OWN_BUCKETS: [f64; 11] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 10.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    client: &'static str,
    verb: &'static str,
    group: &'static str,
    route: &'static str,
    result: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Took {
    route: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limited {
    limit: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Missed {
    reason: &'static str,
}

/// Counters of requests. Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub(super) struct RequestMetrics {
    requests: Family<Labels, Counter>,
    durations: Family<Took, Histogram>,
    own: Family<Took, Histogram>,
    limited: Family<Limited, Counter>,
    missed: Family<Missed, Counter>,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            own: Family::new_with_constructor(|| Histogram::new(OWN_BUCKETS)),
            limited: Family::default(),
            missed: Family::default(),
        }
    }
}

impl RequestMetrics {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "edgehold_requests",
            "Requests by kind of client, verb, API group (of built-in ones), route, who answered (upstream, cache, edgehold) and code",
            self.requests.clone(),
        );
        registry.register(
            "edgehold_request_duration_seconds",
            "Until the head of the answer, by route and who answered",
            self.durations.clone(),
        );
        registry.register(
            "edgehold_request_own_seconds",
            "What of that edgehold itself took: without the time in which a request was on its way upstream, a connection included",
            self.own.clone(),
        );
        registry.register(
            "edgehold_requests_limited",
            "Requests that were over a limit of their client, by limit (rate, in-flight, watches, headers)",
            self.limited.clone(),
        );
        registry.register(
            "edgehold_cache_misses",
            "Reads that neither the cloud nor the cache could answer, by why the cache could not",
            self.missed.clone(),
        );
    }

    pub(super) fn limited(&self, over: Over) {
        let limit = over.as_str();
        self.limited.get_or_create(&Limited { limit }).inc();
    }

    pub(super) fn missed(&self, reason: &'static str) {
        self.missed.get_or_create(&Missed { reason }).inc();
    }
}

/// One request, from its head to the head of its answer.
pub(super) struct Tally {
    started: Instant,
    client: &'static str,
    verb: &'static str,
    group: &'static str,
    route: &'static str,
    upstream: Upstream,
}

/// How long a request was upstream. Cheap to clone; all clones add up.
#[derive(Debug, Clone, Default)]
pub(super) struct Upstream(Arc<AtomicU64>);

/// It is upstream until this is dropped.
pub(super) struct UnderWay<'u> {
    upstream: &'u Upstream,
    since: Instant,
}

impl Upstream {
    pub(super) fn under_way(&self) -> UnderWay<'_> {
        UnderWay {
            upstream: self,
            since: clock::now(),
        }
    }

    fn took(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let micros = clock::now().saturating_duration_since(self.since).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX);
        self.upstream.0.fetch_add(micros, Ordering::Relaxed);
    }
}

impl Tally {
    /// A request whose caller is not known yet.
    pub(super) fn begin(info: &RequestInfo, class: Class) -> Self {
        let (verb, group) = match info {
            RequestInfo::Resource(resource) => {
                let group = match groups::built_in(&resource.group) {
                    Some("") => "core",
                    Some(group) => group,
                    None => "other",
                };
                (resource.verb.as_str(), group)
            }
            RequestInfo::NonResource | RequestInfo::Malformed => ("", "none"),
        };
        let route = match class {
            Class::Watch => "watch",
            Class::Mutate => "write",
            Class::Stream => "stream",
            Class::NonResource | Class::Get | Class::List => "read",
        };
        Self {
            started: clock::now(),
            client: "unknown",
            verb,
            group,
            route,
            upstream: Upstream::default(),
        }
    }

    /// Measures the time spent upstream.
    pub(super) fn upstream(&self) -> Upstream {
        self.upstream.clone()
    }

    /// It becomes a connection of its own.
    pub(super) fn tunnels(&mut self) {
        self.route = "upgrade";
    }

    /// Names the kind of its caller.
    pub(super) fn is_by(&mut self, client: &'static str) {
        self.client = client;
    }

    /// Its route.
    pub(super) fn route(&self) -> &'static str {
        self.route
    }

    /// The time since its head was read.
    pub(super) fn elapsed(&self) -> Duration {
        clock::now() - self.started
    }

    /// Counts it with its answer.
    pub(super) fn end(self, metrics: &RequestMetrics, response: &Response<Body>) {
        let Self {
            started,
            client,
            verb,
            group,
            route,
            upstream,
        } = self;
        let extensions = response.extensions();
        let result = if extensions.get::<FromCache>().is_some() {
            "cache"
        } else if extensions.get::<Ours>().is_some() {
            "edgehold"
        } else {
            "upstream"
        };
        let labels = Labels {
            client,
            verb,
            group,
            route,
            result,
            code: response.status().as_u16(),
        };
        metrics.requests.get_or_create(&labels).inc();
        let (took, labels) = (clock::now() - started, Took { route, result });
        metrics
            .durations
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        let own = took.saturating_sub(upstream.took());
        metrics.own.get_or_create(&labels).observe(own.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    #[test]
    fn labels_are_from_closed_lists_whatever_is_asked_for() {
        for (method, path, verb, group, route) in [
            ("GET", "/api/v1/pods", "list", "core", "read"),
            (
                "GET",
                "/apis/apps/v1/namespaces/a/deployments/b",
                "get",
                "apps",
                "read",
            ),
            ("GET", "/apis/evil.example/v1/things", "list", "other", "read"),
            (
                "POST",
                "/apis/batch/v1/namespaces/a/jobs",
                "create",
                "batch",
                "write",
            ),
            ("GET", "/api/v1/namespaces/a/pods/b/log", "get", "core", "stream"),
            ("GET", "/version", "", "none", "read"),
        ] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let info = RequestInfo::parse(&method, path, None);
            let tally = Tally::begin(&info, info.class(&method));
            assert_eq!(
                (tally.verb, tally.group, tally.route),
                (verb, group, route),
                "{path}"
            );
        }
    }
}
