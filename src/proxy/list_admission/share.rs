//! Sends identical lists that wait for their turn as one upstream request.
//!
//! This is sound because the request is sent after all of them arrived, so each sees every write that was
//! acknowledged before it (a request already under way is never joined), and because they come from one
//! principal and are equal in target and in every header, credentials included. Writes are never shared.
//!
//! The answer is shared whole: what upstream sent, compressed or not, is kept up to [`LARGEST`] and given to
//! everybody, so that a client that is slow or leaves cannot hurt the others, and the memory is held once. A
//! longer answer, one that takes longer than the deadline, and every failure go to the first client alone;
//! the others, to whom nothing has been sent yet, ask by themselves. A stream passed on to many at once would
//! have to wait for the slowest, drop it, or keep everything for it.
//!
//! Requests that wait for a connection are not joined: dialling is shared already and takes milliseconds to
//! seconds, and those requests are small.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{Extensions, HeaderMap, Method, Response, StatusCode, Uri};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::runtime::body::{Body, BodyError};

/// The most bytes of a shared answer, as upstream sent it.
pub(super) const LARGEST: usize = 2 << 20;

/// What makes two requests the same.
#[derive(PartialEq, Eq)]
pub(in super::super) struct Same {
    pub(in super::super) principal: String,
    pub(in super::super) transport: String,
    pub(in super::super) method: Method,
    pub(in super::super) target: Uri,
    pub(in super::super) headers: HeaderMap,
}

/// Waits for a shared answer. Dropped: there is none.
pub(in super::super) type Follower = oneshot::Sender<Shared>;

/// A good answer, whole.
#[derive(Clone)]
pub(in super::super) struct Shared {
    headers: HeaderMap,
    extensions: Extensions,
    chunks: VecDeque<Bytes>,
}

impl Shared {
    /// One client's copy.
    pub(in super::super) fn into_response(self) -> Response<Body> {
        let body = Chunks {
            chunks: self.chunks,
            then: Then::End,
        };
        let mut response = Response::new(body.boxed_unsync());
        *response.headers_mut() = self.headers;
        *response.extensions_mut() = self.extensions;
        response
    }
}

/// Gives the answer to all followers, or to the first client alone.
pub(in super::super) async fn share(
    response: Response<Body>,
    followers: Vec<Follower>,
    deadline: Instant,
) -> Response<Body> {
    if followers.is_empty() || response.status() != StatusCode::OK {
        return response;
    }
    let (head, mut body) = response.into_parts();
    let (mut chunks, mut length) = (VecDeque::new(), 0);
    let then = loop {
        let frame = match tokio::time::timeout_at(deadline, body.frame()).await {
            Err(_) => break Then::Rest(body),
            Ok(None) => break Then::End,
            Ok(Some(Err(error))) => break Then::Error(Some(error)),
            Ok(Some(Ok(frame))) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                length += data.len();
                chunks.push_back(data);
                if length > LARGEST {
                    break Then::Rest(body);
                }
            }
            Err(trailers) => break Then::Trailers(Some(trailers)),
        }
    };
    if matches!(then, Then::End) {
        let shared = Shared {
            headers: head.headers.clone(),
            extensions: head.extensions.clone(),
            chunks: chunks.clone(),
        };
        tracing::debug!(
            clients = followers.len() + 1,
            "one list for all that asked for it"
        );
        for follower in followers {
            let _gone = follower.send(shared.clone());
        }
    }
    Response::from_parts(head, Chunks { chunks, then }.boxed_unsync())
}

/// The chunks received so far, and what follows them.
struct Chunks {
    chunks: VecDeque<Bytes>,
    then: Then,
}

enum Then {
    End,
    Rest(Body),
    Error(Option<BodyError>),
    Trailers(Option<Frame<Bytes>>),
}

impl HttpBody for Chunks {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(chunk) = self.chunks.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match &mut self.then {
            Then::End => Poll::Ready(None),
            Then::Rest(body) => Pin::new(body).poll_frame(cx),
            Then::Error(error) => Poll::Ready(error.take().map(Err)),
            Then::Trailers(trailers) => Poll::Ready(trailers.take().map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.chunks.is_empty()
            && match &self.then {
                Then::End => true,
                Then::Rest(body) => body.is_end_stream(),
                Then::Error(error) => error.is_none(),
                Then::Trailers(trailers) => trailers.is_none(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let known: u64 = self.chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let rest = match &self.then {
            Then::End => SizeHint::with_exact(0),
            Then::Rest(body) => body.size_hint(),
            Then::Error(_) | Then::Trailers(_) => SizeHint::default(),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(known + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(known + upper);
        }
        hint
    }
}
