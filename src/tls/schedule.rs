//! When a watched file is looked at again: a pure state machine, one for each file or pair.
//!
//! Every `interval` while all is well, every `retry` while anything is wrong, at once (within [`DEBOUNCE`]) when the
//! file changes. At most one load is under way; a change during it is not lost. Does no I/O and reads no clock.

use std::time::Duration;

use tokio::time::Instant;

/// A rename, a write and a chmod of one update come as several events: they make one load. Later events do not move
/// the load on, so a file that is written all the time is still read.
pub(super) const DEBOUNCE: Duration = Duration::from_millis(50);

/// Keeps additions to an `Instant` in range whatever the configuration says.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);
/// Keeps a zero in the configuration from becoming a busy loop.
const SHORTEST: Duration = Duration::from_millis(10);

/// The two rhythms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    interval: Duration,
    retry: Duration,
}

impl Pace {
    pub(super) fn new(interval: Duration, retry: Duration) -> Self {
        Self {
            interval: interval.clamp(SHORTEST, LONGEST),
            retry: retry.clamp(SHORTEST, LONGEST),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// Time passed.
    Tick,
    /// The file, or a link on the way to it, changed.
    Changed,
    /// The load that was asked for is done.
    Finished(Verdict),
}

/// What a load found, as far as the schedule cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Good, and for so long; `None` if that is not known.
    Good(Option<Duration>),
    /// Absent, failing, mismatched, expired or not yet valid.
    Bad,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Load now, and report `Finished`.
    Load,
    /// Come back with `Tick` at this moment.
    WakeAt(Instant),
    /// A load is under way: wait for it.
    Wait,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LoadState {
    Resting {
        until: Instant,
    },
    Loading,
    /// Changed since the load began: what it brings may be half old.
    LoadingStale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Schedule {
    pace: Pace,
    state: LoadState,
}

impl Schedule {
    /// Due at once.
    pub(super) fn new(pace: Pace, now: Instant) -> Self {
        Self {
            pace,
            state: LoadState::Resting { until: now },
        }
    }

    pub(super) fn step(self, event: Event, now: Instant) -> (Self, Action) {
        let state = match (self.state, event) {
            (LoadState::Resting { until }, Event::Tick) if until <= now => {
                return (
                    Self {
                        state: LoadState::Loading,
                        ..self
                    },
                    Action::Load,
                );
            }
            (LoadState::Resting { until }, Event::Changed) => LoadState::Resting {
                until: until.min(now + DEBOUNCE),
            },
            // A report nobody asked for changes nothing.
            (state @ LoadState::Resting { .. }, Event::Tick | Event::Finished(_)) => state,
            (LoadState::Loading | LoadState::LoadingStale, Event::Changed) => LoadState::LoadingStale,
            (state @ (LoadState::Loading | LoadState::LoadingStale), Event::Tick) => state,
            (LoadState::Loading, Event::Finished(verdict)) => LoadState::Resting {
                until: now + self.pause(verdict),
            },
            (LoadState::LoadingStale, Event::Finished(_)) => LoadState::Resting {
                until: now + DEBOUNCE,
            },
        };
        let action = match state {
            LoadState::Resting { until } => Action::WakeAt(until),
            LoadState::Loading | LoadState::LoadingStale => Action::Wait,
        };
        (Self { state, ..self }, action)
    }

    /// Not past the end of validity: an expiry is noticed when it happens.
    fn pause(self, verdict: Verdict) -> Duration {
        match verdict {
            Verdict::Bad => self.pace.retry,
            Verdict::Good(None) => self.pace.interval,
            Verdict::Good(Some(left)) => self.pace.interval.min(left.max(self.pace.retry)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const INTERVAL: Duration = Duration::from_secs(1800);
    const RETRY: Duration = Duration::from_secs(1);

    fn loading(now: Instant) -> Schedule {
        let (schedule, action) = Schedule::new(Pace::new(INTERVAL, RETRY), now).step(Event::Tick, now);
        assert_eq!(action, Action::Load, "due from the start");
        schedule
    }

    fn after(verdict: Verdict, now: Instant) -> (Schedule, Action) {
        loading(now).step(Event::Finished(verdict), now)
    }

    #[test]
    fn a_good_file_is_looked_at_again_after_the_interval() {
        let now = Instant::now();
        let (schedule, action) = after(Verdict::Good(None), now);
        assert_eq!(action, Action::WakeAt(now + INTERVAL));
        let early = now + INTERVAL - Duration::from_millis(1);
        let (schedule, action) = schedule.step(Event::Tick, early);
        assert_eq!(action, Action::WakeAt(now + INTERVAL));
        assert_eq!(schedule.step(Event::Tick, now + INTERVAL).1, Action::Load);
    }

    #[test]
    fn a_bad_file_is_looked_at_again_after_the_retry() {
        let now = Instant::now();
        assert_eq!(after(Verdict::Bad, now).1, Action::WakeAt(now + RETRY));
    }

    #[test]
    fn an_expiry_before_the_interval_is_looked_at_when_it_happens() {
        let now = Instant::now();
        let left = Duration::from_secs(600);
        assert_eq!(
            after(Verdict::Good(Some(left)), now).1,
            Action::WakeAt(now + left)
        );
        assert_eq!(
            after(Verdict::Good(Some(Duration::ZERO)), now).1,
            Action::WakeAt(now + RETRY)
        );
        assert_eq!(
            after(Verdict::Good(Some(INTERVAL * 9)), now).1,
            Action::WakeAt(now + INTERVAL)
        );
    }

    #[test]
    fn a_change_is_looked_at_once_and_soon_however_many_events_it_makes() {
        let now = Instant::now();
        let (mut schedule, _) = after(Verdict::Good(None), now);
        for millis in [0, 10, 20, 40] {
            let (next, action) = schedule.step(Event::Changed, now + Duration::from_millis(millis));
            assert_eq!(
                action,
                Action::WakeAt(now + DEBOUNCE),
                "later events do not put it off"
            );
            schedule = next;
        }
        assert_eq!(schedule.step(Event::Tick, now + DEBOUNCE).1, Action::Load);
    }

    #[test]
    fn a_change_never_puts_off_a_look_that_is_due_sooner() {
        let now = Instant::now();
        let schedule = Schedule::new(Pace::new(INTERVAL, RETRY), now);
        assert_eq!(schedule.step(Event::Changed, now).1, Action::WakeAt(now));
    }

    #[test]
    fn a_change_during_a_load_makes_another() {
        let now = Instant::now();
        let (schedule, action) = loading(now).step(Event::Changed, now);
        assert_eq!(action, Action::Wait);
        let (schedule, action) = schedule.step(Event::Tick, now + INTERVAL);
        assert_eq!(action, Action::Wait, "never two at once");
        let (_, action) = schedule.step(Event::Finished(Verdict::Good(None)), now);
        assert_eq!(action, Action::WakeAt(now + DEBOUNCE));
    }

    #[test]
    fn foolish_intervals_neither_spin_nor_overflow() {
        let now = Instant::now();
        let pace = Pace::new(Duration::MAX, Duration::ZERO);
        let (schedule, _) = Schedule::new(pace, now).step(Event::Tick, now);
        assert_eq!(
            schedule.step(Event::Finished(Verdict::Good(None)), now).1,
            Action::WakeAt(now + LONGEST)
        );
        assert_eq!(
            schedule.step(Event::Finished(Verdict::Bad), now).1,
            Action::WakeAt(now + SHORTEST)
        );
    }

    proptest! {
        /// Whatever happens in whatever order, there is always a next look within the interval, and one load at most.
        #[test]
        fn it_never_stops_looking(events in proptest::collection::vec((0_u8..4, 0_u64..4000), 0..60)) {
            let mut now = Instant::now();
            let mut schedule = Schedule::new(Pace::new(INTERVAL, RETRY), now);
            let mut under_way = false;
            for (event, seconds) in events {
                now += Duration::from_secs(seconds);
                let event = match event {
                    0 => Event::Tick,
                    1 => Event::Changed,
                    2 => Event::Finished(Verdict::Good(None)),
                    _ => Event::Finished(Verdict::Bad),
                };
                let (next, action) = schedule.step(event, now);
                schedule = next;
                if matches!(event, Event::Finished(_)) {
                    under_way = false;
                }
                match action {
                    Action::Load => {
                        prop_assert!(!under_way);
                        under_way = true;
                    }
                    Action::WakeAt(at) => prop_assert!(!under_way && at <= now + INTERVAL),
                    Action::Wait => prop_assert!(under_way),
                }
            }
        }
    }
}
