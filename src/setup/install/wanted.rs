//! The configuration that the node should have, and what becomes of the one that it has.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::config;
use crate::config::kubeconfig::Authority;

use super::{Planner, upstream_ca};
use crate::setup::configuration::{Client, Configuration, Pods};
use crate::setup::facts::{Replace, ServingCertificate};
use crate::setup::kubeconfigs::{self, Identity, KubeconfigFile, Role};
use crate::setup::paths;
use crate::setup::proxy::Proxy;
use crate::setup::step::Step;

/// As whom kubeadm's kube-proxy speaks.
const KUBE_PROXY_ACCOUNT: &str = "system:serviceaccount:kube-system:kube-proxy";

impl Planner<'_> {
    pub(super) fn configuration(&mut self, steps: &mut Vec<Step>) {
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
            // What keeps them from being read has been said.
            let name_us = self.facts.kubeconfigs.iter().any(|file| file.is_at(&self.local));
            if name_us && (self.facts.config.is_none() || !keep) {
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
        let credentials = wanted
            .proxy
            .as_ref()
            .and_then(|proxy| proxy.credentials.as_deref());
        if let Some(credentials) = credentials {
            self.write(
                &mut files,
                paths::PROXY_CREDENTIALS,
                credentials.as_bytes(),
                0o600,
            );
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
        self.pods = wanted.pods.as_ref().map(|pods| pods.address);
        let own = there == Some(&self.as_configured(&wanted).text());
        match there {
            Some(there) if there != text && keep && !own => self.keep_configuration(),
            _ => self.write(steps, path, text.as_bytes(), 0o644),
        }
    }

    /// `wanted` without what is asked for now beyond the configuration that is there: if that is what is there, nobody has
    /// changed it.
    fn as_configured(&self, wanted: &Configuration) -> Configuration {
        let kubelet = wanted.csr.as_deref().filter(|_| self.configured_csr().is_some());
        let pods = self.configured_pods().zip(kubelet);
        Configuration {
            pods: pods.map(|(address, kubelet)| self.pods_at(address, kubelet, &wanted.clients)),
            csr: kubelet.map(str::to_owned),
            ..wanted.clone()
        }
    }

    /// Where pods are served by the configuration that is there.
    pub(super) fn configured_pods(&self) -> Option<IpAddr> {
        let config = self.kept()?;
        config.listen.dummy_interface.as_ref()?;
        let in_cluster = config.in_cluster.as_ref()?;
        in_cluster.addresses.first().map(SocketAddr::ip)
    }

    /// Who asks for the serving certificate in the configuration that is there.
    fn configured_csr(&self) -> Option<&str> {
        let csr = self.kept()?.listen.tls.csr.as_ref()?;
        Some(&csr.client)
    }

    /// It was changed by hand: it must still be one that the kubeconfigs can be pointed at.
    fn keep_configuration(&mut self) {
        let path = config::DEFAULT_PATH;
        let replace = "correct it, or rewrite it with --replace-config";
        match &self.facts.config {
            None => self.problem(format!("{path} is not right: see edgehold check"), replace),
            Some(config) if !config.listen.addresses.contains(&self.facts.address) => {
                self.problem(
                    format!("{path} does not listen at {}", self.facts.address),
                    replace,
                );
            }
            Some(_) => {
                let pods = self.options.pods;
                if pods.is_some() && self.configured_pods() != pods {
                    let wrong =
                        format!("{path} was changed by hand and has another address for pods, or none");
                    self.problem(
                        wrong,
                        "add it there (docs/in-cluster.md), or rewrite it with --replace-config",
                    );
                } else if self.options.serving == ServingCertificate::Csr && self.configured_csr().is_none() {
                    let wrong = format!("{path} was changed by hand and has no certificate from the cluster");
                    let fix = "add listen.tls.csr there (docs/serving-certificate.md), or rewrite it with --replace-config";
                    self.problem(wrong, fix);
                } else {
                    self.found(format!("{path}: changed by hand, kept as it is"));
                }
            }
        }
    }

    /// The kubeconfig that says where the apiserver is.
    pub(super) fn origin(&self) -> Option<&KubeconfigFile> {
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
        let clients = self.clients();
        // What is there and not asked for again stays.
        let pods = self.options.pods.or(self.configured_pods());
        let kubelet = self.kubelet_for_the_cluster(pods, &clients);
        let pods = pods.zip(kubelet.as_deref());
        let pods = pods.map(|(address, kubelet)| self.pods_at(address, kubelet, &clients));
        Some(Configuration {
            address: self.facts.address,
            server: original.server,
            tls_server_name: original.tls_server_name,
            // Any other kind is a problem that was reported.
            proxy: original.proxy_url.and_then(|url| Proxy::parse(&url).ok()),
            client_ca: client_ca.unwrap_or_else(|| upstream_ca.clone()),
            upstream_ca,
            clients,
            csr: kubelet,
            pods,
        })
    }

    /// The common name whose rights request a certificate from the cluster, if one is wanted.
    fn kubelet_for_the_cluster(&mut self, pods: Option<IpAddr>, clients: &[Client]) -> Option<String> {
        let asked_by = match (pods, self.options.serving) {
            (Some(_), _) => "--pods",
            (None, ServingCertificate::Csr) => "--serving-certificate csr",
            (None, ServingCertificate::Local) if self.configured_csr().is_some() => "listen.tls.csr",
            (None, ServingCertificate::Local) => return None,
        };
        let kubelet = clients
            .iter()
            .find(|client| client.common_name.starts_with("system:node:"));
        let Some(kubelet) = kubelet else {
            self.problem(
                format!("{asked_by} needs a kubelet with a certificate of a node"),
                format!("let it join first, or leave {asked_by} out"),
            );
            return None;
        };
        let listened = [Some(self.facts.address.ip()), pods].into_iter().flatten();
        let addresses: String = listened.map(|ip| format!(" --address {ip}")).collect();
        self.plan.notes.push(format!(
            "the certificate from the cluster waits for an approval, from where kubectl is (docs/serving-certificate.md): \
             kubectl get csr, then edgehold approve{addresses} NAME, or kubectl certificate approve NAME"
        ));
        Some(kubelet.common_name.clone())
    }

    fn pods_at(&self, address: IpAddr, kubelet: &str, clients: &[Client]) -> Pods {
        let others = clients.iter().filter(|client| client.common_name != kubelet);
        let mut endpoints_for: Vec<String> = others.map(|client| client.common_name.clone()).collect();
        if endpoints_for.is_empty() {
            // kubeadm's, should it be pointed here one day: until then nobody asks by this name.
            endpoints_for.push(KUBE_PROXY_ACCOUNT.to_owned());
        }
        Pods {
            address: SocketAddr::new(address, self.facts.address.port()),
            kubelet: kubelet.to_owned(),
            endpoints_for,
        }
    }

    fn clients(&mut self) -> Vec<Client> {
        let mut clients: Vec<Client> = Vec::new();
        let kubelet = self
            .facts
            .kubeconfigs
            .iter()
            .find(|file| file.role == Role::Kubelet);
        match kubelet.map(|file| &file.identity) {
            Some(Identity::None) => {
                let plugin = kubelet.and_then(|file| file.current.as_ref().ok()?.plugin.as_deref());
                self.kubelet_without_certificate(plugin);
            }
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

    /// Its token is passed on.
    fn kubelet_without_certificate(&mut self, plugin: Option<&str>) {
        let Some(plugin) = plugin else {
            return self.found("  kubelet shows no certificate: its token is passed on");
        };
        self.found(format!(
            "  kubelet shows no certificate: the tokens that it gets from {plugin} are passed on"
        ));
        self.plan.notes.push(format!(
            "While the cloud is away kubelet is answered as long as it shows a token from {plugin} that the cluster has accepted before, \
             from all that it has read with any of them if the cluster answers SelfSubjectReviews; with a token that the cluster has \
             not seen only its watches that are held go on. Give kubelet a client certificate (rotateCertificates) if the node must \
             start while the cloud is away."
        ));
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
}
