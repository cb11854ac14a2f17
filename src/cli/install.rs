//! `edgehold install` and `edgehold uninstall`: arguments, and what a person reads of a plan and its progress.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};

use crate::setup::{
    self, Data, Executor, Facts, Host, Kubelet, Options, Plan, Problem, Replace, Root, Running, Scratch,
    ServingCertificate,
};

use super::exit::{Exit, complain};

/// The arguments of `install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// kube-proxy's kubeconfig, if it runs on the host; the usual places are looked at
    #[arg(long, value_name = "FILE")]
    kube_proxy_kubeconfig: Option<PathBuf>,
    /// The node's name, if kubelet has no certificate yet and it is not the host's
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Where this node's clients connect [default: as configured before, else 127.0.0.1:51003]
    #[arg(long, value_name = "IP:PORT")]
    address: Option<SocketAddr>,
    /// Also serve pods that use InClusterConfig, at this address on a dummy interface [169.254.20.11 if none is given];
    /// its certificate then comes from the cluster and waits for an approval
    #[arg(long, value_name = "IP", num_args = 0..=1, default_missing_value = "169.254.20.11")]
    pods: Option<IpAddr>,
    /// Where edgehold's own certificate comes from: made here, or from the cluster, where it waits for an approval
    #[arg(long, value_name = "WHERE", value_enum, default_value_t = ServingArg::Local)]
    serving_certificate: ServingArg,
    /// Who signs the certificates of local clients [default: /etc/kubernetes/pki/ca.crt, else whom kubelet trusts]
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// The program that the unit runs [default: this one]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Rewrite the configuration, also if it was changed by hand
    #[arg(long)]
    replace_config: bool,
}

/// `--serving-certificate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ServingArg {
    /// Made on this node, for the clients whose kubeconfig is pointed here
    Local,
    /// From the cluster; until it is approved the local one serves
    Csr,
}

/// The arguments of `uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// kube-proxy's kubeconfig, if install was told where it is
    #[arg(long, value_name = "FILE")]
    kube_proxy_kubeconfig: Option<PathBuf>,
    /// Remove the cache too
    #[arg(long)]
    purge: bool,
}

/// What both are told of the node.
#[derive(Debug, Args)]
struct NodeArgs {
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The node's root directory; in any but / nothing is started or stopped
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
    /// kubelet's kubeconfig
    #[arg(long, value_name = "FILE", default_value = "/etc/kubernetes/kubelet.conf")]
    kubeconfig: PathBuf,
    /// kubelet's bootstrap kubeconfig, looked at if it is there
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/kubernetes/bootstrap-kubelet.conf"
    )]
    bootstrap_kubeconfig: PathBuf,
    /// Restart kubelet at the end, so that it reads its kubeconfig
    #[arg(long)]
    restart_kubelet: bool,
}

impl NodeArgs {
    fn options(&self) -> Options {
        Options {
            root: Root::new(&self.root),
            kubeconfig: self.kubeconfig.clone(),
            bootstrap: self.bootstrap_kubeconfig.clone(),
            kube_proxy: None,
            node_name: None,
            address: None,
            pods: None,
            serving: ServingCertificate::Local,
            client_ca: None,
            binary: None,
            replace: Replace::Keep,
            kubelet: if self.restart_kubelet {
                Kubelet::Restart
            } else {
                Kubelet::Leave
            },
        }
    }

    fn mode(&self) -> Mode {
        if self.dry_run { Mode::DryRun } else { Mode::Do }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    DryRun,
    Do,
}

/// What a run is about, in words.
struct Words {
    nothing: &'static str,
    done: &'static str,
    again: &'static str,
}

const INSTALL: Words = Words {
    nothing: "nothing to do: edgehold is installed",
    done: "edgehold is installed",
    again: "edgehold install",
};

const UNINSTALL: Words = Words {
    nothing: "nothing to do: edgehold is not installed",
    done: "edgehold is uninstalled",
    again: "edgehold uninstall",
};

/// One run of either.
struct Job {
    options: Options,
    mode: Mode,
    words: Words,
}

/// Either's planner.
type Planner<'p> = &'p dyn Fn(&Options, &Facts) -> Result<Plan, Vec<Problem>>;

pub(super) fn install(args: InstallArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let mode = args.node.mode();
    let options = Options {
        kube_proxy: args.kube_proxy_kubeconfig,
        node_name: args.node_name,
        address: args.address,
        pods: args.pods,
        serving: match args.serving_certificate {
            ServingArg::Local => ServingCertificate::Local,
            ServingArg::Csr => ServingCertificate::Csr,
        },
        client_ca: args.client_ca_file,
        binary: args.binary,
        replace: if args.replace_config {
            Replace::Config
        } else {
            Replace::Keep
        },
        ..args.node.options()
    };
    let words = INSTALL;
    Job { options, mode, words }.perform(&setup::install, out, err)
}

pub(super) fn uninstall(args: UninstallArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let mode = args.node.mode();
    let data = if args.purge { Data::Purge } else { Data::Keep };
    let options = Options {
        kube_proxy: args.kube_proxy_kubeconfig,
        ..args.node.options()
    };
    let words = UNINSTALL;
    let plan = |options: &Options, facts: &Facts| setup::uninstall(options, facts, data);
    Job { options, mode, words }.perform(&plan, out, err)
}

impl Job {
    fn perform(&self, planner: Planner<'_>, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
        if self.options.root.is_scratch() {
            self.perform_on(&mut Scratch, planner, out, err)
        } else {
            self.perform_on(&mut Running, planner, out, err)
        }
    }

    fn perform_on<H: Host>(
        &self,
        host: &mut H,
        planner: Planner<'_>,
        out: &mut dyn Write,
        err: &mut dyn Write,
    ) -> Exit {
        let facts = match Facts::gather(&self.options, host) {
            Ok(facts) => facts,
            Err(error) => {
                complain(err, &format!("edgehold: {error}"));
                return Exit::Failed;
            }
        };
        let plan = match planner(&self.options, &facts) {
            Ok(plan) => plan,
            Err(problems) => {
                for problem in problems {
                    complain(err, &format!("edgehold: {problem}"));
                }
                complain(err, "edgehold: nothing was changed");
                return Exit::Failed;
            }
        };
        if let Err(error) = self.carry_out(&plan, host, out) {
            let again = self.words.again;
            complain(err, &format!("edgehold: {error}"));
            let what = format!("edgehold: what comes before is done; `{again}` goes on there");
            complain(err, &what);
            return Exit::Failed;
        }
        Exit::Ok
    }

    fn carry_out<H: Host>(&self, plan: &Plan, host: &mut H, out: &mut dyn Write) -> anyhow::Result<()> {
        section(out, "found", &plan.findings)?;
        if plan.steps.is_empty() {
            writeln!(out, "{}", self.words.nothing)?;
            return Ok(out.flush()?);
        }
        let mut executor = Executor::new(&self.options.root, host);
        let dry = self.mode == Mode::DryRun;
        writeln!(out, "{}:", if dry { "would" } else { "doing" })?;
        for step in &plan.steps {
            writeln!(out, "  {step}")?;
            if dry {
                for change in step.changes() {
                    writeln!(out, "      {}", change.trim_end())?;
                }
            } else {
                out.flush()?;
                executor.run(step)?;
            }
        }
        section(out, "then", &plan.notes)?;
        writeln!(
            out,
            "{}",
            if dry {
                "nothing was changed"
            } else {
                self.words.done
            }
        )?;
        Ok(out.flush()?)
    }
}

fn section(out: &mut dyn Write, title: &str, lines: &[String]) -> io::Result<()> {
    if lines.is_empty() {
        return Ok(());
    }
    writeln!(out, "{title}:")?;
    for line in lines {
        writeln!(out, "  {line}")?;
    }
    Ok(())
}
