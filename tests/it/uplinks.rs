//! A node with two uplinks in a network namespace of its own, the cloud in another. Needs root, unshare(1) and ip(8), and
//! skips visibly without.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use apiserver_standin::{Client, Options, Pair, Pki, Standin};
use edgehold::app::App;
use edgehold::config;

use crate::namespace::{self, Network, ip};
use crate::support::{KUBELET, change, config_map, eventually, version, watch_from};

/// Set in the process that is the node.
const NODE: &str = "EDGEHOLD_TEST_UPLINKS_NODE";
/// Set in the process that is the cloud: where it leaves its certificates.
const CLOUD: &str = "EDGEHOLD_TEST_UPLINKS_CLOUD";

const SERVER: &str = "10.88.0.1:6443";
const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const TEST: &str = "uplinks::the_interface_that_works_is_used_by_all_and_a_better_one_again_when_it_is_back";

#[tokio::test(flavor = "multi_thread")]
async fn the_interface_that_works_is_used_by_all_and_a_better_one_again_when_it_is_back() {
    if let Ok(dir) = std::env::var(CLOUD) {
        return cloud(Path::new(&dir));
    }
    if std::env::var_os(NODE).is_some() {
        return node().await;
    }
    namespace::run_apart(TEST, NODE);
}

/// The cloud's network: two ways to one address.
fn cloud_network() -> Option<Network> {
    Network::build("edgehold-cloud", |name| {
        let mut lines = vec![format!("-n {name} addr add 10.88.0.1/32 dev lo")];
        for i in 0..2 {
            lines.extend([
                format!("link add up{i} type veth peer name c{i}"),
                format!("link set c{i} netns {name}"),
                format!("addr add 10.77.{i}.2/30 dev up{i}"),
                format!("link set up{i} up"),
                format!("-n {name} addr add 10.77.{i}.1/30 dev c{i}"),
                format!("-n {name} link set c{i} up"),
                format!("route add 10.88.0.1 via 10.77.{i}.1 dev up{i} metric {}", 10 + i),
            ]);
        }
        lines
    })
}

/// Cuts or mends the far end of an uplink.
fn set(network: &Network, uplink: u8, state: &str) {
    assert!(ip(&format!("-n {} link set c{uplink} {state}", network.name())));
}

struct Cloud(Child);

impl Drop for Cloud {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// What the process does that is the cloud, until its input ends.
fn cloud(dir: &Path) {
    let pki = Pki::new();
    let api = Standin::start(Options {
        listen: SERVER.parse().unwrap(),
        serving: Some(pki.server(&["10.88.0.1"])),
        pki: Some(pki.clone()),
        ..Options::default()
    });
    api.put(config_map("shop", "a", "1"));
    pki.server(&["127.0.0.1"]).write_to(dir, "serving");
    pki.client(Some(KUBELET), &["system:nodes"])
        .write_to(dir, "kubelet");
    pki.client(Some("system:kube-proxy"), &[])
        .write_to(dir, "kube-proxy");
    // Last: the node waits for it.
    pki.write_ca(dir, "ca");
    let mut end = Vec::new();
    let _end = std::io::stdin().read_to_end(&mut end);
}

/// How many connections to the cloud leave by each uplink: from the kernel's own table.
fn connections() -> HashMap<u8, usize> {
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let mut found = HashMap::from([(0, 0), (1, 0)]);
    for line in table.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // Addresses as little-endian hexadecimal; state 01 is ESTABLISHED.
        if fields[2].starts_with("0100580A:") && fields[3] == "01" {
            // 10.77.N.2 is 02 0N 4D 0A.
            let uplink = u8::from_str_radix(&fields[1][2..4], 16).unwrap();
            *found.entry(uplink).or_default() += 1;
        }
    }
    found
}

fn pair(dir: &Path, name: &str) -> Pair {
    let read = |ending: &str| std::fs::read_to_string(dir.join(format!("{name}.{ending}"))).unwrap();
    Pair {
        cert_pem: read("crt"),
        key_pem: read("key"),
    }
}

async fn node() {
    let Some(network) = cloud_network() else {
        return namespace::skip(TEST, "no network namespace with veth pairs here");
    };
    let dir = tempfile::tempdir().unwrap();
    let cloud = namespace::again(TEST, &["ip", "netns", "exec", network.name()])
        .env(CLOUD, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn();
    let _cloud = Cloud(cloud.unwrap());
    let ca: PathBuf = dir.path().join("ca.crt");
    let ready = || async { std::fs::read_to_string(&ca).is_ok_and(|text| text.contains("END")) };
    eventually("the cloud is there", ready).await;

    let at = dir.path().display();
    let text = format!(
        "apiVersion: edgehold/v1alpha1\nkind: ProxyConfiguration\nlisten:\n  addresses: [\"127.0.0.1:0\"]\n  tls: \
         {{certFile: {at}/serving.crt, keyFile: {at}/serving.key, clientCAFile: {at}/ca.crt}}\nupstream:\n  servers: \
         [\"https://{SERVER}\"]\n  caFile: {at}/ca.crt\n  interfaces: [ghost0, up0, up1]\n  probe: {{interval: 100ms, \
         timeout: 2s}}\n  keepAlive: {{interval: 300ms, timeout: 300ms}}\ncache: {{store: memory}}\nclients:\n\
         - {{commonName: \"{KUBELET}\", certFile: {at}/kubelet.crt, keyFile: {at}/kubelet.key}}\n\
         - {{commonName: system:kube-proxy, certFile: {at}/kube-proxy.crt, keyFile: {at}/kube-proxy.key}}\n"
    );
    let running = App::bind(config::parse(&text, "test").unwrap())
        .await
        .unwrap()
        .spawn();
    let ca = std::fs::read_to_string(&ca).unwrap();
    let client = |name| Client::new(running.addresses()[0], &ca, Some(&pair(dir.path(), name)));
    let clients = [client("kubelet"), client("kube-proxy")];
    let all_over = async |used: u8| {
        eventually(
            "every client is answered and all connections leave by one uplink",
            || async {
                for client in &clients {
                    let answer = client.get(LIST).await;
                    if answer.status != 200 || !answer.header("cache-status").is_empty() {
                        return false;
                    }
                }
                let found = connections();
                found[&used] >= 2 && found[&(1 - used)] == 0
            },
        )
        .await;
    };
    all_over(0).await;
    let listed = clients[0].get(LIST).await.json();
    let mut connection = clients[0].connect().await.unwrap();
    let mut watch = connection
        .lines(&watch_from(LIST, &version(&listed)))
        .await
        .unwrap();
    for (name, cut, mended, used) in [
        ("b", None, None, 0),
        ("c", Some(0), None, 1),
        ("d", None, Some(0), 0),
    ] {
        cut.into_iter().for_each(|uplink| set(&network, uplink, "down"));
        mended.into_iter().for_each(|uplink| set(&network, uplink, "up"));
        all_over(used).await;
        let made = clients[1].send("POST", LIST, config_map("shop", name, "1").to_string());
        assert_eq!(made.await.unwrap().status, 201);
        assert_eq!(change(&mut watch).await.1, name);
        all_over(used).await;
        let metric = format!("edgehold_upstream_interface{{server=\"{SERVER}\",interface=\"up{used}\"}} 1");
        let text = running.metrics_text().unwrap();
        assert!(text.contains(&metric), "{text}");
    }
    running.stop().await;
}
