//! `listen.tls`: the certificate shown to clients, from files or issued by the cluster, and the authority for theirs.

use std::path::{Path, PathBuf};

use super::address;
use super::error::{Fault, quoted};
use super::material::{self, MaterialRef};
use super::object::{Field, Object};
use super::reference::Names;

/// The signer of kube-controller-manager for the serving certificates of nodes.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// Its subjects.
const NODE_PREFIX: &str = "system:node:";

/// The file that an issued certificate is kept in, below `directory`.
const CURRENT: &str = crate::node::serving::CURRENT;

/// kube-apiserver's own limit (`spec.expirationSeconds`).
const SHORTEST: i64 = 600;

/// The usages of a serving certificate that Kubernetes knows (`certificates.k8s.io/v1` KeyUsage).
const USAGES: [&str; 5] = [
    "digital signature",
    "key encipherment",
    "key agreement",
    "server auth",
    "client auth",
];

/// `listen.tls`: absolute paths of PEM files, not opened yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServingPair {
    /// The serving certificate, with its chain. With `csr` or `secretRef` the file that it is kept in.
    pub cert_file: PathBuf,
    /// The key of the serving certificate. Then the same file.
    pub key_file: PathBuf,
    /// The authorities that client certificates are verified with.
    pub client_ca_file: PathBuf,
    /// The lists of revoked client certificates.
    pub client_crl_file: Option<PathBuf>,
    /// `certFile` and `keyFile` when the certificate comes from the cluster: served with until it is there.
    pub before: Option<(PathBuf, PathBuf)>,
    /// How to get the certificate from the cluster by a request.
    pub csr: Option<Csr>,
    /// The Secret that holds it.
    pub secret_ref: Option<MaterialRef>,
    /// More authorities of clients, from a ConfigMap.
    pub client_ca_ref: Option<MaterialRef>,
}

/// `listen.tls.csr`: a serving certificate issued by the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csr {
    /// The common name of a configured client: in its name and with its rights.
    pub client: String,
    /// `spec.signerName`.
    pub signer_name: String,
    /// `spec.usages`.
    pub usages: Vec<String>,
    /// `spec.expirationSeconds`, at least 600.
    pub expiration_seconds: Option<u32>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// DNS names and IP addresses besides those of the Service and the listen addresses.
    pub names: Vec<String>,
    /// Absolute path of the folder for key and certificate.
    pub directory: PathBuf,
}

/// `cache_path` is where files from the cluster are kept by default.
pub(super) fn read(tls: &mut Object<'_>, cache_path: &Path, names: &Names) -> Option<ServingPair> {
    let [cert, key] = ["certFile", "keyFile"].map(|name| tls.get(name));
    let client_ca_file = tls.file("clientCAFile");
    let client_crl_file = tls.optional("clientCRLFile", Field::path);
    let kept = material::directory(cache_path);
    let client_ca = kept.join("client-ca.crt");
    let client_ca_ref = material::config_map(tls, "clientCAConfigMapRef", client_ca, names);
    let from_cluster = [tls.get("csr"), tls.get("secretRef")];
    if let [Some(csr), Some(_)] = &from_cluster {
        csr.refuse(Fault::new("is given beside `secretRef`", "keep one of them"));
    }
    let is_from_cluster = from_cluster.iter().any(Option::is_some);
    let secret_ref = material::secret(tls, kept.join("serving.sealed"), names);
    let csr = tls.optional("csr", |field| {
        field.object(|csr| read_csr(csr, cache_path, names))
    });
    let files = if !is_from_cluster || cert.or(key).is_some() {
        tls.file("certFile").zip(tls.file("keyFile"))
    } else {
        None
    };
    let (cert_file, key_file, before) = if is_from_cluster {
        let issued = csr.as_ref().map(|csr| csr.directory.join(CURRENT));
        let issued = issued.or_else(|| secret_ref.as_ref().map(|secret| secret.file.clone()))?;
        (issued.clone(), issued, files)
    } else {
        let (cert, key) = files?;
        (cert, key, None)
    };
    Some(ServingPair {
        cert_file,
        key_file,
        client_ca_file: client_ca_file?,
        client_crl_file,
        before,
        csr,
        secret_ref,
        client_ca_ref,
    })
}

fn read_csr(csr: &mut Object<'_>, cache_path: &Path, names: &Names) -> Option<Csr> {
    let client = csr.required("client");
    let signer_name = match csr.get("signerName") {
        None => Some(KUBELET_SERVING.to_owned()),
        Some(field) => field.parse(signer),
    };
    let client = client.and_then(|field| {
        let client = names.client(&field)?;
        if signer_name.as_deref() == Some(KUBELET_SERVING) && !client.starts_with(NODE_PREFIX) {
            let wrong = format!(
                "{} is no node, and {KUBELET_SERVING} signs for nodes only",
                quoted(&client)
            );
            let fix = "write the node's name, like system:node:edge-1, or another signerName";
            field.refuse(Fault::new(wrong, fix));
        }
        Some(client)
    });
    let default_usages = ["digital signature", "server auth"].map(str::to_owned);
    Some(Csr {
        usages: csr.or("usages", default_usages.to_vec(), read_usages),
        expiration_seconds: csr.optional("expirationSeconds", |field| {
            let range = SHORTEST..=i32::MAX.into();
            field.whole(
                range,
                "of at least 600",
                "write seconds, like 2592000 for 30 days",
            )
        }),
        cluster_domain: csr.or("clusterDomain", "cluster.local".to_owned(), |field| {
            field.parse(name)
        }),
        names: csr.or("names", Vec::new(), |field| {
            let items = field.items();
            Some(items.iter().filter_map(|item| item.parse(name)).collect())
        }),
        directory: csr.or("directory", cache_path.join("serving"), Field::path),
        client: client?,
        signer_name: signer_name?,
    })
}

fn read_usages(field: &Field<'_>) -> Option<Vec<String>> {
    let known = USAGES.map(|usage| (usage, usage));
    let items = field.items();
    let usages = items
        .iter()
        .filter_map(|item| item.choice(&known).map(str::to_owned));
    let usages: Vec<String> = usages.collect();
    if usages.len() == items.len() && !usages.iter().any(|usage| usage == "server auth") {
        field.refuse(Fault::new("lacks `server auth`", "add it: clients ask for it"));
    }
    Some(usages)
}

/// As kube-apiserver has it: a domain, a slash, a path.
fn signer(text: &str) -> Result<String, Fault> {
    let parts = text.split_once('/');
    let fits = parts.is_some_and(|(domain, rest)| domain.contains('.') && !rest.is_empty())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    fits.then(|| text.to_owned()).ok_or_else(|| {
        Fault::new(
            format!("{} is not the name of a signer", quoted(text)),
            format!("write it like {KUBELET_SERVING} or example.com/edge-serving"),
        )
    })
}

/// An IP address or a DNS name.
fn name(text: &str) -> Result<String, Fault> {
    match text.parse::<std::net::IpAddr>() {
        Ok(_) => address::ip(text).map(|ip| ip.to_string()),
        Err(_) => address::dns_name(text),
    }
}
