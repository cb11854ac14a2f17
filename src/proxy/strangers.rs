//! Limits for callers that no apiserver knows. They hold for each source as a whole, since anybody can be any
//! number of such callers.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many refused tokens of one source are written down at once, and how often one more.
const DOUBTS: NonZeroU32 = NonZeroU32::MIN.saturating_add(31);
const DOUBT_EVERY: Duration = Duration::from_secs(60);

/// How many upgrades of unknown callers may wait for their answers; each has an upstream connection of its
/// own.
const UPGRADES: usize = 8;

/// The limits of unknown callers. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct Strangers {
    doubts: Arc<RateLimiter<IpAddr, HashMapStateStore<IpAddr>, DefaultClock>>,
    upgrades: Arc<Semaphore>,
}

impl Strangers {
    pub(super) fn new() -> Self {
        let quota = Quota::with_period(DOUBT_EVERY).unwrap_or(Quota::per_minute(DOUBTS));
        Self {
            doubts: Arc::new(RateLimiter::hashmap(quota.allow_burst(DOUBTS))),
            upgrades: Arc::new(Semaphore::new(UPGRADES)),
        }
    }

    /// Whether one more refused token of this source may be written down.
    pub(super) fn may_doubt(&self, source: IpAddr) -> bool {
        self.doubts.check_key(&source).is_ok()
    }

    /// Admits one more upgrade of an unknown caller; held until it is answered.
    pub(super) fn upgrade(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.upgrades).try_acquire_owned().ok()
    }

    /// Forgets sources that have been quiet for a while.
    pub(super) fn prune(&self) {
        self.doubts.retain_recent();
        self.doubts.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_does_not_use_up_what_another_has() {
        let strangers = Strangers::new();
        let (one, other) = ([127, 0, 0, 1].into(), [169, 254, 20, 1].into());
        let doubted = (0..1000).filter(|_| strangers.may_doubt(one)).count();
        assert_eq!(doubted, 32);
        assert!(strangers.may_doubt(other));
    }

    #[test]
    fn so_many_upgrades_are_under_way_at_once_and_no_more() {
        let strangers = Strangers::new();
        let mut held: Vec<_> = (0..UPGRADES).map(|_| strangers.upgrade().unwrap()).collect();
        assert!(strangers.upgrade().is_none());
        held.pop();
        assert!(strangers.upgrade().is_some());
    }
}
