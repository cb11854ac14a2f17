//! The way to the cloud: a TCP forwarder that the test breaks on command.
//!
//! It knows bytes and connections, nothing of TLS or HTTP. The listening address stays the same throughout.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::cluster::free_address;

/// Between two tries to listen.
const AGAIN: Duration = Duration::from_millis(100);

/// What the link does with connections, those open and those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Carries bytes.
    Up,
    /// Refuses new connections and resets the open ones.
    Refuse,
    /// Accepts new connections and keeps the open ones, but carries nothing: what a black hole has to be on the loopback.
    BlackHole,
}

/// A running forwarder; it ends with its last handle.
#[derive(Clone)]
pub(crate) struct Link {
    address: SocketAddr,
    state: Arc<watch::Sender<State>>,
    carried: Arc<AtomicU64>,
}

/// Where connections lead.
#[derive(Clone)]
struct Far {
    address: SocketAddr,
    /// Bytes there and back.
    carried: Arc<AtomicU64>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    /// Counts the cuts: a connection belongs to the count at which it was accepted.
    cuts: u64,
}

impl Link {
    /// Listens on a port of `here` and forwards to `target`.
    pub(crate) async fn to(target: SocketAddr, here: IpAddr) -> anyhow::Result<Self> {
        // Not one that the kernel gives to connections: it has to be free again when the listener comes back.
        let address = SocketAddr::new(here, free_address()?.port());
        let listener = listen(address).await?;
        let (state, changes) = watch::channel(State {
            mode: Mode::Up,
            cuts: 0,
        });
        let carried = Arc::new(AtomicU64::new(0));
        let far = Far {
            address: target,
            carried: carried.clone(),
        };
        tokio::spawn(accept(Some(listener), address, far, changes));
        Ok(Self {
            address,
            state: Arc::new(state),
            carried,
        })
    }

    /// Where edgehold connects.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Bytes of TCP carried so far, both ways together.
    pub(crate) fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Changes what the link does from now on.
    pub(crate) fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.cuts += u64::from(mode == Mode::Refuse);
        });
    }

    /// Resets every open connection, once.
    pub(crate) fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("the link's address {address}"))
}

async fn accept(
    mut listener: Option<TcpListener>,
    address: SocketAddr,
    far: Far,
    mut changes: watch::Receiver<State>,
) {
    loop {
        let state = *changes.borrow_and_update();
        if state.mode == Mode::Refuse {
            listener = None;
        } else if listener.is_none() {
            listener = listen(address).await.ok();
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(AGAIN), if state.mode != Mode::Refuse && listener.is_none() => {}
            Ok((client, _)) = next(listener.as_ref()) => {
                tokio::spawn(forward(client, far.clone(), state.cuts, changes.clone()));
            }
        }
    }
}

async fn next(listener: Option<&TcpListener>) -> std::io::Result<(TcpStream, SocketAddr)> {
    match listener {
        Some(listener) => listener.accept().await,
        None => std::future::pending().await,
    }
}

/// Carries one connection until either end, or a cut, ends it.
async fn forward(client: TcpStream, far: Far, born: u64, changes: watch::Receiver<State>) {
    let (mut ups, mut cuts) = (changes.clone(), changes.clone());
    let carried = async {
        wait_until_up(&mut ups).await;
        let server = TcpStream::connect(far.address).await.ok()?;
        client.set_nodelay(true).ok()?;
        server.set_nodelay(true).ok()?;
        let (client_read, client_write) = client.into_split();
        let (server_read, server_write) = server.into_split();
        tokio::join!(
            carry(client_read, server_write, &far.carried, changes.clone()),
            carry(server_read, client_write, &far.carried, changes.clone()),
        );
        Some(())
    };
    // Dropping a socket with unread bytes resets it, another is closed; both are what a cut looks like.
    tokio::select! {
        _ = carried => {}
        () = cut_after(&mut cuts, born) => {}
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    carried: &AtomicU64,
    mut changes: watch::Receiver<State>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        wait_until_up(&mut changes).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
        carried.fetch_add(length as u64, Ordering::Relaxed);
    }
    let _ = to.shutdown().await;
}

async fn wait_until_up(changes: &mut watch::Receiver<State>) {
    let _ = changes.wait_for(|state| state.mode == Mode::Up).await;
}

async fn cut_after(changes: &mut watch::Receiver<State>, born: u64) {
    let _ = changes.wait_for(|state| state.cuts != born).await;
}
