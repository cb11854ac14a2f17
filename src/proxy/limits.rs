//! Limits of clients: each has a token bucket and a number of requests in flight, for reads and for writes,
//! and a number of watches.
//!
//! They protect the apiserver from one client, and clients from each other. A request over a limit gets 429
//! with `Retry-After: 1`, as from kube-apiserver's own flow control, so that client-go waits and asks again.
//! Long-running streams (logs, exec) take from the bucket but are not counted as in flight, as in
//! kube-apiserver.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use governor::clock::DefaultClock;
use governor::state::keyed::HashMapStateStore;
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::Mutex;

use crate::kube::request::Class;

/// The limits of one client.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limit {
    /// Requests a second, above zero.
    pub qps: f64,
    /// Requests at once, above zero.
    pub burst: u32,
    /// Requests under way at once, above zero.
    pub in_flight: Option<u32>,
    /// Watches at once, above zero.
    pub watches: Option<u32>,
}

/// Which limit a request is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    /// `qps` and `burst`.
    Rate,
    /// `inFlight`.
    InFlight,
    /// `watches`.
    Watches,
    /// Its share of the connections to the cloud, which several callers use.
    Share,
    /// Its share of the memory for header sections.
    Headers,
}

impl Over {
    /// For the log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rate => "rate",
            Self::InFlight => "in-flight",
            Self::Watches => "watches",
            Self::Share => "share",
            Self::Headers => "headers",
        }
    }

    /// For the client.
    pub(super) fn message(self) -> &'static str {
        match self {
            Self::Rate => "edgehold: this client asks faster than its limits allow",
            Self::InFlight => "edgehold: this client has as many requests under way as its limits allow",
            Self::Watches => "edgehold: this client has as many watches as its limits allow",
            Self::Share => {
                "edgehold: this client has as many requests or watches under way as is its share of the connections to the cloud"
            }
            Self::Headers => {
                "edgehold: the headers of this client's requests under way are as large as its share allows"
            }
        }
    }
}

type Keyed = RateLimiter<String, HashMapStateStore<String>, DefaultClock>;

/// One limiter for reads and one for writes.
struct Apart<L> {
    reads: L,
    writes: L,
}

impl<L> Apart<L> {
    fn both(make: impl Fn() -> L) -> Self {
        Self {
            reads: make(),
            writes: make(),
        }
    }

    fn of(&self, class: Class) -> Option<&L> {
        match class {
            Class::Watch => None,
            Class::Mutate => Some(&self.writes),
            Class::NonResource | Class::Get | Class::List | Class::Stream => Some(&self.reads),
        }
    }
}

/// The limiter for one limit; `L` is one bucket, or one for each caller.
struct Limiter<L> {
    limit: Limit,
    buckets: Apart<L>,
    in_flight: Option<Apart<InFlight>>,
    watches: Option<InFlight>,
}

impl<L> Limiter<L> {
    fn new(limit: Limit, bucket: impl Fn(Quota) -> L) -> Self {
        Self {
            limit,
            buckets: Apart::both(|| bucket(quota(limit))),
            in_flight: limit
                .in_flight
                .map(|most| Apart::both(|| InFlight::at_most(most))),
            watches: limit.watches.map(InFlight::at_most),
        }
    }

    /// The successor of `old`: the same one if the limit is the same, otherwise one that knows the requests
    /// in flight.
    fn after(old: Option<&Arc<Self>>, limit: Limit, bucket: impl Fn(Quota) -> L) -> Arc<Self> {
        let Some(old) = old else {
            return Arc::new(Self::new(limit, bucket));
        };
        if old.limit == limit {
            return Arc::clone(old);
        }
        let mut new = Self::new(limit, bucket);
        if let (Some(new), Some(old)) = (&mut new.in_flight, &old.in_flight) {
            new.reads.counts = Arc::clone(&old.reads.counts);
            new.writes.counts = Arc::clone(&old.writes.counts);
        }
        if let (Some(new), Some(old)) = (&mut new.watches, &old.watches) {
            new.counts = Arc::clone(&old.counts);
        }
        Arc::new(new)
    }

    fn admit(&self, class: Class, key: &str, take: impl Fn(&L) -> bool) -> Result<Option<UnderWay>, Over> {
        let (counted, over) = match class {
            Class::Watch => (self.watches.as_ref(), Over::Watches),
            Class::Stream => (None, Over::InFlight),
            _ => (
                self.in_flight.as_ref().and_then(|both| both.of(class)),
                Over::InFlight,
            ),
        };
        // A request that is refused must not take from the bucket.
        let under_way = counted
            .map(|counted| counted.begin(key).ok_or(over))
            .transpose()?;
        if self.buckets.of(class).is_none_or(take) {
            Ok(under_way)
        } else {
            Err(Over::Rate)
        }
    }
}

/// Requests in flight, by caller. Takes memory only for callers that have any.
#[derive(Clone)]
struct InFlight {
    most: u32,
    counts: Arc<Mutex<HashMap<String, u32>>>,
}

impl InFlight {
    fn at_most(most: u32) -> Self {
        Self {
            most,
            counts: Arc::default(),
        }
    }

    fn begin(&self, key: &str) -> Option<UnderWay> {
        let mut counts = self.counts.lock();
        let count = counts.entry(key.to_owned()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(UnderWay {
            of: self.clone(),
            key: key.to_owned(),
        })
    }
}

/// One request in flight, until the end of its answer.
pub(super) struct UnderWay {
    of: InFlight,
    key: String,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut counts = self.of.counts.lock();
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

/// The limits of all clients. Cheap to clone; all clones are the same.
#[derive(Clone, Default)]
pub struct Limits(Arc<ArcSwap<Table>>);

#[derive(Default)]
struct Table {
    by_name: HashMap<String, Arc<Limiter<DefaultDirectRateLimiter>>>,
    default: Option<Arc<Limiter<Keyed>>>,
}

impl Limits {
    /// Limits by configured common name, and one for each other caller.
    pub fn new(by_name: impl IntoIterator<Item = (String, Limit)>, default: Option<Limit>) -> Self {
        let limits = Self::default();
        limits.replace(by_name, default);
        limits
    }

    /// Replaces the limits. Those that stay the same keep their buckets.
    pub fn replace(&self, by_name: impl IntoIterator<Item = (String, Limit)>, default: Option<Limit>) {
        let old = self.0.load();
        let direct = |(name, limit): (String, Limit)| {
            let limiter = Limiter::after(old.by_name.get(&name), limit, RateLimiter::direct);
            (name, limiter)
        };
        self.0.store(Arc::new(Table {
            by_name: by_name.into_iter().map(direct).collect(),
            default: default.map(|limit| Limiter::after(old.default.as_ref(), limit, RateLimiter::hashmap)),
        }));
    }

    /// Admits one request of a configured client, or of a caller that shares the default limits. The permit
    /// is held until the end of the answer.
    pub(super) fn admit(
        &self,
        client: Option<&str>,
        holder: Option<&str>,
        class: Class,
    ) -> Result<Option<UnderWay>, Over> {
        let table = self.0.load();
        let named = client.and_then(|client| Some((table.by_name.get(client)?, client)));
        if let Some((limiter, client)) = named {
            return limiter.admit(class, client, |bucket| bucket.check().is_ok());
        }
        let Some((limiter, holder)) = table.default.as_ref().zip(holder) else {
            return Ok(None);
        };
        limiter.admit(class, holder, |bucket| {
            bucket.check_key(&holder.to_owned()).is_ok()
        })
    }

    /// Forgets callers that have not asked for a while.
    pub(super) fn prune(&self) {
        if let Some(limiter) = &self.0.load().default {
            for bucket in [&limiter.buckets.reads, &limiter.buckets.writes] {
                bucket.retain_recent();
                bucket.shrink_to_fit();
            }
        }
    }
}

fn quota(limit: Limit) -> Quota {
    let burst = NonZeroU32::new(limit.burst).unwrap_or(NonZeroU32::MIN);
    let period = Duration::try_from_secs_f64(1.0 / limit.qps).unwrap_or(Duration::from_secs(1));
    // Only a period of zero has no quota: more than one request a nanosecond.
    Quota::with_period(period.max(Duration::from_nanos(1)))
        .map_or(Quota::per_second(burst), |quota| quota.allow_burst(burst))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: Limit = Limit {
        qps: 0.01,
        burst: 2,
        in_flight: None,
        watches: None,
    };

    fn limiter(limit: Limit) -> Limiter<DefaultDirectRateLimiter> {
        Limiter::new(limit, RateLimiter::direct)
    }

    #[test]
    fn reads_and_writes_have_buckets_of_their_own_and_watches_none() {
        let limiter = limiter(SLOW);
        let take = |class| limiter.admit(class, "a", |bucket| bucket.check().is_ok()).is_ok();
        assert_eq!(
            [Class::Get, Class::List, Class::Get].map(take),
            [true, true, false]
        );
        assert_eq!([Class::Mutate; 3].map(take), [true, true, false]);
        assert_eq!([Class::Watch; 3].map(take), [true, true, true]);
    }

    #[test]
    fn requests_under_way_are_counted_for_each_caller_until_they_end() {
        let limiter = limiter(Limit {
            in_flight: Some(2),
            ..SLOW
        });
        let begin = |class, key| limiter.admit(class, key, |_| true);
        let held = [Class::Get, Class::List].map(|class| begin(class, "a").unwrap());
        assert_eq!(begin(Class::NonResource, "a").err(), Some(Over::InFlight));
        assert!(begin(Class::Get, "b").is_ok(), "another caller");
        assert!(begin(Class::Mutate, "a").is_ok(), "writes are counted apart");
        for class in [Class::Watch, Class::Stream] {
            assert!(begin(class, "a").unwrap().is_none(), "what lasts is not counted");
        }
        drop(held);
        assert!(begin(Class::Get, "a").is_ok());
        let counts = &limiter.in_flight.as_ref().unwrap().reads.counts;
        assert!(counts.lock().is_empty(), "who has nothing under way is forgotten");
    }

    #[test]
    fn watches_are_counted_for_each_caller_apart_from_all_else() {
        let limiter = limiter(Limit {
            in_flight: Some(1),
            watches: Some(2),
            ..SLOW
        });
        let begin = |class, key| limiter.admit(class, key, |_| true);
        let mut held: Vec<_> = (0..2).map(|_| begin(Class::Watch, "a").unwrap()).collect();
        assert_eq!(begin(Class::Watch, "a").err(), Some(Over::Watches));
        assert!(begin(Class::Watch, "b").is_ok(), "another caller");
        held.push(begin(Class::Get, "a").unwrap());
        assert!(begin(Class::Stream, "a").is_ok());
        held.swap_remove(0);
        assert!(begin(Class::Watch, "a").is_ok());
    }

    #[test]
    fn what_is_over_the_cap_does_not_empty_the_bucket() {
        let limiter = limiter(Limit {
            in_flight: Some(1),
            ..SLOW
        });
        let take = || limiter.admit(Class::Get, "a", |bucket| bucket.check().is_ok());
        let held = take().unwrap();
        for _ in 0..5 {
            assert_eq!(take().err(), Some(Over::InFlight));
        }
        drop(held);
        assert!(take().is_ok());
        assert_eq!(take().err(), Some(Over::Rate));
    }

    fn of<'t>(table: &'t Table, name: &str) -> &'t Arc<Limiter<DefaultDirectRateLimiter>> {
        &table.by_name[name]
    }

    #[test]
    fn other_limits_leave_those_that_stay_and_what_is_under_way() {
        let capped = |most| Limit {
            in_flight: Some(most),
            ..SLOW
        };
        let named = |limits: [(&str, Limit); 2]| limits.map(|(name, limit)| (name.to_owned(), limit));
        let limits = Limits::new(named([("a", SLOW), ("b", capped(1))]), None);
        let take = |name: &str| {
            let table = limits.0.load();
            of(&table, name).admit(Class::Get, name, |bucket| bucket.check().is_ok())
        };
        assert!(take("a").is_ok());
        let held = take("b").unwrap();
        limits.replace(named([("a", SLOW), ("b", capped(2))]), Some(SLOW));
        assert!(take("a").is_ok());
        assert_eq!(take("a").err(), Some(Over::Rate), "its bucket was not filled");
        let second = take("b").unwrap();
        assert_eq!(
            take("b").err(),
            Some(Over::InFlight),
            "the first is under way still"
        );
        drop((held, second));
        let faster = Limit { burst: 3, ..SLOW };
        limits.replace(named([("a", faster), ("c", SLOW)]), None);
        assert!((0..3).all(|_| take("a").is_ok()));
        let table = limits.0.load();
        assert!(table.default.is_none() && !table.by_name.contains_key("b"));
    }

    #[test]
    fn a_quota_refills_at_its_rate() {
        let quota = quota(Limit {
            qps: 0.5,
            burst: 3,
            in_flight: None,
            watches: None,
        });
        assert_eq!(
            (quota.burst_size().get(), quota.replenish_interval()),
            (3, Duration::from_secs(2))
        );
    }
}
