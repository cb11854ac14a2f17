//! What becomes a view and what does not: the table A.6 of the wire contract through the whole process.

use std::time::Duration;

use apiserver_standin::{Fault, Options};
use edgehold::runtime::clock;
use edgehold::upstream::LinkState;
use serde_json::{Value, json};

use crate::scripted::{Scripted, Step, whole};
use crate::support::{
    Node, Setup, change, config_map, ends_initial, event, names, offline_list, rest, told, version,
    watch_from, watch_list,
};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

fn put(node: &Node, name: &str, value: &str) -> String {
    version(&node.api.put(config_map("shop", name, value)))
}

fn labelled(name: &str, app: &str) -> Value {
    let mut object = config_map("shop", name, "1");
    object["metadata"]["labels"]["app"] = json!(app);
    object
}

/// The version at the head of a list that is too large to be parsed for it.
fn stated_version(list: &str) -> String {
    let (_, rest) = list.split_once("\"resourceVersion\":\"").unwrap();
    rest.split('"').next().unwrap().to_owned()
}

/// Names and version of what is answered offline.
async fn offline(node: &Node, target: &str) -> (Vec<String>, String) {
    let list = offline_list(&node.kubelet(), target).await;
    (names(&list), version(&list))
}

fn state(names: &[&str], version: &str) -> (Vec<String>, String) {
    (
        names.iter().map(|name| (*name).to_owned()).collect(),
        version.to_owned(),
    )
}

fn marking() -> Options {
    Options {
        bookmark_interval: Duration::from_millis(50),
        ..Options::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_1_and_2_a_list_becomes_the_view_and_a_watch_from_its_version_carries_it_on() {
    let mut node = Node::with(marking(), Setup::default()).await;
    let first = put(&node, "a", "1");
    let list = node.kubelet().get(LIST).await.json();
    assert_eq!(version(&list), first);

    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_from(LIST, &first)).await.unwrap();
    put(&node, "b", "1");
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "b".into()));
    node.api.advance(8);
    let now = node.api.revision().to_string();
    while told(&event(&mut watch).await) != ("BOOKMARK".into(), String::new(), now.clone()) {}

    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["a", "b"], &now));
    drop((watch, connection));
    node.restart().await;
    assert_eq!(
        offline(&node, LIST).await,
        state(&["a", "b"], &now),
        "what a bookmark certified is known after a restart too"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn row_3_a_watch_ahead_of_its_view_is_forwarded_and_leaves_it_alone() {
    let node = Node::start().await;
    let listed = put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    put(&node, "a", "2");
    let ahead = put(&node, "b", "1");
    node.settle().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_from(LIST, &ahead)).await.unwrap();
    // Without a list there is nothing that would close the hole.
    node.api.fault(Fault::Status(503).on(LIST));
    put(&node, "a", "3");
    assert_eq!(change(&mut watch).await, ("MODIFIED".into(), "a".into()));
    node.cut().await;
    let list = offline_list(&node.kubelet(), LIST).await;
    assert_eq!((names(&list), version(&list)), state(&["a"], &listed));
    assert_eq!(list["items"][0]["data"]["k"], "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_4_events_that_the_view_already_has_are_forwarded_and_change_nothing() {
    let node = Node::start().await;
    let old = put(&node, "a", "1");
    put(&node, "b", "1");
    node.api.delete("ConfigMap", "shop", "a");
    let newest = put(&node, "a", "2");
    node.kubelet().get(LIST).await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_from(LIST, &old)).await.unwrap();
    for expected in [("ADDED", "b"), ("DELETED", "a"), ("ADDED", "a")] {
        let (change, name) = change(&mut watch).await;
        assert_eq!((change.as_str(), name.as_str()), expected);
    }
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["a", "b"], &newest));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_5_a_watch_list_that_is_cut_short_ends_cleanly_and_leaves_the_view_alone() {
    let node = Node::start().await;
    let listed = put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    node.settle().await;
    for n in 0..50 {
        put(&node, &format!("b{n:02}"), "1");
    }
    node.api.fault(
        Fault::CutBody { after_bytes: 4000 }
            .on(LIST)
            .containing("watch=true"),
    );
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_list(LIST)).await.unwrap();
    let received = rest(&mut watch).await;
    assert!(
        !received.is_empty() && received.len() < 50,
        "{} events",
        received.len()
    );
    assert!(received.iter().all(|event| event["type"] == "ADDED"));
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["a"], &listed));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_6_a_watch_list_replaces_the_view_at_its_end_bookmark() {
    let node = Node::start().await;
    put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    node.api.delete("ConfigMap", "shop", "a");
    let now = put(&node, "b", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_list(LIST)).await.unwrap();
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "b".into()));
    assert!(ends_initial(&event(&mut watch).await));
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["b"], &now));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_list_of_nothing_is_a_view_that_knows_there_is_nothing() {
    let node = Node::start().await;
    node.api.advance(5);
    let now = node.api.revision().to_string();
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_list(LIST)).await.unwrap();
    assert!(ends_initial(&event(&mut watch).await));
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&[], &now));
    let absent = node.kubelet().get(&format!("{LIST}/a")).await;
    assert_eq!(absent.status, 404, "{}", absent.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn row_7_a_legacy_watch_from_0_becomes_the_view_at_its_first_change() {
    let node = Node::start().await;
    let listed = put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    node.api.delete("ConfigMap", "shop", "a");
    put(&node, "b", "1");
    put(&node, "c", "1");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection
        .lines(&format!("{LIST}?watch=true&resourceVersion=0"))
        .await
        .unwrap();
    node.api.fault(Fault::Status(503).on(LIST));
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "b".into()));
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "c".into()));

    node.cut().await;
    assert_eq!(
        offline(&node, LIST).await,
        state(&["a"], &listed),
        "ADDED alone do not say that they are all"
    );
    assert!(
        rest(&mut watch).await.is_empty(),
        "without a position the client asks again"
    );

    node.heal().await;
    let mut watch = connection
        .lines(&format!("{LIST}?watch=true&resourceVersion=0"))
        .await
        .unwrap();
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "b".into()));
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "c".into()));
    let gone = version(&node.api.delete("ConfigMap", "shop", "c").unwrap());
    assert_eq!(change(&mut watch).await, ("DELETED".into(), "c".into()));
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["b"], &gone));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_8_a_watch_that_is_gone_says_so_and_the_view_still_answers_offline() {
    let node = Node::start().await;
    let listed = put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    put(&node, "b", "1");
    node.api.compact();
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_from(LIST, &listed)).await.unwrap();
    let events = rest(&mut watch).await;
    assert_eq!(events.len(), 1);
    assert_eq!(
        (&events[0]["type"], &events[0]["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["a"], &listed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_complete_chain_of_pages_becomes_the_view_however_fast_the_client_pages() {
    let node = Node::start().await;
    let large = "x".repeat(20_000);
    for n in 0..30 {
        put(&node, &format!("a{n:02}"), &large);
    }
    let now = node.api.revision().to_string();
    // Every round is a view of its own; the cut comes once.
    let selector = |round: usize| format!("labelSelector=round!%3D{round}");
    let mut connection = node.kubelet().connect().await.unwrap();
    for round in 0..20 {
        let mut token = String::new();
        let mut pages = 0;
        loop {
            let target = format!("{LIST}?{}&limit=10&continue={token}", selector(round));
            let page = connection.send("GET", &target, "").await.unwrap().json();
            pages += 1;
            token = page["metadata"]["continue"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            if token.is_empty() {
                break;
            }
        }
        assert_eq!(pages, 3);
    }
    node.cut().await;
    for round in 0..20 {
        let (names, version) = offline(&node, &format!("{LIST}?{}", selector(round))).await;
        assert_eq!((names.len(), version), (30, now.clone()), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn row_9_a_chain_of_pages_that_breaks_off_leaves_the_view_alone() {
    let node = Node::start().await;
    put(&node, "a", "1");
    let listed = put(&node, "b", "1");
    node.kubelet().get(LIST).await;
    node.settle().await;
    node.api.delete("ConfigMap", "shop", "b");
    put(&node, "c", "1");
    let page = node.kubelet().get(&format!("{LIST}?limit=1")).await.json();
    assert_eq!(names(&page), ["a"]);
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["a", "b"], &listed));
    let token = page["metadata"]["continue"].as_str().unwrap();
    let next = node
        .kubelet()
        .get(&format!("{LIST}?limit=1&continue={token}"))
        .await;
    assert_eq!(
        (next.status, &next.json()["reason"]),
        (410, &json!("Expired")),
        "the client's pager starts over"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn row_10_a_chain_that_goes_on_at_the_latest_version_is_never_labelled_with_it() {
    let node = Node::start().await;
    put(&node, "a", "1");
    let listed = put(&node, "b", "1");
    node.kubelet().get(LIST).await;
    node.settle().await;
    let first = node.kubelet().get(&format!("{LIST}?limit=1")).await.json();
    node.api.delete("ConfigMap", "shop", "b");
    let latest = put(&node, "c", "1");
    node.api.compact();
    let continued = |token: &Value| format!("{LIST}?limit=5&continue={}", token.as_str().unwrap());
    let expired = node
        .kubelet()
        .get(&continued(&first["metadata"]["continue"]))
        .await;
    assert_eq!(expired.status, 410);
    let inconsistent = &expired.json()["metadata"]["continue"];
    let second = node.kubelet().get(&continued(inconsistent)).await.json();
    assert_eq!((names(&second), version(&second)), state(&["c"], &latest));
    node.cut().await;
    let known = offline(&node, LIST).await;
    assert!(
        known == state(&["a", "b"], &listed) || known == state(&["a", "c"], &listed),
        "{known:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn row_11_a_list_that_lags_is_forwarded_and_the_view_keeps_what_it_has() {
    let node = Node::start().await;
    let old = put(&node, "a", "1");
    let newest = put(&node, "b", "1");
    node.kubelet().get(LIST).await;
    node.settle().await;
    node.api.lag(old.parse().ok());
    let lagging = node
        .kubelet()
        .get(&format!("{LIST}?resourceVersion=0"))
        .await
        .json();
    assert_eq!((names(&lagging), version(&lagging)), state(&["a"], &old));
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["a", "b"], &newest));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_12_a_history_that_went_back_replaces_the_view_and_drops_every_other() {
    let node = Node::start().await;
    let kept = put(&node, "a", "1");
    put(&node, "b", "1");
    let other = "/api/v1/namespaces/shop/secrets";
    let object = format!("{LIST}/b");
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    assert_eq!(node.kubelet().get(other).await.status, 200);
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    assert_eq!(proxy.get(LIST).await.status, 200);
    assert_eq!(node.kubelet().get(&object).await.status, 200);
    node.settle().await;

    node.api.rewind(kept.parse().unwrap());
    let now = node.kubelet().get(LIST).await.json();
    assert_eq!((names(&now), version(&now)), state(&["a"], &kept));
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["a"], &kept));
    for (client, target) in [(node.kubelet(), other), (proxy, LIST)] {
        assert_eq!(client.get(target).await.status, 503, "{target}");
    }
    let lost = node.kubelet().get(&object).await;
    assert_eq!(lost.status, 404, "an object of the lost history: {}", lost.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn row_13_leaving_a_selection_is_not_a_deletion_elsewhere() {
    let node = Node::start().await;
    node.api.put(labelled("a", "web"));
    let selected = format!("{LIST}?labelSelector=app%3Dweb");
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_list(&selected)).await.unwrap();
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "a".into()));
    assert!(ends_initial(&event(&mut watch).await));
    let object = node.kubelet().get(&format!("{LIST}/a")).await.json();
    let all = node.kubelet().get(LIST).await.json();

    let left = version(&node.api.put(labelled("a", "db")));
    assert_eq!(change(&mut watch).await, ("DELETED".into(), "a".into()));
    node.cut().await;
    assert_eq!(offline(&node, &selected).await, state(&[], &left));
    assert_eq!(offline(&node, LIST).await, state(&["a"], &version(&all)));
    assert_eq!(node.kubelet().get(&format!("{LIST}/a")).await.json(), object);
}

#[tokio::test(flavor = "multi_thread")]
async fn row_14_a_list_without_version_is_passed_on_and_never_cached() {
    const METRICS: &str = "/apis/stats.example.com/v1beta1/nodes";
    let list = json!({"kind": "NodeMetricsList", "apiVersion": "stats.example.com/v1beta1", "metadata": {},
        "items": [{"metadata": {"name": "edge-1"}, "usage": {"cpu": "1"}}]});
    let text = list.to_string();
    let node = Scripted::start(move |target| {
        assert!(target.starts_with(METRICS), "{target}");
        vec![Step::Send(whole(&text))]
    })
    .await;
    let online = node.client().get(METRICS).await;
    assert_eq!((online.status, online.json()), (200, list));
    node.cut().await;
    let answer = node.client().get(METRICS).await;
    assert_eq!((answer.status, &answer.json()["kind"]), (503, &json!("Status")));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_15_versions_are_ordered_as_numbers() {
    let options = Options {
        start_revision: 98,
        ..Options::default()
    };
    let node = Node::with(options, Setup::default()).await;
    assert_eq!(put(&node, "a", "1"), "99");
    node.kubelet().get(LIST).await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection.lines(&watch_from(LIST, "99")).await.unwrap();
    assert_eq!(put(&node, "b", "1"), "100");
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "b".into()));
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["a", "b"], "100"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_principals_never_share_a_view() {
    let node = Node::start().await;
    let first = put(&node, "a", "1");
    node.kubelet().get(LIST).await;
    node.settle().await;
    let second = put(&node, "b", "1");
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    proxy.get(LIST).await;
    node.cut().await;
    assert_eq!(offline(&node, LIST).await, state(&["a"], &first));
    let list = offline_list(&proxy, LIST).await;
    assert_eq!((names(&list), version(&list)), state(&["a", "b"], &second));
    let stranger = node.client(None).get(LIST).await;
    assert_eq!(stranger.status, 503, "{}", stranger.text());
    assert_eq!(*node.running().link().borrow(), LinkState::Offline);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_follows_a_large_list_at_once_is_never_lost() {
    const ROUNDS: usize = 20;
    let node = Node::start().await;
    let large = "x".repeat(100_000);
    for n in 0..55 {
        put(&node, &format!("big-{n:02}"), &large);
    }
    // Every round is a view of its own: a selector that selects everything.
    let collection = |round: usize| format!("{LIST}?labelSelector=round!%3D{round}");
    let mut seen = Vec::new();
    for round in 0..ROUNDS {
        let list = node.kubelet().get(&collection(round)).await;
        assert!(list.body.len() > 5 << 20);
        // The answer's end is at the client: the watch follows at once, while the list is still being written.
        let listed = stated_version(&list.text());
        let moved = put(&node, "moved", &round.to_string());
        let mut connection = node.kubelet().connect().await.unwrap();
        let mut watch = connection
            .lines(&watch_from(&collection(round), &listed))
            .await
            .unwrap();
        let added = put(&node, &format!("round-{round:02}"), "1");
        let first = told(&event(&mut watch).await);
        assert_eq!((first.1.as_str(), first.2), ("moved", moved));
        assert_eq!(told(&event(&mut watch).await).2, added);
        seen.push((added, watch, connection));
    }
    // The earlier watches bring the changes of the later rounds too.
    let (last, ..) = seen.last().unwrap();
    let last = last.clone();
    for (_, watch, _) in seen.iter_mut().take(ROUNDS - 1) {
        while told(&event(watch).await).2 != last {}
    }
    node.cut().await;
    let expected: Vec<String> = node
        .api
        .list("ConfigMap", "shop")
        .iter()
        .map(|object| object["metadata"]["name"].as_str().unwrap().to_owned())
        .collect();
    // A machine too busy to write a list down as fast as it is read may give a round up, and then says 503.
    let mut answered = 0;
    let patience = clock::now() + Duration::from_secs(5);
    for round in 0..ROUNDS {
        let mut answer = node.kubelet().get(&collection(round)).await;
        while answer.status == 503 && clock::now() < patience {
            answer = node.kubelet().get(&collection(round)).await;
        }
        if answer.status == 503 {
            continue;
        }
        answered += 1;
        let list = answer.json();
        assert_eq!(version(&list), last, "round {round}");
        assert_eq!(names(&list), expected, "round {round}");
    }
    assert!(answered >= ROUNDS / 2, "{answered} of {ROUNDS} lists were kept");
}
