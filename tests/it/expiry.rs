//! What the end of a certificate or token means while the cloud is away.
//!
//! The stand-in's `Date` is moved instead of the clock: to this node, the last contact was then at another time.

use apiserver_standin::{Client, ServiceAccountToken, Validity};
use edgehold::upstream::LinkState;

use crate::support::{HIT, KUBELET, Node, PROTOCOLS, config_map, eventually, get_on_both, names};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const MINUTE: i64 = 60;
const YEAR: i64 = 365 * 24 * 60 * MINUTE;

/// What the kubelet and a pod need of `expired`, having read it before.
struct Clients {
    token: String,
}

impl Clients {
    /// Both read the list while all is well; the apiserver says that it is so many seconds later than it is.
    async fn read(node: &Node, skew: i64) -> Self {
        node.api.skew_date(skew);
        node.api.put(config_map("shop", "a", "1"));
        let token = node.api.issue(&ServiceAccountToken {
            expires_in: -50,
            uid: Some("su".into()),
            ..ServiceAccountToken::new("shop", "default")
        });
        for client in [node.kubelet(), node.token_client(&token)] {
            assert_eq!(client.get(LIST).await.status, 200);
        }
        // Probes bring no `Date`, requests do.
        node.client(None).get("/version").await;
        Self { token }
    }
}

fn kubelet(node: &Node, validity: Validity) -> Client {
    let pki = node.api.pki();
    node.client(Some(&pki.client_valid(
        Some(KUBELET),
        &["system:nodes"],
        validity,
    )))
}

async fn assert_served(client: &Client, who: &str) {
    let answer = get_on_both(client, LIST).await;
    assert_eq!(
        (answer.status, answer.header("cache-status")),
        (200, HIT),
        "{who}: {}",
        answer.text()
    );
    assert_eq!(names(&answer.json()), ["a"], "{who}");
}

async fn assert_no_handshake(client: &Client, who: &str) {
    for protocol in PROTOCOLS {
        let refused = client.clone().protocol(protocol).send("GET", LIST, "").await;
        assert!(refused.is_err(), "{who}: {refused:?}");
    }
}

async fn restart_offline(node: &mut Node, expiry: &str) {
    node.stop().await;
    let text = format!("{}offline: {{expiry: {expiry}}}\n", node.config_text());
    node.launch_text(&text).await;
    node.wait_link(LinkState::Offline).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_reboots_offline_after_its_certificates_expired_still_serves_its_kubelet_and_pods() {
    let mut node = Node::start().await;
    let clients = Clients::read(&node, -30 * MINUTE).await;
    node.cut().await;
    let expired = Validity {
        from: -50 * MINUTE,
        until: -10 * MINUTE,
    };
    let long_expired = Validity {
        from: -50 * MINUTE,
        until: -40 * MINUTE,
    };
    // Its own pairs have expired too, the serving one included; nothing about them may keep it from starting.
    let pki = node.api.pki().clone();
    pki.client_valid(Some(KUBELET), &["system:nodes"], expired)
        .write_to(node.dir.path(), "kubelet");
    assert_no_handshake(&kubelet(&node, long_expired), "expired before the last contact").await;

    for expiry in ["lastContact", "strict", "lastContact"] {
        restart_offline(&mut node, expiry).await;
        let (old, pod) = (kubelet(&node, expired), node.token_client(&clients.token));
        if expiry == "strict" {
            assert_no_handshake(&old, expiry).await;
        } else {
            assert_served(&old, expiry).await;
        }
        // The token is a few seconds from its end, so both modes know it.
        assert_served(&pod, expiry).await;
        assert_served(&kubelet(&node, Validity::GOOD), "a valid certificate").await;
        assert_no_handshake(&kubelet(&node, long_expired), "expired before the last contact").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expires_in_an_outage_counts_on_and_where_expiry_is_strict_it_does_not() {
    let mut node = Node::start().await;
    let clients = Clients::read(&node, -30 * MINUTE).await;
    node.cut().await;
    eventually("its leeway is over", || async {
        !node.api.accepts(&clients.token)
    })
    .await;
    assert_served(&node.token_client(&clients.token), "before the restart").await;
    restart_offline(&mut node, "strict").await;
    let refused = node.token_client(&clients.token).get(LIST).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    restart_offline(&mut node, "lastContact").await;
    assert_served(&node.token_client(&clients.token), "after the restart").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_years_behind_is_taken_for_the_last_contact() {
    let mut node = Node::start().await;
    let clients = Clients::read(&node, 5 * YEAR).await;
    node.cut().await;
    let then = Validity {
        from: 4 * YEAR,
        until: 6 * YEAR,
    };
    for expiry in ["lastContact", "strict"] {
        restart_offline(&mut node, expiry).await;
        assert_served(&kubelet(&node, then), "valid at the last contact").await;
        let until_then = Validity::for_seconds(4 * YEAR);
        assert_no_handshake(&kubelet(&node, until_then), "valid by the wrong clock").await;
        let pod = node.token_client(&clients.token).get(LIST).await;
        assert_eq!(
            pod.status, 503,
            "a token that expired years before the last contact"
        );
    }
    // The way back is open: the apiserver's certificate is judged no earlier than that either.
    node.heal().await;
    let client = kubelet(&node, then);
    eventually("the cloud answers", || async {
        let answer = client.get(LIST).await;
        answer.status == 200 && answer.header("cache-status").is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_apiserver_cannot_tell_the_time() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    // The servers of aggregated groups, and pods behind the proxy subresource, write their own `Date`.
    node.api.skew_date(5 * YEAR);
    for target in [
        "/apis/metrics.k8s.io/v1beta1/nodes",
        "/apis/metrics.k8s.io/v1beta1",
        "/openapi/v3/apis/metrics.k8s.io/v1beta1",
        "/api/v1/namespaces/shop/pods/web/proxy/",
        "/api/v1/namespaces/shop/pods/web/log",
    ] {
        let _any = get_on_both(&node.kubelet(), target).await;
    }
    node.cut().await;
    assert_served(&node.kubelet(), "today's certificate").await;
    let in_years = Validity {
        from: 4 * YEAR,
        until: 6 * YEAR,
    };
    assert_no_handshake(&kubelet(&node, in_years), "valid in five years").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_outlives_its_certificate_gets_nothing_from_the_cache() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    let soon = Validity {
        from: -50 * MINUTE,
        until: 10 * MINUTE,
    };
    let mut open = Vec::new();
    for protocol in PROTOCOLS {
        for (validity, expected) in [(soon, 503), (Validity::GOOD, 200)] {
            let connection = kubelet(&node, validity).protocol(protocol).connect().await;
            open.push((protocol, connection.unwrap(), expected));
        }
    }
    // The cloud is seen once more after the end of the first of them.
    node.api.skew_date(30 * MINUTE);
    node.client(None).get("/version").await;
    node.cut().await;
    for (protocol, connection, expected) in &mut open {
        let answer = connection.send("GET", LIST, "").await.unwrap();
        assert_eq!(answer.status, *expected, "{protocol:?}: {}", answer.text());
    }
    assert_no_handshake(&kubelet(&node, soon), "expired before the last contact").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_expires_on_an_open_connection_is_refused_from_then_on() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let soon = Validity {
        from: -50 * MINUTE,
        until: 10 * MINUTE,
    };
    let mut open = Vec::new();
    for protocol in PROTOCOLS {
        for (validity, expected) in [(soon, 401), (Validity::GOOD, 200)] {
            let connection = kubelet(&node, validity).protocol(protocol).connect().await;
            let mut connection = connection.unwrap();
            assert_eq!(connection.send("GET", LIST, "").await.unwrap().status, 200);
            open.push((protocol, connection, expected));
        }
    }
    node.api.skew_date(30 * MINUTE);
    node.client(None).get("/version").await;
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    for (protocol, connection, expected) in &mut open {
        node.api.forget_requests();
        let answer = connection.send("GET", LIST, "").await.unwrap();
        assert_eq!(answer.status, *expected, "{protocol:?}: {}", answer.text());
        let write = connection
            .send("DELETE", &format!("{LIST}/none"), "")
            .await
            .unwrap();
        // What exists not is found out by whoever may ask.
        let expected_of_write = if *expected == 200 { 404 } else { 401 };
        assert_eq!(write.status, expected_of_write, "{protocol:?}: {}", write.text());
        if *expected == 401 {
            assert_eq!(node.asked("GET", LIST) + node.asked("DELETE", LIST), 0);
            // A kubelet that is told so here would end itself.
            let request = connection.send("POST", requests, "{}").await.unwrap();
            assert_eq!(request.status, 503, "{}", request.text());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connection_of_an_expired_certificate_ends_with_the_outage() {
    let node = Node::start().await;
    let _clients = Clients::read(&node, -30 * MINUTE).await;
    node.cut().await;
    let expired = Validity {
        from: -50 * MINUTE,
        until: -10 * MINUTE,
    };
    let held = crate::support::watch_from(LIST, &node.api.revision().to_string());
    let mut open = Vec::new();
    for protocol in PROTOCOLS {
        let clients = [kubelet(&node, expired), node.kubelet()];
        let [late, good] = clients.map(|client| client.protocol(protocol));
        let (mut late, mut good) = (late.connect().await.unwrap(), good.connect().await.unwrap());
        open.push((late.lines(&held).await.unwrap(), good.lines(&held).await.unwrap()));
    }
    node.heal().await;
    eventually("they are ended", || async {
        node.running().metrics().open.get() == 2
    })
    .await;
    node.api.put(config_map("shop", "b", "2"));
    for (late, good) in &mut open {
        // A clean end, so that the client asks again; a last bookmark may come before it.
        let last = crate::support::rest(late).await;
        assert!(last.iter().all(|event| event["type"] == "BOOKMARK"), "{last:?}");
        let change = crate::support::change(good).await;
        assert_eq!(change, ("ADDED".into(), "b".into()), "the other one goes on");
    }
}
