//! How many watches are live, held or healing, and how long the worst of them has been behind the cloud.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::Instant;

use crate::runtime::clock;

/// The state of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum State {
    /// Upstream streams the changes.
    Live,
    /// The client's stream is open, and nothing comes from upstream.
    Held,
    /// It is live, but its view, which is to stand in for it offline, has lost its place.
    Healing,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Held => "held",
            Self::Healing => "healing",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    state: &'static str,
}

/// Counts watches. Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Census {
    watches: Family<Labels, Gauge>,
    resumed: Counter,
    behind: Arc<Mutex<Behind>>,
}

/// Since when watches are behind, each with a number of its own.
#[derive(Debug, Default)]
struct Behind {
    since: BTreeSet<Mark>,
    last: u64,
}

/// Since when, and the number.
type Mark = (Instant, u64);

/// A watch in a state, until it is dropped.
pub(in super::super) struct Counted {
    gauge: Gauge,
    behind: Option<(Arc<Mutex<Behind>>, Mark)>,
}

impl Census {
    pub(in super::super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "edgehold_watches",
            "Watches of clients: live, held (nothing comes from upstream), healing (live, and its view has lost its place)",
            self.watches.clone(),
        );
        registry.register(
            "edgehold_watches_resumed",
            "Held watches that went on upstream in the same stream",
            self.resumed.clone(),
        );
    }

    /// One more is in this state.
    pub(in super::super) fn count(&self, state: State) -> Counted {
        let gauge = self.watches.get_or_create_owned(&Labels {
            state: state.as_str(),
        });
        gauge.inc();
        let behind = (state != State::Live).then(|| {
            let mut behind = self.behind.lock();
            behind.last += 1;
            let mark = (clock::now(), behind.last);
            behind.since.insert(mark);
            (Arc::clone(&self.behind), mark)
        });
        Counted { gauge, behind }
    }

    /// Counts a held watch that is live again.
    pub(in super::super) fn resumed(&self) {
        self.resumed.inc();
    }

    /// How long the watch has been held or healing that has been so for longest; zero if there is none.
    pub(in super::super) fn behind(&self) -> Duration {
        let first = self.behind.lock().since.first().map(|(since, _)| *since);
        first.map_or(Duration::ZERO, |since| {
            clock::now().saturating_duration_since(since)
        })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.gauge.dec();
        if let Some((behind, mark)) = &self.behind {
            behind.lock().since.remove(mark);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_one_that_is_behind_for_longest_is_told_until_it_is_not() {
        let census = Census::default();
        let live = census.count(State::Live);
        assert_eq!(census.behind(), Duration::ZERO);
        let first = census.count(State::Held);
        tokio::time::advance(Duration::from_secs(5)).await;
        let (second, third) = (census.count(State::Held), census.count(State::Healing));
        tokio::time::advance(Duration::from_secs(2)).await;
        assert_eq!(census.behind(), Duration::from_secs(7));
        drop(first);
        assert_eq!(census.behind(), Duration::from_secs(2));
        drop((second, third));
        assert_eq!(census.behind(), Duration::ZERO);
        let count = |state: State| {
            census
                .watches
                .get_or_create_owned(&Labels {
                    state: state.as_str(),
                })
                .get()
        };
        assert_eq!([State::Live, State::Held, State::Healing].map(count), [1, 0, 0]);
        drop(live);
    }
}
