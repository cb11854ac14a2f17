//! How fast held watches return upstream: one at a time, evenly spaced over all watches of the node.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::runtime::clock;

/// Hands out turns. Cheap to clone; all clones share one queue.
#[derive(Debug, Clone)]
pub struct Pace {
    interval: Duration,
    next: Arc<Mutex<Option<Instant>>>,
}

impl Pace {
    /// One turn every `interval`.
    pub fn every(interval: Duration) -> Self {
        Self {
            interval,
            next: Arc::default(),
        }
    }

    /// Waits for a turn.
    pub async fn turn(&self) {
        let now = clock::now();
        let mine = {
            let mut next = self.next.lock();
            let mine = next.map_or(now, |next| next.max(now));
            *next = Some(mine + self.interval);
            mine
        };
        tokio::time::sleep_until(mine).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn turns_are_evenly_spaced_and_the_first_is_at_once() {
        let pace = Pace::every(Duration::from_millis(50));
        let started = clock::now();
        let mut turns = Vec::new();
        for _ in 0..3 {
            pace.turn().await;
            turns.push((clock::now() - started).as_millis());
        }
        assert_eq!(turns, [0, 50, 100]);
        tokio::time::sleep(Duration::from_secs(5)).await;
        let idle = clock::now();
        pace.turn().await;
        assert_eq!(clock::now(), idle, "an idle pace owes nobody a wait");
    }
}
