//! What must be right before anything is done.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::config::kubeconfig::Authority;
use crate::tls::{Roots, Validity};

use super::{Planner, upstream_ca};
use crate::setup::host::{Manager, Port};
use crate::setup::kubeconfigs::{Identity, KubeconfigFile, Role};
use crate::setup::paths;
use crate::setup::proxy::Proxy;

/// 2025: a clock before it is not set, and a certificate made by it would be long over.
const CLOCK_IS_SET: Duration = Duration::from_secs(1_735_689_600);

impl Planner<'_> {
    pub(super) fn check_machine(&mut self) {
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

    pub(super) fn check_kubeconfigs(&mut self) {
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
            Err(error) => return self.problem(format!("{path} {error}"), "fix it first"),
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
        if let Some(Err(error)) = current.proxy_url.as_deref().map(Proxy::parse) {
            self.problem(
                format!("{path} has {error}"),
                "name such a proxy there: what goes through it is TLS from end to end",
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
                    "fix it first",
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
                "fix it first",
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
}
