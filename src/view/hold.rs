//! One held watch: an open stream with nothing to say (wire contract 5.7).
//!
//! Decides when it sends a bookmark and when it ends; the driver owns stream and clock. All times are since the
//! request was accepted. A bookmark never says more than the client knows, and the stream never ends within its
//! first second unless something was sent on it: client-go would list again.

use std::time::Duration;

use crate::kube::version::ResourceVersion;

/// The last bookmark comes this long before the end, as upstream's does.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);

/// A silent stream that is shorter than this counts as a failure with client-go (`VeryShortWatch`).
const SHORTEST: Duration = Duration::from_secs(1);

/// Whether the client asked for bookmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bookmarks {
    /// `allowWatchBookmarks` was not set.
    Never,
    /// Every so often: about 60 s, jittered by the caller.
    Every(Duration),
}

/// A held watch.
#[derive(Debug, Clone)]
pub struct Hold {
    known: Option<ResourceVersion>,
    sent: bool,
    end: Duration,
    bookmarks: Bookmarks,
    /// When the next periodic bookmark is due.
    next: Duration,
    last_done: bool,
}

/// What happens to a held watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldEvent {
    /// Time has passed.
    Tick,
    /// An event or bookmark was written to the client.
    Sent,
    /// The stream cannot or should not go on: end it as soon as that is harmless.
    End,
}

/// What the driver does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HoldAction {
    /// Nothing before this time.
    WaitUntil(Duration),
    /// Write a BOOKMARK at this version, then ask again.
    Bookmark(ResourceVersion),
    /// End the stream cleanly.
    End,
}

/// No watch is held for longer, whatever its client asks for: a moment that much later can still be told.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// How long a watch is held: `timeoutSeconds` where it is set, else `default` (the caller's choice in 1800..3600 s).
pub fn timeout(timeout_seconds: Option<i64>, default: Duration) -> Duration {
    match timeout_seconds {
        None | Some(0) => default,
        Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(LONGEST),
    }
}

impl Hold {
    /// A watch whose client knows `known`. `now` is not 0 where the stream was live before the link died.
    pub fn new(
        known: Option<ResourceVersion>,
        bookmarks: Bookmarks,
        timeout: Duration,
        now: Duration,
    ) -> Self {
        let next = match bookmarks {
            Bookmarks::Every(interval) => now.saturating_add(interval),
            Bookmarks::Never => Duration::MAX,
        };
        Self {
            known,
            sent: false,
            end: timeout,
            bookmarks,
            next,
            last_done: false,
        }
    }

    /// Where the client stands: upstream is resumed from here when the link returns.
    pub fn known(&self) -> Option<&ResourceVersion> {
        self.known.as_ref()
    }

    /// Takes one event to what is to be done at `now`.
    pub fn step(&mut self, event: HoldEvent, now: Duration) -> HoldAction {
        match event {
            HoldEvent::Tick => {}
            HoldEvent::Sent => self.sent = true,
            HoldEvent::End => self.end = self.end.min(now),
        }
        if let Some(bookmark) = self.bookmark(now) {
            return HoldAction::Bookmark(bookmark);
        }
        let end = self.ends_at();
        if now >= end {
            return HoldAction::End;
        }
        HoldAction::WaitUntil(end.min(self.bookmark_due().unwrap_or(end)))
    }

    fn bookmark(&mut self, now: Duration) -> Option<ResourceVersion> {
        let Bookmarks::Every(interval) = self.bookmarks else {
            return None;
        };
        if now < self.bookmark_due()? {
            return None;
        }
        self.last_done |= now >= self.last_bookmark();
        self.next = now.saturating_add(interval.max(SHORTEST));
        self.sent = true;
        self.known.clone()
    }

    /// When the next bookmark is due, if there is to be one.
    fn bookmark_due(&self) -> Option<Duration> {
        let asked = matches!(self.bookmarks, Bookmarks::Every(_)) && self.known.is_some();
        (asked && !self.last_done).then(|| self.next.min(self.last_bookmark()))
    }

    fn last_bookmark(&self) -> Duration {
        self.end.saturating_sub(LAST_BOOKMARK)
    }

    fn ends_at(&self) -> Duration {
        if self.sent {
            self.end
        } else {
            self.end.max(SHORTEST)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rv(text: &str) -> ResourceVersion {
        ResourceVersion::new(text).unwrap()
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn hold(known: &str, bookmarks: Bookmarks, timeout: u64) -> Hold {
        Hold::new(ResourceVersion::new(known), bookmarks, s(timeout), s(0))
    }

    /// Runs a hold to its end: every bookmark and the end, with their times in seconds.
    fn life(mut hold: Hold) -> Vec<(u64, String)> {
        let mut now = s(0);
        let mut seen = Vec::new();
        loop {
            match hold.step(HoldEvent::Tick, now) {
                HoldAction::WaitUntil(next) => {
                    assert!(next > now);
                    now = next;
                }
                HoldAction::Bookmark(version) => seen.push((now.as_secs(), version.to_string())),
                HoldAction::End => {
                    seen.push((now.as_secs(), "end".to_owned()));
                    return seen;
                }
            }
        }
    }

    fn line(at: u64, what: &str) -> (u64, String) {
        (at, what.to_owned())
    }

    #[test]
    fn row_16_a_short_watch_gets_its_bookmark_at_once_and_ends_on_time() {
        let seen = life(hold("20", Bookmarks::Every(s(60)), 2));
        assert_eq!(seen, [line(0, "20"), line(2, "end")]);
    }

    #[test]
    fn row_17_bookmarks_say_what_the_client_knows() {
        let seen = life(hold("25", Bookmarks::Every(s(60)), 150));
        assert_eq!(
            seen,
            [line(60, "25"), line(120, "25"), line(148, "25"), line(150, "end")]
        );
    }

    #[test]
    fn without_allow_watch_bookmarks_there_are_none() {
        assert_eq!(life(hold("20", Bookmarks::Never, 300)), [line(300, "end")]);
    }

    #[test]
    fn a_client_whose_position_is_unknown_gets_none() {
        assert_eq!(life(hold("", Bookmarks::Every(s(60)), 300)), [line(300, "end")]);
    }

    #[test]
    fn a_silent_stream_lives_for_a_second() {
        let end = |hold: &mut Hold, ms| hold.step(HoldEvent::End, Duration::from_millis(ms));
        assert_eq!(life(hold("20", Bookmarks::Never, 0)), [line(1, "end")]);
        let mut silent = hold("20", Bookmarks::Never, 300);
        assert_eq!(end(&mut silent, 200), HoldAction::WaitUntil(s(1)));
        assert_eq!(end(&mut silent, 1000), HoldAction::End);
        let mut spoken = hold("20", Bookmarks::Never, 300);
        spoken.step(HoldEvent::Sent, s(0));
        assert_eq!(end(&mut spoken, 200), HoldAction::End);
    }

    #[test]
    fn an_ordered_end_says_where_the_client_stands_first() {
        let mut hold = hold("20", Bookmarks::Every(s(60)), 300);
        assert_eq!(hold.step(HoldEvent::End, s(0)), HoldAction::Bookmark(rv("20")));
        assert_eq!(hold.step(HoldEvent::Tick, s(0)), HoldAction::End);
    }

    #[test]
    fn a_timeout_of_zero_is_the_default() {
        assert_eq!(timeout(None, s(1800)), s(1800));
        assert_eq!(timeout(Some(0), s(1800)), s(1800));
        assert_eq!(timeout(Some(2), s(1800)), s(2));
        assert_eq!(timeout(Some(-5), s(1800)), s(0));
    }
}
