//! `edgehold approve`: arguments, and what a person reads of each verdict.

mod access;
mod metrics;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::logging;
use crate::config::{Log, LogFormat, LogLevel};
use crate::node::approve::{Approver, Candidate, Done, Mode};
use crate::node::client::ApiClient;
use crate::tls::AltName;

use super::exit::{Exit, complain};

/// The arguments of `approve`.
#[derive(Debug, Args)]
pub struct ApproveArgs {
    /// The requests, as `kubectl get csr` names them
    #[arg(
        value_name = "NAME",
        required_unless_present = "watch",
        conflicts_with = "watch"
    )]
    names: Vec<String>,
    /// Approve for the whole cluster, again and again, what can be proved: the requesting node exists, and its addresses are
    /// the Service's, node-local, or named here
    #[arg(long)]
    watch: bool,
    /// Where the Lease is by which one of several approvers leads [default: the pod's own namespace, else edgehold]
    #[arg(long, value_name = "NAMESPACE", requires = "watch")]
    namespace: Option<String>,
    /// Where the loop tells its metrics, to whoever asks: `GET /metrics`
    #[arg(long, value_name = "IP:PORT", requires = "watch")]
    metrics: Option<SocketAddr>,
    /// An address that edgehold listens on, on the nodes that these requests come from
    #[arg(long, value_name = "IP")]
    address: Vec<IpAddr>,
    /// An entry of `listen.tls.csr.names` in their configuration
    #[arg(long, value_name = "DNS-NAME")]
    name: Vec<AltName>,
    /// The cluster's domain
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    domain: String,
    /// Say what would be approved, and approve nothing
    #[arg(long)]
    dry_run: bool,
    /// The way to the cluster [default: $KUBECONFIG, of several files the first that says something, else ~/.kube/config, else the pod's own service account]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
}

/// Looks at each request, and approves those that pass. One that does not keeps no other from it.
pub(super) fn run(args: &ApproveArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let direct = match access::find(args.kubeconfig.as_deref()) {
        Ok(direct) => direct,
        Err(problem) => {
            complain(err, &format!("edgehold: {problem}"));
            return Exit::Usage;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(err, &format!("edgehold: {error}"));
            return Exit::Failed;
        }
    };
    let addresses = args.address.iter().map(|ip| AltName::Ip(ip.to_canonical()));
    let names: BTreeSet<AltName> = args.name.iter().cloned().chain(addresses).collect();
    let approver = Approver::new(ApiClient::direct(direct), args.domain.clone(), names);
    let exit = if args.watch {
        logging::init(&Log {
            format: LogFormat::Text,
            level: LogLevel::Info,
        });
        let candidate = access::candidate(args.namespace.clone());
        match runtime.block_on(watch(&approver, candidate, args)) {
            Ok(()) => Exit::Ok,
            Err(error) => {
                complain(err, &format!("edgehold: {error}"));
                Exit::Failed
            }
        }
    } else {
        runtime.block_on(approve(&approver, args, out, err))
    };
    // A name that is still looked up holds a thread.
    runtime.shutdown_background();
    exit
}

/// Until SIGTERM or SIGINT.
async fn watch(approver: &Approver, candidate: Candidate, args: &ApproveArgs) -> std::io::Result<()> {
    let mut registry = Registry::default();
    let done = Done::register(&mut registry);
    let listener = match args.metrics {
        Some(address) => Some(TcpListener::bind(address).await?),
        None => None,
    };
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stopped = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let telling = async {
        match listener {
            Some(listener) => metrics::tell(listener, &registry).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = approver.watch(candidate, mode(args), done, stopped) => {}
        () = telling => {}
    }
    Ok(())
}

fn mode(args: &ApproveArgs) -> Mode {
    if args.dry_run { Mode::DryRun } else { Mode::Approve }
}

async fn approve(approver: &Approver, args: &ApproveArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let allowed = match approver.allowed().await {
        Ok(allowed) => allowed,
        Err(error) => {
            complain(err, &format!("edgehold: the Service default/kubernetes: {error}"));
            return Exit::Failed;
        }
    };
    let mode = mode(args);
    let done = match mode {
        Mode::DryRun => "would be approved",
        Mode::Approve => "approved",
    };
    let mut exit = Exit::Ok;
    for name in &args.names {
        let said = match approver.decide(name, &allowed, mode).await {
            Ok(sound) => {
                let names: Vec<String> = sound.names.iter().map(AltName::to_string).collect();
                writeln!(out, "{name}: {done}: {}, for {}", sound.node, names.join(", "))
            }
            Err(why) => {
                exit = Exit::Failed;
                complain(err, &format!("{name}: not approved: {why}"));
                Ok(())
            }
        };
        if said.is_err() {
            return Exit::Failed;
        }
    }
    exit
}
