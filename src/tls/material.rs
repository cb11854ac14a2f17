//! What a listener needs of TLS.

use std::sync::Arc;

use super::certificate::CertificateInfo;
use super::pem::KeyPair;
use super::trust::ClientTrust;

/// What a listener needs: its own pair and which clients to trust.
#[derive(Debug, Clone)]
pub struct ServerMaterial {
    serving: KeyPair,
    clients: Arc<ClientTrust>,
}

impl ServerMaterial {
    pub(super) fn new(serving: KeyPair, clients: Arc<ClientTrust>) -> Self {
        Self { serving, clients }
    }

    /// The serving leaf.
    pub fn leaf(&self) -> &CertificateInfo {
        &self.serving.leaf
    }

    /// What client certificates are verified against. When its fingerprint changes, open connections are to be judged
    /// again.
    pub fn clients(&self) -> &Arc<ClientTrust> {
        &self.clients
    }

    pub(super) fn serving(&self) -> &KeyPair {
        &self.serving
    }
}
