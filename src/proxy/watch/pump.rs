//! The task behind one watch: live, held, live again, until the client or the watch ends.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::cache::{Followed, HeldStart, WatchRecording};
use crate::kube::event::EventType;
use crate::kube::media::Encoding;
use crate::kube::options::ListOptions;
use crate::kube::request::RequestInfo;
use crate::kube::version::ResourceVersion;
use crate::runtime::body::{self, Body, Feeder, ReaderGone};
use crate::runtime::tasks::Tasks;
use crate::runtime::{clock, jitter};
use crate::upstream::{LinkState, Origin};
use crate::view::hold::{self, Bookmarks, Hold, HoldAction, HoldEvent};
use crate::wire::collection::Collection;
use crate::wire::watch::{FrameReader, WatchEvent, read_event};

use super::super::exchange::Exchange;
use super::census::{Counted, State};
use super::heal::{self, Healing};
use super::open::{Live, Opened, Opening};
use super::retry::{RETRY_INTERVAL, retry_after};
use super::target::resumed;

/// Between two bookmarks of a held watch, jittered up to a quarter more.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);

/// How long a watch without `timeoutSeconds` is held, jittered up to twice that: upstream's own default.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// The client's side of a watch.
pub(super) struct Stream {
    exchange: Arc<Exchange>,
    options: ListOptions,
    encoding: Encoding,
    feeder: Feeder,
    opened: Instant,
}

impl Stream {
    /// The stream and the body that the client reads.
    pub(super) fn open(exchange: Exchange, encoding: Encoding, opened: Instant) -> (Self, Body) {
        let (feeder, body) = body::fed(8, None);
        let options = match &exchange.info {
            RequestInfo::Resource(resource) => resource.options.clone(),
            RequestInfo::NonResource | RequestInfo::Malformed => ListOptions::default(),
        };
        (
            Self {
                exchange: Arc::new(exchange),
                options,
                encoding,
                feeder,
                opened,
            },
            body,
        )
    }

    pub(super) fn tasks(&self) -> Tasks {
        self.exchange.proxy.tasks.clone()
    }
}

/// The client's position.
struct Position {
    /// The version from which it can go on; `None` while it is still receiving initial events.
    known: Option<ResourceVersion>,
    /// Whether the client's store is complete, so that every event moves it on (wire contract 5.2).
    synced: bool,
}

/// Runs one watch.
pub(super) struct Pump {
    stream: Stream,
    position: Position,
    form: Option<Collection>,
    /// The last frame went out without its line break.
    owes_line_break: bool,
    spoke: bool,
    /// The earliest time to re-open upstream.
    not_before: Option<Instant>,
}

/// Why a live phase ended.
enum Ended {
    /// Upstream ended it cleanly, and so do we.
    Cleanly,
    /// The client has gone.
    ClientGone,
    /// The connection broke, the stream should come from elsewhere, or the client's connection is being
    /// drained: the hold finds out which.
    Broken,
    /// Upstream sent something that is no watch; the client's stream is cut off as upstream's was.
    Garbled,
}

/// Why a held phase ended.
enum Held {
    Reopened(Live),
    Over,
    ClientGone,
}

impl Pump {
    pub(super) fn new(stream: Stream) -> Self {
        let known = stream
            .options
            .resource_version
            .as_deref()
            .and_then(ResourceVersion::new);
        let synced = !stream.options.starts_with_state();
        let position = Position {
            known: known.filter(|_| synced),
            synced,
        };
        Self {
            stream,
            position,
            form: None,
            owes_line_break: false,
            spoke: false,
            not_before: None,
        }
    }

    /// Begins with a live upstream stream.
    pub(super) async fn run_live(self, live: Live) {
        self.run(Some(live)).await;
    }

    /// Begins held, with what the cache knows; upstream is not tried for `wait`.
    pub(super) async fn run_held(mut self, mut start: Box<HeldStart>, wait: Duration) {
        self.not_before = Some(clock::now() + wait);
        let speaks = start.sends_initial();
        let cache = self.stream.exchange.proxy.cache.clone();
        if !Box::pin(start.send_initial(&cache, &self.stream.feeder)).await {
            return;
        }
        self.spoke = speaks;
        self.position = Position {
            known: Some(start.known.clone()),
            synced: true,
        };
        self.form = start.form.take();
        self.run(None).await;
    }

    async fn run(mut self, live: Option<Live>) {
        let mut live = live;
        loop {
            if let Some(live) = live.take() {
                match self.live(live).await {
                    Ended::Cleanly => return self.stream.feeder.finish().await,
                    Ended::ClientGone | Ended::Garbled => return,
                    Ended::Broken => {}
                }
            }
            match self.hold().await {
                Held::Reopened(reopened) => live = Some(reopened),
                Held::Over => return self.stream.feeder.finish().await,
                Held::ClientGone => return,
            }
        }
    }

    async fn live(&mut self, live: Live) -> Ended {
        let Live {
            mut body,
            mut recording,
            origin,
        } = live;
        let Ok(mut frames) = FrameReader::new(self.stream.encoding) else {
            return Ended::Garbled;
        };
        let _counted = self.count(State::Live);
        let leaving = self.stream.exchange.drain.started().clone();
        let mut view = recording.as_ref().map(WatchRecording::followed);
        let mut _healing: Option<Healing> = None;
        loop {
            let replaced = async {
                match &origin {
                    Some(origin) if self.position.known.is_some() => origin.left().await,
                    _ => std::future::pending().await,
                }
            };
            let frame = tokio::select! {
                frame = body.frame() => frame,
                () = self.stream.feeder.closed() => return Ended::ClientGone,
                () = replaced => return Ended::Broken,
                () = leaving.cancelled() => return Ended::Broken,
                view = lost(view.as_mut()) => {
                    _healing = Some(heal::begin(&self.stream.exchange, view));
                    continue;
                }
            };
            match frame {
                None if frames.pending() == 0 => return Ended::Cleanly,
                // An unfinished frame is not passed on, so the client can go on from the previous one.
                None => return broken(origin.as_ref(), "the watch ended inside a frame"),
                Some(Err(error)) => return broken(origin.as_ref(), &error.to_string()),
                Some(Ok(frame)) => {
                    let Ok(data) = frame.into_data() else { continue };
                    frames.push(data);
                }
            }
            loop {
                match frames.next() {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        if let Err(ReaderGone) = self.deliver(frame, recording.as_mut()).await {
                            return Ended::ClientGone;
                        }
                    }
                    Err(error) => {
                        self.stream.exchange.proxy.metrics.unreadable(&error);
                        tracing::debug!(%error, "upstream sent what is no watch event");
                        return Ended::Garbled;
                    }
                }
            }
        }
    }

    /// Records one frame and passes it on.
    async fn deliver(
        &mut self,
        frame: Bytes,
        recording: Option<&mut WatchRecording>,
    ) -> Result<(), ReaderGone> {
        match read_event(self.stream.encoding, &frame) {
            Ok(event) => {
                self.position.see(&event);
                let exchange = &self.stream.exchange;
                if let WatchEvent::Error(status) = &event
                    && status.code == StatusCode::GONE.as_u16()
                    && !self.spoke
                    && let Some(owner) = exchange.caller.accepted_as(&exchange.proxy)
                {
                    exchange.proxy.gone.told(&owner, &exchange.head.uri);
                }
                if self.form.is_none() {
                    self.form = match &event {
                        WatchEvent::Item { object, .. } => Some(Collection::from_object(object)),
                        WatchEvent::Bookmark(bookmark) => {
                            Some(Collection::from_bookmark(self.stream.encoding, bookmark))
                        }
                        WatchEvent::Error(_) | WatchEvent::Opaque { .. } | WatchEvent::Blank => None,
                    };
                }
                if let Some(recording) = recording {
                    recording.event(&event, frame.len()).await;
                }
            }
            Err(error) => {
                tracing::debug!(%error, "a watch event is passed on but not understood");
                self.position.lose();
                if let Some(recording) = recording {
                    recording.miss("an event cannot be read");
                }
            }
        }
        self.send(frame).await
    }

    async fn send(&mut self, frame: Bytes) -> Result<(), ReaderGone> {
        self.owes_line_break = self.stream.encoding == Encoding::Json && frame.last() != Some(&b'\n');
        self.spoke = true;
        self.stream.feeder.send(frame).await
    }

    /// Holds the client's stream until upstream is open again, the watch is over or the client goes.
    async fn hold(&mut self) -> Held {
        if std::mem::take(&mut self.owes_line_break)
            && self.stream.feeder.send(Bytes::from_static(b"\n")).await.is_err()
        {
            return Held::ClientGone;
        }
        let _counted = self.count(State::Held);
        // It asks the cache, and a live watch must not have room for that either.
        let (mut held, end) = Box::pin(self.begin_hold()).await;
        let proxy = Arc::clone(&self.stream.exchange.proxy);
        let mut link = proxy.link.subscribe();
        let leaving = self.stream.exchange.drain.started().clone();
        let priority = proxy.priorities.of(self.stream.exchange.caller.client());
        // A stream that breaks as soon as it opens must not be retried in a tight loop.
        let mut retry_at = self.not_before.take().unwrap_or_else(clock::now);
        let mut event = if self.spoke {
            HoldEvent::Sent
        } else {
            HoldEvent::Tick
        };
        // Without a known position the client has to ask again.
        let mut ending = self.position.known.is_none();
        if ending {
            held.step(event, self.elapsed());
            event = HoldEvent::End;
        }
        loop {
            let until = match held.step(std::mem::replace(&mut event, HoldEvent::Tick), self.elapsed()) {
                HoldAction::End => return Held::Over,
                HoldAction::Bookmark(version) => {
                    let Some(form) = &self.form else { continue };
                    let frame = form.bookmark(version.as_str(), false);
                    if self.send(frame.into()).await.is_err() {
                        return Held::ClientGone;
                    }
                    continue;
                }
                HoldAction::WaitUntil(until) => self.stream.opened + until,
            };
            let online = *link.borrow_and_update() == LinkState::Online && !ending;
            // Watches are live most of the time: their tasks must not have room for this.
            let reopening = Box::pin(async {
                tokio::time::sleep_until(retry_at).await;
                proxy.pace.turn(priority).await;
                self.reopen(end).await
            });
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                () = self.stream.feeder.closed() => return Held::ClientGone,
                () = leaving.cancelled(), if !ending => {
                    ending = true;
                    event = HoldEvent::End;
                }
                _ = link.changed(), if !online => {}
                reopened = reopening, if online => match reopened {
                    Reopened::Live(live) => {
                        self.stream.exchange.proxy.metrics.watches.resumed();
                        self.not_before = Some(clock::now() + RETRY_INTERVAL);
                        return Held::Reopened(live);
                    }
                    Reopened::Refused => {
                        ending = true;
                        event = HoldEvent::End;
                    }
                    Reopened::Failed(wait) => retry_at = clock::now() + wait,
                }
            }
        }
    }

    /// Plans a hold that begins now; also when the watch ends at the latest.
    async fn begin_hold(&mut self) -> (Hold, Instant) {
        let marks = self.stream.options.allow_watch_bookmarks;
        if marks
            && self.form.is_none()
            && let Some(query) = self.stream.exchange.answerable_query().await
        {
            let cache = &self.stream.exchange.proxy.cache;
            self.form = cache.form_of(&query, self.stream.encoding).await;
        }
        let bookmarks = if marks && self.form.is_some() {
            Bookmarks::Every(BOOKMARK_INTERVAL + jitter::below(BOOKMARK_INTERVAL / 4))
        } else {
            Bookmarks::Never
        };
        let seconds = self.stream.options.timeout_seconds;
        let seconds = seconds.and_then(|seconds| i64::try_from(seconds).ok());
        let timeout = hold::timeout(seconds, DEFAULT_TIMEOUT + jitter::below(DEFAULT_TIMEOUT));
        let timeout = if seconds.is_some_and(|seconds| seconds > 0) {
            timeout
        } else {
            self.elapsed() + timeout
        };
        let held = Hold::new(self.position.known.clone(), bookmarks, timeout, self.elapsed());
        (held, self.stream.opened + timeout)
    }

    /// Re-opens upstream at the client's position, for what is left of the watch until `end`.
    async fn reopen(&self, end: Instant) -> Reopened {
        let exchange = &self.stream.exchange;
        let (Some(position), Some(original)) = (&self.position.known, exchange.head.uri.path_and_query())
        else {
            return Reopened::Refused;
        };
        let left = self
            .stream
            .options
            .timeout_seconds
            .map(|_| end.saturating_duration_since(clock::now()));
        let Some(target) = resumed(original, position, left) else {
            return Reopened::Refused;
        };
        if exchange.upstream().is_err() {
            // The client learns why when it asks again.
            return Reopened::Refused;
        }
        match Opening::at(exchange, target).in_time().await {
            Opened::Live(answered) if answered.encoding == self.stream.encoding => {
                tracing::debug!(?position, "a held watch is live again");
                Reopened::Live(answered.live)
            }
            Opened::Refused(head, _) if is_for_now(head.status) => {
                Reopened::Failed(retry_after(Some(&head.headers)))
            }
            // 401, 403, 410 and the like: the client learns of it when it asks again.
            Opened::Refused(..) | Opened::Live(_) => Reopened::Refused,
            // The cloud is reachable: a held stream would be taken for a live one.
            Opened::Failed(error) if error.failure.is_for_want_of_room() => Reopened::Refused,
            Opened::Failed(_) | Opened::Late => Reopened::Failed(retry_after(None)),
        }
    }

    fn count(&self, state: State) -> Counted {
        self.stream.exchange.proxy.metrics.watches.count(state)
    }

    fn elapsed(&self) -> Duration {
        clock::now() - self.stream.opened
    }
}

/// Waits until the view of this watch is lost.
async fn lost(view: Option<&mut Followed>) -> &Followed {
    match view {
        Some(view) => {
            view.lost().await;
            view
        }
        None => std::future::pending().await,
    }
}

fn broken(origin: Option<&Origin>, why: &str) -> Ended {
    tracing::debug!(why, "a live watch broke, holding the client's stream");
    if let Some(origin) = origin {
        origin.broke();
    }
    Ended::Broken
}

enum Reopened {
    Live(Live),
    Refused,
    /// Try again after so long.
    Failed(Duration),
}

/// Whether a refusal is temporary, and says nothing about the watch.
fn is_for_now(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

impl Position {
    fn see(&mut self, event: &WatchEvent<'_>) {
        let version = match event {
            WatchEvent::Item { change, object } => {
                self.synced |= *change != EventType::Added;
                &object.meta.resource_version
            }
            WatchEvent::Bookmark(bookmark) => {
                self.synced = true;
                &bookmark.resource_version
            }
            WatchEvent::Opaque {
                change,
                resource_version,
                ..
            } => {
                self.synced |= *change != Some(EventType::Added);
                resource_version
            }
            WatchEvent::Blank => return,
            // The stream ends after an error.
            WatchEvent::Error(_) => return self.lose(),
        };
        if self.synced {
            self.known = ResourceVersion::new(version);
        }
    }

    /// The client's position is no longer known.
    fn lose(&mut self) {
        self.known = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
        size_of::<F>()
    }

    /// A node holds hundreds of watches.
    #[test]
    fn the_task_of_a_watch_is_small() {
        let run = |pump: Pump, live| pump.run_live(live);
        assert!(size(run) < 6 << 10, "{} bytes", size(run));
        let held = |pump: Pump, start| pump.run_held(start, Duration::ZERO);
        assert!(size(held) < 6 << 10, "{} bytes", size(held));
    }
}
