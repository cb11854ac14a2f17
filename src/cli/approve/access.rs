//! The way to the cluster and the identity there, where kubectl finds them too.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{env, fs};

use crate::config::kubeconfig::{Authority, Bearer, Credentials, Kubeconfig, Source};
use crate::node::approve::Candidate;
use crate::tls::{Alpn, ClientTls, PairInfo, PairPaths, Roots, TrustedTime};
use crate::upstream::direct::{Direct, Identity, Token};
use crate::upstream::{Endpoint, UpstreamProxy};

/// Where a pod finds its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The file that was named, else those of `KUBECONFIG` as one, else `~/.kube/config`, else the service account of the pod that
/// this runs in.
///
/// # Errors
/// None of them can be used.
pub(super) fn find(named: Option<&Path>) -> Result<Direct, String> {
    let files = named.map_or_else(usual, |path| vec![path.to_owned()]);
    if files.is_empty() {
        return of_pod()
            .ok_or_else(|| "no way to a cluster: write --kubeconfig FILE, or set KUBECONFIG".to_owned())?;
    }
    let listed: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
    let config = Kubeconfig::merged(sources(&files)?).map_err(|error| error.to_string());
    let direct = config.and_then(|config| of_kubeconfig(&config));
    direct.map_err(|why| format!("{}: {why}", listed.join(", ")))
}

/// Those that are there, as for kubectl; of `KUBECONFIG` the first if none is, so that it is said which is missing.
fn usual() -> Vec<PathBuf> {
    if let Some(listed) = env::var_os("KUBECONFIG").filter(|listed| !listed.is_empty()) {
        let named = env::split_paths(&listed).filter(|path| !path.as_os_str().is_empty());
        let mut named: Vec<PathBuf> = named.collect();
        let there = named.extract_if(.., |path| path.exists()).collect::<Vec<_>>();
        return if there.is_empty() {
            named.into_iter().take(1).collect()
        } else {
            there
        };
    }
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".kube/config"));
    home.into_iter().filter(|path| path.exists()).collect()
}

fn sources(files: &[PathBuf]) -> Result<Vec<Source>, String> {
    let source = |path: &PathBuf| {
        let wrong = |why: String| format!("{}: {why}", path.display());
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        Source::read(&text, path).map_err(|error| wrong(error.to_string()))
    };
    files.iter().map(source).collect()
}

fn of_kubeconfig(config: &Kubeconfig) -> Result<Direct, String> {
    if config.skips_verification {
        return Err(
            "insecure-skip-tls-verify: a server that is not verified is asked for nothing".to_owned(),
        );
    }
    let roots = match &config.authority {
        Authority::Data(data) => Roots::parse(data, Path::new("certificate-authority-data")),
        Authority::File(file) => Roots::load(file),
        Authority::System => return Err("its cluster names no certificate-authority".to_owned()),
    };
    let roots = roots.map_err(|error| error.to_string())?;
    let pair = match &config.credentials {
        Credentials::NoCertificate => None,
        Credentials::Data { cert, key } => {
            Some(PairInfo::parse(cert, key, Path::new("client-certificate-data")))
        }
        Credentials::Files { cert, key } => Some(PairInfo::load(&PairPaths {
            cert: cert.clone(),
            key: key.clone(),
        })),
    };
    let pair = pair.transpose().map_err(|error| error.to_string())?;
    let token = match config.bearer.clone() {
        Bearer::None => None,
        Bearer::Text(text) => Some(Token::Text(text)),
        Bearer::File(file) => Some(Token::File(file)),
    };
    let identity = identity(&roots, pair.as_ref(), token)?;
    let endpoint = config.endpoint().map_err(|error| error.to_string())?;
    let proxy: Option<UpstreamProxy> = config.proxy().map_err(|error| error.to_string())?;
    Ok(Direct {
        endpoint,
        proxy,
        identity,
    })
}

/// As client-go's `rest.InClusterConfig`.
fn of_pod() -> Option<Result<Direct, String>> {
    let host = env::var("KUBERNETES_SERVICE_HOST").ok()?;
    let port = env::var("KUBERNETES_SERVICE_PORT").ok()?.parse().ok()?;
    let account = Path::new(ACCOUNT);
    let direct = || {
        let roots = Roots::load(&account.join("ca.crt")).map_err(|error| error.to_string())?;
        let token = Some(Token::File(account.join("token")));
        Ok(Direct {
            endpoint: Endpoint::new(&host, port).map_err(|error| error.to_string())?,
            proxy: None,
            identity: identity(&roots, None, token)?,
        })
    };
    Some(direct())
}

/// Where this process stands for election: a pod is named after itself.
pub(super) fn candidate(namespace: Option<String>) -> Candidate {
    let own = || fs::read_to_string(Path::new(ACCOUNT).join("namespace")).ok();
    let namespace = namespace.or_else(own).map(|text| text.trim().to_owned());
    let host = env::var("HOSTNAME").unwrap_or_default();
    let unique = uuid::Uuid::new_v4();
    Candidate {
        identity: format!("{host}_{unique}"),
        namespace: namespace
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "edgehold".to_owned()),
        lease: "edgehold-approver".to_owned(),
    }
}

/// A certificate counts more than a token, as for an apiserver.
fn identity(roots: &Roots, pair: Option<&PairInfo>, token: Option<Token>) -> Result<Identity, String> {
    let shown = pair.map(PairInfo::identity);
    let time: Arc<TrustedTime> = TrustedTime::new();
    let tls = ClientTls::new(Some(roots), shown.as_ref(), Alpn::Http1, &time);
    let tls = tls.map_err(|error| error.to_string())?;
    match (shown, token) {
        (Some(_), _) => Ok(Identity::Certificate(tls)),
        (None, Some(token)) => Ok(Identity::Token(tls, token)),
        (None, None) => {
            Err("its user shows neither a certificate nor a token, and plugins are not run".to_owned())
        }
    }
}
