//! Who calls, and over which transport the request goes.

use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;

use crate::identity::{
    BearerToken, Credential, Principal, impersonates, strip_credentials, strip_front_proxy,
};
use crate::kube::status::Status;
use crate::upstream::{LinkState, Transport};

use super::{Peer, Proxy, tokens};

/// The caller of a request.
pub(super) struct Caller {
    pub(super) transport: Arc<Transport>,
    pub(super) identity: Identity,
    /// The end of the client certificate that it rests on.
    not_after: Option<SystemTime>,
}

/// As whom the caller's data is kept.
pub(super) enum Identity {
    /// A verified certificate, or nobody at all.
    Known(Principal),
    /// A token: whose it is counts only once upstream has accepted it.
    Token(BearerToken),
    /// Upstream decides; nothing is kept and nothing answered from the cache.
    Foreign,
}

impl Caller {
    /// Reads who calls and prepares the headers for upstream.
    ///
    /// # Errors
    /// The refusal that the client gets.
    pub(super) fn identify(proxy: &Proxy, peer: &Peer, headers: &mut HeaderMap) -> Result<Self, Status> {
        strip_front_proxy(headers);
        let is_configured = |name: &str| proxy.transports.named(name).is_some();
        let credential = Credential::read(peer.certificate.as_ref(), headers, &is_configured);
        let default = || Arc::clone(proxy.transports.default_transport());
        let mut not_after = None;
        let (transport, identity) = match credential {
            Credential::Certificate {
                common_name,
                organizations,
            } => {
                strip_credentials(headers);
                let principal = Principal::certificate(common_name.clone(), organizations);
                speaks_for(proxy, &common_name, &principal)?;
                let transport = proxy
                    .transports
                    .named(&common_name)
                    .map_or_else(default, Arc::clone);
                not_after = peer.certificate.as_ref().map(|certificate| certificate.not_after);
                (transport, Identity::Known(principal))
            }
            Credential::Bearer(token) => (default(), Identity::Token(token)),
            Credential::Anonymous => (default(), Identity::Known(Principal::anonymous())),
            Credential::Opaque => (default(), Identity::Foreign),
            Credential::UnknownName(name) => {
                return Err(Status::forbidden(format!(
                    "edgehold has no key pair for the client certificate's common name {name:?}: add it to \
                     clients[].commonName in edgehold's configuration"
                )));
            }
            Credential::Malformed(problem) => {
                return Err(Status::bad_request(format!(
                    "edgehold cannot read the credential: {problem}"
                )));
            }
        };
        let identity = if impersonates(headers) {
            Identity::Foreign
        } else {
            identity
        };
        Ok(Self {
            transport,
            identity,
            not_after,
        })
    }

    /// Whether it has no configured certificate.
    pub(super) fn is_default(&self, proxy: &Proxy) -> bool {
        std::ptr::eq(
            self.transport.as_ref(),
            proxy.transports.default_transport().as_ref(),
        )
    }

    /// The principal under which an answer that is under way will be kept if upstream accepts the caller.
    pub(super) fn recorded_as(&self, proxy: &Proxy) -> Option<Principal> {
        match &self.identity {
            Identity::Known(principal) => Some(principal.clone()),
            Identity::Token(token) => Some(tokens::candidate(proxy, token)),
            Identity::Foreign => None,
        }
    }

    /// The principal whose data the caller may see now, without the cloud's word.
    pub(super) async fn answered_as(&self, proxy: &Proxy) -> Option<Principal> {
        match &self.identity {
            Identity::Known(_) if self.has_expired(proxy) => None,
            Identity::Known(principal) => Some(principal.clone()),
            Identity::Token(token) => tokens::owner(proxy, token).await,
            Identity::Foreign => None,
        }
    }

    /// Whether the certificate has expired since the handshake, as far as the cache is concerned: a connection may be
    /// older than the end of its certificate.
    pub(super) fn has_expired(&self, proxy: &Proxy) -> bool {
        self.not_after.is_some_and(|end| end < proxy.time.judged_at())
    }
}

/// Whether the configured pair speaks for just this user with just these groups. Another pair under the same name would
/// lend the caller groups that its own certificate does not have. Offline nothing is lent, and what is kept is kept for
/// each set of groups apart.
fn speaks_for(proxy: &Proxy, common_name: &str, caller: &Principal) -> Result<(), Status> {
    if proxy.link.state() == LinkState::Offline {
        return Ok(());
    }
    let Some(groups) = proxy.transports.organizations(common_name) else {
        // Not loaded: nothing can go upstream with it.
        return Ok(());
    };
    let own = Principal::certificate(common_name, groups);
    if own == *caller {
        return Ok(());
    }
    Err(Status::forbidden(format!(
        "edgehold: the client certificate is {caller}, but the pair configured for its common name is {own}: their \
         organizations must be the same"
    )))
}
