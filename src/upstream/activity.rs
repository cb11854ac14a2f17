//! Signs of life: bytes that arrive prove that the way to a server works, whatever has not been answered yet.
//!
//! Two kinds: anything at all (the acknowledgement of a PING too), and bytes of answers. The first tells a slow link
//! from a dead one, connection by connection; the second tells that the server behind it works. Both are read off
//! the TCP stream below TLS, so a client that reads slowly cannot make old bytes look new: HTTP/2 takes them off the
//! socket whether a stream is read or not.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use pin_project_lite::pin_project;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::runtime::clock;

use super::metrics::Traffic;

/// More bytes at once than an acknowledged PING or a window update and their TLS records take: part of an answer.
const ANSWER: usize = 128;

/// Connecting while something arrives may take so many times as long as in silence: by default 30 s, as client-go gives a
/// dial.
const PROGRESS: u32 = 15;

/// A moment that many threads set and read.
#[derive(Debug)]
struct Moment {
    base: Instant,
    millis: AtomicU64,
}

impl Moment {
    fn new(now: Instant) -> Self {
        Self {
            base: now,
            millis: AtomicU64::new(0),
        }
    }

    fn set(&self, now: Instant) {
        let since = now.saturating_duration_since(self.base).as_millis();
        self.millis
            .fetch_max(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn last(&self) -> Instant {
        self.base + Duration::from_millis(self.millis.load(Ordering::Relaxed))
    }
}

/// What is heard of one server over all connections.
#[derive(Debug)]
pub(super) struct ServerActivity {
    heard: Moment,
    answering: Moment,
    proven: Moment,
    quick: Moment,
    traffic: Traffic,
}

impl ServerActivity {
    pub(super) fn new(traffic: Traffic) -> Self {
        let now = clock::now();
        Self {
            heard: Moment::new(now),
            answering: Moment::new(now),
            proven: Moment::new(now),
            quick: Moment::new(now),
            traffic,
        }
    }

    /// It has answered a request or a probe.
    pub(super) fn prove(&self) {
        self.proven.set(clock::now());
    }

    /// A new connection came about and was answered as on a good link.
    pub(super) fn prove_quick(&self) {
        self.quick.set(clock::now());
    }

    /// Whether a new connection was answered as on a good link after this moment.
    pub(super) fn quick_since(&self, moment: Instant) -> bool {
        self.quick.last() > moment
    }

    /// Whether it has answered a request or a probe after this moment.
    pub(super) fn proven_since(&self, moment: Instant) -> bool {
        self.proven.last() > moment
    }

    /// When anything last arrived.
    pub(super) fn heard(&self) -> Instant {
        self.heard.last()
    }

    /// Whether anything arrived after this moment.
    pub(super) fn heard_since(&self, moment: Instant) -> bool {
        self.heard.last() > moment
    }

    /// Whether a part of an answer arrived after this moment, on a connection of clients.
    pub(super) fn answering_since(&self, moment: Instant) -> bool {
        self.answering.last() > moment
    }
}

/// What is heard on one connection.
#[derive(Debug)]
pub(super) struct ConnectionActivity {
    heard: Moment,
    /// Set once what arrives can only be answers, not a handshake.
    open: AtomicBool,
    /// Set where every stream can go on elsewhere without its client noticing.
    resumable: AtomicBool,
    overtaken: CancellationToken,
    severed: AtomicBool,
    reader: AtomicWaker,
    server: Arc<ServerActivity>,
}

impl ConnectionActivity {
    pub(super) fn new(server: &Arc<ServerActivity>) -> Arc<Self> {
        Arc::new(Self {
            heard: Moment::new(clock::now()),
            open: AtomicBool::new(false),
            resumable: AtomicBool::new(false),
            overtaken: CancellationToken::new(),
            severed: AtomicBool::new(false),
            reader: AtomicWaker::new(),
            server: Arc::clone(server),
        })
    }

    /// From now on clients' requests go over this connection.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::Relaxed);
    }

    /// Only watches go over this connection: they are held and resumed when it breaks.
    pub(super) fn carries_watches(&self) {
        self.resumable.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_resumable(&self) -> bool {
        self.resumable.load(Ordering::Relaxed)
    }

    /// Cancelled when a new connection was answered as on a good link while nothing arrived here: whatever can be asked
    /// elsewhere is. For good, even if something arrives again.
    pub(super) fn overtaken(&self) -> &CancellationToken {
        &self.overtaken
    }

    /// Breaks the connection: reads fail from now on, and with them every stream on it. To drop hyper's driver would not
    /// do that, because the connection lives in a task of its own until its streams have ended.
    pub(super) fn sever(&self) {
        self.severed.store(true, Ordering::Release);
        self.reader.wake();
    }

    /// When something last arrived; at first, when it was made.
    pub(super) fn heard(&self) -> Instant {
        self.heard.last()
    }

    /// Something small has arrived.
    #[cfg(test)]
    pub(super) fn beat(&self) {
        self.read(1, clock::now());
    }

    fn read(&self, bytes: usize, now: Instant) {
        self.heard.set(now);
        self.server.heard.set(now);
        self.server.traffic.received.inc_by(bytes as u64);
        if bytes > ANSWER && self.open.load(Ordering::Relaxed) {
            self.server.answering.set(now);
        }
    }
}

/// Counts what was written.
fn sent(written: Poll<io::Result<usize>>, activity: &ConnectionActivity) -> Poll<io::Result<usize>> {
    if let Poll::Ready(Ok(bytes)) = written {
        activity.server.traffic.sent.inc_by(bytes as u64);
    }
    written
}

/// Waits for work for as long as something is `heard`: `silence` without a byte ends it (`None`), and [`PROGRESS`]
/// times as long in any case.
pub(super) async fn while_heard<T>(
    heard: impl Fn() -> Instant,
    silence: Duration,
    work: impl Future<Output = T>,
) -> Option<T> {
    let began = clock::now();
    let end = began + silence.saturating_mul(PROGRESS);
    let last = || heard().max(began);
    let mut work = std::pin::pin!(work);
    loop {
        let until = end.min(last() + silence);
        match tokio::time::timeout_at(until, work.as_mut()).await {
            Ok(done) => return Some(done),
            Err(_) if until < end && last() + silence > until => {}
            Err(_) => return None,
        }
    }
}

pin_project! {
    /// A stream whose [`ConnectionActivity`] is tracked.
    #[derive(Debug)]
    pub(super) struct Tracked<S> {
        #[pin]
        inner: S,
        activity: Arc<ConnectionActivity>,
    }
}

impl<S> Tracked<S> {
    pub(super) fn new(inner: S, activity: Arc<ConnectionActivity>) -> Self {
        Self { inner, activity }
    }
}

impl<S: AsyncRead> AsyncRead for Tracked<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.project();
        let before = buf.filled().len();
        // Registered before the flag is read, so that neither order of the two misses the other.
        this.activity.reader.register(cx.waker());
        if this.activity.severed.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "nothing arrived for too long",
            )));
        }
        let polled = this.inner.poll_read(cx, buf);
        let read = buf.filled().len().saturating_sub(before);
        if read > 0 {
            this.activity.read(read, clock::now());
        }
        polled
    }
}

impl<S: AsyncWrite> AsyncWrite for Tracked<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.project();
        sent(this.inner.poll_write(cx, buf), this.activity)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.project();
        sent(this.inner.poll_write_vectored(cx, bufs), this.activity)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.project().inner.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn arrives(bytes: usize, open: bool) -> (Arc<ServerActivity>, Arc<ConnectionActivity>, Instant) {
        let server = Arc::new(ServerActivity::new(Traffic::default()));
        let connection = ConnectionActivity::new(&server);
        if open {
            connection.open();
        }
        let (near, mut far) = tokio::io::duplex(1024);
        let mut near = Tracked::new(near, Arc::clone(&connection));
        tokio::time::advance(Duration::from_secs(1)).await;
        let before = clock::now() - Duration::from_millis(1);
        far.write_all(&vec![b'x'; bytes]).await.unwrap();
        let mut read = vec![0; bytes];
        near.read_exact(&mut read).await.unwrap();
        (server, connection, before)
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledged_ping_is_heard_and_is_no_answer() {
        let (server, connection, before) = arrives(39, true).await;
        assert!(connection.heard() > before);
        assert!(server.heard_since(before));
        assert!(!server.answering_since(before));
    }

    #[tokio::test(start_paused = true)]
    async fn a_piece_of_an_answer_is_one() {
        let (server, _, before) = arrives(500, true).await;
        assert!(server.answering_since(before));
    }

    #[tokio::test(start_paused = true)]
    async fn a_handshake_is_heard_and_is_no_answer() {
        let (server, _, before) = arrives(500, false).await;
        assert!(server.heard_since(before));
        assert!(!server.answering_since(before));
    }

    #[tokio::test(start_paused = true)]
    async fn work_goes_on_while_something_arrives_and_not_for_ever() {
        let silence = Duration::from_secs(2);
        let began = clock::now();
        let connection = ConnectionActivity::new(&Arc::new(ServerActivity::new(Traffic::default())));
        assert_eq!(
            while_heard(|| connection.heard(), silence, std::future::pending::<()>()).await,
            None
        );
        assert_eq!(clock::now() - began, silence);

        let began = clock::now();
        let connection = ConnectionActivity::new(&Arc::new(ServerActivity::new(Traffic::default())));
        let beating = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                connection.read(39, clock::now());
            }
        };
        let work = async {
            tokio::select! {
                () = beating => {}
                () = tokio::time::sleep(silence * 3) => {}
            }
        };
        assert_eq!(while_heard(|| connection.heard(), silence, work).await, Some(()));
        assert_eq!(clock::now() - began, silence * 3);

        let began = clock::now();
        let connection = ConnectionActivity::new(&Arc::new(ServerActivity::new(Traffic::default())));
        let beating = async {
            loop {
                tokio::time::sleep(Duration::from_millis(1500)).await;
                connection.read(39, clock::now());
            }
        };
        assert_eq!(while_heard(|| connection.heard(), silence, beating).await, None);
        assert_eq!(clock::now() - began, silence * PROGRESS);
    }

    #[tokio::test(start_paused = true)]
    async fn a_severed_connection_fails_whoever_reads_from_it() {
        let connection = ConnectionActivity::new(&Arc::new(ServerActivity::new(Traffic::default())));
        let (near, _far) = tokio::io::duplex(64);
        let mut near = Tracked::new(near, Arc::clone(&connection));
        let mut byte = [0];
        let mut reading = std::pin::pin!(near.read_exact(&mut byte));
        let waited = tokio::time::timeout(Duration::from_secs(1), reading.as_mut()).await;
        assert!(waited.is_err(), "there is nothing to read");
        connection.sever();
        let ended = tokio::time::timeout(Duration::from_secs(1), reading).await;
        assert_eq!(ended.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_not_heard() {
        let (server, connection, _) = arrives(500, true).await;
        tokio::time::advance(Duration::from_secs(5)).await;
        let before = clock::now() - Duration::from_secs(1);
        assert!(
            !server.heard_since(before) && !server.answering_since(before) && connection.heard() < before
        );
    }
}
