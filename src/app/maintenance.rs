//! What is done beside requests: sync each second, compaction, the quota, and what follows from the link.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::proxy::Proxy;
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;
use crate::store::{Change, LogId, Quota, Store};
use crate::tls::{Expiry, TrustedTime};
use crate::upstream::{Link, LinkState};

/// `cache.sync: interval`: what a power cut can lose.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// How often garbage and quota are looked at.
const TIDY_EVERY: u32 = 30;

/// The last contact is written down at most so often.
const CONTACT_EVERY: u32 = 60;

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

/// Lets go of what nothing came of, every half minute.
pub(super) fn prune(proxy: &Arc<Proxy>, tasks: &Tasks) {
    let proxy = Arc::downgrade(proxy);
    tasks.spawn_critical("prune", async move {
        loop {
            tokio::time::sleep(PRUNE_INTERVAL).await;
            let Some(proxy) = proxy.upgrade() else { return };
            proxy.cache().prune().await;
            proxy.cache().prune_replies(proxy.last_contact()).await;
            proxy.limits().prune();
        }
    });
}

/// The store's housekeeper. Cheap to clone.
#[derive(Clone)]
pub(super) struct Maintenance {
    store: Arc<dyn Store>,
    quota: Quota,
    configured: Arc<HashSet<String>>,
    time: Arc<TrustedTime>,
}

impl Maintenance {
    pub(super) fn new(
        store: Arc<dyn Store>,
        max_bytes: u64,
        configured: HashSet<String>,
        time: Arc<TrustedTime>,
    ) -> Self {
        Self {
            store,
            quota: Quota { max_bytes },
            configured: Arc::new(configured),
            time,
        }
    }

    pub(super) fn spawn(&self, tasks: &Tasks) {
        let (own, inner) = (self.clone(), tasks.clone());
        tasks.spawn_critical("maintenance", async move {
            for round in 1_u32.. {
                tokio::time::sleep(SYNC_INTERVAL).await;
                own.sync(&inner).await;
                let own = own.clone();
                let tidied = inner.spawn_blocking(move || {
                    if round.is_multiple_of(TIDY_EVERY) {
                        own.tidy();
                    }
                    if round.is_multiple_of(CONTACT_EVERY) {
                        own.keep_contact();
                    }
                });
                let _panicked = tidied.await;
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

    fn tidy(&self) {
        if let Err(error) = self.store.compact_due() {
            tracing::warn!(%error, "a log of the cache could not be compacted");
        }
        let protected = |id: &LogId| is_protected(&id.owner, &self.configured);
        for removed in self.store.enforce(self.quota, &protected) {
            tracing::info!(log = %removed, "evicted: the cache is larger than cache.maxSize");
        }
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
        if let Err(error) = written {
            tracing::warn!(%error, "the time of the last contact could not be written");
        }
    }
}

/// Configured clients and the node itself; a principal's key is `cn:<name>`, then its groups.
fn is_protected(owner: &str, configured: &HashSet<String>) -> bool {
    let name = owner
        .strip_prefix("cn:")
        .map(|rest| rest.split(",o=").next().unwrap_or(rest));
    owner == "edgehold" || name.is_some_and(|name| configured.contains(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Principal;

    #[test]
    fn the_quota_spares_configured_clients_and_the_node_itself() {
        let configured = HashSet::from(["system:node:edge-1".to_owned()]);
        let kubelet = Principal::certificate("system:node:edge-1", ["system:nodes".to_owned()]);
        assert!(is_protected(kubelet.key(), &configured));
        assert!(is_protected("edgehold", &configured));
        let other = Principal::certificate("system:node:edge-10", []);
        assert!(!is_protected(other.key(), &configured));
        assert!(!is_protected(
            Principal::service_account("a", "b", "c").key(),
            &configured
        ));
        assert!(!is_protected(Principal::anonymous().key(), &configured));
    }
}
