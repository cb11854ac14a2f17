//! The scenarios: what happens to the link, and what clients may notice of it.

mod away;
mod bad;
mod crowd;
mod flapping;
mod flood;

use std::path::Path;
use std::time::Duration;

use serde_json::json;

use crate::figures::Figures;
use crate::node::Node;

/// How long and how strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// A minute each; figures are printed, right answers are required.
    Quick,
    /// The full length, a release build, and every promised figure is required.
    Strict,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scenario {
    Refused,
    BlackHole,
    Lossy,
    Narrow,
    Flapping,
    Crowd,
    Flood,
}

impl Scenario {
    pub(crate) const ALL: [Self; 7] = [
        Self::Refused,
        Self::BlackHole,
        Self::Lossy,
        Self::Narrow,
        Self::Flapping,
        Self::Crowd,
        Self::Flood,
    ];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::BlackHole => "black-hole",
            Self::Lossy => "lossy",
            Self::Narrow => "narrow",
            Self::Flapping => "flapping",
            Self::Crowd => "crowd",
            Self::Flood => "flood",
        }
    }

    pub(crate) fn about(self) -> &'static str {
        match self {
            Self::Refused => {
                "the cloud refuses connections: cached answers at once; it returns: watches go on"
            }
            Self::BlackHole => {
                "packets disappear: noticed by idle watches alone, first read in time, then at once"
            }
            Self::Lossy => {
                "20 % of all packets lost each way, 800 ms round trip: never offline, nothing wrong"
            }
            Self::Narrow => "64 kbit/s: a large list arrives whole, others are not starved, never offline",
            Self::Flapping => "three seconds up, three seconds down: no event lost or twice, nothing leaks",
            Self::Flood => {
                "20,000 connects, 2,000 streams and slow handshakes of one address: kubelet's p99 at most doubles"
            }
            Self::Crowd => "500 watches and 2,000 requests a second share one transport",
        }
    }

    /// How long it takes by itself.
    pub(crate) fn length(self, mode: Mode) -> Duration {
        match (self, mode) {
            (Self::Lossy, Mode::Strict) => Duration::from_secs(600),
            (Self::Flapping, Mode::Strict) => Duration::from_secs(120),
            (Self::Crowd | Self::Flood, Mode::Strict) => Duration::from_secs(20),
            (Self::Lossy | Self::Flapping, Mode::Quick) => Duration::from_secs(45),
            (Self::Crowd, Mode::Quick) => Duration::from_secs(5),
            (Self::Flood, Mode::Quick) => Duration::from_secs(10),
            (Self::Refused | Self::BlackHole | Self::Narrow, _) => Duration::from_secs(30),
        }
    }

    pub(crate) async fn run(self, program: &Path, mode: Mode, figures: &mut Figures) -> anyhow::Result<()> {
        let node = Node::start(program).await?;
        let outcome = match self {
            Self::Refused => away::refused(&node, figures).await,
            Self::BlackHole => away::black_hole(&node, figures).await,
            Self::Lossy => bad::lossy(&node, self.length(mode), figures).await,
            Self::Narrow => bad::narrow(&node, figures).await,
            Self::Flapping => flapping::flapping(&node, self.length(mode), figures).await,
            Self::Crowd => crowd::crowd(&node, self.length(mode), figures).await,
            Self::Flood => flood::flood(&node, self.length(mode), figures).await,
        };
        outcome.map_err(|error| error.context(format!("edgehold's log ends with\n{}", node.last_lines())))
    }
}

/// A ConfigMap in a namespace, in the cloud.
fn put(node: &Node, namespace: &str, name: &str, value: &str) {
    node.api.put(json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": namespace, "name": name}, "data": {"value": value},
    }));
}

fn list(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}
