//! WATCH: initial events, events above a revision, bookmarks, 410.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use http_body::Frame;
use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use crate::body::{self, Sender};
use crate::encode::{Encoder, End};
use crate::gzip;
use crate::kinds::Kind;
use crate::selector::Selector;
use crate::serve::{Answer, Call};
use crate::server::Shared;
use crate::status::Status;
use crate::store::{self, Change, Store};

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Events above this revision.
    After(u64),
    /// The present state first, once the store has reached this revision.
    Initial(u64),
}

pub(crate) fn watch(call: &Call, kind: &'static Kind) -> Answer {
    let encoder = call.encoder(kind, true)?;
    let selector = call.selector(kind)?;
    let start = start(call)?;
    // An int64 of seconds overflows a Go duration; here it is merely long.
    let longest = Duration::from_secs(10 * 366 * 24 * 3600);
    let seconds = call
        .query
        .number("timeoutSeconds")
        .map(|s| Duration::from_secs(s).min(longest));
    let length = seconds
        .filter(|s| !s.is_zero())
        .unwrap_or(call.shared.options.watch_timeout);
    let (tx, stream) = body::channel();
    let mut response = Response::builder()
        .status(StatusCode::OK)
        .header(CONTENT_TYPE, encoder.form.watch_content_type());
    let bookmarks = call.query.truthy("allowWatchBookmarks");
    let tells_its_end = bookmarks && matches!(start, Start::Initial(_));
    let is_packed = tells_its_end && call.accepts_gzip() && call.shared.options.watch_list_compression;
    if is_packed {
        response = response
            .header("Content-Encoding", "gzip")
            .header("Vary", "Accept-Encoding");
    }
    let response = response.body(stream).expect("valid");
    let watcher = Watcher {
        shared: call.shared.clone(),
        scope: scope(call),
        encoder,
        selector,
        bookmarks,
        deadline: Instant::now() + length,
        length,
        tx,
        sent: 0,
        member: is_packed.then(Vec::new),
    };
    let streams = Streams::begun(call);
    call.shared.tasks.spawn(async move {
        let _ended = watcher.run(start).await;
        drop(streams);
    });
    Ok(response)
}

/// A watch that streams, counted until it ends.
struct Streams {
    shared: Arc<Shared>,
    user: String,
}

impl Streams {
    fn begun(call: &Call) -> Self {
        let user = call.user.name.clone();
        *call.shared.watches.lock().entry(user.clone()).or_default() += 1;
        Self {
            shared: call.shared.clone(),
            user,
        }
    }
}

impl Drop for Streams {
    fn drop(&mut self) {
        if let Some(open) = self.shared.watches.lock().get_mut(&self.user) {
            *open -= 1;
        }
    }
}

/// The part of a watch that the URL and not the selector decides.
#[derive(Debug)]
struct ScopeOf {
    namespace: String,
    /// Set by the legacy `watch/` prefix, which has the name in the path.
    name: String,
}

fn scope(call: &Call) -> ScopeOf {
    let namespace = if call.info.resource == "namespaces" {
        String::new()
    } else {
        call.info.namespace.clone()
    };
    let legacy = call.info.path.contains("/watch/");
    ScopeOf {
        namespace,
        name: if legacy {
            call.info.name.clone()
        } else {
            String::new()
        },
    }
}

impl ScopeOf {
    fn covers(&self, key: &str) -> bool {
        let (namespace, name) = key.split_once('/').unwrap_or(("", key));
        (self.namespace.is_empty() || self.namespace == namespace)
            && (self.name.is_empty() || self.name == name)
    }
}

fn start(call: &Call) -> Result<Start, Status> {
    let revision = call.revision()?;
    let matching = call.query.text("resourceVersionMatch");
    match call.query.get("sendInitialEvents") {
        Some(_) if matching != "NotOlderThan" => {
            let why = "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            Err(Status::invalid_options("resourceVersionMatch", why))
        }
        None if !matching.is_empty() => {
            let why =
                "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            Err(Status::invalid_options("resourceVersionMatch", why))
        }
        Some(_) if call.query.truthy("sendInitialEvents") => Ok(Start::Initial(revision.unwrap_or(0))),
        Some(_) => Ok(Start::After(
            revision.unwrap_or_else(|| call.shared.cluster.store.revision()),
        )),
        None => match revision {
            None | Some(0) => Ok(Start::Initial(0)),
            Some(n) => Ok(Start::After(n)),
        },
    }
}

/// Why a watch ended; every variant is a clean end of the stream.
#[derive(Debug)]
enum Ended {
    ClientGone,
    Deadline,
    Refused,
    HistoryRestarted,
}

struct Watcher {
    shared: Arc<Shared>,
    scope: ScopeOf,
    encoder: Encoder,
    selector: Selector,
    bookmarks: bool,
    deadline: Instant,
    length: Duration,
    tx: Sender,
    sent: u64,
    /// What is to be in the next gzip member; `None`: the stream is plain.
    member: Option<Vec<u8>>,
}

/// So many initial events share a gzip member; the real one ends a member when no other event is ready.
const BURST: u64 = 3;

impl Watcher {
    async fn run(mut self, start: Start) -> Ended {
        let cursor = match start {
            Start::After(n) => n,
            Start::Initial(n) => match self.initial(n).await {
                Ok(n) => n,
                Err(ended) => return ended,
            },
        };
        match self.follow(cursor).await {
            Ok(()) => Ended::Deadline,
            Err(ended) => ended,
        }
    }

    fn store(&self) -> Arc<Store> {
        self.shared.cluster.store.clone()
    }

    /// A plain event goes out at once, a packed one with its member.
    async fn send(&mut self, mut bytes: Vec<u8>) -> Result<(), Ended> {
        self.sent += 1;
        match &mut self.member {
            None => self.pass(bytes).await,
            Some(member) => {
                member.append(&mut bytes);
                Ok(())
            }
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        match &mut self.member {
            Some(member) if !member.is_empty() => {
                let packed = gzip::flushed(&std::mem::take(member));
                self.pass(packed).await
            }
            _ => Ok(()),
        }
    }

    async fn pass(&self, bytes: Vec<u8>) -> Result<(), Ended> {
        self.tx
            .send(Frame::data(Bytes::from(bytes)))
            .await
            .map_err(|_| Ended::ClientGone)
    }

    async fn refuse(&mut self, status: &Status) -> Ended {
        let bytes = self.encoder.error(&status.value());
        let sent = match self.send(bytes).await {
            Ok(()) => self.flush().await,
            gone => gone,
        };
        sent.err().unwrap_or(Ended::Refused)
    }

    /// Every object as ADDED, then the end bookmark; gives the revision of that state.
    async fn initial(&mut self, at_least: u64) -> Result<u64, Ended> {
        let store = self.store();
        let mut news = store.subscribe();
        let patience = Instant::now() + self.shared.options.too_large_wait;
        while store.revision() < at_least {
            if tokio::time::timeout_at(patience, news.changed()).await.is_err() {
                return Err(self.refuse(&Status::too_large(at_least, store.revision())).await);
            }
        }
        let snapshot = store.now(self.encoder.kind);
        for (key, object) in &snapshot.items {
            if self.scope.covers(key) && self.selector.matches(object) {
                let bytes = self.encoder.event("ADDED", object, self.sent == 0);
                self.send(bytes).await?;
                if self.sent.is_multiple_of(BURST) {
                    self.flush().await?;
                }
            }
        }
        if self.bookmarks {
            self.bookmark(snapshot.revision, End::OfInitialEvents).await?;
        }
        Ok(snapshot.revision)
    }

    async fn bookmark(&mut self, revision: u64, end: End) -> Result<(), Ended> {
        let bytes = self.encoder.bookmark(revision, end, self.sent == 0);
        self.send(bytes).await?;
        self.flush().await
    }

    async fn follow(&mut self, mut cursor: u64) -> Result<(), Ended> {
        let store = self.store();
        let mut news = store.subscribe();
        let epoch = store.epoch();
        let mut ticks = tokio::time::interval(self.shared.options.bookmark_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.reset();
        let mut last_call = Some(self.deadline - Duration::from_secs(2).min(self.length / 2));
        let first_position = cursor;
        loop {
            news.borrow_and_update();
            let changes = match store.since(self.encoder.kind, cursor) {
                Ok(news) if news.epoch != epoch => return Err(Ended::HistoryRestarted),
                Ok(news) => {
                    cursor = cursor.max(news.revision);
                    news.changes
                }
                Err(gone) if cursor == first_position => {
                    return Err(self.refuse(&Status::too_old(cursor, gone.oldest)).await);
                }
                // A watcher that fell behind the window is dropped, as a slow consumer is.
                Err(_) => return Err(Ended::Refused),
            };
            for change in changes {
                if let Some((event, object)) = self.see(&change) {
                    let bytes = self.encoder.event(event, &object, self.sent == 0);
                    self.send(bytes).await?;
                }
            }
            self.flush().await?;
            let may_mark = self.bookmarks && cursor <= store.revision();
            tokio::select! {
                changed = news.changed() => { changed.map_err(|_| Ended::ClientGone)?; }
                () = self.tx.closed() => return Err(Ended::ClientGone),
                () = tokio::time::sleep_until(self.deadline) => return Ok(()),
                _ = ticks.tick(), if may_mark => self.bookmark(cursor, End::No).await?,
                () = tokio::time::sleep_until(last_call.unwrap_or(self.deadline)),
                    if may_mark && last_call.is_some() =>
                {
                    last_call = None;
                    self.bookmark(cursor, End::No).await?;
                }
            }
        }
    }

    /// The change as this watch sees it: entering the selection is ADDED, leaving it is DELETED with the old content,
    /// and every object carries the revision of the event.
    fn see(&self, change: &Change) -> Option<(&'static str, Arc<Value>)> {
        if !self.scope.covers(&change.key) {
            return None;
        }
        let selected = |object: &Option<Arc<Value>>| object.clone().filter(|o| self.selector.matches(o));
        match (selected(&change.old), selected(&change.new)) {
            (None, Some(new)) => Some(("ADDED", new)),
            (Some(_), Some(new)) => Some(("MODIFIED", new)),
            (Some(old), None) => Some(("DELETED", Arc::new(store::at_revision(&old, change.revision)))),
            (None, None) => None,
        }
    }
}
