//! Whose a token is while the cloud cannot be asked, and what its answers say of tokens.

use std::time::{Duration, SystemTime};

use crate::cache::Presence;
use crate::identity::{BearerToken, PodReference, Principal, PrincipalKind};

use super::Proxy;

/// What the user names of kubelets start with; the rest is their node's name.
const NODE_USER: &str = "system:node:";

/// Whose data a token may see: one that upstream has accepted, or one that the cluster's keys vouch for.
pub(super) async fn owner(proxy: &Proxy, token: &BearerToken) -> Option<Principal> {
    let moment = proxy.time.judged_at();
    if let Some(record) = proxy.tokens.known(token, moment) {
        let is_gone = match &record.pod {
            // Seen gone after upstream accepted it: upstream would not accept it now. Without a view its word stands.
            Some(pod) => match presence(proxy, pod).await {
                Presence::GoneBy(seen) => seen >= at(record.accepted_at),
                Presence::Here | Presence::Unknown => false,
            },
            None => false,
        };
        return (!is_gone).then_some(record.principal);
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

/// An apiserver has refused a token.
pub(super) fn refused(proxy: &Proxy, token: &BearerToken) {
    let may_be_vouched_for = match proxy.issuer.verify(token) {
        Some(verified) => verified.is_ok(),
        // The keys may come to be known later.
        None => matches!(
            proxy.tokens.candidate(token).kind(),
            PrincipalKind::ServiceAccount { .. }
        ),
    };
    if may_be_vouched_for {
        proxy.tokens.distrusted(token);
    }
    proxy.tokens.refused(token);
}

/// What the kubelets that are configured know of a pod.
async fn presence(proxy: &Proxy, pod: &PodReference) -> Presence {
    let mut known = Presence::Unknown;
    for name in proxy
        .transports
        .names()
        .filter(|name| name.starts_with(NODE_USER))
    {
        let Some(groups) = proxy.transports.organizations(name) else {
            continue;
        };
        let kubelet = Principal::certificate(name, groups);
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
