//! Callers whom no apiserver knows: what comes of what they ask says nothing of the cloud, and whoever of them is about to be
//! accepted is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use apiserver_standin::{Client, Fault, Protocol, Rbac, Rule, Subject};
use tokio::task::JoinSet;

use crate::support::{DEADLINE, HIT, KUBELET, Node, PROTOCOLS, config_map, eventually};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const THINGS: &str = "/apis/example.org/v1/things";
const EXEC: &str = "/api/v1/namespaces/shop/pods/p/exec?command=sh&stdin=true";

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_they_ask_makes_the_link_suspect() {
    let node = Node::start().await;
    assert_eq!(node.kubelet().get("/version").await.status, 200);
    let mut link = node.running().link();
    link.mark_unchanged();
    for fault in [
        Fault::Reset,
        Fault::ResetStream,
        Fault::GatewayPage(503),
        Fault::GatewayPage(401),
        Fault::Status(429),
        Fault::Status(503),
    ] {
        node.api.fault(fault.on(THINGS));
        for (n, protocol) in PROTOCOLS.into_iter().enumerate() {
            for stranger in [node.client(None), node.token_client(&format!("made-up-{n}"))] {
                let stranger = stranger.protocol(protocol);
                for (method, body) in [("GET", ""), ("POST", "{}")] {
                    let answer = stranger
                        .send(method, &format!("{THINGS}?{n}"), body)
                        .await
                        .unwrap();
                    assert!(answer.status >= 400, "{fault:?}: {}", answer.text());
                }
                let upgrade = upgrading(&stranger)
                    .send("POST", &format!("{THINGS}/exec"), "")
                    .await;
                assert!(upgrade.is_err() || upgrade.unwrap().status >= 400, "{fault:?}");
            }
        }
        node.api.clear_faults();
        assert!(!link.has_changed().unwrap(), "{fault:?}");
    }
    // The same of a client that is known.
    node.api.fault(Fault::Reset.on(THINGS));
    node.kubelet().get(THINGS).await;
    let changed = tokio::time::timeout(DEADLINE, link.changed()).await;
    changed.expect("it is suspected").unwrap();
}

fn upgrading(client: &Client) -> Client {
    client
        .clone()
        .protocol(Protocol::Http1)
        .header("connection", "Upgrade")
        .header("upgrade", "SPDY/3.1")
        .header("x-stream-protocol-version", "v4.channel.k8s.io")
}

/// Each refusal ends the connection on which the next of them asks.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_token_is_accepted_in_the_middle_of_a_flood_of_made_up_ones() {
    const NEW: usize = 40;
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut flood = JoinSet::new();
    for n in 0..6_u8 {
        let forger = node.client(None).protocol(PROTOCOLS[usize::from(n % 2)]);
        let forger = forger.from_address([127, 0, 0, 20 + n].into());
        let is_over = Arc::clone(&is_over);
        flood.spawn(async move {
            let mut asked = 0_u32;
            while !is_over.load(Ordering::Relaxed) {
                asked += 1;
                let forger = forger.clone().token(&format!("made-up-{n}-{asked}"));
                let _refused = forger.send("GET", LIST, "").await;
            }
            asked
        });
    }
    for n in 0..NEW {
        let token = node.api.service_account_token("shop", &format!("new-{n}"));
        let pod = node.token_client(&token).protocol(PROTOCOLS[n % 2]);
        let pod = pod.from_address([127, 0, 0, 9].into());
        if n % 4 < 2 {
            let answer = pod.get(&format!("{LIST}/a")).await;
            assert_eq!(answer.status, 200, "{n}: {}", answer.text());
        } else {
            let made = config_map("shop", &format!("made-{n}"), "1").to_string();
            let pod = pod.header("content-type", "application/json");
            let answer = pod.send("POST", LIST, made).await.unwrap();
            assert_eq!(answer.status, 201, "{n}: {}", answer.text());
        }
    }
    is_over.store(true, Ordering::Relaxed);
    let mut asked = 0;
    while let Some(ended) = flood.join_next().await {
        asked += ended.unwrap();
    }
    assert!(asked > 0, "there was a flood");
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_with_a_made_up_credential_are_few_at_a_time_and_get_nothing() {
    const AT_ONCE: usize = 8;
    let node = Node::start().await;
    node.api
        .fault(Fault::Stall.on("/api/v1/namespaces/shop/pods/p/exec"));
    let forger = |n: usize| upgrading(&node.token_client(&format!("made-up-{n}")));
    let mut asking = JoinSet::new();
    for n in 0..AT_ONCE {
        let forger = forger(n);
        asking.spawn(async move { forger.send("POST", EXEC, "").await });
    }
    eventually("they are under way", || async {
        node.asked("POST", EXEC) == AT_ONCE
    })
    .await;
    assert_eq!(forger(AT_ONCE).send("POST", EXEC, "").await.unwrap().status, 429);
    assert_eq!(node.asked("POST", EXEC), AT_ONCE, "it was not sent");
    asking.shutdown().await;
    node.api.clear_faults();
    eventually("there is room again", || async {
        forger(0).send("POST", EXEC, "").await.unwrap().status == 401
    })
    .await;
    node.cut().await;
    assert_eq!(forger(0).send("POST", EXEC, "").await.unwrap().status, 503);
}

/// Of two credentials the certificate counts, and the token is nobody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_beside_a_certificate_gives_nothing_with_the_cloud_or_without() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "sauerkraut"));
    let user = "system:serviceaccount:shop:web";
    let web = Rule::allow(Subject::User(user.into()), &["*"], &["*"]);
    let kubelet = Rule::allow(Subject::User(KUBELET.into()), &["*"], &["*"]);
    node.api.set_rbac(Rbac::deny_all().with(web).with(kubelet));
    let token = node.api.service_account_token("shop", "web");
    assert_eq!(node.token_client(&token).get(LIST).await.status, 200);
    let proxy = node.client(Some(&node.pair("kube-proxy"))).token(&token);
    for protocol in PROTOCOLS {
        assert_eq!(proxy.clone().protocol(protocol).get(LIST).await.status, 403);
    }
    node.settle().await;
    node.cut().await;
    for protocol in PROTOCOLS {
        let refused = proxy.clone().protocol(protocol).get(LIST).await;
        assert_eq!(refused.status, 503, "{}", refused.text());
        let kubelet = node.kubelet().token(&token).protocol(protocol);
        assert_eq!(kubelet.get(LIST).await.status, 503, "it has read nothing itself");
        let owner = node.token_client(&token).protocol(protocol).get(LIST).await;
        assert_eq!((owner.status, owner.header("cache-status")), (200, HIT));
    }
}
