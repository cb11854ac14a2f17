//! The plan of `edgehold install`: pure.
//!
//! Order is the safety here: edgehold's own files, its unit, a start, proof that it serves, and only then the kubeconfigs, each
//! in one piece. Whatever happens in between, a kubeconfig names a server that answers.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use crate::config;
use crate::config::kubeconfig::Authority;
use crate::tls::{Roots, Validity};

use super::configuration::{Client, Configuration};
use super::facts::{Facts, Kubelet, Options, Replace};
use super::host::{Manager, Port};
use super::kubeconfigs::{self, Identity, KubeconfigFile, Role, local_url};
use super::paths;
use super::step::{Plan, Problem, Step, SystemdAction};
use super::unit;

/// 2025: a clock before it is not set, and a certificate made by it would be long over.
const CLOCK_IS_SET: Duration = Duration::from_secs(1_735_689_600);

/// What to do for edgehold to stand between the node's clients and their apiserver. No steps if it does already.
///
/// # Errors
/// Everything that is in the way, at once.
pub fn install(options: &Options, facts: &Facts) -> Result<Plan, Vec<Problem>> {
    let mut planner = Planner {
        options,
        facts,
        local: local_url(facts.address),
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

    fn check_machine(&mut self) {
        let facts = self.facts;
        if !facts.is_root {
            self.problem("this needs root", "run it with sudo");
        }
        if facts.manager == Manager::None {
            self.problem(
                "this node has no systemd",
                "run edgehold as a static pod instead: examples/deploy",
            );
        }
        if facts.now < SystemTime::UNIX_EPOCH + CLOCK_IS_SET {
            self.problem("the clock is before 2025", "set it: certificates are made by it");
        }
        let binary = facts.binary.display();
        if !facts.binary_is_there {
            self.problem(
                format!("{binary} is not there"),
                "put the program there, or name it with --binary",
            );
        } else if ["/home", "/root", "/tmp", "/run/user"]
            .iter()
            .any(|dir| facts.binary.starts_with(dir))
        {
            self.problem(
                format!("{binary} is where the unit will not see it"),
                format!(
                    "copy it: install -m 755 {binary} {}, and run that one",
                    paths::BINARY
                ),
            );
        }
        let address = facts.address;
        if address.ip().is_unspecified() || address.port() == 0 {
            self.problem(
                format!("no kubeconfig can name {address}"),
                "give one address and port with --address, like 127.0.0.1:51003",
            );
        } else if facts.port == Port::Taken && facts.manager != Manager::Active {
            self.problem(
                format!("another program listens at {address}"),
                "stop it, or choose another address with --address",
            );
        }
    }

    fn check_kubeconfigs(&mut self) {
        let (options, facts) = (self.options, self.facts);
        for (path, error) in &facts.unreadable {
            self.problem(format!("{}: {error}", path.display()), "let root read it");
        }
        if facts.unreadable.is_empty() && !facts.kubeconfigs.iter().any(|file| file.role != Role::KubeProxy) {
            let (kubelet, bootstrap) = (options.kubeconfig.display(), options.bootstrap.display());
            self.problem(
                format!("neither {kubelet} nor {bootstrap} is there"),
                "prepare the node with kubeadm first, or name kubelet's kubeconfig with --kubeconfig",
            );
        }
        if let Some(wanted) = &options.kube_proxy
            && !facts.kubeconfigs.iter().any(|file| file.role == Role::KubeProxy)
        {
            self.problem(
                format!("{} is not there", wanted.display()),
                "correct --kube-proxy-kubeconfig",
            );
        }
        for file in &facts.kubeconfigs {
            self.check_kubeconfig(file);
        }
    }

    fn check_kubeconfig(&mut self, file: &KubeconfigFile) {
        let path = file.path.display();
        let current = match &file.current {
            Ok(current) => current,
            Err(error) => return self.problem(format!("{path} {error}"), "mend it first"),
        };
        self.found(format!(
            "{}: {path}, server {}",
            file.role.as_str(),
            current.server
        ));
        if current.skips_verification {
            self.problem(
                format!("{path} has insecure-skip-tls-verify"),
                "name the cluster's authorities there instead: edgehold always verifies",
            );
        }
        if let Some(name) = &current.tls_server_name {
            self.problem(
                format!("{path} has tls-server-name {name}, which edgehold's certificate is not for"),
                "use a server URL whose host is in the apiserver's certificate",
            );
        }
        match (&current.authority, file.trusts()) {
            (Authority::System, _) if !current.skips_verification => self.problem(
                format!("{path} names no certificate authority"),
                "add certificate-authority to its cluster, like /etc/ssl/certs/ca-certificates.crt",
            ),
            (Authority::File(ca), None) => {
                self.problem(
                    format!("{path} names {}, which cannot be read", ca.display()),
                    "mend it first",
                );
            }
            _ => {}
        }
        self.check_identity(file);
    }

    fn check_identity(&mut self, file: &KubeconfigFile) {
        if let Identity::Broken(error) = &file.identity {
            return self.problem(
                format!("the client certificate of {}: {error}", file.role.as_str()),
                "mend it first",
            );
        }
        let Some(pair) = file.identity.pair() else {
            return;
        };
        let name = pair.leaf().common_name.clone().unwrap_or_default();
        let until = humantime::format_rfc3339_seconds(pair.leaf().not_after);
        let state = match pair.leaf().validity(self.facts.now) {
            Validity::Valid => "until",
            Validity::Expired => "EXPIRED since",
            Validity::NotYetValid => "not yet valid; until",
        };
        self.found(format!("  its certificate: {name}, {state} {until}"));
        if name.is_empty() {
            let wrong = format!(
                "the client certificate of {} has no common name",
                file.role.as_str()
            );
            self.problem(wrong, "give it one: edgehold tells clients apart by it");
        }
        let Some((path, bytes)) = self.client_ca(file) else {
            return;
        };
        let trusted = Roots::parse(&bytes, &path)
            .map_err(|error| error.to_string())
            .and_then(|roots| {
                pair.is_client_of(&roots, self.facts.now)
                    .map_err(|error| error.to_string())
            });
        if let Err(error) = trusted {
            self.problem(
                format!(
                    "the certificate of {name} is not by an authority in {}: {error}",
                    path.display()
                ),
                "name the file with the authority of client certificates with --client-ca-file",
            );
        }
    }

    /// Who signs the certificates of local clients: the file for it, else whom the kubeconfig trusts.
    fn client_ca(&self, file: &KubeconfigFile) -> Option<(PathBuf, Vec<u8>)> {
        if let Some((path, found)) = &self.facts.client_ca {
            return Some((path.clone(), found.bytes.clone()));
        }
        let original = file.original(&self.local)?;
        let path = upstream_ca(&original.kubeconfig.authority)?;
        Some((path, original.authority?.to_vec()))
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

    fn configuration(&mut self, steps: &mut Vec<Step>) {
        let path = config::DEFAULT_PATH;
        let there = self.facts.existing_text(path);
        let keep = self.options.replace == Replace::Keep;
        if there.is_some_and(|text| !text.starts_with(paths::MARK)) {
            return self.problem(
                format!("{path} was not written by install"),
                "move it away, and take over from it what you need afterwards",
            );
        }
        let wanted = self.wanted_configuration();
        let Some(wanted) = wanted else {
            if self.facts.config.is_none() || !keep {
                self.problem(
                    format!(
                        "where the apiserver is cannot be learned: the kubeconfigs name {} already",
                        self.local
                    ),
                    format!("put their `server` back, or write {path} by hand"),
                );
            }
            return;
        };
        let mut files = Vec::new();
        let origin = self.origin().and_then(|file| file.original(&self.local));
        if let Some(original) = origin
            && let (Authority::Data(data), true) = (
                &original.kubeconfig.authority,
                wanted.upstream_ca == Path::new(paths::CLUSTER_CA),
            )
        {
            self.write(&mut files, paths::CLUSTER_CA, data, 0o644);
        }
        for file in &self.facts.kubeconfigs {
            if let Identity::Embedded { cert, key, .. } = &file.identity {
                let [cert_path, key_path] = kubeconfigs::pair_paths(file.role);
                self.write(&mut files, &key_path.to_string_lossy(), key, 0o600);
                self.write(&mut files, &cert_path.to_string_lossy(), cert, 0o644);
            }
        }
        steps.append(&mut files);
        let text = wanted.text();
        if let Err(errors) = config::parse(&text, "the node's configuration") {
            for problem in errors.problems() {
                self.problem(
                    format!("{}: {}", problem.field, problem.wrong),
                    problem.fix.clone(),
                );
            }
        }
        match there {
            Some(there) if there != text && keep => self.keep_configuration(),
            _ => self.write(steps, path, text.as_bytes(), 0o644),
        }
    }

    /// It was changed by hand: it must still be one that the kubeconfigs can be pointed at.
    fn keep_configuration(&mut self) {
        let path = config::DEFAULT_PATH;
        let replace = "correct it, or write it anew with --replace-config";
        match &self.facts.config {
            None => self.problem(format!("{path} is not right: see edgehold check"), replace),
            Some(config) if !config.listen.addresses.contains(&self.facts.address) => {
                self.problem(
                    format!("{path} does not listen at {}", self.facts.address),
                    replace,
                );
            }
            Some(_) => self.found(format!("{path}: changed by hand, kept as it is")),
        }
    }

    /// The kubeconfig that says where the apiserver is.
    fn origin(&self) -> Option<&KubeconfigFile> {
        let kubelet = self
            .facts
            .kubeconfigs
            .iter()
            .filter(|file| file.role != Role::KubeProxy);
        kubelet
            .into_iter()
            .find(|file| file.original(&self.local).is_some())
    }

    fn wanted_configuration(&mut self) -> Option<Configuration> {
        let origin = self.origin()?;
        let original = origin.original(&self.local)?.kubeconfig;
        let upstream_ca = upstream_ca(&original.authority)?;
        let client_ca = self.facts.client_ca.as_ref().map(|(path, _)| path.clone());
        if let Some(asked) = &self.options.client_ca
            && client_ca.is_none()
        {
            self.problem(
                format!("{} cannot be read", asked.display()),
                "correct --client-ca-file",
            );
        }
        Some(Configuration {
            address: self.facts.address,
            server: original.server,
            proxy: original.proxy_url,
            client_ca: client_ca.unwrap_or_else(|| upstream_ca.clone()),
            upstream_ca,
            clients: self.clients(),
        })
    }

    fn clients(&mut self) -> Vec<Client> {
        let mut clients: Vec<Client> = Vec::new();
        let kubelet = self
            .facts
            .kubeconfigs
            .iter()
            .find(|file| file.role == Role::Kubelet);
        match kubelet.map(|file| &file.identity) {
            // Its token is passed on.
            Some(Identity::None) => self.found("  kubelet shows no certificate: its token is passed on"),
            Some(identity) => clients.extend(self.client(Role::Kubelet, identity)),
            None => {
                clients.extend(self.kubelet_to_come(paths::KUBELET_PAIR.into(), paths::KUBELET_PAIR.into()))
            }
        }
        for file in self
            .facts
            .kubeconfigs
            .iter()
            .filter(|file| file.role == Role::KubeProxy)
        {
            let client = self.client(Role::KubeProxy, &file.identity);
            clients.extend(
                client.filter(|new| clients.iter().all(|other| other.common_name != new.common_name)),
            );
        }
        clients
    }

    fn client(&mut self, role: Role, identity: &Identity) -> Option<Client> {
        match identity {
            Identity::Files { paths, pair } => Some(Client {
                common_name: pair.leaf().common_name.clone()?,
                cert: paths.cert.clone(),
                key: paths.key.clone(),
                comment: format!(
                    "{}: its own certificate; when it is replaced, edgehold follows.",
                    role.as_str()
                ),
            }),
            Identity::Embedded { pair, .. } => {
                let [cert, key] = kubeconfigs::pair_paths(role);
                let note = format!(
                    "{} keeps its certificate in its kubeconfig; edgehold uses a copy. Run install again when it changes.",
                    role.as_str()
                );
                self.plan.notes.push(note);
                Some(Client {
                    common_name: pair.leaf().common_name.clone()?,
                    cert,
                    key,
                    comment: format!("{}: a copy of what its kubeconfig embeds.", role.as_str()),
                })
            }
            Identity::Absent { paths } if role == Role::Kubelet => {
                self.kubelet_to_come(paths.cert.clone(), paths.key.clone())
            }
            Identity::Absent { paths } => {
                let wrong = format!(
                    "the certificate of {}, {}, is not there",
                    role.as_str(),
                    paths.cert.display()
                );
                self.problem(wrong, "put it there first: its common name is needed");
                None
            }
            Identity::Broken(_) | Identity::None => None,
        }
    }

    /// kubelet has not joined yet: it will, through edgehold, and get this name and these files.
    fn kubelet_to_come(&mut self, cert: PathBuf, key: PathBuf) -> Option<Client> {
        let Some(name) = &self.facts.node_name else {
            self.problem("the name of this node is not known", "give it with --node-name");
            return None;
        };
        let common_name = format!("system:node:{name}");
        self.plan
            .findings
            .push(format!("kubelet has not joined yet; it will as {common_name}"));
        Some(Client {
            common_name,
            cert,
            key,
            comment: "kubelet: it has not joined yet. Once it has, its certificate is taken from here."
                .to_owned(),
        })
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
                    // kubelet may have written the file anew since; as long as it comes to us, it is right.
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

    fn order(&mut self, own: Vec<Step>, clients: Vec<Step>) {
        let managed = self.facts.manager != Manager::Scratch;
        let start = managed && (!own.is_empty() || self.facts.manager == Manager::Inactive);
        let edits = clients.iter().any(|step| matches!(step, Step::Edit { .. }));
        let plan = &mut self.plan;
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
            plan.steps.push(Step::AwaitReady {
                address: self.facts.address,
                ca: self.facts.serving.ca.clone(),
            });
        }
        plan.steps.extend(clients);
        if !edits {
            return;
        }
        match self.options.kubelet {
            Kubelet::Restart if managed => plan.steps.push(Step::Systemd(SystemdAction::RestartKubelet)),
            _ => plan
                .notes
                .push("kubelet reads its kubeconfig when it starts: systemctl restart kubelet".to_owned()),
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
