//! A priority queue without starvation: whoever has waited for [`PRIORITY_TIMEOUT`] goes first, the longest
//! waiting before others. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use super::priority::Priority;

/// After so long, priority no longer counts.
const PRIORITY_TIMEOUT: Duration = Duration::from_secs(10);

/// A place in a queue: the smallest is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    priority: Reverse<Priority>,
    number: u64,
}

struct Waiting<W> {
    since: Instant,
    who: W,
}

/// Those who wait.
pub(super) struct Queue<W> {
    waiting: BTreeMap<Place, Waiting<W>>,
    numbers: u64,
}

impl<W> Default for Queue<W> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            numbers: 0,
        }
    }
}

impl<W> Queue<W> {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Enters the queue behind all of the same priority.
    pub(super) fn push(&mut self, priority: Priority, now: Instant, who: W) -> Place {
        self.numbers += 1;
        let place = Place {
            priority: Reverse(priority),
            number: self.numbers,
        };
        self.waiting.insert(place, Waiting { since: now, who });
        place
    }

    /// Leaves the queue; `None` if it was not in it any more.
    pub(super) fn remove(&mut self, place: Place) -> Option<W> {
        Some(self.waiting.remove(&place)?.who)
    }

    /// Whose turn is next.
    pub(super) fn first(&self, now: Instant) -> Option<(Place, &W)> {
        let longest = self.waiting.iter().min_by_key(|(place, _)| place.number);
        let tired = longest.filter(|(_, waiting)| now.duration_since(waiting.since) >= PRIORITY_TIMEOUT);
        let (place, waiting) = tired.or_else(|| self.waiting.first_key_value())?;
        Some((*place, &waiting.who))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    fn drain(queue: &mut Queue<&'static str>, now: Instant) -> Vec<&'static str> {
        let mut order = Vec::new();
        while let Some((place, _)) = queue.first(now) {
            order.extend(queue.remove(place));
        }
        order
    }

    #[tokio::test(start_paused = true)]
    async fn priority_goes_first_then_who_came_first() {
        let now = clock::now();
        let mut queue = Queue::default();
        for (who, priority) in [
            ("pod", Priority::LAST),
            ("proxy", Priority(0)),
            ("kubelet", Priority(100)),
            ("cni", Priority(0)),
            ("kubelet-2", Priority(100)),
        ] {
            queue.push(priority, now, who);
        }
        assert_eq!(
            drain(&mut queue, now),
            ["kubelet", "kubelet-2", "proxy", "cni", "pod"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_waited_long_goes_before_all() {
        let begun = clock::now();
        let mut queue = Queue::default();
        queue.push(Priority::LAST, begun, "pod");
        let later = begun + PRIORITY_TIMEOUT;
        queue.push(Priority::NODE, later, "kubelet");
        assert_eq!(queue.first(begun).unwrap().1, &"kubelet");
        assert_eq!(drain(&mut queue, later), ["pod", "kubelet"]);
    }
}
