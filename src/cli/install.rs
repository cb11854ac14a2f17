//! `edgehold install` and `edgehold uninstall`: arguments, and what a person reads of a plan and its progress.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::setup::{
    self, Data, Executor, Facts, Host, Kubelet, Options, Plan, Problem, Replace, Root, Running, Scratch,
};

use super::Exit;

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
    /// Who signs the certificates of local clients [default: /etc/kubernetes/pki/ca.crt, else whom kubelet trusts]
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// The program that the unit runs [default: this one]
    #[arg(long, value_name = "FILE")]
    binary: Option<PathBuf>,
    /// Write the configuration anew, also if it was changed by hand
    #[arg(long)]
    replace_config: bool,
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

pub(super) fn install(args: InstallArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let options = Options {
        kube_proxy: args.kube_proxy_kubeconfig,
        node_name: args.node_name,
        address: args.address,
        client_ca: args.client_ca_file,
        binary: args.binary,
        replace: if args.replace_config {
            Replace::Config
        } else {
            Replace::Keep
        },
        ..args.node.options()
    };
    perform(&options, args.node.mode(), &INSTALL, setup::install, out, err)
}

pub(super) fn uninstall(args: UninstallArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let data = if args.purge { Data::Purge } else { Data::Keep };
    let options = Options {
        kube_proxy: args.kube_proxy_kubeconfig,
        ..args.node.options()
    };
    let plan = |options: &Options, facts: &Facts| setup::uninstall(options, facts, data);
    perform(&options, args.node.mode(), &UNINSTALL, plan, out, err)
}

fn perform(
    options: &Options,
    mode: Mode,
    words: &Words,
    plan: impl FnOnce(&Options, &Facts) -> Result<Plan, Vec<Problem>>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    if options.root.is_scratch() {
        perform_on(&mut Scratch, options, mode, words, plan, out, err)
    } else {
        perform_on(&mut Running, options, mode, words, plan, out, err)
    }
}

#[allow(clippy::too_many_arguments)] // the same with its host
fn perform_on<H: Host>(
    host: &mut H,
    options: &Options,
    mode: Mode,
    words: &Words,
    plan: impl FnOnce(&Options, &Facts) -> Result<Plan, Vec<Problem>>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Exit {
    let facts = match Facts::gather(options, host) {
        Ok(facts) => facts,
        Err(error) => {
            super::complain(err, &format!("edgehold: {error}"));
            return Exit::Failed;
        }
    };
    let plan = match plan(options, &facts) {
        Ok(plan) => plan,
        Err(problems) => {
            for problem in problems {
                super::complain(err, &format!("edgehold: {problem}"));
            }
            super::complain(err, "edgehold: nothing was changed");
            return Exit::Failed;
        }
    };
    match carry_out(&plan, host, options, mode, words, out) {
        Ok(()) => Exit::Ok,
        Err(error) => {
            super::complain(err, &format!("edgehold: {error}"));
            let again = words.again;
            super::complain(
                err,
                &format!(
                    "edgehold: the steps before it are done; `{again}` goes on there once this is mended"
                ),
            );
            Exit::Failed
        }
    }
}

fn carry_out<H: Host>(
    plan: &Plan,
    host: &mut H,
    options: &Options,
    mode: Mode,
    words: &Words,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    section(out, "found", &plan.findings)?;
    if plan.steps.is_empty() {
        writeln!(out, "{}", words.nothing)?;
        return Ok(());
    }
    let mut executor = Executor::new(&options.root, host);
    writeln!(out, "{}:", if mode == Mode::DryRun { "would" } else { "doing" })?;
    for step in &plan.steps {
        writeln!(out, "  {step}")?;
        if mode == Mode::DryRun {
            for change in step.changes() {
                writeln!(out, "      {}", change.trim_end())?;
            }
        } else {
            out.flush()?;
            executor.run(step)?;
        }
    }
    section(out, "then", &plan.notes)?;
    let last = if mode == Mode::DryRun {
        "nothing was changed"
    } else {
        words.done
    };
    writeln!(out, "{last}")?;
    out.flush()?;
    Ok(())
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
