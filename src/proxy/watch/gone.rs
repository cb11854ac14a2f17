//! Clients that ask again for a version that they were just told is gone. A client that understands 410 lists
//! again; one that does not (kr8s) would ask as fast as it is answered, forever.
//!
//! The same watch of the same caller from the same version is delayed, twice as long each time. A watch from
//! another version, or after a list, is not.

use std::collections::HashMap;
use std::time::Duration;

use http::Uri;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::identity::Principal;
use crate::runtime::clock;

/// The delay after the first 410; doubled each time.
const SHORTEST: Duration = Duration::from_millis(100);

/// The longest delay: with a longer one, clients would give the cloud up.
const LONGEST: Duration = Duration::from_secs(2);

/// A client that has been quiet for so long starts over.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// How many watches are remembered; any others are not delayed.
const CAPACITY: usize = 1024;

/// The caller and its watch, hashed so that long selectors cost nothing.
type Question = [u8; 32];

/// The watches that were answered with nothing but 410.
#[derive(Default)]
pub(in crate::proxy) struct Gone(Mutex<HashMap<Question, Told>>);

#[derive(Debug, Clone, Copy)]
struct Told {
    times: u32,
    last: Instant,
}

impl Told {
    fn is_forgotten(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.last) >= FORGOTTEN
    }

    /// When it may be asked again.
    fn next(&self) -> Instant {
        let doublings = self.times.saturating_sub(1).min(16);
        self.last + (SHORTEST * (1 << doublings)).min(LONGEST)
    }
}

impl Gone {
    /// When this watch may be sent, if not at once.
    pub(super) fn turn(&self, owner: &Principal, uri: &Uri) -> Option<Instant> {
        self.next(&question(owner, uri), clock::now())
    }

    /// This watch was answered with 410 before anything else.
    pub(super) fn told(&self, owner: &Principal, uri: &Uri) {
        self.count(question(owner, uri), clock::now());
    }

    fn next(&self, question: &Question, now: Instant) -> Option<Instant> {
        let told = self.0.lock().get(question).copied()?;
        (!told.is_forgotten(now)).then(|| told.next())
    }

    fn count(&self, question: Question, now: Instant) {
        let mut all = self.0.lock();
        if all.len() >= CAPACITY && !all.contains_key(&question) {
            all.retain(|_, told| !told.is_forgotten(now));
            if all.len() >= CAPACITY {
                return;
            }
        }
        let told = all.entry(question).or_insert(Told { times: 0, last: now });
        let before = if told.is_forgotten(now) { 0 } else { told.times };
        *told = Told {
            times: before.saturating_add(1),
            last: now,
        };
    }
}

fn question(owner: &Principal, uri: &Uri) -> Question {
    let mut hasher = blake3::Hasher::new();
    hasher.update(owner.key().as_bytes());
    hasher.update(b"\n");
    hasher.update(uri.path().as_bytes());
    hasher.update(b"?");
    hasher.update(uri.query().unwrap_or_default().as_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Question = [1; 32];
    const OTHER: Question = [2; 32];

    #[test]
    fn the_same_question_waits_twice_as_long_each_time_and_no_other() {
        let (gone, mut now) = (Gone::default(), clock::now());
        let mut waits = Vec::new();
        for _ in 0..7 {
            gone.count(ONE, now);
            let next = gone.next(&ONE, now).unwrap();
            waits.push((next - now).as_millis());
            now = next;
        }
        assert_eq!(waits, [100, 200, 400, 800, 1600, 2000, 2000]);
        assert_eq!(gone.next(&OTHER, now), None);
        assert_eq!(gone.next(&ONE, now + FORGOTTEN), None);
        gone.count(ONE, now + FORGOTTEN);
        assert_eq!(
            gone.next(&ONE, now + FORGOTTEN),
            Some(now + FORGOTTEN + SHORTEST),
            "it starts over"
        );
    }

    #[test]
    fn no_more_is_remembered_than_there_is_room_for() {
        let (gone, now) = (Gone::default(), clock::now());
        let question = |n: usize| *blake3::hash(&n.to_be_bytes()).as_bytes();
        for n in 0..=CAPACITY {
            gone.count(question(n), now);
        }
        assert_eq!(gone.0.lock().len(), CAPACITY);
        assert_eq!(gone.next(&question(CAPACITY), now), None);
        gone.count(question(CAPACITY), now + FORGOTTEN);
        assert_eq!(gone.0.lock().len(), 1, "those of long ago make room");
    }
}
