//! Several apiservers: while one is there, no client notices that another is not.

use std::time::Duration;

use apiserver_standin::{Existing, Fault, Options, Standin};
use edgehold::runtime::clock;
use edgehold::upstream::LinkState;

use crate::support::{KUBELET, Node, STALE, Setup, change, config_map, event, eventually, names, watch_from};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";

/// A node with two servers of one cluster; `node.api` is the preferred one.
struct Two {
    node: Node,
    second: Standin,
}

impl Two {
    async fn start() -> Self {
        Self::with(Setup::default(), "").await
    }

    /// `fields` are more fields of `upstream`, as YAML lines.
    async fn with(setup: Setup, fields: &str) -> Self {
        let mut node = Node::with(Options::default(), setup).await;
        node.stop().await;
        let second = Standin::start(Options {
            cluster: Some(node.api.cluster()),
            ..Options::default()
        });
        let first = format!("\"{}\"", node.api.url());
        let both = format!("{first}, \"{}\"", second.url());
        let text = node.config_text().replace(&first, &both);
        let text = text.replace("upstream:\n", &format!("upstream:\n{fields}"));
        node.api.put(config_map("shop", "a", "1"));
        node.launch_text(&text).await;
        Self { node, second }
    }

    /// How many requests for this path each server has seen.
    fn seen(&self, path: &str) -> (usize, usize) {
        let count = |api: &Standin| api.requests().iter().filter(|seen| seen.path() == path).count();
        (count(&self.node.api), count(&self.second))
    }

    /// The answer to a list, which must not come from the cache.
    async fn live(&self) -> Vec<String> {
        let answer = self.node.kubelet().get(LIST).await;
        assert_eq!((answer.status, answer.header("cache-status")), (200, ""));
        names(&answer.json())
    }

    async fn state(&self, server: &Standin, state: LinkState) {
        let name = server.addr().to_string();
        let link = self.node.running().way();
        eventually("the server is in that state", || async {
            link.servers().contains(&(name.clone(), state))
        })
        .await;
    }

    /// A watch that has seen the event of `name`.
    async fn put(&self, name: &str) {
        self.node.api.put(config_map("shop", name, "1"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_refuses_costs_no_request_of_any_kind() {
    let two = Two::start().await;
    let kubelet = two.node.kubelet();
    assert_eq!(two.live().await, ["a"]);
    assert_eq!(two.seen(LIST), (1, 0), "the preferred server is used");
    let follower = two.node.running().link();

    two.node.api.fault(Fault::Refuse(Existing::Cut));
    assert_eq!(two.live().await, ["a"], "a list");
    assert_eq!(kubelet.get(&format!("{LIST}/a")).await.status, 200, "an object");
    let body = config_map("shop", "b", "1").to_string();
    let made = kubelet.send("POST", LIST, body.clone()).await.unwrap();
    assert_eq!(made.status, 201, "a write: {}", made.text());
    let mut connection = kubelet.connect().await.unwrap();
    let version = two.node.api.revision().to_string();
    let mut watch = connection.lines(&watch_from(LIST, &version)).await.unwrap();
    two.put("c").await;
    assert_eq!(change(&mut watch).await, ("ADDED".into(), "c".into()), "a watch");

    let seen = two.second.wait_for(|seen| seen.method == "POST").await;
    assert_eq!(seen.authority, two.second.addr().to_string());
    assert_eq!(seen.peer_cn.as_deref(), Some(KUBELET));
    two.state(&two.node.api, LinkState::Offline).await;
    assert_eq!(two.live().await, ["a", "b", "c"]);
    assert!(
        !follower.has_changed().unwrap(),
        "the link was online all the time"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_to_a_server_that_cannot_be_reached_goes_to_the_next_once() {
    let two = Two::start().await;
    let kubelet = two.node.kubelet();
    two.node.api.fault(Fault::Refuse(Existing::Cut));
    let made = kubelet.send("POST", LIST, config_map("shop", "b", "1").to_string());
    assert_eq!(made.await.unwrap().status, 201);
    assert_eq!(two.seen(LIST), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_answer_was_lost_is_504_and_goes_to_no_other_server() {
    let two = Two::start().await;
    let kubelet = two.node.kubelet();
    for fault in [Fault::Reset, Fault::ResetStream] {
        two.state(&two.node.api, LinkState::Online).await;
        two.node.api.forget_requests();
        two.node.api.fault(fault.on(LIST));
        let lost = kubelet.send("POST", LIST, config_map("shop", "b", "1").to_string());
        assert_eq!(lost.await.unwrap().status, 504, "{fault:?}");
        assert_eq!(two.seen(LIST), (1, 0), "{fault:?}");
        two.node.api.clear_faults();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateways_refusal_sends_reads_to_the_next_server_and_writes_nowhere() {
    let two = Two::start().await;
    let kubelet = two.node.kubelet();
    two.node.api.fault(Fault::GatewayPage(502).on(LIST));
    assert_eq!(two.live().await, ["a"]);
    assert_eq!(two.seen(LIST), (1, 1));
    two.state(&two.node.api, LinkState::Online).await;
    let made = kubelet.send("POST", LIST, config_map("shop", "b", "1").to_string());
    assert_eq!(made.await.unwrap().status, 502);
    assert_eq!(two.seen(LIST), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apiservers_own_failure_is_passed_on_and_tries_nobody_else() {
    let two = Two::start().await;
    two.node.api.fault(Fault::Status(503).on(LIST));
    let answer = two.node.kubelet().get(LIST).await;
    assert_eq!((answer.status, two.seen(LIST)), (503, (1, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_vanished_has_its_reads_answered_by_the_next_within_the_response_timeout() {
    let setup = Setup {
        response_timeout: "9s",
        probe_timeout: "1s",
        ..Setup::default()
    };
    let two = Two::with(setup, "").await;
    assert_eq!(two.live().await, ["a"]);
    let started = clock::now();
    two.node.api.fault(Fault::BlackHole);
    // A third of the time passes before the probe begins, then the probe has its own.
    assert_eq!(two.live().await, ["a"]);
    assert!(clock::now() - started < Duration::from_secs(9));
    assert_eq!(two.seen(LIST).1, 1);
    // Nobody else waits.
    let started = clock::now();
    for _ in 0..5 {
        assert_eq!(two.live().await, ["a"]);
    }
    assert!(clock::now() - started < Duration::from_secs(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_at_the_next_server_and_returns_gently_when_the_first_is_good_again() {
    let two = Two::with(Setup::default(), "  strategy: priority\n").await;
    let mut connection = two.node.kubelet().connect().await.unwrap();
    let version = two.node.api.revision().to_string();
    let mut watch = connection.lines(&watch_from(LIST, &version)).await.unwrap();
    two.put("b").await;
    assert_eq!(change(&mut watch).await.1, "b");

    two.node.api.fault(Fault::Refuse(Existing::Cut));
    two.put("c").await;
    assert_eq!(change(&mut watch).await.1, "c");
    two.second.wait_for(|seen| seen.is_watch()).await;
    two.state(&two.node.api, LinkState::Offline).await;

    two.node.api.forget_requests();
    two.node.api.clear_faults();
    let returned = two.node.api.wait_for(|seen| seen.is_watch()).await;
    assert_eq!(
        returned.query("resourceVersion"),
        Some(two.node.api.revision().to_string())
    );
    // The old one ends, and every event still comes once.
    let watches = || two.second.counters().streams_open;
    eventually("the second server has no watch", || async { watches() == 0 }).await;
    two.put("d").await;
    two.node.api.delete("ConfigMap", "shop", "d");
    let (added, deleted) = (event(&mut watch).await, event(&mut watch).await);
    assert_eq!(
        (&added["type"], &deleted["type"]),
        (&"ADDED".into(), &"DELETED".into())
    );
    assert_eq!(deleted["object"]["metadata"]["name"], "d");
    assert_eq!(two.live().await, ["a", "b", "c"]);
    assert!(two.seen(LIST).0 > 0, "requests are back as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_back_is_not_preferred_before_its_probes_were_good_for_a_while() {
    let slow = "  probe: {interval: 1h, timeout: 2s, failureThreshold: 1, successThreshold: 2}\n";
    let mut two = Two::start().await;
    two.node.stop().await;
    let first = format!("\"{}\"", two.node.api.url());
    let text = two.node.config_text();
    let probe = text.lines().find(|line| line.starts_with("  probe:")).unwrap();
    let text = text
        .replace(&format!("{probe}\n"), slow)
        .replace(&first, &format!("{first}, \"{}\"", two.second.url()));
    two.node.launch_text(&text).await;
    assert_eq!(two.live().await, ["a"]);
    two.node.api.fault(Fault::Refuse(Existing::Cut));
    two.live().await;
    two.state(&two.node.api, LinkState::Offline).await;
    two.node.api.clear_faults();
    two.state(&two.node.api, LinkState::Online).await;
    let before = two.seen(LIST);
    two.live().await;
    assert_eq!(
        two.seen(LIST),
        (before.0, before.1 + 1),
        "one good probe is not enough"
    );
    // But it is there at once if it has to be.
    two.second.fault(Fault::Refuse(Existing::Cut));
    two.live().await;
    assert_eq!(two.seen(LIST).0, before.0 + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cache_answers_only_when_no_server_is_left() {
    let two = Two::start().await;
    two.live().await;
    two.node.settle().await;
    two.node.api.fault(Fault::Refuse(Existing::Cut));
    two.live().await;
    two.second.fault(Fault::Refuse(Existing::Cut));
    let answer = two.node.kubelet().get(LIST).await;
    assert_eq!((answer.status, answer.header("cache-status")), (200, STALE));
    two.node.wait_link(LinkState::Offline).await;
    two.second.clear_faults();
    two.node.wait_link(LinkState::Online).await;
    assert_eq!(two.live().await, ["a"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_round_robin_identities_take_turns_and_each_stays_with_its_server() {
    let two = Two::with(Setup::default(), "  strategy: roundRobin\n").await;
    for _ in 0..4 {
        assert_eq!(two.live().await, ["a"]);
    }
    let kubelet = two.seen(LIST);
    assert!(kubelet == (4, 0) || kubelet == (0, 4), "{kubelet:?}");
    let proxy = two.node.client(Some(&two.node.pair("kube-proxy")));
    assert_eq!(proxy.get(LIST).await.status, 200);
    let both = two.seen(LIST);
    assert_eq!(
        (both.0.min(both.1), both.0.max(both.1)),
        (1, 4),
        "the next identity has the other server"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_metrics_say_how_each_server_is_and_what_failed() {
    let two = Two::start().await;
    two.live().await;
    two.node.api.fault(Fault::Refuse(Existing::Cut));
    two.live().await;
    two.state(&two.node.api, LinkState::Offline).await;
    let text = two.node.running().metrics_text().unwrap();
    let (a, b) = (two.node.api.addr(), two.second.addr());
    for line in [
        format!("edgehold_upstream_server_state{{server=\"{a}\",state=\"offline\"}} 1"),
        format!("edgehold_upstream_server_state{{server=\"{a}\",state=\"online\"}} 0"),
        format!("edgehold_upstream_server_state{{server=\"{b}\",state=\"online\"}} 1"),
        "edgehold_link_state{state=\"online\"} 1".to_owned(),
        format!("edgehold_upstream_connections{{server=\"{b}\",purpose=\"large\"}} 1"),
        format!("edgehold_upstream_connections{{server=\"{a}\",purpose=\"large\"}} 0"),
        format!("edgehold_upstream_failovers_total{{server=\"{a}\"}} 1"),
        format!("edgehold_upstream_failures_total{{server=\"{a}\",kind=\"connect\"}} 1"),
    ] {
        assert!(text.contains(&line), "{line}\nnot in\n{text}");
    }
}

/// Reads until the second server answers them, and then no other.
async fn moves_over(two: &Two, what: &str) {
    eventually(&format!("only the next server is asked: {what}"), || async {
        let before = two.seen(LIST).0;
        let answer = two.node.kubelet().get(LIST).await;
        (answer.status, answer.header("cache-status")) == (200, "") && two.seen(LIST).0 == before
    })
    .await;
    let before = two.seen(LIST).0;
    for _ in 0..5 {
        assert_eq!(two.live().await, ["a"], "{what}");
    }
    assert_eq!(two.seen(LIST).0, before, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_whatever_it_is_asked_is_left_for_the_next() {
    // With and without a `/readyz` that says what is the matter.
    for (fault, prefix) in [
        (Fault::Status(500), ""),
        (Fault::Status(500), "/api"),
        (Fault::Status(503), ""),
        (Fault::Status(503), "/api"),
        (Fault::Status(429), ""),
        (Fault::GatewayPage(500), "/api"),
    ] {
        let two = Two::start().await;
        assert_eq!(two.live().await, ["a"]);
        two.node.api.fault(fault.on(prefix));
        moves_over(&two, &format!("{fault:?} {prefix:?}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_has_too_much_to_do_rests_for_as_long_as_it_says() {
    let two = Two::start().await;
    assert_eq!(two.live().await, ["a"]);
    two.node.api.fault(Fault::Status(429).on(LIST).times(1));
    let refused = two.node.kubelet().get(LIST).await;
    assert_eq!((refused.status, refused.header("retry-after")), (429, "1"));
    assert_eq!(two.live().await, ["a"]);
    assert_eq!(two.seen(LIST), (2, 1), "it is left in peace");
    eventually("it is asked again", || async {
        two.live().await;
        two.seen(LIST).0 > 2
    })
    .await;
}
