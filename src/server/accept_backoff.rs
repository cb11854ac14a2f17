//! Accepting fails (file descriptors, memory): said once when it begins and once when it is over. Pure.

use std::time::Duration;

use tokio::time::Instant;

/// After so long without a failure it is over.
const CALM: Duration = Duration::from_secs(5);

/// Whether accepting fails at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcceptBackoff {
    /// It does not.
    None,
    /// It failed last at this time.
    Since(Instant),
}

/// What to tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Nothing,
    Begun,
    Over,
}

impl AcceptBackoff {
    /// Accepting failed.
    pub(super) fn failed(self, now: Instant) -> (Self, News) {
        let news = match self {
            Self::None => News::Begun,
            Self::Since(_) => News::Nothing,
        };
        (Self::Since(now), news)
    }

    /// A connection was accepted.
    pub(super) fn accepted(self, now: Instant) -> (Self, News) {
        match self {
            // One that comes in between two failures is no recovery.
            Self::Since(last) if now.duration_since(last) >= CALM => (Self::None, News::Over),
            state => (state, News::Nothing),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    #[tokio::test(start_paused = true)]
    async fn it_is_told_once_and_again_only_after_it_was_over() {
        let begun = clock::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut state = AcceptBackoff::None;
        let mut told = Vec::new();
        for (seconds, fails) in [
            (0, false),
            (1, true),
            (2, true),
            (3, false),
            (4, true),
            (8, false),
            (9, false),
            (10, false),
            (11, true),
        ] {
            let (next, news) = if fails {
                state.failed(at(seconds))
            } else {
                state.accepted(at(seconds))
            };
            state = next;
            if news != News::Nothing {
                told.push((seconds, news));
            }
        }
        assert_eq!(told, [(1, News::Begun), (9, News::Over), (11, News::Begun)]);
    }
}
