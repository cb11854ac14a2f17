//! Property tests: random histories, lists, watch-lists and streams with delays, cuts, lag, 410s, missed frames, refusals,
//! disk failures and a restored etcd, against the invariants of the machine.
//!
//! A script of small commands drives a model of upstream; it shrinks to the shortest script that breaks an
//! invariant.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::model::{Items, LIMITS, Object, Store, assign};
use super::*;
use crate::kube::event::EventType;
use crate::view::event::{Event, Freshness};

const FIRST: u64 = 95; // so that most histories cross 99 -> 100

/// The history of one collection as a selector sees it, ascending.
#[derive(Debug, Clone)]
struct History(Vec<(u64, EventType, String)>);

impl History {
    /// From `(name, selected, gap)`: the object is written at the next version, in or out of the selection.
    fn new(writes: &[(u8, bool, u8)]) -> Self {
        let mut at = FIRST;
        let mut items = Items::new();
        let mut events = Vec::new();
        for (name, selected, gap) in writes {
            at += u64::from(*gap) + 1;
            let name = format!("o{name}");
            let change = match (items.contains_key(&name), selected) {
                (false, false) => continue,
                (false, true) => EventType::Added,
                (true, true) => EventType::Modified,
                (true, false) => EventType::Deleted,
            };
            assign(&mut items, change, (name.clone(), at));
            events.push((at, change, name));
        }
        Self(events)
    }

    fn after(&self, at: u64) -> impl Iterator<Item = &(u64, EventType, String)> {
        self.0.iter().filter(move |(event, ..)| *event > at)
    }

    fn replay(&self, mut items: Items, from: u64, to: u64) -> Items {
        for (at, change, name) in self.after(from).filter(|(at, ..)| *at <= to) {
            assign(&mut items, *change, (name.clone(), *at));
        }
        items
    }

    fn state(&self, at: u64) -> Items {
        self.replay(Items::new(), 0, at)
    }
}

#[derive(Debug)]
struct Listing {
    ticket: Ticket,
    freshness: Freshness,
    head: u64,
}

#[derive(Debug)]
struct Watch {
    id: StreamId,
    /// The request demanded a state of this freshness when the head was here, and is not answered yet.
    demanded: Option<(Freshness, u64)>,
    /// Everything up to here has been sent.
    cursor: u64,
    /// Synthetic events still to be sent.
    initial: VecDeque<Object>,
    /// The end bookmark is due.
    end_due: bool,
}

/// Upstream, driver and store around one view.
struct World {
    history: History,
    /// How versions are written: decimal, or not comparable.
    opaque: bool,
    head: u64,
    view: View<Object>,
    store: Store,
    /// From which version on the items are exactly S(R): beyond the store's own only after mixed pages.
    exact_from: u64,
    listings: Vec<Listing>,
    watches: Vec<Watch>,
    next: u64,
    seen: Vec<&'static str>,
    fail_next: bool,
}

type Command = (u8, u8, u8);

impl World {
    fn new(history: History, opaque: bool) -> Self {
        Self {
            history,
            opaque,
            head: FIRST,
            view: View::new(None, LIMITS),
            store: Store::default(),
            exact_from: 0,
            listings: Vec::new(),
            watches: Vec::new(),
            next: 0,
            seen: Vec::new(),
            fail_next: false,
        }
    }

    fn rv(&self, at: u64) -> ResourceVersion {
        let text = if self.opaque {
            format!("v{at}")
        } else {
            at.to_string()
        };
        ResourceVersion::new(&text).unwrap()
    }

    fn at(version: &ResourceVersion) -> u64 {
        version.as_str().trim_start_matches('v').parse().unwrap()
    }

    fn version(&self) -> u64 {
        self.store.version.as_ref().map_or(FIRST, Self::at)
    }

    fn fresh_id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn step(&mut self, input: Input<Object>, exact_from: u64) {
        let before = self.view.version().cloned();
        let excused = self.view.is_expired_upstream() || self.opaque;
        let mut failed = false;
        for action in self.view.step(input) {
            if failed || std::mem::take(&mut self.fail_next) {
                failed = true;
                self.store.fail(&action);
                continue;
            }
            if let Action::CommitSnapshot { .. } | Action::CommitStaging { .. } = action {
                self.exact_from = exact_from;
            }
            self.seen.push(match action {
                Action::HistoryRestarted => "history-restarted",
                Action::CommitSnapshot { .. } | Action::CommitStaging { .. } => "commit",
                Action::Append { .. } | Action::Progress { .. } | Action::Forget => "change",
                _ => "other",
            });
            self.store.carry_out(action);
        }
        if failed {
            let stored = self.store.version.clone();
            for action in self.view.step(Input::Broken { stored }) {
                self.store.carry_out(action);
            }
        } else if !excused && let (Some(before), Some(after)) = (&before, self.view.version()) {
            assert!(
                !before.is_after(after) || self.seen.contains(&"history-restarted"),
                "R fell"
            );
        }
    }

    fn run(&mut self, (what, a, b): Command) {
        let freshness = if b.is_multiple_of(2) {
            Freshness::Latest
        } else {
            Freshness::Cached
        };
        let (a64, b64) = (u64::from(a), u64::from(b));
        match what % 19 {
            0..=2 => self.head += a64 % 6,
            3 => self.begin_list(freshness),
            4 | 5 => self.finish_list(a, b),
            6 => self.fail_list(a),
            7 => {
                let start = match a % 3 {
                    0 => self.version(),
                    1 => self.head,
                    _ => within(FIRST, self.head, b64),
                };
                self.open(start);
            }
            8 => self.open_initial(freshness, a),
            9..=12 => self.deliver(a),
            13 => self.send_bookmark(a, b64),
            14 => self.end_stream(a, b),
            15 => self.miss(a),
            16 => self.answer_alone(a, b64),
            17 if a.is_multiple_of(9) => self.step(Input::Withdrawn, 0),
            _ => self.fail_next = a.is_multiple_of(3),
        }
    }

    /// Upstream answers a watch, and says nothing yet.
    fn answer_alone(&mut self, a: u8, choice: u64) {
        if let Some(index) = pick(self.watches.len(), a) {
            self.answer(index, choice);
        }
    }

    /// The next frame of a stream is not told.
    fn miss(&mut self, a: u8) {
        let Some(index) = pick(self.watches.len(), a) else {
            return;
        };
        if self.watches[index].demanded.is_none() && self.next_frame(index).is_some() {
            let stream = self.watches[index].id;
            self.step(Input::Missed { stream }, 0);
        }
    }

    fn begin_list(&mut self, freshness: Freshness) {
        let ticket = Ticket(self.fresh_id());
        let head = self.head;
        self.listings.push(Listing {
            ticket,
            freshness,
            head,
        });
        self.step(Input::SnapshotBegun { ticket, freshness }, 0);
    }

    /// Completes a list at any version that its freshness allows, sometimes as pages of two versions.
    fn finish_list(&mut self, a: u8, b: u8) {
        let Some(index) = pick(self.listings.len(), a) else {
            return;
        };
        let listing = self.listings.remove(index);
        let oldest = match listing.freshness {
            Freshness::Latest => listing.head,
            Freshness::Cached => FIRST,
        };
        let at = within(oldest, self.head, u64::from(b));
        let later = if a.is_multiple_of(5) {
            within(at, self.head, u64::from(b / 7))
        } else {
            at
        };
        let mut items = self.history.state(at);
        let mut rest = self.history.state(later);
        items.retain(|name, _| name.as_str() < "o2");
        rest.retain(|name, _| name.as_str() >= "o2");
        items.extend(rest);
        self.store.staged.insert(listing.ticket, items);
        let version = self.rv(at);
        let ticket = listing.ticket;
        self.step(Input::SnapshotComplete { ticket, version }, later);
    }

    fn fail_list(&mut self, a: u8) {
        if let Some(index) = pick(self.listings.len(), a) {
            let ticket = self.listings.remove(index).ticket;
            self.step(Input::SnapshotFailed { ticket }, 0);
        }
    }

    fn open(&mut self, cursor: u64) -> usize {
        let id = StreamId(self.fresh_id());
        let start = Start::At(self.rv(cursor));
        self.watches.push(Watch {
            id,
            demanded: None,
            cursor,
            initial: VecDeque::new(),
            end_due: false,
        });
        self.step(Input::StreamOpened { stream: id, start }, 0);
        self.watches.len() - 1
    }

    fn open_initial(&mut self, freshness: Freshness, a: u8) {
        let id = StreamId(self.fresh_id());
        let end = if a.is_multiple_of(2) {
            InitialEnd::Bookmark
        } else {
            InitialEnd::FirstChange
        };
        self.watches.push(Watch {
            id,
            demanded: Some((freshness, self.head)),
            cursor: FIRST,
            initial: VecDeque::new(),
            end_due: end == InitialEnd::Bookmark,
        });
        let start = Start::Initial { freshness, end };
        self.step(Input::StreamOpened { stream: id, start }, 0);
    }

    /// Upstream answers with a state that its freshness allows.
    fn answer(&mut self, index: usize, choice: u64) {
        let Some((freshness, head)) = self.watches[index].demanded.take() else {
            return;
        };
        let cursor = match freshness {
            Freshness::Latest => within(head, self.head, choice),
            Freshness::Cached => within(FIRST, self.head, choice),
        };
        self.watches[index].cursor = cursor;
        self.watches[index].initial = self.history.state(cursor).into_iter().collect();
        let stream = self.watches[index].id;
        self.step(Input::StreamAnswered { stream }, 0);
    }

    fn deliver(&mut self, a: u8) {
        let Some(index) = pick(self.watches.len(), a) else {
            return;
        };
        self.answer(index, u64::from(a) / 3);
        let id = self.watches[index].id;
        let Some((at, change, name)) = self.next_frame(index) else {
            return;
        };
        let version = self.rv(at);
        let event = Event {
            change,
            version,
            payload: (name, at),
            size: 10,
        };
        self.step(Input::Event { stream: id, event }, 0);
    }

    fn next_is_due(&self, index: usize) -> bool {
        let watch = &self.watches[index];
        let next = self.history.after(watch.cursor).next();
        !watch.initial.is_empty() || next.is_some_and(|(at, ..)| *at <= self.head)
    }

    /// The next event that this watch has to say.
    fn next_frame(&mut self, index: usize) -> Option<(u64, EventType, String)> {
        let watch = &mut self.watches[index];
        if let Some((name, at)) = watch.initial.pop_front() {
            return Some((at, EventType::Added, name));
        }
        let (at, change, name) = self.history.after(watch.cursor).next()?;
        (*at <= self.head).then(|| {
            watch.cursor = *at;
            (*at, *change, name.clone())
        })
    }

    fn send_bookmark(&mut self, a: u8, b: u64) {
        let Some(index) = pick(self.watches.len(), a) else {
            return;
        };
        self.answer(index, b);
        let watch = &mut self.watches[index];
        if !watch.initial.is_empty() {
            return;
        }
        let next = self.history.after(watch.cursor).next();
        let limit = next.map_or(self.head, |(at, ..)| self.head.min(at - 1));
        watch.cursor = within(watch.cursor, limit.max(watch.cursor), b);
        let (stream, cursor) = (watch.id, watch.cursor);
        let initial_events_end = std::mem::take(&mut watch.end_due);
        let version = self.rv(cursor);
        self.step(
            Input::Bookmark {
                stream,
                version,
                initial_events_end,
            },
            0,
        );
    }

    fn end_stream(&mut self, a: u8, b: u8) {
        if let Some(index) = pick(self.watches.len(), a) {
            let stream = self.watches.remove(index).id;
            if b.is_multiple_of(3) {
                self.step(Input::Gone { stream }, 0);
            }
            self.step(Input::StreamClosed { stream }, 0);
        }
    }

    /// The invariants, after every command.
    fn check(&self) {
        assert_eq!(self.view.version(), self.store.version.as_ref());
        if self.store.version.is_none() {
            assert!(self.store.items.is_empty());
            return;
        }
        let at = self.version();
        assert!(at <= self.head, "R was invented");
        if at >= self.exact_from {
            assert_eq!(self.store.items, self.history.state(at), "items are not S({at})");
        }
        let resumed = self.history.replay(self.store.items.clone(), at, self.head);
        assert_eq!(
            resumed,
            self.history.state(self.head),
            "a client resumed from {at} differs"
        );
    }

    fn end_everything(&mut self) {
        while !self.watches.is_empty() {
            self.end_stream(0, 1);
        }
        while !self.listings.is_empty() {
            self.fail_list(0);
        }
        assert_eq!((self.view.load.frames, self.view.load.bytes), (0, 0));
        assert!(self.view.streams.is_empty() && self.view.tickets.is_empty());
    }
}

fn pick(len: usize, a: u8) -> Option<usize> {
    (len > 0).then(|| usize::from(a) % len)
}

fn within(from: u64, to: u64, choice: u64) -> u64 {
    from + choice % (to - from + 1)
}

fn histories() -> impl Strategy<Value = History> {
    let write = (0..5_u8, prop::bool::weighted(0.7), 0..3_u8);
    prop::collection::vec(write, 1..40).prop_map(|writes| History::new(&writes))
}

/// Some 230 000 commands in each of the tests.
const CASES: u32 = 5000;

fn scripts() -> impl Strategy<Value = Vec<Command>> {
    prop::collection::vec(any::<Command>(), 1..90)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: CASES,
        rng_seed: RngSeed::Fixed(1),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_items_are_the_state_at_r_and_a_client_that_resumes_there_ends_at_the_truth(
        history in histories(), script in scripts(), opaque in prop::bool::weighted(0.25),
    ) {
        let mut world = World::new(history, opaque);
        for command in script {
            world.run(command);
            world.check();
        }
        prop_assert!(!world.seen.contains(&"history-restarted"), "history was not restarted");
        world.fail_next = false;
        world.end_everything();
        world.check();
        prop_assert!(world.store.stagings.is_empty() && world.store.staged.is_empty());
    }

    #[test]
    fn no_event_after_a_list_is_lost_however_late_the_list_is_committed(
        history in histories(), script in scripts(), choice in any::<u64>(), commit_after in 0..8_usize,
        closes in any::<bool>(),
    ) {
        let mut world = World::new(history, false);
        script.into_iter().for_each(|command| world.run(command));
        world.fail_next = false;
        world.begin_list(Freshness::Latest);
        let (index, at) = (world.listings.len() - 1, world.head);
        let watch = world.open(at);
        world.head += choice % 20;
        // The limits bound what is parked: leave room for this stream.
        world.view.load = Load::default();
        for _ in 0..commit_after {
            world.deliver(u8::try_from(watch).unwrap());
        }
        let seen = world.watches[watch].cursor;
        if closes {
            let stream = world.watches.remove(watch).id;
            world.step(Input::StreamClosed { stream }, 0);
        }
        let Listing { ticket, .. } = world.listings.remove(index);
        world.store.staged.insert(ticket, world.history.state(at));
        let version = world.rv(at);
        world.step(Input::SnapshotComplete { ticket, version }, 0);
        prop_assert!(world.version() >= seen, "R {} < {}", world.version(), seen);
        world.check();
        if !closes {
            let before = world.version();
            while world.history.after(world.watches[watch].cursor).any(|(at, ..)| *at <= world.head) {
                world.deliver(u8::try_from(watch).unwrap());
            }
            prop_assert!(world.version() >= before.max(world.watches[watch].cursor));
            world.check();
        }
    }

    #[test]
    fn one_list_makes_the_view_whole_that_its_streams_have_lost(
        history in histories(), script in scripts(), before in any::<[u8; 6]>(), during in any::<[u8; 6]>(),
        at in any::<u64>(),
    ) {
        let mut world = World::new(history, false);
        script.into_iter().for_each(|command| world.run(command));
        world.fail_next = false;
        while !world.listings.is_empty() {
            world.fail_list(0);
        }
        for index in 0..world.watches.len() {
            world.answer(index, at);
        }
        before.into_iter().for_each(|watch| world.deliver(watch));
        let lost = world.view.condition();
        prop_assert_ne!(lost, Condition::Awaiting);
        world.begin_list(Freshness::Latest);
        prop_assert!(lost == Condition::Followed || world.view.condition() == Condition::Awaiting);
        world.head += at % 9;
        // The limits bound what is parked: leave room.
        world.view.limits = Limits { parked_events: 1000, parked_bytes: 100_000 };
        during.into_iter().for_each(|watch| world.deliver(watch));
        let at = u8::try_from(at % 251).unwrap();
        world.finish_list(world.listings.len() as u8 - 1, at);
        world.check();
        prop_assert_eq!(world.view.condition(), Condition::Followed);
        // What the streams say from now on is in the view, whichever of them says it.
        world.head += 9;
        for index in 0..world.watches.len() {
            while world.next_is_due(index) {
                world.deliver(u8::try_from(index).unwrap());
            }
        }
        world.check();
        if lost == Condition::Lost {
            let last = world.history.0.iter().rev().find(|(at, ..)| *at <= world.head);
            prop_assert!(last.is_none_or(|(at, ..)| world.version() >= *at));
        }
    }

    #[test]
    fn after_a_restore_of_etcd_nothing_of_the_lost_history_is_applied(
        history in histories(), script in scripts(), restored in histories(), choice in any::<u64>(),
    ) {
        let mut world = World::new(history, false);
        script.into_iter().for_each(|command| world.run(command));
        world.fail_next = false;
        if world.version() == FIRST {
            world.head += 5;
            world.begin_list(Freshness::Latest);
            world.finish_list(u8::try_from(world.listings.len() - 1).unwrap(), 0);
        }
        let at = within(FIRST, world.version() - 1, choice);
        world.begin_list(Freshness::Latest);
        let ticket = world.listings.pop().unwrap().ticket;
        world.store.staged.insert(ticket, restored.state(at));
        let version = world.rv(at);
        world.step(Input::SnapshotComplete { ticket, version }, 0);
        prop_assert!(world.seen.contains(&"history-restarted"));
        prop_assert_eq!(world.view.attached(), 0);
        // All that is still under way belongs to the lost history.
        world.seen.clear();
        for index in 0..40 {
            world.head += 1;
            world.deliver(index);
            world.send_bookmark(index, 1);
            world.finish_list(index, index);
        }
        prop_assert!(!world.seen.contains(&"commit") && !world.seen.contains(&"change"));
        prop_assert_eq!(world.version(), at);
        prop_assert_eq!(&world.store.items, &restored.state(at));
        // The client of that list goes on from it.
        world.history = restored;
        let watch = world.open(at);
        world.deliver(u8::try_from(watch).unwrap());
        prop_assert_eq!(world.version(), world.watches[watch].cursor);
        world.check();
    }
}
