//! What a listener serves with now: the TLS configuration of the newest material, built once for each.

use std::sync::Arc;

use tokio::sync::watch;

use crate::tls::{ServerMaterial, ServerTls, TrustedTime};

type Material = watch::Receiver<Option<Arc<ServerMaterial>>>;

/// Follows the material of one listener.
pub(super) struct Serving {
    material: Material,
    time: Arc<TrustedTime>,
    current: Option<(ServerTls, Arc<str>)>,
}

impl Serving {
    pub(super) fn new(material: Material, time: Arc<TrustedTime>) -> Self {
        Self {
            material,
            time,
            current: None,
        }
    }

    /// For the next connection; `None` until both the serving pair and the client CA have loaded. Material that cannot
    /// be served with leaves what was good before.
    pub(super) fn current(&mut self) -> Option<(ServerTls, ClientCa, Arc<TrustedTime>)> {
        if (self.current.is_none() || self.material.has_changed().unwrap_or(false))
            && let Some(material) = self.material.borrow_and_update().clone()
        {
            match ServerTls::new(&material, &self.time) {
                Ok(tls) => self.current = Some((tls, material.client_ca().fingerprint().into())),
                Err(error) => tracing::warn!(%error, "cannot serve with the loaded certificates"),
            }
        }
        let (tls, fingerprint) = self.current.clone()?;
        let client_ca = ClientCa {
            material: self.material.clone(),
            fingerprint,
        };
        Some((tls, client_ca, Arc::clone(&self.time)))
    }
}

/// The authorities that the client of one connection was verified against.
pub(super) struct ClientCa {
    material: Material,
    fingerprint: Arc<str>,
}

impl ClientCa {
    /// Resolves when the listener verifies against other authorities than this connection did.
    pub(super) async fn replaced(&mut self) {
        let other = |material: &Option<Arc<ServerMaterial>>| {
            material
                .as_ref()
                .is_some_and(|material| material.client_ca().fingerprint() != &*self.fingerprint)
        };
        if self.material.wait_for(other).await.is_err() {
            // The certificate manager has gone: the process is stopping.
            std::future::pending().await
        }
    }
}
