//! The plan of `edgehold uninstall`: pure.
//!
//! The kubeconfigs first, so that a kubelet that starts at any moment finds an apiserver; then edgehold itself.

use std::path::Path;

use crate::config;
use crate::config::kubeconfig::{self, Authority, Kubeconfig, Target};

use super::facts::{Facts, Kubelet, Options};
use super::host::Manager;
use super::kubeconfigs::{self, KubeconfigFile, local_url};
use super::paths;
use super::step::{Plan, Problem, Step, SystemdAction};

/// What becomes of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// It stays, for the next install.
    Keep,
    /// It is removed.
    Purge,
}

/// What to do for the node to be as it was. No steps if nothing of edgehold is there.
///
/// # Errors
/// Everything that is in the way, at once.
pub fn uninstall(options: &Options, facts: &Facts, data: Data) -> Result<Plan, Vec<Problem>> {
    let mut plan = Plan::default();
    let mut problems = Vec::new();
    if !facts.is_root {
        problems.push(Problem::new("this needs root", "run it with sudo"));
    }
    for (path, error) in &facts.unreadable {
        problems.push(Problem::new(
            format!("{}: {error}", path.display()),
            "let root read it",
        ));
    }
    plan.steps.extend(facts.tidy());
    for file in &facts.kubeconfigs {
        match back(file, facts) {
            Ok(steps) => plan.steps.extend(steps),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let edited = plan
        .steps
        .iter()
        .any(|step| matches!(step, Step::Edit { .. } | Step::Restore { .. }));
    if edited {
        match options.kubelet {
            Kubelet::Restart if facts.manager != Manager::Scratch => {
                plan.steps.push(Step::Systemd(SystemdAction::RestartKubelet));
            }
            _ => plan.notes.push(
                "a kubelet that runs still asks edgehold, which is gone: systemctl restart kubelet"
                    .to_owned(),
            ),
        }
    }
    remove_own(facts, &mut plan);
    for_pods(facts, &mut plan);
    match data {
        Data::Purge => plan.steps.push(Step::Purge {
            path: state_dir(facts),
        }),
        Data::Keep if !plan.steps.is_empty() => {
            let dir = state_dir(facts);
            plan.notes.push(format!(
                "the cache stays in {}: remove it with --purge",
                dir.display()
            ));
        }
        Data::Keep => {}
    }
    Ok(plan)
}

fn state_dir(facts: &Facts) -> std::path::PathBuf {
    let configured = facts.config.as_ref().map(|config| config.cache.path.clone());
    configured.unwrap_or_else(|| paths::STATE_DIR.into())
}

/// What puts one kubeconfig back.
fn back(file: &KubeconfigFile, facts: &Facts) -> Result<Vec<Step>, Problem> {
    let local = local_url(facts.address);
    let backup = paths::backup_of(&file.path);
    let remove_backup = file
        .backup
        .is_some()
        .then(|| Step::Remove { path: backup.clone() });
    if !file.is_at(&local) {
        return Ok(remove_backup.into_iter().collect());
    }
    let ca = facts.existing_text(paths::LOCAL_CA).unwrap_or(&facts.serving.ca);
    if let Some(original) = file.original(&local) {
        let untouched = original
            .pointed(file.role, &local, ca)
            .is_ok_and(|pointed| pointed.text == file.text);
        if untouched {
            return Ok(vec![Step::Restore {
                path: file.path.clone(),
                from: backup,
            }]);
        }
    }
    let by_hand = |wrong: String| Problem::new(wrong, "put its `server` and authority back by hand");
    let (server, authority, proxy, server_name) = target(file, facts, ca).ok_or_else(|| {
        by_hand(format!(
            "{}: where its apiserver was is not known",
            file.path.display()
        ))
    })?;
    let target = Target {
        server: &server,
        authority: &authority,
        proxy: &proxy,
        server_name: &server_name,
    };
    let after = kubeconfig::edit(&file.text, &target)
        .map_err(|error| by_hand(format!("{} {error}", file.path.display())))?;
    let edit = Step::Edit {
        path: file.path.clone(),
        before: file.text.clone(),
        after,
    };
    Ok([edit].into_iter().chain(remove_backup).collect())
}

/// Where a kubeconfig that was changed since, or came to be since, is to point.
fn target(file: &KubeconfigFile, facts: &Facts, ca: &str) -> Option<(String, Authority, String, String)> {
    let now = file.current.as_ref().ok()?;
    let before = file.before().map(|(_, before)| before);
    let server = before.as_ref().map(|before| before.server.clone());
    let server = server.or_else(|| Some(facts.config.as_ref()?.upstream.urls.first()?.clone()))?;
    let proxy = match &before {
        Some(before) => before.proxy_url.clone(),
        None => facts
            .config
            .as_ref()
            .and_then(|config| Some(config.upstream.settings.dial.proxy.as_ref()?.to_string())),
    };
    let server_name = match &before {
        Some(before) => before.tls_server_name.clone(),
        None => facts
            .config
            .as_ref()
            .and_then(|config| Some(config.upstream.tls_server_name.as_ref()?.to_string())),
    };
    Some((
        server,
        authority(now, before, facts, ca)?,
        proxy.unwrap_or_default(),
        server_name.unwrap_or_default(),
    ))
}

fn authority(now: &Kubeconfig, before: Option<Kubeconfig>, facts: &Facts, ca: &str) -> Option<Authority> {
    match (&now.authority, before.map(|before| before.authority)) {
        // What was added since stays.
        (Authority::Data(data), _) => Some(Authority::Data(kubeconfigs::without(data, ca))),
        (Authority::File(_), Some(before @ Authority::File(_))) => Some(before),
        (Authority::File(path), _) if !path.starts_with(paths::PKI_DIR) => Some(now.authority.clone()),
        (Authority::File(_), _) => Some(Authority::File(facts.config.as_ref()?.upstream.ca_file.clone())),
        (Authority::System, _) => None,
    }
}

/// Pods have their environment from the time when they started.
fn for_pods(facts: &Facts, plan: &mut Plan) {
    let in_cluster = facts
        .config
        .as_ref()
        .and_then(|config| config.in_cluster.as_ref());
    let Some(in_cluster) = in_cluster.filter(|in_cluster| !in_cluster.service_for.is_empty()) else {
        return;
    };
    let addresses: Vec<String> = in_cluster.addresses.iter().map(ToString::to_string).collect();
    plan.notes.push(format!(
        "pods that run have {} as their apiserver until they are recreated",
        addresses.join(" and ")
    ));
}

/// Everything that install wrote and nobody has made his own since.
fn remove_own(facts: &Facts, plan: &mut Plan) {
    let ours = |path: &str| {
        facts
            .existing_text(path)
            .is_some_and(|text| text.starts_with(paths::MARK))
    };
    if ours(paths::UNIT) {
        if facts.manager != Manager::Scratch {
            plan.steps.push(Step::Systemd(SystemdAction::Disable));
        }
        plan.steps.push(Step::Remove {
            path: paths::UNIT.into(),
        });
        if facts.manager != Manager::Scratch {
            plan.steps.push(Step::Systemd(SystemdAction::Reload));
        }
    } else if facts.existing.contains_key(Path::new(paths::UNIT)) {
        plan.notes
            .push(format!("{} was not written by install: it stays", paths::UNIT));
    }
    let foreign = facts.existing.contains_key(Path::new(config::DEFAULT_PATH)) && !ours(config::DEFAULT_PATH);
    if foreign {
        plan.notes.push(format!(
            "{} was not written by install: it and what it names stay",
            config::DEFAULT_PATH
        ));
        return;
    }
    let own: Vec<Step> = facts
        .existing
        .keys()
        .filter(|path| path.starts_with(paths::CONFIG_DIR))
        // The configuration last: it knows where a kubeconfig belongs that could not be put back.
        .filter(|path| path.as_path() != Path::new(config::DEFAULT_PATH))
        .map(|path| Step::Remove { path: path.clone() })
        .collect();
    let config = facts.existing.contains_key(Path::new(config::DEFAULT_PATH));
    if own.is_empty() && !config {
        let empty = facts
            .empty
            .iter()
            .map(|path| Step::RemoveEmpty { path: path.clone() });
        plan.steps.extend(empty);
        return;
    }
    plan.steps.extend(own);
    plan.steps.push(Step::RemoveEmpty {
        path: paths::PKI_DIR.into(),
    });
    let interface = facts
        .config
        .as_ref()
        .and_then(|config| config.listen.dummy_interface.as_ref());
    if let Some(interface) = interface.filter(|_| facts.manager != Manager::Scratch) {
        plan.steps.push(Step::RemoveInterface {
            name: interface.name.clone(),
            addresses: interface.addresses.clone(),
        });
    }
    if config {
        plan.steps.push(Step::Remove {
            path: config::DEFAULT_PATH.into(),
        });
    }
    plan.steps.push(Step::RemoveEmpty {
        path: paths::CONFIG_DIR.into(),
    });
}
