//! When a connection on which nothing arrives any more is doubted, and when it is given up.
//!
//! hyper sends a PING after `keepAlive.interval` without a byte. If nothing arrives for `keepAlive.timeout` more, the
//! server is suspected and probed at once. The connection stays: on a bad link the acknowledgement may only be late,
//! and to begin anew would make it worse. It is given up when a probe gets through quickly, so that the link is good and it
//! is not, when the server is away, or when it has been silent for [`LONGEST`] times as long. That others get through
//! slowly proves nothing: on a narrow link they are what it waits for. And where answers are under way, not only watches that
//! can be resumed, a quick probe proves too little to break them: TCP may only be waiting to send again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::clock;

use super::error::Failure;
use super::pulse::Pulse;
use super::server::Server;
use super::settings::KeepAlive;

/// No connection is kept that was silent for so many times as long as makes it doubtful.
const LONGEST: u32 = 4;

/// How often a doubted connection is looked at.
const LOOK: Duration = Duration::from_millis(100);

/// What becomes of a doubted connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Something arrived.
    Alive,
    /// Not known yet.
    Doubted,
    /// It is given up.
    Dead,
}

/// The silence of one connection.
#[derive(Debug)]
pub(super) struct Silence {
    server: Arc<Server>,
    pulse: Arc<Pulse>,
    keep_alive: KeepAlive,
}

impl Silence {
    pub(super) fn new(server: &Arc<Server>, pulse: Arc<Pulse>, keep_alive: KeepAlive) -> Self {
        Self {
            server: Arc::clone(server),
            pulse,
            keep_alive,
        }
    }

    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Without a byte, before a PING is sent.
    pub(super) fn ping_interval(&self) -> Duration {
        self.keep_alive.interval
    }

    /// Without a byte, before the connection is doubted.
    fn doubtful(&self) -> Duration {
        self.keep_alive.interval + self.keep_alive.timeout
    }

    /// Without a byte, before the connection is given up whatever is known of the server.
    pub(super) fn longest(&self) -> Duration {
        self.doubtful() * LONGEST
    }

    /// Resolves when the connection is given up.
    pub(super) async fn end(self) {
        loop {
            let heard = self.pulse.heard();
            tokio::time::sleep_until(heard + self.doubtful()).await;
            if self.pulse.heard() > heard {
                continue;
            }
            let doubted = clock::now();
            self.server.failed(Failure::Silent);
            loop {
                match self.verdict(heard, doubted) {
                    Verdict::Alive => break,
                    Verdict::Dead => return,
                    Verdict::Doubted => tokio::time::sleep(LOOK).await,
                }
            }
        }
    }

    fn verdict(&self, heard: Instant, doubted: Instant) -> Verdict {
        if self.pulse.heard() > heard {
            Verdict::Alive
        } else if self.server.is_away()
            || (self.pulse.is_resumable() && self.server.vitals().quick_since(doubted))
            || clock::now() >= heard + self.longest()
        {
            Verdict::Dead
        } else {
            Verdict::Doubted
        }
    }
}

#[cfg(test)]
mod tests;
