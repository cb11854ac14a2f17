//! How fast clients may ask: a token bucket for each, reads and writes apart, watches not counted.
//!
//! It protects the apiserver from one client, and one client from another. What is over the limit gets 429 with
//! `Retry-After: 1`, as from kube-apiserver's own flow control, so that client-go waits and asks again.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::kube::request::Class;

use super::Proxy;
use super::caller::{Caller, Identity};

/// The limits of one client.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Requests a second, above zero.
    pub qps: f64,
    /// Requests at once, above zero.
    pub burst: u32,
}

type Keyed = RateLimiter<String, HashMapStateStore<String>, DefaultClock>;

/// A bucket for reads and one for writes.
struct Buckets<L> {
    reads: L,
    writes: L,
}

impl<L> Buckets<L> {
    fn of(&self, class: Class) -> Option<&L> {
        match class {
            Class::Watch => None,
            Class::Mutate => Some(&self.writes),
            Class::NonResource | Class::Get | Class::List | Class::Stream => Some(&self.reads),
        }
    }
}

/// The buckets of all clients.
#[derive(Default)]
pub struct Limits {
    by_name: HashMap<String, Buckets<DefaultDirectRateLimiter>>,
    default: Option<Buckets<Keyed>>,
}

impl Limits {
    /// Limits by configured common name, and for each caller that has none of these.
    pub fn new(by_name: impl IntoIterator<Item = (String, Limit)>, default: Option<Limit>) -> Self {
        let direct = |limit: Limit| RateLimiter::direct(quota(limit));
        let keyed = |limit: Limit| RateLimiter::hashmap(quota(limit));
        Self {
            by_name: by_name
                .into_iter()
                .map(|(name, limit)| {
                    (
                        name,
                        Buckets {
                            reads: direct(limit),
                            writes: direct(limit),
                        },
                    )
                })
                .collect(),
            default: default.map(|limit| Buckets {
                reads: keyed(limit),
                writes: keyed(limit),
            }),
        }
    }

    /// Takes one request off its caller's bucket; `false`: it is empty.
    pub(super) fn allow(&self, proxy: &Proxy, caller: &Caller, class: Class) -> bool {
        if let Some(buckets) = self.by_name.get(caller.transport.name()) {
            return buckets.of(class).is_none_or(|bucket| bucket.check().is_ok());
        }
        let is_default = std::ptr::eq(
            caller.transport.as_ref(),
            proxy.transports.default_transport().as_ref(),
        );
        let Some(buckets) = self.default.as_ref().filter(|_| is_default) else {
            return true;
        };
        let Some(bucket) = buckets.of(class) else {
            return true;
        };
        let key = match &caller.identity {
            Identity::Foreign => "foreign".to_owned(),
            // Whoever only claims to be a service account shares its bucket, but upstream turns him away.
            Identity::Known(_) | Identity::Token(_) => caller
                .recorded_as(proxy)
                .map_or_else(String::new, |principal| principal.key().to_owned()),
        };
        bucket.check_key(&key).is_ok()
    }

    /// Forgets callers that have not asked for a while.
    pub(crate) fn prune(&self) {
        for bucket in self
            .default
            .iter()
            .flat_map(|buckets| [&buckets.reads, &buckets.writes])
        {
            bucket.retain_recent();
            bucket.shrink_to_fit();
        }
    }
}

fn quota(limit: Limit) -> Quota {
    let burst = NonZeroU32::new(limit.burst).unwrap_or(NonZeroU32::MIN);
    let period = Duration::try_from_secs_f64(1.0 / limit.qps).unwrap_or(Duration::from_secs(1));
    // Only a period of zero has no quota: faster than one request a nanosecond.
    Quota::with_period(period.max(Duration::from_nanos(1)))
        .map_or(Quota::per_second(burst), |quota| quota.allow_burst(burst))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_have_buckets_of_their_own_and_watches_none() {
        let limits = Limits::new([("a".to_owned(), Limit { qps: 0.01, burst: 2 })], None);
        let buckets = &limits.by_name["a"];
        let take = |class| buckets.of(class).is_none_or(|bucket| bucket.check().is_ok());
        assert_eq!(
            [Class::Get, Class::List, Class::Get].map(take),
            [true, true, false]
        );
        assert_eq!([Class::Mutate; 3].map(take), [true, true, false]);
        assert_eq!([Class::Watch; 3].map(take), [true, true, true]);
    }

    #[test]
    fn a_quota_refills_at_its_rate() {
        let quota = quota(Limit { qps: 0.5, burst: 3 });
        assert_eq!(
            (quota.burst_size().get(), quota.replenish_interval()),
            (3, Duration::from_secs(2))
        );
    }
}
