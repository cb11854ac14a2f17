//! What is tried, in the order in which it is tried. Each scenario prints its steps.

mod convergence;
mod hollow_kubelet;
mod in_cluster;
mod people;

use crate::cluster::Cluster;
use crate::tools::Tool;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// kubectl, online and offline.
    People,
    /// Informers end up with what etcd holds, whatever happens on the way.
    Convergence,
    /// A kubelet and its pod live through an outage and restarts.
    HollowKubelet,
    /// A pod's client with a service account token.
    InCluster,
}

impl Scenario {
    /// Every scenario.
    pub(crate) const ALL: [Self; 4] = [
        Self::People,
        Self::Convergence,
        Self::HollowKubelet,
        Self::InCluster,
    ];

    /// Its name on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::People => "kubectl",
            Self::Convergence => "convergence",
            Self::HollowKubelet => "hollow-kubelet",
            Self::InCluster => "in-cluster",
        }
    }

    /// What it needs beside etcd and kube-apiserver.
    pub(crate) fn needs(self) -> &'static [Tool] {
        match self {
            Self::People => &[Tool::Kubectl],
            Self::Convergence | Self::InCluster => &[Tool::Client],
            Self::HollowKubelet => &[Tool::KubeControllerManager, Tool::Kubemark],
        }
    }

    /// Runs it.
    pub(crate) async fn run(self, cluster: &mut Cluster) -> anyhow::Result<()> {
        match self {
            Self::People => people::run(cluster).await,
            Self::Convergence => convergence::run(cluster).await,
            Self::HollowKubelet => hollow_kubelet::run(cluster).await,
            Self::InCluster => in_cluster::run(cluster).await,
        }
    }
}

/// Prints a step.
pub(crate) fn step(text: impl std::fmt::Display) {
    println!("  - {text}");
}
