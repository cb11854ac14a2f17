//! What the link has been through, and what of it is said. Pure.
//!
//! One line when the cloud goes and one when it is back. A link that comes and goes is counted: after [`FLAPS`] outages
//! within [`WINDOW`] one line says so, and further ones are silent until it has been quiet for as long.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::condition::Condition;
use super::timeline::Timeline;

/// So many outages within [`WINDOW`] are each said.
const FLAPS: usize = 3;

/// See [`FLAPS`].
pub(super) const WINDOW: Duration = Duration::from_secs(600);

/// So many changes are kept.
const KEPT: usize = 10;

/// The cloud came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: SystemTime,
    /// What it became: `Online` or `Offline`.
    pub to: Condition,
    /// Why, when it went.
    pub why: Option<String>,
}

/// What is to be said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum News {
    /// The first answer.
    First,
    /// The cloud has gone.
    Away,
    /// It is back.
    Back {
        /// For how long it was away.
        away: Duration,
        /// How many requests were answered from the cache meanwhile.
        answered: u64,
    },
    /// It has gone, for the so manieth time within [`WINDOW`]; nothing more is said of that.
    Flapping(usize),
}

/// See the module.
#[derive(Debug)]
pub(super) struct History {
    condition: Condition,
    since: SystemTime,
    /// Since when it is away, and how many requests the cache had answered by then.
    away: Option<(Instant, u64)>,
    /// When the last outages began.
    recent: VecDeque<Instant>,
    outages: u64,
    changes: VecDeque<Change>,
    timeline: Timeline,
}

impl History {
    pub(super) fn new((now, wall): (Instant, SystemTime)) -> Self {
        Self {
            condition: Condition::Starting,
            since: wall,
            away: None,
            recent: VecDeque::new(),
            outages: 0,
            changes: VecDeque::new(),
            timeline: Timeline::new(now),
        }
    }

    /// The link is so now: `why`, if anything is wrong; `answered` requests were answered from the cache so far.
    pub(super) fn step(
        &mut self,
        condition: Condition,
        why: Option<String>,
        answered: u64,
        (now, wall): (Instant, SystemTime),
    ) -> Option<News> {
        if condition == self.condition {
            return None;
        }
        self.condition = condition;
        self.since = wall;
        match condition {
            Condition::Offline => self.timeline.step(true, now),
            Condition::Online => self.timeline.step(false, now),
            _ => {}
        }
        match (condition, self.away) {
            (Condition::Offline, None) => {
                self.keep(Change {
                    at: wall,
                    to: condition,
                    why,
                });
                self.away = Some((now, answered));
                self.outages += 1;
                self.recent.push_back(now);
                self.recent.retain(|began| now.duration_since(*began) < WINDOW);
                match self.recent.len() {
                    ..=FLAPS => Some(News::Away),
                    count if count == FLAPS + 1 => Some(News::Flapping(count)),
                    _ => None,
                }
            }
            (Condition::Online, away) => {
                if away.is_some() || self.changes.is_empty() {
                    self.keep(Change {
                        at: wall,
                        to: condition,
                        why: None,
                    });
                    let is_silent = self.recent.len() > FLAPS;
                    self.away = None;
                    return match away {
                        None => Some(News::First),
                        Some(_) if is_silent => None,
                        Some((began, before)) => Some(News::Back {
                            away: now.duration_since(began),
                            answered: answered.saturating_sub(before),
                        }),
                    };
                }
                None
            }
            _ => None,
        }
    }

    pub(super) fn condition(&self) -> Condition {
        self.condition
    }

    /// Since when it is so.
    pub(super) fn since(&self) -> SystemTime {
        self.since
    }

    pub(super) fn outages(&self) -> u64 {
        self.outages
    }

    /// Whether it has gone more than [`FLAPS`] times within [`WINDOW`].
    pub(super) fn is_flapping(&self, now: Instant) -> bool {
        let recent = self
            .recent
            .iter()
            .filter(|began| now.duration_since(**began) < WINDOW);
        recent.count() > FLAPS
    }

    /// The newest first.
    pub(super) fn changes(&self) -> Vec<Change> {
        self.changes.iter().cloned().collect()
    }

    /// How long it was away in each [`SLOT`](super::timeline::SLOT) of the last day, the oldest first.
    pub(super) fn away(&mut self, now: Instant) -> Vec<Duration> {
        self.timeline.slots(now)
    }

    fn keep(&mut self, change: Change) {
        self.changes.push_front(change);
        self.changes.truncate(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    struct Case {
        history: History,
        started: Instant,
    }

    impl Case {
        fn new() -> Self {
            let started = clock::now();
            Self {
                history: History::new((started, SystemTime::UNIX_EPOCH)),
                started,
            }
        }

        fn at(&mut self, seconds: u64, condition: Condition, answered: u64) -> Option<News> {
            let after = Duration::from_secs(seconds);
            let why = (condition == Condition::Offline).then(|| "refused".to_owned());
            let moment = (self.started + after, SystemTime::UNIX_EPOCH + after);
            self.history.step(condition, why, answered, moment)
        }
    }

    #[test]
    fn one_line_when_it_goes_and_one_when_it_is_back_with_what_the_cache_did() {
        use Condition::{Offline, Online, Suspect};
        let mut case = Case::new();
        assert_eq!(case.at(1, Online, 0), Some(News::First));
        assert_eq!(case.at(10, Suspect, 2), None);
        assert_eq!(case.at(11, Online, 2), None, "it was nothing");
        assert_eq!(case.at(20, Suspect, 2), None);
        assert_eq!(case.at(21, Offline, 3), Some(News::Away));
        assert_eq!(case.at(22, Offline, 9), None);
        let back = News::Back {
            away: Duration::from_secs(40),
            answered: 12,
        };
        assert_eq!(case.at(61, Online, 15), Some(back));
        let changes = case.history.changes();
        let told: Vec<_> = changes.iter().map(|c| (c.to, c.why.as_deref())).collect();
        assert_eq!(told, [(Online, None), (Offline, Some("refused")), (Online, None)]);
        assert_eq!(case.history.outages(), 1);
        let away = case.history.away(case.started + Duration::from_secs(100));
        assert_eq!(away, [Duration::from_secs(40)]);
    }

    #[test]
    fn a_node_that_starts_without_its_cloud_says_so_and_when_it_has_it() {
        let mut case = Case::new();
        assert_eq!(case.at(2, Condition::Offline, 0), Some(News::Away));
        let back = case.at(5, Condition::Online, 0);
        assert!(matches!(back, Some(News::Back { answered: 0, .. })), "{back:?}");
    }

    #[test]
    fn a_server_that_is_new_does_not_end_an_outage_before_it_answers() {
        let mut case = Case::new();
        assert_eq!(case.at(2, Condition::Offline, 0), Some(News::Away));
        assert_eq!(case.at(3, Condition::Starting, 0), None);
        assert_eq!(case.at(4, Condition::Offline, 0), None);
        assert!(
            matches!(case.at(12, Condition::Online, 0), Some(News::Back { away, .. }) if away.as_secs() == 10)
        );
    }

    #[test]
    fn flapping_is_counted_and_not_repeated() {
        let mut case = Case::new();
        case.at(0, Condition::Online, 0);
        let mut said = Vec::new();
        for round in 0..6 {
            said.push(case.at(10 + 10 * round, Condition::Offline, 0));
            said.push(case.at(15 + 10 * round, Condition::Online, 0));
        }
        let lines: Vec<_> = said.iter().flatten().collect();
        assert_eq!(lines.len(), 7, "{lines:?}");
        assert_eq!(lines.last(), Some(&&News::Flapping(4)));
        assert_eq!(case.history.outages(), 6);
        let after = |seconds: u64| case.started + Duration::from_secs(seconds);
        assert!(case.history.is_flapping(after(70)));
        assert!(!case.history.is_flapping(after(70 + WINDOW.as_secs())));
        let later = case.at(60 + WINDOW.as_secs(), Condition::Offline, 0);
        assert_eq!(later, Some(News::Away), "it was quiet for long");
        for round in 0..20 {
            case.at(2000 + round * 1000, Condition::Online, 0);
            case.at(2500 + round * 1000, Condition::Offline, 0);
        }
        assert_eq!(case.history.changes().len(), KEPT);
    }
}
