use std::path::{Path, PathBuf};

use apiserver_standin::Options;
use serde_json::{Value, json};

use crate::start;

/// The recordings in the repository, or those of `KUBE_FIXTURES`; none in a checkout without them.
fn recordings() -> Option<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/kube-apiserver-1.36");
    let dir = std::env::var_os("KUBE_FIXTURES").map_or(own, PathBuf::from);
    dir.join("index.json").exists().then_some(dir)
}

fn small(dir: &Path) {
    let index = json!([
        {"name": "one", "method": "GET", "path": "/api/v1/pods?b=2&a=1", "accept": "application/json"},
        {"name": "one-after", "method": "GET", "path": "/api/v1/pods?b=2&a=1", "accept": "application/json"},
        {"name": "made", "method": "POST", "path": "/x", "accept": "*/*"},
    ]);
    let head = "HTTP/1.1 410 Gone\r\nAudit-Id: recorded\r\nContent-Type: text/x\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (name, bytes) in [
        ("index.json", index.to_string()),
        ("one.headers", head.into()),
        ("one.body", "before".into()),
        ("one-after.headers", head.into()),
        ("one-after.body", "after".into()),
        ("made.body", "{}".into()),
    ] {
        std::fs::write(dir.join(name), bytes).unwrap();
    }
}

#[tokio::test]
async fn a_recording_answers_its_request_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    small(dir.path());
    let (api, client) = start(Options::fixtures(dir.path()));
    let json = client.clone().header("accept", "application/json");
    let answer = json.get("/api/v1/pods?a=1&b=2").await;
    assert_eq!((answer.status, answer.text().as_str()), (410, "before"));
    assert_eq!(
        (answer.header("audit-id"), answer.header("content-type")),
        ("recorded", "text/x")
    );
    api.prefer_recordings("-after");
    assert_eq!(json.get("/api/v1/pods?b=2&a=1").await.text(), "after");
    assert_eq!(json.get("/api/v1/pods").await.status, 404);
    assert_eq!(
        client.get("/api/v1/pods?b=2&a=1").await.status,
        404,
        "another Accept"
    );
    assert_eq!(client.send("POST", "/x", "").await.unwrap().status, 201);
}

#[tokio::test]
async fn every_recording_is_served_byte_for_byte() {
    let Some(dir) = recordings() else { return };
    let index: Vec<Value> = serde_json::from_slice(&std::fs::read(dir.join("index.json")).unwrap()).unwrap();
    let (api, client) = start(Options::fixtures(&dir));
    for entry in &index {
        let name = entry["name"].as_str().unwrap();
        let mut client = client.clone().header("accept", entry["accept"].as_str().unwrap());
        if entry["request_headers"].to_string().contains("gzip") {
            client = client.header("accept-encoding", "gzip");
        }
        api.prefer_recordings(name);
        let (method, path) = (entry["method"].as_str().unwrap(), entry["path"].as_str().unwrap());
        let answer = client.send(method, path, "").await.unwrap();
        assert_eq!(
            answer.body,
            std::fs::read(dir.join(format!("{name}.body"))).unwrap(),
            "{name}"
        );
    }
}

/// The shape of JSON: keys in order, without values.
fn keys(text: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut rest = text;
    while let Some(end) = rest.find("\":") {
        let start = rest[..end].rfind('"').map_or(0, |i| i + 1);
        keys.push(rest[start..end].to_owned());
        rest = &rest[end + 2..];
    }
    keys
}

#[tokio::test]
async fn own_answers_have_the_recorded_key_order() {
    let Some(dir) = recordings() else { return };
    let text = |name: &str| std::fs::read_to_string(dir.join(name)).unwrap();
    let (api, client) = start(Options::default());
    // What was recorded is put in; what comes out must have the same keys in the same order.
    let gauge: Value = serde_json::from_str(&text("gauges-get.json.body")).unwrap();
    let map: Value = serde_json::from_str(&text("cm-get.json.body")).unwrap();
    api.put(gauge);
    api.put(map);
    let got = client
        .get("/apis/edge.example.io/v1/namespaces/shop/gauges/g-0")
        .await
        .text();
    assert_eq!(keys(&got), keys(&text("gauges-get.json.body")));
    let got = client.get("/api/v1/namespaces/shop/configmaps/cm-2").await.text();
    assert_eq!(keys(&got), keys(&text("cm-get.json.body")));
    let got = client.get("/api/v1/namespaces/shop/configmaps/nope").await.text();
    assert_eq!(got, text("notfound.json.body"));
    let got = client.get("/api/v1/nosuch").await.text();
    assert_eq!(got.trim_end(), text("unknown-resource.body").trim_end());
    let proto = client.header("accept", "application/vnd.kubernetes.protobuf");
    let got = proto.get("/api/v1/namespaces/shop/configmaps/nope").await.body;
    assert_eq!(got, std::fs::read(dir.join("notfound.proto.body")).unwrap());
    let got = proto.get("/apis/edge.example.io/v1/gauges").await.body;
    assert_eq!(
        got,
        std::fs::read(dir.join("gauges-list-proto-refused.body")).unwrap()
    );
}
