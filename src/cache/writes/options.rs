//! The options of a DELETE: they come in the body of the request or, if that is empty, in its query.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::kube::media::Encoding;
use crate::runtime::body::{Body, BodyError};
use crate::wire::deletion::is_dry_run;

/// Options are a few hundred bytes.
const LARGEST: usize = 64 * 1024;

/// What is known of the options of a request.
pub(super) struct DeleteOptions {
    /// The query says so.
    pub(super) is_dry: bool,
    /// Of the body; `None` for one that Kubernetes does not read.
    pub(super) encoding: Option<Encoding>,
    pub(super) sent: Sent,
}

/// How much of the body was sent.
#[derive(Default)]
pub(super) struct Sent {
    bytes: Vec<u8>,
    is_whole: bool,
}

impl DeleteOptions {
    /// Whether they ask for a dry run; `None` if nobody can say.
    pub(super) fn is_dry_run(&self) -> Option<bool> {
        if !self.sent.is_whole {
            return None;
        }
        if self.sent.bytes.is_empty() {
            return Some(self.is_dry);
        }
        is_dry_run(self.encoding?, &self.sent.bytes)
    }
}

/// Passes a body on and keeps a copy of it.
pub(super) fn watched(body: Body, options: Arc<Mutex<DeleteOptions>>) -> Body {
    options.lock().sent.is_whole = body.is_end_stream();
    Watched { inner: body, options }.boxed_unsync()
}

struct Watched {
    inner: Body,
    options: Arc<Mutex<DeleteOptions>>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let mut options = self.options.lock();
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && options.sent.bytes.len() <= LARGEST
        {
            options.sent.bytes.extend_from_slice(data);
        }
        let has_ended = match &frame {
            Some(Ok(_)) => self.inner.is_end_stream(),
            Some(Err(_)) => false,
            None => true,
        };
        options.sent.is_whole = has_ended && options.sent.bytes.len() <= LARGEST;
        drop(options);
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
