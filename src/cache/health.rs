//! Whether a view follows what its clients watch, and when it was last known to be current.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::view::machine::Condition;

/// How a view is, published by the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Health {
    pub(super) condition: Condition,
    /// How often it has begun not to follow.
    pub(super) losses: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            condition: Condition::Followed,
            losses: 0,
        }
    }
}

impl Health {
    /// Whether the view does not follow what its clients watch.
    pub(super) fn is_behind(&self) -> bool {
        self.condition != Condition::Followed
    }

    /// Takes the condition now; whether that is another.
    pub(super) fn update(&mut self, now: Condition) -> bool {
        let was = std::mem::replace(&mut self.condition, now);
        self.losses += u64::from(was == Condition::Followed && now != Condition::Followed);
        was != now
    }
}

/// When a view was last known to be current: known in this process, and kept while the view is closed.
#[derive(Debug, Clone, Default)]
pub(super) struct Validated(Arc<AtomicU64>);

impl Validated {
    pub(super) fn set(&self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
        self.0.store(nanos, Ordering::Relaxed);
    }

    pub(super) fn at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}
