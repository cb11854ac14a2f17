//! Accepting connections and speaking HTTP on them.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{Notify, watch};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::Certificate;
use crate::fault::Faults;
use crate::listener::Door;
use crate::options::Options;
use crate::replay::Replay;
use crate::seen::{Open, Protocol, Recorder};
use crate::serve;
use crate::socket::{Control, Socket};
use crate::standin::Cluster;
use crate::tls::Tls;

/// Everything the tasks of one server share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub options: Options,
    pub cluster: Cluster,
    pub tls: Tls,
    pub door: Door,
    pub faults: Faults,
    pub recorder: Arc<Recorder>,
    pub replay: Option<Replay>,
    pub connections: Mutex<HashMap<u64, Arc<Control>>>,
    pub go_away: watch::Sender<u64>,
    pub tasks: Tasks,
    /// Watches that stream, by user.
    pub watches: Mutex<HashMap<String, usize>>,
    /// Seconds by which `Date` is off.
    pub skew: std::sync::atomic::AtomicI64,
}

/// All tasks of one server; they end together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tasks {
    pub cancel: CancellationToken,
    pub tracker: TaskTracker,
}

impl Tasks {
    pub(crate) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = work => {}
            }
        });
    }
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, work: F) {
        self.spawn(async move {
            work.await;
        });
    }
}

/// One connection, as its requests see it.
#[derive(Debug)]
pub(crate) struct Conn {
    /// Counted and reachable for faults as long as anything, an upgraded stream too, holds the connection.
    pub listed: Listed,
    pub certificate: Certificate,
    pub protocol: Protocol,
    /// Asks the connection to end after its running requests.
    pub leave: Notify,
}

pub(crate) async fn accept(shared: Arc<Shared>) {
    loop {
        match std::future::poll_fn(|cx| shared.door.poll_accept(cx)).await {
            Ok(stream) => shared.tasks.spawn(connection(Listed::new(&shared, stream))),
            Err(error) => {
                tracing::debug!(%error, "accept");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn connection(listed: Listed) {
    let shared = listed.shared.clone();
    let mut socket = Socket(listed.control.clone());
    if shared.faults.stalls_handshake() {
        let _ = tokio::io::copy(&mut socket, &mut tokio::io::sink()).await;
        return;
    }
    let Ok(stream) = TlsAcceptor::from(shared.tls.config.clone()).accept(socket).await else {
        return;
    };
    let tls = stream.get_ref().1;
    let protocol = if tls.alpn_protocol() == Some(b"h2") {
        Protocol::Http2
    } else {
        Protocol::Http1
    };
    let certificate = shared.tls.judge(tls.peer_certificates());
    let control = listed.control.clone();
    let conn = Arc::new(Conn {
        listed,
        certificate,
        protocol,
        leave: Notify::new(),
    });
    serve_http(shared, conn, stream).await;
    // One of HTTP/1.1 may have been upgraded, and goes on.
    if protocol == Protocol::Http2 {
        linger(Socket(control)).await;
    }
}

/// Reads on for a moment, as Go's HTTP/2 server does after its last GOAWAY (`goAwayTimeout`): a socket that is closed under what
/// the client still sends is reset, and the client may never read what was said last.
async fn linger(mut socket: Socket) {
    let _ = socket.shutdown().await;
    let rest = async { tokio::io::copy(&mut socket, &mut tokio::io::sink()).await };
    let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
}

async fn serve_http(shared: Arc<Shared>, conn: Arc<Conn>, stream: tokio_rustls::server::TlsStream<Socket>) {
    let builder = builder(&shared);
    let mut go_away = shared.go_away.subscribe();
    let service = {
        let (shared, conn) = (shared.clone(), conn.clone());
        service_fn(move |request: Request<Incoming>| serve::handle(shared.clone(), conn.clone(), request))
    };
    let mut http = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    loop {
        tokio::select! {
            result = http.as_mut() => {
                if let Err(error) = result {
                    tracing::debug!(id = conn.listed.id, error, "connection");
                }
                return;
            }
            Ok(()) = go_away.changed() => http.as_mut().graceful_shutdown(),
            () = conn.leave.notified() => http.as_mut().graceful_shutdown(),
        }
    }
}

fn builder(shared: &Shared) -> auto::Builder<Tasks> {
    let mut builder = auto::Builder::new(shared.tasks.clone());
    builder.http1().timer(TokioTimer::new());
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(shared.options.max_concurrent_streams)
        .max_header_list_size(1 << 20)
        .initial_stream_window_size(256 << 10)
        .initial_connection_window_size(25 << 20);
    builder
}

/// A connection on the list; it leaves the list when dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    shared: Arc<Shared>,
    pub id: u64,
    pub control: Arc<Control>,
    _open: Open,
}

impl Listed {
    /// Listed as soon as it is accepted, so that a fault that begins now finds it.
    fn new(shared: &Arc<Shared>, stream: TcpStream) -> Self {
        let control = Control::new(stream);
        let (id, open) = shared.recorder.connection();
        let mut connections = shared.connections.lock();
        // Asked under the lock: a black hole that ends now either is not seen here, or finds this connection.
        if shared.faults.black_hole() {
            control.silence(true);
        }
        connections.insert(id, control.clone());
        Self {
            shared: shared.clone(),
            id,
            control,
            _open: open,
        }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.shared.connections.lock().remove(&self.id);
    }
}
