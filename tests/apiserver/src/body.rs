//! Answer bodies: whole, streamed through a bounded channel, broken on purpose.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use tokio::sync::mpsc;

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
    Wrapped {
        inner: full(bytes),
        left: None,
    }
    .boxed_unsync()
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
    Wrapped {
        inner,
        left: Some(bytes),
    }
    .boxed_unsync()
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

/// Hides the size of a body, and may break it off.
struct Wrapped {
    inner: Body,
    left: Option<u64>,
}

impl http_body::Body for Wrapped {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.left == Some(0) {
            return Poll::Ready(Some(Err("cut on command".into())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let Some(left) = self.left else {
            return Poll::Ready(frame);
        };
        match frame {
            None => Poll::Ready(Some(Err("cut on command, at the end".into()))),
            Some(Err(e)) => Poll::Ready(Some(Err(e))),
            Some(Ok(frame)) => match frame.into_data() {
                Err(trailers) => Poll::Ready(Some(Ok(trailers))),
                Ok(mut data) => {
                    data.truncate(usize::try_from(left).unwrap_or(usize::MAX));
                    self.left = Some(left - data.len() as u64);
                    Poll::Ready(Some(Ok(Frame::data(data))))
                }
            },
        }
    }
}
