//! What a listener serves with now: the TLS configuration of the newest material, built once for each;
//! and whether the client of an open connection is still one to serve.

use std::sync::Arc;

use tokio::sync::watch;

use crate::tls::{ClientTrust, ServerMaterial, ServerTls, ShownChain, TlsConfigError, TrustedTime};

type Material = watch::Receiver<Option<Arc<ServerMaterial>>>;

/// Follows the material of one listener.
pub(super) struct Serving {
    material: Material,
    time: Arc<TrustedTime>,
    current: Option<(ServerTls, Arc<ClientTrust>)>,
}

impl Serving {
    pub(super) fn new(material: Material, time: Arc<TrustedTime>) -> Self {
        Self {
            material,
            time,
            current: None,
        }
    }

    /// For the next connection; `None` until there is something to verify clients with. Material that cannot be served
    /// with leaves what was good before.
    pub(super) fn current(&mut self) -> Option<(ServerTls, Clients, Arc<TrustedTime>)> {
        if (self.current.is_none() || self.material.has_changed().unwrap_or(false))
            && let Some(material) = self.material.borrow_and_update().clone()
        {
            match ServerTls::new(&material, &self.time) {
                Ok(tls) => self.current = Some((tls, Arc::clone(material.clients()))),
                Err(error) => tracing::warn!(%error, "cannot serve with the loaded certificates"),
            }
        }
        let (tls, trust) = self.current.clone()?;
        let clients = Clients {
            material: self.material.clone(),
            trust,
        };
        Some((tls, clients, Arc::clone(&self.time)))
    }
}

/// What the client of one connection was verified against.
pub(super) struct Clients {
    material: Material,
    trust: Arc<ClientTrust>,
}

impl Clients {
    /// Resolves when what the client showed is not good any more: its authority was removed, or its certificate revoked.
    /// An authority that was added, or a list that does not name it, changes nothing.
    pub(super) async fn refuse(&mut self, shown: &ShownChain) -> TlsConfigError {
        loop {
            let trust = self
                .material
                .borrow_and_update()
                .as_ref()
                .map(|material| Arc::clone(material.clients()));
            if let Some(trust) = trust
                && trust.fingerprint() != self.trust.fingerprint()
            {
                if let Err(error) = trust.judge_again(shown) {
                    return error;
                }
                self.trust = trust;
            }
            if self.material.changed().await.is_err() {
                // The certificate manager has gone: the process is stopping.
                std::future::pending().await
            }
        }
    }
}
