//! Which of several interfaces leads to a server. Pure: takes what was seen, says what to try.
//!
//! The first interface that works is remembered, and everybody uses it. A better one (earlier in the configuration) is
//! tried beside it, and used again only after so many good probes in a row: one that comes and goes does not drag every
//! connection along.

use std::time::Duration;

use tokio::time::Instant;

/// The longest pause between two probes of interfaces that do not work, in intervals.
const LONGEST_PAUSE: u32 = 12;

/// What was seen. Interfaces are counted from 0, the preferred one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seen {
    /// A request's connection came about over this one, TLS included.
    Connected(usize),
    /// Something answered there, but no apiserver: the sign-in page of a network, perhaps.
    Misled(usize),
    /// A probe over this one went well; those before it did not.
    Good(usize),
    /// A probe found none that works.
    Bad,
}

/// How it is tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProbePolicy {
    /// From one probe to the next.
    pub(super) interval: Duration,
    /// So many good ones in a row bring an interface back.
    pub(super) threshold: u32,
}

/// The choice for one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Selection {
    count: usize,
    current: usize,
    misled: bool,
    /// The better one that does well, and how often in a row it did.
    candidate: Option<(usize, u32)>,
    bad: u32,
    due: Option<Instant>,
}

impl Selection {
    /// Among so many; none configured counts as one.
    pub(super) fn new(count: usize) -> Self {
        Self {
            count: count.max(1),
            current: 0,
            misled: false,
            candidate: None,
            bad: 0,
            due: None,
        }
    }

    /// The one that works, as far as is known.
    pub(super) fn current(&self) -> usize {
        self.current
    }

    /// When the better ones should be tried.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// In which order a connection tries them.
    pub(super) fn order(&self) -> Vec<usize> {
        let others = (0..self.count).filter(|other| *other != self.current);
        if self.misled {
            others.chain([self.current]).collect()
        } else {
            [self.current].into_iter().chain(others).collect()
        }
    }

    pub(super) fn step(self, seen: Seen, now: Instant, policy: ProbePolicy) -> Self {
        match seen {
            Seen::Connected(used) if used == self.current => Self {
                misled: false,
                ..self
            },
            Seen::Connected(used) => self.moved(used, now, policy),
            Seen::Misled(used) => Self {
                misled: self.misled || used == self.current,
                ..self
            },
            Seen::Good(better) if better >= self.current => self,
            Seen::Good(better) => {
                let before = self.candidate.filter(|(candidate, _)| *candidate == better);
                let good = before.map_or(1, |(_, good)| good + 1);
                if good >= policy.threshold {
                    return self.moved(better, now, policy);
                }
                Self {
                    candidate: Some((better, good)),
                    bad: 0,
                    due: Some(now + policy.interval),
                    ..self
                }
            }
            Seen::Bad => {
                let bad = self.bad.saturating_add(1);
                let pause = 2_u32.saturating_pow(bad).min(LONGEST_PAUSE);
                Self {
                    candidate: None,
                    bad,
                    due: (self.current > 0).then(|| now + policy.interval * pause),
                    ..self
                }
            }
        }
    }

    fn moved(self, to: usize, now: Instant, policy: ProbePolicy) -> Self {
        if to >= self.count {
            return self;
        }
        Self {
            current: to,
            due: (to > 0).then(|| now + policy.interval),
            ..Self::new(self.count)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    const POLICY: ProbePolicy = ProbePolicy {
        interval: Duration::from_secs(5),
        threshold: 3,
    };

    fn after(count: usize, seen: &[Seen]) -> (Selection, Instant) {
        let mut now = clock::now();
        let mut choice = Selection::new(count);
        for seen in seen {
            now = choice.due().unwrap_or(now);
            choice = choice.step(*seen, now, POLICY);
        }
        (choice, now)
    }

    #[test]
    fn the_first_is_preferred_and_the_one_that_works_is_remembered() {
        use Seen::{Connected, Misled};
        for (seen, order) in [
            (&[][..], [0, 1, 2]),
            (&[Connected(0)], [0, 1, 2]),
            (&[Connected(1)], [1, 0, 2]),
            (&[Connected(2)], [2, 0, 1]),
            (&[Connected(2), Connected(1)], [1, 0, 2]),
            (&[Connected(1), Connected(0)], [0, 1, 2]),
            (&[Misled(0)], [1, 2, 0]),
            (&[Misled(1)], [0, 1, 2]),
            (&[Misled(0), Connected(0)], [0, 1, 2]),
            (&[Misled(0), Connected(1)], [1, 0, 2]),
            (&[Connected(7)], [0, 1, 2]),
        ] {
            assert_eq!(after(3, seen).0.order(), order, "{seen:?}");
        }
        assert_eq!(Selection::new(0).order(), [0]);
    }

    #[test]
    fn a_better_one_is_back_after_good_probes_in_a_row_and_not_before() {
        use Seen::{Bad, Connected, Good};
        for (seen, current) in [
            (&[Connected(2), Good(0), Good(0)][..], 2),
            (&[Connected(2), Good(0), Good(0), Good(0)], 0),
            (&[Connected(2), Good(0), Good(0), Bad, Good(0), Good(0)], 2),
            (
                &[Connected(2), Good(0), Good(0), Bad, Good(0), Good(0), Good(0)],
                0,
            ),
            (&[Connected(2), Good(1), Good(0), Good(1), Good(0)], 2),
            (&[Connected(2), Good(1), Good(1), Good(1)], 1),
            (&[Connected(1), Good(2), Good(2), Good(2)], 1),
            (&[Connected(1), Good(0), Connected(1), Good(0), Good(0)], 0),
            (&[Connected(1), Good(0), Good(0), Connected(2), Good(0)], 2),
        ] {
            assert_eq!(after(3, seen).0.current(), current, "{seen:?}");
        }
    }

    #[test]
    fn probes_are_due_while_there_is_a_better_one_and_rarer_while_they_fail() {
        use Seen::{Bad, Connected, Good};
        let pause = |seen: &[Seen]| {
            let (choice, now) = after(2, seen);
            choice.due().map(|due| (due - now).as_secs())
        };
        assert_eq!(pause(&[]), None);
        assert_eq!(pause(&[Connected(0), Bad]), None);
        assert_eq!(pause(&[Connected(1)]), Some(5));
        assert_eq!(pause(&[Connected(1), Bad]), Some(10));
        assert_eq!(pause(&[Connected(1), Bad, Bad]), Some(20));
        assert_eq!(pause(&[Connected(1), Bad, Bad, Bad, Bad, Bad]), Some(60));
        assert_eq!(pause(&[Connected(1), Bad, Bad, Good(0)]), Some(5));
        assert_eq!(pause(&[Connected(1), Good(0), Good(0), Good(0)]), None);
    }
}
