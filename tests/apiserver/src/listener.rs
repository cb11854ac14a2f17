//! The listening port: can really be closed (ECONNREFUSED) and opened again, and is never lost to somebody else.

use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

/// A port of ours. A bound socket that never listens keeps it reserved while the door is shut.
#[derive(Debug)]
pub(crate) struct Door {
    addr: SocketAddr,
    state: Mutex<State>,
    _reservation: TcpSocket,
}

#[derive(Debug, Default)]
struct State {
    listener: Option<TcpListener>,
    waker: Option<Waker>,
}

impl Door {
    /// Binds and listens. Must be called inside a tokio runtime.
    pub(crate) fn open_at(addr: SocketAddr) -> io::Result<Self> {
        let reservation = socket(addr)?;
        let addr = reservation.local_addr()?;
        let door = Self {
            addr,
            state: Mutex::default(),
            _reservation: reservation,
        };
        door.open()?;
        Ok(door)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn open(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.listener.is_none() {
            state.listener = Some(socket(self.addr)?.listen(1024)?);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
        Ok(())
    }

    /// Closes the listening socket before it returns.
    pub(crate) fn shut(&self) {
        self.state.lock().listener = None;
    }

    pub(crate) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TcpStream>> {
        let mut state = self.state.lock();
        state.waker = Some(cx.waker().clone());
        match &state.listener {
            Some(listener) => listener.poll_accept(cx).map_ok(|(stream, _)| stream),
            None => Poll::Pending,
        }
    }
}

fn socket(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if addr.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}
