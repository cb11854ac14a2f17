//! Memory does not grow with the size of bodies (promise 6), and what is too large to be held is recorded all the same.
//!
//! Here with a list of 40 MB and the build under test; `benches/process.rs` has 200 MB and the release build.

use std::path::Path;

use apiserver_standin::{Options, Protocol};

use crate::child::{Child, drain};

const LIST: &str = "/api/v1/namespaces/huge/configmaps";
const UID: &[u8] = b"00000000-0000-4000-8000-";
const ITEMS: usize = 20_000;
const OBJECT: usize = 2000;

/// KiB; less than half of the list.
const BOUND: u64 = 16 << 10;

async fn a_list_is_streamed_and_recorded(protocol: Protocol, encoding: &str) {
    let program = Path::new(env!("CARGO_BIN_EXE_edgehold"));
    let node = Child::start(program, Options::huge(ITEMS, OBJECT)).await;
    let client = node.client().protocol(protocol).header("accept", encoding);
    client.get("/version").await;

    let before = node.memory();
    let online = drain(&client, LIST, UID).await;
    assert_eq!((online.status, online.found), (200, ITEMS));
    assert!(online.bytes > ITEMS * OBJECT);
    node.recorded(1).await;
    let added = node.memory().peak - before.resident;
    assert!(
        added < BOUND,
        "recording {} bytes took {added} KiB of memory",
        online.bytes
    );

    node.cut().await;
    let before = node.memory();
    node.forget_peak();
    assert_eq!(
        drain(&client, LIST, UID).await,
        online,
        "the list was recorded whole"
    );
    let added = node.memory().peak.saturating_sub(before.resident);
    assert!(
        added < BOUND,
        "answering from the cache took {added} KiB of memory"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_json_list_is_streamed_and_recorded_in_little_memory() {
    a_list_is_streamed_and_recorded(Protocol::Http2, "application/json").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_protobuf_list_is_streamed_and_recorded_in_little_memory() {
    a_list_is_streamed_and_recorded(Protocol::Http1, "application/vnd.kubernetes.protobuf").await;
}
