//! Clients that ask once more for what they have just been told is gone: a version that is too old stays too
//! old, and who understands a 410 lists again. Who does not (kr8s) would else ask as fast as he is answered,
//! for as long as he lives.
//!
//! The same watch of the same caller, its version included, waits for a moment before it is asked for, twice
//! as long each time. Whoever asks from another version on, or after a list, waits for nothing.

use std::collections::HashMap;
use std::time::Duration;

use http::Uri;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::identity::Principal;
use crate::runtime::clock;

/// Between the first 410 and the second question; twice as long each time.
const SHORTEST: Duration = Duration::from_millis(100);

/// No client waits for longer: it would take the cloud for gone.
const LONGEST: Duration = Duration::from_secs(2);

/// Who has been quiet for so long starts over.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// Questions that are remembered; what finds no room is asked without a pause.
const CAPACITY: usize = 1024;

/// Who asked for what: a hash, so that long selectors cost nothing.
type Question = [u8; 32];

/// The watches that were answered with 410 and nothing else.
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

    /// When the question may be asked again.
    fn next(&self) -> Instant {
        let doublings = self.times.saturating_sub(1).min(16);
        self.last + (SHORTEST * (1 << doublings)).min(LONGEST)
    }
}

impl Gone {
    /// When this watch may be asked for, if not at once.
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
