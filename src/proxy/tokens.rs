//! Who owns a token while the cloud cannot be asked, and what upstream's answers say of tokens.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use crate::cache::{Noted, Presence};
use crate::identity::{BearerToken, PodReference, Principal, PrincipalKind, Signature};
use crate::runtime::clock;

use super::context::Proxy;

/// What the user names of kubelets start with; the rest is their node's name.
const NODE_USER: &str = "system:node:";

/// Whether an apiserver has accepted a token, and not refused it since.
pub(super) fn is_proved(proxy: &Proxy, token: &BearerToken) -> bool {
    proxy.tokens.remembers(token)
}

/// The principal of a token, if upstream accepts it.
pub(super) fn candidate(proxy: &Proxy, token: &BearerToken) -> Principal {
    in_this_cluster(proxy, token, proxy.tokens.candidate(token))
}

/// Only this cluster's issuer names its service accounts: a token of another issuer stands for itself, even
/// if it was accepted before the cluster's issuer was known.
fn in_this_cluster(proxy: &Proxy, token: &BearerToken, claimed: Principal) -> Principal {
    match claimed.kind() {
        PrincipalKind::ServiceAccount { .. } if proxy.issuer.is_foreign(token) => proxy.tokens.itself(token),
        _ => claimed,
    }
}

/// Whose data a token may see: one that upstream has accepted, or one that the cluster's keys vouch for.
pub(super) async fn owner(proxy: &Proxy, token: &BearerToken) -> Option<Principal> {
    let moment = proxy.time.judged_at();
    if let Some(record) = proxy.tokens.known(token, moment) {
        let principal = in_this_cluster(proxy, token, record.principal);
        let is_account = matches!(principal.kind(), PrincipalKind::ServiceAccount { .. });
        let is_gone = match record.pod.as_ref().filter(|_| is_account) {
            // If the pod was seen gone after upstream accepted the token, upstream would refuse it now.
            // Without a view, upstream's word stands.
            Some(pod) => match presence(proxy, pod).await {
                Presence::GoneBy(seen) => seen >= at(record.accepted_at),
                Presence::Here | Presence::Unknown => false,
            },
            None => false,
        };
        return (!is_gone).then_some(principal);
    }
    if proxy.tokens.is_refused(token) {
        return None;
    }
    let verified = match proxy.issuer.verify(token)? {
        Ok(verified) => verified,
        Err(reason) => {
            tracing::debug!(
                reason = reason.as_str(),
                "a token is not vouched for by the cluster's keys"
            );
            return None;
        }
    };
    let is_here = match &verified.pod {
        Some(pod) => presence(proxy, pod).await == Presence::Here,
        None => true,
    };
    (is_here && verified.valid_at(moment)).then_some(verified.principal)
}

/// An apiserver has accepted a token, and may have named its owner. The signature is verified only if that is
/// new: otherwise each request would cost a verification.
pub(super) fn accepted(proxy: &Proxy, token: &BearerToken, owner: Option<Principal>) {
    if proxy.tokens.accepted(token, owner, clock::wall()) == Noted::Written {
        proxy.issuer.accepted(token);
    }
}

/// An apiserver has refused a token that came from this address.
pub(super) fn refused(proxy: &Proxy, token: &BearerToken, source: IpAddr) {
    // Whatever an answer that is still to come says of its owner.
    proxy.owners_asked.lock().remove(&proxy.tokens.itself(token));
    let candidate = proxy.tokens.candidate(token);
    let is_account = matches!(candidate.kind(), PrincipalKind::ServiceAccount { .. });
    match proxy.issuer.has_signed(token) {
        Some(true) => proxy.tokens.distrusted(token, Signature::Good),
        // Its key may become known later, and must not vouch for it then. Anybody can make up such tokens, so
        // only a limited number of each source is written down.
        None if is_account && proxy.strangers.may_doubt(source) => {
            proxy.tokens.distrusted(token, Signature::Unknown);
        }
        Some(false) | None => {}
    }
    proxy.tokens.refused(token);
}

/// What the configured kubelets know of a pod.
async fn presence(proxy: &Proxy, pod: &PodReference) -> Presence {
    let mut known = Presence::Unknown;
    for name in proxy
        .transports
        .names()
        .filter(|name| name.starts_with(NODE_USER))
    {
        let user = |groups: &[String]| Principal::certificate(name, groups.iter().cloned());
        let Some(kubelet) = proxy.transports.organizations(name, user) else {
            continue;
        };
        match (proxy.cache.presence(kubelet.key(), pod).await, known) {
            (Presence::Here, _) => return Presence::Here,
            (Presence::GoneBy(seen), Presence::GoneBy(before)) => known = Presence::GoneBy(seen.max(before)),
            (gone @ Presence::GoneBy(_), _) => known = gone,
            (Presence::Unknown, _) => {}
        }
    }
    known
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}
