//! The one body type of the proxy, and small bodies of our own.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};

/// Why a body ended early. Its text is for the log; the peer sees a reset or an aborted connection.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side of the proxy failed.
    #[error("{0}")]
    Http(#[from] hyper::Error),
    /// We ended it, because going on would have been untrue.
    #[error("{0}")]
    Aborted(String),
}

/// A request or response body: streamed, never held whole.
pub type Body = UnsyncBoxBody<Bytes, BodyError>;

/// A body that is known at once.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body from the network.
pub fn incoming(body: hyper::body::Incoming) -> Body {
    body.map_err(BodyError::from).boxed_unsync()
}

/// What came of asking a body for its next frame.
#[derive(Debug, Clone, Copy)]
pub enum Step<'f> {
    /// Nothing yet.
    Waiting,
    /// A frame; empty for trailers.
    Frame {
        /// What is in it.
        data: &'f [u8],
        /// Nothing follows, and nobody need ask again.
        is_last: bool,
    },
    /// The body broke.
    Failed,
    /// The body has ended.
    Ended,
}

/// Hears of what passes through a body.
pub trait Observer {
    /// The next frame is asked for.
    fn asked(&mut self) {}

    /// What came of it.
    fn saw(&mut self, step: Step<'_>);
}

pin_project_lite::pin_project! {
    /// A body that is observed until it ends or is dropped, and its observer with it.
    pub struct Observed<B, O> {
        #[pin]
        inner: B,
        observer: O,
    }
}

impl<B, O> Observed<B, O> {
    /// Tells `observer` of what passes.
    pub fn new(inner: B, observer: O) -> Self {
        Self { inner, observer }
    }
}

impl<B: HttpBody<Data = Bytes>, O: Observer> HttpBody for Observed<B, O> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let mut this = self.project();
        this.observer.asked();
        let polled = this.inner.as_mut().poll_frame(cx);
        this.observer.saw(match &polled {
            Poll::Pending => Step::Waiting,
            Poll::Ready(None) => Step::Ended,
            Poll::Ready(Some(Err(_))) => Step::Failed,
            Poll::Ready(Some(Ok(frame))) => Step::Frame {
                data: frame.data_ref().map_or(&[], |data| data),
                is_last: this.inner.is_end_stream(),
            },
        });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Keeps a value until a body ends or is dropped: a stream count, a permit, a drain guard.
pub struct Held<G>(Option<G>);

impl<G> Observer for Held<G> {
    fn saw(&mut self, step: Step<'_>) {
        if matches!(step, Step::Failed | Step::Ended) {
            self.0 = None;
        }
    }
}

/// A body that keeps `guard` for as long as it has frames to give.
pub fn holding<B, G>(body: B, guard: G) -> Observed<B, Held<G>> {
    Observed::new(body, Held(Some(guard)))
}

enum Feed {
    Chunk(Bytes),
    End,
}

/// The sending end of a [`fed`] body. Dropped before [`Feeder::finish`], it aborts the body: a task that panics can
/// never make a short answer look whole.
#[derive(Debug, Clone)]
pub struct Feeder(tokio::sync::mpsc::Sender<Feed>);

/// The reader of a fed body is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client has gone")]
pub struct ReaderGone;

impl Feeder {
    /// Sends a chunk, waiting for room.
    pub async fn send(&self, chunk: Bytes) -> Result<(), ReaderGone> {
        self.0.send(Feed::Chunk(chunk)).await.map_err(|_| ReaderGone)
    }

    /// Ends the body cleanly.
    pub async fn finish(self) {
        let _gone = self.0.send(Feed::End).await;
    }

    /// Resolves when the reader is gone.
    pub async fn closed(&self) {
        self.0.closed().await;
    }
}

struct Fed {
    receiver: tokio::sync::mpsc::Receiver<Feed>,
    size: SizeHint,
    ended: bool,
}

/// A body fed by a task of ours (cached lists, held watches); at most `depth` chunks wait in between.
///
/// `length` in bytes, where it is known: it becomes `Content-Length`.
pub fn fed(depth: usize, length: Option<u64>) -> (Feeder, Body) {
    let (sender, receiver) = tokio::sync::mpsc::channel(depth);
    let size = length.map_or_else(SizeHint::default, SizeHint::with_exact);
    (
        Feeder(sender),
        Fed {
            receiver,
            size,
            ended: false,
        }
        .boxed_unsync(),
    )
}

impl HttpBody for Fed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Poll::Ready(fed) = self.receiver.poll_recv(cx) else {
            return Poll::Pending;
        };
        let item = match fed {
            Some(Feed::Chunk(chunk)) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
            Some(Feed::End) => None,
            None => Some(Err(BodyError::Aborted("the answer was not finished".into()))),
        };
        self.ended = true;
        Poll::Ready(item)
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn the_guard_lives_until_the_last_frame() {
        let guard = Arc::new(());
        let body = holding(full("ab"), Arc::clone(&guard));
        assert_eq!(Arc::strong_count(&guard), 2);
        let collected = body.collect().await.unwrap().to_bytes();
        assert_eq!(
            (collected.as_ref(), Arc::strong_count(&guard)),
            (b"ab".as_ref(), 1)
        );
    }

    #[tokio::test]
    async fn a_fed_body_ends_cleanly_only_when_finished() {
        let (feeder, body) = fed(4, None);
        feeder.send(Bytes::from_static(b"x")).await.unwrap();
        feeder.finish().await;
        assert_eq!(body.collect().await.unwrap().to_bytes().as_ref(), b"x");

        let (feeder, body) = fed(4, None);
        feeder.send(Bytes::from_static(b"x")).await.unwrap();
        drop(feeder);
        assert!(body.collect().await.is_err());
    }

    #[tokio::test]
    async fn a_feeder_notices_that_its_reader_is_gone() {
        let (feeder, body) = fed(1, None);
        drop(body);
        feeder.closed().await;
        assert_eq!(feeder.send(Bytes::new()).await, Err(ReaderGone));
    }
}
