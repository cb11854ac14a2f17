//! The plan of `edgehold install`: pure.
//!
//! Order is the safety here: edgehold's own files, its unit, a start, proof that it serves, and only then the kubeconfigs, each
//! in one piece. Whatever happens in between, a kubeconfig names a server that answers.

mod checks;
mod wanted;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::config::kubeconfig::Authority;

use super::facts::{Facts, Kubelet, Options, Replace};
use super::host::Manager;
use super::kubeconfigs::{self, KubeconfigFile, Role, local_url};
use super::paths;
use super::step::{Plan, Problem, Step, SystemdAction};
use super::unit;

/// What to do for edgehold to stand between the node's clients and their apiserver. No steps if it does already.
///
/// # Errors
/// Everything that is in the way, at once.
pub fn install(options: &Options, facts: &Facts) -> Result<Plan, Vec<Problem>> {
    let mut planner = Planner {
        options,
        facts,
        local: local_url(facts.address),
        pods: None,
        plan: Plan::default(),
        problems: Vec::new(),
    };
    planner.check_machine();
    planner.check_kubeconfigs();
    let own = planner.own_files();
    let clients = planner.kubeconfigs();
    if !planner.problems.is_empty() {
        return Err(planner.problems);
    }
    planner.order(own, clients);
    Ok(planner.plan)
}

struct Planner<'f> {
    options: &'f Options,
    facts: &'f Facts,
    local: String,
    /// Where pods will be served.
    pods: Option<SocketAddr>,
    plan: Plan,
    problems: Vec<Problem>,
}

impl Planner<'_> {
    fn problem(&mut self, wrong: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem::new(wrong, fix));
    }

    fn found(&mut self, finding: impl Into<String>) {
        self.plan.findings.push(finding.into());
    }

    /// The configuration that is there, unless it is to be rewritten.
    fn kept(&self) -> Option<&Config> {
        let keep = self.options.replace == Replace::Keep;
        self.facts.config.as_ref().filter(|_| keep)
    }

    /// Everything of edgehold's own that is not as it should be.
    fn own_files(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let serving = &self.facts.serving;
        // The key first: a certificate without its key is not served, a key without its certificate does no harm.
        self.write(&mut steps, paths::SERVER_KEY, serving.key.as_bytes(), 0o600);
        self.write(&mut steps, paths::SERVER_CERT, serving.cert.as_bytes(), 0o644);
        self.write(&mut steps, paths::LOCAL_CA, serving.ca.as_bytes(), 0o644);
        self.configuration(&mut steps);
        self.unit(&mut steps);
        if steps.iter().any(|step| {
            step.path()
                .is_some_and(|path| path.starts_with(paths::CONFIG_DIR))
        }) {
            let directory = |path: &str, mode| Step::Directory {
                path: path.into(),
                mode,
            };
            steps.splice(
                0..0,
                [
                    directory(paths::CONFIG_DIR, 0o755),
                    directory(paths::PKI_DIR, 0o700),
                ],
            );
        }
        steps
    }

    fn write(&self, steps: &mut Vec<Step>, path: &str, content: &[u8], mode: u32) {
        let before = self.facts.existing.get(Path::new(path));
        if before.is_some_and(|file| file.bytes == content && file.mode == mode) {
            return;
        }
        steps.push(Step::Write {
            path: path.into(),
            content: content.to_vec(),
            mode,
            before: before.map(|file| file.bytes.clone()),
        });
    }

    fn unit(&mut self, steps: &mut Vec<Step>) {
        if self
            .facts
            .existing_text(paths::UNIT)
            .is_some_and(|text| !text.starts_with(paths::MARK))
        {
            return self.problem(
                format!("{} was not written by install", paths::UNIT),
                "move it away (your own settings go to edgehold.service.d/)",
            );
        }
        let mut capabilities = Vec::new();
        let has_interface = self
            .kept()
            .is_some_and(|config| config.listen.dummy_interface.is_some());
        if self.options.pods.is_some() || has_interface {
            capabilities.push(unit::Capability::NetAdmin);
        }
        if self.facts.address.port() < 1024 {
            capabilities.push(unit::Capability::NetBindService);
        }
        let text = unit::text(&self.facts.binary, &capabilities);
        self.write(steps, paths::UNIT, text.as_bytes(), 0o644);
    }

    /// What to do with each kubeconfig that does not point at edgehold, or does not trust it.
    fn kubeconfigs(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for file in &self.facts.kubeconfigs {
            let ca = &self.facts.serving.ca;
            let at_home =
                file.is_at(&self.local) && file.trusts().is_some_and(|pem| kubeconfigs::holds(pem, ca));
            let original = file.original(&self.local);
            if file.current.is_err() || (at_home && original.is_none()) {
                continue;
            }
            let path = &file.path;
            let Some(original) = original else {
                self.problem(
                    format!(
                        "{} names {} but not its authority, and there is no backup",
                        path.display(),
                        self.local
                    ),
                    "put its `server` and authority back, and run install again",
                );
                continue;
            };
            if original.authority.is_none() {
                continue; // reported with the rest of it
            }
            match original.pointed(file.role, &self.local, ca) {
                Ok(pointed) => {
                    // kubelet may have rewritten the file since; as long as it comes to us, it is right.
                    if at_home && pointed.text != file.text {
                        continue;
                    }
                    if let Some((trust, bundle)) = &pointed.trust {
                        self.write(&mut steps, &trust.to_string_lossy(), bundle, 0o644);
                    }
                    point(file, original.text, pointed.text, &mut steps);
                }
                Err(error) => self.problem(format!("{} {error}", path.display()), "see docs/install.md"),
            }
        }
        steps
    }

    /// What the kubeconfigs will trust: after an approval edgehold shows a certificate by the cluster.
    fn trusted(&self) -> String {
        let ours = &self.facts.serving.ca;
        let original = self.origin().and_then(|file| file.original(&self.local));
        let authority = original.and_then(|original| String::from_utf8(original.authority?.to_vec()).ok());
        authority.map_or_else(
            || ours.clone(),
            |cluster| format!("{}\n{ours}", cluster.trim_end()),
        )
    }

    fn order(&mut self, own: Vec<Step>, clients: Vec<Step>) {
        let managed = self.facts.manager != Manager::Scratch;
        let start = managed && (!own.is_empty() || self.facts.manager == Manager::Inactive);
        let edits = clients.iter().any(|step| matches!(step, Step::Edit { .. }));
        let pods_move = self
            .pods
            .is_some_and(|address| self.configured_pods() != Some(address.ip()));
        let (ca, name) = (self.trusted(), self.facts.address.ip());
        let plan = &mut self.plan;
        plan.steps.extend(self.facts.tidy());
        plan.steps.extend(own);
        if start {
            let actions = [
                SystemdAction::Reload,
                SystemdAction::Enable,
                SystemdAction::Restart,
            ];
            plan.steps.extend(actions.map(Step::Systemd));
        }
        if managed && (start || edits) {
            // kubelet would send new pods to an address that is not there.
            for address in [Some(self.facts.address), self.pods].into_iter().flatten() {
                let ca = ca.clone();
                plan.steps.push(Step::AwaitReady { address, name, ca });
            }
        }
        plan.steps.extend(clients);
        if !edits && !pods_move {
            return;
        }
        let why = if edits {
            "kubelet reads its kubeconfig when it starts"
        } else {
            "kubelet learns where pods are served when it starts"
        };
        match self.options.kubelet {
            Kubelet::Restart if managed => plan.steps.push(Step::Systemd(SystemdAction::RestartKubelet)),
            _ => plan.notes.push(format!("{why}: systemctl restart kubelet")),
        }
        if !self
            .facts
            .kubeconfigs
            .iter()
            .any(|file| file.role == Role::KubeProxy)
        {
            plan.notes.push(
                "kube-proxy has no kubeconfig on this host (kubeadm runs it as a DaemonSet): see docs/install.md".to_owned(),
            );
        }
    }
}

/// Backup, then edit; nothing if the file is right.
fn point(file: &KubeconfigFile, original: &str, pointed: String, steps: &mut Vec<Step>) {
    if file.text == pointed {
        return;
    }
    if file.text == original && file.backup.as_deref() != Some(original) {
        steps.push(Step::Backup {
            path: file.path.clone(),
            to: paths::backup_of(&file.path),
        });
    }
    steps.push(Step::Edit {
        path: file.path.clone(),
        before: file.text.clone(),
        after: pointed,
    });
}

/// The file that edgehold verifies the apiserver with.
fn upstream_ca(authority: &Authority) -> Option<PathBuf> {
    match authority {
        Authority::File(path) => Some(path.clone()),
        Authority::Data(_) => Some(paths::CLUSTER_CA.into()),
        Authority::System => None,
    }
}
