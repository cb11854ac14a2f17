//! Who is calling, and over which transport the request goes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::identity::{
    BearerToken, Credential, Principal, PrincipalKind, impersonates, strip_credentials, strip_front_proxy,
};
use crate::kube::status::Status;
use crate::tls::{NotGood, PeerCertificate, Standing};
use crate::upstream::{Failure, LinkState, Transport, UpstreamError};

use super::connection_drain::ConnectionDrain;
use super::context::Proxy;
use super::tokens;

/// Who is at the other end of a client connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The verified client certificate, if one was presented.
    pub certificate: Option<PeerCertificate>,
    /// Whether that certificate is still good.
    pub standing: Option<Arc<Standing>>,
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// How long it may leave an answer unread, or send nothing of a request body.
    pub write_timeout: Duration,
    /// How the connection is drained.
    pub drain: ConnectionDrain,
}

/// The caller of a request.
pub(super) struct Caller {
    pub(super) transport: Arc<Transport>,
    pub(super) identity: Identity,
    /// The certificate that it was identified by.
    certificate: Option<Certificate>,
    /// Where it calls from.
    source: IpAddr,
    /// Whether its certificate has a configured common name, so that it has a transport of its own.
    is_configured: bool,
    /// See [`Caller::principal`].
    proved: Option<Principal>,
    /// See [`Caller::holder`].
    holder: Option<String>,
}

/// A client certificate with a configured common name.
struct Certificate {
    common_name: String,
    principal: Principal,
    standing: Option<Arc<Standing>>,
}

/// Whose data the caller may read and write in the cache.
pub(super) enum Identity {
    /// A verified certificate, or no credential at all.
    Known(Principal),
    /// A token. Whose it claims to be counts only once upstream has accepted it.
    Token(BearerToken),
    /// Only upstream can tell: nothing is kept, and nothing is answered from the cache.
    Foreign,
}

impl Caller {
    /// Identifies the caller, and prepares the headers for upstream.
    ///
    /// # Errors
    /// The refusal that the client gets.
    pub(super) fn identify(proxy: &Proxy, peer: &Peer, headers: &mut HeaderMap) -> Result<Self, Status> {
        strip_front_proxy(headers);
        let is_configured = |name: &str| proxy.transports.named(name).is_some();
        let credential = Credential::read(peer.certificate.as_ref(), headers, &is_configured);
        let default = || Arc::clone(proxy.transports.default_transport());
        let mut certificate = None;
        if let Some(Err(withdrawn @ NotGood::Withdrawn(_))) =
            peer.standing.as_ref().map(|standing| standing.judge())
        {
            // The connection is about to be cut.
            return Err(Status::unauthorized(format!("edgehold: {withdrawn}")));
        }
        let (transport, identity) = match credential {
            Credential::Certificate {
                common_name,
                organizations,
            } => {
                strip_credentials(headers);
                let principal = Principal::certificate(common_name.clone(), organizations);
                let transport = proxy
                    .transports
                    .named(&common_name)
                    .map_or_else(default, Arc::clone);
                certificate = Some(Certificate {
                    common_name,
                    principal: principal.clone(),
                    standing: peer.standing.clone(),
                });
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
        let is_configured = !Arc::ptr_eq(&transport, proxy.transports.default_transport());
        let mut caller = Self {
            transport,
            identity,
            certificate,
            source: peer.address.ip().to_canonical(),
            is_configured,
            proved: None,
            holder: None,
        };
        if let Identity::Token(token) = &caller.identity {
            caller.proved = proved(proxy, token);
        }
        caller.holder = caller.held_by(caller.principal());
        match caller.may_go_upstream(proxy) {
            // The cache has rules of its own for what has expired, and every set of groups has its own data.
            // Whatever goes upstream once the cloud is back is checked again.
            Err(_) if proxy.link.state() == LinkState::Offline => Ok(caller),
            Err(Unfit(status)) => Err(status),
            Ok(()) => Ok(caller),
        }
    }

    /// Whether a request of this caller may go upstream now. Checked each time: since the request came, the
    /// certificate may have expired, and the configured pair may have been loaded or replaced.
    pub(super) fn may_go_upstream(&self, proxy: &Proxy) -> Result<(), Unfit> {
        let Some(certificate) = &self.certificate else {
            return Ok(());
        };
        if let Some(Err(error)) = certificate.standing.as_ref().map(|standing| standing.judge()) {
            return Err(Unfit(Status::unauthorized(format!("edgehold: {error}"))));
        }
        speaks_for(proxy, &certificate.common_name, &certificate.principal).map_err(Unfit)
    }

    /// The transport to send with.
    ///
    /// # Errors
    /// This caller may not go upstream now.
    pub(super) fn upstream<'a>(&'a self, proxy: &'a Proxy) -> Result<&'a Transport, UpstreamError> {
        match self.may_go_upstream(proxy) {
            Ok(()) if self.is_default() && self.is_unknown(proxy) => Ok(proxy.transports.strangers()),
            Ok(()) => Ok(&self.transport),
            Err(Unfit(status)) => Err(UpstreamError::unsent(Failure::NoCredentials, status.message)),
        }
    }

    /// Where it calls from.
    pub(super) fn source(&self) -> IpAddr {
        self.source
    }

    /// Whether no apiserver has recognised the caller yet: it has no credential, or one that none has
    /// accepted.
    pub(super) fn is_unknown(&self, proxy: &Proxy) -> bool {
        match &self.identity {
            Identity::Known(_) => self.shows_nothing(),
            Identity::Token(token) => !tokens::is_proved(proxy, token),
            Identity::Foreign => self.certificate.is_none(),
        }
    }

    /// Whether it presents no credential at all.
    pub(super) fn shows_nothing(&self) -> bool {
        matches!(&self.identity, Identity::Known(principal) if *principal.kind() == PrincipalKind::Anonymous)
    }

    /// Whether it has no configured certificate.
    pub(super) fn is_default(&self) -> bool {
        !self.is_configured
    }

    /// What kind of client it is, for metrics.
    pub(super) fn kind(&self) -> &'static str {
        match &self.identity {
            _ if self.is_configured => "configured",
            Identity::Token(_) => "token",
            Identity::Known(_) if self.shows_nothing() => "anonymous",
            Identity::Known(_) => "certificate",
            Identity::Foreign => "foreign",
        }
    }

    /// Its common name, if it is a configured client.
    pub(super) fn client(&self) -> Option<&str> {
        self.is_configured.then(|| self.transport.name())
    }

    /// The principal that the answer is recorded for, as known before the answer. `None` for a token that no
    /// apiserver had accepted when the request came, since anybody can make up its claims, and for anonymous
    /// callers, who may ask for anything.
    pub(super) fn principal(&self) -> Option<&Principal> {
        match &self.identity {
            Identity::Known(_) if self.shows_nothing() => None,
            Identity::Known(principal) => Some(principal),
            Identity::Token(_) => self.proved.as_ref(),
            Identity::Foreign => None,
        }
    }

    /// The name under which it is counted among those that share the default transport; `None` for a
    /// configured client, which has its own.
    pub(super) fn holder(&self) -> Option<&str> {
        self.holder.as_deref()
    }

    /// [`Caller::principal`] and [`Caller::holder`] as of now: a token may be accepted, or refused, during
    /// the lifetime of a watch.
    pub(super) fn now(&self, proxy: &Proxy) -> (Option<Principal>, Option<String>) {
        let principal = match &self.identity {
            Identity::Token(token) => proved(proxy, token),
            Identity::Known(_) | Identity::Foreign => self.principal().cloned(),
        };
        let holder = self.held_by(principal.as_ref());
        (principal, holder)
    }

    fn held_by(&self, principal: Option<&Principal>) -> Option<String> {
        if self.is_configured {
            return None;
        }
        Some(match (&self.identity, principal) {
            (Identity::Foreign, _) => "foreign".to_owned(),
            (Identity::Known(principal), _) | (Identity::Token(_), Some(principal)) => {
                principal.key().to_owned()
            }
            // Anybody can make up the claims of a token that no apiserver has accepted: all such tokens from
            // one address count as one caller.
            (Identity::Token(_), None) => format!("stranger:{}", self.source),
        })
    }

    /// The principal that the answer belongs to, once an apiserver has answered.
    pub(super) fn accepted_as(&self, proxy: &Proxy) -> Option<Principal> {
        match &self.identity {
            Identity::Known(principal) => Some(principal.clone()),
            Identity::Token(token) => self.proved.clone().or_else(|| proved(proxy, token)),
            Identity::Foreign => None,
        }
    }

    /// Who the caller will be if upstream accepts it: only to wait in its name.
    pub(super) fn claimed_as(&self, proxy: &Proxy) -> Option<Principal> {
        match &self.identity {
            Identity::Known(principal) => Some(principal.clone()),
            Identity::Token(token) => Some(
                self.proved
                    .clone()
                    .unwrap_or_else(|| tokens::candidate(proxy, token)),
            ),
            Identity::Foreign => None,
        }
    }

    /// The principal whose data the caller may see now, without asking the cloud.
    pub(super) async fn answered_as(&self, proxy: &Proxy) -> Option<Principal> {
        match &self.identity {
            Identity::Known(_) if self.has_expired(proxy) => None,
            Identity::Known(principal) => Some(principal.clone()),
            Identity::Token(token) => tokens::owner(proxy, token).await,
            Identity::Foreign => None,
        }
    }

    /// Whether, as far as the cache is concerned, the certificate has expired since the handshake (a
    /// connection may outlive it), or a token that an apiserver had accepted.
    pub(super) fn has_expired(&self, proxy: &Proxy) -> bool {
        if let Identity::Token(token) = &self.identity {
            let known = proxy.tokens.known(token, proxy.time.judged_at());
            return known.is_none() && proxy.tokens.remembers(token);
        }
        let standing = self.certificate.as_ref().and_then(|one| one.standing.as_ref());
        standing.is_some_and(|standing| standing.ends() < proxy.time.judged_at())
    }
}

/// Whose a token is, if an apiserver has accepted it.
fn proved(proxy: &Proxy, token: &BearerToken) -> Option<Principal> {
    tokens::is_proved(proxy, token).then(|| tokens::candidate(proxy, token))
}

/// Why nothing may go upstream for a caller, as the client is told: its certificate is no longer good, or the
/// configured pair belongs to another user.
pub(super) struct Unfit(pub(super) Status);

/// Whether the configured pair is for exactly this user and these groups. Another pair with the same name
/// would lend the caller groups that its own certificate does not have.
fn speaks_for(proxy: &Proxy, common_name: &str, caller: &Principal) -> Result<(), Status> {
    let other = proxy.transports.organizations(common_name, |groups| {
        let is_same = caller.is_certificate(common_name, groups);
        (!is_same).then(|| Principal::certificate(common_name, groups.iter().cloned()))
    });
    // Not loaded yet: nothing can be sent with it.
    let Some(own) = other.flatten() else {
        return Ok(());
    };
    Err(Status::forbidden(format!(
        "edgehold: the client certificate is {caller}, but the pair configured for its common name is {own}: their \
         organizations must be the same"
    )))
}
