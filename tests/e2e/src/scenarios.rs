//! What is tried, the longest first. Each scenario prints its steps.

mod approver;
mod bootstrap;
mod convergence;
mod coredns;
mod failover;
mod flanneld;
mod foreign;
mod hollow_kubelet;
mod in_cluster;
mod install;
mod leader;
mod manifests;
mod people;
mod proxy;
mod time_travel;
mod wan_bytes;

use crate::cluster::Cluster;
use crate::node::Cut;
use crate::tools::Tool;

/// A scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scenario {
    /// Informers end up with what etcd holds, whatever happens on the way.
    Convergence,
    /// A kubelet and its pod live through an outage and restarts.
    HollowKubelet,
    /// The same with a kubelet of the oldest version.
    Skew,
    /// A leader-elected manager loses its lease offline and gets it back.
    Leader,
    /// A node joins and its certificate is renewed.
    Bootstrap,
    /// Requests for certificates, honest and not, before the approver of the cluster.
    Approver,
    /// Pages, compaction, restored snapshots.
    TimeTravel,
    /// kube-rs, the Python client and fabric8.
    Foreign,
    /// kube-proxy keeps its services.
    Proxy,
    /// CoreDNS answers for the cluster's names.
    CoreDns,
    /// flanneld knows the subnets.
    Flanneld,
    /// kubectl, online and offline.
    People,
    /// Two apiservers, of which one goes.
    Failover,
    /// A pod's client with a service account token.
    InCluster,
    /// A new user's node, from install to uninstall.
    Install,
    /// The manifests of examples/deploy.
    Manifests,
    /// What a large list costs on the link.
    WanBytes,
}

impl Scenario {
    /// Every scenario.
    pub(crate) const ALL: [Self; 17] = [
        Self::Convergence,
        Self::HollowKubelet,
        Self::Skew,
        Self::Bootstrap,
        Self::Install,
        Self::Approver,
        Self::TimeTravel,
        Self::Leader,
        Self::Failover,
        Self::Foreign,
        Self::Proxy,
        Self::CoreDns,
        Self::Flanneld,
        Self::People,
        Self::InCluster,
        Self::WanBytes,
        Self::Manifests,
    ];

    /// Its name on the command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Convergence => "convergence",
            Self::HollowKubelet => "hollow-kubelet",
            Self::Skew => "skew",
            Self::Leader => "leader",
            Self::Bootstrap => "bootstrap",
            Self::Approver => "approver",
            Self::TimeTravel => "time-travel",
            Self::Failover => "failover",
            Self::Foreign => "foreign",
            Self::Proxy => "kube-proxy",
            Self::CoreDns => "coredns",
            Self::Flanneld => "flanneld",
            Self::People => "kubectl",
            Self::InCluster => "in-cluster",
            Self::Install => "install",
            Self::Manifests => "manifests",
            Self::WanBytes => "wan-bytes",
        }
    }

    /// What it needs beside etcd and kube-apiserver.
    pub(crate) fn needs(self) -> &'static [Tool] {
        match self {
            Self::Convergence | Self::TimeTravel | Self::Failover | Self::InCluster => &[Tool::Client],
            Self::Bootstrap => &[Tool::KubeControllerManager, Tool::Kubemark, Tool::Client],
            Self::HollowKubelet => &[Tool::KubeControllerManager, Tool::Kubemark],
            Self::Skew => &[Tool::KubeControllerManager, Tool::OldKubemark],
            // kube-rs is in the runner; the parts of others are skipped where they are not to be had.
            Self::Foreign | Self::WanBytes => &[],
            Self::Leader => &[Tool::Manager],
            Self::Proxy => &[Tool::Proxy],
            Self::CoreDns => &[Tool::CoreDns],
            Self::Flanneld => &[Tool::Flanneld],
            Self::People => &[Tool::Kubectl, Tool::Client],
            Self::Install => &[
                Tool::KubeControllerManager,
                Tool::Kubemark,
                Tool::Proxy,
                Tool::Kubectl,
                Tool::Client,
            ],
            Self::Manifests | Self::Approver => &[Tool::KubeControllerManager, Tool::Kubectl],
        }
    }

    /// What its apiserver is told beside the usual.
    pub(crate) fn apiserver_flags(self) -> &'static [&'static str] {
        match self {
            // CBOR is offered behind a gate.
            Self::Convergence | Self::Failover => &["--feature-gates=CBORServingAndStorage=true"],
            _ => &[],
        }
    }

    /// Runs it.
    pub(crate) async fn run(self, cluster: &mut Cluster) -> anyhow::Result<()> {
        match self {
            Self::Convergence => convergence::run(cluster).await,
            Self::HollowKubelet => hollow_kubelet::run(cluster, Tool::Kubemark, &Cut::ALL).await,
            Self::Skew => hollow_kubelet::run(cluster, Tool::OldKubemark, &[Cut::Killed]).await,
            Self::Leader => leader::run(cluster).await,
            Self::Bootstrap => bootstrap::run(cluster).await,
            Self::Approver => approver::run(cluster).await,
            Self::TimeTravel => time_travel::run(cluster).await,
            Self::Failover => failover::run(cluster).await,
            Self::Foreign => foreign::run(cluster).await,
            Self::Proxy => proxy::run(cluster).await,
            Self::CoreDns => coredns::run(cluster).await,
            Self::Flanneld => flanneld::run(cluster).await,
            Self::People => people::run(cluster).await,
            Self::InCluster => in_cluster::run(cluster).await,
            Self::Install => install::run(cluster).await,
            Self::Manifests => manifests::run(cluster).await,
            Self::WanBytes => wan_bytes::run(cluster).await,
        }
    }
}

tokio::task_local! {
    /// The name of the scenario that a task runs.
    pub(crate) static NAME: &'static str;
}

/// Prints a step.
pub(crate) fn step(text: impl std::fmt::Display) {
    println!("{}: {text}", NAME.try_with(|name| *name).unwrap_or("e2e"));
}

/// The reason why a scenario cannot be tried here, as its error.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl std::fmt::Display for Skip {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}
