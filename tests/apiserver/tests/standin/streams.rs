use apiserver_standin::Options;
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{http1, start};

fn pod() -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "n", "name": "p"}, "spec": {}})
}

#[tokio::test]
async fn a_followed_log_streams_lines_as_they_come() {
    let (api, client) = start(Options::default());
    api.put(pod());
    api.log_line("n", "p", "one");
    let mut connection = client.connect().await.unwrap();
    let mut log = connection
        .open("GET", "/api/v1/namespaces/n/pods/p/log?follow=true", "")
        .await
        .unwrap();
    let mut next = async || {
        loop {
            let data = log.body_mut().frame().await?.unwrap().into_data().unwrap();
            // HTTP/2 may end a stream with an empty DATA frame.
            if !data.is_empty() {
                return Some(data);
            }
        }
    };
    assert_eq!(next().await.unwrap(), "one\n");
    api.log_line("n", "p", "two");
    assert_eq!(next().await.unwrap(), "two\n");
    api.log_end("n", "p");
    assert!(next().await.is_none());
    assert_eq!(
        client.get("/api/v1/namespaces/n/pods/p/log").await.text(),
        "one\ntwo\n"
    );
}

#[tokio::test]
async fn an_upgrade_echoes_bytes_and_keeps_half_close() {
    let (api, client) = start(Options::default());
    api.put(pod());
    for protocol in ["websocket", "SPDY/3.1"] {
        let client = http1(&client)
            .header("connection", "Upgrade")
            .header("upgrade", protocol);
        let client = client.header("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io");
        let mut connection = client.connect().await.unwrap();
        let response = connection
            .open("GET", "/api/v1/namespaces/n/pods/p/exec?command=sh", "")
            .await
            .unwrap();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["upgrade"]),
            (101, &protocol.parse::<http::HeaderValue>().unwrap())
        );
        assert_eq!(response.headers()["sec-websocket-protocol"], "v5.channel.k8s.io");
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        stream.write_all(b"hello \xff\x00").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"hello \xff\x00");
    }
    assert_eq!(client.get("/api/v1/namespaces/n/pods/p/exec").await.status, 400);
    assert_eq!(
        client.get("/api/v1/namespaces/n/pods/none/exec").await.status,
        404
    );
}

#[tokio::test]
async fn an_upgraded_connection_counts_and_can_be_cut() {
    let (api, client) = start(Options::default());
    api.put(pod());
    let client = http1(&client)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1");
    let mut connection = client.connect().await.unwrap();
    let target = "/api/v1/namespaces/n/pods/p/portforward";
    let response = connection.open("POST", target, "").await.unwrap();
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"x").await.unwrap();
    assert_eq!(stream.read_u8().await.unwrap(), b'x');
    assert_eq!(api.counters().connections_open, 1);
    api.cut_connections();
    assert!(stream.read_u8().await.is_err());
    api.wait_counters(|c| c.connections_open == 0).await;
}

#[tokio::test]
async fn the_echo_shows_what_arrived() {
    let (_api, client) = start(Options::default());
    let client = http1(&client).header("x-remote-user", "eve");
    let echo = client
        .send("POST", "/debug/echo?a=%2F&b", vec![7; 1_000_000])
        .await
        .unwrap()
        .json();
    assert_eq!(
        (&echo["target"], &echo["bodyLength"]),
        (&json!("/debug/echo?a=%2F&b"), &json!(1_000_000))
    );
    assert_eq!(echo["headers"]["x-remote-user"], json!(["eve"]));
    assert_eq!(echo["bodySha256"].as_str().unwrap().len(), 64);
}

#[tokio::test]
async fn trailers_are_sent_on_both_protocols() {
    let (_api, client) = start(Options::default());
    for client in [client.clone(), http1(&client).header("te", "trailers")] {
        let answer = client.get("/debug/trailers").await;
        assert_eq!(
            (answer.text().as_str(), answer.trailers["x-checksum"].as_bytes()),
            ("body before trailers\n", &b"abc"[..])
        );
    }
}

#[tokio::test]
async fn a_blob_is_about_as_large_as_asked_and_is_json() {
    let (_api, client) = start(Options::default());
    let blob = client.get("/debug/blob?size=3000000").await;
    assert!(
        (2_900_000..=3_100_000).contains(&blob.body.len()),
        "{}",
        blob.body.len()
    );
    assert!(blob.json()["items"].as_array().unwrap().len() > 2000);
}
