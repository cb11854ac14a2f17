//! One loop for whatever follows each of the configured servers.

use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::Instant;

use super::link::Link;
use super::server::Server;

/// Follows every server from when it is configured; `follow` ends when the server has left. Returns when the link has
/// gone.
pub(super) async fn each_server<F: Future<Output = ()>>(link: &Link, follow: impl Fn(Arc<Server>) -> F) {
    let mut server_sets = link.server_sets();
    let mut known: Vec<Arc<Server>> = Vec::new();
    let mut followed = FuturesUnordered::new();
    loop {
        let set = Arc::clone(&server_sets.borrow_and_update());
        known.retain(|server| !server.left().is_cancelled());
        for server in &set.servers {
            if !known.iter().any(|known| Arc::ptr_eq(known, server)) {
                known.push(Arc::clone(server));
                followed.push(follow(Arc::clone(server)));
            }
        }
        tokio::select! {
            changed = server_sets.changed() => if changed.is_err() { return },
            Some(()) = followed.next() => {}
        }
    }
}

/// Resolves at this moment; never, if there is none.
pub(super) async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
