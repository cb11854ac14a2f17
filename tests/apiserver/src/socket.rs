//! A TCP stream that can be cut or silenced from outside.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The outside handle of a connection.
#[derive(Debug)]
pub(crate) struct Control(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    stream: Option<TcpStream>,
    silent: bool,
    wakers: [Option<Waker>; 2],
}

const READ: usize = 0;
const WRITE: usize = 1;

impl Inner {
    /// Remembers whom to wake; a socket that is cut or silenced would not do it.
    fn ready(&mut self, side: usize, cx: &Context<'_>) -> Poll<io::Result<Pin<&mut TcpStream>>> {
        let waker = &mut self.wakers[side];
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        match &mut self.stream {
            None => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(_) if self.silent => Poll::Pending,
            Some(stream) => Poll::Ready(Ok(Pin::new(stream))),
        }
    }
}

impl Control {
    pub(crate) fn new(stream: TcpStream) -> Arc<Self> {
        let _ = stream.set_nodelay(true);
        Arc::new(Self(Mutex::new(Inner {
            stream: Some(stream),
            silent: false,
            wakers: [None, None],
        })))
    }

    /// Resets the connection at once.
    pub(crate) fn cut(&self) {
        let mut inner = self.0.lock();
        if let Some(stream) = inner.stream.take() {
            let _ = stream.set_zero_linger();
        }
        inner
            .wakers
            .iter_mut()
            .filter_map(Option::take)
            .for_each(Waker::wake);
    }

    /// Stops or resumes all reading and writing.
    pub(crate) fn silence(&self, silent: bool) {
        let mut inner = self.0.lock();
        inner.silent = silent;
        if !silent {
            inner
                .wakers
                .iter_mut()
                .filter_map(Option::take)
                .for_each(Waker::wake);
        }
    }

    fn with<T>(
        &self,
        side: usize,
        cx: &mut Context<'_>,
        act: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let mut inner = self.0.lock();
        match inner.ready(side, cx) {
            Poll::Ready(Ok(stream)) => act(stream, cx),
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// The inside of a connection.
#[derive(Debug)]
pub(crate) struct Socket(pub Arc<Control>);

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.with(READ, cx, |s, cx| s.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.with(WRITE, cx, |s, cx| s.poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(WRITE, cx, |s, cx| s.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.with(WRITE, cx, |s, cx| s.poll_shutdown(cx))
    }
}
