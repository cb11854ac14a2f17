use std::io;
use std::pin::Pin;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::join_all;
use http::Method;
use http_body_util::BodyExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadBuf};

use super::super::activity::Tracked;
use super::super::error::Sent;
use super::super::link::Link;
use super::super::metrics::UpstreamMetrics;
use super::super::settings::KeepAlive;
use super::super::testing;
use super::*;
use crate::runtime::body;

#[test]
fn http1_requests_carry_the_origin_form_byte_for_byte() {
    let target = "/api/v1/namespaces/a%2Fb/pods?labelSelector=%21x&x=%7E";
    let request = Request::get(format!("https://cloud:6443{target}"))
        .body(body::empty())
        .unwrap();
    let request = to_http1(request);
    assert_eq!(request.uri().to_string(), target);
    assert_eq!(request.headers()[http::header::HOST], "cloud:6443");
}

/// A server's end that hears nothing once it is told so: what comes from the edge is stuck, what goes there arrives.
struct Deaf {
    inner: DuplexStream,
    hears: Arc<AtomicBool>,
}

impl AsyncRead for Deaf {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.hears.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Deaf {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// What a server does with the one request that it gets.
#[derive(Clone, Copy)]
enum Answer {
    /// So many KiB, one every four seconds: a PING is sent before the next.
    Slowly(u32),
    /// The head after so long.
    After(Duration),
}

/// A connection to a server that hears nothing any more as soon as it has a request.
async fn connection(answer: Answer) -> (Arc<Connection>, Link, Tasks) {
    opened(|far| serve(far, answer)).await
}

/// A connection to such a server.
async fn opened<S>(server: impl FnOnce(DuplexStream) -> S) -> (Arc<Connection>, Link, Tasks)
where
    S: Future<Output = ()> + Send + 'static,
{
    let (near, far) = tokio::io::duplex(1 << 20);
    let tasks = Tasks::new();
    tasks.spawn("server", server(far));
    let link = Link::new(testing::settings(&["cloud"]), UpstreamMetrics::default());
    let server = Arc::clone(link.server_set().servers.first().unwrap());
    let activity = ConnectionActivity::new(server.activity());
    let opening = Opening {
        version: Alpn::H2,
        liveness: Liveness::new(&server, Arc::clone(&activity), KeepAlive::default()),
        drained: CancellationToken::new(),
        gauges: Gauges::default(),
        path: Path {
            interface: 0,
            address: None,
        },
    };
    let opened = Connection::open(Tracked::new(near, activity), opening, &tasks).await;
    (opened.unwrap_or_else(|error| panic!("{error}")), link, tasks)
}

async fn serve(stream: DuplexStream, answer: Answer) {
    let hears = Arc::new(AtomicBool::new(true));
    let deaf = Deaf {
        inner: stream,
        hears: Arc::clone(&hears),
    };
    let mut connection = h2::server::handshake(deaf).await.unwrap();
    let (_request, mut respond) = connection.accept().await.unwrap().unwrap();
    hears.store(false, Ordering::Relaxed);
    let answering = async {
        if let Answer::After(delay) = answer {
            tokio::time::sleep(delay).await;
        }
        let mut body = respond.send_response(Response::new(()), false).unwrap();
        if let Answer::Slowly(pieces) = answer {
            for _ in 0..pieces {
                tokio::time::sleep(Duration::from_secs(4)).await;
                body.send_data(Bytes::from(vec![7; 1024]), false).unwrap();
            }
        }
        body.send_data(Bytes::new(), true).unwrap();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = answering => {}
        _ended = std::future::poll_fn(|cx| connection.poll_closed(cx)) => {}
    }
}

fn lease(connection: &Arc<Connection>) -> Option<Lease> {
    connection.try_lease(&Arc::default())
}

fn request() -> Request<Body> {
    Request::get("https://cloud:6443/x").body(body::empty()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_arrives_slowly_is_whole_though_no_ping_is_acknowledged_before_its_end() {
    // Six minutes, and less than a window: nothing is acknowledged in all this time.
    let (connection, _link, _tasks) = connection(Answer::Slowly(100)).await;
    let mut lease = lease(&connection).unwrap();
    let Ok(response) = lease.send(request(), Idempotency::Idempotent).await else {
        panic!("no answer");
    };
    let whole = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(whole.len(), 100 << 10);
}

#[tokio::test(start_paused = true)]
async fn a_read_leaves_a_connection_that_others_overtake_and_a_write_stays() {
    for (idempotency, stays) in [
        (Idempotency::Idempotent, false),
        (Idempotency::NotIdempotent, true),
    ] {
        let (connection, _link, _tasks) = connection(Answer::After(Duration::from_secs(3))).await;
        let mut waiting = lease(&connection).unwrap();
        let mut sending = std::pin::pin!(waiting.send(request(), idempotency));
        let early = tokio::time::timeout(Duration::from_secs(1), sending.as_mut()).await;
        assert!(early.is_err(), "the answer comes later");
        assert!(lease(&connection).is_some());
        connection.activity().overtaken().cancel();
        match sending.await {
            Ok(_) => assert!(stays),
            Err(failed) => {
                assert!(!stays);
                assert_eq!(failed.error.failure, Failure::Silent);
            }
        }
        assert!(lease(&connection).is_none(), "nothing new goes there");
    }
}

const PREFACE: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();
const HEADERS: u8 = 1;
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// NO_ERROR, and nothing was processed.
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Leaves when a request comes.
async fn leaving(mut far: DuplexStream) {
    far.read_exact(&mut [0; PREFACE]).await.unwrap();
    far.write_all(SETTINGS).await.unwrap();
    loop {
        let mut head = [0; 9];
        far.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        far.read_exact(&mut vec![0; usize::try_from(length).unwrap()])
            .await
            .unwrap();
        if head[3] == HEADERS {
            far.write_all(GOAWAY).await.unwrap();
            // What else was sent is not read any more, but the connection is there until the other end is done.
            let _whole = far.read_to_end(&mut Vec::new()).await;
            return;
        }
    }
}

async fn sent_while_leaving(method: &Method, body: Body) -> SendFailed {
    let (connection, _link, _tasks) = opened(leaving).await;
    let mut lease = connection.try_lease(&Arc::default()).unwrap();
    let request = Request::builder().method(method).uri("https://cloud:6443/x");
    let sent = lease
        .send(request.body(body).unwrap(), Idempotency::NotIdempotent)
        .await;
    drop(lease);
    assert!(connection.is_gone(), "it takes no other request");
    sent.err().unwrap()
}

#[tokio::test]
async fn what_a_connection_that_goes_away_has_not_processed_is_sent_again_unless_it_could_happen_twice() {
    let object = || body::full("{}");
    for (method, body, again) in [
        (Method::GET, body::empty(), true),
        (Method::POST, object(), true),
        (Method::DELETE, object(), true),
        (Method::DELETE, body::empty(), false),
        (Method::POST, body::empty(), false),
    ] {
        let failed = sent_while_leaving(&method, body).await;
        assert_eq!(failed.unsent.is_some(), again, "{method}: {}", failed.error);
        let sent = if again { Sent::No } else { Sent::Maybe };
        assert_eq!(failed.error.sent, sent, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_allows_one_stream_is_known_as_soon_as_it_has_answered() {
    let (connection, _link, _tasks) = opened(|far| async move {
        let mut one = h2::server::Builder::new();
        let mut connection = one
            .max_concurrent_streams(1)
            .handshake::<_, Bytes>(far)
            .await
            .unwrap();
        while let Some(Ok((_request, mut respond))) = connection.accept().await {
            respond.send_response(Response::new(()), true).unwrap();
        }
    })
    .await;
    let began = clock::now();
    assert!(connection.is_settling());
    let mut only = lease(&connection).unwrap();
    assert!(only.send(request(), Idempotency::Idempotent).await.is_ok());
    // The driver has its turn.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!connection.is_settling());
    assert_eq!(connection.allows(), 1);
    assert_eq!(clock::now(), began);
}

async fn flush(connection: &mut h2::server::Connection<Deaf, Bytes>) {
    let closed = std::future::poll_fn(|cx| connection.poll_closed(cx));
    let ended = tokio::time::timeout(Duration::from_millis(10), closed).await;
    assert!(ended.is_err(), "{ended:?}");
}

/// h2 remembers fifty streams that were given up; a frame that was under way to one more counts as an error of the server, and
/// by default the 1024th of these ends the connection, with all the watches on it.
#[tokio::test(start_paused = true)]
async fn answers_that_nobody_waits_for_any_more_end_no_connection() {
    const AT_ONCE: usize = 100;
    let (connection, _link, _tasks) = opened(|far| async move {
        let hears = Arc::new(AtomicBool::new(true));
        let deaf = Deaf {
            inner: far,
            hears: Arc::clone(&hears),
        };
        let mut connection = h2::server::handshake(deaf).await.unwrap();
        let mut asked = Vec::new();
        while let Some(Ok((_request, respond))) = connection.accept().await {
            asked.push(respond);
            if asked.len() < AT_ONCE {
                continue;
            }
            // From here on it does not hear that the answers are given up.
            hears.store(false, Ordering::Relaxed);
            let head = |mut respond: h2::server::SendResponse<Bytes>| {
                respond.send_response(Response::new(()), false).unwrap()
            };
            let bodies: Vec<_> = asked.drain(..).map(head).collect();
            flush(&mut connection).await;
            for mut body in bodies {
                body.send_data(Bytes::from_static(b"x"), true).unwrap();
            }
            flush(&mut connection).await;
            hears.store(true, Ordering::Relaxed);
        }
    })
    .await;
    for _ in 0..30 {
        let asking = (0..AT_ONCE).map(|_| async {
            let mut lease = loop {
                match lease(&connection) {
                    Some(lease) => break lease,
                    None => tokio::task::yield_now().await,
                }
            };
            lease.send(request(), Idempotency::Idempotent).await.map(drop)
        });
        for answer in join_all(asking).await {
            assert!(answer.is_ok());
        }
    }
    assert!(!connection.is_gone());
}
