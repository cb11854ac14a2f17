//! kube-rs as a client: typed calls, and watchers of both kinds through an outage.
#![allow(clippy::disallowed_methods)] // a test's own tasks

use std::collections::BTreeMap;
use std::time::Duration;

use apiserver_standin::{Existing, Fault, Seen};
use base64::Engine as _;
use edgehold::upstream::LinkState;
use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Config};
use tokio::task::JoinHandle;

use crate::support::{DEADLINE, Node, config_map};

/// A client of edgehold as the kubelet, without retries of its own.
fn client(node: &Node) -> Client {
    let _already = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let address = node.running().addresses()[0];
    let mut config = Config::new(format!("https://{address}").parse().unwrap());
    let der = |pem: &str| rustls_pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap();
    let ca: rustls_pki_types::CertificateDer<'static> = der(node.api.ca_pem());
    config.root_cert = Some(vec![ca.to_vec()]);
    let pair = node.pair("kubelet");
    let encode = |pem: &str| base64::engine::general_purpose::STANDARD.encode(pem);
    config.auth_info.client_certificate_data = Some(encode(&pair.cert_pem));
    config.auth_info.client_key_data = Some(encode(&pair.key_pem).into());
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

fn config_maps(node: &Node) -> Api<ConfigMap> {
    Api::namespaced(client(node), "shop")
}

fn values<'a>(maps: impl IntoIterator<Item = &'a ConfigMap>) -> BTreeMap<String, String> {
    let pair = |map: &ConfigMap| {
        let data = map.data.clone().unwrap_or_default();
        (map.metadata.name.clone().unwrap(), data["k"].clone())
    };
    maps.into_iter().map(pair).collect()
}

/// What the cloud holds.
fn truth(node: &Node) -> BTreeMap<String, String> {
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let all = node.api.list("ConfigMap", "shop");
    all.iter()
        .map(|map| (text(&map["metadata"]["name"]), text(&map["data"]["k"])))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn typed_calls_work_online_and_reads_offline() {
    let node = Node::start().await;
    let api = config_maps(&node);
    let made: ConfigMap = serde_json::from_value(config_map("shop", "a", "1")).unwrap();
    api.create(&PostParams::default(), &made).await.unwrap();
    node.api.put(config_map("shop", "b", "2"));
    assert_eq!(
        values(&api.list(&ListParams::default()).await.unwrap()),
        truth(&node)
    );
    assert_eq!(values([&api.get("a").await.unwrap()]), values([&made]));
    assert!(api.get_opt("none").await.unwrap().is_none());
    let metadata = api.list_metadata(&ListParams::default()).await.unwrap();
    assert_eq!(metadata.items.len(), 2);

    node.cut().await;
    assert_eq!(
        values(&api.list(&ListParams::default()).await.unwrap()),
        truth(&node)
    );
    assert_eq!(values([&api.get("a").await.unwrap()]), values([&made]));
    assert!(api.get_opt("none").await.unwrap().is_none());
    assert_eq!(
        api.list_metadata(&ListParams::default())
            .await
            .unwrap()
            .items
            .len(),
        2
    );
    let status = |error: kube::Error| match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other:?}"),
    };
    let secrets: Api<k8s_openapi::api::core::v1::Secret> = Api::namespaced(client(&node), "shop");
    assert_eq!(
        status(secrets.list(&ListParams::default()).await.unwrap_err()),
        503
    );
    assert_eq!(status(secrets.get("never").await.unwrap_err()), 503);
    assert_eq!(
        status(api.create(&PostParams::default(), &made).await.unwrap_err()),
        503
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_watch_goes_on_through_an_outage() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let api = config_maps(&node);
    let version = api
        .list(&ListParams::default())
        .await
        .unwrap()
        .metadata
        .resource_version
        .unwrap();
    let mut watch = api
        .watch(&WatchParams::default(), &version)
        .await
        .unwrap()
        .boxed();
    let mut next = async || {
        let event = tokio::time::timeout(DEADLINE, watch.next())
            .await
            .expect("an event in time");
        match event.expect("the watch goes on").unwrap() {
            WatchEvent::Added(map) => format!("+{}", map.metadata.name.unwrap()),
            WatchEvent::Deleted(map) => format!("-{}", map.metadata.name.unwrap()),
            other => panic!("{other:?}"),
        }
    };
    node.api.put(config_map("shop", "b", "1"));
    assert_eq!(next().await, "+b");
    node.cut().await;
    node.api.put(config_map("shop", "c", "1"));
    node.api.delete("ConfigMap", "shop", "a");
    node.heal().await;
    assert_eq!([next().await, next().await], ["+c", "-a"]);
}

/// A reflector that runs until dropped.
struct Reflector {
    store: Store<ConfigMap>,
    task: JoinHandle<()>,
    errors: std::sync::Arc<parking_lot::Mutex<Vec<String>>>,
}

impl Drop for Reflector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Reflector {
    async fn start(node: &Node, config: watcher::Config) -> Self {
        let (store, writer) = reflector::store();
        let errors = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
        let own = std::sync::Arc::clone(&errors);
        let events = watcher(config_maps(node), config)
            .default_backoff()
            .reflect(writer);
        let task = tokio::spawn(async move {
            let mut events = events.boxed();
            while let Some(event) = events.next().await {
                if let Err(error) = event {
                    own.lock().push(format!("{error:?}"));
                }
            }
        });
        let ready = tokio::time::timeout(DEADLINE, store.wait_until_ready()).await;
        ready.expect("ready in time").unwrap();
        Self { store, task, errors }
    }

    fn content(&self) -> BTreeMap<String, String> {
        let all = self.store.state();
        values(all.iter().map(AsRef::as_ref))
    }

    async fn wait_for(&self, expected: &BTreeMap<String, String>) {
        let polling = async {
            let mut pause = tokio::time::interval(Duration::from_millis(5));
            while self.content() != *expected {
                pause.tick().await;
            }
        };
        let reached = tokio::time::timeout(DEADLINE, polling).await;
        assert!(
            reached.is_ok(),
            "{:?} is not {expected:?}; errors: {:?}",
            self.content(),
            self.errors.lock()
        );
    }
}

/// Requests that transfer the whole collection.
fn transfers(node: &Node) -> usize {
    let whole = |seen: &&Seen| {
        seen.path().ends_with("/configmaps")
            && (!seen.is_watch() || seen.query("sendInitialEvents").as_deref() == Some("true"))
    };
    node.api.requests().iter().filter(whole).count()
}

fn strategies() -> [watcher::Config; 2] {
    [
        watcher::Config::default(),
        watcher::Config::default().streaming_lists(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_follows_an_outage_without_listing_again() {
    for config in strategies() {
        let node = Node::start().await;
        for n in 0..20 {
            node.api.put(config_map("shop", &format!("c-{n}"), "0"));
        }
        let reflector = Reflector::start(&node, config.clone()).await;
        assert_eq!((reflector.content(), transfers(&node)), (truth(&node), 1));
        node.api.put(config_map("shop", "live", "1"));
        reflector.wait_for(&truth(&node)).await;

        for round in 1..=3 {
            let before = truth(&node);
            node.cut().await;
            node.api.put(config_map("shop", "c-1", &round.to_string()));
            node.api.put(config_map("shop", &format!("new-{round}"), "1"));
            node.api.delete("ConfigMap", "shop", &format!("c-{}", 10 + round));
            assert_eq!(
                reflector.content(),
                before,
                "nothing changes while the cloud is away"
            );
            node.heal().await;
            reflector.wait_for(&truth(&node)).await;
        }
        assert_eq!(transfers(&node), 1, "{config:?}");
        assert_eq!(*reflector.errors.lock(), Vec::<String>::new(), "{config:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_that_starts_offline_after_a_reboot_is_complete_and_returns_without_listing() {
    for config in strategies() {
        let mut node = Node::start().await;
        for n in 0..5 {
            node.api.put(config_map("shop", &format!("c-{n}"), "0"));
        }
        drop(Reflector::start(&node, config.clone()).await);
        node.cut().await;
        node.restart().await;
        node.wait_link(LinkState::Offline).await;
        let known = truth(&node);
        node.api.put(config_map("shop", "meanwhile", "1"));
        node.api.delete("ConfigMap", "shop", "c-0");
        let reflector = Reflector::start(&node, config.clone()).await;
        assert_eq!(reflector.content(), known);
        node.heal().await;
        reflector.wait_for(&truth(&node)).await;
        assert_eq!(transfers(&node), 1, "{config:?}: the outage cost no list");
        assert_eq!(*reflector.errors.lock(), Vec::<String>::new(), "{config:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reflector_that_missed_compacted_history_lists_again_and_is_right() {
    for config in strategies() {
        let node = Node::start().await;
        node.api.put(config_map("shop", "a", "0"));
        node.api.put(config_map("shop", "b", "0"));
        let reflector = Reflector::start(&node, config.clone()).await;
        node.cut().await;
        node.api.delete("ConfigMap", "shop", "a");
        node.api.put(config_map("shop", "c", "1"));
        node.api.compact();
        node.heal().await;
        reflector.wait_for(&truth(&node)).await;
        assert!(
            transfers(&node) > 1,
            "{config:?}: only a new list can tell of what was compacted"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_black_hole_is_no_more_than_a_pause_for_a_reflector() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "0"));
    let reflector = Reflector::start(&node, watcher::Config::default()).await;
    node.api.fault(Fault::BlackHole);
    node.api.put(config_map("shop", "b", "1"));
    node.api.clear_faults();
    reflector.wait_for(&truth(&node)).await;
    node.api.fault(Fault::Refuse(Existing::Cut));
    node.api.put(config_map("shop", "c", "1"));
    node.api.clear_faults();
    reflector.wait_for(&truth(&node)).await;
    assert_eq!(transfers(&node), 1);
}
