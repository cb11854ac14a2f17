//! What is thought of one server, and when it is probed next: a pure state machine.
//!
//! `Online`, proven or not; `Suspect` after a failure, until probes decide; `Offline` after `failureThreshold` failed
//! probes in a row (one is enough for a server that has never answered), or twice as many of the only server that were
//! not answered in time. One that comes back is on trial until `successThreshold` probes in a row were good: it is used
//! if there is no better one, and becomes the first choice only after that. So is one that answers that it is not ready.
//! After an outage, and at the start, it first gets [`STARTING`] intervals to become so: an apiserver that has just started
//! refuses what it will allow in a moment. One that serves without ever being ready is used after that.
//!
//! Of several servers, one whose failed answers exceed its good ones by [`TOO_MANY`] is on trial as well, for a time that its
//! probes do not shorten: it may answer nothing but those.
//!
//! When it is probed:
//! * at the start, when something failed, and when an answer takes longer than usual: at once. Slowness is no failure, so
//!   it changes nothing until a probe fails: nobody else is to do without answers that are on their way;
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

use super::failure::Failure;
use super::link_state::LinkState;
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

/// So many failed answers more than good ones, and of several servers it is not the first choice any more.
const TOO_MANY: u32 = 5;

/// For how long then, at least, the first time; twice as long each time that it goes on like this.
const FIRST_PENALTY: Duration = Duration::from_secs(30);

/// And at most.
const LONGEST_PENALTY: Duration = Duration::from_secs(300);

/// How many intervals a server that is away and answers that it is not ready is given to become so.
const STARTING: u32 = 6;

/// How many intervals a server that is not used goes without a probe.
const STANDBY: u32 = 6;

/// What was learnt about a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// It answered a request as it should.
    Served,
    /// It answered, whatever it said.
    Reached,
    /// It answered with a failure of its own, or that it has too much to do.
    Refused,
    /// A request failed on the way.
    Failed(Failure),
    /// An answer takes longer than usual.
    Slow,
    /// A probe begins.
    ProbeStarted,
    /// A probe was answered by something that may be an apiserver.
    ProbeSucceeded,
    /// A probe was answered by an apiserver that says of itself that it is not ready.
    ProbeUnready,
    /// A probe failed, or was not answered in time though others are there to answer.
    ProbeFailed,
    /// A probe of the only server was not answered in time, which on a bad link says little.
    ProbeUnanswered,
    /// A probe could not be sent, for want of something that this node lacks.
    ProbeImpossible,
}

impl Event {
    /// Whether it proves that the server is there.
    pub(super) fn is_answer(self) -> bool {
        matches!(
            self,
            Self::Served | Self::Reached | Self::ProbeSucceeded | Self::ProbeUnready
        )
    }
}

/// Whether there are other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topology {
    /// It is the only one.
    Single,
    /// There are others.
    Multiple,
}

/// What the machine goes by.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) probe: ProbeSettings,
    pub(super) topology: Topology,
}

/// What others see of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HealthStatus {
    pub(super) state: LinkState,
    /// It has answered in the life of this process.
    pub(super) known: bool,
    /// Not the first choice: back, but not for long enough, not ready, or of those that fail what they are asked.
    pub(super) on_trial: bool,
    /// A probe has failed since it last answered.
    pub(super) doubtful: bool,
}

impl HealthStatus {
    /// It did not answer its last probe, so that it is no use to wait for it.
    pub(super) fn is_hopeless(&self) -> bool {
        self.state == LinkState::Offline || self.doubtful
    }
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
    /// A probe has begun, and nothing was heard since.
    probing: bool,
    /// Since when its probes say that it is not ready.
    unready: Option<Instant>,
    /// By so many its failures exceed its good answers, up to [`TOO_MANY`].
    refusals: u32,
    /// When it was last probed for such a failure.
    questioned: Option<Instant>,
    /// Until then it stays on trial, whatever its probes say.
    barred: Option<Instant>,
    /// For how long it is barred next.
    penalty: Duration,
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
            probing: false,
            unready: None,
            refusals: 0,
            questioned: None,
            barred: None,
            penalty: FIRST_PENALTY,
        }
    }

    pub(super) fn status(&self) -> HealthStatus {
        HealthStatus {
            state: self.state,
            known: self.known,
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
            Event::Served => self.served().answered(now, plan, chance, 0),
            Event::Reached => self.answered(now, plan, chance, 0),
            Event::Refused => self.refused(now, plan, chance),
            Event::ProbeSucceeded => self.ready().answered(now, plan, chance, 1),
            Event::ProbeUnready => self.unready(now, plan, chance),
            Event::Failed(Failure::Gateway) => self.suspected(now).refused(now, plan, chance),
            Event::Failed(_) => self.suspected(now),
            Event::Slow => self.slow(now),
            Event::ProbeStarted => self.probing(now, plan, chance),
            Event::ProbeFailed => self.missed(now, plan, chance, FAILED),
            Event::ProbeUnanswered => self.missed(now, plan, chance, UNANSWERED),
            Event::ProbeImpossible => self.asked(now + RETRY.min(plan.probe.interval)),
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
        self.probing = false;
        self.failed = 0;
        self.pause = FIRST_PAUSE;
        self.succeeded = self.succeeded.saturating_add(probes);
        let interval = plan.probe.interval;
        let is_barred = self.barred.is_some_and(|end| now < end);
        if plan.topology == Topology::Single || (self.succeeded >= plan.probe.success_threshold && !is_barred)
        {
            self.on_trial = false;
            // One failure more, and it is barred again, for longer.
            self.refusals = self.refusals.min(TOO_MANY - 1);
        }
        self.due = match (plan.topology, self.on_trial) {
            (Topology::Single, _) => None,
            (Topology::Multiple, true) if probes == 0 && self.due.is_some() => self.due,
            (Topology::Multiple, true) => Some(now + shortened(interval, chance)),
            (Topology::Multiple, false) => Some(now + shortened(interval.saturating_mul(STANDBY), chance)),
        };
        self
    }

    fn served(mut self) -> Self {
        self.refusals = self.refusals.saturating_sub(1);
        if self.refusals == 0 {
            self.penalty = FIRST_PENALTY;
        }
        self
    }

    /// Of several servers one that fails most of what it is asked is not the first choice, whatever its probes say: it may
    /// answer those and nothing else. The first failures have it asked what it thinks of itself.
    fn refused(mut self, now: Instant, plan: &Plan, chance: f64) -> Self {
        if plan.topology == Topology::Single {
            return self;
        }
        self.refusals = self.refusals.saturating_add(1).min(TOO_MANY);
        let is_barred = self.barred.is_some_and(|end| now < end);
        if self.refusals == TOO_MANY && !is_barred {
            self.barred = Some(now + self.penalty);
            self.penalty = self.penalty.saturating_mul(2).min(LONGEST_PENALTY);
            self.on_trial = true;
            self.succeeded = 0;
            let probe = now + shortened(plan.probe.interval, chance);
            self.due = Some(self.due.map_or(probe, |due| due.min(probe)));
            return self;
        }
        let is_due = self.questioned.is_none_or(|at| now >= at + plan.probe.interval);
        if is_due && !self.probing {
            self.questioned = Some(now);
            return self.slow(now);
        }
        self
    }

    fn ready(mut self) -> Self {
        self.unready = None;
        self
    }

    /// It answers, so it is there, and the only one is used, unless it is just starting. Of several the others come first
    /// until it has been ready for a while.
    fn unready(mut self, now: Instant, plan: &Plan, chance: f64) -> Self {
        let since = *self.unready.get_or_insert(now);
        let is_used = self.known && self.state == LinkState::Online;
        if !is_used && now < since + plan.probe.interval.saturating_mul(STARTING) {
            return self.missed(now, plan, chance, FAILED);
        }
        self.succeeded = 0;
        self.on_trial = true;
        self.due = None;
        self.answered(now, plan, chance, 0)
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

    /// One probe is enough for all that wait.
    fn slow(mut self, now: Instant) -> Self {
        if self.state == LinkState::Online && !self.probing {
            self.due = Some(self.due.map_or(now, |due| due.min(now)));
        }
        self
    }

    fn probing(mut self, now: Instant, plan: &Plan, chance: f64) -> Self {
        self.probing = true;
        self.due = (self.state == LinkState::Offline).then(|| {
            let pause = self.pause.min(plan.probe.interval);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            now + shortened(pause, chance)
        });
        self
    }

    fn missed(mut self, now: Instant, plan: &Plan, chance: f64, weight: u32) -> Self {
        self.succeeded = 0;
        self.probing = false;
        self.failed = self.failed.saturating_add(weight);
        if self.state == LinkState::Offline {
            return self;
        }
        // Of one that never answered a single failed probe is enough, so that a node that starts without its cloud knows
        // it at once. A late answer is not: a node that has just booted is busy, and a link that has just come up slow.
        let enough = if self.known {
            plan.probe.failure_threshold
        } else {
            1
        };
        if self.failed >= enough.saturating_mul(FAILED) {
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
