//! The end of a connection that we end: what was said last must be read.
//!
//! A socket that is closed while the client still sends (an acknowledgement of our last PING, a window, the next request)
//! is reset, and a client that fails to write may give up what it could still have read: the answer to a write that was
//! carried out. So the write side is shut down, and what comes is read and dropped until the client ends its side too,
//! at most for a moment (RFC 9112 section 9.6; Go's HTTP/2 server does the same after its last GOAWAY).

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// As Go's `goAwayTimeout`.
const LINGER: Duration = Duration::from_secs(1);

/// A connection that lingers when it is shut down, unless it has become a tunnel: that may be shut down one way and go on the
/// other.
pub(super) struct Lingering<S> {
    inner: S,
    is_tunnel: Arc<AtomicBool>,
    /// Once the write side is shut down: how long that may take at most.
    leaving: Option<Pin<Box<Sleep>>>,
}

impl<S> Lingering<S> {
    pub(super) fn new(inner: S, is_tunnel: Arc<AtomicBool>) -> Self {
        Self {
            inner,
            is_tunnel,
            leaving: None,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let leaving = match &mut this.leaving {
            Some(leaving) => leaving,
            none => {
                ready!(Pin::new(&mut this.inner).poll_shutdown(cx))?;
                if this.is_tunnel.load(Ordering::Relaxed) {
                    return Poll::Ready(Ok(()));
                }
                none.insert(Box::pin(tokio::time::sleep(LINGER)))
            }
        };
        let mut dropped = [0; 4096];
        loop {
            let mut read = ReadBuf::new(&mut dropped);
            match Pin::new(&mut this.inner).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(Ok(())),
                Poll::Pending => break,
            }
        }
        leaving.as_mut().poll(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::runtime::clock;

    #[tokio::test]
    async fn what_the_client_still_sends_does_not_cost_it_the_answer() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connect = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (accepted, client) = tokio::join!(listener.accept(), connect);
        let (mut server, mut client) = (
            Lingering::new(accepted.unwrap().0, Arc::default()),
            client.unwrap(),
        );
        let serving = async move {
            server.write_all(b"answer").await.unwrap();
            server.shutdown().await.unwrap();
        };
        let asking = async move {
            // More than one write, because only the second one meets the reset of the first.
            for _ in 0..100 {
                client.write_all(b"more").await.unwrap();
                tokio::task::yield_now().await;
            }
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let ((), answer) = tokio::join!(serving, asking);
        assert_eq!(answer, "answer");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_ends_is_waited_for_only_for_a_moment() {
        let (server, mut client) = tokio::io::duplex(64);
        let began = clock::now();
        Lingering::new(server, Arc::default()).shutdown().await.unwrap();
        assert_eq!(clock::now() - began, LINGER);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
    }

    #[tokio::test]
    async fn a_tunnel_is_shut_down_one_way_and_read_the_other() {
        let (server, mut client) = tokio::io::duplex(64);
        let mut server = Lingering::new(server, Arc::new(AtomicBool::new(true)));
        client.write_all(b"more").await.unwrap();
        server.shutdown().await.unwrap();
        drop(client);
        let mut rest = String::new();
        server.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "more");
    }
}
