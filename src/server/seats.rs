//! Who may hold a connection while not everybody can.
//!
//! There is room for handshakes, for strangers, and for clients with a configured certificate, each apart, so that none of them can take
//! the room of another; and no source of strangers, and no configured client, may have more than half of its own. Who comes when there
//! is no room takes the place of the one of its kind that has been idle for longest: of the handshakes, of the source that has
//! most of them. Whoever has a request under way is never sent away for another.
//!
//! Knows nothing of sockets: whose place was taken is told by its [`CancellationToken`].

use std::collections::HashMap;
use std::hash::Hash;
use std::mem::discriminant;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runtime::clock;

/// How many connections there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    handshakes: usize,
    strangers: usize,
    configured: usize,
}

impl Room {
    /// An eighth of it for handshakes, three for strangers, half for configured clients, and at least one for each.
    pub(super) fn of(total: usize) -> Self {
        let eighth = (total / 8).max(1);
        Self {
            handshakes: eighth,
            strangers: 3 * eighth,
            configured: total.saturating_sub(4 * eighth).max(1),
        }
    }
}

/// Who holds a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    /// Not known yet.
    Shaking(IpAddr),
    /// Without a configured certificate.
    Stranger(IpAddr),
    /// The configured common name.
    Configured(Arc<str>),
}

/// Nobody could be sent away for this one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// All connections. Cheap to clone; all clones are the same.
#[derive(Clone)]
pub(super) struct Seats(Arc<Mutex<Table>>);

struct Table {
    room: Room,
    begun: Instant,
    next: u64,
    taken: HashMap<u64, (Holder, Arc<SeatState>)>,
    shaking: Counts<IpAddr>,
    strangers: Counts<IpAddr>,
    configured: Counts<Arc<str>>,
}

#[derive(Default)]
struct SeatState {
    /// Requests under way.
    under_way: AtomicUsize,
    /// Milliseconds after the beginning at which there were none for the last time.
    idle_since: AtomicU64,
    sent_away: CancellationToken,
}

/// How many there are, together and of each.
struct Counts<K> {
    all: usize,
    each: HashMap<K, usize>,
}

impl<K: Eq + Hash + Clone> Counts<K> {
    fn new() -> Self {
        Self {
            all: 0,
            each: HashMap::new(),
        }
    }

    fn of(&self, key: &K) -> usize {
        self.each.get(key).copied().unwrap_or(0)
    }

    fn add(&mut self, key: &K) {
        self.all += 1;
        *self.each.entry(key.clone()).or_default() += 1;
    }

    fn remove(&mut self, key: &K) {
        if let Some(count) = self.each.get_mut(key) {
            self.all -= 1;
            *count -= 1;
            if *count == 0 {
                self.each.remove(key);
            }
        }
    }

    fn most(&self) -> Option<&K> {
        self.each
            .iter()
            .max_by_key(|(_, count)| **count)
            .map(|(key, _)| key)
    }
}

impl Seats {
    pub(super) fn new(room: Room) -> Self {
        Self(Arc::new(Mutex::new(Table {
            room,
            begun: clock::now(),
            next: 0,
            taken: HashMap::new(),
            shaking: Counts::new(),
            strangers: Counts::new(),
            configured: Counts::new(),
        })))
    }

    /// A connection has come from there. There is always room for it to show who it is.
    pub(super) fn arrive(&self, source: IpAddr) -> Seat {
        let mut table = self.0.lock();
        if table.shaking.all >= table.room.handshakes {
            let most = table.shaking.most().copied();
            // Whoever has as many as any takes from its own.
            let loser = most.filter(|most| table.shaking.of(most) > table.shaking.of(&source));
            let loser = Holder::Shaking(loser.unwrap_or(source));
            table.send_away(|holder| *holder == loser);
        }
        let state = Arc::new(SeatState::default());
        state.idle_since.store(table.now(), Ordering::Relaxed);
        let number = table.next;
        table.next += 1;
        table.put(number, Holder::Shaking(source), Arc::clone(&state));
        Seat {
            seats: self.clone(),
            number,
            state,
        }
    }
}

impl Table {
    fn now(&self) -> u64 {
        let since = clock::now().saturating_duration_since(self.begun);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn put(&mut self, number: u64, holder: Holder, state: Arc<SeatState>) {
        match &holder {
            Holder::Shaking(source) => self.shaking.add(source),
            Holder::Stranger(source) => self.strangers.add(source),
            Holder::Configured(name) => self.configured.add(name),
        }
        self.taken.insert(number, (holder, state));
    }

    fn remove(&mut self, number: u64) -> Option<Arc<SeatState>> {
        let (holder, state) = self.taken.remove(&number)?;
        match &holder {
            Holder::Shaking(source) => self.shaking.remove(source),
            Holder::Stranger(source) => self.strangers.remove(source),
            Holder::Configured(name) => self.configured.remove(name),
        }
        Some(state)
    }

    /// Sends away whoever of these has been idle for longest. `false`: none is idle.
    fn send_away(&mut self, of: impl Fn(&Holder) -> bool) -> bool {
        let idle = self
            .taken
            .iter()
            .filter(|(_, (holder, state))| of(holder) && state.under_way.load(Ordering::Relaxed) == 0);
        let longest =
            idle.min_by_key(|(number, (_, state))| (state.idle_since.load(Ordering::Relaxed), **number));
        let Some(number) = longest.map(|(number, _)| *number) else {
            return false;
        };
        // Its place is free from now on, however long its end takes.
        if let Some(state) = self.remove(number) {
            state.sent_away.cancel();
        }
        true
    }

    /// Makes room for one more of this kind.
    fn make_room(&mut self, holder: &Holder) -> Result<(), Full> {
        let half = |all: usize| (all / 2).max(1);
        let (own, all, room) = match holder {
            // Of its own kind the longest idle one has gone when this one came.
            Holder::Shaking(_) => return Ok(()),
            Holder::Stranger(source) => (self.strangers.of(source), self.strangers.all, self.room.strangers),
            Holder::Configured(name) => (
                self.configured.of(name),
                self.configured.all,
                self.room.configured,
            ),
        };
        let has_room = if own >= half(room) {
            self.send_away(|other| other == holder)
        } else {
            all < room || self.send_away(|other| discriminant(other) == discriminant(holder))
        };
        if has_room { Ok(()) } else { Err(Full) }
    }
}

/// The place of one connection, until it is dropped.
pub(super) struct Seat {
    seats: Seats,
    number: u64,
    state: Arc<SeatState>,
}

impl Seat {
    /// It is known now who holds it.
    ///
    /// # Errors
    /// There is no room for those.
    pub(super) fn seated(&self, holder: Holder) -> Result<(), Full> {
        let mut table = self.seats.0.lock();
        let Some(state) = table.remove(self.number) else {
            // Sent away meanwhile.
            return Err(Full);
        };
        table.make_room(&holder)?;
        state.idle_since.store(table.now(), Ordering::Relaxed);
        table.put(self.number, holder, state);
        Ok(())
    }

    /// A request is under way until what is returned is dropped.
    pub(super) fn busy(&self) -> Busy {
        self.state.under_way.fetch_add(1, Ordering::Relaxed);
        Busy {
            seats: self.seats.clone(),
            state: Arc::clone(&self.state),
        }
    }

    /// Resolves when another has its place.
    pub(super) async fn sent_away(&self) {
        self.state.sent_away.cancelled().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.0.lock().remove(self.number);
    }
}

/// A request under way.
pub(super) struct Busy {
    seats: Seats,
    state: Arc<SeatState>,
}

impl Drop for Busy {
    fn drop(&mut self) {
        if self.state.under_way.fetch_sub(1, Ordering::Relaxed) == 1 {
            let now = self.seats.0.lock().now();
            self.state.idle_since.store(now, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;
