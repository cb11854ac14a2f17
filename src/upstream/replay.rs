//! A request that can be sent again when the apiserver has said that it did not process it (RFC 9113 sections 6.8, 8.7).

use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, request};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use parking_lot::Mutex;

use crate::runtime::body::{self, Body, BodyError};

/// What is kept of a body that is being sent; a longer one cannot be sent again.
const KEPT: usize = 64 * 1024;

/// A copy of a request that is being sent: its head, and as much of its body as was already taken.
pub(super) struct Replay {
    head: request::Parts,
    body: Arc<Mutex<Taken>>,
}

struct Taken {
    frames: Vec<Bytes>,
    length: usize,
    /// Something was taken that is not kept.
    lost: bool,
    rest: Body,
}

struct Replayed {
    taken: Arc<Mutex<Taken>>,
    next: usize,
}

impl Replay {
    /// The request to be sent, and its copy.
    pub(super) fn of(request: Request<Body>) -> (Self, Request<Body>) {
        let (head, rest) = request.into_parts();
        let body = Arc::new(Mutex::new(Taken {
            frames: Vec::new(),
            length: 0,
            lost: false,
            rest,
        }));
        let copy = Self { head, body };
        let request = copy.request();
        (copy, request)
    }

    /// The request once more, from its beginning, if that is still known.
    pub(super) fn again(self) -> Option<Request<Body>> {
        let lost = self.body.lock().lost;
        (!lost).then(|| self.request())
    }

    fn request(&self) -> Request<Body> {
        let taken = Arc::clone(&self.body);
        let body = if taken.lock().is_empty() {
            body::empty()
        } else {
            Replayed { taken, next: 0 }.boxed_unsync()
        };
        Request::from_parts(self.head.clone(), body)
    }
}

impl Taken {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.rest.is_end_stream()
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        match frame.data_ref() {
            Some(data) if self.length + data.len() <= KEPT => {
                self.length += data.len();
                self.frames.push(data.clone());
            }
            _ => {
                self.lost = true;
                self.frames.clear();
            }
        }
    }
}

impl HttpBody for Replayed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let taken = Arc::clone(&self.taken);
        let mut taken = taken.lock();
        if let Some(data) = taken.frames.get(self.next) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(data.clone()))));
        }
        let polled = ready!(Pin::new(&mut taken.rest).poll_frame(cx));
        if let (Some(Ok(frame)), false) = (&polled, taken.lost) {
            taken.keep(frame);
            self.next += 1;
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let taken = self.taken.lock();
        self.next >= taken.frames.len() && taken.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let taken = self.taken.lock();
        let again: u64 = taken
            .frames
            .iter()
            .skip(self.next)
            .map(|data| data.len() as u64)
            .sum();
        let rest = taken.rest.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(again + rest.lower());
        if let Some(upper) = rest.upper() {
            hint.set_upper(again + upper);
        }
        hint
    }
}

/// Whether the apiserver has said that it did not process the request: the connection was going away when it came, or
/// its stream was refused.
pub(super) fn is_unprocessed(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let left = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
            let refused = error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM);
            return error.is_remote() && (left || refused);
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(request: Request<Body>) -> Vec<u8> {
        request.into_body().collect().await.unwrap().to_bytes().to_vec()
    }

    fn request(body: Body) -> Request<Body> {
        Request::put("https://cloud/x")
            .header("a", "b")
            .body(body)
            .unwrap()
    }

    #[tokio::test]
    async fn a_request_is_the_same_again_however_much_was_taken() {
        for taken in 0..=3 {
            let (feeder, body) = body::fed(8, Some(6));
            for part in ["ab", "cd", "ef"] {
                feeder.send(Bytes::from_static(part.as_bytes())).await.unwrap();
            }
            feeder.finish().await;
            let (copy, mut first) = Replay::of(request(body));
            assert_eq!(first.body().size_hint().exact(), Some(6));
            for _ in 0..taken {
                first.body_mut().frame().await.unwrap().unwrap();
            }
            drop(first);
            let again = copy.again().unwrap();
            assert_eq!(
                (again.method().as_str(), &again.headers()["a"]),
                ("PUT", &"b".parse().unwrap())
            );
            assert_eq!(read(again).await, b"abcdef", "{taken}");
        }
    }

    #[tokio::test]
    async fn a_large_body_is_not_kept() {
        let (copy, first) = Replay::of(request(body::full(vec![7; KEPT + 1])));
        assert_eq!(read(first).await.len(), KEPT + 1);
        assert!(copy.again().is_none());
        let (copy, _unsent) = Replay::of(request(body::full(vec![7; KEPT + 1])));
        assert_eq!(read(copy.again().unwrap()).await.len(), KEPT + 1);
    }
}
