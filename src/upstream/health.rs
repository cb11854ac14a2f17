//! What is thought of one server, and when it is probed next: a pure state machine.
//!
//! `Online`, proven or not; `Suspect` after a failure, until probes decide; `Offline` after `failureThreshold` failed
//! probes in a row, or twice as many of the only server that were not answered in time. One that comes back is on trial until `successThreshold` probes in a row were good: it is used if
//! there is no better one, and becomes the first choice only after that.
//!
//! When it is probed:
//! * at the start, and when something failed: at once;
//! * `Suspect`, after a failed probe: after [`RETRY`];
//! * `Offline`: pauses from [`FIRST_PAUSE`], doubling up to [`LONGEST_PAUSE`], up to a quarter of each left out at
//!   random so that nodes do not probe together. Held watches must be live again within 3 s of the link's return:
//!   hence the short end. A probe that hangs does not keep the next one from starting;
//! * on trial: every `interval`;
//! * `Online`: a single server never, its requests tell. One of several every [`STANDBY`] intervals, if no request was
//!   answered by it in that time.
//!
//! No pause is longer than `interval` except that of [`STANDBY`].

use std::time::Duration;

use tokio::time::Instant;

use super::error::Failure;
use super::link::LinkState;
use super::settings::ProbeSettings;

/// Between two probes that decide about a suspicion.
const RETRY: Duration = Duration::from_millis(200);

/// Between the first two probes of a server that is away.
const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Between two probes of a server that is away.
const LONGEST_PAUSE: Duration = Duration::from_millis(1500);

/// What a failed probe weighs, and so many times `failureThreshold` makes a server `Offline`.
const FAILED: u32 = 2;

/// What one weighs that was not answered in time. In total silence `Offline` then comes after 8 s by default, and with a
/// fifth of all packets lost each way hardly ever by chance; cached answers do not wait for it.
const UNANSWERED: u32 = 1;

/// How many intervals a server that is not used goes without a probe.
const STANDBY: u32 = 6;

/// What was learnt about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It answered a request.
    Reached,
    /// A request failed on the way.
    Failed(Failure),
    /// A read waits longer than usual, and another server could answer it.
    Slow,
    /// A probe begins.
    ProbeStarted,
    /// A probe was answered by something that may be an apiserver.
    ProbeSucceeded,
    /// A probe failed, or was not answered in time though others are there to answer.
    ProbeFailed,
    /// A probe of the only server was not answered in time, which on a bad link says little.
    ProbeUnanswered,
}

/// Whether there are other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// It is the only one.
    Alone,
    /// There are others.
    Among,
}

/// What the machine goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) probe: ProbeSettings,
    pub(super) company: Company,
}

/// What others see of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: LinkState,
    /// Back, but not for long enough to be the first choice.
    pub(super) on_trial: bool,
    /// A probe has failed since it last answered.
    pub(super) doubtful: bool,
}

/// What is thought of one server.
#[derive(Debug, Clone)]
pub(super) struct Health {
    state: LinkState,
    /// It has answered in the life of this process.
    known: bool,
    on_trial: bool,
    /// What the probes since its last answer weigh that got none.
    failed: u32,
    succeeded: u32,
    pause: Duration,
    due: Option<Instant>,
}

impl Health {
    /// Taken to be there, until the first probe, which is due now, says more.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            state: LinkState::Online,
            known: false,
            on_trial: false,
            failed: 0,
            succeeded: 0,
            pause: FIRST_PAUSE,
            due: Some(now),
        }
    }

    pub(super) fn standing(&self) -> Standing {
        Standing {
            state: self.state,
            on_trial: self.on_trial,
            doubtful: self.failed > 0,
        }
    }

    /// When the next probe is to begin.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// `chance` in 0..1 is drawn by the caller.
    pub(super) fn step(self, event: Event, now: Instant, plan: &Plan, chance: f64) -> Self {
        match event {
            Event::Reached => self.answered(now, plan, chance, 0),
            Event::ProbeSucceeded => self.answered(now, plan, chance, 1),
            Event::Failed(_) | Event::Slow => self.suspected(now),
            Event::ProbeStarted => self.probing(now, plan, chance),
            Event::ProbeFailed => self.missed(now, plan, chance, FAILED),
            Event::ProbeUnanswered => self.missed(now, plan, chance, UNANSWERED),
        }
    }

    /// The next probe is due now, if none was planned.
    pub(super) fn asked(mut self, now: Instant) -> Self {
        self.due = self.due.or(Some(now));
        self
    }

    fn answered(mut self, now: Instant, plan: &Plan, chance: f64, probes: u32) -> Self {
        self.on_trial |= self.state == LinkState::Offline && self.known;
        self.state = LinkState::Online;
        self.known = true;
        self.failed = 0;
        self.pause = FIRST_PAUSE;
        self.succeeded = self.succeeded.saturating_add(probes);
        let interval = plan.probe.interval;
        if plan.company == Company::Alone || self.succeeded >= plan.probe.success_threshold {
            self.on_trial = false;
        }
        self.due = match (plan.company, self.on_trial) {
            (Company::Alone, _) => None,
            (Company::Among, true) if probes == 0 && self.due.is_some() => self.due,
            (Company::Among, true) => Some(now + shortened(interval, chance)),
            (Company::Among, false) => Some(now + shortened(interval.saturating_mul(STANDBY), chance)),
        };
        self
    }

    fn suspected(mut self, now: Instant) -> Self {
        if self.state == LinkState::Online {
            self.state = LinkState::Suspect;
            self.succeeded = 0;
            self.failed = 0;
            self.due = Some(now);
        }
        self
    }

    fn probing(mut self, now: Instant, plan: &Plan, chance: f64) -> Self {
        self.due = (self.state == LinkState::Offline).then(|| {
            let pause = self.pause.min(plan.probe.interval);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            now + shortened(pause, chance)
        });
        self
    }

    fn missed(mut self, now: Instant, plan: &Plan, chance: f64, weight: u32) -> Self {
        self.succeeded = 0;
        self.failed = self.failed.saturating_add(weight);
        if self.state == LinkState::Offline {
            return self;
        }
        // One that never answered gets no second chance: a node that starts without its cloud knows it at once.
        if !self.known || self.failed >= plan.probe.failure_threshold.saturating_mul(FAILED) {
            self.state = LinkState::Offline;
            self.pause = FIRST_PAUSE;
            return self.probing(now, plan, chance);
        }
        self.state = LinkState::Suspect;
        self.due = Some(now + RETRY.min(plan.probe.interval));
        self
    }
}

/// Between three quarters of it and all of it.
fn shortened(pause: Duration, chance: f64) -> Duration {
    pause.mul_f64(1.0 - chance.clamp(0.0, 1.0) / 4.0)
}

#[cfg(test)]
mod tests;
