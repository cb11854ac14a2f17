//! Of all that one client knows, the newest is told: its own writes, whatever form they came in, and what is gone.

use apiserver_standin::{Answer, Client};
use serde_json::{Value, json};

use crate::support::{
    METADATA, Node, PROTOBUF, change, config_map, get_on_both, names, offline_list, version, watch_from,
};

const SHOP: &str = "/api/v1/namespaces/shop/configmaps";
const PODS: &str = "/api/v1/namespaces/shop/pods";

async fn start(objects: &[Value]) -> Node {
    let node = Node::start().await;
    for object in objects {
        node.api.put(object.clone());
    }
    node
}

async fn send(client: &Client, method: &str, target: &str, body: &Value) -> Answer {
    let client = match method {
        "PATCH" => client
            .clone()
            .header("content-type", "application/merge-patch+json"),
        _ => client.clone().header("content-type", "application/json"),
    };
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let answer = client.send(method, target, body).await.unwrap();
    assert!(answer.status < 300, "{method} {target}: {}", answer.text());
    answer
}

fn labelled(name: &str, app: &str) -> Value {
    let mut object = config_map("shop", name, "1");
    object["metadata"]["labels"] = json!({"app": app});
    object
}

fn with_finalizer(name: &str) -> Value {
    let mut object = config_map("shop", name, "1");
    object["metadata"]["finalizers"] = json!(["example.org/hold"]);
    object
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": name},
        "spec": {"nodeName": "edge-1", "containers": []}})
}

async fn status(client: &Client, target: &str) -> u16 {
    get_on_both(client, target).await.status
}

fn in_shop(name: &str) -> String {
    format!("{SHOP}/{name}")
}

#[tokio::test(flavor = "multi_thread")]
async fn own_writes_are_newer_than_the_list() {
    let mut node = start(&[config_map("shop", "old", "1"), config_map("shop", "changed", "1")]).await;
    let kubelet = node.kubelet();
    let list = kubelet.get(SHOP).await.json();
    node.settle().await;
    send(&kubelet, "POST", SHOP, &config_map("shop", "mine", "1")).await;
    let patch = json!({"data": {"key": "2"}});
    let patched = send(&kubelet, "PATCH", &in_shop("changed"), &patch).await.json();
    send(&kubelet, "DELETE", &in_shop("old"), &Value::Null).await;
    node.cut().await;
    for round in ["at once", "after a restart"] {
        let kubelet = node.kubelet();
        assert_eq!(status(&kubelet, &in_shop("mine")).await, 200, "{round}");
        assert_eq!(status(&kubelet, &in_shop("old")).await, 404, "{round}");
        assert_eq!(kubelet.get(&in_shop("changed")).await.json(), patched, "{round}");
        // A list says by its version that it is of before.
        let known = offline_list(&kubelet, SHOP).await;
        assert_eq!(
            (version(&known), names(&known)),
            (version(&list), names(&list)),
            "{round}"
        );
        node.restart().await;
        node.cut().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dry_runs_are_not_knowledge() {
    let node = start(&[config_map("shop", "a", "1")]).await;
    let kubelet = node.kubelet();
    let list = kubelet.get(SHOP).await.json();
    assert_eq!(status(&kubelet, &in_shop("never")).await, 404);
    let before = kubelet.get(&in_shop("a")).await.json();
    let dry = |target: &str| format!("{target}?dryRun=All&fieldManager=test");
    send(&kubelet, "POST", &dry(SHOP), &config_map("shop", "never", "1")).await;
    send(
        &kubelet,
        "PATCH",
        &dry(&in_shop("a")),
        &json!({"data": {"key": "2"}}),
    )
    .await;
    send(
        &kubelet,
        "PUT",
        &dry(&in_shop("a")),
        &config_map("shop", "a", "3"),
    )
    .await;
    send(&kubelet, "DELETE", &dry(&in_shop("a")), &Value::Null).await;
    let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "dryRun": ["All"]});
    // The stand-in knows dry runs by the query alone; the options of a body count for more than the query.
    send(&kubelet, "DELETE", &dry(&in_shop("a")), &options).await;
    node.cut().await;
    assert_eq!(status(&kubelet, &in_shop("never")).await, 404);
    assert_eq!(kubelet.get(&in_shop("a")).await.json(), before);
    assert_eq!(names(&offline_list(&kubelet, SHOP).await), names(&list));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_object_that_finalizers_keep_is_still_there() {
    let node = start(&[
        with_finalizer("held"),
        with_finalizer("let-go"),
        config_map("shop", "free", "1"),
    ])
    .await;
    node.api.put(pod("graceful"));
    let kubelet = node.kubelet();
    kubelet.get(SHOP).await;
    kubelet.get(PODS).await;
    node.settle().await;
    for name in ["held", "let-go", "free"] {
        send(&kubelet, "DELETE", &in_shop(name), &Value::Null).await;
    }
    let no_finalizer = json!({"metadata": {"finalizers": null}});
    send(&kubelet, "PATCH", &in_shop("let-go"), &no_finalizer).await;
    let graceful = format!("{PODS}/graceful");
    send(&kubelet, "DELETE", &graceful, &json!({"gracePeriodSeconds": 30})).await;
    node.cut().await;
    for (target, expected) in [
        (in_shop("held"), 200),
        (in_shop("let-go"), 404),
        (in_shop("free"), 404),
        (graceful, 200),
    ] {
        let answer = kubelet.get(&target).await;
        assert_eq!(answer.status, expected, "{target}: {}", answer.text());
        if expected == 200 {
            assert!(
                answer.json()["metadata"]["deletionTimestamp"].is_string(),
                "{target}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_deleted_collection_is_not_known() {
    let node = start(&[labelled("a", "x"), labelled("b", "y")]).await;
    let kubelet = node.kubelet();
    kubelet.get(SHOP).await;
    kubelet.get(&in_shop("a")).await;
    node.settle().await;
    send(
        &kubelet,
        "DELETE",
        &format!("{SHOP}?labelSelector=app%3Dx"),
        &Value::Null,
    )
    .await;
    node.cut().await;
    assert_eq!(status(&kubelet, &in_shop("a")).await, 503);
    assert_eq!(status(&kubelet, &in_shop("b")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_list_answers_for_every_narrower_one() {
    let selected = format!("{SHOP}?labelSelector=app%3Dx");
    let node = start(&[
        labelled("gone", "x"),
        labelled("left", "x"),
        labelled("stays", "x"),
    ])
    .await;
    let kubelet = node.kubelet();
    kubelet.get(&selected).await;
    node.settle().await;
    node.api.delete("ConfigMap", "shop", "gone");
    node.api.put(labelled("left", "y"));
    let all = kubelet.get(SHOP).await.json();
    node.cut().await;
    assert_eq!(status(&kubelet, &in_shop("gone")).await, 404);
    let known = offline_list(&kubelet, &selected).await;
    assert_eq!(
        (names(&known), version(&known)),
        (vec!["stays".to_owned()], version(&all))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn absence_is_proved_in_any_form() {
    let node = start(&[config_map("shop", "gone", "1")]).await;
    let kubelet = node.kubelet();
    kubelet.get(&in_shop("gone")).await;
    kubelet.get(SHOP).await;
    node.settle().await;
    node.api.delete("ConfigMap", "shop", "gone");
    let metadata = node.kubelet().header("accept", METADATA);
    assert!(names(&metadata.get(SHOP).await.json()).is_empty());
    node.cut().await;
    assert_eq!(status(&kubelet, &in_shop("gone")).await, 404);
}

/// flanneld gets its node in protobuf and watches it in JSON.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_form_is_not_told_beside_a_newer_one() {
    let node = start(&[labelled("a", "x")]).await;
    let protobuf = node.kubelet().header("accept", PROTOBUF);
    let both = node
        .kubelet()
        .header("accept", &format!("{PROTOBUF},application/json"));
    assert_eq!(status(&protobuf, &in_shop("a")).await, 200);
    let list = node.kubelet().get(SHOP).await.json();
    node.cut().await;
    assert_eq!(
        status(&protobuf, &in_shop("a")).await,
        200,
        "nothing contradicts it yet"
    );
    node.heal().await;
    let mut connection = node.kubelet().connect().await.unwrap();
    let mut watch = connection
        .lines(&watch_from(SHOP, &version(&list)))
        .await
        .unwrap();
    node.api.put(labelled("a", "y"));
    assert_eq!(change(&mut watch).await, ("MODIFIED".to_owned(), "a".to_owned()));
    node.cut().await;
    assert_eq!(status(&protobuf, &in_shop("a")).await, 503);
    assert_eq!(
        both.get(&in_shop("a")).await.json()["metadata"]["labels"]["app"],
        "y"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_version_gets_nothing_older() {
    let node = start(&[config_map("shop", "a", "1")]).await;
    let kubelet = node.kubelet();
    let object = kubelet.get(&in_shop("a")).await.json();
    node.api.put(config_map("shop", "b", "1"));
    let list = kubelet.get(SHOP).await.json();
    node.cut().await;
    let at = |version: String| format!("{}?resourceVersion={version}", in_shop("a"));
    let beyond = version(&list).parse::<u64>().unwrap() + 1;
    for (version, expected) in [
        ("0".to_owned(), 200),
        (version(&object), 200),
        // As of the list it had not changed.
        (version(&list), 200),
        (beyond.to_string(), 503),
        ("x".to_owned(), 503),
    ] {
        let target = at(version);
        assert_eq!(status(&kubelet, &target).await, expected, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_newer_than_a_404_counts() {
    let node = start(&[]).await;
    let kubelet = node.kubelet();
    kubelet.get(SHOP).await;
    node.settle().await;
    assert_eq!(status(&kubelet, &in_shop("later")).await, 404);
    node.settle().await;
    node.api.put(config_map("shop", "later", "1"));
    kubelet.get(SHOP).await;
    node.cut().await;
    assert_eq!(status(&kubelet, &in_shop("later")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_one_object_however_it_is_written() {
    let node = start(&[
        config_map("shop", "system:gone", "1"),
        config_map("shop", "system:kept", "1"),
        config_map("shop", "system:never", "1"),
    ])
    .await;
    let kubelet = node.kubelet();
    kubelet.get(SHOP).await;
    node.settle().await;
    send(&kubelet, "DELETE", &in_shop("s%79stem%3Agone"), &Value::Null).await;
    node.api.put(config_map("shop", "system:kept", "2"));
    let read = kubelet.get(&in_shop("system%3Akept")).await.json();
    node.api.delete("ConfigMap", "shop", "system:never");
    assert_eq!(status(&kubelet, &in_shop("system%3anever")).await, 404);
    node.cut().await;
    for spelled in ["system:", "system%3A", "system%3a"] {
        for name in ["gone", "never"] {
            let target = in_shop(&format!("{spelled}{name}"));
            assert_eq!(status(&kubelet, &target).await, 404, "{target}");
        }
        let kept = get_on_both(&kubelet, &in_shop(&format!("{spelled}kept"))).await;
        assert_eq!(kept.json(), read, "{spelled}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_selected_view_lost_is_told_under_no_spelling_of_its_name() {
    let selected = format!("{SHOP}?labelSelector=app%3Dweb");
    let node = start(&[labelled("a:b", "web")]).await;
    let kubelet = node.kubelet();
    assert_eq!(status(&kubelet, &in_shop("a%3Ab")).await, 200);
    let mut newer = labelled("a:b", "web");
    newer["data"] = json!({"key": "2"});
    node.api.put(newer);
    kubelet.get(&selected).await;
    node.settle().await;
    node.api.put(labelled("a:b", "db"));
    kubelet.get(&selected).await;
    node.cut().await;
    for name in ["a:b", "a%3Ab"] {
        let answer = kubelet.get(&in_shop(name)).await;
        assert_eq!(answer.status, 503, "{name}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_finds_no_object_proves_that_there_is_none() {
    let node = start(&[
        config_map("shop", "patched", "1"),
        config_map("shop", "put", "1"),
        config_map("shop", "dry", "1"),
    ])
    .await;
    let kubelet = node.kubelet();
    kubelet.get(SHOP).await;
    node.settle().await;
    for name in ["patched", "put", "dry"] {
        node.api.delete("ConfigMap", "shop", name);
    }
    let patch = kubelet
        .clone()
        .header("content-type", "application/merge-patch+json");
    let change = json!({"data": {"key": "2"}}).to_string();
    let dry = format!("{}?dryRun=All", in_shop("dry"));
    for target in [&in_shop("patched"), &dry] {
        let answer = patch.send("PATCH", target, change.clone()).await.unwrap();
        assert_eq!(answer.status, 404, "{}", answer.text());
    }
    let put = kubelet.clone().header("content-type", "application/json");
    let object = config_map("shop", "put", "2").to_string();
    let answer = put.send("PUT", &in_shop("put"), object).await.unwrap();
    assert_eq!(answer.status, 404, "{}", answer.text());
    node.cut().await;
    for (name, expected) in [("patched", 404), ("put", 404), ("dry", 200)] {
        assert_eq!(status(&kubelet, &in_shop(name)).await, expected, "{name}");
    }
}
