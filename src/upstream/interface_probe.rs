//! The driver of [`interface_selection`](super::interface_selection): probes better interfaces beside the one in use,
//! and has the connections over others end when the selection moves.

use std::sync::Arc;

use crate::runtime::tasks::Tasks;

use super::interface_selection::Seen;
use super::link::Link;
use super::probe::InterfaceProber;
use super::server::Server;
use super::supervisor;
use super::transport::{Transport, Transports};

/// Follows the selection of every configured server for as long as it is configured.
pub fn spawn(transports: &Transports, tasks: &Tasks) {
    let link = transports.link().clone();
    let prober = InterfaceProber::new(transports);
    let all: Vec<Arc<Transport>> = transports.iter().map(Arc::clone).collect();
    tasks.spawn_critical("interface-probe", async move {
        let follow = |server| follow(server, &link, &prober, &all);
        supervisor::each_server(&link, follow).await;
    });
}

async fn follow(server: Arc<Server>, link: &Link, prober: &InterfaceProber, all: &[Arc<Transport>]) {
    let mut selections = server.interface_selections();
    let mut used = selections.borrow_and_update().current();
    loop {
        let selection = selections.borrow_and_update().clone();
        if selection.current() != used {
            used = selection.current();
            leave_others(&server, used, all);
        }
        tokio::select! {
            () = supervisor::at(selection.due()) => {}
            _ = selections.changed() => continue,
            () = server.left().cancelled() => return,
        }
        let timeout = link.server_set().settings.probe.timeout;
        let mut seen = Seen::Bad;
        for better in 0..selection.current() {
            let asked = tokio::time::timeout(timeout, prober.ask_over(&server, better)).await;
            if asked == Ok(true) {
                seen = Seen::Good(better);
                break;
            }
        }
        tracing::debug!(%server, ?seen, "probed the better interfaces");
        server.interface_seen(seen);
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
            member.pool.leave(|path| path.interface != used);
        }
    }
}
