//! How fast held watches return upstream: one at a time over all watches of the node, by priority, with
//! jitter.
//!
//! The first turn after a pause is delayed by a moment, so that everybody who returns is in the queue by
//! then; otherwise it would go to the task that happened to run first. The delay is random, so that the nodes
//! of a cluster do not all begin together when the cloud comes back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::runtime::{clock, jitter};

use super::super::priority::Priority;
use super::super::queue::{Place, Queue};

/// The first turn after a pause is delayed by up to so many intervals.
const GATHERING: u32 = 8;

/// Hands out turns. Cheap to clone; all clones share one queue.
#[derive(Clone)]
pub struct Pace {
    interval: Duration,
    turns: Arc<Mutex<Turns>>,
}

#[derive(Default)]
struct Turns {
    queue: Queue<Arc<Notify>>,
    /// The time of the next turn.
    next: Option<Instant>,
}

impl Turns {
    /// Wakes the first in the queue.
    fn wake_first(&self, now: Instant) {
        if let Some((_, first)) = self.queue.first(now) {
            first.notify_one();
        }
    }
}

/// A place in the queue, given up when dropped.
struct Waiter<'a> {
    turns: &'a Mutex<Turns>,
    place: Place,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        turns.queue.remove(self.place);
        turns.wake_first(clock::now());
    }
}

impl Pace {
    /// One turn every `interval`, by half of it more or less.
    pub fn every(interval: Duration) -> Self {
        Self {
            interval,
            turns: Arc::default(),
        }
    }

    /// Waits for a turn.
    pub async fn turn(&self, priority: Priority) {
        let wake = Arc::new(Notify::new());
        let waiter = {
            let (mut turns, now) = (self.turns.lock(), clock::now());
            let earliest = now + self.interval + jitter::below(self.interval * GATHERING);
            if turns.queue.is_empty() && turns.next.is_none_or(|next| next <= now) {
                turns.next = Some(earliest);
            }
            let place = turns.queue.push(priority, now, Arc::clone(&wake));
            Waiter {
                turns: &self.turns,
                place,
            }
        };
        while let Some(look_again) = self.look(waiter.place) {
            match look_again {
                Look::At(time) => {
                    let _woken = tokio::time::timeout_at(time, wake.notified()).await;
                }
                Look::WhenWoken => wake.notified().await,
            }
        }
    }

    /// Takes the turn (`None`), or says when to look again.
    fn look(&self, place: Place) -> Option<Look> {
        let (mut turns, now) = (self.turns.lock(), clock::now());
        let (first, wake) = turns.queue.first(now)?;
        if first != place {
            wake.notify_one();
            return Some(Look::WhenWoken);
        }
        if let Some(next) = turns.next.filter(|next| *next > now) {
            return Some(Look::At(next));
        }
        turns.next = Some(now + self.interval / 2 + jitter::below(self.interval));
        // The waiter leaves the queue and wakes the next when it is dropped.
        None
    }
}

enum Look {
    At(Instant),
    WhenWoken,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::tasks::Tasks;

    const INTERVAL: Duration = Duration::from_millis(50);

    #[tokio::test(start_paused = true)]
    async fn all_who_come_together_go_by_priority_and_spaced() {
        let (pace, tasks) = (Pace::every(INTERVAL), Tasks::new());
        let started = clock::now();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for (who, priority) in [
            ("pod", Priority::LAST),
            ("proxy", Priority(0)),
            ("kubelet", Priority(100)),
        ] {
            let (pace, sender) = (pace.clone(), sender.clone());
            tasks.spawn("waiter", async move {
                pace.turn(priority).await;
                sender.send((who, clock::now() - started)).unwrap();
            });
        }
        let mut before = Duration::ZERO;
        for expected in ["kubelet", "proxy", "pod"] {
            let (who, at) = order.recv().await.unwrap();
            assert_eq!(who, expected);
            assert!(at - before >= INTERVAL / 2, "{who} at {at:?} after {before:?}");
            assert!(at - before <= INTERVAL * (GATHERING + 1) + Duration::from_millis(2));
            before = at;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_turns_take_an_interval_each_on_average() {
        let (pace, tasks) = (Pace::every(INTERVAL), Tasks::new());
        let started = clock::now();
        for _ in 0..200 {
            let pace = pace.clone();
            tasks.spawn("waiter", async move { pace.turn(Priority::NORMAL).await });
        }
        tasks.stop();
        tasks.wait().await;
        let mean = (clock::now() - started) / 200;
        assert!(
            mean > INTERVAL.mul_f64(0.8) && mean < INTERVAL.mul_f64(1.2),
            "{mean:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_leaves_keeps_nobody_waiting() {
        let (pace, tasks) = (Pace::every(INTERVAL), Tasks::new());
        let leaving = pace.clone();
        let other = pace.clone();
        tasks.spawn("leaving", async move {
            let turn = leaving.turn(Priority::NODE);
            assert!(tokio::time::timeout(INTERVAL / 2, turn).await.is_err());
        });
        tasks.spawn("staying", async move { other.turn(Priority::LAST).await });
        tasks.stop();
        let left = tokio::time::timeout(INTERVAL * 20, tasks.wait()).await;
        assert!(left.is_ok(), "the one behind never had its turn");
    }
}
