//! What a request knows of the connection that it came on: when that has to end, and that it lasts as long as what was
//! upgraded from it.
//!
//! A connection ends when the process stops or when the outage is over that its expired certificate was good for. Then its
//! watches end cleanly at once, so that clients ask again on another connection; short requests and upgraded
//! connections have until the end of the drain. When its certificate is withdrawn, all of it is cut.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The tie between a connection and what came on it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tether {
    leaving: CancellationToken,
    cut: CancellationToken,
    tunnels: TaskTracker,
}

impl Tether {
    /// Of a connection that leaves when `stopping` is cancelled, or earlier.
    pub fn new(stopping: &CancellationToken) -> Self {
        Self {
            leaving: stopping.child_token(),
            ..Self::default()
        }
    }

    /// Watches are to end now.
    pub fn leave(&self) {
        self.leaving.cancel();
    }

    /// Upgraded connections are to end now.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits for the end of every upgraded connection; none may begin after that.
    pub async fn tunnels_ended(&self) {
        self.tunnels.close();
        self.tunnels.wait().await;
    }

    /// Cancelled when watches are to end.
    pub(super) fn leaving(&self) -> &CancellationToken {
        &self.leaving
    }

    /// An upgraded connection: counted from now on, ended early by [`Tether::cut`].
    pub(super) fn tunnel<F: Future<Output = ()>>(&self, copying: F) -> impl Future<Output = ()> + use<F> {
        let (counted, cut) = (self.tunnels.token(), self.cut.clone());
        async move {
            tokio::select! {
                () = copying => {}
                () = cut.cancelled() => tracing::debug!("an upgraded connection was cut"),
            }
            drop(counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_tunnel_counts_from_its_beginning_until_it_ends_or_is_cut() {
        let tether = Tether::default();
        let short = tether.tunnel(async {});
        let endless = tether.tunnel(std::future::pending());
        let mut ended = std::pin::pin!(tether.tunnels_ended());
        assert!(futures_util::poll!(ended.as_mut()).is_pending());
        short.await;
        tether.leave();
        assert!(
            futures_util::poll!(ended.as_mut()).is_pending(),
            "it has time until the cut"
        );
        tether.cut();
        endless.await;
        ended.await;
    }

    #[test]
    fn a_stop_reaches_every_connection_and_one_that_leaves_no_other() {
        let stopping = CancellationToken::new();
        let (one, other) = (Tether::new(&stopping), Tether::new(&stopping));
        one.leave();
        assert!(one.leaving().is_cancelled() && !other.leaving().is_cancelled());
        stopping.cancel();
        assert!(other.leaving().is_cancelled());
    }
}
