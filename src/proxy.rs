//! The pipeline of a request: principal, request info, route, forward or answer (ARCHITECTURE.md tells the
//! story).
//!
//! Owns nothing that lasts: transports, link and cache are handed in. Invariants: a token never travels on a
//! connection that presents a certificate; `X-Remote-*` never passes; the client's path and query are
//! forwarded byte for byte; a write is never repeated and never answered from anything but upstream, but for
//! requests for tokens and reviews, which change nothing (`replies.rs`).

mod background_read;
mod caller;
mod confirm;
mod connection_drain;
mod csr_guard;
mod exchange;
mod filtered;
mod forward;
mod gzip;
mod headers;
mod incidents;
mod issuer;
mod limits;
mod list_admission;
mod metrics;
mod miss;
mod owners;
mod priority;
mod queue;
mod replies;
mod respond;
mod sections;
mod strangers;
mod tally;
mod tokens;
mod upgrade;
mod upload;
mod watch;
mod websocket;
mod write;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::sync::watch as watch_channel;

use crate::cache::{Cache, StoredIssuer, StoredTokens};
use crate::filter::Filters;
use crate::identity::Principal;
use crate::runtime::body::Body;
use crate::runtime::shares::Shares;
use crate::runtime::tasks::Tasks;
use crate::tls::{ClockOffset, PeerCertificate, Standing, TrustedTime};
use crate::upstream::{Link, Transports};

use self::incidents::Incidents;
use self::list_admission::ListAdmission;
use self::sections::Sections;
use self::strangers::Strangers;
use self::watch::{Gone, Healings};

pub use self::connection_drain::ConnectionDrain;
pub use self::incidents::{Incident, IncidentKind};
pub use self::issuer::{IssuerReader, ReadIssuerError};
pub use self::limits::{Limit, Limits};
pub use self::metrics::ProxyMetrics;
pub use self::priority::{Priorities, Priority};
pub use self::watch::Pace;

/// How many 403s are confirmed at a time; nobody has more of them than are left for all others.
const CONFIRMATIONS: usize = 64;

/// Who is at the other end of a client connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The verified client certificate, if one was presented.
    pub certificate: Option<PeerCertificate>,
    /// How that certificate stands now.
    pub standing: Option<Arc<Standing>>,
    /// Where the connection comes from.
    pub address: SocketAddr,
    /// For how long it may take nothing of an answer, or give nothing of a request body.
    pub write_timeout: Duration,
    /// How the connection is drained.
    pub drain: ConnectionDrain,
}

/// The proxy: handles requests of all connections.
pub struct Proxy {
    transports: Transports,
    link: Link,
    cache: Cache,
    tokens: StoredTokens,
    issuer: StoredIssuer,
    time: Arc<TrustedTime>,
    pace: Pace,
    limits: Limits,
    priorities: Priorities,
    filters: Filters,
    list_admission: ListAdmission,
    /// The 403s that are being confirmed.
    confirmations: Shares,
    /// The tokens whose owner an apiserver is being asked for. Nothing is ever sent: that the sender is gone
    /// is the news.
    owners_asked: Mutex<HashMap<Principal, watch_channel::Receiver<()>>>,
    strangers: Strangers,
    sections: Sections,
    healings: Healings,
    gone: Gone,
    incidents: Incidents,
    metrics: ProxyMetrics,
    tasks: Tasks,
}

/// What a [`Proxy`] works with.
pub struct Parts {
    /// The upstream connections, by identity.
    pub transports: Transports,
    /// The state of the way to the cloud.
    pub link: Link,
    /// What was read before.
    pub cache: Cache,
    /// Tokens that upstream has accepted.
    pub tokens: StoredTokens,
    /// The cluster's keys for tokens that upstream has not been asked about.
    pub issuer: StoredIssuer,
    /// The moment at which certificates are judged.
    pub time: Arc<TrustedTime>,
    /// How fast held watches return upstream.
    pub pace: Pace,
    /// How fast clients may ask.
    pub limits: Limits,
    /// Who goes first where they wait for each other.
    pub priorities: Priorities,
    /// What clients see rewritten.
    pub filters: Filters,
    /// What it counts.
    pub metrics: ProxyMetrics,
    /// Where its tasks run.
    pub tasks: Tasks,
}

impl Proxy {
    /// A proxy over its parts.
    pub fn new(parts: Parts) -> Self {
        let Parts {
            transports,
            link,
            cache,
            tokens,
            issuer,
            time,
            pace,
            limits,
            priorities,
            filters,
            metrics,
            tasks,
        } = parts;
        let list_admission = ListAdmission::new(cache.logs());
        Self {
            transports,
            link,
            cache,
            tokens,
            issuer,
            time,
            pace,
            limits,
            priorities,
            filters,
            list_admission,
            confirmations: Shares::new(CONFIRMATIONS),
            owners_asked: Mutex::default(),
            strangers: Strangers::new(),
            sections: Sections::new(),
            healings: Healings::new(),
            gone: Gone::default(),
            incidents: Incidents::default(),
            metrics,
            tasks,
        }
    }

    /// Handles one request. Always answers: what goes wrong becomes a Kubernetes `Status`.
    pub async fn handle(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<Body> {
        exchange::handle(self, request, &peer).await
    }

    /// The cache, for a stop that waits until everything is with the store.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The memory of tokens, likewise.
    pub fn tokens(&self) -> &StoredTokens {
        &self.tokens
    }

    /// The last contact with the cloud, by the cloud's clock.
    pub fn last_contact(&self) -> Option<SystemTime> {
        self.time.last_contact()
    }

    /// The configured clients whose pair an apiserver has answered 401, and not accepted since.
    pub fn refused_clients(&self) -> Vec<String> {
        let mut names: Vec<_> = self.transports.names().map(str::to_owned).collect();
        names.retain(|name| self.transports.named(name).is_some_and(|one| one.is_refused()));
        names.sort_unstable();
        names
    }

    /// What went wrong for configured clients in the last minutes.
    pub fn incidents(&self) -> Vec<Incident> {
        self.incidents.current()
    }

    /// How far the clock of this node is from the apiserver's; `None` before the first answer.
    pub fn clock_offset(&self) -> Option<ClockOffset> {
        self.time.offset()
    }

    /// For how long the watch that has been held, or its view lost, for longest has been so; zero if there is
    /// none.
    pub fn watches_behind(&self) -> Duration {
        self.metrics.watches.behind()
    }

    /// The state of the way to the cloud.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// The cluster's keys for tokens, likewise.
    pub fn issuer(&self) -> &StoredIssuer {
        &self.issuer
    }

    /// Forgets callers that have not asked for a while.
    pub(crate) fn prune(&self) {
        self.limits.prune();
        self.strangers.prune();
    }

    /// The transports, for status.
    pub fn transports(&self) -> &Transports {
        &self.transports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// Each request of a connection is one future, part of its task on HTTP/1.1 and a task on HTTP/2.
    #[test]
    fn the_future_of_a_request_is_small() {
        assert!(size(Proxy::handle) < 8 << 10, "{} bytes", size(Proxy::handle));
    }
}
