//! The tee: passes an answer on to the client and hands a copy to a recorder.
//!
//! Invariants (design.md, promise 1): the client's bytes, errors and end are never changed; all waiting for the
//! recorder together is at most [`DELAY_BUDGET`], then recording is given up and the stream goes on; only an answer that
//! was received whole is ever handed over as whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::PollSender;

use crate::runtime::body::{Body, BodyError};
use crate::runtime::clock;

use super::source::{CHANNEL_DEPTH, Piece};

/// How long the client's stream may wait for the recorder, in all.
pub(super) const DELAY_BUDGET: Duration = Duration::from_millis(100);

/// Answers up to this size are handed over whole at their end, without a thread of their own.
const SMALL: usize = 64 * 1024;

/// Frames of a larger one are gathered up to this size: each handover may have to wake a thread, and small frames would
/// fill the channel in a millisecond.
const PIECE: usize = 64 * 1024;

/// What a tee hands over.
pub(super) enum Handover {
    /// A small answer, whole.
    Whole(Vec<Bytes>),
    /// A larger one, from its first byte on; it is whole when [`Piece::End`] arrives.
    Live(mpsc::Receiver<Piece>),
}

/// Takes what the tee hands over; must not block. Dropped without being called when the answer was cut short while
/// still small, or the client went away.
pub(super) type Recorder = Box<dyn FnOnce(Handover) + Send>;

enum Sink {
    Small {
        chunks: Vec<Bytes>,
        length: usize,
        recorder: Recorder,
    },
    Large {
        sender: PollSender<Piece>,
        gathered: BytesMut,
    },
    Off,
}

struct Tee {
    inner: Body,
    sink: Sink,
    pending: Option<Bytes>,
    ending: bool,
    /// The last frame, kept back until the recorder has all: who takes `Content-Length` bytes asks for no end behind them.
    last: Option<Frame<Bytes>>,
    delay_budget: Duration,
    used: Duration,
    waiting: Option<(Instant, Pin<Box<Sleep>>)>,
}

/// Wraps `inner` so that `recorder` gets a copy of its data.
pub(super) fn tee(inner: Body, recorder: Recorder) -> Body {
    tee_with(inner, recorder, DELAY_BUDGET)
}

/// The same with another bound than [`DELAY_BUDGET`] on the waiting, for a body that no client reads.
pub(super) fn tee_with(inner: Body, recorder: Recorder, delay_budget: Duration) -> Body {
    let sink = Sink::Small {
        chunks: Vec::new(),
        length: 0,
        recorder,
    };
    Tee {
        inner,
        sink,
        pending: None,
        ending: false,
        last: None,
        delay_budget,
        used: Duration::ZERO,
        waiting: None,
    }
    .boxed_unsync()
}

impl Tee {
    fn take(&mut self, data: &Bytes) {
        match &mut self.sink {
            Sink::Off => {}
            Sink::Large { gathered, .. } => {
                gathered.extend_from_slice(data);
                if gathered.len() >= PIECE {
                    self.pending = Some(gathered.split().freeze());
                }
            }
            Sink::Small { chunks, length, .. } => {
                *length += data.len();
                chunks.push(data.clone());
                if *length > SMALL {
                    self.grow();
                }
            }
        }
    }

    /// Starts the recorder while the rest is still to come.
    fn grow(&mut self) {
        let Sink::Small { chunks, recorder, .. } = std::mem::replace(&mut self.sink, Sink::Off) else {
            return;
        };
        let (sender, receiver) = mpsc::channel(CHANNEL_DEPTH);
        // One chunk for what came so far: small frames could be more than the channel holds.
        let mut so_far = BytesMut::with_capacity(2 * SMALL);
        for chunk in chunks {
            so_far.extend_from_slice(&chunk);
        }
        self.pending = Some(so_far.freeze());
        recorder(Handover::Live(receiver));
        self.sink = Sink::Large {
            sender: PollSender::new(sender),
            gathered: BytesMut::new(),
        };
    }

    /// Hands the pending piece over; `Pending` only while the delay budget lasts.
    fn poll_handover(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.pending.is_some() || self.ending {
            let Sink::Large { sender, .. } = &mut self.sink else {
                break;
            };
            match sender.poll_reserve(cx) {
                Poll::Ready(Ok(())) => {
                    let piece = self.pending.take().map_or(Piece::End, Piece::Chunk);
                    let is_end = matches!(piece, Piece::End);
                    if sender.send_item(piece).is_err() || is_end {
                        self.sink = Sink::Off;
                    }
                }
                Poll::Ready(Err(_)) => self.sink = Sink::Off,
                Poll::Pending => {
                    ready!(self.poll_delay(cx));
                    tracing::debug!("the recorder is too slow, giving this answer up");
                    self.sink = Sink::Off;
                }
            }
        }
        if let Some((since, _)) = self.waiting.take() {
            self.used += clock::now() - since;
        }
        self.pending = None;
        self.ending = false;
        Poll::Ready(())
    }

    fn poll_delay(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.delay_budget.saturating_sub(self.used);
        let (_, sleep) = self
            .waiting
            .get_or_insert_with(|| (clock::now(), Box::pin(tokio::time::sleep(left))));
        sleep.as_mut().poll(cx)
    }

    fn end(&mut self) {
        match std::mem::replace(&mut self.sink, Sink::Off) {
            Sink::Small { chunks, recorder, .. } => recorder(Handover::Whole(chunks)),
            Sink::Large { sender, mut gathered } => {
                // A piece that is pending took everything that was gathered.
                if !gathered.is_empty() {
                    self.pending = Some(gathered.split().freeze());
                }
                self.sink = Sink::Large { sender, gathered };
                self.ending = true;
            }
            Sink::Off => {}
        }
    }
}

impl HttpBody for Tee {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        // What was handed to the client last must be with the recorder before more is taken from upstream.
        ready!(this.poll_handover(cx));
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(Ok(last)));
        }
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        match frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    this.take(data);
                }
                // With HTTP/2 upstream may tell that this was all in a frame of its own, which comes later.
                if this.inner.is_end_stream() || this.inner.size_hint().exact() == Some(0) {
                    this.end();
                    this.last = Some(frame);
                    ready!(this.poll_handover(cx));
                    return Poll::Ready(this.last.take().map(Ok));
                }
                // The frame goes to the client now; a recorder that is not ready delays the next one, not this.
                let _later = this.poll_handover(cx);
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.sink = Sink::Off;
                Poll::Ready(Some(Err(error)))
            }
            None => {
                this.end();
                ready!(this.poll_handover(cx));
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // Not while something is still to be handed over: our end must be polled.
        self.inner.is_end_stream() && self.last.is_none() && self.pending.is_none() && !self.ending
    }

    fn size_hint(&self) -> SizeHint {
        let last = self.last.as_ref().and_then(Frame::data_ref);
        last.map_or_else(
            || self.inner.size_hint(),
            |data| SizeHint::with_exact(data.len() as u64),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::runtime::body;

    fn recorder() -> (Recorder, Arc<Mutex<Option<Handover>>>) {
        let slot = Arc::new(Mutex::new(None));
        let own = Arc::clone(&slot);
        (Box::new(move |handover| *own.lock() = Some(handover)), slot)
    }

    fn whole(slot: &Mutex<Option<Handover>>) -> Option<Vec<u8>> {
        match slot.lock().take()? {
            Handover::Whole(chunks) => Some(chunks.concat()),
            Handover::Live(mut receiver) => {
                let mut all = Vec::new();
                loop {
                    match receiver.try_recv() {
                        Ok(Piece::Chunk(chunk)) => all.extend_from_slice(&chunk),
                        Ok(Piece::End) => return Some(all),
                        Err(_) => return None,
                    }
                }
            }
        }
    }

    #[tokio::test]
    async fn a_small_answer_is_handed_over_whole() {
        let (recorder, slot) = recorder();
        let passed = tee(body::full("abc"), recorder)
            .collect()
            .await
            .unwrap()
            .to_bytes();
        assert_eq!(passed.as_ref(), b"abc");
        assert_eq!(whole(&slot).unwrap(), b"abc");
    }

    #[tokio::test]
    async fn an_empty_answer_is_handed_over_too() {
        let (recorder, slot) = recorder();
        let collected = tee(body::empty(), recorder).collect().await.unwrap();
        assert!(collected.to_bytes().is_empty());
        assert_eq!(whole(&slot).unwrap(), b"");
    }

    #[tokio::test]
    async fn a_large_answer_streams_and_ends() {
        let (recorder, slot) = recorder();
        let (feeder, source) = body::fed(64, None);
        for n in 0..20_u8 {
            feeder.send(Bytes::from(vec![n; 16 * 1024])).await.unwrap();
        }
        feeder.finish().await;
        let passed = tee(source, recorder).collect().await.unwrap().to_bytes();
        assert_eq!(passed.len(), 20 * 16 * 1024);
        assert_eq!(whole(&slot).unwrap(), passed);
    }

    #[tokio::test]
    async fn a_cut_answer_is_never_whole() {
        for chunks in [1, 20] {
            let (recorder, slot) = recorder();
            let (feeder, source) = body::fed(64, None);
            for n in 0..chunks {
                feeder.send(Bytes::from(vec![n; 16 * 1024])).await.unwrap();
            }
            drop(feeder);
            assert!(tee(source, recorder).collect().await.is_err());
            assert_eq!(whole(&slot), None, "{chunks}");
        }
    }

    #[tokio::test]
    async fn a_client_that_goes_away_leaves_nothing_whole() {
        let (recorder, slot) = recorder();
        let (feeder, source) = body::fed(64, None);
        feeder.send(Bytes::from_static(b"x")).await.unwrap();
        let mut passed = tee(source, recorder);
        passed.frame().await.unwrap().unwrap();
        drop(passed);
        assert_eq!(whole(&slot), None);
    }

    /// As hyper's body of an HTTP/2 stream: it knows its length, and its end comes in a frame of its own.
    struct Late {
        left: Vec<Bytes>,
    }

    impl HttpBody for Late {
        type Data = Bytes;
        type Error = BodyError;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
            self.left
                .pop()
                .map_or(Poll::Pending, |data| Poll::Ready(Some(Ok(Frame::data(data)))))
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.left.iter().map(|data| data.len() as u64).sum())
        }
    }

    /// What a recorder gets of an answer whose reader takes `taken` frames of `chunks` and goes.
    async fn recorded(chunks: usize, taken: usize) -> Option<usize> {
        let (recorder, slot) = recorder();
        let left = vec![Bytes::from(vec![1; 16 * 1024]); chunks];
        let mut passed = tee(Late { left }.boxed_unsync(), recorder);
        let reading = async move {
            for _ in 0..taken {
                passed.frame().await.unwrap().unwrap();
                tokio::task::yield_now().await;
            }
        };
        let receiving = async {
            let mut length = 0;
            let mut receiver = None;
            loop {
                match slot.lock().take() {
                    Some(Handover::Whole(chunks)) => return Some(chunks.concat().len()),
                    Some(Handover::Live(live)) => receiver = Some(live),
                    None => {}
                }
                match receiver.as_mut().map(mpsc::Receiver::try_recv) {
                    Some(Ok(Piece::Chunk(chunk))) => length += chunk.len(),
                    Some(Ok(Piece::End)) => return Some(length),
                    // Nothing more can come when the reader has gone.
                    _ if Arc::strong_count(&slot) == 1
                        && receiver.as_ref().is_none_or(mpsc::Receiver::is_closed) =>
                    {
                        return None;
                    }
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        tokio::join!(reading, receiving).1
    }

    #[tokio::test]
    async fn an_answer_of_its_whole_length_is_whole_before_its_end_is_told() {
        for chunks in [1, 4, 20, 200] {
            assert_eq!(recorded(chunks, chunks).await, Some(chunks * 16 * 1024));
            assert_eq!(recorded(chunks, chunks - 1).await, None, "a frame is lacking");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_recorder_costs_the_client_no_more_than_the_budget() {
        let (recorder, slot) = recorder();
        let (feeder, source) = body::fed(256, None);
        for n in 0..100_u8 {
            feeder.send(Bytes::from(vec![n; 64 * 1024])).await.unwrap();
        }
        feeder.finish().await;
        let started = clock::now();
        let passed = tee(source, recorder).collect().await.unwrap().to_bytes();
        assert_eq!(passed.len(), 100 * 64 * 1024);
        assert_eq!(clock::now() - started, DELAY_BUDGET);
        assert_eq!(whole(&slot), None, "what was given up must not look whole");
    }
}
