use proptest::prelude::*;

use super::*;

const INTERVAL: Duration = Duration::from_secs(5);

fn plan(topology: Topology) -> Plan {
    Plan {
        probe: ProbeSettings {
            interval: INTERVAL,
            timeout: Duration::from_secs(2),
            failure_threshold: 2,
            success_threshold: 3,
        },
        topology,
    }
}

/// A server with a clock; the shortest pauses are drawn.
struct Case {
    health: Health,
    plan: Plan,
    now: Instant,
}

impl Case {
    fn new(topology: Topology) -> Self {
        let now = crate::runtime::clock::now();
        Self {
            health: Health::new(now),
            plan: plan(topology),
            now,
        }
    }

    /// One that has answered its first probe.
    fn known(topology: Topology) -> Self {
        Self::new(topology).after(&[Event::ProbeStarted, Event::ProbeSucceeded])
    }

    fn after(mut self, events: &[Event]) -> Self {
        for event in events {
            self.health = self.health.step(*event, self.now, &self.plan, 0.0);
        }
        self
    }

    fn state(&self) -> LinkState {
        self.health.status().state
    }

    /// Time until the next probe.
    fn pause(&self) -> Option<Duration> {
        self.health.due().map(|due| due - self.now)
    }

    /// Lets time pass until the next probe is due, which then begins.
    fn probe(mut self) -> Self {
        self.now = self.health.due().expect("a probe is planned");
        self.after(&[Event::ProbeStarted])
    }
}

use Event::{
    Failed, ProbeFailed, ProbeStarted, ProbeSucceeded, ProbeUnanswered, ProbeUnready, Reached, Refused,
    Served, Slow,
};
const BROKEN: Event = Failed(Failure::Broken);

#[test]
fn a_server_that_never_answered_is_offline_after_one_probe() {
    let case = Case::new(Topology::Single);
    assert_eq!(
        (case.state(), case.pause()),
        (LinkState::Online, Some(Duration::ZERO))
    );
    let case = case.probe().after(&[ProbeFailed]);
    assert_eq!(case.state(), LinkState::Offline);
}

#[test]
fn probes_that_are_not_answered_decide_later_than_those_that_fail() {
    let case = Case::new(Topology::Single).probe().after(&[ProbeUnanswered]);
    assert_eq!(
        (case.state(), case.pause()),
        (LinkState::Suspect, Some(RETRY)),
        "one that never answered is asked once more"
    );
    assert_eq!(case.probe().after(&[ProbeUnanswered]).state(), LinkState::Offline);
    let mut case = Case::known(Topology::Single).after(&[BROKEN]);
    for _ in 0..3 {
        case = case.probe().after(&[ProbeUnanswered]);
        assert_eq!(case.state(), LinkState::Suspect);
    }
    assert_eq!(case.probe().after(&[ProbeUnanswered]).state(), LinkState::Offline);
    let case = Case::known(Topology::Single).after(&[BROKEN, ProbeUnanswered, ProbeFailed, ProbeUnanswered]);
    assert_eq!(case.state(), LinkState::Offline);
    let case = Case::known(Topology::Single).after(&[BROKEN, ProbeFailed, ProbeUnanswered, Reached, BROKEN]);
    assert_eq!(
        case.after(&[ProbeUnanswered, ProbeFailed]).state(),
        LinkState::Suspect
    );
}

#[test]
fn a_failure_only_raises_suspicion_and_probes_decide() {
    let case = Case::known(Topology::Single).after(&[BROKEN]);
    assert_eq!(
        (case.state(), case.pause()),
        (LinkState::Suspect, Some(Duration::ZERO))
    );
    let doubtful = case.probe().after(&[ProbeFailed]);
    assert_eq!(
        (doubtful.state(), doubtful.pause()),
        (LinkState::Suspect, Some(RETRY))
    );
    assert!(doubtful.health.status().doubtful);
    let offline = doubtful.probe().after(&[ProbeFailed]);
    assert_eq!(offline.state(), LinkState::Offline);
    assert_eq!(
        offline.after(&[BROKEN]).state(),
        LinkState::Offline,
        "failures say nothing new"
    );
}

#[test]
fn any_answer_ends_suspicion_and_outage() {
    for answer in [Reached, Served, ProbeSucceeded] {
        let suspect = Case::known(Topology::Single).after(&[BROKEN, ProbeStarted, ProbeFailed, answer]);
        assert_eq!(suspect.state(), LinkState::Online);
        assert!(!suspect.health.status().doubtful);
        // The count starts over.
        assert_eq!(suspect.after(&[BROKEN, ProbeFailed]).state(), LinkState::Suspect);
        let offline = Case::known(Topology::Single).after(&[BROKEN, ProbeFailed, ProbeFailed]);
        assert_eq!(offline.state(), LinkState::Offline);
        assert_eq!(offline.after(&[answer]).state(), LinkState::Online);
    }
}

#[test]
fn a_single_server_that_answers_is_never_probed() {
    for case in [
        Case::known(Topology::Single),
        Case::known(Topology::Single).after(&[Reached]),
        Case::known(Topology::Single).after(&[BROKEN, ProbeFailed, ProbeFailed, ProbeSucceeded]),
    ] {
        assert_eq!((case.state(), case.pause()), (LinkState::Online, None));
        assert!(!case.health.status().on_trial);
    }
}

#[test]
fn pauses_of_an_outage_double_up_to_a_bound() {
    let mut case = Case::known(Topology::Single).after(&[BROKEN, ProbeFailed, ProbeFailed]);
    let mut pauses = Vec::new();
    for _ in 0..6 {
        pauses.push(case.pause().unwrap().as_millis());
        case = case.probe();
    }
    assert_eq!(pauses, [250, 500, 1000, 1500, 1500, 1500]);
    // The next outage begins with short ones again.
    let again = case.after(&[ProbeSucceeded, BROKEN, ProbeFailed, ProbeFailed]);
    assert_eq!(again.pause(), Some(FIRST_PAUSE));
}

#[test]
fn no_pause_of_an_outage_is_longer_than_the_interval() {
    let mut case = Case::known(Topology::Single);
    case.plan.probe.interval = Duration::from_millis(100);
    case = case.after(&[BROKEN, ProbeFailed]);
    assert_eq!(case.pause(), Some(Duration::from_millis(100)));
    case = case.after(&[ProbeFailed]);
    for _ in 0..5 {
        assert_eq!(case.pause(), Some(Duration::from_millis(100)));
        case = case.probe();
    }
}

#[test]
fn a_server_that_is_back_is_on_trial_until_it_was_good_three_times() {
    let mut case = Case::known(Topology::Multiple).after(&[BROKEN, ProbeFailed, ProbeFailed]);
    case = case.probe().after(&[ProbeSucceeded]);
    for _ in 0..2 {
        assert_eq!(case.state(), LinkState::Online);
        assert!(case.health.status().on_trial);
        assert_eq!(case.pause(), Some(INTERVAL));
        // Requests are no proof of stability, and do not put off the probe.
        case = case.after(&[Reached]);
        assert_eq!(case.pause(), Some(INTERVAL));
        case = case.probe().after(&[ProbeSucceeded]);
    }
    assert!(!case.health.status().on_trial);
    assert_eq!(case.pause(), Some(INTERVAL * STANDBY));
}

#[test]
fn a_failure_on_trial_starts_the_trial_over() {
    let back = [BROKEN, ProbeFailed, ProbeFailed, ProbeSucceeded, ProbeSucceeded];
    let case = Case::known(Topology::Multiple).after(&back);
    let case = case.after(&[BROKEN, ProbeSucceeded, ProbeSucceeded]);
    assert!(case.health.status().on_trial, "two since the failure");
    assert!(!case.after(&[ProbeSucceeded]).health.status().on_trial);
}

#[test]
fn slowness_asks_for_one_probe_and_is_no_suspicion_until_that_fails() {
    for topology in [Topology::Single, Topology::Multiple] {
        let mut case = Case::known(topology).after(&[Slow]);
        assert_eq!(
            (case.state(), case.pause()),
            (LinkState::Online, Some(Duration::ZERO))
        );
        case = case.probe();
        case.now += INTERVAL / 5;
        let planned = case.health.due();
        case = case.after(&[Slow, Slow]);
        assert_eq!(case.health.due(), planned, "one is under way");
        let alive = Case { ..case }.after(&[ProbeSucceeded]);
        assert_eq!(alive.state(), LinkState::Online);
        assert_eq!(
            alive.after(&[Slow]).pause(),
            Some(Duration::ZERO),
            "the next is due"
        );
    }
    let dead = Case::known(Topology::Single)
        .after(&[Slow])
        .probe()
        .after(&[ProbeUnanswered]);
    assert_eq!((dead.state(), dead.pause()), (LinkState::Suspect, Some(RETRY)));
    assert!(dead.health.status().doubtful);
}

#[test]
fn a_mere_suspicion_needs_no_trial() {
    let case = Case::known(Topology::Multiple).after(&[BROKEN]);
    assert_eq!(
        (case.state(), case.pause()),
        (LinkState::Suspect, Some(Duration::ZERO))
    );
    let case = case.after(&[ProbeStarted, ProbeSucceeded]);
    assert_eq!(case.state(), LinkState::Online);
    assert!(!case.health.status().on_trial);
}

#[test]
fn a_standby_server_is_probed_now_and_then_and_requests_make_it_needless() {
    let mut case = Case::known(Topology::Multiple);
    assert_eq!(case.pause(), Some(INTERVAL * STANDBY));
    case.now += INTERVAL;
    let case = case.after(&[Reached]);
    assert_eq!(case.pause(), Some(INTERVAL * STANDBY));
    let case = case.probe().after(&[ProbeFailed]);
    assert_eq!((case.state(), case.pause()), (LinkState::Suspect, Some(RETRY)));
}

#[test]
fn one_that_is_not_ready_is_used_if_it_is_the_only_one_and_else_after_the_others() {
    let alone = Case::known(Topology::Single)
        .after(&[Slow])
        .probe()
        .after(&[ProbeUnready]);
    assert_eq!((alone.state(), alone.pause()), (LinkState::Online, None));
    assert!(!alone.health.status().on_trial);
    let mut among = Case::known(Topology::Multiple)
        .after(&[Slow])
        .probe()
        .after(&[ProbeUnready]);
    assert_eq!(
        (among.state(), among.pause()),
        (LinkState::Online, Some(INTERVAL))
    );
    for good in 0..3 {
        assert!(among.health.status().on_trial, "{good}");
        among = among.probe().after(&[ProbeSucceeded]);
    }
    assert!(!among.health.status().on_trial);
}

#[test]
fn one_that_is_starting_is_waited_for_and_one_that_is_never_ready_is_used() {
    for mut case in [
        Case::new(Topology::Single),
        Case::known(Topology::Single).after(&[BROKEN, ProbeFailed, ProbeFailed]),
        Case::known(Topology::Single).after(&[BROKEN, ProbeStarted, ProbeUnready]),
    ] {
        let since = case.now;
        while case.state() != LinkState::Online || case.now == since {
            case = case.probe().after(&[ProbeUnready]);
        }
        let waited = case.now - since;
        assert!(
            waited >= INTERVAL * STARTING && waited < INTERVAL * (STARTING + 1),
            "{waited:?}"
        );
        // From then on it is known that it is like this.
        let case = case.after(&[BROKEN]).probe().after(&[ProbeUnready]);
        assert_eq!(case.state(), LinkState::Online);
    }
    let ready = Case::new(Topology::Single).probe().after(&[ProbeUnready]);
    assert_eq!(ready.after(&[ProbeSucceeded]).state(), LinkState::Online);
}

#[test]
fn the_first_failed_answer_has_a_server_probed_and_the_next_do_not() {
    let mut case = Case::known(Topology::Multiple).after(&[Refused]);
    assert_eq!(
        (case.state(), case.pause()),
        (LinkState::Online, Some(Duration::ZERO))
    );
    case = case.probe().after(&[ProbeSucceeded, Served, Refused, Refused]);
    assert_eq!(case.pause(), Some(INTERVAL * STANDBY));
    case.now += INTERVAL;
    assert_eq!(
        case.after(&[Refused]).pause(),
        Some(Duration::ZERO),
        "after a while again"
    );
    let alone = Case::known(Topology::Single).after(&[Refused; 20]);
    assert_eq!((alone.state(), alone.pause()), (LinkState::Online, None));
}

#[test]
fn a_server_that_fails_most_of_what_it_is_asked_is_barred_for_longer_each_time() {
    let mut case = Case::known(Topology::Multiple);
    for _ in 0..3 {
        case = case.after(&[Refused, Refused, Served]);
        assert!(!case.health.status().on_trial, "not yet");
    }
    case = case.after(&[Refused]);
    assert!(!case.health.status().on_trial, "not yet");
    let mut barred = Vec::new();
    for _ in 0..6 {
        case = case.after(&[Refused]);
        assert!(case.health.status().on_trial && case.state() == LinkState::Online);
        let since = case.now;
        while case.health.status().on_trial {
            case = case.probe().after(&[ProbeSucceeded]);
        }
        barred.push((case.now - since).as_secs());
    }
    assert_eq!(barred, [30, 60, 120, 240, 300, 300]);
    case = case.after(&[Served; 5]).after(&[Refused; 4]);
    assert!(!case.health.status().on_trial, "it was good again");
    let since = case.now;
    case = case.after(&[Failed(Failure::Gateway)]);
    while case.health.status().on_trial {
        case = case.probe().after(&[ProbeSucceeded]);
    }
    assert_eq!(case.now - since, FIRST_PENALTY);
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        Just(Reached),
        Just(Served),
        Just(Refused),
        Just(BROKEN),
        Just(Failed(Failure::Gateway)),
        Just(Slow),
        Just(ProbeStarted),
        Just(ProbeSucceeded),
        Just(ProbeUnready),
        Just(ProbeFailed),
        Just(ProbeUnanswered),
    ]
}

proptest! {
    /// Whatever happens: who is not `Online` will be probed, soon, unless a probe is under way.
    #[test]
    fn a_server_that_is_away_is_always_asked_again(
        events in prop::collection::vec((event(), 0..4000_u64), 0..60), chance in 0.0..1.0,
    ) {
        let mut case = Case::new(Topology::Multiple);
        let mut probing = 0;
        for (event, millis) in events {
            // A verdict comes only from a probe that began.
            match event {
                ProbeStarted => probing += 1,
                ProbeSucceeded | ProbeUnready | ProbeFailed if probing == 0 => continue,
                ProbeSucceeded | ProbeUnready | ProbeFailed => probing -= 1,
                _ => {}
            }
            case.now += Duration::from_millis(millis);
            case.health = case.health.step(event, case.now, &case.plan, chance);
            match case.state() {
                LinkState::Online => {}
                LinkState::Suspect => prop_assert!(probing > 0 || case.health.due().is_some()),
                LinkState::Offline => {
                    let due = case.health.due().expect("planned");
                    prop_assert!(due <= case.now + LONGEST_PAUSE);
                }
            }
        }
    }
}

#[test]
fn what_this_node_lacks_says_nothing_of_a_server_which_is_asked_again() {
    let lost = [Event::ProbeStarted, Event::ProbeFailed];
    for case in [
        Case::new(Topology::Single),
        Case::known(Topology::Single).after(&[Event::Failed(Failure::Broken)]),
        Case::known(Topology::Multiple),
        Case::new(Topology::Single).after(&lost),
    ] {
        let state = case.state();
        let mut case = case;
        for _ in 0..20 {
            case = case.probe().after(&[Event::ProbeImpossible]);
            assert_eq!(case.state(), state);
            assert!(case.pause().is_some());
        }
    }
}
