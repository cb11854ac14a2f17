//! Clients that take nothing: whoever has not taken a byte of what is ready for him for `listen.writeTimeout` is
//! dropped, so that what is buffered for him, here and at the apiserver, is not held for ever.
//!
//! A connection is watched at its socket ([`Taking`]). On HTTP/2 one stream can be stuck while the connection is well:
//! there hyper asks an answer for its next frame only when the last one has found room, so a frame that is followed by no
//! question is one that the client does not take. hyper gives no handle on a stream, but it spawns a task for each, and
//! dropping that resets the stream: [`Streams`] is the executor that spawns them with a [`WriteTimer`] each, and the answer
//! finds the one of its task and keeps it informed ([`watched`]). An idle watch has no frame to give and is never stuck.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::runtime::body::{Body, Observed, Observer, Step};
use crate::runtime::clock;
use crate::runtime::tasks::Tasks;

use super::metrics::ServerMetrics;

tokio::task_local! {
    static OF_STREAM: WriteTimer;
}

/// How long one answer has been waiting for its client. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct WriteTimer {
    limit: Duration,
    begun: Instant,
    /// Milliseconds after `begun` at which a frame was given that has found no room yet, plus one; else zero.
    given: Arc<AtomicU64>,
}

impl WriteTimer {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            begun: clock::now(),
            given: Arc::default(),
        }
    }

    fn gave(&self) {
        let elapsed = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.given.store(elapsed + 1, Ordering::Relaxed);
    }

    fn found_room(&self) {
        self.given.store(0, Ordering::Relaxed);
    }

    /// Resolves when a frame has found no room for the whole limit.
    async fn exhausted(&self) {
        let mut wait = self.limit;
        while !wait.is_zero() {
            tokio::time::sleep(wait).await;
            wait = match self.given.load(Ordering::Relaxed) {
                0 => self.limit,
                given => {
                    let since = self.begun + Duration::from_millis(given - 1);
                    (since + self.limit).saturating_duration_since(clock::now())
                }
            };
        }
    }
}

/// Spawns the streams of one HTTP/2 connection.
#[derive(Clone)]
pub(super) struct Streams {
    pub(super) tasks: Tasks,
    pub(super) limit: Duration,
    pub(super) metrics: ServerMetrics,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let (timer, metrics) = (WriteTimer::new(self.limit), self.metrics.clone());
        self.tasks.spawn("stream", async move {
            let exhausted = timer.clone();
            tokio::select! {
                _ended = OF_STREAM.scope(timer, stream) => {}
                () = exhausted.exhausted() => {
                    metrics.stalled.inc();
                    tracing::debug!("a client takes nothing of its answer, the stream is reset");
                }
            }
        });
    }
}

/// The answer of a request; must be called in the task of its stream.
pub(super) fn watched(body: Body) -> Body {
    match OF_STREAM.try_with(WriteTimer::clone) {
        Ok(timer) => Observed::new(body, timer).boxed_unsync(),
        // HTTP/1.1: the connection is the stream.
        Err(_) => body,
    }
}

impl Observer for WriteTimer {
    fn asked(&mut self) {
        self.found_room();
    }

    fn saw(&mut self, step: Step<'_>) {
        if let Step::Frame { .. } = step {
            self.gave();
        }
    }
}

/// A connection whose writes fail when the other side takes nothing for so long.
pub(super) struct Taking<S> {
    inner: S,
    limit: Duration,
    metrics: ServerMetrics,
    waiting: Option<Pin<Box<Sleep>>>,
}

impl<S> Taking<S> {
    pub(super) fn new(inner: S, limit: Duration, metrics: ServerMetrics) -> Self {
        Self {
            inner,
            limit,
            metrics,
            waiting: None,
        }
    }

    /// What a write came to, if it came to anything in time.
    fn in_time<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self
            .waiting
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(waiting.as_mut().poll(cx));
        self.metrics.stalled.inc();
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taking<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taking<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.in_time(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.in_time(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.in_time(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.in_time(cx, shut)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use bytes::Bytes;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::runtime::body;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_finds_no_room_exhausts_the_timer_and_an_idle_answer_never_does() {
        let timer = WriteTimer::new(LIMIT);
        let long = LIMIT * 10;
        let (feeder, source) = body::fed(4, None);
        let mut answer = OF_STREAM.sync_scope(timer.clone(), || watched(source));
        {
            let mut idle = pin!(answer.frame());
            assert!(futures_util::poll!(idle.as_mut()).is_pending());
            assert!(tokio::time::timeout(long, timer.exhausted()).await.is_err());
        }
        let mut last = clock::now();
        for _ in 0..5 {
            feeder.send(Bytes::from_static(b"x")).await.unwrap();
            last = clock::now();
            answer.frame().await.unwrap().unwrap();
            let slow = tokio::time::timeout(LIMIT * 9 / 10, timer.exhausted()).await;
            assert!(slow.is_err(), "slow is not stuck");
        }
        timer.exhausted().await;
        let waited = clock::now() - last;
        assert!(waited >= LIMIT && waited <= LIMIT * 2, "{waited:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_write_that_makes_no_progress_fails_and_a_slow_one_does_not() {
        let (client, server) = tokio::io::duplex(4);
        let metrics = ServerMetrics::default();
        let mut server = Taking::new(server, LIMIT, metrics.clone());
        let (mut reader, mut writer) = tokio::io::split(client);
        let slow = async {
            let mut byte = [0];
            for _ in 0..8 {
                tokio::time::sleep(LIMIT * 9 / 10).await;
                reader.read_exact(&mut byte).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(server.write_all(&[7; 12]), slow);
        written.unwrap();
        // Reading goes on for as long as it likes.
        let mut byte = [0];
        let read = async {
            tokio::time::sleep(LIMIT * 5).await;
            writer.write_all(&[1]).await.unwrap();
        };
        tokio::join!(read, async { server.read_exact(&mut byte).await.unwrap() });

        let begun = clock::now();
        let stuck = server.write_all(&[7; 12]).await.unwrap_err();
        assert_eq!(
            (stuck.kind(), clock::now() - begun),
            (io::ErrorKind::TimedOut, LIMIT)
        );
        assert_eq!(metrics.stalled.get(), 1);
    }
}
