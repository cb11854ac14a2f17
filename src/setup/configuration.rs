//! The configuration that install writes.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::paths::{self, MARK};
use super::proxy::Proxy;

/// What of a configuration differs from node to node.
#[derive(Clone, Debug)]
pub(super) struct Configuration {
    pub(super) address: SocketAddr,
    pub(super) server: String,
    /// The name in the server's certificate, if it is not the host's.
    pub(super) tls_server_name: Option<String>,
    pub(super) proxy: Option<Proxy>,
    pub(super) upstream_ca: PathBuf,
    pub(super) client_ca: PathBuf,
    pub(super) clients: Vec<Client>,
    /// Whose rights request the serving certificate from the cluster, if it is to come from there.
    pub(super) csr: Option<String>,
    pub(super) pods: Option<Pods>,
}

/// What pods need that find the apiserver by InClusterConfig.
#[derive(Clone, Debug)]
pub(super) struct Pods {
    /// Where they reach edgehold.
    pub(super) address: SocketAddr,
    /// kubelet's common name: it gives them the address.
    pub(super) kubelet: String,
    /// Who is to send the ClusterIP's connections here.
    pub(super) endpoints_for: Vec<String>,
}

/// One of `clients`.
#[derive(Clone, Debug)]
pub(super) struct Client {
    pub(super) common_name: String,
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    /// Why it is there, for the reader.
    pub(super) comment: String,
}

impl Configuration {
    /// The file. Values are quoted: they come from other files.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        writeln!(
            out,
            "{MARK}, and yours to change: install keeps a file that differs."
        )?;
        writeln!(
            out,
            "# Every field is explained in docs/configuration.md; `edgehold check` says what the file means."
        )?;
        writeln!(out, "apiVersion: edgehold/v1alpha1\nkind: ProxyConfiguration\n")?;
        writeln!(out, "listen:")?;
        writeln!(
            out,
            "  # The kubeconfigs of this node's clients name this address."
        )?;
        let addresses: Vec<String> = [Some(self.address), self.pods.as_ref().map(|pods| pods.address)]
            .iter()
            .flatten()
            .map(|address| quoted(&address.to_string()))
            .collect();
        writeln!(out, "  addresses: [{}]", addresses.join(", "))?;
        if let Some(pods) = &self.pods {
            let address = quoted(&pods.address.ip().to_string());
            writeln!(out, "  # Pods reach the second one, whatever their network.")?;
            writeln!(
                out,
                "  dummyInterface: {{name: edgehold0, addresses: [{address}]}}"
            )?;
        }
        writeln!(out, "  tls:")?;
        writeln!(
            out,
            "    # Made on this node; its authority is in those kubeconfigs."
        )?;
        writeln!(out, "    certFile: {}", path(Path::new(paths::SERVER_CERT)))?;
        writeln!(out, "    keyFile: {}", path(Path::new(paths::SERVER_KEY)))?;
        writeln!(
            out,
            "    # Who signs the certificates that local clients show: the cluster."
        )?;
        writeln!(out, "    clientCAFile: {}", path(&self.client_ca))?;
        if let Some(client) = &self.csr {
            writeln!(
                out,
                "    # Pods trust the cluster's authority alone: once this request is approved, its certificate is"
            )?;
            writeln!(
                out,
                "    # served instead of the one above (docs/serving-certificate.md)."
            )?;
            writeln!(out, "    csr: {{client: {}}}", quoted(client))?;
        }
        writeln!(out)?;
        writeln!(out, "upstream:")?;
        writeln!(out, "  # From kubelet's kubeconfig.")?;
        writeln!(out, "  servers: [{}]", quoted(&self.server))?;
        if let Some(name) = &self.tls_server_name {
            writeln!(out, "  tlsServerName: {}", quoted(name))?;
        }
        writeln!(out, "  caFile: {}", path(&self.upstream_ca))?;
        if let Some(proxy) = &self.proxy {
            writeln!(out, "  proxyURL: {}", quoted(&proxy.url))?;
            if proxy.credentials.is_some() {
                let file = path(Path::new(paths::PROXY_CREDENTIALS));
                writeln!(out, "  proxyCredentialsFile: {file}")?;
            }
        }
        writeln!(
            out,
            "\n# Who is spoken for with which certificate. Clients with a token need no entry: it is passed on."
        )?;
        writeln!(
            out,
            "{}",
            if self.clients.is_empty() {
                "clients: []"
            } else {
                "clients:"
            }
        )?;
        for client in &self.clients {
            writeln!(out, "  # {}", client.comment)?;
            writeln!(out, "  - commonName: {}", quoted(&client.common_name))?;
            writeln!(out, "    certFile: {}", path(&client.cert))?;
            writeln!(out, "    keyFile: {}", path(&client.key))?;
        }
        if let Some(reader) = self.issuer_reader() {
            writeln!(
                out,
                "\n# With the cluster's keys a pod's new token is known that was never shown while the cloud was there. Nodes may"
            )?;
            writeln!(
                out,
                "# read them once examples/deploy/issuer/rbac.yaml is applied in the cluster."
            )?;
            writeln!(out, "offline:")?;
            writeln!(out, "  issuer: {{commonName: {}}}", quoted(reader))?;
        }
        let Some(pods) = &self.pods else {
            return Ok(());
        };
        let endpoints: Vec<String> = pods.endpoints_for.iter().map(|name| quoted(name)).collect();
        writeln!(
            out,
            "\n# kubelet tells new pods this address as their apiserver's (docs/in-cluster.md)."
        )?;
        writeln!(out, "inCluster:")?;
        writeln!(out, "  address: {}", quoted(&pods.address.to_string()))?;
        writeln!(out, "  serviceFor: [{}]", quoted(&pods.kubelet))?;
        writeln!(out, "  endpointsFor: [{}]", endpoints.join(", "))
    }
}

impl Configuration {
    /// As whom the cluster's keys are read: kubelet, once it has joined.
    fn issuer_reader(&self) -> Option<&str> {
        let mut names = self.clients.iter().map(|client| client.common_name.as_str());
        names.find(|name| name.starts_with("system:node:"))
    }
}

pub(super) fn path(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if text.starts_with('/') && text.chars().all(plain) {
        text
    } else {
        quoted(&text)
    }
}

/// A double-quoted scalar: JSON's strings are YAML's.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
