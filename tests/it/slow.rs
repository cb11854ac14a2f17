//! Slow and doubtful answers: while the cloud is there its answer is waited for and recorded, and the cache does not
//! answer instead; when it does not answer its probes the cache stands in, with what was read and nothing else.

use std::time::Duration;

use apiserver_standin::{Client, Fault, Options, Protocol};
use edgehold::runtime::clock;
use edgehold::upstream::LinkState;
use serde_json::{Value, json};

use crate::support::{
    HIT, Node, PROTOCOLS, STALE, Setup, change, config_map, event, names, offline_list, version, watch_from,
};

const SHOP: &str = "/api/v1/namespaces/shop/configmaps";

/// `responseTimeout`, and how much later slow answers begin.
const TIMEOUT: &str = "200ms";
const SLOW: Duration = Duration::from_millis(1000);

/// Kinds of a group that kube-apiserver does not serve by itself.
const GAUGES: &str = "/apis/edge.example.io/v1/namespaces/shop/gauges";

fn impatient() -> Setup {
    Setup {
        response_timeout: TIMEOUT,
        // Late probes are no part of this, however busy the machine is.
        probe_timeout: "20s",
        ..Setup::default()
    }
}

/// One whose probes fail in silence after 300 ms.
fn doubting() -> Setup {
    Setup {
        response_timeout: TIMEOUT,
        probe_timeout: "300ms",
        connect_timeout: "300ms",
        ..Setup::default()
    }
}

async fn node(setup: Setup) -> Node {
    let node = Node::with(Options::default(), setup).await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(names(&node.kubelet().get(SHOP).await.json()), ["a"]);
    node.settle().await;
    node
}

/// A live answer, whatever it takes.
async fn live(client: &Client, target: &str) -> Value {
    let answer = client.get(target).await;
    assert_eq!(
        (answer.status, answer.header("cache-status")),
        (200, ""),
        "{target}: {}",
        answer.text()
    );
    answer.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_list_is_waited_for_and_recorded_while_the_server_answers_its_probe() {
    for protocol in PROTOCOLS {
        let alpn = match protocol {
            Protocol::Http1 => vec!["http/1.1"],
            Protocol::Http2 => vec!["h2"],
        };
        let options = Options {
            alpn,
            ..Options::default()
        };
        let node = Node::with(options, impatient()).await;
        let kubelet = node.kubelet().protocol(protocol);
        node.api.put(config_map("shop", "a", "1"));
        assert_eq!(names(&live(&kubelet, SHOP).await), ["a"]);
        node.settle().await;
        let link = node.running().link();
        let probes = node.asked("GET", "/readyz");

        node.api.put(config_map("shop", "b", "1"));
        node.api.fault(Fault::Delay(SLOW).on(SHOP));
        let (list, object) = (kubelet.clone(), kubelet.clone());
        let object_target = format!("{SHOP}/b");
        let (list, object) = tokio::join!(live(&list, SHOP), live(&object, &object_target));
        assert_eq!(names(&list), ["a", "b"], "{protocol:?}");
        assert_eq!(object["data"]["k"], "1");
        assert!(node.asked("GET", "/readyz") > probes, "the server was probed");
        assert!(!link.has_changed().unwrap(), "slowness is no failure");

        node.cut().await;
        assert_eq!(names(&offline_list(&kubelet, SHOP).await), ["a", "b"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_was_made_since_the_view_was_read_is_never_404_while_the_cloud_may_be_there() {
    let node = node(impatient()).await;
    node.api.put(config_map("shop", "new", "1"));
    let new = format!("{SHOP}/new");
    node.api.fault(Fault::Delay(SLOW).on(&new).times(1));
    assert_eq!(live(&node.kubelet(), &new).await["data"]["k"], "1");

    for (number, (fault, status)) in [
        (Fault::Status(503), 503),
        (Fault::Status(504), 504),
        (Fault::GatewayPage(502), 502),
        (Fault::PassedPage(503), 503),
        (Fault::Reset, 503),
        (Fault::ResetStream, 503),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("new-{number}");
        node.api.put(config_map("shop", &name, "1"));
        let target = format!("{SHOP}/{name}");
        // A read whose connection broke is sent twice.
        node.api.fault(fault.on(&target).times(2));
        let answer = node.kubelet().get(&target).await;
        assert_eq!(
            (answer.status, answer.header("cache-status")),
            (status, ""),
            "{fault:?}: {}",
            answer.text()
        );
        node.api.clear_faults();
        node.wait_link(LinkState::Online).await;
        assert_eq!(
            live(&node.kubelet(), &target).await["data"]["k"],
            "1",
            "{fault:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_waited_for_and_its_pager_is_not_told_to_begin_again() {
    let node = node(impatient()).await;
    node.api.put(config_map("shop", "b", "1"));
    let first = live(&node.kubelet(), &format!("{SHOP}?limit=1")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let next = format!("{SHOP}?limit=1&continue={token}");
    node.api.fault(Fault::Delay(SLOW).on(&next).times(1));
    assert_eq!(names(&live(&node.kubelet(), &next).await), ["b"]);
    for fault in [Fault::Status(503), Fault::GatewayPage(503), Fault::Reset] {
        node.api.fault(fault.on(&next));
        let answer = node.kubelet().get(&next).await;
        assert_eq!(answer.status, 503, "{fault:?}: {}", answer.text());
        node.api.clear_faults();
        node.wait_link(LinkState::Online).await;
    }
    assert_eq!(names(&live(&node.kubelet(), &next).await), ["b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_informer_whose_version_was_compacted_gets_out_however_slow_lists_and_watches_are() {
    let node = node(impatient()).await;
    let kubelet = node.kubelet();
    let old = version(&live(&kubelet, SHOP).await);
    node.api.put(config_map("shop", "b", "1"));
    node.api.compact();
    node.api.fault(Fault::Delay(SLOW).on(SHOP));
    let mut connection = kubelet.connect().await.unwrap();
    let mut watch = connection.lines(&watch_from(SHOP, &old)).await.unwrap();
    let gone = event(&mut watch).await;
    assert_eq!(
        (&gone["type"], &gone["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    let list = live(&kubelet, SHOP).await;
    assert_eq!(names(&list), ["a", "b"]);
    let mut watch = connection
        .lines(&watch_from(SHOP, &version(&list)))
        .await
        .unwrap();
    node.api.put(config_map("shop", "c", "1"));
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "c".into()));
    // One that is opened again is waited for as well.
    node.api.cut_connections();
    node.api.put(config_map("shop", "d", "1"));
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "d".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_told_that_its_version_has_expired_only_when_the_cloud_is_away() {
    let node = node(doubting()).await;
    let old = version(&live(&node.kubelet(), SHOP).await);
    node.api.put(config_map("shop", "b", "1"));
    live(&node.kubelet(), SHOP).await;
    node.settle().await;
    node.api.fault(Fault::BlackHole);
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_from(SHOP, &old)).await.unwrap();
    assert_eq!(*node.running().link().borrow(), LinkState::Offline, "not before");
    assert_eq!(event(&mut watch).await["object"]["code"], json!(410));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspicion_alone_keeps_no_answer_away() {
    let node = node(impatient()).await;
    node.api.put(config_map("shop", "b", "1"));
    // The probe hangs, so that the suspicion lasts.
    node.api.fault(Fault::Stall.on("/readyz"));
    node.api.fault(Fault::Reset.on("/api/v1/nodes"));
    let kubelet = node.kubelet();
    let reset = kubelet.send("GET", "/api/v1/nodes", "");
    let suspected = async {
        node.wait_link(LinkState::Suspect).await;
        live(&node.kubelet(), SHOP).await
    };
    // The list's answer ends the suspicion, and with it the wait of the other.
    let (reset, list) = tokio::join!(reset, suspected);
    assert_eq!(reset.unwrap().status, 503);
    assert_eq!(names(&list), ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_that_answers_no_probe_is_stood_in_for_by_what_was_read_and_not_by_refusals() {
    let node = node(doubting()).await;
    node.api.fault(Fault::BlackHole);
    let began = clock::now();
    let kubectl = node.kubelet().header("user-agent", "kubectl/v1.36.0");
    let stale = kubectl.get(SHOP).await;
    let took = clock::now() - began;
    assert_eq!((stale.status, stale.header("cache-status")), (200, STALE));
    let warning = stale.header("warning");
    assert!(
        warning.starts_with("299 - \"no good answer came from the cloud (")
            && warning.contains("): this is what edgehold knew"),
        "{warning}"
    );
    // 200 ms, and 300 ms for the probe; the rest is the machine's.
    assert!(took >= Duration::from_millis(500), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");

    let missing = node.kubelet().get(&format!("{SHOP}/missing")).await;
    assert_eq!(missing.status, 404);
    assert_eq!(*node.running().link().borrow(), LinkState::Offline, "not before");
    let offline = kubectl.get(SHOP).await;
    assert_eq!((offline.status, offline.header("cache-status")), (200, HIT));
    assert!(offline.header("warning").contains("the cloud cannot be reached"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apiservers_own_failure_is_stood_in_for_only_in_groups_that_it_serves_itself() {
    let node = node(Setup::default()).await;
    node.api
        .put(json!({"apiVersion": "edge.example.io/v1", "kind": "Gauge",
        "metadata": {"namespace": "shop", "name": "g"}}));
    live(&node.kubelet(), GAUGES).await;
    node.settle().await;
    for fault in [Fault::Status(503), Fault::PassedPage(503)] {
        node.api.fault(fault);
        let core = node.kubelet().get(SHOP).await;
        assert_eq!(
            (core.status, core.header("cache-status")),
            (200, STALE),
            "{fault:?}"
        );
        let other = node.kubelet().get(GAUGES).await;
        assert_eq!(
            (other.status, other.header("cache-status")),
            (503, ""),
            "{fault:?}"
        );
        node.heal().await;
    }
    node.api.fault(Fault::GatewayPage(503).on(GAUGES));
    let gateways = node.kubelet().get(GAUGES).await;
    assert_eq!((gateways.status, gateways.header("cache-status")), (200, STALE));
}

/// Large, and a little different each time that it is asked for anew.
const HUGE: &str = "/api/v1/namespaces/huge/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_waited_long_enough_for_its_turn_is_asked_for_and_waited_for() {
    let setup = Setup {
        response_timeout: TIMEOUT,
        ..impatient()
    };
    let node = Node::with(Options::huge(1500, 1000), setup).await;
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    // Now it is known to be large.
    live(&proxy, HUGE).await;
    node.settle().await;
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(node.unread(&node.pair("kube-proxy"), HUGE).await);
    }
    let before = node.asked("GET", HUGE);
    node.api.fault(Fault::Delay(SLOW).on(HUGE));
    live(&proxy, HUGE).await;
    assert_eq!(node.asked("GET", HUGE), before + 1);
    assert_eq!(unread.len(), 4, "no place was free");
}
