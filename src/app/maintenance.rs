//! What is done beside requests: sync each second, compaction, the quota, and what follows from the link.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::storage::{Deferred, Place};
use crate::proxy::Proxy;
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::store::{Change, LogId, Quota, Store, Worth};
use crate::tls::{Expiry, TrustedTime};
use crate::upstream::{Link, LinkState};

/// `cache.sync: interval`: what a power cut can lose.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// How often garbage is looked at.
const TIDY_EVERY: u32 = 30;

/// While the cloud is in touch the last contact is written down so often.
const CONTACT_EVERY: u32 = 60;

/// How often a disk that did not take the cache is tried again.
const TRY_DISK_EVERY: u32 = 5;

/// Logs of one principal that nobody works with; beyond this the ones used longest ago go, whoever owns them. `kubectl
/// describe` and job controllers list with a new selector each time.
const MAX_IDLE_LOGS: usize = 1024;

/// A cache that should be on disk takes no more memory than this.
const LARGEST_IN_MEMORY: u64 = 64 << 20;

const PRUNE_INTERVAL: Duration = Duration::from_secs(30);

fn node_log() -> LogId {
    LogId::new("edgehold", "node")
}

const LAST_CONTACT: &[u8] = b"last-contact";

/// The moment at which certificates are judged, with the last contact of an earlier run.
pub(super) fn restored_time(store: &Arc<dyn Store>, expiry: Expiry) -> Arc<TrustedTime> {
    let stored = store
        .load(&node_log())
        .ok()
        .flatten()
        .and_then(|log| log.get(LAST_CONTACT).ok().flatten());
    let seconds = stored.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
    let contact =
        seconds.and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
    TrustedTime::restored(contact, expiry)
}

/// Tells the clock of the outage and of its end.
pub(super) fn follow_link(link: &Link, time: &Arc<TrustedTime>, tasks: &Tasks) {
    let (time, mut states) = (Arc::clone(time), link.subscribe());
    // The first probe may have been quicker than this.
    states.mark_changed();
    tasks.spawn_critical("link", async move {
        let mut was_offline = false;
        while states.changed().await.is_ok() {
            let is_offline = *states.borrow_and_update() == LinkState::Offline;
            if was_offline && !is_offline {
                time.contact(None);
            }
            was_offline = is_offline;
            if is_offline {
                time.lost();
            }
        }
    });
}

/// The store's housekeeper. Cheap to clone.
#[derive(Clone)]
pub(super) struct Maintenance {
    store: Arc<dyn Store>,
    time: Arc<TrustedTime>,
    deferred: Option<Deferred>,
    place: watch::Sender<Place>,
    /// The last contact as this run has written it down.
    written: Arc<Mutex<Option<SystemTime>>>,
}

impl Maintenance {
    pub(super) fn new(
        store: Arc<dyn Store>,
        (place, deferred): (Place, Option<Deferred>),
        time: Arc<TrustedTime>,
    ) -> Self {
        Self {
            store,
            time,
            deferred,
            place: watch::Sender::new(place),
            written: Arc::default(),
        }
    }

    /// Where the cache is, to be followed.
    pub(super) fn place(&self) -> watch::Receiver<Place> {
        self.place.subscribe()
    }

    pub(super) fn spawn(&self, tasks: &Tasks) {
        let (own, inner) = (self.clone(), tasks.clone());
        tasks.spawn_critical("maintenance", async move {
            for round in 1_u32.. {
                tokio::time::sleep(SYNC_INTERVAL).await;
                let maintained = own.clone();
                let kept = inner.spawn_blocking(move || {
                    if maintained.is_contact_due(round) {
                        maintained.keep_contact();
                    }
                });
                let _panicked = kept.await;
                own.sync(&inner).await;
                let tidied = own.clone();
                let tidied = inner.spawn_blocking(move || tidied.tidy(round));
                let _panicked = tidied.await;
            }
        });
    }

    /// Closes what is idle, lets go of what nothing came of, and keeps the cache within `max_bytes`, every half minute.
    /// `configured` are the common names of the configured clients.
    pub(super) fn prune(
        &self,
        proxy: &Arc<Proxy>,
        max_bytes: u64,
        configured: HashSet<String>,
        tasks: &Tasks,
    ) {
        let (proxy, inner, place) = (Arc::downgrade(proxy), tasks.clone(), self.place());
        let configured = Arc::new(configured);
        tasks.spawn_critical("prune", async move {
            loop {
                tokio::time::sleep(PRUNE_INTERVAL).await;
                let Some(proxy) = proxy.upgrade() else { return };
                proxy.cache().prune().await;
                proxy.cache().prune_replies(proxy.last_contact()).await;
                proxy.prune();
                let quota = Quota {
                    max_bytes: match *place.borrow() {
                        Place::Configured => max_bytes,
                        Place::Memory(_) => max_bytes.min(LARGEST_IN_MEMORY),
                    },
                    max_idle: MAX_IDLE_LOGS,
                };
                let (cache, configured) = (proxy.cache().clone(), Arc::clone(&configured));
                let enforced = inner.spawn_blocking(move || {
                    for removed in cache.enforce(quota, &|id| worth(&id.owner, &configured)) {
                        tracing::info!(log = %removed, "evicted: the cache is larger than cache.maxSize, or holds too many");
                    }
                });
                let _panicked = enforced.await;
            }
        });
    }

    /// Makes durable what was written.
    pub(super) async fn sync(&self, tasks: &Tasks) {
        let store = Arc::clone(&self.store);
        match tasks.spawn_blocking(move || store.sync()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the cache could not be synced to disk"),
            Err(error) => tracing::error!(%error, "syncing the cache failed"),
        }
    }

    /// The last thing before the end: what is only written now and then is written, and all of it made durable.
    pub(super) async fn close(&self, tasks: &Tasks) {
        let own = self.clone();
        if let Err(error) = tasks.spawn_blocking(move || own.keep_contact()).await {
            tracing::error!(%error, "writing the time of the last contact failed");
        }
        self.sync(tasks).await;
    }

    fn tidy(&self, round: u32) {
        if round.is_multiple_of(TRY_DISK_EVERY)
            && *self.place.borrow() != Place::Configured
            && self.deferred.as_ref().is_some_and(Deferred::try_disk)
        {
            self.place.send_replace(Place::Configured);
        }
        if round.is_multiple_of(TIDY_EVERY)
            && let Err(error) = self.store.compact_due()
        {
            tracing::warn!(%error, "a log of the cache could not be compacted");
        }
    }

    /// The first contact, and the last before the cloud was lost, are written at once: a node may be killed at any moment,
    /// and its certificates are judged at the last contact that it remembers.
    fn is_contact_due(&self, round: u32) -> bool {
        let (written, contact) = (*self.written.lock(), self.time.last_contact());
        contact != written
            && (written.is_none() || self.time.is_away() || round.is_multiple_of(CONTACT_EVERY))
    }

    fn keep_contact(&self) {
        let Some(contact) = self.time.last_contact() else {
            return;
        };
        let seconds = contact
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let written = self.store.create(&node_log(), b"{}").and_then(|log| {
            log.append(
                Change::Put {
                    key: LAST_CONTACT,
                    value: &seconds.to_be_bytes(),
                },
                "",
                clock::wall(),
            )
        });
        match written {
            Ok(_) => *self.written.lock() = Some(contact),
            Err(error) => tracing::warn!(%error, "the time of the last contact could not be written"),
        }
    }
}

/// The quota spares configured clients and the node itself; a principal's key is `cn:<name>`, then its groups.
fn worth(owner: &str, configured: &HashSet<String>) -> Worth {
    let name = owner
        .strip_prefix("cn:")
        .map(|rest| rest.split(",o=").next().unwrap_or(rest));
    match name {
        _ if owner == "edgehold" => Worth::Always,
        Some(name) if configured.contains(name) => Worth::Owned,
        _ => Worth::Spare,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Principal;

    #[test]
    fn the_quota_spares_configured_clients_and_the_node_itself() {
        let configured = HashSet::from(["system:node:edge-1".to_owned()]);
        let worth = |owner: &str| worth(owner, &configured);
        let kubelet = Principal::certificate("system:node:edge-1", ["system:nodes".to_owned()]);
        assert_eq!(worth(kubelet.key()), Worth::Owned);
        assert_eq!(worth("edgehold"), Worth::Always);
        let other = Principal::certificate("system:node:edge-10", []);
        let account = Principal::service_account("a", "b", "c");
        for stranger in [other, account, Principal::anonymous()] {
            assert_eq!(worth(stranger.key()), Worth::Spare);
        }
    }

    fn maintenance(time: &Arc<TrustedTime>) -> Maintenance {
        let store: Arc<dyn Store> = Arc::new(crate::store::LogStore::memory().unwrap());
        Maintenance::new(store, (Place::Configured, None), Arc::clone(time))
    }

    #[test]
    fn the_first_contact_and_the_last_before_an_outage_are_written_at_once() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds);
        let time = TrustedTime::restored(None, Expiry::LastContact);
        let maintenance = maintenance(&time);
        let due = |round| {
            let is_due = maintenance.is_contact_due(round);
            if is_due {
                maintenance.keep_contact();
            }
            is_due
        };
        assert!(!due(1), "there was none");
        time.contact(Some(at(0)));
        assert!(due(2), "the first");
        time.contact(Some(at(5)));
        assert!(!due(3), "not each");
        assert!(due(CONTACT_EVERY));
        time.contact(Some(at(70)));
        time.lost();
        assert!(due(CONTACT_EVERY + 1), "the last");
        assert!(!due(CONTACT_EVERY + 2));
        let restored = restored_time(&maintenance.store, Expiry::LastContact);
        assert_eq!(restored.last_contact(), Some(at(70)));
    }
}
