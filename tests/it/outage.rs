//! What is wrong with the way to the cloud is said with the server, the cause and since when: in the 503, to kubectl, and in
//! what `systemctl status` and monitoring are told.

use apiserver_standin::{Fault, Options, Standin};
use edgehold::upstream::{Cause, Condition, LinkReport, LinkState};

use crate::support::{Node, Setup, config_map, eventually};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

fn report(node: &Node) -> LinkReport {
    node.running().way().report()
}

/// Starts edgehold anew with another way to the cloud, and returns when it knows that it is of no use.
async fn relaunch(node: &mut Node, old: &str, new: &str) {
    node.stop().await;
    let text = node.config_text();
    assert!(text.contains(old), "{old} is not in {text}");
    node.launch_text(&text.replace(old, new)).await;
    node.wait_link(LinkState::Offline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_the_cause_and_the_moment_are_named() {
    let setup = Setup {
        // A resolver may take its time.
        connect_timeout: "25s",
        probe_timeout: "25s",
        ..Setup::default()
    };
    let mut node = Node::with(Options::default(), setup).await;
    let server = node.api.addr().to_string();
    let stranger = Standin::start(Options::default());
    stranger.pki().write_ca(node.dir.path(), "stranger");
    let ca = |name: &str| format!("caFile: {}", node.dir.path().join(name).display());
    let (own, other) = (ca("ca.crt"), ca("stranger.crt"));
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let closed = closed.to_string();
    let untrusted = "TLS: its certificate is not by a configured authority";
    for (old, new, named, cause) in [
        (
            &server,
            "nowhere.invalid:6443",
            "nowhere.invalid:6443",
            "its name cannot be looked up (DNS)",
        ),
        (&server, closed.as_str(), closed.as_str(), "connection refused"),
        (&own, other.as_str(), server.as_str(), untrusted),
    ] {
        relaunch(&mut node, old, new).await;
        let expected = format!("the cloud cannot be reached ({named}: {cause}, since 2");
        let refused = node.kubelet().get(LIST).await;
        assert_eq!(refused.status, 503);
        let text = refused.text();
        assert!(text.contains(&expected), "{expected}\nnot in\n{text}");
        assert!(text.contains("this client has not read it before"), "{text}");
        assert!(
            refused.json()["message"].as_str().unwrap().ends_with(" (EH001)"),
            "{text}"
        );
        let write = node
            .kubelet()
            .send("DELETE", &format!("{LIST}/a"), "")
            .await
            .unwrap();
        let write = write.text();
        assert!(
            write.contains(&expected) && write.contains("nothing was changed (EH001)"),
            "{write}"
        );
        let status = report(&node).to_string();
        let line = format!("offline: the cloud is away, answering from the cache ({named}: {cause}, since 2");
        assert!(status.starts_with(&line), "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_online_before_it_has_answered_and_an_outage_is_counted_with_what_the_cache_did() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    // Whoever heard the first answer, a probe for example, may not have told of it yet.
    eventually("it is online", || async {
        report(&node).condition == Condition::Online
    })
    .await;
    assert_eq!(report(&node).outages, 0);
    node.cut().await;
    for _ in 0..3 {
        assert_eq!(node.kubelet().get(LIST).await.status, 200);
    }
    let during = report(&node);
    assert_eq!((during.condition, during.outages), (Condition::Offline, 1));
    assert!(during.answered_from_cache >= 3, "{during:?}");
    let cause = during.servers[0].trouble.as_ref().map(|trouble| trouble.cause);
    assert_eq!(cause, Some(Cause::Refused), "{during:?}");
    node.heal().await;
    let after = report(&node);
    assert_eq!(after.condition, Condition::Online);
    assert_eq!(after.why(), None);
    let told: Vec<_> = after.changes.iter().map(|change| change.to).collect();
    assert_eq!(told, [Condition::Online, Condition::Offline, Condition::Online]);
    let gone = after.changes[1].why.as_deref().unwrap_or_default();
    assert!(gone.contains(&node.api.addr().to_string()), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_in_silence_is_starting_and_not_online() {
    let mut node = Node::start().await;
    node.stop().await;
    node.api.fault(Fault::BlackHole);
    node.launch().await;
    let status = report(&node).to_string();
    assert_eq!(status, "starting: the cloud has not answered yet");
    node.wait_link(LinkState::Offline).await;
    assert!(report(&node).to_string().contains("no answer in time, since 2"));
    node.api.clear_faults();
}
