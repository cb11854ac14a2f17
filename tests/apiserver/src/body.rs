//! Answer bodies: whole, streamed through a bounded channel, broken on purpose.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::sync::mpsc;
use tokio::time::Sleep;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;
pub(crate) type Sender = mpsc::Sender<Frame<Bytes>>;

/// Bodies up to this size get a Content-Length, longer ones are chunked, as Go's server does it.
const BUFFERED: usize = 2048;

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A body of known length.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A whole body, with the Content-Length hidden if it is long.
pub(crate) fn whole(bytes: impl Into<Bytes>) -> Body {
    let bytes = bytes.into();
    if bytes.len() <= BUFFERED {
        full(bytes)
    } else {
        unsized_(bytes)
    }
}

pub(crate) fn unsized_(bytes: Bytes) -> Body {
    Unsized(full(bytes)).boxed_unsync()
}

/// A body fed through a channel; it ends when all senders are gone.
pub(crate) fn channel() -> (Sender, Body) {
    let (tx, rx) = mpsc::channel(8);
    (tx, Channel(rx).boxed_unsync())
}

struct Channel(mpsc::Receiver<Frame<Bytes>>);

impl http_body::Body for Channel {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// Keeps `kept` alive as long as the body.
pub(crate) fn guarded(inner: Body, kept: impl Send + Unpin + 'static) -> Body {
    if inner.is_end_stream() {
        return inner;
    }
    Guarded { inner, _kept: kept }.boxed_unsync()
}

/// Breaks off with an error after `bytes`.
pub(crate) fn cut(inner: Body, bytes: u64) -> Body {
    Cut {
        inner,
        left: bytes,
        rest: None,
    }
    .boxed_unsync()
}

/// How long a body that is to break rests first: a reset overtakes data that is still queued in hyper or h2, and the
/// bytes before the break are to arrive.
const REST: Duration = Duration::from_millis(50);

/// A body whose length says more than it gives.
pub(crate) fn short(bytes: Bytes, tasks: &crate::server::Tasks) -> Body {
    let (tx, stream) = channel();
    tasks.spawn(async move {
        let _ = tx.send(Frame::data(bytes)).await;
        tokio::time::sleep(REST).await;
    });
    stream
}

struct Guarded<T> {
    inner: Body,
    _kept: T,
}

impl<T: Unpin> http_body::Body for Guarded<T> {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Hides the size of a body.
struct Unsized(Body);

impl http_body::Body for Unsized {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }
}

/// Gives so many bytes, rests, and fails.
struct Cut {
    inner: Body,
    left: u64,
    rest: Option<Pin<Box<Sleep>>>,
}

impl Cut {
    fn poll_break(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let rest = self
            .rest
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(REST)));
        std::task::ready!(rest.as_mut().poll(cx));
        Poll::Ready(Some(Err("cut on command".into())))
    }
}

impl http_body::Body for Cut {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == 0 {
            return self.poll_break(cx);
        }
        match std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
            // Also a body that is shorter than asked for breaks off.
            None => {
                self.left = 0;
                self.poll_break(cx)
            }
            Some(Err(e)) => Poll::Ready(Some(Err(e))),
            Some(Ok(frame)) => match frame.into_data() {
                Err(trailers) => Poll::Ready(Some(Ok(trailers))),
                Ok(mut data) => {
                    data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                    self.left -= data.len() as u64;
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
            },
        }
    }
}
