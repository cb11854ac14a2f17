use apiserver_standin::{Client, Options};
use serde_json::json;

use crate::{config_map, http1, start};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

fn accepting(client: &Client, accept: &str) -> Client {
    client.clone().header("accept", accept)
}

#[tokio::test]
async fn built_in_kinds_come_as_protobuf_and_custom_ones_do_not() {
    let (api, client) = start(Options::default());
    api.put(config_map("n", "a", "web"));
    let list = accepting(&client, PROTOBUF).get("/api/v1/configmaps").await;
    assert_eq!(list.header("content-type"), PROTOBUF);
    assert!(
        list.body
            .starts_with(b"k8s\0\x0a\x13\x0a\x02v1\x12\x0dConfigMapList")
    );
    let refused = accepting(&client, PROTOBUF)
        .get("/apis/edge.example.io/v1/gauges")
        .await;
    assert_eq!((refused.status, refused.header("content-type")), (406, PROTOBUF));
    let json = accepting(&client, &format!("{PROTOBUF},application/json"))
        .get("/apis/edge.example.io/v1/gauges")
        .await;
    assert_eq!(
        (json.status, json.header("content-type")),
        (200, "application/json")
    );
    let refused = accepting(&client, "text/html").get("/api/v1/configmaps").await;
    assert_eq!((refused.status, refused.text().starts_with("{\n")), (406, true));
}

#[tokio::test]
async fn custom_lists_have_sorted_keys() {
    let (api, client) = start(Options::default());
    api.put(json!({"apiVersion": "edge.example.io/v1", "kind": "Gauge", "metadata": {"namespace": "n", "name": "g"},
        "spec": {"big": 9_007_199_254_740_993_u64}}));
    let text = client.get("/apis/edge.example.io/v1/gauges").await.text();
    assert!(text.starts_with("{\"apiVersion\":\"edge.example.io/v1\",\"items\":[{\"apiVersion\":\"edge.example.io/v1\",\"kind\":\"Gauge\",\"metadata\":{\"creationTimestamp\":"));
    assert!(text.ends_with(
        ",\"kind\":\"GaugeList\",\"metadata\":{\"continue\":\"\",\"resourceVersion\":\"101\"}}\n"
    ));
    assert!(text.contains("9007199254740993"));
}

#[tokio::test]
async fn metadata_only_and_tables_are_made_of_any_kind() {
    let (api, client) = start(Options::default());
    api.put(config_map("n", "a", "web"));
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let list = accepting(&client, partial).get("/api/v1/configmaps").await;
    assert_eq!(list.header("content-type"), "application/json");
    let list = list.json();
    assert_eq!(
        (&list["kind"], &list["items"][0]["kind"]),
        (
            &json!("PartialObjectMetadataList"),
            &json!("PartialObjectMetadata")
        )
    );
    assert!(list["items"][0].get("data").is_none());
    assert_eq!(
        accepting(&client, partial)
            .get("/api/v1/namespaces/n/configmaps/a")
            .await
            .status,
        406
    );
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let table = accepting(&client, table).get("/api/v1/configmaps").await.json();
    assert_eq!(
        (&table["kind"], &table["rows"][0]["cells"][0]),
        (&json!("Table"), &json!("a"))
    );
}

#[tokio::test]
async fn bodies_above_the_threshold_are_compressed_if_the_client_likes() {
    let (api, client) = start(Options::default());
    let mut object = config_map("n", "a", "web");
    object["data"]["k"] = json!("x".repeat(131_072));
    api.put(object);
    let plain = client.get("/api/v1/configmaps").await;
    assert_eq!(
        (plain.header("content-encoding"), plain.body.len() > 131_072),
        ("", true)
    );
    let packed = client
        .clone()
        .header("accept-encoding", "gzip")
        .get("/api/v1/configmaps")
        .await;
    assert_eq!(
        (packed.header("content-encoding"), packed.header("vary")),
        ("gzip", "Accept-Encoding")
    );
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut text).unwrap();
    assert_eq!(text, plain.body);
    let small = client
        .clone()
        .header("accept-encoding", "gzip")
        .get("/api/v1/pods")
        .await;
    assert_eq!(small.header("content-encoding"), "");
    let weighted = client
        .header("accept-encoding", "gzip;q=1")
        .get("/api/v1/configmaps")
        .await;
    assert_eq!(
        weighted.header("content-encoding"),
        "",
        "only the bare word is known"
    );
}

#[tokio::test]
async fn every_answer_has_an_audit_id_and_small_ones_a_length() {
    let (api, client) = start(Options::default());
    api.put(config_map("n", "a", "web"));
    let client = http1(&client).header("audit-id", "mine");
    let small = client.get("/api/v1/namespaces/n/configmaps/a").await;
    assert_eq!(
        (small.header("audit-id"), small.header("cache-control")),
        ("mine", "no-cache, private")
    );
    assert_eq!(small.header("content-length"), small.body.len().to_string());
    let mut object = config_map("n", "b", "web");
    object["data"]["k"] = json!("x".repeat(5000));
    api.put(object);
    assert_eq!(
        client
            .get("/api/v1/namespaces/n/configmaps/b")
            .await
            .header("transfer-encoding"),
        "chunked"
    );
    assert_eq!(client.get("/api/v1/nosuch").await.status, 404);
}

#[tokio::test]
async fn discovery_is_plain_or_aggregated_and_knows_its_etag() {
    let (_api, client) = start(Options::default());
    let plain = client.get("/apis").await;
    assert_eq!(
        (plain.header("content-type"), &plain.json()["kind"]),
        ("application/json", &json!("APIGroupList"))
    );
    let wanted = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let client = accepting(&client, wanted);
    let aggregated = client.get("/apis").await;
    assert_eq!(
        aggregated.header("content-type"),
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    assert_eq!(
        (
            aggregated.header("cache-control"),
            aggregated.header("etag").len()
        ),
        ("public", 130)
    );
    let same = client
        .clone()
        .header("if-none-match", aggregated.header("etag"))
        .get("/apis")
        .await;
    assert_eq!(
        (same.status, same.body.len(), same.header("etag")),
        (304, 0, aggregated.header("etag"))
    );
    for path in [
        "/api",
        "/api/v1",
        "/apis/apps",
        "/apis/apps/v1",
        "/version",
        "/openapi/v2",
        "/openapi/v3",
        "/readyz",
    ] {
        assert_eq!(client.get(path).await.status, 200, "{path}");
    }
    assert!(client.get("/version").await.text().starts_with("{\n"));
}

#[tokio::test]
async fn a_huge_list_is_whole_in_both_encodings_and_compressed() {
    let (_api, client) = start(Options::huge(300, 1000));
    let path = "/api/v1/namespaces/huge/configmaps";
    let list = client.get(path).await.json();
    assert_eq!(
        (
            list["items"].as_array().unwrap().len(),
            list["metadata"]["resourceVersion"].as_str()
        ),
        (300, Some("100"))
    );
    let protobuf = accepting(&client, PROTOBUF).get(path).await;
    // magic, typeMeta (0a 13 ..), raw (12, three byte varint), raw, 1a 00 22 00
    let raw = &protobuf.body[4 + 2 + 0x13..];
    let length = usize::from(raw[1] & 0x7f) | usize::from(raw[2] & 0x7f) << 7 | usize::from(raw[3]) << 14;
    assert_eq!((raw[0], raw.len()), (0x12, 4 + length + 4));
    let packed = client.clone().header("accept-encoding", "gzip").get(path).await;
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.body[..]), &mut text).unwrap();
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&text).unwrap(), list);
    let one = client.get(&format!("{path}/cm-00000007")).await.json();
    assert_eq!(one["data"], list["items"][7]["data"]);
}
