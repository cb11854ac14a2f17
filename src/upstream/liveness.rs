//! When a connection on which nothing arrives any more is doubted, and when it is given up.
//!
//! hyper sends a PING after `keepAlive.interval` without a byte. If nothing arrives for `keepAlive.timeout` more, the
//! server is suspected and probed at once. The connection stays: on a bad link the acknowledgement may only be late,
//! and to start over would make it worse. What becomes of it, [`verdict`] says:
//!
//! * The server is away: it is given up.
//! * A probe got through quickly, so that the link is good and it is not. If the first one that got through was slow, there is
//!   one more: the first may have begun when nothing did. Watches can be resumed: it is given up. Answers
//!   cannot, and TCP may only be waiting to send again: they stay, and everything else goes elsewhere. That others get
//!   through slowly proves nothing: on a narrow link they are what it waits for.
//! * It was silent for [`LONGEST_FOR_WATCHES`] or [`LONGEST_FOR_ANSWERS`] times as long as makes it doubtful: it is given
//!   up. On a link of 64 kbit/s TCP left a small answer lying for 12 s and would next have waited for twice that
//!   (measured).

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::clock;

use super::activity::ConnectionActivity;
use super::failure::Failure;
use super::server::Server;
use super::settings::KeepAlive;

/// A connection of watches is kept for so many times as long as makes it doubtful.
const LONGEST_FOR_WATCHES: u32 = 4;

/// One with answers on it for so many times: by default 45 s, as client-go's own health check of a connection.
const LONGEST_FOR_ANSWERS: u32 = 10;

/// How often a doubted connection is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What is known of a doubted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Evidence {
    carries: Carries,
    /// For how long nothing has arrived.
    silent: Duration,
    /// Without a byte, before a connection is doubted.
    doubtful: Duration,
    /// What is known of its server.
    server: Around,
}

/// What is on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Carries {
    /// Only watches: they are held and resumed when it breaks.
    Watches,
    /// Answers that cannot be resumed.
    Answers,
}

/// What other connections to the same server say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Around {
    /// Nothing that counts.
    Nothing,
    /// A new one was answered as on a good link, since this one is doubted.
    Quick,
    /// It is away.
    Away,
}

/// What becomes of a doubted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Not known yet.
    Doubted,
    /// It gets nothing new.
    Overtaken,
    /// It is given up.
    Dead,
}

fn verdict(evidence: Evidence) -> Verdict {
    match (evidence.server, evidence.carries) {
        (Around::Away, _) | (Around::Quick, Carries::Watches) => Verdict::Dead,
        _ if evidence.silent >= evidence.doubtful * evidence.carries.longest() => Verdict::Dead,
        (Around::Quick, Carries::Answers) => Verdict::Overtaken,
        (Around::Nothing, _) => Verdict::Doubted,
    }
}

impl Carries {
    fn longest(self) -> u32 {
        match self {
            Self::Watches => LONGEST_FOR_WATCHES,
            Self::Answers => LONGEST_FOR_ANSWERS,
        }
    }
}

/// Watches over one connection.
#[derive(Debug)]
pub(super) struct Liveness {
    server: Arc<Server>,
    activity: Arc<ConnectionActivity>,
    keep_alive: KeepAlive,
}

impl Liveness {
    pub(super) fn new(
        server: &Arc<Server>,
        activity: Arc<ConnectionActivity>,
        keep_alive: KeepAlive,
    ) -> Self {
        Self {
            server: Arc::clone(server),
            activity,
            keep_alive,
        }
    }

    pub(super) fn activity(&self) -> &Arc<ConnectionActivity> {
        &self.activity
    }

    /// Without a byte, before a PING is sent.
    pub(super) fn ping_interval(&self) -> Duration {
        self.keep_alive.interval
    }

    /// Without a byte, before the connection is doubted.
    fn doubtful(&self) -> Duration {
        self.keep_alive.interval + self.keep_alive.timeout
    }

    /// Resolves when the connection is given up.
    pub(super) async fn end(self) {
        loop {
            let heard = self.activity.heard();
            tokio::time::sleep_until(heard + self.doubtful()).await;
            if self.activity.heard() > heard {
                continue;
            }
            let doubted = clock::now();
            self.server.failed(Failure::Silent);
            let mut is_asked_again = false;
            while self.activity.heard() <= heard {
                // The time of a probe that was under way while packets disappeared says nothing of how good the link is now.
                // One more does, and is enough.
                let activity = self.server.activity();
                if !is_asked_again && activity.proven_since(doubted) && !activity.quick_since(doubted) {
                    self.server.is_slow();
                    is_asked_again = true;
                }
                match verdict(self.evidence(heard, doubted)) {
                    Verdict::Dead => return,
                    Verdict::Overtaken => self.activity.overtaken().cancel(),
                    Verdict::Doubted => {}
                }
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    fn evidence(&self, heard: Instant, doubted: Instant) -> Evidence {
        Evidence {
            carries: if self.activity.is_resumable() {
                Carries::Watches
            } else {
                Carries::Answers
            },
            silent: clock::now().saturating_duration_since(heard),
            doubtful: self.doubtful(),
            server: if self.server.is_away() {
                Around::Away
            } else if self.server.activity().quick_since(doubted) {
                Around::Quick
            } else {
                Around::Nothing
            },
        }
    }
}

#[cfg(test)]
mod tests;
