//! Whether the certificate that opened a connection is still good: kube-apiserver asks that at each request, and so do we.
//!
//! Owns what the client showed, and when that ends. Invariant: what was good at the handshake stays good until it has expired, or
//! authorities or lists speak against it. While the cloud is away an expired certificate counts as [`TrustedTime`] has it.

use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::certificate::CertificateInfo;
use super::handshake::TlsConfigError;
use super::material::ServerMaterial;
use super::server::ServerStream;
use super::time::TrustedTime;
use super::trust::{ClientTrust, ShownChain};
use crate::runtime::clock;

/// What listeners serve with now.
pub type Material = watch::Receiver<Option<Arc<ServerMaterial>>>;

/// The standing of the client of one connection.
#[derive(Debug)]
pub struct Standing {
    shown: ShownChain,
    /// Of whatever in the chain ends first.
    ends: SystemTime,
    material: Material,
    /// By whom it was judged last.
    judge: Mutex<Arc<ClientTrust>>,
    time: Arc<TrustedTime>,
}

/// Why a certificate is not good any more.
#[derive(Debug, thiserror::Error)]
pub enum NotGood {
    /// Its time is over.
    #[error("the client certificate has expired")]
    Expired,
    /// Its authority was removed, or it was revoked.
    #[error("the client certificate is not good any more: {0}")]
    Withdrawn(#[from] TlsConfigError),
}

impl Standing {
    /// Of a client whose handshake has just been completed under `trust`; `None` if it showed no certificate.
    pub fn of<IO>(
        stream: &ServerStream<IO>,
        material: Material,
        trust: Arc<ClientTrust>,
        time: &Arc<TrustedTime>,
    ) -> Option<Self> {
        let chain = stream.get_ref().1.peer_certificates()?;
        let shown = ShownChain {
            chain: chain.to_vec(),
            at: time.floored(clock::wall()),
            or_at: time.second_look(),
        };
        Some(Self::new(shown, material, trust, time))
    }

    fn new(shown: ShownChain, material: Material, trust: Arc<ClientTrust>, time: &Arc<TrustedTime>) -> Self {
        let verified = shown.or_at.map_or(shown.at, |then| then.min(shown.at));
        // What had ended by then was shown for nothing.
        let ends = shown
            .chain
            .iter()
            .filter_map(|der| Some(CertificateInfo::parse(der).ok()?.not_after))
            .filter(|end| *end >= verified)
            .min();
        Self {
            ends: ends.unwrap_or(verified),
            shown,
            material,
            judge: Mutex::new(trust),
            time: Arc::clone(time),
        }
    }

    /// Valid up to and including this moment.
    pub fn ends(&self) -> SystemTime {
        self.ends
    }

    /// Whether it is good now.
    ///
    /// # Errors
    /// Why it is not.
    pub fn judge(&self) -> Result<(), NotGood> {
        let trust = self
            .material
            .borrow()
            .as_ref()
            .map(|material| Arc::clone(material.clients()));
        if let Some(trust) = trust {
            self.judge_under(trust)?;
        }
        let is_in_time = |moment| moment <= self.ends;
        let now = self.time.floored(clock::wall());
        if is_in_time(now) || self.time.second_look().is_some_and(is_in_time) {
            Ok(())
        } else {
            Err(NotGood::Expired)
        }
    }

    /// Resolves when authorities or lists speak against it. An authority that was added, or a list that does not name it,
    /// changes nothing.
    pub async fn withdrawn(&self) -> TlsConfigError {
        let mut material = self.material.clone();
        loop {
            let trust = material
                .borrow_and_update()
                .as_ref()
                .map(|material| Arc::clone(material.clients()));
            if let Some(Err(error)) = trust.map(|trust| self.judge_under(trust)) {
                return error;
            }
            if material.changed().await.is_err() {
                // The certificate manager has gone: the process is stopping.
                std::future::pending().await
            }
        }
    }

    fn judge_under(&self, trust: Arc<ClientTrust>) -> Result<(), TlsConfigError> {
        let mut judge = self.judge.lock();
        if Arc::ptr_eq(&judge, &trust) {
            return Ok(());
        }
        if judge.fingerprint() != trust.fingerprint() {
            trust.judge_again(&self.shown)?;
        }
        *judge = trust;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, Issued, LeafSpec, days};
    use crate::tls::time::Expiry;

    fn standing(issued: &Issued, authority: &Authority, time: &Arc<TrustedTime>, at: SystemTime) -> Standing {
        let shown = ShownChain {
            chain: vec![issued.der.clone().into()],
            at,
            or_at: None,
        };
        let trust = Arc::new(ClientTrust::new(&authority.roots(), None).unwrap());
        Standing::new(shown, watch::channel(None).1, trust, time)
    }

    #[test]
    fn a_certificate_that_ends_on_an_open_connection_is_good_no_more() {
        let authority = Authority::new("kubernetes");
        let spec = |until| LeafSpec::client("a").valid(days(-9), days(until));
        let (good, ended) = (authority.issue(&spec(1)), authority.issue(&spec(-1)));
        let time = TrustedTime::new();
        assert!(standing(&good, &authority, &time, days(-2)).judge().is_ok());
        let judged = standing(&ended, &authority, &time, days(-2)).judge();
        assert!(matches!(judged, Err(NotGood::Expired)), "{judged:?}");
    }

    #[test]
    fn while_the_cloud_is_away_the_last_contact_decides_unless_expiry_is_strict() {
        let authority = Authority::new("kubernetes");
        let ended = authority.issue(&LeafSpec::client("a").valid(days(-9), days(-1)));
        for (expiry, contact, is_good) in [
            (Expiry::LastContact, days(-2), true),
            (Expiry::LastContact, days(0), false),
            (Expiry::Strict, days(-2), false),
        ] {
            let time = TrustedTime::restored(Some(contact), expiry);
            let standing = standing(&ended, &authority, &time, days(-2));
            assert_eq!(standing.judge().is_ok(), is_good, "{expiry:?}");
            time.contact(None);
            assert!(standing.judge().is_err(), "{expiry:?}: the cloud is back");
        }
    }

    #[test]
    fn what_is_withdrawn_counts_from_the_next_request_on() {
        let (authority, other) = (Authority::new("kubernetes"), Authority::new("other"));
        let leaf = authority.issue(&LeafSpec::client("a"));
        let standing = standing(&leaf, &authority, &TrustedTime::new(), days(0));
        let trust = |authority: &Authority| Arc::new(ClientTrust::new(&authority.roots(), None).unwrap());
        assert!(standing.judge_under(trust(&authority)).is_ok());
        for _ in 0..2 {
            assert!(standing.judge_under(trust(&other)).is_err());
        }
    }
}
