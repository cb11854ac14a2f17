//! `listen.tls`: the certificate shown to clients, from files or issued by the cluster, and the authority for theirs.

use std::path::{Path, PathBuf};

use super::address;
use super::error::{Fault, Problems, quoted};
use super::object::{Field, Object, or_default};
use super::schema::{common_name, file, path};

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
    /// The serving certificate, with its chain. With `csr` the file that the issued one is kept in.
    pub cert_file: PathBuf,
    /// The key of the serving certificate. With `csr` the same file.
    pub key_file: PathBuf,
    /// The authorities that client certificates are verified with.
    pub client_ca_file: PathBuf,
    /// How to get the certificate from the cluster.
    pub csr: Option<Csr>,
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
    /// `certFile` and `keyFile`: served with until the cluster has issued a certificate.
    pub before: Option<(PathBuf, PathBuf)>,
}

/// Fields that name one of `clients`, with the name.
pub(super) type References<'n> = Vec<(Field<'n>, String)>;

/// Reports each reference to a client that is not configured.
pub(super) fn check_references(references: &References<'_>, names: &[&str], out: &mut Problems) {
    for (field, name) in references {
        if !names.contains(&name.as_str()) {
            let wrong = format!("{} is not a client of this configuration", quoted(name));
            let fix = "write the commonName of one of `clients`";
            field.refuse(Fault::new(wrong, fix), out);
        }
    }
}

/// `cache_path` is where the folder is by default.
pub(super) fn read<'n>(
    field: &Field<'n>,
    cache_path: &Path,
    references: &mut References<'n>,
    out: &mut Problems,
) -> Option<ServingPair> {
    let object = field.object(&["certFile", "keyFile", "clientCAFile", "csr"], out)?;
    let client_ca_file = file(&object, "clientCAFile", out);
    let Some(csr) = object.get("csr") else {
        let cert_file = file(&object, "certFile", out);
        let key_file = file(&object, "keyFile", out);
        return Some(ServingPair {
            cert_file: cert_file?,
            key_file: key_file?,
            client_ca_file: client_ca_file?,
            csr: None,
        });
    };
    let wants_files = object.get("certFile").is_some() || object.get("keyFile").is_some();
    let before = if wants_files {
        let (cert, key) = (file(&object, "certFile", out), file(&object, "keyFile", out));
        Some((cert?, key?))
    } else {
        None
    };
    let csr = Csr {
        before,
        ..read_csr(&csr, cache_path, references, out)?
    };
    let issued = csr.directory.join(CURRENT);
    Some(ServingPair {
        cert_file: issued.clone(),
        key_file: issued,
        client_ca_file: client_ca_file?,
        csr: Some(csr),
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
        before: None,
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
    references.push((field, client.clone()));
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
