//! Watches on which nothing happens, and how late their events are: in front of the stand-in apiserver.

use std::net::SocketAddr;
use std::time::Duration;

use apiserver_standin::{Client, Connection, Options, Protocol};
use http_body_util::BodyExt as _;
use serde_json::json;
use tokio::time::Instant;

use crate::contenders::{Child, binary, proxies};
use crate::process;
use crate::report::Case;

const COLLECTION: &str = "/api/v1/namespaces/shop/configmaps";
const ITEMS: usize = 10_000;
const EVENTS: usize = 500;
const STREAMS: usize = 100;

/// What an idle watch costs on a connection of its own and on one of a hundred, and what an event costs on a large collection.
pub fn measure(count: usize) -> Vec<Case> {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut own = Case::new(format!("{count} idle watches, own connections, h1: each"), "KiB");
        let mut shared = Case::new(
            format!("{count} idle watches, {STREAMS} a connection, h2: each"),
            "KiB",
        );
        for (case, protocol, streams) in [
            (&mut own, Protocol::Http1, 1),
            (&mut shared, Protocol::Http2, STREAMS),
        ] {
            // New processes: memory that earlier watches gave back would be counted as free.
            let field = Field::start(20).await;
            for (name, address, pid) in field.contenders() {
                case.note(name, field.idle(address, pid, protocol, count, streams).await);
                eprintln!("watches, {protocol:?}: {name}");
            }
        }
        let mut cpu = Case::new(
            format!("an event on a list of {ITEMS}: processor time of the proxy"),
            "µs",
        );
        let mut late = Case::new(format!("an event on a list of {ITEMS}: p99"), "ms");
        let field = Field::start(ITEMS).await;
        for (name, address, pid) in field.contenders() {
            let (used, delay) = field.events(address, pid).await;
            cpu.note(name, used);
            late.note(name, delay);
        }
        late.note("direct", field.events(field.child.api.addr(), 0).await.1);
        vec![own, shared, cpu, late]
    })
}

struct Field {
    child: Child,
    proxies: Vec<(&'static str, SocketAddr, crate::contenders::Running)>,
}

impl Field {
    async fn start(items: usize) -> Self {
        let mut child = Child::prepare(Options::default());
        for number in 0..items {
            child.api.put(config_map(number, "x"));
        }
        child.launch(&binary()).await;
        let proxies = proxies(child.dir.path(), child.api.addr());
        Self { child, proxies }
    }

    fn contenders(&self) -> Vec<(&'static str, SocketAddr, u32)> {
        let proxies = self.proxies.iter();
        let others = proxies.map(|(name, address, running)| (*name, *address, running.id()));
        others
            .chain([("edgehold", self.child.address(), self.child.id())])
            .collect()
    }

    fn client(&self, address: SocketAddr, protocol: Protocol) -> Client {
        self.child.direct().at(address).protocol(protocol)
    }

    async fn version(&self, client: &Client) -> String {
        let list = client.get(COLLECTION).await.json();
        list["metadata"]["resourceVersion"]
            .as_str()
            .expect("a list")
            .to_owned()
    }

    /// KiB of resident memory for each.
    async fn idle(
        &self,
        address: SocketAddr,
        pid: u32,
        protocol: Protocol,
        count: usize,
        streams: usize,
    ) -> f64 {
        let client = self.client(address, protocol);
        let target = target(&self.version(&client).await);
        let before = process::resident(&process::tree(pid));
        let mut open = Vec::new();
        for _ in 0..count.div_ceil(streams) {
            let mut connection = client.connect().await.expect("a connection");
            let mut watches = Vec::new();
            for _ in 0..streams {
                let response = connection
                    .open_patiently("GET", &target, bytes::Bytes::new())
                    .await
                    .expect("a watch");
                assert_eq!(response.status(), 200);
                watches.push(response);
            }
            open.push((connection, watches));
        }
        // What is done beside is done.
        tokio::time::sleep(Duration::from_secs(2)).await;
        (process::resident(&process::tree(pid)) - before) * 1024.0 / count as f64
    }

    /// Microseconds of processor time for each, and milliseconds until the slowest hundredth arrived.
    async fn events(&self, address: SocketAddr, pid: u32) -> (f64, f64) {
        let client = self.client(address, Protocol::Http2);
        let target = target(&self.version(&client).await);
        let mut connection: Connection = client.connect().await.expect("a connection");
        let mut watch = connection.open("GET", &target, "").await.expect("a watch");
        let pids = if pid == 0 { Vec::new() } else { process::tree(pid) };
        // A list that is being recorded is not what is measured.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let before = process::usage(&pids);
        let mut delays = Vec::new();
        for number in 0..EVENTS {
            let value = format!("{address}-{number}");
            let start = Instant::now();
            self.child.api.put(config_map(number, &value));
            let mut seen = Vec::new();
            while memchr::memmem::find(&seen, value.as_bytes()).is_none() {
                let frame = watch
                    .body_mut()
                    .frame()
                    .await
                    .expect("an event")
                    .expect("a frame");
                seen.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            }
            delays.push(start.elapsed());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let used = process::usage(&pids) - before;
        delays.sort_unstable();
        let p99 = delays[(delays.len() - 1) * 99 / 100];
        (
            used.cpu.as_secs_f64() * 1e6 / EVENTS as f64,
            p99.as_secs_f64() * 1e3,
        )
    }
}

fn target(version: &str) -> String {
    format!("{COLLECTION}?watch=true&resourceVersion={version}&timeoutSeconds=3000")
}

fn config_map(number: usize, value: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"namespace": "shop", "name": format!("c{number}")},
        "data": {"k": format!("{value}{}", "x".repeat(2000))}})
}
