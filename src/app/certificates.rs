//! Which files hold which certificate.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, MaterialRef};
use crate::identity::NodeKey;
use crate::tls::{self, FileSeal, PairPaths, PairSource};

/// What opens the certificates that were taken from Secrets.
pub(super) struct Seals([u8; 32]);

impl Seals {
    /// With a key of its own, so that the node key may serve other purposes too.
    pub(super) fn new(key: &NodeKey) -> Self {
        Self(blake3::derive_key(
            "edgehold kept certificates v1",
            key.as_bytes(),
        ))
    }

    /// For the serving pair.
    pub(super) fn serving(&self) -> Arc<FileSeal> {
        Arc::new(FileSeal::new(self.0, "serving"))
    }

    /// For the pair of a client.
    pub(super) fn client(&self, common_name: &str) -> Arc<FileSeal> {
        Arc::new(FileSeal::new(self.0, &format!("client {common_name}")))
    }
}

/// Every configured file.
pub(super) fn config(config: &Config, seals: &Seals) -> tls::Config {
    let serving = &config.listen.tls;
    let kept = |from: &Option<MaterialRef>| from.as_ref().map(|from| from.file.clone());
    let before = serving.before.as_ref();
    let clients = config.clients.iter().map(|client| {
        let sealed = client
            .secret_ref
            .is_some()
            .then(|| seals.client(&client.common_name));
        let source = pair(&client.cert_file, &client.key_file, sealed);
        (client.common_name.clone(), source)
    });
    tls::Config {
        serving: pair(
            &serving.cert_file,
            &serving.key_file,
            serving.secret_ref.is_some().then(|| seals.serving()),
        ),
        serving_before: before.map(|(cert, key)| paths(cert, key)),
        client_ca: serving.client_ca_file.clone(),
        client_ca_more: kept(&serving.client_ca_ref),
        client_crl: serving.client_crl_file.clone(),
        upstream_ca: Some(config.upstream.ca_file.clone()),
        upstream_ca_more: kept(&config.upstream.ca_ref),
        clients: clients.collect(),
        reload_interval: config.certificates.reload_interval,
        retry_interval: config.certificates.retry_interval,
    }
}

fn pair(cert: &Path, key: &Path, sealed: Option<Arc<FileSeal>>) -> PairSource {
    match sealed {
        Some(seal) => PairSource::Sealed {
            path: cert.to_owned(),
            seal,
        },
        None => paths(cert, key).into(),
    }
}

fn paths(cert: &Path, key: &Path) -> PairPaths {
    PairPaths {
        cert: PathBuf::from(cert),
        key: PathBuf::from(key),
    }
}
