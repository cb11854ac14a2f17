//! The cloud is back: who returns when, and how refusals are believed.

use std::sync::Arc;

use apiserver_standin::{Lines, Options, Seen};
use edgehold::runtime::clock;
use parking_lot::Mutex;

use crate::scripted::{Scripted, Step, chunk, head};
use crate::support::{KUBELET, Node, PROTOCOLS, Setup, config_map, event, eventually, version, watch_from};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

/// The places of the watches of one kind of client among all that arrived.
fn places(watches: &[Seen], is: impl Fn(&Seen) -> bool) -> Vec<usize> {
    (0..watches.len()).filter(|n| is(&watches[*n])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn held_watches_return_by_priority_and_not_all_at_once() {
    const EACH: usize = 10;
    let node = Node::start().await;
    let revision = version(&node.api.put(config_map("shop", "a", "1")));
    let pod = node.token_client(&node.api.service_account_token("shop", "default"));
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    let (mut connections, mut watches): (Vec<_>, Vec<Lines>) = (Vec::new(), Vec::new());
    // The kubelet's are opened last, and must not be last to return.
    for client in [pod, proxy, node.kubelet()] {
        let mut connection = client.connect().await.unwrap();
        for n in 0..EACH {
            let target = watch_from(&format!("{LIST}?n={n}"), &revision);
            watches.push(connection.lines(&target).await.unwrap());
        }
        connections.push(connection);
    }
    node.cut().await;
    node.api.forget_requests();
    node.heal().await;
    let back = || -> Vec<Seen> {
        let all = node.api.requests().into_iter();
        all.filter(Seen::is_watch).collect()
    };
    eventually("all watches are back", || async { back().len() >= 3 * EACH }).await;
    let back = back();
    assert_eq!(back.len(), 3 * EACH);
    let kubelet = places(&back, |seen| seen.peer_cn.as_deref() == Some(KUBELET));
    let proxy = places(&back, |seen| seen.peer_cn.as_deref() == Some("system:kube-proxy"));
    let pod = places(&back, |seen| seen.token.is_some());
    assert_eq!([kubelet.len(), proxy.len(), pod.len()], [EACH; 3]);
    // Each identity dials for itself, so that neighbours may overtake each other on the way.
    let sums = [kubelet, proxy, pod].map(|places| places.into_iter().sum::<usize>());
    assert!(sums.is_sorted(), "{sums:?}");

    node.api.put(config_map("shop", "b", "1"));
    for watch in &mut watches {
        assert_eq!(
            event(watch).await["type"],
            "ADDED",
            "live again in the same stream"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returning_watch_comes_again_no_sooner_than_it_is_told() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let script = {
        let asked = Arc::clone(&asked);
        move |_: &str| {
            let mut asked = asked.lock();
            asked.push(clock::now());
            if asked.len() == 2 {
                let busy = "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nAudit-Id: 2\r\n\
                            Retry-After: 4\r\nContent-Length: 2\r\n\r\n{}";
                return vec![Step::Send(busy.into())];
            }
            let object =
                r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b","resourceVersion":"12"}}"#;
            let frame = format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n");
            vec![Step::Send(head()), Step::Send(chunk(&frame)), Step::Wait]
        }
    };
    let node = Scripted::of_watches(script).await;
    let mut connection = node.client().connect().await.unwrap();
    let mut watch = connection.lines(&watch_from(LIST, "11")).await.unwrap();
    event(&mut watch).await;
    node.cut().await;
    node.heal().await;
    event(&mut watch).await;
    let asked = asked.lock();
    assert_eq!(asked.len(), 3);
    let waited = asked[2] - asked[1];
    assert!(waited.as_secs_f64() >= 4.0, "{waited:?}");
}

/// Large, and a little different each time that it is asked for anew.
const HUGE: &str = "/api/v1/namespaces/huge/configmaps";

#[tokio::test(flavor = "multi_thread")]
async fn large_lists_wait_for_each_other_and_a_kubelets_for_none() {
    let setup = Setup {
        response_timeout: "60s",
        ..Setup::default()
    };
    let node = Node::with(Options::huge(1500, 1000), setup).await;
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    // Now it is known to be large.
    assert_eq!(proxy.get(HUGE).await.status, 200);
    let asked = || node.asked("GET", HUGE);
    let before = asked();
    let pair = node.pair("kube-proxy");
    let mut unread = Vec::new();
    for _ in 0..4 {
        unread.push(node.unread(&pair, HUGE).await);
    }
    assert_eq!(asked() - before, 4);
    let waiting = (0..8).map(|n| {
        let protocol = PROTOCOLS[n % 2];
        let client = proxy.clone().protocol(protocol);
        async move {
            client
                .connect()
                .await
                .unwrap()
                .send("GET", HUGE, "")
                .await
                .unwrap()
        }
    });
    let waiting = futures_util::future::join_all(waiting);
    let freeing = async {
        // A kubelet does not wait; when it is served the others have long been in the queue.
        assert_eq!(node.kubelet().get(HUGE).await.status, 200);
        assert_eq!(asked() - before, 5, "the others wait");
        unread.pop();
    };
    let (answers, ()) = tokio::join!(waiting, freeing);
    let direct = node.direct().get(HUGE).await;
    for answer in answers {
        assert_eq!((answer.status, answer.body.len()), (200, direct.body.len()));
    }
}
