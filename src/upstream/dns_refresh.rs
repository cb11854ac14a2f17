//! Servers given by name: connections to an address that the name does not lead to any more move to one that it does.
//!
//! A name may be answered with some of many addresses, others each time: an address has left only when several looks in
//! a row did not find it. A look that fails says nothing.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::runtime::tasks::Tasks;

use super::happy_eyeballs;
use super::link_state::LinkState;
use super::transport::{Transport, Transports};

/// From one look to the next, in probe intervals.
const LOOK_EVERY: u32 = 6;

/// So many looks in a row without an address, and it has left.
const MISSED: u32 = 3;

/// The resolver's own limits are longer.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Looks after the connections of all transports for as long as `tasks` runs.
pub fn spawn(transports: &Transports, tasks: &Tasks) {
    let link = transports.link().clone();
    let transports: Vec<Arc<Transport>> = transports.iter().map(Arc::clone).collect();
    tasks.spawn_critical("dns-refresh", async move {
        let mut absences: HashMap<(String, u16), Absences> = HashMap::new();
        loop {
            tokio::time::sleep(link.server_set().settings.probe.interval * LOOK_EVERY).await;
            if link.state() != LinkState::Online {
                continue;
            }
            let used = used(&transports);
            absences.retain(|name, _| used.contains_key(name));
            for (name, used) in used {
                let looked = tokio::time::timeout(LOOK_LIMIT, happy_eyeballs::resolve(&name.0, name.1)).await;
                let Ok(Ok(found)) = looked else { continue };
                let gone = absences.entry(name.clone()).or_default().looked(&found, &used);
                if !gone.is_empty() {
                    tracing::info!(
                        host = name.0,
                        ?gone,
                        "a name leads elsewhere: its connections move"
                    );
                    leave(&transports, &name, &gone);
                }
            }
        }
    });
}

/// The names that connections were made to, and the addresses at their other ends.
fn used(transports: &[Arc<Transport>]) -> HashMap<(String, u16), HashSet<SocketAddr>> {
    let mut used: HashMap<_, HashSet<_>> = HashMap::new();
    for member in transports
        .iter()
        .flat_map(|transport| transport.members().to_vec())
    {
        let (host, port) = member.pool.looked_up();
        if host.parse::<IpAddr>().is_err() {
            let addresses = used.entry((host.to_owned(), port)).or_default();
            addresses.extend(member.pool.addresses());
        }
    }
    used
}

fn leave(transports: &[Arc<Transport>], name: &(String, u16), gone: &HashSet<SocketAddr>) {
    for member in transports
        .iter()
        .flat_map(|transport| transport.members().to_vec())
    {
        if member.pool.looked_up() == (name.0.as_str(), name.1) {
            let left = |address: Option<SocketAddr>| address.is_some_and(|address| gone.contains(&address));
            member.pool.leave(|path| left(path.address));
        }
    }
}

/// Which addresses in use were not found, and how often in a row. Pure.
#[derive(Debug, Default)]
struct Absences(HashMap<SocketAddr, u32>);

impl Absences {
    /// The addresses in use that have left.
    fn looked(&mut self, found: &[SocketAddr], used: &HashSet<SocketAddr>) -> HashSet<SocketAddr> {
        if found.is_empty() {
            return HashSet::new();
        }
        self.0 = used
            .iter()
            .filter(|address| !found.contains(address))
            .map(|address| (*address, self.0.get(address).map_or(1, |missed| missed + 1)))
            .collect();
        let gone = self.0.iter().filter(|(_, missed)| **missed >= MISSED);
        gone.map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_left_when_several_looks_in_a_row_did_not_find_it() {
        let address = |n: u8| SocketAddr::from(([10, 0, 0, n], 6443));
        let of = |numbers: &[u8]| numbers.iter().map(|n| address(*n)).collect::<Vec<_>>();
        let used = HashSet::from([address(1), address(2)]);
        let mut absences = Absences::default();
        for (found, gone) in [
            (&[1, 2][..], &[][..]),
            (&[2], &[]),
            (&[2], &[]),
            // Some of many, others each time.
            (&[1], &[]),
            (&[2], &[]),
            // A look that found nothing counts for nothing.
            (&[], &[]),
            (&[2, 3], &[]),
            (&[2, 3], &[1]),
            (&[3], &[1]),
            (&[3], &[1]),
            (&[3], &[1, 2]),
            (&[1, 2], &[]),
        ] {
            let left = absences.looked(&of(found), &used);
            assert_eq!(left, of(gone).into_iter().collect(), "{found:?}");
        }
        assert!(absences.0.is_empty());
    }
}
