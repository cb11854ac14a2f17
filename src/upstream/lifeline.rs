//! The end of a connection on which nobody can be asked whether he is there: one that is about to be upgraded.
//!
//! TCP's keep-alive ends it when nothing is under way, and TCP's own patience, a quarter of an hour, when something is. A
//! server that is known to be away needs neither.

use std::sync::Arc;
use std::time::Duration;

use crate::runtime::shares::Share;

use super::activity::ConnectionActivity;
use super::link_state::LinkState;
use super::server::Server;
use super::settings::KeepAlive;

/// In the extensions of an answer that came on a connection of its own.
#[derive(Debug, Clone)]
pub struct Lifeline {
    server: Arc<Server>,
    activity: Arc<ConnectionActivity>,
    /// Without a byte, before a connection is doubted.
    doubtful: Duration,
    /// What it takes of the connections that callers share.
    _share: Option<Arc<Share>>,
}

impl Lifeline {
    pub(super) fn new(
        server: &Arc<Server>,
        activity: Arc<ConnectionActivity>,
        keep_alive: KeepAlive,
    ) -> Self {
        Self {
            server: Arc::clone(server),
            activity,
            doubtful: keep_alive.interval + keep_alive.timeout,
            _share: None,
        }
    }

    /// Gives this back when the connection has ended.
    pub(super) fn holding(self, share: Option<Arc<Share>>) -> Self {
        Self {
            _share: share,
            ..self
        }
    }

    /// Resolves when the server is known to be away and nothing arrives here any more.
    pub async fn lost(&self) {
        let mut changes = self.server.status_changes();
        loop {
            // What it gives is a lock on the status: not to be held.
            drop(
                changes
                    .wait_for(|status| status.state == LinkState::Offline)
                    .await,
            );
            let heard = self.activity.heard();
            tokio::time::sleep_until(heard + self.doubtful).await;
            if self.server.is_away() && self.activity.heard() <= heard {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::Event;
    use super::super::link::Link;
    use super::super::metrics::UpstreamMetrics;
    use super::super::testing;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_lost_when_its_server_is_away_and_it_is_silent() {
        let link = Link::new(testing::settings(&["cloud"]), UpstreamMetrics::default());
        let server = Arc::clone(link.server_set().servers.first().unwrap());
        let activity = ConnectionActivity::new(server.activity());
        let lifeline = Lifeline::new(&server, Arc::clone(&activity), KeepAlive::default());
        let mut lost = std::pin::pin!(lifeline.lost());
        let long = lifeline.doubtful * 100;
        assert!(
            tokio::time::timeout(long, lost.as_mut()).await.is_err(),
            "an idle shell"
        );
        activity.beat();
        server.signal(Event::ProbeFailed);
        let short = lifeline.doubtful / 2;
        assert!(
            tokio::time::timeout(short, lost.as_mut()).await.is_err(),
            "it was heard"
        );
        activity.beat();
        assert!(
            tokio::time::timeout(short, lost.as_mut()).await.is_err(),
            "and again"
        );
        server.signal(Event::ProbeSucceeded);
        assert!(
            tokio::time::timeout(long, lost.as_mut()).await.is_err(),
            "it is back"
        );
        server.signal(Event::ProbeFailed);
        lost.await;
    }
}
