//! What all requests share: the parts that the proxy was given, and its own records of callers, watches and
//! lists.
//!
//! Owns nothing that lasts, and knows nothing of a single request.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cache::{Cache, StoredIssuer, StoredTokens};
use crate::filter::Filters;
use crate::identity::Principal;
use crate::runtime::shares::Shares;
use crate::runtime::tasks::Tasks;
use crate::tls::{ClockOffset, TrustedTime};
use crate::upstream::{Link, Transports};

use super::incidents::{Incident, Incidents};
use super::limits::Limits;
use super::list_admission::ListAdmission;
use super::metrics::ProxyMetrics;
use super::priority::Priorities;
use super::sections::Sections;
use super::strangers::Strangers;
use super::watch::{Gone, Healings, Pace};

/// How many 403s are confirmed at a time; no principal may take more than what it leaves to all others.
const CONFIRMATIONS: usize = 64;

/// The proxy: handles requests of all connections.
pub struct Proxy {
    pub(super) transports: Transports,
    pub(super) link: Link,
    pub(super) cache: Cache,
    pub(super) tokens: StoredTokens,
    pub(super) issuer: StoredIssuer,
    pub(super) time: Arc<TrustedTime>,
    pub(super) pace: Pace,
    pub(super) limits: Limits,
    pub(super) priorities: Priorities,
    pub(super) filters: Filters,
    pub(super) list_admission: ListAdmission,
    /// The 403s that are being confirmed.
    pub(super) confirmations: Shares,
    /// The tokens whose owner an apiserver is being asked for. Nothing is ever sent on the channel: it is
    /// closed once the owner is known.
    pub(super) owners_asked: Mutex<HashMap<Principal, watch::Receiver<()>>>,
    pub(super) strangers: Strangers,
    pub(super) sections: Sections,
    pub(super) healings: Healings,
    pub(super) gone: Gone,
    pub(super) incidents: Incidents,
    pub(super) metrics: ProxyMetrics,
    pub(super) tasks: Tasks,
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
    /// The time by which certificates are judged.
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

    /// The cache: a stop waits until the store has everything.
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
