//! For how long the apiserver was away, in slots of five minutes over the last day. Pure; by the monotonic clock, so that a
//! wall clock that is set has no part in it.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The length of one slot.
pub const SLOT: Duration = Duration::from_secs(300);

/// A day.
const SLOTS: u64 = 288;

/// See the module.
#[derive(Debug)]
pub(super) struct Timeline {
    began: Instant,
    /// Up to here it is accounted for.
    until: Instant,
    is_away: bool,
    /// The newest last; that one goes on.
    away: VecDeque<Duration>,
}

impl Timeline {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            began: now,
            until: now,
            is_away: false,
            away: VecDeque::from([Duration::ZERO]),
        }
    }

    /// From now on the apiserver is away, or is not.
    pub(super) fn step(&mut self, is_away: bool, now: Instant) {
        self.account(now);
        self.is_away = is_away;
    }

    /// How long it was away in each slot, the oldest first. The last one has not ended; before the first nothing is known.
    pub(super) fn slots(&mut self, now: Instant) -> Vec<Duration> {
        self.account(now);
        self.away.iter().copied().collect()
    }

    fn account(&mut self, now: Instant) {
        // Of a gap longer than all slots only its end is kept.
        let kept = SLOT * u32::try_from(SLOTS).unwrap_or(u32::MAX);
        let gap = now.saturating_duration_since(self.until);
        if gap > kept {
            let skipped = self.slot(now) - SLOTS;
            self.until = self.began + SLOT * u32::try_from(skipped).unwrap_or(u32::MAX);
            self.away.clear();
            self.away.push_back(Duration::ZERO);
        }
        while self.until < now {
            let end = self.began + SLOT * u32::try_from(self.slot(self.until) + 1).unwrap_or(u32::MAX);
            let to = end.min(now);
            if let Some(last) = self.away.back_mut().filter(|_| self.is_away) {
                *last += to - self.until;
            }
            if to == end {
                self.away.push_back(Duration::ZERO);
            }
            self.until = to;
        }
        let surplus = self
            .away
            .len()
            .saturating_sub(usize::try_from(SLOTS).unwrap_or(usize::MAX));
        self.away.drain(..surplus);
    }

    fn slot(&self, moment: Instant) -> u64 {
        moment.duration_since(self.began).as_secs() / SLOT.as_secs()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::runtime::clock;

    fn seconds(slots: &[Duration]) -> Vec<u64> {
        slots.iter().map(Duration::as_secs).collect()
    }

    #[test]
    fn an_outage_is_spread_over_its_slots() {
        let began = clock::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut timeline = Timeline::new(began);
        assert_eq!(seconds(&timeline.slots(at(10))), [0]);
        timeline.step(true, at(290));
        timeline.step(false, at(630));
        assert_eq!(seconds(&timeline.slots(at(700))), [10, 300, 30]);
        timeline.step(true, at(700));
        assert_eq!(seconds(&timeline.slots(at(710))), [10, 300, 40]);
        let later = timeline.slots(at(710 + 3 * 86_400));
        assert_eq!(later.len(), 288);
        assert!(later.iter().rev().skip(1).all(|away| *away == SLOT), "{later:?}");
    }

    proptest! {
        /// However often it is asked, nothing is counted twice or lost.
        #[test]
        fn what_is_away_adds_up(steps in proptest::collection::vec((0_u64..4000, any::<bool>()), 1..20)) {
            let began = clock::now();
            let mut timeline = Timeline::new(began);
            let (mut now, mut is_away, mut away) = (0, false, 0);
            for (pause, next) in steps {
                now += pause;
                away += if is_away { pause } else { 0 };
                is_away = next;
                timeline.step(next, began + Duration::from_secs(now));
                let slots = timeline.slots(began + Duration::from_secs(now));
                prop_assert_eq!(slots.len() as u64, (now / 300 + 1).min(288));
                if now < 86_000 {
                    prop_assert_eq!(slots.iter().sum::<Duration>(), Duration::from_secs(away));
                }
            }
        }
    }
}
