//! What a view hears and what it orders: the closed vocabulary between the machine and its driver.
//!
//! Owns no rule; the rules are in `machine`.

use std::collections::VecDeque;

use crate::kube::event::EventType;
use crate::kube::version::ResourceVersion;

/// One upstream watch of this view. Never reused while its view lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One upstream LIST, or one chain of pages, from its first request to its last answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// How fresh an answer the request demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// resourceVersion was unset: a consistent read, at least as new as anything upstream ever said before.
    Latest,
    /// resourceVersion was `0` or a number: the answer may come from an apiserver that lags behind.
    Cached,
}

/// What marks the end of the initial events of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialEnd {
    /// sendInitialEvents and allowWatchBookmarks: only the bookmark annotated `k8s.io/initial-events-end`.
    Bookmark,
    /// Anything else: the first event that is not ADDED, or any bookmark. All the initial events are ADDED and
    /// come first, so everything up to such an event has then been sent.
    FirstChange,
}

/// How a watch was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// A plain watch from this version: every later event, none before.
    At(ResourceVersion),
    /// sendInitialEvents, or resourceVersion `""` or `"0"`: the whole state first.
    Initial {
        /// [`Freshness::Latest`] iff the request had no resourceVersion.
        freshness: Freshness,
        /// How the end of the initial events will be known.
        end: InitialEnd,
    },
}

/// One watch event, with whatever the driver needs to write it down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event<P> {
    /// What happened.
    pub change: EventType,
    /// The object's resourceVersion, which is the event's position (wire contract 5.1).
    pub version: ResourceVersion,
    /// The driver's own handle on object and bytes.
    pub payload: P,
    /// Bytes that the payload keeps in memory while it is parked.
    pub size: usize,
}

/// What a view is told, in the order in which it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<P> {
    /// A LIST was sent upstream, or the first page of a chain. Told when it is sent: what is known of R then is
    /// what a consistent answer cannot be older than.
    SnapshotBegun {
        /// A new ticket.
        ticket: Ticket,
        /// What the request (of the first page) demanded.
        freshness: Freshness,
    },
    /// The whole answer was received and staged.
    SnapshotComplete {
        /// The ticket of its beginning.
        ticket: Ticket,
        /// The list's version; of a chain of pages the smallest.
        version: ResourceVersion,
    },
    /// The answer broke off, was refused, had no version, could not be staged, or its chain ran out.
    SnapshotFailed {
        /// The ticket of its beginning.
        ticket: Ticket,
    },
    /// A watch was sent upstream. Told when it is sent, not when it is answered: a consistent watch-list may hold
    /// a state older than what other streams bring while its answer is awaited. If it is refused, tell
    /// [`Input::StreamClosed`].
    StreamOpened {
        /// A new stream.
        stream: StreamId,
        /// Where it starts.
        start: Start,
    },
    /// Upstream has accepted this watch: of which moment the state is that it begins with has been decided.
    StreamAnswered {
        /// The stream.
        stream: StreamId,
    },
    /// ADDED, MODIFIED or DELETED.
    Event {
        /// Where it came from.
        stream: StreamId,
        /// The event.
        event: Event<P>,
    },
    /// BOOKMARK: everything up to this version has been sent on this stream.
    Bookmark {
        /// Where it came from.
        stream: StreamId,
        /// The version it certifies.
        version: ResourceVersion,
        /// It carries the annotation `k8s.io/initial-events-end`.
        initial_events_end: bool,
    },
    /// ERROR 410 on this stream: its position is no longer in upstream's history.
    Gone {
        /// Where it came from.
        stream: StreamId,
    },
    /// Something that the stream sent is not told, for want of room or because it could not be read. It goes on.
    Missed {
        /// Where it came from.
        stream: StreamId,
    },
    /// The stream ended. What came before counts.
    StreamClosed {
        /// The stream.
        stream: StreamId,
    },
    /// An order to the store failed, and the orders after it were dropped. (A [`Action::Stage`] that fails alone
    /// concerns its stream only: [`Input::StreamClosed`] is enough.)
    Broken {
        /// The version that the store still holds, `None` if the view is lost.
        stored: Option<ResourceVersion>,
    },
    /// Upstream has forbidden what the view holds: what is kept goes, and what was asked for before counts no more.
    Withdrawn,
    /// Another view of this cluster saw that history was restarted.
    HistoryRestarted,
}

/// Why a staged snapshot or staging does not become the view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Discard {
    /// It is older than the view, from an apiserver that may lag.
    Lagging,
    /// A live stream carried the view past it during the transfer.
    Overtaken,
    /// Its version does not compare with the view's, and a live stream owns the view.
    Unordered,
    /// Its version is `0`: no watch resumes from there.
    NotResumable,
    /// It was asked for before history was restarted, or never.
    Unknown,
    /// It is incomplete.
    Incomplete,
}

impl Discard {
    /// A short stable name for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Lagging => "lagging",
            Self::Overtaken => "overtaken",
            Self::Unordered => "unordered",
            Self::NotResumable => "not-resumable",
            Self::Unknown => "unknown",
            Self::Incomplete => "incomplete",
        }
    }
}

/// What the driver has to do to the stored view, in this order. If one fails, the rest must be dropped and
/// [`Input::Broken`] told. A watch event that yields nothing is only forwarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action<P> {
    /// Replace items and version with the snapshot staged under this ticket, atomically.
    CommitSnapshot {
        /// The ticket.
        ticket: Ticket,
        /// The view's new version.
        version: ResourceVersion,
    },
    /// Drop what was staged under this ticket.
    DiscardSnapshot {
        /// The ticket.
        ticket: Ticket,
        /// Why.
        why: Discard,
    },
    /// Apply one event to the items, with the version in the same record.
    Append {
        /// Upsert or removal.
        change: EventType,
        /// The event.
        payload: P,
        /// The view's new version.
        version: ResourceVersion,
    },
    /// The same items hold at a later version.
    Progress {
        /// The view's new version.
        version: ResourceVersion,
    },
    /// Apply one event to the staging of this stream; the first one begins it.
    Stage {
        /// The stream.
        stream: StreamId,
        /// Upsert or removal.
        change: EventType,
        /// The event.
        payload: P,
    },
    /// Replace items and version with the staging of this stream (which may be empty), atomically.
    CommitStaging {
        /// The stream.
        stream: StreamId,
        /// The view's new version.
        version: ResourceVersion,
    },
    /// Drop the staging of this stream.
    DropStaging {
        /// The stream.
        stream: StreamId,
        /// Why.
        why: Discard,
    },
    /// The cluster's history went backwards: drop its other views, and tell them [`Input::HistoryRestarted`].
    HistoryRestarted,
    /// Drop this view's items and version.
    Forget,
}

/// The actions of one step, in order. Holds the common single one without allocating.
#[derive(Debug)]
pub struct Actions<P> {
    first: Option<Action<P>>,
    rest: VecDeque<Action<P>>,
}

impl<P> Actions<P> {
    pub(super) fn none() -> Self {
        Self {
            first: None,
            rest: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, action: Action<P>) {
        if self.first.is_none() && self.rest.is_empty() {
            self.first = Some(action);
        } else {
            self.rest.push_back(action);
        }
    }
}

impl<P> Iterator for Actions<P> {
    type Item = Action<P>;

    fn next(&mut self) -> Option<Action<P>> {
        self.first.take().or_else(|| self.rest.pop_front())
    }
}

#[cfg(test)]
impl<P> Actions<P> {
    pub(super) fn rest_capacity(&self) -> usize {
        self.rest.capacity()
    }
}
