//! A client in a network namespace of its own, as a pod has it: nothing but `KUBERNETES_SERVICE_HOST` and `_PORT`, `ca.crt`
//! and a token. Needs root, unshare(1) and ip(8), and skips visibly without.

use std::path::Path;

use apiserver_standin::Client;

use crate::namespace::{self, Network};
use crate::support::{HIT, Node, config_map};

/// Set in the process that is the node: it has a network of its own, so that nothing of the machine is touched.
const NODE: &str = "EDGEHOLD_TEST_POD_NODE";
/// Set in the process that is the pod.
const VOLUME: &str = "EDGEHOLD_TEST_POD_VOLUME";

const ADDRESS: &str = "169.254.20.11";
const TARGET: &str = "/api/v1/namespaces/shop/configmaps";
const TEST: &str = "pod_network::a_pod_reaches_the_api_through_a_node_local_address_on_and_offline";

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_reaches_the_api_through_a_node_local_address_on_and_offline() {
    if let Ok(volume) = std::env::var(VOLUME) {
        return pod(Path::new(&volume)).await;
    }
    if std::env::var_os(NODE).is_some() {
        return node().await;
    }
    namespace::run_apart(TEST, NODE);
}

/// The pod's network: a pair of interfaces, one end in a namespace with a route to the node.
fn pod_network() -> Option<Network> {
    Network::build("edgehold-test", |name| {
        vec![
            "link add pod0 type veth peer name eth0".into(),
            format!("link set eth0 netns {name}"),
            "addr add 10.77.0.1/30 dev pod0".into(),
            "link set pod0 up".into(),
            format!("-n {name} addr add 10.77.0.2/30 dev eth0"),
            format!("-n {name} link set eth0 up"),
            format!("-n {name} route add default via 10.77.0.1"),
            // What the dummy interface is for: an address that is the node's alone.
            format!("addr add {ADDRESS}/32 dev lo"),
        ]
    })
}

async fn node() {
    let Some(network) = pod_network() else {
        return namespace::skip(TEST, "no network namespace with a veth pair here");
    };
    let mut node = Node::start().await;
    node.stop().await;
    node.api
        .pki()
        .server(&["127.0.0.1", ADDRESS])
        .write_to(node.dir.path(), "serving");
    let text = node.config_text().replace(
        "[\"127.0.0.1:0\"]",
        &format!("[\"127.0.0.1:0\", \"{ADDRESS}:51003\"]"),
    );
    node.launch_text(&text).await;
    node.api.put(config_map("shop", "a", "sauerkraut"));

    let token = node.api.service_account_token("shop", "web");
    let volume = node.dir.path().join("serviceaccount");
    std::fs::DirBuilder::new().create(&volume).unwrap();
    for (name, content) in [("ca.crt", node.api.ca_pem()), ("token", &*token)] {
        let file = std::fs::File::create(volume.join(name));
        file.and_then(|mut file| std::io::Write::write_all(&mut file, content.as_bytes()))
            .unwrap();
    }
    let ask = || {
        let mut pod = namespace::again(TEST, &["ip", "netns", "exec", network.name()]);
        pod.env(VOLUME, &volume)
            .env("KUBERNETES_SERVICE_HOST", ADDRESS)
            .env("KUBERNETES_SERVICE_PORT", "51003");
        let done = tokio::task::block_in_place(|| pod.output().unwrap());
        let text = [done.stdout, done.stderr].concat();
        let text = String::from_utf8_lossy(&text).into_owned();
        assert!(done.status.success(), "{text}");
        text
    };
    let online = ask();
    assert!(online.contains("GOT 200 from \"\": sauerkraut"), "{online}");
    node.cut().await;
    let offline = ask();
    assert!(
        offline.contains(&format!("GOT 200 from \"{HIT}\": sauerkraut")),
        "{offline}"
    );
    node.stop().await;
}

/// What a program in a pod does.
async fn pod(volume: &Path) {
    let read = |name: &str| std::fs::read_to_string(volume.join(name)).unwrap();
    let variable = |name: &str| std::env::var(name).unwrap();
    let (host, port) = (
        variable("KUBERNETES_SERVICE_HOST"),
        variable("KUBERNETES_SERVICE_PORT"),
    );
    let address = format!("{host}:{port}").parse().unwrap();
    let client = Client::new(address, &read("ca.crt"), None).token(&read("token"));
    let answer = client.get(TARGET).await;
    println!(
        "GOT {} from {:?}: {}",
        answer.status,
        answer.header("cache-status"),
        answer.json()["items"][0]["data"]["k"]
            .as_str()
            .unwrap_or_default()
    );
}
