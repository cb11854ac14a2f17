//! Every way through the machine, with the clock in the test's hand.

use super::*;
use crate::runtime::clock;
use crate::tls::CertificateInfo;

const DAY: Duration = Duration::from_secs(86_400);

fn names(names: &[&str]) -> BTreeSet<AltName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn born() -> SystemTime {
    SystemTime::UNIX_EPOCH + 20_000 * DAY
}

/// Good for ten days from `born`; the fingerprint decides when it is renewed.
fn leaf(alt_names: &[&str], fingerprint: &str) -> ServingLeaf {
    ServingLeaf {
        info: CertificateInfo {
            common_name: Some("system:node:edge-1".to_owned()),
            organizations: vec!["system:nodes".to_owned()],
            fingerprint: fingerprint.to_owned(),
            not_before: born(),
            not_after: born() + 10 * DAY,
        },
        names: names(alt_names),
    }
}

struct Run {
    machine: Machine,
    start: Instant,
    now: Now,
}

impl Run {
    fn new(current: Option<ServingLeaf>) -> Self {
        let start = clock::now();
        Self {
            machine: Machine::new(current),
            start,
            now: Now {
                at: start,
                wall: born() + DAY,
                chance: 0.5,
            },
        }
    }

    fn step(&mut self, event: Event) -> Action {
        let (machine, action) = self.machine.clone().step(event, self.now);
        self.machine = machine;
        action
    }

    fn pass(&mut self, time: Duration) {
        self.now.at += time;
        self.now.wall += time;
    }

    /// Lets the time pass that a wake-up names and tells it; gives that time and what comes then.
    fn wake(&mut self, action: &Action) -> (Duration, Action) {
        let Action::WakeAt(at) = action else {
            panic!("{action:?} is no waiting");
        };
        let waited = *at - self.now.at;
        self.pass(waited);
        (waited, self.step(Event::Tick))
    }

    /// Up to a request that is with the cluster, just looked at.
    fn submitted(&mut self) {
        assert_eq!(self.step(Event::Names(names(&["a"]))), Action::Submit);
        let action = self.step(Event::Submitted);
        assert_eq!(self.wake(&action), (FIRST_LOOK, Action::Look));
    }
}

#[test]
fn a_node_without_certificate_asks_looks_and_installs() {
    let mut run = Run::new(None);
    let action = run.step(Event::Tick);
    assert_eq!(
        run.wake(&action).0,
        RECHECK,
        "without names there is nothing to ask for"
    );
    run.submitted();
    assert!(run.machine.is_waiting());
    let action = run.step(Event::Undecided);
    assert_eq!(run.wake(&action), (Duration::from_secs(2), Action::Look));
    let action = run.step(Event::Issued("chain".to_owned()));
    assert_eq!(action, Action::Install("chain".to_owned()));
    let action = run.step(Event::Installed(leaf(&["a"], "00000000")));
    assert_eq!(run.wake(&action).0, RECHECK);
    assert!(!run.machine.is_waiting());
}

#[test]
fn looks_become_rare_and_never_end() {
    let mut run = Run::new(None);
    run.submitted();
    let mut waits = Vec::new();
    for _ in 0..80 {
        let action = run.step(Event::Undecided);
        let (waited, next) = run.wake(&action);
        assert_eq!(next, Action::Look);
        waits.push(waited.as_secs());
    }
    assert_eq!(waits[..5], [2, 4, 8, 10, 10]);
    assert_eq!(waits[79], 30);
    assert!(run.now.at - run.start < Duration::from_secs(1500));
}

#[test]
fn renewal_comes_between_seven_and_nine_tenths_of_life_whatever_the_clock_did() {
    for (fingerprint, part) in [("00000000", 0.7), ("80000000", 0.8), ("ffffffff", 0.9)] {
        let mut run = Run::new(Some(leaf(&["a"], fingerprint)));
        let mut action = run.step(Event::Names(names(&["a"])));
        while let Action::WakeAt(_) = action {
            let (waited, next) = run.wake(&action);
            assert!(waited <= RECHECK);
            action = next;
        }
        assert_eq!(action, Action::Submit);
        let lived = run.now.wall.duration_since(born()).unwrap();
        let wanted = (10 * DAY).mul_f64(part);
        assert!(
            lived >= wanted && lived - wanted < Duration::from_secs(2),
            "{lived:?}"
        );
    }
    let mut run = Run::new(Some(leaf(&["a"], "00000000")));
    let action = run.step(Event::Names(names(&["a"])));
    run.now.wall = SystemTime::UNIX_EPOCH;
    assert_eq!(
        run.wake(&action).0,
        RECHECK,
        "a clock in 1970 is no reason to renew"
    );
    run.now.wall = born() + 20 * DAY;
    assert_eq!(run.step(Event::Tick), Action::Submit, "it was expired all along");
}

#[test]
fn a_name_that_is_missing_asks_at_once_and_one_too_many_does_not() {
    let mut run = Run::new(Some(leaf(&["a", "b"], "00000000")));
    assert!(matches!(run.step(Event::Names(names(&["a"]))), Action::WakeAt(_)));
    assert_eq!(run.step(Event::Names(names(&["a", "c"]))), Action::Submit);
    let action = run.step(Event::Submitted);
    // Other names while the request for these is under way.
    assert!(matches!(action, Action::WakeAt(_)));
    assert!(matches!(
        run.step(Event::Names(names(&["a", "c"]))),
        Action::WakeAt(_)
    ));
    assert_eq!(run.step(Event::Names(names(&["a", "d"]))), Action::Submit);
}

#[test]
fn a_name_that_the_signer_left_out_is_not_asked_for_for_ever() {
    let mut run = Run::new(None);
    assert_eq!(run.step(Event::Names(names(&["a", "b"]))), Action::Submit);
    run.step(Event::Submitted);
    run.step(Event::Issued("chain".to_owned()));
    let action = run.step(Event::Installed(leaf(&["a"], "00000000")));
    assert_eq!(run.wake(&action).0, RECHECK);
    assert_eq!(run.machine.left_out, names(&["b"]));
    assert_eq!(run.step(Event::Names(names(&["a", "b", "c"]))), Action::Submit);
}

#[test]
fn a_certificate_that_comes_old_is_not_renewed_without_end() {
    let mut run = Run::new(None);
    run.now.wall = born() + 20 * DAY;
    run.submitted();
    run.step(Event::Issued("chain".to_owned()));
    let action = run.step(Event::Installed(leaf(&["a"], "00000000")));
    assert_eq!(run.wake(&action), (BORN_OLD, Action::Submit));
}

#[test]
fn a_rejected_request_gives_up_its_key_and_waits_longer_each_time() {
    let mut run = Run::new(None);
    let mut waits = Vec::new();
    run.submitted();
    for _ in 0..9 {
        assert_eq!(run.step(Event::Failed(CsrFailure::Rejected)), Action::Abandon);
        let action = run.step(Event::Tick);
        let (waited, next) = run.wake(&action);
        assert_eq!(next, Action::Submit);
        waits.push(waited.as_secs());
        run.step(Event::Submitted);
    }
    assert_eq!(waits, [60, 120, 240, 480, 960, 1920, 3600, 3600, 3600]);
}

#[test]
fn a_lost_contact_repeats_the_look_and_a_lost_request_is_sent_again() {
    let mut run = Run::new(None);
    run.submitted();
    let action = run.step(Event::Failed(CsrFailure::Unreachable));
    assert_eq!(run.wake(&action), (Duration::from_secs(1), Action::Look));
    assert!(run.machine.is_waiting());
    let action = run.step(Event::Failed(CsrFailure::Refused));
    assert_eq!(run.wake(&action), (Duration::from_secs(10), Action::Submit));
    let action = run.step(Event::Failed(CsrFailure::Unreachable));
    assert_eq!(run.wake(&action).1, Action::Submit);
}

#[test]
fn delays_are_bounded_and_spread() {
    for failure in [CsrFailure::Unreachable, CsrFailure::Refused, CsrFailure::Rejected] {
        let (first, longest) = failure.first_and_longest();
        for failures in [0, 1, 5, 31, 32, u32::MAX] {
            for chance in [0.0, 0.5, 1.0] {
                let delay = failure.delay(failures, chance);
                assert!(
                    delay >= first.mul_f64(0.79) && delay <= longest.mul_f64(1.21),
                    "{delay:?}"
                );
            }
        }
        assert!(failure.delay(0, 0.0) < failure.delay(0, 1.0));
    }
}

#[test]
fn success_forgets_the_failures_of_before() {
    let mut run = Run::new(None);
    run.submitted();
    for _ in 0..5 {
        run.step(Event::Failed(CsrFailure::Unreachable));
    }
    run.step(Event::Issued("chain".to_owned()));
    run.step(Event::Installed(leaf(&["a"], "00000000")));
    assert_eq!(run.step(Event::Names(names(&["z"]))), Action::Submit);
    let action = run.step(Event::Failed(CsrFailure::Unreachable));
    assert_eq!(run.wake(&action).0, Duration::from_secs(1));
}
