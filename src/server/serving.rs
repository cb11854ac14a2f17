//! What a listener serves with now: the TLS configuration of the newest material, built once for each.

use std::sync::Arc;

use crate::tls::{ClientTrust, Material, ServerStream, ServerTls, Standing, TrustedTime};

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
    pub(super) fn current(&mut self) -> Option<(ServerTls, Clients)> {
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
            time: Arc::clone(&self.time),
        };
        Some((tls, clients))
    }
}

/// What the client of one connection is verified against.
pub(super) struct Clients {
    material: Material,
    trust: Arc<ClientTrust>,
    time: Arc<TrustedTime>,
}

impl Clients {
    /// The standing of a client whose handshake is done; `None` if it showed no certificate.
    pub(super) fn standing(self, stream: &ServerStream) -> Option<Arc<Standing>> {
        Standing::of(stream, self.material, self.trust, &self.time).map(Arc::new)
    }

    pub(super) fn time(&self) -> &Arc<TrustedTime> {
        &self.time
    }
}
