use std::time::Duration;

use apiserver_standin::{Existing, Fault, Options};

use crate::{config_map, http1, start};

/// Long enough to be sure that nothing comes, short enough to wait for.
const SILENCE: Duration = Duration::from_millis(200);

#[tokio::test]
async fn refusing_is_a_real_econnrefused_and_ends_on_the_same_port() {
    let (api, client) = start(Options::default());
    let addr = api.addr();
    let mut old = client.connect().await.unwrap();
    assert_eq!(old.send("GET", "/version", "").await.unwrap().status, 200);
    api.fault(Fault::Refuse(Existing::Keep));
    let error = tokio::net::TcpStream::connect(addr).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(
        old.send("GET", "/version", "").await.unwrap().status,
        200,
        "old connections were to be kept"
    );
    api.fault(Fault::Refuse(Existing::Cut));
    assert!(old.send("GET", "/version", "").await.is_err());
    api.clear_faults();
    assert_eq!((client.get("/version").await.status, api.addr()), (200, addr));
}

#[tokio::test]
async fn a_stalled_request_is_seen_and_never_answered() {
    let (api, client) = start(Options::default());
    api.fault(Fault::Stall.on("/version").times(1));
    let mut connection = client.connect().await.unwrap();
    let waiting = tokio::time::timeout(SILENCE, connection.send("GET", "/version", ""));
    assert!(waiting.await.is_err());
    api.wait_for(|r| r.path() == "/version").await;
    api.wait_counters(|c| c.streams_open == 0).await;
    assert_eq!(client.get("/version").await.status, 200, "only the first one");
}

#[tokio::test]
async fn a_stalled_handshake_lasts_until_the_client_gives_up() {
    let (api, client) = start(Options::default());
    api.fault(Fault::StallHandshake.times(1));
    assert!(tokio::time::timeout(SILENCE, client.connect()).await.is_err());
    api.wait_counters(|c| c.connections_total == 1 && c.connections_open == 0)
        .await;
    assert_eq!(client.get("/version").await.status, 200);
}

#[tokio::test]
async fn a_black_hole_swallows_old_and_new_connections_and_lets_them_go() {
    let (api, client) = start(Options::default());
    let mut old = client.connect().await.unwrap();
    let target = "/api/v1/configmaps?watch=true&resourceVersion=100";
    let mut watch = old.lines(target).await.unwrap();
    api.fault(Fault::BlackHole);
    api.put(config_map("n", "a", "web"));
    assert!(tokio::time::timeout(SILENCE, watch.next()).await.is_err());
    assert!(tokio::time::timeout(SILENCE, client.connect()).await.is_err());
    assert!(
        tokio::net::TcpStream::connect(api.addr()).await.is_ok(),
        "TCP itself still connects"
    );
    api.clear_faults();
    assert_eq!(watch.next().await.unwrap().unwrap()["type"], "ADDED");
    assert_eq!(client.get("/version").await.status, 200);
}

#[tokio::test]
async fn a_body_is_cut_inside_on_both_protocols() {
    let (api, client) = start(Options::default());
    api.put(config_map("n", "a", "web"));
    api.fault(Fault::CutBody { after_bytes: 10 });
    for client in [client.clone(), http1(&client)] {
        let mut connection = client.connect().await.unwrap();
        let response = connection.open("GET", "/api/v1/configmaps", "").await.unwrap();
        assert_eq!(response.status(), 200);
        assert!(apiserver_standin::read(response).await.is_err());
    }
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_an_error() {
    let (api, client) = start(Options::default());
    api.fault(Fault::ShortBody);
    for client in [client.clone(), http1(&client)] {
        let mut connection = client.connect().await.unwrap();
        let response = connection.open("GET", "/version", "").await.unwrap();
        assert!(response.headers().contains_key("content-length"));
        assert!(apiserver_standin::read(response).await.is_err());
    }
}

#[tokio::test]
async fn an_apiserver_error_has_an_audit_id_and_a_gateway_page_has_none() {
    let (api, client) = start(Options::default());
    api.fault(Fault::Status(503).times(1));
    api.fault(Fault::GatewayPage(502).times(1));
    let own = client.get("/api/v1/pods").await;
    assert_eq!(
        (own.status, own.json()["reason"].as_str()),
        (503, Some("ServiceUnavailable"))
    );
    assert!(own.headers.contains_key("audit-id") && !own.headers.contains_key("retry-after"));
    let gateway = client.get("/api/v1/pods").await;
    assert_eq!(
        (gateway.status, gateway.header("content-type")),
        (502, "text/html")
    );
    assert!(!gateway.headers.contains_key("audit-id"));
}

#[tokio::test]
async fn a_reset_takes_the_connection_and_a_stream_reset_only_the_stream() {
    let (api, client) = start(Options::default());
    let mut connection = client.connect().await.unwrap();
    api.fault(Fault::ResetStream.times(1));
    assert!(connection.send("GET", "/version", "").await.is_err());
    assert_eq!(connection.send("GET", "/version", "").await.unwrap().status, 200);
    api.fault(Fault::Reset.times(1));
    assert!(connection.send("GET", "/version", "").await.is_err());
    assert!(connection.send("GET", "/version", "").await.is_err());
    assert_eq!(client.get("/version").await.status, 200);
    api.fault(Fault::Reset.times(1));
    assert!(http1(&client).send("GET", "/version", "").await.is_err());
}

#[tokio::test]
async fn a_delay_holds_the_answer_back() {
    let (api, client) = start(Options::default());
    let mut connection = client.connect().await.unwrap();
    api.fault(Fault::Delay(SILENCE));
    let start = std::time::Instant::now();
    assert_eq!(connection.send("GET", "/version", "").await.unwrap().status, 200);
    assert!(start.elapsed() >= SILENCE);
}

#[tokio::test]
async fn goaway_lets_running_streams_end_and_refuses_new_ones() {
    let (api, client) = start(Options::default());
    let mut connection = client.connect().await.unwrap();
    let mut watch = connection
        .lines("/api/v1/configmaps?watch=true&resourceVersion=100&timeoutSeconds=1")
        .await
        .unwrap();
    api.go_away();
    api.put(config_map("n", "a", "web"));
    assert_eq!(watch.next().await.unwrap().unwrap()["type"], "ADDED");
    assert_eq!(watch.next().await.unwrap(), None);
    api.wait_counters(|c| c.connections_open == 0).await;
    assert!(connection.send("GET", "/version", "").await.is_err());
    assert_eq!(client.get("/version").await.status, 200);
}

#[tokio::test]
async fn shutting_down_ends_every_task_and_connection() {
    let (api, client) = start(Options::default());
    let mut connection = client.connect().await.unwrap();
    let mut watch = connection
        .lines("/api/v1/configmaps?watch=true&resourceVersion=100")
        .await
        .unwrap();
    api.fault(Fault::Stall.on("/version"));
    let stalled = client.clone();
    let stalled = tokio::spawn(async move { stalled.send("GET", "/version", "").await.is_err() });
    api.wait_for(|r| r.path() == "/version").await;
    let addr = api.addr();
    tokio::time::timeout(Duration::from_secs(5), api.shutdown())
        .await
        .expect("all tasks end");
    assert!(!matches!(watch.next().await, Ok(Some(_))));
    assert!(stalled.await.unwrap());
    assert!(tokio::net::TcpStream::connect(addr).await.is_err());
}
