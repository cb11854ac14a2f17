//! The whole process, measured from outside: memory, processor time and latency of the release binary as a child.
//!
//! `cargo bench --bench process` prints a table and fails where a promise of docs/performance.md is not met;
//! `cargo bench --bench process -- lists readers` does only these. `mixed` is done only if it is asked for: what ten minutes
//! (or `MIXED_MINUTES`) of informers and of pollers with a new selector each time leave behind.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods
)]

#[path = "../tests/it/child.rs"]
mod child;

use std::path::Path;
use std::time::Duration;

use apiserver_standin::{Client, Options, Protocol};
use http_body_util::BodyExt;
use tokio::time::Instant;

use child::{Child, Memory, cpu, drain};

const LIST: &str = "/api/v1/namespaces/huge/configmaps";
const JSON: &str = "application/json";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const UID: &[u8] = b"00000000-0000-4000-8000-";
const PROTOCOLS: [(Protocol, &str); 2] = [(Protocol::Http2, "h2"), (Protocol::Http1, "h1")];

fn main() {
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let wanted = |name: &str| asked.is_empty() || asked.iter().any(|a| a == name);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        if wanted("idle") {
            idle().await;
        }
        if wanted("lists") {
            lists().await;
        }
        if wanted("open") {
            open().await;
        }
        if wanted("readers") {
            readers().await;
        }
        if wanted("gets") {
            gets().await;
        }
        if wanted("offline") {
            offline().await;
        }
        if wanted("watches") {
            watches().await;
        }
        // Only by name: it takes ten minutes.
        if asked.iter().any(|a| a == "mixed") {
            mixed().await;
        }
    });
}

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_edgehold"))
}

/// A promise, checked.
fn promise(what: &str, measured: f64, bound: f64, unit: &str) {
    let met = if measured < bound { "ok" } else { "NOT MET" };
    println!("  {what}: {measured:.2} {unit} (bound {bound} {unit}): {met}");
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

fn grown(after: u64, before: u64) -> f64 {
    mib(after.saturating_sub(before))
}

async fn idle() {
    println!("idle, after start");
    let node = Child::start(program(), Options::default()).await;
    let Memory {
        resident,
        anonymous,
        threads,
        ..
    } = node.memory();
    println!(
        "  resident {:.1} MiB, of it anonymous {:.1} MiB, {threads} threads",
        mib(resident),
        mib(anonymous)
    );
    for _ in 0..100 {
        node.client().get("/version").await;
    }
    let Memory {
        resident,
        anonymous,
        threads,
        ..
    } = node.memory();
    println!(
        "  after 100 connections: resident {:.1} MiB, anonymous {:.1} MiB, {threads} threads",
        mib(resident),
        mib(anonymous)
    );
}

/// A list of 200 MB through the proxy, recorded, and read back without the cloud.
async fn lists() {
    const ITEMS: usize = 100_000;
    println!("a list of {ITEMS} objects of 2 KB through the proxy");
    for (protocol, version) in PROTOCOLS {
        for encoding in [JSON, PROTOBUF] {
            let mut node = Child::start(program(), Options::huge(ITEMS, 2000)).await;
            let client = node.client().protocol(protocol).header("accept", encoding);
            client.get("/version").await;
            let before = node.memory();
            let busy = node.cpu();
            let (started, mut times) = (Instant::now(), Vec::new());
            let list = drain(&client, LIST, UID).await;
            times.push(started.elapsed());
            assert_eq!((list.status, list.found), (200, ITEMS));
            node.recorded(1).await;
            times.push(started.elapsed());
            let after = node.memory();
            println!(
                " {version} {encoding}: {} MB in {:?}, recorded after {:?}, {:?} of processor time, given up {}",
                list.bytes / 1_000_000,
                times[0],
                times[1],
                node.cpu() - busy,
                node.given_up(),
            );
            promise(
                "peak memory added",
                grown(after.peak, before.resident),
                16.0,
                "MiB",
            );
            println!(
                "  still there: {:.2} MiB (the index of the view)",
                grown(after.resident, before.resident)
            );
            // The list again, unchanged, and then without the cloud.
            node.forget_peak();
            let again = drain(&client, LIST, UID).await;
            node.recorded(2).await;
            println!(
                "  the same list again: {:.2} MiB more at the peak",
                grown(node.memory().peak, after.resident)
            );
            assert_eq!(again, list);
            node.cut().await;
            let before = node.memory();
            node.forget_peak();
            let started = Instant::now();
            let cached = drain(&client, LIST, UID).await;
            println!("  offline in {:?}", started.elapsed());
            promise(
                "peak memory added offline",
                grown(node.memory().peak, before.resident),
                16.0,
                "MiB",
            );
            assert_eq!(cached, list, "offline");
            node.stop().await;
        }
    }
}

/// A stored view is opened.
async fn open() {
    const ITEMS: usize = 100_000;
    println!("a stored view of {ITEMS} objects of 2 KB is opened from disk");
    let mut node = Child::start(program(), Options::huge(ITEMS, 2000)).await;
    drain(&node.client(), LIST, b"").await;
    node.recorded(1).await;
    for round in 0..3 {
        let started = Instant::now();
        node.launch(program()).await;
        let launched = started.elapsed();
        node.cut().await;
        let client = node.client();
        let mut connection = client.connect().await.unwrap();
        let unknown = connection
            .send("GET", "/api/v1/configmaps/none", "")
            .await
            .unwrap();
        let before = node.memory();
        // One object out of the view: the view has to be opened, but is not read.
        let started = Instant::now();
        let one = connection
            .send("GET", &format!("{LIST}/cm-00000007"), "")
            .await
            .unwrap();
        let took = started.elapsed();
        assert_eq!((unknown.status, one.status), (503, 200), "{}", one.text());
        println!(" round {round}: launched in {launched:?}");
        promise("first answer out of it", took.as_secs_f64() * 1e3, 300.0, "ms");
        promise(
            "memory added",
            grown(node.memory().resident, before.resident),
            20.0,
            "MiB",
        );
        node.api.clear_faults();
    }
}

/// Offline lists to many readers at once.
async fn readers() {
    const ITEMS: usize = 10_000;
    const READERS: usize = 20;
    println!("{READERS} readers of an offline list of {ITEMS} objects of 2 KB");
    let node = Child::start(program(), Options::huge(ITEMS, 2000)).await;
    drain(&node.client(), LIST, b"").await;
    node.recorded(1).await;
    node.cut().await;
    let one = drain(&node.client(), LIST, UID).await;
    for (protocol, version) in PROTOCOLS {
        for slow in [false, true] {
            let before = node.memory();
            node.forget_peak();
            let started = Instant::now();
            let readers: Vec<_> = (0..READERS)
                .map(|_| tokio::spawn(read_at(node.client().protocol(protocol), slow)))
                .collect();
            for reader in readers {
                assert_eq!(reader.await.unwrap(), one.bytes);
            }
            let after = node.memory();
            let pace = if slow { "slow" } else { "fast" };
            println!(
                " {version} {pace}: {:?}, {} threads",
                started.elapsed(),
                after.threads
            );
            let each = grown(after.peak, before.resident) / READERS as f64;
            promise("peak memory added for each", each, 8.0, "MiB");
        }
    }
}

/// Bytes of a list, read as fast as they come or over about two seconds.
async fn read_at(client: Client, slow: bool) -> usize {
    let mut connection = client.connect().await.unwrap();
    let mut response = connection.open("GET", LIST, "").await.unwrap();
    let (mut bytes, mut pause_at) = (0, 0);
    while let Some(frame) = response.body_mut().frame().await {
        bytes += frame.unwrap().into_data().map_or(0, |data| data.len());
        if slow && bytes > pause_at {
            pause_at = bytes + (1 << 20);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    bytes
}

/// The cost of a GET that says what is known.
async fn gets() {
    const COUNT: u32 = 10_000;
    println!("GET of an object of 2 KB, {COUNT} times on one connection, unchanged");
    let node = Child::start(program(), Options::huge(100, 2000)).await;
    let target = format!("{LIST}/cm-00000007");
    for (protocol, version) in PROTOCOLS {
        let direct = node.direct().protocol(protocol);
        let through = node.client().protocol(protocol);
        run_gets(&direct, &target, 500).await;
        run_gets(&through, &target, 500).await;
        let busy = cpu("self");
        let (direct_wall, direct_cpu) = (run_gets(&direct, &target, COUNT).await, cpu("self") - busy);
        let (busy, ours) = (cpu("self"), node.cpu());
        let through_wall = run_gets(&through, &target, COUNT).await;
        let (rest_cpu, ours) = (cpu("self") - busy, node.cpu() - ours);
        println!(
            " {version}: direct {:?} a request, {:?} of processor time in client and stand-in together",
            direct_wall / COUNT,
            direct_cpu / COUNT
        );
        println!(
            "  through edgehold {:?} a request, {:?} of processor time in edgehold, {:?} in client and stand-in",
            through_wall / COUNT,
            ours / COUNT,
            rest_cpu / COUNT
        );
        println!(
            "  ratio of processor time: {:.2}",
            ours.as_secs_f64() / direct_cpu.as_secs_f64()
        );
    }
}

async fn run_gets(client: &Client, target: &str, count: u32) -> Duration {
    let mut connection = client.connect().await.unwrap();
    let started = Instant::now();
    for _ in 0..count {
        let answer = connection.send("GET", target, "").await.unwrap();
        assert_eq!(answer.status, 200);
    }
    started.elapsed()
}

/// Latency of answers out of the cache.
async fn offline() {
    const COUNT: usize = 2000;
    const CLIENTS: usize = 8;
    println!("answers from the cache, the cloud refuses");
    let node = Child::start(program(), Options::huge(1000, 2000)).await;
    let target = format!("{LIST}/cm-00000007");
    for target in [LIST, &target] {
        drain(&node.client(), target, b"").await;
    }
    node.recorded(1).await;
    node.api
        .fault(apiserver_standin::Fault::Refuse(apiserver_standin::Existing::Cut));
    let mut connection = node.client().connect().await.unwrap();
    let started = Instant::now();
    let first = connection.send("GET", &target, "").await.unwrap();
    let took = started.elapsed();
    assert_eq!(
        (first.status, first.header("cache-status")),
        (200, "edgehold; hit; detail=stale")
    );
    promise("the first GET", took.as_secs_f64() * 1e3, 50.0, "ms");
    for (what, target, count) in [
        ("GET of 2 KB", target.as_str(), COUNT),
        ("LIST of 2 MB", LIST, COUNT / 20),
    ] {
        let (busy, started) = (node.cpu(), Instant::now());
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (client, target) = (node.client(), target.to_owned());
                tokio::spawn(async move {
                    let mut connection = client.connect().await.unwrap();
                    let mut times = Vec::with_capacity(count);
                    for _ in 0..count {
                        let started = Instant::now();
                        let answer = connection.send("GET", &target, "").await.unwrap();
                        times.push(started.elapsed());
                        assert_eq!(answer.status, 200);
                    }
                    times
                })
            })
            .collect();
        let mut times = Vec::new();
        for client in clients {
            times.extend(client.await.unwrap());
        }
        let (total, busy) = (started.elapsed(), node.cpu() - busy);
        times.sort_unstable();
        let at = |share: usize| times[(times.len() - 1) * share / 1000];
        println!(
            " {CLIENTS} clients, {what}: p50 {:?}, p99 {:?}, max {:?}, {:.0} a second, {:?} of processor time each",
            at(500),
            at(990),
            at(1000),
            times.len() as f64 / total.as_secs_f64(),
            busy / u32::try_from(times.len()).unwrap()
        );
    }
    println!("  {} threads", node.memory().threads);
}

/// Memory of watches on which nothing happens.
async fn watches() {
    const WATCHES: usize = 1000;
    println!("{WATCHES} idle watches on one connection");
    for distinct in [false, true] {
        idle_watches(WATCHES, distinct).await;
    }
}

/// In a process of their own: memory that earlier watches gave back would be counted as free.
async fn idle_watches(count: usize, distinct: bool) {
    let node = Child::start(program(), Options::default()).await;
    for n in 0..20 {
        node.api
            .put(serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": "shop", "name": format!("c{n}")}, "data": {"k": "v"}}));
    }
    let list = node
        .client()
        .get("/api/v1/namespaces/shop/configmaps")
        .await
        .json();
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    node.recorded(1).await;
    let mut connection = node.client().connect().await.unwrap();
    let before = node.memory();
    let mut open = Vec::new();
    for n in 0..count {
        let selector = if distinct {
            format!("&labelSelector=app%3Da{n}")
        } else {
            String::new()
        };
        let target = format!(
            "/api/v1/namespaces/shop/configmaps?watch=true&resourceVersion={version}&timeoutSeconds=3000{selector}"
        );
        let response = connection.open("GET", &target, "").await.unwrap();
        assert_eq!(response.status(), 200);
        open.push(response);
    }
    let of = if distinct {
        "each of another selector"
    } else {
        "all of one collection"
    };
    let each = |now: Memory| (now.resident.saturating_sub(before.resident)) as f64 / count as f64;
    println!(" {of}: live {:.1} KiB each", each(node.memory()));
    node.cut().await;
    let (busy, since) = (node.cpu(), Instant::now());
    tokio::time::sleep(Duration::from_secs(5)).await;
    println!(
        "  after the cut {:.1} KiB each, {} threads; {:?} of processor time in {:?}",
        each(node.memory()),
        node.memory().threads,
        node.cpu() - busy,
        since.elapsed()
    );
}

/// Thirty informers and two pollers, each of whose lists has a selector of its own.
async fn mixed() {
    const INFORMERS: usize = 30;
    let minutes = std::env::var("MIXED_MINUTES").ok().and_then(|n| n.parse().ok());
    let minutes: u64 = minutes.unwrap_or(10);
    println!("{INFORMERS} informers, two pollers with selectors of their own, {minutes} minutes");
    let node = Child::start(program(), Options::default()).await;
    let object = |namespace: usize, name: usize, value: u64| {
        serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"namespace": format!("n{namespace}"), "name": format!("c{name}"),
                "labels": {"job": format!("j{name}")}},
            "data": {"k": format!("{value}{}", "x".repeat(2000))}})
    };
    for namespace in 0..INFORMERS {
        for name in 0..20 {
            node.api.put(object(namespace, name, 0));
        }
    }
    let began = Instant::now();
    let end = began + Duration::from_secs(60 * minutes);
    let mut informers = Vec::new();
    for namespace in 0..INFORMERS {
        let mut connection = node.client().connect().await.unwrap();
        let list = format!("/api/v1/namespaces/n{namespace}/configmaps");
        let version = connection.send("GET", &list, "").await.unwrap().json();
        let version = version["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .to_owned();
        let target = format!("{list}?watch=true&resourceVersion={version}&timeoutSeconds=36000");
        informers.push((connection.lines(&target).await.unwrap(), connection));
    }
    let following = async {
        let each = informers.iter_mut().map(|(lines, _)| async {
            let mut events = 0_u64;
            while let Ok(Ok(Some(_))) = tokio::time::timeout_at(end, lines.next()).await {
                events += 1;
            }
            events
        });
        futures_util::future::join_all(each).await
    };
    let writing = async {
        let mut written = 0_u64;
        while Instant::now() < end {
            let namespace = usize::try_from(written).unwrap() % INFORMERS;
            node.api
                .put(object(namespace, usize::try_from(written).unwrap() % 20, written));
            written += 1;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        written
    };
    let polling = async |poller: usize| {
        let mut connection = node.client().connect().await.unwrap();
        let mut lists = 0_u64;
        while Instant::now() < end {
            let target = format!("/api/v1/configmaps?labelSelector=poller%3D{poller}-{lists}");
            assert_eq!(connection.send("GET", &target, "").await.unwrap().status, 200);
            lists += 1;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        lists
    };
    let measuring = async {
        println!("  after   descriptors   resident    threads   logs");
        while Instant::now() < end {
            let memory = node.memory();
            println!(
                "  {:>4} s  {:>10}  {:>6.1} MiB  {:>8}  {:>6}",
                began.elapsed().as_secs(),
                node.descriptors(),
                mib(memory.resident),
                memory.threads,
                node.logs()
            );
            tokio::time::sleep_until(end.min(Instant::now() + Duration::from_secs(30))).await;
        }
    };
    let (events, written, first, second, ()) =
        tokio::join!(following, writing, polling(1), polling(2), measuring);
    println!(
        "  {written} writes, {} events, {} lists",
        events.iter().sum::<u64>(),
        first + second
    );
}
