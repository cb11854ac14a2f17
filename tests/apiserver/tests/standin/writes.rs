use apiserver_standin::Options;
use serde_json::json;

use crate::{config_map, names, start};

const MAPS: &str = "/api/v1/namespaces/n/configmaps";

#[tokio::test]
async fn objects_are_created_replaced_patched_and_deleted() {
    let (api, client) = start(Options::default());
    let made = client
        .send("POST", MAPS, config_map("n", "a", "web").to_string())
        .await
        .unwrap();
    assert_eq!(
        (made.status, &made.json()["metadata"]["resourceVersion"]),
        (201, &json!("101"))
    );
    let again = client
        .send("POST", MAPS, config_map("n", "a", "web").to_string())
        .await
        .unwrap();
    assert_eq!(
        (again.status, &again.json()["reason"]),
        (409, &json!("AlreadyExists"))
    );
    let mut object = made.json();
    object["data"]["k"] = json!("w");
    let one = format!("{MAPS}/a");
    assert_eq!(
        client.send("PUT", &one, object.to_string()).await.unwrap().json()["metadata"]["resourceVersion"],
        "102"
    );
    let stale = client.send("PUT", &one, object.to_string()).await.unwrap();
    assert_eq!((stale.status, &stale.json()["reason"]), (409, &json!("Conflict")));
    let patching = client
        .clone()
        .header("content-type", "application/merge-patch+json");
    let patched = patching
        .send("PATCH", &one, json!({"data": {"k": null, "l": "x"}}).to_string())
        .await
        .unwrap();
    assert_eq!(patched.json()["data"], json!({"l": "x"}));
    let gone = client.send("DELETE", &one, "").await.unwrap().json();
    assert_eq!(
        (&gone["status"], &gone["details"]["kind"]),
        (&json!("Success"), &json!("configmaps"))
    );
    assert_eq!((client.get(&one).await.status, api.revision()), (404, 104));
}

#[tokio::test]
async fn an_equal_write_changes_nothing() {
    let (api, client) = start(Options::default());
    let object = api.put(config_map("n", "a", "web"));
    let same = client
        .send("PUT", &format!("{MAPS}/a"), object.to_string())
        .await
        .unwrap();
    assert_eq!((same.json(), api.revision()), (object, 101));
}

#[tokio::test]
async fn status_and_spec_are_written_apart() {
    let (api, client) = start(Options::default());
    api.put(
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-1"}, "spec": {"podCIDR": "x"}}),
    );
    let client = client.header("content-type", "application/strategic-merge-patch+json");
    let patch = json!({"spec": {"podCIDR": "y"}, "status": {"phase": "Ready"}}).to_string();
    client
        .send("PATCH", "/api/v1/nodes/edge-1/status", patch.clone())
        .await
        .unwrap();
    let node = api.get("Node", "", "edge-1").unwrap();
    assert_eq!(
        (&node["spec"]["podCIDR"], &node["status"]["phase"]),
        (&json!("x"), &json!("Ready"))
    );
    let other = json!({"spec": {"podCIDR": "z"}, "status": {"phase": "Lost"}}).to_string();
    client.send("PATCH", "/api/v1/nodes/edge-1", other).await.unwrap();
    let node = api.get("Node", "", "edge-1").unwrap();
    assert_eq!(
        (&node["spec"]["podCIDR"], &node["status"]["phase"]),
        (&json!("z"), &json!("Ready"))
    );
}

#[tokio::test]
async fn a_finalizer_holds_a_deleted_object_until_it_is_taken_away() {
    let (api, client) = start(Options::default());
    let mut object = config_map("n", "a", "web");
    object["metadata"]["finalizers"] = json!(["x.io/f"]);
    api.put(object);
    let one = format!("{MAPS}/a");
    let held = client.send("DELETE", &one, "").await.unwrap().json();
    assert!(held["metadata"]["deletionTimestamp"].is_string());
    let patching = client
        .clone()
        .header("content-type", "application/merge-patch+json");
    patching
        .send(
            "PATCH",
            &one,
            json!({"metadata": {"finalizers": null}}).to_string(),
        )
        .await
        .unwrap();
    assert_eq!(api.get("ConfigMap", "n", "a"), None);
}

#[tokio::test]
async fn a_collection_is_deleted_by_its_selector() {
    let (api, client) = start(Options::default());
    for (name, app) in [("a", "web"), ("b", "db"), ("c", "web")] {
        api.put(config_map("n", name, app));
    }
    let gone = client
        .send("DELETE", &format!("{MAPS}?labelSelector=app%3Dweb"), "")
        .await
        .unwrap();
    assert_eq!(names(&gone.json()), ["n/a", "n/c"]);
    assert_eq!(api.list("ConfigMap", "n").len(), 1);
}

#[tokio::test]
async fn a_protobuf_body_comes_back_whole() {
    let (api, client) = start(Options::default());
    api.put(config_map("n", "a", "web"));
    let protobuf = client
        .clone()
        .header("accept", "application/vnd.kubernetes.protobuf");
    let bytes = protobuf.get(&format!("{MAPS}/a")).await.body;
    api.delete("ConfigMap", "n", "a");
    let writing = client.header("content-type", "application/vnd.kubernetes.protobuf");
    assert_eq!(writing.send("POST", MAPS, bytes).await.unwrap().status, 201);
    let object = api.get("ConfigMap", "n", "a").unwrap();
    assert_eq!(
        (&object["data"], &object["metadata"]["labels"]),
        (&json!({"k": "v"}), &json!({"app": "web"}))
    );
}

#[tokio::test]
async fn too_large_and_unknown_bodies_are_refused() {
    let (_api, client) = start(Options::default());
    assert_eq!(
        client
            .send("POST", MAPS, vec![b' '; (3 << 20) + 1])
            .await
            .unwrap()
            .status,
        413
    );
    let yaml = client.header("content-type", "application/yaml");
    assert_eq!(
        yaml.send("POST", MAPS, "kind: ConfigMap").await.unwrap().status,
        415
    );
}
