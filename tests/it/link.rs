//! The way to the cloud: silent loss is noticed, a bad link is not taken for none, and nothing is left behind by any number
//! of flaps.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver_standin::{Fault, Options};
use edgehold::runtime::clock;
use edgehold::upstream::LinkState;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};

use crate::support::{DEADLINE, Node, Setup, config_map, eventually, watch_from};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn silent_loss_is_noticed_in_seconds_when_only_an_idle_watch_uses_the_connection() {
    let node = Node::start().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let version = node.api.revision().to_string();
    let _watch = connection.lines(&watch_from(LIST, &version)).await.unwrap();
    let mut link = node.running().link();
    let started = clock::now();
    node.api.fault(Fault::BlackHole);
    let noticed = link.wait_for(|state| *state != LinkState::Online);
    let noticed = tokio::time::timeout(DEADLINE, noticed)
        .await
        .map(|state| state.is_ok());
    assert_eq!(noticed, Ok(true));
    // 3 s of silence and 2 s for the PING; the rest is the machine's.
    assert!(clock::now() - started < Duration::from_secs(9));
}

/// What becomes of the next connections, one after the other; all that come later get through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Passes,
    Hangs,
}

/// Passes connections on to `to`, or lets them hang.
async fn relay(to: SocketAddr, fates: Arc<Mutex<VecDeque<Fate>>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    #[allow(clippy::disallowed_methods)] // a test's own tasks
    tokio::spawn(async move {
        let mut hanging = Vec::new();
        while let Ok((mut near, _)) = listener.accept().await {
            if fates.lock().pop_front() == Some(Fate::Hangs) {
                hanging.push(near);
                continue;
            }
            tokio::spawn(async move {
                let mut far = TcpStream::connect(to).await?;
                tokio::io::copy_bidirectional(&mut near, &mut far).await
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_the_cache_cannot_answer_outlives_several_failed_dials_while_probes_get_through() {
    let setup = Setup {
        connect_timeout: "500ms",
        response_timeout: "10s",
        probe_timeout: "10s",
        ..Setup::default()
    };
    let mut node = Node::with(Options::default(), setup).await;
    // The first probe, and a connection for other requests.
    let fates = Arc::new(Mutex::new(VecDeque::from([Fate::Passes; 2])));
    let relay = relay(node.api.addr(), Arc::clone(&fates)).await;
    node.relaunch_towards(relay).await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.kubelet().get("/version").await.status, 200);
    eventually("the first probe is through", || async { fates.lock().is_empty() }).await;
    node.wait_link(LinkState::Online).await;
    // Each dial of the request, and the probe that it makes necessary.
    fates
        .lock()
        .extend([Fate::Hangs, Fate::Passes, Fate::Hangs, Fate::Passes]);
    let answer = node.kubelet().get(&format!("{LIST}/a")).await;
    assert_eq!(
        (answer.status, answer.header("cache-status")),
        (200, ""),
        "{}",
        answer.text()
    );
    assert!(fates.lock().is_empty(), "the test is void: {:?}", fates.lock());
}

/// Breaks every connection so many times, each time in the midst of use.
async fn flap(node: &Node, times: usize) {
    for _ in 0..times {
        node.api.cut_connections();
        // The repetition of a read may meet the cut as well, and the link may be in doubt.
        eventually("a read is answered by the cloud", || async {
            let answer = node.kubelet().get(LIST).await;
            answer.status == 200 && answer.header("cache-status").is_empty()
        })
        .await;
    }
}

/// How many connections edgehold counts as open.
fn counted(node: &Node) -> u64 {
    let text = node.running().metrics_text().unwrap();
    let lines = text
        .lines()
        .filter(|line| line.starts_with("edgehold_upstream_connections{"));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn flaps_leave_no_connection_behind_and_the_metrics_agree_with_the_cloud() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    flap(&node, 60).await;
    eventually("both count the same", || async {
        let open = node.api.counters().connections_open;
        open == 1 && counted(&node) == open
    })
    .await;
}

/// Run it alone: it counts what the whole process has open.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes long, and counts the descriptors and the memory of the whole process"]
async fn two_thousand_flaps_leave_descriptors_and_memory_as_they_were() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    flap(&node, 200).await;
    let (files, resident) = (descriptors(), resident_kib());
    flap(&node, 2000).await;
    eventually("as many descriptors as before", || async {
        descriptors() <= files + 2
    })
    .await;
    let grown = resident_kib().saturating_sub(resident);
    println!(
        "descriptors {files} -> {}, memory {resident} KiB + {grown} KiB",
        descriptors()
    );
    assert!(grown < 8 << 10, "{grown} KiB more");
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
