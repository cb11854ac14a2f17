//! What certificate to ask for.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::tls::AltName;

/// What to ask for, and where to keep it.
#[derive(Debug, Clone)]
pub struct ServingConfig {
    /// CN of the request.
    pub common_name: String,
    /// O of the request: `system:nodes` for the kubelet-serving signer.
    pub organization: Option<String>,
    /// `spec.signerName`.
    pub signer_name: String,
    /// `spec.usages`.
    pub usages: Vec<String>,
    /// `spec.expirationSeconds`.
    pub expiration_seconds: Option<u32>,
    /// The listen addresses, and what else is wanted.
    pub names: BTreeSet<AltName>,
    /// The end of `kubernetes.default.svc.<domain>`.
    pub cluster_domain: String,
    /// For the key and the certificate, [`CURRENT`](super::CURRENT) in it.
    pub directory: PathBuf,
}

impl ServingConfig {
    /// All names of the certificate, with the ClusterIPs of the Service `default/kubernetes` as far as they are known.
    pub(super) fn all_names(&self, cluster_ips: &BTreeSet<IpAddr>) -> BTreeSet<AltName> {
        let domain = &self.cluster_domain;
        let service = [
            "kubernetes".to_owned(),
            "kubernetes.default".to_owned(),
            "kubernetes.default.svc".to_owned(),
            format!("kubernetes.default.svc.{domain}"),
        ];
        let service = service.into_iter().map(AltName::Dns);
        let addresses = cluster_ips.iter().copied().map(AltName::Ip);
        self.names
            .iter()
            .cloned()
            .chain(service)
            .chain(addresses)
            .collect()
    }
}
