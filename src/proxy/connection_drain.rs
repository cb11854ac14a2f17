//! How a client connection is drained: its requests learn when it has to end, and it lasts as long as
//! whatever was upgraded from it.
//!
//! A connection is drained when the process stops, or when its certificate has expired and the outage is over
//! that let it stay. Its watches then end cleanly at once, so that clients ask again on another connection;
//! short requests and upgraded connections have until the drain timeout. When its certificate is withdrawn,
//! everything on it is cut.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shared by a connection and everything that came on it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ConnectionDrain {
    started: CancellationToken,
    cut: CancellationToken,
    tunnels: TaskTracker,
}

impl ConnectionDrain {
    /// Starts when `stopping` is cancelled, if not earlier.
    pub fn new(stopping: &CancellationToken) -> Self {
        Self {
            started: stopping.child_token(),
            ..Self::default()
        }
    }

    /// Ends the watches now.
    pub fn start(&self) {
        self.started.cancel();
    }

    /// Ends the upgraded connections now.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Waits for the end of every upgraded connection; none may begin after that.
    pub async fn tunnels_ended(&self) {
        self.tunnels.close();
        self.tunnels.wait().await;
    }

    /// Cancelled when watches have to end.
    pub(super) fn started(&self) -> &CancellationToken {
        &self.started
    }

    /// An upgraded connection: counted from now on, ended early by [`ConnectionDrain::cut`].
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
        let drain = ConnectionDrain::default();
        let short = drain.tunnel(async {});
        let endless = drain.tunnel(std::future::pending());
        let mut ended = std::pin::pin!(drain.tunnels_ended());
        assert!(futures_util::poll!(ended.as_mut()).is_pending());
        short.await;
        drain.start();
        assert!(
            futures_util::poll!(ended.as_mut()).is_pending(),
            "it has time until the cut"
        );
        drain.cut();
        endless.await;
        ended.await;
    }

    #[test]
    fn a_stop_drains_every_connection_and_one_that_drains_leaves_the_others() {
        let stopping = CancellationToken::new();
        let (one, other) = (ConnectionDrain::new(&stopping), ConnectionDrain::new(&stopping));
        one.start();
        assert!(one.started().is_cancelled() && !other.started().is_cancelled());
        stopping.cancel();
        assert!(other.started().is_cancelled());
    }
}
