//! Transports: the upstream connections of each configured certificate, the default one without any, and that of callers who are not
//! known yet.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use http::{Request, Response, response};
use tokio::sync::watch;

use crate::runtime::author::is_from_apiserver;
use crate::runtime::body::Body;
use crate::runtime::tasks::Tasks;
use crate::tls::{Alpn, ClientIdentity, ClientTls, Roots, TrustedTime};

use super::clientele::Clientele;
use super::dial::{Dialer, Via};
use super::dispatch::{self, Member, Terms};
use super::error::UpstreamError;
use super::failure::Failure;
use super::gateway;
use super::link::{Link, ServerSet};
use super::pool::{Connectors, Pool};
use super::purpose::Purpose;
use super::retry::RetryPolicy;
use super::server::Server;
use super::settings::Compression;

/// A read that waits for a third of `responseTimeout` has its server probed, if another one could answer it: with the
/// probe's own time limit the decision then falls before the client has waited for the whole of it.
const SLOW_AFTER: u32 = 3;

/// The upstream connections of one identity.
pub struct Transport {
    name: String,
    clientele: Clientele,
    link: Link,
    /// Which server comes first with [`Strategy::RoundRobin`](super::Strategy::RoundRobin).
    turn: usize,
    /// In the order of the configuration; empty while there is no certificate or CA.
    members: ArcSwap<Vec<Member>>,
    /// An apiserver has refused its pair, and not accepted it since.
    refused: AtomicBool,
}

/// What an apiserver says to the pair of a configured client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pair {
    /// It knows the user.
    Accepted,
    /// 401.
    Refused,
}

impl Transport {
    /// An apiserver has said this to its pair: said once.
    pub fn pair_is(&self, pair: Pair) {
        let refused = pair == Pair::Refused;
        // Almost always what is known.
        if self.refused.load(Ordering::Relaxed) == refused
            || self.refused.swap(refused, Ordering::Relaxed) == refused
        {
            return;
        }
        let client = self.name();
        match pair {
            Pair::Refused => tracing::warn!(
                client,
                "the apiserver answers 401 to the certificate of a configured client: it is revoked, or by an authority \
                 that the apiserver does not know"
            ),
            Pair::Accepted => tracing::info!(
                client,
                "the apiserver takes the certificate of a configured client again"
            ),
        }
    }

    /// Whether an apiserver has refused its pair, and not accepted it since.
    pub fn is_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// The common name, or `default`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Sends a request, path and query as its target; resolves with the head of the answer. The body streams. What
    /// servers did well or badly is told to the link, except that somebody ceased to wait: [`RetryPolicy::timed_out`].
    pub async fn send(
        &self,
        request: Request<Body>,
        policy: &RetryPolicy,
    ) -> Result<Response<Body>, UpstreamError> {
        let set = self.link.server_set();
        let terms = Terms {
            patience: set.settings.response_timeout / SLOW_AFTER,
            trust: set.settings.trust,
        };
        let candidates = self.candidates()?;
        // It is large, and needed only until the head has come: it must not be a part of every stream.
        Box::pin(dispatch::send(&candidates, request, policy, terms)).await
    }

    /// Sends a request on a new HTTP/1.1 connection of its own, which may then be upgraded. `holder` is the one of several callers
    /// of this transport that it is for.
    pub async fn send_alone(
        &self,
        request: Request<Body>,
        holder: Option<&str>,
    ) -> Result<Response<hyper::body::Incoming>, UpstreamError> {
        let mut last = self.no_server();
        for member in self.candidates()? {
            let alone = match member.pool.open_alone(holder).await {
                Ok(alone) => alone,
                // Another server is not there to double a caller's share.
                Err(error) if error.failure == Failure::OverShare => return Err(error),
                Err(error) => {
                    member.failed(&error);
                    last = error;
                    continue;
                }
            };
            let sent = alone.send(request).await;
            match &sent {
                Ok(response) if is_from_apiserver(response.headers(), response.extensions()) => {
                    member.server.reached()
                }
                Ok(response) if gateway::is_gateways(response) => {
                    member.failed(&gateway::in_its_place(response.status()));
                }
                Ok(_) => {}
                Err(error) => member.failed(error),
            }
            return sent;
        }
        Err(last)
    }

    /// Asks this very server, on a new connection.
    pub(super) async fn probe(
        &self,
        server: &Arc<Server>,
        request: Request<Body>,
        via: Via,
    ) -> Result<response::Parts, UpstreamError> {
        let members = self.members.load_full();
        let member = members.iter().find(|member| Arc::ptr_eq(&member.server, server));
        let member = member.ok_or_else(|| self.no_server())?;
        Box::pin(member.pool.probe(request, via)).await
    }

    /// How long a read may wait for the first byte of its answer before the cache stands in.
    pub fn response_timeout(&self) -> Duration {
        self.link.server_set().settings.response_timeout
    }

    /// Whether answers are asked for compressed.
    pub fn compression(&self) -> Compression {
        self.link.server_set().settings.compression
    }

    /// Open connections and streams, by purpose.
    pub fn usage(&self) -> HashMap<Purpose, (usize, usize)> {
        let members = self.members.load();
        Purpose::ALL
            .into_iter()
            .map(|purpose| {
                let used = members.iter().map(|member| member.pool.usage(purpose));
                let sum = used.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
                (purpose, sum)
            })
            .collect()
    }

    /// The servers to try, best first. One that is known to be away costs time: only if all are.
    fn candidates(&self) -> Result<Vec<Member>, UpstreamError> {
        let members = self.members.load();
        let set = self.link.server_set();
        let order = set.order(self.turn);
        let away = |server: &Arc<Server>| server.is_away();
        let all_away = order.iter().all(away);
        let candidates: Vec<Member> = order
            .iter()
            .filter(|server| all_away || !away(server))
            .filter_map(|server| members.iter().find(|member| Arc::ptr_eq(&member.server, server)))
            .cloned()
            .collect();
        if candidates.is_empty() {
            return Err(self.no_server());
        }
        Ok(candidates)
    }

    fn no_server(&self) -> UpstreamError {
        let message = format!(
            "no usable certificate or upstream CA yet for transport {}",
            self.name
        );
        UpstreamError::unsent(Failure::NoCredentials, message)
    }

    /// The first server that it would use now, if nothing is held against that.
    pub(super) fn first_choice(&self) -> Option<Arc<Server>> {
        let order = self.link.server_set().order(self.turn);
        order.into_iter().next().filter(|server| server.is_trusted())
    }

    pub(super) fn members(&self) -> Arc<Vec<Member>> {
        self.members.load_full()
    }

    /// Puts other members in force and lets those go that are not among them.
    fn replace(&self, members: Vec<Member>) {
        let old = self.members.swap(Arc::new(members));
        let new = self.members.load();
        for Member { pool, .. } in old.iter() {
            if !new.iter().any(|kept| Arc::ptr_eq(&kept.pool, pool)) {
                pool.drain();
            }
        }
    }
}

/// All transports of this node.
pub struct Transports {
    default: Arc<Transport>,
    strangers: Arc<Transport>,
    by_name: HashMap<String, Arc<Transport>>,
    identities: HashMap<String, IdentitySource>,
    link: Link,
}

/// Where a transport's identity comes from.
pub type IdentitySource = watch::Receiver<Option<Arc<ClientIdentity>>>;

impl Transports {
    /// One transport for each configured common name, and the default one; each follows its certificate, the
    /// upstream CA and the link's servers for as long as `tasks` runs. Server certificates are judged at `time`.
    pub fn spawn(
        link: &Link,
        roots: &watch::Receiver<Option<Arc<Roots>>>,
        identities: Vec<(String, IdentitySource)>,
        time: &Arc<TrustedTime>,
        tasks: &Tasks,
    ) -> Self {
        // Nodes begin with different servers.
        let first = usize::from(uuid::Uuid::new_v4().as_bytes()[0]);
        let spawn = |name: String, clientele, identity, turn| {
            let transport = Arc::new(Transport {
                name,
                clientele,
                link: link.clone(),
                turn,
                members: ArcSwap::default(),
                refused: AtomicBool::new(false),
            });
            let builder = Builder {
                transport: Arc::clone(&transport),
                server_sets: link.server_sets(),
                roots: roots.clone(),
                identity,
                time: Arc::clone(time),
                tasks: tasks.clone(),
                connectors: None,
                in_force: false,
            };
            builder.spawn(tasks);
            transport
        };
        let default = spawn("default".to_owned(), Clientele::Known, None, first);
        let strangers = spawn("strangers".to_owned(), Clientele::Strangers, None, first);
        let known = identities.iter().cloned().collect();
        let by_name = identities
            .into_iter()
            .enumerate()
            .map(|(i, (name, source))| {
                let transport = spawn(name.clone(), Clientele::Known, Some(source), first + 1 + i);
                (name, transport)
            })
            .collect();
        Self {
            default,
            strangers,
            by_name,
            identities: known,
            link: link.clone(),
        }
    }

    /// The transport without client certificate.
    pub fn default_transport(&self) -> &Arc<Transport> {
        &self.default
    }

    /// The transport without client certificate of callers whom no apiserver has accepted. kube-apiserver ends the connection on
    /// which it refuses one, or answers an anonymous one (HTTP/2): nobody else's requests may be on it, and nothing follows from
    /// its end.
    pub fn strangers(&self) -> &Arc<Transport> {
        &self.strangers
    }

    /// The transport of a configured common name.
    pub fn named(&self, common_name: &str) -> Option<&Arc<Transport>> {
        self.by_name.get(common_name)
    }

    /// Reads the organizations of the certificate that a configured common name is spoken for with; `None` while it has not
    /// loaded.
    pub fn organizations<R>(&self, common_name: &str, read: impl FnOnce(&[String]) -> R) -> Option<R> {
        let identity = self.identities.get(common_name)?.borrow();
        Some(read(&identity.as_ref()?.leaf().organizations))
    }

    /// Every configured common name.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// One transport of each identity: first without a certificate, then of each configured common name.
    pub(super) fn identities(&self) -> impl Iterator<Item = &Arc<Transport>> {
        std::iter::once(&self.default).chain(self.by_name.values())
    }

    /// Every transport.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Transport>> {
        self.identities().chain([&self.strangers])
    }

    pub(super) fn link(&self) -> &Link {
        &self.link
    }
}

/// Rebuilds the pools of one transport when what they are made of changes.
struct Builder {
    transport: Arc<Transport>,
    server_sets: watch::Receiver<Arc<ServerSet>>,
    roots: watch::Receiver<Option<Arc<Roots>>>,
    identity: Option<IdentitySource>,
    time: Arc<TrustedTime>,
    tasks: Tasks,
    connectors: Option<Connectors>,
    /// Whether the pools in force were made with these connectors.
    in_force: bool,
}

impl Builder {
    fn spawn(mut self, tasks: &Tasks) {
        self.trust();
        self.build();
        tasks.spawn_critical("transport", async move {
            loop {
                let identity = async {
                    match self.identity.as_mut() {
                        None => std::future::pending().await,
                        Some(source) => source.changed().await,
                    }
                };
                let (renewed, changed) = tokio::select! {
                    changed = self.server_sets.changed() => (false, changed),
                    changed = self.roots.changed() => (true, changed),
                    changed = identity => (true, changed),
                };
                if changed.is_err() {
                    // The certificate manager has gone: keep what we have until the process stops.
                    std::future::pending::<()>().await;
                }
                if renewed {
                    self.trust();
                }
                self.build();
            }
        });
    }

    /// Takes over the identity and the authorities as they are now: none of the old connections is used any more.
    fn trust(&mut self) {
        let trusted = self.roots.borrow_and_update().clone();
        let presented = self
            .identity
            .as_mut()
            .map(|source| source.borrow_and_update().clone());
        self.in_force = false;
        self.connectors = match (trusted, presented) {
            (Some(roots), None) => self.connectors(&roots, None),
            (Some(roots), Some(Some(identity))) => self.connectors(&roots, Some(&identity)),
            _ => None,
        };
    }

    fn connectors(&self, roots: &Roots, identity: Option<&ClientIdentity>) -> Option<Connectors> {
        let tls = |alpn| {
            ClientTls::new(Some(roots), identity, alpn, &self.time)
                .inspect_err(|error| tracing::warn!(%error, "cannot build the upstream TLS configuration"))
                .ok()
        };
        Some(Connectors {
            http2: tls(Alpn::H2)?,
            http1: tls(Alpn::Http1)?,
        })
    }

    /// A pool for each server; one that leads to the same server in the same way stays.
    fn build(&mut self) {
        let set = Arc::clone(&self.server_sets.borrow_and_update());
        let Some(connectors) = &self.connectors else {
            return self.transport.replace(Vec::new());
        };
        let old = if std::mem::replace(&mut self.in_force, true) {
            self.transport.members()
        } else {
            Arc::default()
        };
        let dial = &set.settings.dial;
        let member = |server: &Arc<Server>| {
            let same = |member: &&Member| Arc::ptr_eq(&member.server, server) && member.pool.dials_as(dial);
            old.iter().find(same).cloned().unwrap_or_else(|| {
                let metrics = self.transport.link.metrics().clone();
                let dialer = Dialer::new(Arc::clone(server), dial.clone(), metrics, self.tasks.clone());
                let clientele = self.transport.clientele;
                let pool = Pool::new(dialer, connectors.clone(), clientele, self.tasks.clone());
                Member {
                    server: Arc::clone(server),
                    pool: Arc::new(pool),
                }
            })
        };
        self.transport.replace(set.servers.iter().map(member).collect());
    }
}
