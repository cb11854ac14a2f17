//! One address connects, shakes hands and asks as fast as it may; kubelet hardly notices.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use apiserver_standin::{Client, Fault, connect};
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;

use super::put;
use crate::figures::{Figures, percentile};
use crate::node::{NEIGHBOUR, Node, PATIENCE};
use crate::wire::Conditions;

const CONNECTS: usize = 20_000;
const STREAMS: usize = 2_000;
const SLOW_HANDSHAKES: usize = 400;

/// Connections that are open at once, one after the other given up for the next.
const OPEN: usize = 1_500;

/// Who connects at the same time.
const WORKERS: usize = 50;

/// Streams on one connection: as many as edgehold lets one have.
const EACH: usize = 250;

/// The head of a ClientHello of 512 bytes.
const HELLO: [u8; 9] = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];

/// How long a stream is left without its answer, and when whoever was refused asks again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the cloud never answers.
const STALLED: &str = "/api/v1/namespaces/flood/secrets";

/// What kubelet reads.
const OBJECT: &str = "/api/v1/namespaces/shop/configmaps/first";

/// As in `crowd`: a good mobile link.
const ROUND_TRIP: Duration = Duration::from_millis(40);

/// Between two requests of kubelet.
const PACE: Duration = Duration::from_millis(10);

pub(super) async fn flood(node: &Node, length: Duration, figures: &mut Figures) -> anyhow::Result<()> {
    put(node, "shop", "first", "x");
    node.api.fault(Fault::Stall.on(STALLED));
    node.set(Conditions {
        delay: ROUND_TRIP / 2,
        ..Conditions::GOOD
    });
    let mut alone = kubelet(node, length).await?;
    let flood = Flood::start(node, length);
    let mut beside = kubelet(node, length).await?;
    let done = flood.end()?;
    figures.note(
        "the flood: connections, streams, slow handshakes",
        format_args!("{done:?}"),
    );
    for (what, alone, beside) in [
        ("on a connection that is open", &mut alone.kept, &mut beside.kept),
        ("with a handshake each", &mut alone.fresh, &mut beside.fresh),
    ] {
        figures.note(
            &format!("kubelet {what}: requests, alone and beside it"),
            format_args!("{}, {}", alone.len(), beside.len()),
        );
        let mut ratio = |percent| {
            let (alone, beside) = (percentile(alone, percent), percentile(beside, percent));
            beside.as_secs_f64() / alone.as_secs_f64()
        };
        let (median, late) = (ratio(50), ratio(99));
        figures.note(
            &format!("kubelet {what}: median, times that alone"),
            format_args!("{median:.2}"),
        );
        figures.promise_number(
            &format!("kubelet {what}: p99, times that alone"),
            late,
            2.0,
            "times",
        );
    }
    Ok(())
}

/// How long each request of kubelet took.
struct Times {
    kept: Vec<Duration>,
    fresh: Vec<Duration>,
}

/// Every answer is the object.
async fn kubelet(node: &Node, length: Duration) -> anyhow::Result<Times> {
    let client = node.client();
    let kept = async {
        let mut connection = client.connect().await?;
        paced(length, async || {
            let answer = connection.send("GET", OBJECT, "");
            Ok(tokio::time::timeout(PATIENCE, answer).await??.status)
        })
        .await
    };
    let fresh = paced(length, async || {
        let answer = client.send("GET", OBJECT, "");
        Ok(tokio::time::timeout(PATIENCE, answer).await??.status)
    });
    let (kept, fresh) = tokio::try_join!(kept, fresh)?;
    Ok(Times { kept, fresh })
}

async fn paced(
    length: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<u16>,
) -> anyhow::Result<Vec<Duration>> {
    let began = tokio::time::Instant::now();
    let mut times = Vec::new();
    while began.elapsed() < length {
        let asked = tokio::time::Instant::now();
        let status = ask().await?;
        times.push(asked.elapsed());
        anyhow::ensure!(status == 200, "kubelet got {status}");
        tokio::time::sleep(PACE).await;
    }
    Ok(times)
}

/// From another address, on a thread of its own, so that its work is not waited for by kubelet's.
struct Flood {
    thread: std::thread::JoinHandle<()>,
    over: Arc<AtomicBool>,
    done: Arc<Done>,
}

/// How much of it has come about.
#[derive(Debug, Default)]
struct Done {
    connections: AtomicUsize,
    streams: AtomicUsize,
    handshakes: AtomicUsize,
}

impl Flood {
    fn start(node: &Node, length: Duration) -> Self {
        let (to, stranger) = (node.listens(), node.stranger());
        let (over, done) = (Arc::new(AtomicBool::new(false)), Arc::new(Done::default()));
        let (ending, doing) = (Arc::clone(&over), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async {
                let mut all = JoinSet::new();
                for _ in 0..WORKERS {
                    all.spawn(connects(to, length, Arc::clone(&ending), Arc::clone(&doing)));
                }
                for n in 0..STREAMS / EACH {
                    let stranger = stranger.clone();
                    all.spawn(streams(stranger, n, Arc::clone(&ending), Arc::clone(&doing)));
                }
                all.spawn(handshakes(to, Arc::clone(&ending), Arc::clone(&doing)));
                while all.join_next().await.is_some() {}
            });
        });
        Self { thread, over, done }
    }

    fn end(self) -> anyhow::Result<Arc<Done>> {
        self.over.store(true, Ordering::Relaxed);
        let ended = self.thread.join();
        anyhow::ensure!(ended.is_ok(), "the flood broke");
        Ok(self.done)
    }
}

/// Its share of all connections, evenly over the time, each open until some others have come.
async fn connects(to: SocketAddr, length: Duration, over: Arc<AtomicBool>, done: Arc<Done>) {
    let share = CONNECTS / WORKERS;
    let mut ticks = tokio::time::interval(length / u32::try_from(share).unwrap_or(1));
    let mut open = VecDeque::new();
    for _ in 0..share {
        ticks.tick().await;
        if over.load(Ordering::Relaxed) {
            return;
        }
        let connecting = connect(Some(flooder()), to);
        if let Ok(Ok(stream)) = tokio::time::timeout(PATIENCE, connecting).await {
            done.connections.fetch_add(1, Ordering::Relaxed);
            open.push_back(stream);
        }
        if open.len() > OPEN / WORKERS {
            open.pop_front();
        }
    }
}

/// Requests that stay under way, as many as one connection may have; whoever is refused asks again.
async fn streams(stranger: Client, number: usize, over: Arc<AtomicBool>, done: Arc<Done>) {
    let Ok(connection) = stranger.connect().await else {
        return;
    };
    let mut asking = JoinSet::new();
    for n in 0..EACH {
        let (over, done) = (Arc::clone(&over), Arc::clone(&done));
        let stream = connection.share();
        asking.spawn(async move {
            let mut stream = stream?;
            let target = format!("{STALLED}/{number}-{n}");
            done.streams.fetch_add(1, Ordering::Relaxed);
            while !over.load(Ordering::Relaxed) {
                let answer = stream.open_patiently("GET", &target, "".into());
                let _refused = tokio::time::timeout(AGAIN, answer).await;
                tokio::time::sleep(AGAIN).await;
            }
            Some(())
        });
    }
    while asking.join_next().await.is_some() {}
}

/// A byte at a time, for as long as it is borne.
async fn handshakes(to: SocketAddr, over: Arc<AtomicBool>, done: Arc<Done>) {
    let mut open = Vec::new();
    while !over.load(Ordering::Relaxed) {
        while open.len() < SLOW_HANDSHAKES {
            let connecting = connect(Some(flooder()), to);
            match tokio::time::timeout(PATIENCE, connecting).await {
                Ok(Ok(stream)) => {
                    done.handshakes.fetch_add(1, Ordering::Relaxed);
                    open.push((stream, 0));
                }
                _ => break,
            }
        }
        let mut left = Vec::new();
        for (mut stream, said) in open {
            let byte = HELLO.get(said).copied().unwrap_or(3);
            if stream.write_all(&[byte]).await.is_ok() {
                left.push((stream, said + 1));
            }
        }
        open = left;
        tokio::time::sleep(AGAIN / 4).await;
    }
}

fn flooder() -> IpAddr {
    NEIGHBOUR.parse().expect("an address")
}
