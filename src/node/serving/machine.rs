//! The life of the serving certificate as a pure state machine: when to ask the cluster for one, when to look whether
//! it is issued, when to try again.
//!
//! Time comes in with each event; what comes out is one action. Invariant: nothing here takes away the certificate in
//! use, so whatever happens to a request, edgehold serves as before.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use crate::tls::{AltName, ServingLeaf};

/// Renewal falls into this part of a certificate's life, as kubelet's does.
const RENEW_FROM: f64 = 0.7;
const RENEW_TO: f64 = 0.9;

/// Wall time may jump: the renewal is looked at again at least so often.
const RECHECK: Duration = Duration::from_secs(60);

/// After a certificate that was due for renewal when it came.
const BORN_OLD: Duration = Duration::from_secs(600);

const FIRST_LOOK: Duration = Duration::from_secs(1);
/// While somebody may be about to approve, and later.
const SOON: Duration = Duration::from_secs(10);
const LATER: Duration = Duration::from_secs(30);
const LOOKS_SOON: u32 = 60;

/// How an attempt went wrong, and how long to wait then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum CsrFailure {
    /// The cloud did not answer, or is busy.
    Unreachable,
    /// The apiserver refused the request, or does not have it any more.
    Refused,
    /// The request was denied, could not be signed, or what was issued cannot be used: it needs a person.
    Rejected,
}

impl CsrFailure {
    fn first_and_longest(self) -> (Duration, Duration) {
        let seconds = Duration::from_secs;
        match self {
            Self::Unreachable => (seconds(1), seconds(30)),
            Self::Refused => (seconds(5), seconds(300)),
            Self::Rejected => (seconds(60), seconds(3600)),
        }
    }

    /// Doubles with each failure in a row; `chance` (0 to 1) spreads a fleet by a fifth up and down.
    fn delay(self, failures: u32, chance: f64) -> Duration {
        let (first, longest) = self.first_and_longest();
        let doubled = first.saturating_mul(1_u32.checked_shl(failures.min(20)).unwrap_or(u32::MAX));
        doubled.min(longest).mul_f64(0.8 + 0.4 * chance.clamp(0.0, 1.0))
    }
}

/// The moment of an event.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) at: Instant,
    pub(super) wall: SystemTime,
    /// Evenly spread from 0 to 1.
    pub(super) chance: f64,
}

/// What happened.
#[derive(Debug, Clone)]
pub(super) enum Event {
    /// The time has come that an action named.
    Tick,
    /// What the certificate must be good for, as far as that is known now.
    Names(BTreeSet<AltName>),
    /// [`Action::Submit`] was done: the request is with the cluster.
    Submitted,
    /// [`Action::Look`] found the request undecided, or approved and not issued yet.
    Undecided,
    /// [`Action::Look`] found this chain, PEM.
    Issued(String),
    /// The issued certificate is in use.
    Installed(ServingLeaf),
    /// An action failed.
    Failed(CsrFailure),
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Come back with [`Event::Tick`].
    WakeAt(Instant),
    /// Ask the cluster for a certificate with the key of the request under way, or with a new one.
    Submit,
    /// See what has become of the request.
    Look,
    /// Take this chain into use.
    Install(String),
    /// The key of the request is of no use any more; then come back with [`Event::Tick`].
    Abandon,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestState {
    /// Nothing is under way. Next: submit when a certificate is needed.
    Idle,
    /// The request is being sent. Next: looked at.
    Submitting,
    /// The request is with the cluster. Next: looked at when the time has come, so many looks so far.
    Awaiting { looks: u32, look_at: Instant },
    /// A look is under way. Next: installed, or looked at again.
    Looking { looks: u32 },
    /// What was issued is being taken into use. Next: idle.
    Installing,
    /// Something failed. Next: submit.
    Held { until: Instant },
}

/// The machine.
#[derive(Debug, Clone)]
pub(super) struct Machine {
    state: RequestState,
    /// In a row.
    failures: u32,
    current: Option<ServingLeaf>,
    wanted: Option<BTreeSet<AltName>>,
    /// Names that the signer left out: asking again would not help.
    left_out: BTreeSet<AltName>,
}

impl Machine {
    /// With the certificate that an earlier run left, if any.
    pub(super) fn new(current: Option<ServingLeaf>) -> Self {
        Self {
            state: RequestState::Idle,
            failures: 0,
            current,
            wanted: None,
            left_out: BTreeSet::new(),
        }
    }

    /// Whether a request is with the cluster, undecided.
    pub(super) fn is_waiting(&self) -> bool {
        matches!(
            self.state,
            RequestState::Awaiting { .. } | RequestState::Looking { .. }
        )
    }

    /// What a request should ask for.
    pub(super) fn wanted(&self) -> Option<&BTreeSet<AltName>> {
        self.wanted.as_ref()
    }

    pub(super) fn step(mut self, event: Event, now: Now) -> (Self, Action) {
        match event {
            Event::Tick => {}
            Event::Names(names) => {
                // A request for other names than these is of no use; that for the same is found again.
                if self.wanted.as_ref() != Some(&names) {
                    self.state = RequestState::Idle;
                    self.failures = 0;
                    self.wanted = Some(names);
                }
            }
            Event::Submitted => {
                self.state = RequestState::Awaiting {
                    looks: 0,
                    look_at: now.at + FIRST_LOOK,
                }
            }
            Event::Undecided => {
                if let RequestState::Looking { looks } = self.state {
                    let look_at = now.at + until_next_look(looks);
                    self.state = RequestState::Awaiting { looks, look_at };
                }
            }
            Event::Issued(chain) => {
                self.state = RequestState::Installing;
                return (self, Action::Install(chain));
            }
            Event::Installed(leaf) => self.take(leaf, now),
            Event::Failed(failure) => return self.fail(failure, now),
        }
        self.proceed(now)
    }

    fn take(&mut self, leaf: ServingLeaf, now: Now) {
        let missing = self
            .wanted
            .iter()
            .flatten()
            .filter(|name| !leaf.names.contains(name));
        self.left_out = missing.cloned().collect();
        self.failures = 0;
        // A wrong clock, or a signer with very short lives: the cluster is not asked without end.
        self.state = if renew_at(&leaf) <= now.wall {
            RequestState::Held {
                until: now.at + BORN_OLD,
            }
        } else {
            RequestState::Idle
        };
        self.current = Some(leaf);
    }

    fn fail(mut self, failure: CsrFailure, now: Now) -> (Self, Action) {
        let delay = failure.delay(self.failures, now.chance);
        self.failures = self.failures.saturating_add(1);
        let lost_contact = failure == CsrFailure::Unreachable;
        self.state = match self.state {
            // The request is where it was: only the look is repeated.
            RequestState::Looking { looks } if lost_contact => RequestState::Awaiting {
                looks,
                look_at: now.at + delay,
            },
            _ => RequestState::Held {
                until: now.at + delay,
            },
        };
        if failure == CsrFailure::Rejected {
            return (self, Action::Abandon);
        }
        self.proceed(now)
    }

    fn proceed(mut self, now: Now) -> (Self, Action) {
        let action = match self.state {
            RequestState::Idle => match self.due(now.wall) {
                Due::Now => {
                    self.state = RequestState::Submitting;
                    Action::Submit
                }
                Due::In(wait) => Action::WakeAt(now.at + wait.min(RECHECK)),
            },
            RequestState::Held { until } if now.at >= until => {
                self.state = RequestState::Idle;
                return self.proceed(now);
            }
            RequestState::Held { until } => Action::WakeAt(until),
            RequestState::Awaiting { looks, look_at } if now.at >= look_at => {
                self.state = RequestState::Looking {
                    looks: looks.saturating_add(1),
                };
                Action::Look
            }
            RequestState::Awaiting { look_at, .. } => Action::WakeAt(look_at),
            // The driver answers each action before anything else.
            RequestState::Submitting | RequestState::Looking { .. } | RequestState::Installing => {
                Action::WakeAt(now.at + RECHECK)
            }
        };
        (self, action)
    }

    fn due(&self, wall: SystemTime) -> Due {
        let Some(wanted) = &self.wanted else {
            // Without names there is nothing to ask for.
            return Due::In(RECHECK);
        };
        let Some(current) = &self.current else {
            return Due::Now;
        };
        let is_covered = |name: &AltName| current.names.contains(name) || self.left_out.contains(name);
        if !wanted.iter().all(is_covered) {
            return Due::Now;
        }
        match renew_at(current).duration_since(wall) {
            Ok(wait) if !wait.is_zero() => Due::In(wait),
            _ => Due::Now,
        }
    }
}

enum Due {
    Now,
    In(Duration),
}

/// When a certificate is to be renewed: at a random part of its life, the same after each restart, because its
/// fingerprint decides.
pub(super) fn renew_at(leaf: &ServingLeaf) -> SystemTime {
    let info = &leaf.info;
    let life = info.not_after.duration_since(info.not_before).unwrap_or_default();
    let digits = info.fingerprint.get(..8).unwrap_or_default();
    let random = f64::from(u32::from_str_radix(digits, 16).unwrap_or_default()) / f64::from(u32::MAX);
    info.not_before + life.mul_f64(RENEW_FROM + (RENEW_TO - RENEW_FROM) * random)
}

fn until_next_look(looks: u32) -> Duration {
    if looks >= LOOKS_SOON {
        LATER
    } else {
        FIRST_LOOK
            .saturating_mul(1_u32.checked_shl(looks.min(10)).unwrap_or(u32::MAX))
            .min(SOON)
    }
}

#[cfg(test)]
mod tests;
