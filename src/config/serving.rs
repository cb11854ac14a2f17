//! `listen.tls`: the certificate shown to clients, from files or issued by the cluster, and the authority for theirs.

use std::path::{Path, PathBuf};

use super::address;
use super::error::{Fault, Problems, quoted};
use super::object::{Field, Object, or_default};
use super::schema::{common_name, file, path};
use super::{Client, MaterialRef, material};

/// The signer of kube-controller-manager for the serving certificates of nodes.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// Its subjects.
const NODE_PREFIX: &str = "system:node:";

/// The file that an issued certificate is kept in, below `directory`.
const CURRENT: &str = crate::node::serving::CURRENT;

/// kube-apiserver's own limit (`spec.expirationSeconds`).
const SHORTEST: f64 = 600.0;

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

/// A field that names one of `clients`.
pub(super) struct Reference<'n> {
    pub(super) field: Field<'n>,
    pub(super) name: String,
    pub(super) needs: Needs,
}

/// What the named client must be like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Needs {
    /// Configured.
    Client,
    /// Configured, with a certificate from files: it reads those of others.
    Files,
}

/// All of them.
pub(super) type References<'n> = Vec<Reference<'n>>;

/// Reports each reference to a client that is not configured, or not as it must be.
pub(super) fn check_references(references: &References<'_>, clients: &[Client], out: &mut Problems) {
    for Reference { field, name, needs } in references {
        let found = clients.iter().find(|client| client.common_name == *name);
        let fault = match found {
            None => Fault::new(
                format!("{} is not a client of this configuration", quoted(name)),
                "write the commonName of one of `clients`",
            ),
            Some(client) if *needs == Needs::Files && client.secret_ref.is_some() => Fault::new(
                format!("the certificate of {} comes from a Secret itself", quoted(name)),
                "name a client with certFile and keyFile",
            ),
            Some(_) => continue,
        };
        field.refuse(fault, out);
    }
}

/// `cache_path` is where files from the cluster are kept by default.
pub(super) fn read<'n>(
    field: &Field<'n>,
    cache_path: &Path,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<ServingPair> {
    let known = [
        "certFile",
        "keyFile",
        "clientCAFile",
        "clientCRLFile",
        "csr",
        "secretRef",
        "clientCAConfigMapRef",
    ];
    let object = field.object(&known, out)?;
    let client_ca_file = file(&object, "clientCAFile", out);
    let client_crl_file = or_default(object.get("clientCRLFile"), None, |field| {
        field.parse(path, out).map(Some)
    });
    let kept = cache_path.join("material");
    let to = kept.join("client-ca.crt");
    let client_ca_ref = material::read_config_map(&object, "clientCAConfigMapRef", to, references, out);
    let secret_ref = material::read_secret(&object, kept.join("serving.sealed"), references, out);
    let csr = match object.get("csr") {
        None => Some(None),
        Some(field) => {
            if object.get("secretRef").is_some() {
                let fault = Fault::new("is given beside `secretRef`", "keep one of them");
                field.refuse(fault, out);
            }
            read_csr(&field, cache_path, references, out).map(Some)
        }
    };
    let files = ["certFile", "keyFile"];
    let from_cluster = object.get("csr").is_some() || object.get("secretRef").is_some();
    let before = if !from_cluster || files.iter().any(|name| object.get(name).is_some()) {
        let [cert, key] = files.map(|name| file(&object, name, out));
        Some((cert?, key?))
    } else {
        None
    };
    let (secret_ref, csr) = (secret_ref?, csr?);
    let issued = csr.as_ref().map(|csr| csr.directory.join(CURRENT));
    let issued = issued.or_else(|| secret_ref.as_ref().map(|secret| secret.file.clone()));
    let (cert_file, key_file, before) = match (issued, before) {
        (Some(issued), before) => (issued.clone(), issued, before),
        (None, before) => {
            let (cert, key) = before?;
            (cert, key, None)
        }
    };
    Some(ServingPair {
        cert_file,
        key_file,
        client_ca_file: client_ca_file?,
        client_crl_file: client_crl_file?,
        before,
        csr,
        secret_ref,
        client_ca_ref: client_ca_ref?,
    })
}

fn read_csr<'n>(
    field: &Field<'n>,
    cache_path: &Path,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<Csr> {
    let known = [
        "client",
        "signerName",
        "usages",
        "expirationSeconds",
        "clusterDomain",
        "names",
        "directory",
    ];
    let object = field.object(&known, out)?;
    let signer_name = or_default(object.get("signerName"), KUBELET_SERVING.to_owned(), |field| {
        field.parse(signer, out)
    });
    let client = read_client(&object, signer_name.as_deref(), references, out);
    let usages = or_default(object.get("usages"), default_usages(), |field| {
        read_usages(&field, out)
    });
    let expiration_seconds = or_default(object.get("expirationSeconds"), None, |field| {
        read_expiration(&field, out).map(Some)
    });
    let domain = "cluster.local".to_owned();
    let cluster_domain = or_default(object.get("clusterDomain"), domain, |field| {
        field.parse(name, out)
    });
    let names = or_default(object.get("names"), Vec::new(), |field| {
        let items = field.items(out)?;
        let count = items.len();
        let names: Vec<_> = items.iter().filter_map(|item| item.parse(name, out)).collect();
        (names.len() == count).then_some(names)
    });
    let directory = or_default(object.get("directory"), cache_path.join("serving"), |field| {
        field.parse(path, out)
    });
    Some(Csr {
        client: client?,
        signer_name: signer_name?,
        usages: usages?,
        expiration_seconds: expiration_seconds?,
        cluster_domain: cluster_domain?,
        names: names?,
        directory: directory?,
    })
}

fn read_client<'n>(
    csr: &Object<'n>,
    signer_name: Option<&str>,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<String> {
    let field = csr.required("client", out)?;
    let client = field.parse(common_name, out)?;
    if signer_name == Some(KUBELET_SERVING) && !client.starts_with(NODE_PREFIX) {
        let wrong = format!(
            "{} is no node, and {KUBELET_SERVING} signs for nodes only",
            quoted(&client)
        );
        let fix = "write the node's name, like system:node:edge-1, or another signerName";
        field.refuse(Fault::new(wrong, fix), out);
    }
    references.push(Reference {
        field,
        name: client.clone(),
        needs: Needs::Client,
    });
    Some(client)
}

fn default_usages() -> Vec<String> {
    ["digital signature", "server auth"].map(str::to_owned).to_vec()
}

fn read_usages(field: &Field<'_>, out: &mut Problems) -> Option<Vec<String>> {
    let items = field.items(out)?;
    let count = items.len();
    let known = USAGES.map(|usage| (usage, usage));
    let usages: Vec<String> = items
        .iter()
        .filter_map(|item| item.choice(&known, out).map(str::to_owned))
        .collect();
    if usages.len() == count && !usages.iter().any(|usage| usage == "server auth") {
        let wrong = "lacks `server auth`";
        field.refuse(Fault::new(wrong, "add it: clients ask for it"), out);
    }
    (usages.len() == count).then_some(usages)
}

fn read_expiration(field: &Field<'_>, out: &mut Problems) -> Option<u32> {
    let number = field.number(out)?;
    if number.fract() != 0.0 || !(SHORTEST..=f64::from(i32::MAX)).contains(&number) {
        let wrong = format!(
            "{} is not a whole number of at least 600",
            quoted(&number.to_string())
        );
        field.refuse(Fault::new(wrong, "write seconds, like 2592000 for 30 days"), out);
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "checked above: whole, positive and at most i32::MAX"
    )]
    Some(number as u32)
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
