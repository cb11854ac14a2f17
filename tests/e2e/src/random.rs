//! Numbers that differ from run to run and can be had again: `E2E_SEED` repeats a printed seed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A small generator (xorshift).
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// From `E2E_SEED`, else from the clock.
    pub(crate) fn seeded() -> (Self, u64) {
        let given = std::env::var("E2E_SEED").ok().and_then(|text| text.parse().ok());
        let seed = given.unwrap_or_else(|| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::from(now.subsec_nanos()) | 1
        });
        (Self(seed.max(1)), seed)
    }

    /// Below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Up to so many seconds.
    pub(crate) fn seconds(&mut self, bound: u64) -> Duration {
        Duration::from_millis(self.below(bound * 1000))
    }

    /// Up to so many seconds, a fifth of it on average.
    pub(crate) fn mostly_short(&mut self, bound: u64) -> Duration {
        let part = self.below(1000);
        Duration::from_millis(bound * part.pow(4) / 1_000_000_000)
    }
}
