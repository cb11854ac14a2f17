//! Certificates that come late, change, are half written or expire under a running edgehold.
#![allow(clippy::disallowed_methods)] // files are what this is about

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use apiserver_standin::{Client, Fault, Lines, Pair, Pki, Protocol, Validity};
use edgehold::tls::{CertificateKind, CertificateState, CertificateStatus};
use edgehold::upstream::{LinkState, Purpose};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use crate::support::{DEADLINE, KUBELET, Node, config_map, eventually, names, rejected};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

/// The fingerprint of the value in use.
fn fingerprint(node: &Node, kind: CertificateKind, name: &str) -> Option<String> {
    status(node, kind, name).fingerprint
}

fn status(node: &Node, kind: CertificateKind, name: &str) -> CertificateStatus {
    let statuses = node.running().certificates().statuses();
    let mut found = statuses
        .into_iter()
        .filter(|status| status.kind == kind && status.name == name);
    found.next().unwrap()
}

async fn wait_status(
    node: &Node,
    kind: CertificateKind,
    name: &str,
    holds: impl Fn(&CertificateStatus) -> bool,
) {
    let mut statuses = node.running().certificates().status_changes();
    let found = statuses.wait_for(|all| {
        let mut of = all
            .iter()
            .filter(|status| status.kind == kind && status.name == name);
        of.any(&holds)
    });
    let found = tokio::time::timeout(DEADLINE, found).await.is_ok();
    assert!(found, "{:?}", status(node, kind, name));
}

/// The connection by which a request of the client arrives at the cloud, under this name.
async fn connection_of(node: &Node, client: &Client, name: &str) -> u64 {
    node.api.forget_requests();
    client.get("/debug/echo?connection").await;
    let seen = node
        .api
        .wait_for(|seen| seen.target == "/debug/echo?connection")
        .await;
    assert_eq!(seen.peer_cn.as_deref(), Some(name));
    seen.connection_id
}

async fn watch(client: &Client) -> Lines {
    let version = client.get(LIST).await.json()["metadata"]["resourceVersion"].clone();
    let mut connection = client.connect().await.unwrap();
    let target = format!(
        "{LIST}?watch=true&allowWatchBookmarks=true&resourceVersion={}",
        version.as_str().unwrap()
    );
    let lines = connection.lines(&target).await.unwrap();
    assert_eq!(lines.response.status(), 200);
    // The connection lives as long as its stream.
    lines
}

async fn next_name(watch: &mut Lines) -> String {
    let event = watch.next().await.unwrap().expect("the watch goes on");
    event["object"]["metadata"]["name"].as_str().unwrap().to_owned()
}

async fn is_closed_at_once(node: &Node) -> bool {
    let mut stream = TcpStream::connect(node.running().addresses()[0]).await.unwrap();
    let mut byte = [0];
    let read = tokio::time::timeout(DEADLINE, stream.read(&mut byte))
        .await
        .unwrap();
    // Bytes before ours would be an alert of a handshake.
    matches!(read, Ok(0) | Err(_))
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_serving_pair_and_the_client_ca_are_there_nobody_shakes_hands_and_then_all_do() {
    let mut node = Node::start().await;
    node.stop().await;
    let hidden = tempfile::tempdir_in(node.dir.path()).unwrap();
    let files = ["ca.crt", "serving.crt", "serving.key"];
    for file in files {
        fs::rename(node.dir.path().join(file), hidden.path().join(file)).unwrap();
    }
    node.launch().await;
    assert!(is_closed_at_once(&node).await);
    assert_eq!(rejected(node.running().metrics(), "not_ready"), 1);
    let state = |kind, name| status(&node, kind, name).state;
    assert_eq!(
        state(CertificateKind::Serving, "serving"),
        CertificateState::Absent
    );
    assert_eq!(
        state(CertificateKind::ClientCa, "client-ca"),
        CertificateState::Absent
    );

    // A serving pair alone would take every client for anonymous.
    for file in &files[1..] {
        fs::rename(hidden.path().join(file), node.dir.path().join(file)).unwrap();
    }
    wait_status(&node, CertificateKind::Serving, "serving", |s| {
        s.state == CertificateState::Current
    })
    .await;
    assert!(is_closed_at_once(&node).await);
    assert_eq!(node.running().metrics().accepted.get(), 0);

    fs::rename(hidden.path().join(files[0]), node.dir.path().join(files[0])).unwrap();
    let kubelet = node.kubelet();
    eventually("it serves", || async {
        kubelet
            .send("GET", "/version", "")
            .await
            .is_ok_and(|a| a.status == 200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_client_pair_is_said_stops_nobody_else_and_is_taken_when_it_comes() {
    let mut node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    node.stop().await;
    let pair = node.pair("kubelet");
    for file in ["kubelet.crt", "kubelet.key"] {
        fs::remove_file(node.dir.path().join(file)).unwrap();
    }
    node.launch().await;
    let kubelet = node.client(Some(&pair));
    let refused = kubelet.get(LIST).await;
    assert_eq!(refused.status, 503);
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(
        message.contains(KUBELET) && message.contains("certificate"),
        "{message}"
    );
    let token = node.api.service_account_token("shop", "default");
    assert_eq!(node.token_client(&token).get(LIST).await.status, 200);
    assert_eq!(
        node.client(Some(&node.pair("kube-proxy"))).get(LIST).await.status,
        200
    );
    assert_eq!(
        *node.running().link().borrow(),
        LinkState::Online,
        "a missing file is no outage"
    );

    pair.write_to(node.dir.path(), "kubelet");
    eventually("it is used", || async { kubelet.get(LIST).await.status == 200 }).await;
}

/// A directory as a Secret volume has it: `tls.crt -> ..data/tls.crt`, `..data -> ..N`.
fn secret_volume(dir: &Path, generation: u32, pair: &Pair) {
    let data = dir.join(format!("..{generation}"));
    fs::create_dir(&data).unwrap();
    pair.write_to(&data, "tls");
    symlink(data.file_name().unwrap(), dir.join("..data_tmp")).unwrap();
    fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

/// As kubelet's certificate manager does.
fn kubelet_pair(dir: &Path, generation: u32, pair: &Pair) {
    let file = dir.join(format!("kubelet-client-{generation}.pem"));
    pair.write_combined(&file);
    symlink(&file, dir.join("next.pem")).unwrap();
    fs::rename(dir.join("next.pem"), dir.join("kubelet-client-current.pem")).unwrap();
}

/// A node on which both clients' pairs are swapped by symlinks.
async fn node_with_links() -> Node {
    let mut node = Node::start().await;
    node.stop().await;
    let (kubelet, proxy) = (node.pair("kubelet"), node.pair("kube-proxy"));
    let dir = node.dir.path();
    kubelet_pair(dir, 1, &kubelet);
    let volume = dir.join("volume");
    fs::create_dir(&volume).unwrap();
    secret_volume(&volume, 1, &proxy);
    for ending in ["crt", "key"] {
        fs::rename(
            dir.join(format!("kubelet.{ending}")),
            dir.join(format!("old-kubelet.{ending}")),
        )
        .unwrap();
        symlink(
            "kubelet-client-current.pem",
            dir.join(format!("kubelet.{ending}")),
        )
        .unwrap();
        fs::remove_file(dir.join(format!("kube-proxy.{ending}"))).unwrap();
        symlink(
            format!("volume/..data/tls.{ending}"),
            dir.join(format!("kube-proxy.{ending}")),
        )
        .unwrap();
    }
    node.launch().await;
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_link_is_heeded_at_once_and_only_that_name_gets_new_connections() {
    let node = node_with_links().await;
    node.api.put(config_map("shop", "a", "1"));
    let kubelet = node.client(Some(&node.pair("old-kubelet")));
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    let names = [(KUBELET, &kubelet), ("system:kube-proxy", &proxy)];
    let mut watches = [watch(&kubelet).await, watch(&proxy).await];
    let mut connections = [0, 0];
    for (i, (name, client)) in names.iter().enumerate() {
        connections[i] = connection_of(&node, client, name).await;
    }
    // Of each name one for watches and one for the rest.
    node.api.wait_counters(|c| c.connections_open == 4).await;

    for (i, (name, client)) in names.iter().enumerate() {
        let before = fingerprint(&node, CertificateKind::Client, name).unwrap();
        let open = node.api.counters();
        let organizations: &[&str] = if i == 0 { &["system:nodes"] } else { &[] };
        let renewed = node.api.pki().client(Some(name), organizations);
        if i == 0 {
            kubelet_pair(node.dir.path(), 2, &renewed);
        } else {
            secret_volume(&node.dir.path().join("volume"), 2, &renewed);
        }
        // The timer would look in half an hour.
        wait_status(&node, CertificateKind::Client, name, |s| {
            s.fingerprint.as_ref() != Some(&before)
        })
        .await;

        let marker = format!("after-{i}");
        // The live watch of that name goes on in the same client stream, over the new identity.
        node.api
            .wait_for(|seen| {
                seen.is_watch()
                    && seen.peer_cn.as_deref() == Some(name)
                    && seen.connection_id > open.connections_total
            })
            .await;
        node.api.put(config_map("shop", &marker, "1"));
        for watch in &mut watches {
            assert_eq!(next_name(watch).await, marker);
        }
        let now = connection_of(&node, client, name).await;
        assert!(now > open.connections_total, "{name} has a new connection");
        // Its two old connections are replaced by two new ones; nothing is left over.
        node.api
            .wait_counters(|c| c.connections_total == open.connections_total + 2 && c.connections_open == 4)
            .await;
        if i == 0 {
            let other = connection_of(&node, names[1].1, names[1].0).await;
            assert_eq!(other, connections[1], "the other name keeps its connection");
        }
        connections[i] = now;
    }
    let proxy = node.running().proxy();
    let usage = proxy.transports().named(KUBELET).unwrap().usage();
    assert_eq!(usage[&Purpose::Watch], (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_being_opened_while_its_pair_is_replaced_moves_over_as_well() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let kubelet = node.kubelet();
    let connection = connection_of(&node, &kubelet, KUBELET).await;
    let late = Fault::Delay(Duration::from_secs(2)).on(LIST).times(2);
    node.api.fault(late.containing("watch=true"));
    let opening = tokio::spawn(async move { watch(&kubelet).await });
    let first = node.api.wait_for(|seen| seen.is_watch()).await;

    let renewed = node.api.pki().client(Some(KUBELET), &["system:nodes"]);
    renewed.write_to(node.dir.path(), "kubelet");
    let kubelet = node.client(Some(&renewed));
    eventually("the new pair is used", || async {
        connection_of(&node, &kubelet, KUBELET).await != connection
    })
    .await;
    let mut watch = opening.await.unwrap();
    let moved = |connection| connection != first.connection_id;
    node.api
        .wait_for(|seen| seen.is_watch() && moved(seen.connection_id))
        .await;
    node.api.put(config_map("shop", "b", "2"));
    assert_eq!(next_name(&mut watch).await, "b");
    // Four would be of before: the requests of the old identity have all ended.
    node.api.wait_counters(|c| c.connections_open == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_written_or_mismatched_file_keeps_what_was_good() {
    let node = Node::start().await;
    let before = fingerprint(&node, CertificateKind::Client, KUBELET);
    let kubelet = node.kubelet();
    let connection = connection_of(&node, &kubelet, KUBELET).await;
    let renewed = node.api.pki().client(Some(KUBELET), &["system:nodes"]);
    let stranger = node.api.pki().client(Some("stranger"), &["system:masters"]);
    let (cert, key) = (
        node.dir.path().join("kubelet.crt"),
        node.dir.path().join("kubelet.key"),
    );
    let half = &renewed.cert_pem[..renewed.cert_pem.len() / 2];
    // In place, as no careful program writes.
    for (content, state) in [
        (half, CertificateState::Damaged),
        ("", CertificateState::Incomplete),
        (&renewed.cert_pem, CertificateState::KeyMismatch),
    ] {
        fs::write(&cert, content).unwrap();
        wait_status(&node, CertificateKind::Client, KUBELET, |s| s.state == state).await;
        assert_eq!(fingerprint(&node, CertificateKind::Client, KUBELET), before);
        assert_eq!(connection_of(&node, &kubelet, KUBELET).await, connection);
    }
    stranger.write_to(node.dir.path(), "kubelet");
    wait_status(&node, CertificateKind::Client, KUBELET, |s| {
        s.state == CertificateState::WrongName
    })
    .await;
    assert_eq!(connection_of(&node, &kubelet, KUBELET).await, connection);

    fs::write(&cert, &renewed.cert_pem).unwrap();
    fs::write(&key, &renewed.key_pem).unwrap();
    wait_status(&node, CertificateKind::Client, KUBELET, |s| {
        s.state == CertificateState::Current && s.fingerprint != before
    })
    .await;
    // The transport follows the certificate; it is not the same moment.
    eventually("another connection is used", || async {
        connection_of(&node, &kubelet, KUBELET).await != connection
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_serving_files_and_authorities_keep_the_port_open() {
    let node = Node::start().await;
    for (file, kind, name) in [
        ("serving.crt", CertificateKind::Serving, "serving"),
        ("ca.crt", CertificateKind::ClientCa, "client-ca"),
        ("ca.crt", CertificateKind::UpstreamCa, "upstream-ca"),
    ] {
        let path = node.dir.path().join(file);
        let good = fs::read_to_string(&path).unwrap();
        fs::write(&path, &good[..good.len() / 2]).unwrap();
        wait_status(&node, kind, name, |s| s.state == CertificateState::Damaged).await;
        let kubelet = Client::new(
            node.running().addresses()[0],
            node.api.ca_pem(),
            Some(&node.pair("kubelet")),
        );
        assert_eq!(kubelet.get("/debug/echo").await.status, 200, "{file}");
        fs::write(&path, &good).unwrap();
        wait_status(&node, kind, name, |s| s.state == CertificateState::Current).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_serving_pair_is_shown_to_new_connections_and_ends_no_old_one() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let kubelet = node.kubelet();
    let mut running = watch(&kubelet).await;
    let before = fingerprint(&node, CertificateKind::Serving, "serving");
    // By another authority, so that a client can tell the two apart.
    let other = Pki::named("other");
    other.server(&[]).write_to(node.dir.path(), "serving");
    wait_status(&node, CertificateKind::Serving, "serving", |s| {
        s.state == CertificateState::Current && s.fingerprint != before
    })
    .await;
    let trusting = Client::new(
        node.running().addresses()[0],
        other.ca_pem(),
        Some(&node.pair("kubelet")),
    );
    eventually("the new one is shown", || async {
        trusting.send("GET", "/version", "").await.is_ok()
    })
    .await;
    assert!(kubelet.connect().await.is_err(), "the old one is not");
    node.api.put(config_map("shop", "b", "2"));
    assert_eq!(next_name(&mut running).await, "b");
}

/// Starts edgehold with the clients' authorities in a file of their own.
async fn launch_with_client_ca(node: &mut Node, file: &str) {
    let text = node.config_text();
    let own = format!("clientCAFile: {}", node.dir.path().join(file).display());
    let shared = format!("clientCAFile: {}", node.dir.path().join("ca.crt").display());
    assert!(text.contains(&shared));
    node.launch_text(&text.replace(&shared, &own)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_client_ca_refuses_its_clients_and_ends_their_connections_only() {
    let mut node = Node::start().await;
    node.stop().await;
    let (old, new) = (Pki::named("old"), Pki::named("new"));
    old.write_ca(node.dir.path(), "clients");
    launch_with_client_ca(&mut node, "clients.crt").await;
    let token = node.api.service_account_token("shop", "default");
    let of = |pki: &Pki| node.client(Some(&pki.client(Some(KUBELET), &["system:nodes"])));
    let (refused, welcome) = (of(&old), of(&new));
    let mut verified = refused.connect().await.unwrap();
    assert_eq!(verified.send("GET", "/version", "").await.unwrap().status, 200);
    let mut idle = refused.clone().protocol(Protocol::Http1).connect().await.unwrap();
    assert_eq!(idle.send("GET", "/version", "").await.unwrap().status, 200);
    let mut by_token = node.token_client(&token).connect().await.unwrap();
    assert_eq!(by_token.send("GET", "/version", "").await.unwrap().status, 200);
    assert!(welcome.send("GET", "/version", "").await.is_err(), "not yet");
    let open = || async { node.running().metrics().open.get() == 3 };
    eventually("the refused connection is gone", open).await;

    let before = fingerprint(&node, CertificateKind::ClientCa, "client-ca");
    new.write_ca(node.dir.path(), "clients");
    wait_status(&node, CertificateKind::ClientCa, "client-ca", |s| {
        s.fingerprint != before
    })
    .await;
    eventually("the new authority counts", || async {
        welcome.send("GET", "/version", "").await.is_ok()
    })
    .await;
    assert!(
        refused.send("GET", "/version", "").await.is_err(),
        "the old one does no more"
    );
    // What was verified by it ends, and the connection that never showed a certificate goes on.
    eventually("one is left", || async {
        node.running().metrics().open.get() == 1
    })
    .await;
    assert!(verified.send("GET", "/version", "").await.is_err());
    assert!(idle.send("GET", "/version", "").await.is_err());
    assert_eq!(by_token.send("GET", "/version", "").await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_certificate_that_expires_in_an_outage_keeps_its_data_also_after_a_restart() {
    let mut node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let short = node
        .api
        .pki()
        .client_valid(Some(KUBELET), &["system:nodes"], Validity::for_seconds(5));
    let kubelet = node.client(Some(&short));
    assert_eq!(kubelet.get(LIST).await.status, 200);
    node.cut().await;
    let expired = SystemTime::now() + Duration::from_secs(6);
    eventually("its time is over", || async { SystemTime::now() > expired }).await;
    assert_eq!(names(&kubelet.get(LIST).await.json()), ["a"]);
    node.restart().await;
    node.wait_link(LinkState::Offline).await;
    let kubelet = node.client(Some(&short));
    let kept = kubelet.get(LIST).await;
    assert_eq!((kept.status, names(&kept.json())), (200, vec!["a".into()]));

    node.heal().await;
    node.client(None).get("/version").await;
    eventually("online it is refused", || async {
        kubelet.send("GET", LIST, "").await.is_err()
    })
    .await;
}
