//! The views of this node that have lost their place: who heals each, how often it was listed, and when it
//! may be listed next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::runtime::{clock, jitter};
use crate::store::LogId;

/// Lists at a time, over all views.
const AT_ONCE: usize = 4;

/// Lists at a time for the views of one principal.
const AT_ONCE_FOR_ONE: usize = 2;

/// The pause between two lists of one view, doubled each time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A view that was not listed for so long starts over.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// All healings of this node.
pub(in super::super) struct Healings {
    views: Mutex<HashMap<LogId, Arc<View>>>,
    principals: Mutex<HashMap<String, Arc<Semaphore>>>,
    pub(super) all: Arc<Semaphore>,
}

/// Locked by the task that heals the view.
pub(super) type View = tokio::sync::Mutex<Attempts>;

/// The lists that were sent for a view.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    in_a_row: u32,
    last: Option<Instant>,
    /// No list before this.
    pub(super) next: Option<Instant>,
}

/// What came of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Outcome {
    /// The view follows its clients again.
    Whole,
    /// The list could not be kept, or came too late to close the gap.
    Unkept,
    /// Upstream refuses it to this client.
    Refused,
    /// There was no good answer; upstream may say how long there will be none.
    Failed(Duration),
}

impl Outcome {
    /// A short name for logs and metrics.
    pub(in super::super) fn as_str(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Unkept => "unkept",
            Self::Refused => "refused",
            Self::Failed(_) => "failed",
        }
    }
}

impl Healings {
    pub(in super::super) fn new() -> Self {
        Self {
            views: Mutex::default(),
            principals: Mutex::default(),
            all: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    pub(super) fn view(&self, id: &LogId) -> Arc<View> {
        let (mut views, now) = (self.views.lock(), clock::now());
        // Nobody can get hold of another reference while this is locked.
        views.retain(|_, view| Arc::get_mut(view).is_none_or(|view| !view.get_mut().are_forgotten(now)));
        Arc::clone(views.entry(id.clone()).or_default())
    }

    pub(super) fn principal(&self, owner: &str) -> Arc<Semaphore> {
        let mut principals = self.principals.lock();
        principals.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let semaphore = principals
            .entry(owner.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE_FOR_ONE)));
        Arc::clone(semaphore)
    }
}

impl Attempts {
    fn are_forgotten(&self, now: Instant) -> bool {
        let forgotten = |last| now.saturating_duration_since(last) >= FORGOTTEN;
        self.last.is_none_or(forgotten)
    }

    /// Counts a list, successful or not: a view that is lost again and again, because the cache has no room
    /// for it, must not be listed again and again.
    pub(super) fn ended(&mut self, began: Instant, outcome: Outcome) {
        if self.are_forgotten(began) {
            self.in_a_row = 0;
        }
        let doubled = 1_u32.checked_shl(self.in_a_row).unwrap_or(u32::MAX);
        let pause = match outcome {
            Outcome::Refused => LONGEST_PAUSE,
            Outcome::Failed(asked) => SHORTEST_PAUSE
                .saturating_mul(doubled)
                .min(LONGEST_PAUSE)
                .max(asked),
            Outcome::Whole | Outcome::Unkept => SHORTEST_PAUSE.saturating_mul(doubled).min(LONGEST_PAUSE),
        };
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.last = Some(began);
        self.next = Some(clock::now() + pause + jitter::below(pause / 4));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_pauses_between_the_lists_of_a_view_double_and_are_forgotten() {
        let mut attempts = Attempts::default();
        let mut pause = |outcome, after| {
            let now = clock::now();
            attempts.ended(now + after, outcome);
            attempts.next.unwrap() - now
        };
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let took = pause(Outcome::Unkept, Duration::ZERO);
            let least = Duration::from_secs(seconds);
            assert!((least..=least * 5 / 4).contains(&took), "{took:?} for {least:?}");
        }
        assert!(pause(Outcome::Whole, FORGOTTEN) < SHORTEST_PAUSE * 2);
        assert!(pause(Outcome::Refused, FORGOTTEN) >= LONGEST_PAUSE);
        let asked = Duration::from_secs(77);
        assert!(pause(Outcome::Failed(asked), FORGOTTEN * 2) >= asked);
    }

    #[tokio::test(start_paused = true)]
    async fn a_view_is_known_while_somebody_heals_it_or_did_of_late() {
        let healings = Healings::new();
        let [one, other] = ["one", "other"].map(|name| LogId::new("cn:x", name));
        let view = healings.view(&one);
        let locked = view.lock().await;
        healings.view(&other);
        assert!(healings.view(&one).try_lock().is_err(), "once for each view");
        drop(locked);
        view.lock().await.ended(clock::now(), Outcome::Whole);
        drop(view);
        healings.view(&other);
        assert!(healings.view(&one).lock().await.next.is_some());
        tokio::time::advance(FORGOTTEN).await;
        healings.view(&other);
        assert!(healings.views.lock().get(&one).is_none());
    }
}
