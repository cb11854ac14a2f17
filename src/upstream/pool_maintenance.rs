//! What is done with connections beside requests: those of a server that went away are forgotten, streams return to the
//! server of choice when it has been good for a while, and what nobody uses is closed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::runtime::clock;
use crate::runtime::tasks::Tasks;

use super::link_state::LinkState;
use super::transport::{Transport, Transports};

/// Between two looks for connections that nobody uses.
const TIDY_INTERVAL: Duration = Duration::from_secs(10);

/// How long every transport's server of choice must have been without a change, in probe intervals, before streams that
/// are elsewhere move to it.
const SETTLED_AFTER: u32 = 1;

/// Looks after the connections of all transports for as long as `tasks` runs.
pub fn spawn(transports: &Transports, tasks: &Tasks) {
    let link = transports.link().clone();
    let transports: Vec<Arc<Transport>> = transports.iter().map(Arc::clone).collect();
    tasks.spawn_critical("pool-maintenance", async move {
        let mut changes = link.status_changes();
        let mut tidy_at = clock::now() + TIDY_INTERVAL;
        let mut settle_at: Option<Instant> = None;
        loop {
            let wake = settle_at.map_or(tidy_at, |at| at.min(tidy_at));
            tokio::select! {
                () = tokio::time::sleep_until(wake) => {}
                changed = changes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    transports.iter().for_each(|transport| leave_lost(transport));
                    settle_at = Some(clock::now() + link.server_set().settings.probe.interval * SETTLED_AFTER);
                }
            }
            let now = clock::now();
            if settle_at.is_some_and(|at| at <= now) {
                settle_at = None;
                transports.iter().for_each(|transport| settle(transport));
            }
            if tidy_at <= now {
                tidy_at = now + TIDY_INTERVAL;
                for transport in &transports {
                    for member in transport.members().iter() {
                        member.pool.close_idle();
                    }
                }
            }
        }
    });
}

/// Connections to a server that is away may be dead without knowing it. If another one is there, the streams on them
/// move to it; if not, what is under way on them goes on.
fn leave_lost(transport: &Transport) {
    let members = transport.members();
    let elsewhere = members
        .iter()
        .any(|member| member.server.status().state == LinkState::Online);
    for member in members.iter().filter(|member| member.server.is_away()) {
        if elsewhere {
            member.pool.drain();
        } else {
            member.pool.forget_connections();
        }
    }
}

/// Streams that are not on the server of choice move there. Each one asks for its turn before it is opened again.
fn settle(transport: &Transport) {
    let Some(choice) = transport.first_choice() else {
        return;
    };
    for member in transport.members().iter() {
        if !Arc::ptr_eq(&member.server, &choice) {
            member.pool.drain();
        }
    }
}
