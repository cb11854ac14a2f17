use std::io::Read;
use std::time::Duration;

use apiserver_standin::{Options, Standin};
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::{config_map, start};

/// `TYPE name@revision`.
fn short(event: &Value) -> String {
    let meta = &event["object"]["metadata"];
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    format!(
        "{} {}@{}",
        text(&event["type"]),
        text(&meta["name"]),
        text(&meta["resourceVersion"])
    )
}

fn label(api: &Standin, name: &str, app: &str) {
    api.put(config_map("n", name, app));
}

#[tokio::test]
async fn a_watch_sends_what_is_above_its_revision() {
    let (api, client) = start(Options::default());
    label(&api, "a", "1");
    label(&api, "b", "1");
    let mut connection = client.connect().await.unwrap();
    let mut watch = connection
        .lines("/api/v1/namespaces/n/configmaps?watch=1&resourceVersion=101")
        .await
        .unwrap();
    assert_eq!(short(&watch.next().await.unwrap().unwrap()), "ADDED b@102");
    label(&api, "a", "2");
    api.put(config_map("other", "a", "2"));
    api.delete("ConfigMap", "n", "a");
    assert_eq!(short(&watch.next().await.unwrap().unwrap()), "MODIFIED a@103");
    let deleted = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (short(&deleted), &deleted["object"]["metadata"]["labels"]["app"]),
        ("DELETED a@105".into(), &json!("2"))
    );
}

#[tokio::test]
async fn entering_and_leaving_a_selector_are_added_and_deleted_at_the_revision_of_the_event() {
    let (api, client) = start(Options::default());
    label(&api, "a", "web");
    let mut connection = client.connect().await.unwrap();
    let target = "/api/v1/configmaps?watch=true&resourceVersion=101&labelSelector=app%3Dweb";
    let mut watch = connection.lines(target).await.unwrap();
    label(&api, "b", "db");
    label(&api, "a", "db");
    label(&api, "b", "web");
    let left = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (short(&left), &left["object"]["metadata"]["labels"]["app"]),
        ("DELETED a@103".into(), &json!("web"))
    );
    assert_eq!(short(&watch.next().await.unwrap().unwrap()), "ADDED b@104");
}

#[tokio::test]
async fn initial_events_come_in_key_order_and_end_with_an_annotated_bookmark() {
    let (api, client) = start(Options::default());
    label(&api, "b", "1");
    label(&api, "a", "1");
    let mut connection = client.connect().await.unwrap();
    let target = "/api/v1/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                  &allowWatchBookmarks=true&timeoutSeconds=1";
    let mut watch = connection.lines(target).await.unwrap();
    assert_eq!(short(&watch.next().await.unwrap().unwrap()), "ADDED a@102");
    assert_eq!(short(&watch.next().await.unwrap().unwrap()), "ADDED b@101");
    assert_eq!(
        watch.next().await.unwrap().unwrap(),
        json!({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"resourceVersion": "102", "annotations": {"k8s.io/initial-events-end": "true"}}}})
    );
    label(&api, "c", "1");
    assert_eq!(short(&watch.next().await.unwrap().unwrap()), "ADDED c@103");
    assert_eq!(
        short(&watch.next().await.unwrap().unwrap()),
        "BOOKMARK -@103",
        "the one before the deadline"
    );
    assert_eq!(
        watch.next().await.unwrap(),
        None,
        "a clean end after timeoutSeconds"
    );
}

#[tokio::test]
async fn a_watch_from_before_the_history_gets_410_as_an_event() {
    let (api, client) = start(Options {
        history: 2,
        ..Options::default()
    });
    for app in ["1", "2", "3"] {
        label(&api, "a", app);
    }
    let mut connection = client.connect().await.unwrap();
    let mut watch = connection
        .lines("/api/v1/configmaps?watch=true&resourceVersion=100")
        .await
        .unwrap();
    assert_eq!(watch.response.status(), 200);
    assert_eq!(
        watch.next().await.unwrap().unwrap(),
        json!({"type": "ERROR", "object": {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version: 100 (101)", "reason": "Expired", "code": 410}})
    );
    assert_eq!(watch.next().await.unwrap(), None);
}

#[tokio::test]
async fn a_watch_in_the_future_is_silent_until_it_is_reached() {
    let (api, client) = start(Options {
        bookmark_interval: Duration::from_millis(20),
        ..Options::default()
    });
    let mut connection = client.connect().await.unwrap();
    let target = "/api/v1/configmaps?watch=true&resourceVersion=102&allowWatchBookmarks=true";
    let mut watch = connection.lines(target).await.unwrap();
    label(&api, "a", "1");
    label(&api, "a", "2");
    label(&api, "a", "3");
    let mut event = watch.next().await.unwrap().unwrap();
    while event["type"] == "BOOKMARK" {
        assert!(event["object"]["metadata"]["resourceVersion"].as_str() >= Some("102"));
        event = watch.next().await.unwrap().unwrap();
    }
    assert_eq!(short(&event), "MODIFIED a@103");
    assert_eq!(short(&watch.next().await.unwrap().unwrap()), "BOOKMARK -@103");
}

#[tokio::test]
async fn contradicting_watch_options_are_422() {
    let (_api, client) = start(Options::default());
    for query in [
        "sendInitialEvents=true",
        "resourceVersion=5&resourceVersionMatch=NotOlderThan",
    ] {
        assert_eq!(
            client
                .get(&format!("/api/v1/pods?watch=true&{query}"))
                .await
                .status,
            422,
            "{query}"
        );
    }
}

#[tokio::test]
async fn rewinding_ends_watches_and_restores_the_past() {
    let (api, client) = start(Options::default());
    label(&api, "a", "1");
    let mut connection = client.connect().await.unwrap();
    let mut watch = connection
        .lines("/api/v1/configmaps?watch=true&resourceVersion=101")
        .await
        .unwrap();
    label(&api, "b", "1");
    assert_eq!(short(&watch.next().await.unwrap().unwrap()), "ADDED b@102");
    api.rewind(101);
    assert_eq!(watch.next().await.unwrap(), None);
    assert_eq!((api.revision(), api.list("ConfigMap", "").len()), (101, 1));
}

#[tokio::test]
async fn a_protobuf_watch_is_framed_and_says_so() {
    let (api, client) = start(Options::default());
    label(&api, "a", "1");
    let client = client.header("accept", "application/vnd.kubernetes.protobuf");
    let answer = client
        .get("/api/v1/configmaps?watch=true&resourceVersion=100&timeoutSeconds=1")
        .await;
    assert_eq!(
        answer.header("content-type"),
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    let length = u32::from_be_bytes(answer.body[..4].try_into().unwrap()) as usize;
    assert_eq!(answer.body.len(), 4 + length);
    assert!(answer.body[4..].starts_with(b"\x0a\x05ADDED\x12"));
}

/// The members of a gzip stream that has so many.
async fn members(body: &mut hyper::body::Incoming, count: usize) -> Vec<String> {
    let (mut packed, mut members) = (Vec::new(), Vec::new());
    while members.len() < count {
        let frame = body.frame().await.unwrap().unwrap();
        packed.extend_from_slice(&frame.into_data().unwrap());
        members.clear();
        let mut rest = &packed[..];
        while !rest.is_empty() {
            let mut member = flate2::bufread::GzDecoder::new(rest);
            let mut text = String::new();
            if member.read_to_string(&mut text).is_err() {
                break;
            }
            rest = member.into_inner();
            members.push(text);
        }
    }
    members
}

#[tokio::test]
async fn a_watch_list_is_compressed_with_one_member_a_flush_for_who_accepts_it() {
    let (api, client) = start(Options::default());
    for name in ["a", "b", "c", "d"] {
        label(&api, name, "1");
    }
    let client = client.header("accept-encoding", "deflate, gzip");
    let mut connection = client.connect().await.unwrap();
    let initial = "/api/v1/configmaps?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let watch_list = format!("{initial}&allowWatchBookmarks=true");
    let legacy = "/api/v1/configmaps?watch=true&resourceVersion=0&allowWatchBookmarks=true";
    for target in [&watch_list, legacy] {
        let response = connection.open("GET", target, "").await.unwrap();
        assert_eq!(response.headers()["content-encoding"], "gzip", "{target}");
        assert_eq!(response.headers()["vary"], "Accept-Encoding");
        let mut body = response.into_body();
        let read = members(&mut body, 2).await;
        let lines: Vec<usize> = read.iter().map(|member| member.lines().count()).collect();
        assert_eq!(lines, [3, 2], "{read:?}");
        assert!(read[1].contains("initial-events-end"));
        label(&api, "e", target);
        let read = members(&mut body, 1).await;
        assert!(
            read[0].lines().count() == 1 && read[0].contains(r#""name":"e""#),
            "{read:?}"
        );
        api.delete("ConfigMap", "n", "e");
    }
    for target in [
        initial,
        "/api/v1/configmaps?watch=true&resourceVersion=101&allowWatchBookmarks=true",
    ] {
        let plain = connection.open("GET", target, "").await.unwrap();
        assert!(!plain.headers().contains_key("content-encoding"), "{target}");
    }
    let (_api, before) = start(Options {
        watch_list_compression: false,
        ..Options::default()
    });
    let mut connection = before.header("accept-encoding", "gzip").connect().await.unwrap();
    let plain = connection.open("GET", &watch_list, "").await.unwrap();
    assert!(!plain.headers().contains_key("content-encoding"), "before 1.37");
}
