//! The driver of [`uplink`](super::uplink): tries better interfaces beside the one in use, and has the connections over
//! others end when the choice moves.

use std::sync::Arc;

use crate::runtime::tasks::Tasks;

use super::link::Link;
use super::probe::Scout;
use super::server::Server;
use super::supervisor;
use super::transport::{Transport, Transports};
use super::uplink::Seen;

/// Follows the choice of every configured server for as long as it is configured.
pub fn spawn(transports: &Transports, tasks: &Tasks) {
    let link = transports.link().clone();
    let scout = Scout::new(transports);
    let all: Vec<Arc<Transport>> = transports.iter().map(Arc::clone).collect();
    tasks.spawn_critical("uplinks", async move {
        let follow = |server| follow(server, &link, &scout, &all);
        supervisor::each_server(&link, follow).await;
    });
}

async fn follow(server: Arc<Server>, link: &Link, scout: &Scout, all: &[Arc<Transport>]) {
    let mut choices = server.uplinks();
    let mut used = choices.borrow_and_update().current();
    loop {
        let choice = choices.borrow_and_update().clone();
        if choice.current() != used {
            used = choice.current();
            leave_others(&server, used, all);
        }
        tokio::select! {
            () = supervisor::at(choice.due()) => {}
            _ = choices.changed() => continue,
            () = server.left().cancelled() => return,
        }
        let timeout = link.server_set().settings.probe.timeout;
        let mut seen = Seen::Bad;
        for better in 0..choice.current() {
            let asked = tokio::time::timeout(timeout, scout.ask_over(&server, better)).await;
            if asked == Ok(true) {
                seen = Seen::Good(better);
                break;
            }
        }
        tracing::debug!(%server, ?seen, "tried the better interfaces");
        server.uplink(seen);
    }
}

/// What goes over another interface moves to the one that is used now.
fn leave_others(server: &Arc<Server>, used: usize, all: &[Arc<Transport>]) {
    for transport in all {
        let members = transport.members();
        for member in members
            .iter()
            .filter(|member| Arc::ptr_eq(&member.server, server))
        {
            member.pool.leave(|path| path.uplink != used);
        }
    }
}
