//! The connections of one identity to one server for one purpose, and how callers share them.
//!
//! Where the server speaks HTTP/2 few connections carry many streams; where it speaks HTTP/1.1 only, or allows few streams, there
//! are more of them. Either way a caller that shares the lane with others holds no more of it than is left: nobody waits for what lasts,
//! but hears at once that there is no room.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::runtime::clock;
use crate::runtime::shares::{Share, Shares};

use super::connection::{Connection, Gauges, Lease};
use super::dial::Dialer;
use super::error::UpstreamError;
use super::purpose::Purpose;

/// At most so many connections: a node holds some hundred watches, and over HTTP/1.1 each takes one.
pub(super) const MAX_CONNECTIONS: usize = 400;

/// What a connection weighs where it takes no more than one stream.
const HEAVIEST: usize = 8;

/// At most so many streams of the weight 1: over HTTP/2 32 connections of 100, if no callers share the lane.
const CAPACITY: usize = MAX_CONNECTIONS * HEAVIEST;

/// What a stream weighs at least: an answer that its client does not read is held in memory, up to the window of the stream and
/// the buffer of the client's connection, 320 KiB together. 400 requests of a kind, and 800 watches.
const fn lightest(purpose: Purpose) -> usize {
    match purpose {
        Purpose::Short | Purpose::Large => HEAVIEST,
        Purpose::Watch => HEAVIEST / 2,
    }
}

/// So many connections of one request each are made as they are wanted, and more once none has been free for so long.
const FREELY: usize = 32;
const PATIENCE: Duration = Duration::from_secs(2);

/// Connections that are made at once where each carries one request. Where one carries many, one is made at a time, and whoever
/// waits for it uses it.
const DIALS: u32 = 8;

pub(super) struct Lane {
    connections: Mutex<Vec<Arc<Connection>>>,
    /// How many streams the last connection took at once; zero: there has been none.
    each: AtomicUsize,
    purpose: Purpose,
    shares: Shares,
    /// A stream has ended.
    released: Arc<Notify>,
    dialing: Semaphore,
    failure: Mutex<Option<(Instant, UpstreamError)>>,
    gauges: Gauges,
}

impl Lane {
    pub(super) fn new(dialer: &Dialer, purpose: Purpose) -> Self {
        let (metrics, server) = (dialer.metrics(), dialer.server().name());
        let gauges = Gauges {
            connections: metrics.connections(server, purpose),
            streams: metrics.streams(server, purpose),
        };
        Self::with(gauges, purpose)
    }

    fn with(gauges: Gauges, purpose: Purpose) -> Self {
        Self {
            connections: Mutex::default(),
            each: AtomicUsize::new(0),
            purpose,
            shares: Shares::new(CAPACITY),
            released: Arc::default(),
            dialing: Semaphore::new(DIALS as usize),
            failure: Mutex::default(),
            gauges,
        }
    }

    pub(super) fn released(&self) -> &Arc<Notify> {
        &self.released
    }

    pub(super) fn gauges(&self) -> &Gauges {
        &self.gauges
    }

    pub(super) fn connections(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.connections.lock()
    }

    /// A connection has been made; it is kept if others may use it.
    pub(super) fn opened(&self, connection: Arc<Connection>, keep: bool) {
        self.each.store(connection.allows(), Ordering::Relaxed);
        if keep {
            self.connections.lock().push(connection);
        }
    }

    /// What one stream takes of the lane; `None` before there has been a connection.
    pub(super) fn weight(&self) -> Option<usize> {
        let last = self
            .connections
            .lock()
            .last()
            .map(|connection| connection.allows());
        if let Some(allows) = last {
            self.each.store(allows, Ordering::Relaxed);
        }
        let each = self.each.load(Ordering::Relaxed);
        (each > 0).then(|| weight(each).max(lightest(self.purpose)))
    }

    /// The share of one stream; `None` if its holder has no less than is left for all others.
    pub(super) fn take(&self, holder: &str, weight: usize) -> Option<Share> {
        self.shares.try_take(holder, weight)
    }

    /// Whether there are as many connections as there may be.
    pub(super) fn is_full(&self) -> bool {
        let each = self.each.load(Ordering::Relaxed).max(1);
        self.connections.lock().len() >= most_connections(each)
    }

    /// Waits until whoever asks since then may make a connection, for as long as what is returned is held; `None`: things have changed,
    /// one that is there may have room again.
    pub(super) async fn turn(&self, asked: Instant) -> Option<SemaphorePermit<'_>> {
        tokio::select! {
            biased;
            () = self.released.notified() => None,
            turn = self.dial(asked + PATIENCE) => turn,
        }
    }

    async fn dial(&self, patient: Instant) -> Option<SemaphorePermit<'_>> {
        let permits = || if self.carries_one_each() { 1 } else { DIALS };
        loop {
            let wanted = permits();
            // It is never closed.
            let turn = self.dialing.acquire_many(wanted).await.ok();
            // Who waited for the first of all knows now what a stream takes, and that one need not be made after the other.
            if permits() != wanted {
                return None;
            }
            if clock::now() >= patient || !self.has_soon_room() {
                return turn;
            }
            drop(turn);
            tokio::time::sleep_until(patient).await;
        }
    }

    /// Where each carries one request, one of those that are there is soon free, unless they last.
    fn has_soon_room(&self) -> bool {
        let lasts = self.purpose == Purpose::Watch;
        !lasts && self.carries_one_each() && self.connections.lock().len() >= FREELY
    }

    fn carries_one_each(&self) -> bool {
        self.each.load(Ordering::Relaxed) == 1
    }

    /// No connection could be made.
    pub(super) fn failed(&self, error: &UpstreamError) {
        *self.failure.lock() = Some((clock::now(), error.clone()));
    }

    /// Why none could be made, since then.
    pub(super) fn failed_since(&self, moment: Instant) -> Option<UpstreamError> {
        let failure = self.failure.lock();
        let (at, error) = failure.as_ref()?;
        (*at >= moment).then(|| error.clone())
    }

    /// Whether a connection is so new that its peer may still allow more streams.
    pub(super) fn is_settling(&self) -> bool {
        self.connections
            .lock()
            .iter()
            .any(|connection| connection.is_settling())
    }

    /// A stream on the fullest connection that has room, so that the emptier ones can end.
    pub(super) fn try_lease(&self) -> Option<Lease> {
        let mut connections = self.connections.lock();
        connections.retain(|connection| !connection.is_gone());
        connections
            .iter()
            .find_map(|connection| connection.try_lease(&self.released))
    }
}

/// What a stream takes where a connection takes so many.
fn weight(each: usize) -> usize {
    HEAVIEST.div_ceil(each)
}

/// How many connections there may be where each takes so many streams.
fn most_connections(each: usize) -> usize {
    (CAPACITY / (weight(each) * each)).min(MAX_CONNECTIONS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_connections_of_many_streams_or_many_of_few() {
        for (each, weighs, connections) in [(100, 1, 32), (50, 1, 64), (8, 1, 400), (2, 4, 400), (1, 8, 400)]
        {
            assert_eq!(
                (weight(each), most_connections(each)),
                (weighs, connections),
                "{each}"
            );
        }
    }

    #[test]
    fn a_caller_has_no_more_than_is_left_and_others_always_have_some() {
        for (purpose, each, half) in [
            (Purpose::Watch, 100, 400),
            (Purpose::Watch, 1, 200),
            (Purpose::Short, 100, 200),
            (Purpose::Large, 1, 200),
        ] {
            let lane = Lane::with(Gauges::default(), purpose);
            lane.each.store(each, Ordering::Relaxed);
            let weight = lane.weight().unwrap();
            let mut held = Vec::new();
            for most in [half, half / 2, half / 4] {
                let holder = format!("one of {most}");
                let before = held.len();
                held.extend(std::iter::from_fn(|| lane.take(&holder, weight)));
                assert_eq!(held.len() - before, most);
            }
        }
    }
}
