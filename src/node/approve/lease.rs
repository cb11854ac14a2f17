//! Who of several approvers works: leader election by a Lease, as client-go's `leaderelection` does it.
//!
//! Pure: takes the Lease as the cluster has it and gives what is to be written. The clock of another holder is never believed: its
//! time runs out by our own, from when we saw its last renewal.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::node::client::text;

/// As client-go's defaults: how long a holder is waited for, and how long one may act on its last renewal.
const DURATION: Duration = Duration::from_secs(15);
pub(super) const RENEW_DEADLINE: Duration = Duration::from_secs(10);

/// One candidate.
pub(super) struct Election {
    me: String,
    name: String,
    namespace: String,
    /// The last renewal by another, and when it was seen.
    seen: Option<(String, Instant)>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Turn {
    /// The Lease is to be created like this; who succeeds leads.
    Create(Value),
    /// The same with a Lease that is there.
    Update(Value),
    /// Another one leads.
    Wait,
}

impl Election {
    pub(super) fn new(me: String, namespace: String, name: String) -> Self {
        Self {
            me,
            name,
            namespace,
            seen: None,
        }
    }

    /// The path of the Lease.
    pub(super) fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    /// The path of all of its namespace.
    pub(super) fn collection(&self) -> String {
        format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
            self.namespace
        )
    }

    /// Looks at the Lease; `None`: there is none. `wall` is what a MicroTime says now.
    pub(super) fn step(&mut self, lease: Option<&Value>, now: Instant, wall: &str) -> Turn {
        let Some(lease) = lease else {
            let metadata = json!({"name": self.name, "namespace": self.namespace});
            let lease =
                json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata});
            return Turn::Create(self.taken(lease, wall, 0));
        };
        let holder = text(lease, "/spec/holderIdentity");
        let transitions = lease
            .pointer("/spec/leaseTransitions")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        if holder == self.me {
            let mut renewed = lease.clone();
            if let Some(spec) = renewed.pointer_mut("/spec").and_then(Value::as_object_mut) {
                spec.insert("renewTime".to_owned(), json!(wall));
            }
            return Turn::Update(renewed);
        }
        if holder.is_empty() {
            return Turn::Update(self.taken(lease.clone(), wall, transitions + 1));
        }
        let renewal = format!("{holder}\n{}", text(lease, "/spec/renewTime"));
        match &self.seen {
            Some((seen, at)) if *seen == renewal => {
                let held = lease
                    .pointer("/spec/leaseDurationSeconds")
                    .and_then(Value::as_u64);
                let held = held.map_or(DURATION, Duration::from_secs);
                if now.saturating_duration_since(*at) < held {
                    return Turn::Wait;
                }
                Turn::Update(self.taken(lease.clone(), wall, transitions + 1))
            }
            _ => {
                self.seen = Some((renewal, now));
                Turn::Wait
            }
        }
    }

    /// The Lease for whoever comes next, who need not wait; `None`: it is another's.
    pub(super) fn given_back(&self, lease: &Value, wall: &str) -> Option<Value> {
        if text(lease, "/spec/holderIdentity") != self.me {
            return None;
        }
        let mut given = lease.clone();
        let spec = given.pointer_mut("/spec").and_then(Value::as_object_mut)?;
        spec.insert("holderIdentity".to_owned(), json!(""));
        // As client-go writes it: zero is not valid.
        spec.insert("leaseDurationSeconds".to_owned(), json!(1));
        spec.insert("acquireTime".to_owned(), json!(wall));
        spec.insert("renewTime".to_owned(), json!(wall));
        Some(given)
    }

    fn taken(&self, mut lease: Value, wall: &str, transitions: i64) -> Value {
        if let Some(lease) = lease.as_object_mut() {
            let spec = json!({
                "holderIdentity": self.me,
                "leaseDurationSeconds": DURATION.as_secs(),
                "acquireTime": wall,
                "renewTime": wall,
                "leaseTransitions": transitions,
            });
            lease.insert("spec".to_owned(), spec);
        }
        lease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn election(me: &str) -> Election {
        Election::new(me.to_owned(), "edgehold".to_owned(), "approver".to_owned())
    }

    fn written(turn: Turn) -> Value {
        match turn {
            Turn::Create(lease) | Turn::Update(lease) => lease,
            Turn::Wait => panic!("it waits"),
        }
    }

    #[test]
    fn whoever_comes_first_leads_and_renews() {
        let now = Instant::now();
        let mut first = election("a");
        let turn = first.step(None, now, "t0");
        assert!(matches!(turn, Turn::Create(_)));
        let lease = written(turn);
        assert_eq!(lease["metadata"]["name"], "approver");
        assert_eq!(lease["spec"]["holderIdentity"], "a");
        let renewed = written(first.step(Some(&lease), now, "t1"));
        assert_eq!(
            (&renewed["spec"]["renewTime"], &renewed["spec"]["acquireTime"]),
            (&json!("t1"), &json!("t0"))
        );
        assert_eq!(renewed["spec"]["leaseTransitions"], 0);
    }

    #[test]
    fn another_takes_over_when_nothing_was_renewed_for_the_whole_duration_by_its_own_clock() {
        let now = Instant::now();
        let (mut first, mut second) = (election("a"), election("b"));
        let lease = written(first.step(None, now, "t0"));
        let late = now + DURATION * 9;
        assert_eq!(
            second.step(Some(&lease), late, "t"),
            Turn::Wait,
            "seen for the first time"
        );
        assert_eq!(second.step(Some(&lease), late + DURATION / 2, "t"), Turn::Wait);
        let renewed = written(first.step(Some(&lease), now, "t1"));
        assert_eq!(
            second.step(Some(&renewed), late + DURATION, "t"),
            Turn::Wait,
            "renewed"
        );
        let taken = written(second.step(Some(&renewed), late + DURATION * 2, "t2"));
        assert_eq!(taken["spec"]["holderIdentity"], "b");
        assert_eq!(taken["spec"]["leaseTransitions"], 1);
        assert_eq!(
            first.step(Some(&taken), late, "t"),
            Turn::Wait,
            "the first has lost it"
        );
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        let (mut first, now) = (election("b"), Instant::now());
        let held = written(first.step(None, now, "t0"));
        assert_eq!(election("a").given_back(&held, "t1"), None, "it is another's");
        let given = first.given_back(&held, "t1").unwrap();
        assert_eq!(given["spec"]["leaseDurationSeconds"], 1);
        let taken = written(election("a").step(Some(&given), now, "t2"));
        assert_eq!(taken["spec"]["holderIdentity"], "a");
        assert_eq!(taken["spec"]["leaseTransitions"], 1);
    }
}
