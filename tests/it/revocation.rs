//! Client certificates that lose their authority or are revoked: refused, and their open connections cut at once. Everybody
//! else's go on as if nothing had happened.
#![allow(clippy::disallowed_methods)] // files are what this is about, and a request that waits has a task

use std::fs;
use std::time::Duration;

use apiserver_standin::{Client, Fault, Lines, Pair, Pki, Protocol};
use edgehold::runtime::clock;
use edgehold::tls::{CertificateKind, CertificateState, CertificateStatus};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinHandle;

use crate::support::{
    DEADLINE, KUBELET, Node, PROTOCOLS, change, config_map, eventually, get_on_both, rejected, version,
    watch_from,
};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const EXEC: &str = "/api/v1/namespaces/n/pods/p/exec?command=sh&stdin=true";
const SLOW: &str = "/debug/echo?slow";

/// What a drain would give: connections that end before it were cut.
const DRAIN: Duration = Duration::from_secs(9);

fn kubelet_by(pki: &Pki) -> Pair {
    pki.client(Some(KUBELET), &["system:nodes"])
}

/// A node that takes its clients' authorities from `clients.crt` and, where `lists` are given, revocations from
/// `clients.crl`.
async fn node(authorities: &[&Pki], lists: Option<&str>) -> Node {
    let mut node = Node::start().await;
    node.stop().await;
    node.api.put(config_map("shop", "a", "1"));
    node.api.put(
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "n", "name": "p"}, "spec": {}}),
    );
    node.api
        .fault(Fault::Delay(Duration::from_secs(60)).on(SLOW).times(100));
    write_authorities(&node, authorities);
    let file = |name: &str| node.dir.path().join(name).display().to_string();
    let mut tls = format!("clientCAFile: {}", file("clients.crt"));
    if let Some(lists) = lists {
        write_lists(&node, lists);
        tls = format!("{tls}, clientCRLFile: {}", file("clients.crl"));
    }
    let shared = format!("clientCAFile: {}", file("ca.crt"));
    let text = node.config_text().replace(&shared, &tls);
    let text = text.replace("responseTimeout: 5s", "responseTimeout: 120s");
    assert!(text.contains(&tls));
    node.launch_text(&text).await;
    node
}

/// Under another name first: nobody reads half of it.
fn write(node: &Node, name: &str, text: &str) {
    let (path, new) = (node.dir.path().join(name), node.dir.path().join("new"));
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

fn write_authorities(node: &Node, authorities: &[&Pki]) {
    let pem: String = authorities.iter().map(|pki| pki.ca_pem()).collect();
    write(node, "clients.crt", &pem);
}

fn write_lists(node: &Node, lists: &str) {
    write(node, "clients.crl", lists);
}

fn status(node: &Node, kind: CertificateKind) -> CertificateStatus {
    let all = node.running().certificates().statuses();
    all.into_iter().find(|status| status.kind == kind).unwrap()
}

async fn wait_status(node: &Node, kind: CertificateKind, holds: impl Fn(&CertificateStatus) -> bool) {
    let mut statuses = node.running().certificates().status_changes();
    let found = statuses.wait_for(|all| all.iter().any(|status| status.kind == kind && holds(status)));
    let found = tokio::time::timeout(DEADLINE, found).await.is_ok();
    assert!(found, "{:?}", status(node, kind));
}

/// Does `work` and waits until the file of this kind has been taken.
async fn taken(node: &Node, kind: CertificateKind, work: impl FnOnce()) {
    let before = status(node, kind).fingerprint;
    work();
    wait_status(node, kind, |status| status.fingerprint != before).await;
}

/// All that one client has open, on both protocols.
struct Open {
    watches: Vec<Lines>,
    exec: TokioIo<Upgraded>,
    waiting: Vec<JoinHandle<bool>>,
}

impl Open {
    async fn by(node: &Node, client: &Client) -> Self {
        let from = version(&client.get(LIST).await.json());
        let (mut watches, mut waiting) = (Vec::new(), Vec::new());
        for protocol in PROTOCOLS {
            let client = client.clone().protocol(protocol);
            let mut connection = client.connect().await.unwrap();
            let lines = connection.lines(&watch_from(LIST, &from)).await.unwrap();
            assert_eq!(lines.response.status(), 200);
            watches.push(lines);
            let before = node.asked("GET", SLOW);
            waiting.push(tokio::spawn(
                async move { client.send("GET", SLOW, "").await.is_ok() },
            ));
            eventually("the request is under way", || async {
                node.asked("GET", SLOW) > before
            })
            .await;
        }
        let upgrading = client
            .clone()
            .protocol(Protocol::Http1)
            .header("connection", "Upgrade")
            .header("upgrade", "SPDY/3.1")
            .header("x-stream-protocol-version", "v4.channel.k8s.io");
        let mut connection = upgrading.connect().await.unwrap();
        let response = connection.open("POST", EXEC, "").await.unwrap();
        assert_eq!(response.status(), 101);
        Self {
            watches,
            exec: TokioIo::new(hyper::upgrade::on(response).await.unwrap()),
            waiting,
        }
    }

    /// Connections, each with one thing on it.
    fn count(&self) -> i64 {
        i64::try_from(self.watches.len() + self.waiting.len() + 1).unwrap()
    }

    /// Nothing of it has noticed anything.
    async fn goes_on(&mut self, node: &Node, marker: &str) {
        node.api.put(config_map("shop", marker, "1"));
        for watch in &mut self.watches {
            let changed = tokio::time::timeout(DEADLINE, change(watch)).await.unwrap();
            assert_eq!(changed, ("ADDED".to_owned(), marker.to_owned()));
        }
        self.exec.write_all(b"ping").await.unwrap();
        let mut back = [0; 4];
        let read = tokio::time::timeout(DEADLINE, self.exec.read_exact(&mut back)).await;
        read.unwrap().unwrap();
        assert_eq!(&back, b"ping");
        assert!(self.waiting.iter().all(|request| !request.is_finished()));
    }

    /// All of it ends, and nothing of what comes after is told.
    async fn must_end(mut self, node: &Node, marker: &str) {
        let began = clock::now();
        node.api.put(config_map("shop", marker, "1"));
        for watch in &mut self.watches {
            let end = tokio::time::timeout(DEADLINE, watch.next()).await;
            assert!(matches!(end, Ok(Err(_) | Ok(None))), "{end:?}");
        }
        for request in &mut self.waiting {
            let answered = tokio::time::timeout(DEADLINE, request).await;
            assert!(!answered.unwrap().unwrap(), "an answer");
        }
        let mut rest = Vec::new();
        let read = tokio::time::timeout(DEADLINE, self.exec.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "exec goes on");
        assert_eq!(rest, b"");
        let took = clock::now() - began;
        assert!(took < DRAIN, "not only with a drain: {took:?}");
    }
}

async fn is_open(node: &Node, expected: i64) {
    eventually("the others are counted no more", || async {
        node.running().metrics().open.get() == expected
    })
    .await;
}

async fn is_refused(client: &Client) {
    for protocol in PROTOCOLS {
        let client = client.clone().protocol(protocol);
        eventually("new connections are refused", || async {
            client.send("GET", "/version", "").await.is_err()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_that_is_added_disturbs_nobody_and_one_that_is_removed_its_own_clients_alone() {
    // Of one name, as those of two clusters are.
    let (old, new) = (Pki::new(), Pki::new());
    let node = node(&[&old], None).await;
    let (leaver, stayer) = (
        node.client(Some(&kubelet_by(&old))),
        node.client(Some(&kubelet_by(&new))),
    );
    let mut leaving = Open::by(&node, &leaver).await;
    taken(&node, CertificateKind::ClientCa, || {
        write_authorities(&node, &[&new, &old])
    })
    .await;
    eventually("the new authority counts", || async {
        stayer.send("GET", "/version", "").await.is_ok()
    })
    .await;
    let mut staying = Open::by(&node, &stayer).await;
    leaving.goes_on(&node, "added").await;
    for watch in &mut staying.watches {
        assert_eq!(change(watch).await.1, "added");
    }
    staying.goes_on(&node, "added-too").await;
    for watch in &mut leaving.watches {
        change(watch).await;
    }
    is_open(&node, leaving.count() + staying.count()).await;

    taken(&node, CertificateKind::ClientCa, || {
        write_authorities(&node, &[&new])
    })
    .await;
    is_open(&node, staying.count()).await;
    leaving.must_end(&node, "removed").await;
    is_refused(&leaver).await;
    for watch in &mut staying.watches {
        assert_eq!(change(watch).await.1, "removed");
    }
    staying.goes_on(&node, "after").await;
    assert_eq!(stayer.get("/version").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_revoked_is_cut_off_at_once_and_its_neighbour_is_not() {
    let pki = Pki::new();
    let node = node(&[&pki], Some(&pki.revoke(&[]))).await;
    let (bad, good) = (kubelet_by(&pki), kubelet_by(&pki));
    let (thief, neighbour) = (node.client(Some(&bad)), node.client(Some(&good)));
    let leaving = Open::by(&node, &thief).await;
    let mut staying = Open::by(&node, &neighbour).await;
    taken(&node, CertificateKind::ClientCrl, || {
        write_lists(&node, &pki.revoke(&[&bad]));
    })
    .await;
    is_open(&node, staying.count()).await;
    leaving.must_end(&node, "revoked").await;
    is_refused(&thief).await;
    // A client knows before the listener has counted it.
    eventually("both refusals are counted", || async {
        rejected(node.running().metrics(), "bad_certificate") >= 2
    })
    .await;
    for watch in &mut staying.watches {
        assert_eq!(change(watch).await.1, "revoked");
    }
    staying.goes_on(&node, "after").await;
    assert_eq!(neighbour.get("/version").await.status, 200);
}

/// What is refused stands in files of the node.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_cloud_is_away_held_watches_are_cut_and_new_connections_refused_as_well() {
    let (stays, leaves) = (Pki::new(), Pki::new());
    let node = node(&[&stays, &leaves], Some(&stays.revoke(&[]))).await;
    let from = node.api.revision().to_string();
    node.cut().await;
    let stolen = kubelet_by(&stays);
    let [thief, leaver, stayer] =
        [&stolen, &kubelet_by(&leaves), &kubelet_by(&stays)].map(|pair| node.client(Some(pair)));
    let mut held = Vec::new();
    for client in [&thief, &leaver, &stayer] {
        for protocol in PROTOCOLS {
            let mut connection = client.clone().protocol(protocol).connect().await.unwrap();
            let watch = connection.lines(&watch_from(LIST, &from)).await.unwrap();
            assert_eq!(watch.response.status(), 200);
            held.push(watch);
        }
    }
    taken(&node, CertificateKind::ClientCrl, || {
        write_lists(&node, &stays.revoke(&[&stolen]));
    })
    .await;
    is_open(&node, 4).await;
    is_refused(&thief).await;
    taken(&node, CertificateKind::ClientCa, || {
        write_authorities(&node, &[&stays])
    })
    .await;
    is_open(&node, 2).await;
    is_refused(&leaver).await;
    node.heal().await;
    node.api.put(config_map("shop", "after", "1"));
    let staying = held.split_off(4);
    for mut watch in held {
        while let Ok(Some(event)) = watch.next().await {
            assert_eq!(event["type"], "BOOKMARK");
        }
    }
    for mut watch in staying {
        assert_eq!(change(&mut watch).await.1, "after");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_or_missing_list_keeps_the_last_good_one_and_is_said() {
    let pki = Pki::new();
    let bad = kubelet_by(&pki);
    let list = pki.revoke(&[&bad]);
    let node = node(&[&pki], Some(&list)).await;
    let (thief, neighbour) = (node.client(Some(&bad)), node.client(Some(&kubelet_by(&pki))));
    let before = status(&node, CertificateKind::ClientCrl).fingerprint;
    assert!(before.is_some());
    for (text, state) in [
        (&list[..list.len() / 2], CertificateState::Damaged),
        ("", CertificateState::Incomplete),
    ] {
        write_lists(&node, text);
        wait_status(&node, CertificateKind::ClientCrl, |status| status.state == state).await;
        is_refused(&thief).await;
        assert_eq!(neighbour.get("/version").await.status, 200);
    }
    fs::remove_file(node.dir.path().join("clients.crl")).unwrap();
    wait_status(&node, CertificateKind::ClientCrl, |status| {
        status.state == CertificateState::Absent && status.last_error.is_some()
    })
    .await;
    for is_away in [false, true] {
        if is_away {
            node.cut().await;
        }
        is_refused(&thief).await;
        assert_eq!(get_on_both(&neighbour, "/version").await.status, 200);
    }
    assert_eq!(status(&node, CertificateKind::ClientCrl).fingerprint, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overdue_list_counts_and_is_said_also_at_a_start_without_the_cloud() {
    let pki = Pki::new();
    let bad = kubelet_by(&pki);
    let mut node = node(&[&pki], Some(&pki.revoke_valid(&[&bad], -3600))).await;
    for _ in 0..2 {
        let (thief, neighbour) = (node.client(Some(&bad)), node.client(Some(&kubelet_by(&pki))));
        assert!(neighbour.send("GET", "/version", "").await.is_ok());
        is_refused(&thief).await;
        let said = status(&node, CertificateKind::ClientCrl);
        assert_eq!(said.state, CertificateState::Expired);
        assert!(said.last_error.unwrap().contains("to be replaced since"));
        assert!(said.fingerprint.is_some());
        node.cut().await;
        let text = node.config_text();
        let tls = format!(
            "clientCAFile: {0}/clients.crt, clientCRLFile: {0}/clients.crl",
            node.dir.path().display()
        );
        let shared = format!("clientCAFile: {}/ca.crt", node.dir.path().display());
        node.stop().await;
        node.launch_text(&text.replace(&shared, &tls)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_configured_list_is_there_nobody_shakes_hands() {
    let pki = Pki::new();
    let pair = kubelet_by(&pki);
    let node = node(&[&pki], Some("")).await;
    let client = node.client(Some(&pair));
    assert!(client.send("GET", "/version", "").await.is_err());
    eventually("the refusal is counted", || async {
        rejected(node.running().metrics(), "not_ready") == 1
    })
    .await;
    write_lists(&node, &pki.revoke(&[]));
    eventually("it serves", || async {
        client.send("GET", "/version", "").await.is_ok()
    })
    .await;
}
