//! What the way to the cloud counts. Labels are server names, purposes and closed words; never a credential.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::condition::Condition;
use super::failure::Failure;
use super::purpose::Purpose;

/// A state of the link as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabels {
    state: &'static str,
}

/// A server in a state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServerStateLabels {
    server: String,
    state: &'static str,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ServerLabels {
    server: String,
}

/// An interface that a server is reached over.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct InterfaceLabels {
    server: String,
    interface: String,
}

/// A kind of failure at a server.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct FailureLabels {
    server: String,
    kind: &'static str,
}

/// What connections to a server are for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct PurposeLabels {
    server: String,
    purpose: &'static str,
}

/// Bytes from and to one server.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic {
    pub(super) received: Counter,
    pub(super) sent: Counter,
}

/// Counters and gauges of the way to the cloud. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub struct UpstreamMetrics {
    link: Family<StateLabels, Gauge>,
    outages: Counter,
    servers: Family<ServerStateLabels, Gauge>,
    interfaces: Family<InterfaceLabels, Gauge>,
    dials: Family<ServerLabels, Counter>,
    failures: Family<FailureLabels, Counter>,
    failovers: Family<ServerLabels, Counter>,
    received: Family<ServerLabels, Counter>,
    sent: Family<ServerLabels, Counter>,
    connections: Family<PurposeLabels, Gauge>,
    streams: Family<PurposeLabels, Gauge>,
}

impl UpstreamMetrics {
    /// New ones, registered under `edgehold_link_*` and `edgehold_upstream_*`.
    pub fn register(registry: &mut Registry) -> Self {
        let own = Self::default();
        registry.register(
            "edgehold_link_state",
            "1 for the state of the way to the cloud: online, starting (no answer yet), suspect, offline",
            own.link.clone(),
        );
        registry.register(
            "edgehold_link_outages",
            "How often the cloud has gone away",
            own.outages.clone(),
        );
        registry.register(
            "edgehold_upstream_server_state",
            "1 for the state of each server",
            own.servers.clone(),
        );
        registry.register(
            "edgehold_upstream_interface",
            "1 for the one of upstream.interfaces that each server is reached over, 0 for the others",
            own.interfaces.clone(),
        );
        registry.register(
            "edgehold_upstream_dials",
            "Connections that were begun",
            own.dials.clone(),
        );
        registry.register(
            "edgehold_upstream_failures",
            "Requests that failed on the way, by kind",
            own.failures.clone(),
        );
        registry.register(
            "edgehold_upstream_failovers",
            "Requests that went on to another server, by the server they left",
            own.failovers.clone(),
        );
        registry.register(
            "edgehold_upstream_received_bytes",
            "Bytes that arrived from each server, TLS included",
            own.received.clone(),
        );
        registry.register(
            "edgehold_upstream_sent_bytes",
            "Bytes that were sent to each server, TLS included",
            own.sent.clone(),
        );
        registry.register(
            "edgehold_upstream_connections",
            "Open connections",
            own.connections.clone(),
        );
        registry.register(
            "edgehold_upstream_streams",
            "Requests whose answer has not ended",
            own.streams.clone(),
        );
        own
    }

    pub(super) fn show_link(&self, now: Condition) {
        for state in Condition::ALL {
            let labels = StateLabels {
                state: state.as_str(),
            };
            self.link.get_or_create(&labels).set(i64::from(state == now));
        }
    }

    pub(super) fn outage(&self) {
        self.outages.inc();
    }

    /// `None`: the server is not configured any more.
    pub(super) fn show_server(&self, server: &str, now: Option<Condition>) {
        for state in Condition::ALL {
            let labels = ServerStateLabels {
                server: server.to_owned(),
                state: state.as_str(),
            };
            match now {
                Some(now) => {
                    self.servers.get_or_create(&labels).set(i64::from(state == now));
                }
                None => {
                    self.servers.remove(&labels);
                }
            }
        }
    }

    /// Of these interfaces the server is reached over number `used`; `None`: over none of them any more.
    pub(super) fn show_interfaces(&self, server: &str, names: &[String], used: Option<usize>) {
        for (number, interface) in names.iter().enumerate() {
            let labels = InterfaceLabels {
                server: server.to_owned(),
                interface: interface.clone(),
            };
            match used {
                Some(used) => {
                    let gauge = self.interfaces.get_or_create_owned(&labels);
                    gauge.set(i64::from(number == used));
                }
                None => {
                    self.interfaces.remove(&labels);
                }
            }
        }
    }

    pub(super) fn dialed(&self, server: &str) {
        self.dials.get_or_create(&labels(server)).inc();
    }

    pub(super) fn failed(&self, server: &str, failure: Failure) {
        let labels = FailureLabels {
            server: server.to_owned(),
            kind: failure.as_str(),
        };
        self.failures.get_or_create(&labels).inc();
    }

    pub(super) fn moved_on(&self, from: &str) {
        self.failovers.get_or_create(&labels(from)).inc();
    }

    /// Bytes from and to this server.
    pub(super) fn traffic(&self, server: &str) -> Traffic {
        Traffic {
            received: self.received.get_or_create_owned(&labels(server)),
            sent: self.sent.get_or_create_owned(&labels(server)),
        }
    }

    /// Open connections to this server for this purpose.
    pub(super) fn connections(&self, server: &str, purpose: Purpose) -> Gauge {
        self.connections
            .get_or_create_owned(&PurposeLabels::of(server, purpose))
    }

    /// Streams on them.
    pub(super) fn streams(&self, server: &str, purpose: Purpose) -> Gauge {
        self.streams
            .get_or_create_owned(&PurposeLabels::of(server, purpose))
    }
}

impl PurposeLabels {
    fn of(server: &str, purpose: Purpose) -> Self {
        Self {
            server: server.to_owned(),
            purpose: purpose.as_str(),
        }
    }
}

fn labels(server: &str) -> ServerLabels {
    ServerLabels {
        server: server.to_owned(),
    }
}
