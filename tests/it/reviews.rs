//! `offline.reviews`: what the cloud said of a caller is said again for a while, offline only.

use apiserver_standin::{Answer, Client, Existing, Fault};
use edgehold::upstream::LinkState;
use serde_json::{Value, json};

use crate::support::{HIT, Node, STALE, is_on_disk};

const TOKENS: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS: &str = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
const CALLER: &str = "rT6vQz1LmXw8KpJd4Hsb";

async fn node(reviews: &str) -> Node {
    let mut node = Node::start().await;
    node.api.add_token(CALLER, "prometheus", &["monitoring"]);
    restart(&mut node, reviews).await;
    node
}

async fn restart(node: &mut Node, reviews: &str) {
    node.stop().await;
    let text = format!("{}offline: {{reviews: {reviews}}}\n", node.config_text());
    node.launch_text(&text).await;
}

fn whose(token: &str) -> Value {
    json!({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "spec": {"token": token}})
}

const OWN_ACCESS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
const OWN_NAME: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

fn may_i(verb: &str) -> Value {
    json!({"kind": "SelfSubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"resourceAttributes": {"namespace": "shop", "verb": verb, "resource": "pods"}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_asks_about_itself_is_answered_again_to_itself() {
    let node = node("5m").await;
    let who = json!({"kind": "SelfSubjectReview", "apiVersion": "authentication.k8s.io/v1"});
    let caller = || node.token_client(CALLER);
    let mut online = Vec::new();
    for (path, question) in [(OWN_ACCESS, may_i("list")), (OWN_NAME, who.clone())] {
        let answer = post(caller(), path, &question).await;
        assert_eq!(
            (answer.status, answer.header("cache-status")),
            (201, ""),
            "{}",
            answer.text()
        );
        online.push((path, question, answer.body));
    }
    node.cut().await;
    for (path, question, body) in &online {
        let again = post(caller(), path, question).await;
        assert_eq!(
            (again.status, again.header("cache-status"), &again.body),
            (201, HIT, body)
        );
    }
    for (client, path, question) in [
        (caller(), OWN_ACCESS, may_i("delete")),
        (node.kubelet(), OWN_ACCESS, may_i("list")),
        (node.kubelet(), OWN_NAME, who),
    ] {
        assert_eq!(post(client, path, &question).await.status, 503, "{question}");
    }
}

fn may(user: &str, path: &str) -> Value {
    json!({"kind": "SubjectAccessReview", "apiVersion": "authorization.k8s.io/v1",
        "spec": {"user": user, "nonResourceAttributes": {"path": path, "verb": "get"}}})
}

async fn post(client: Client, path: &str, body: &Value) -> Answer {
    let client = client.header("content-type", "application/json");
    client
        .send("POST", &format!("{path}?timeout=10s"), body.to_string())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn yes_and_no_are_given_again_offline_to_the_same_client_for_the_same_question() {
    let mut node = node("5m").await;
    let questions = [
        (TOKENS, whose(CALLER)),
        (TOKENS, whose("nobody-knows-this-token")),
        (ACCESS, may("prometheus", "/metrics")),
    ];
    let mut answers = Vec::new();
    for (path, question) in &questions {
        let answer = post(node.kubelet(), path, question).await;
        assert_eq!((answer.status, answer.header("cache-status")), (201, ""));
        answers.push(answer);
    }
    node.cut().await;
    for round in ["offline", "rebooted"] {
        for ((path, question), online) in questions.iter().zip(&answers) {
            let again = post(node.kubelet(), path, question).await;
            assert_eq!(
                (again.status, again.header("cache-status"), &again.body),
                (201, HIT, &online.body),
                "{round}: {question}"
            );
        }
        let unknown = [
            (node.kubelet(), ACCESS, may("prometheus", "/exec")),
            (node.kubelet(), TOKENS, whose("another-token-of-somebody")),
            (node.client(Some(&node.pair("kube-proxy"))), TOKENS, whose(CALLER)),
            (node.client(None), TOKENS, whose(CALLER)),
        ];
        for (client, path, question) in unknown {
            let refused = post(client, path, &question).await;
            assert_eq!(refused.status, 503, "{round}: {question}: {}", refused.text());
        }
        assert!(
            !is_on_disk(&node.cache_dir(), CALLER),
            "the question is kept as a hash"
        );
        restart(&mut node, "5m").await;
        node.wait_link(LinkState::Offline).await;
    }
    let asked = node.asked("POST", TOKENS);
    node.heal().await;
    let live = post(node.kubelet(), TOKENS, &whose(CALLER)).await;
    assert_eq!((live.status, live.header("cache-status")), (201, ""));
    assert_eq!(node.asked("POST", TOKENS), asked + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn they_are_given_again_as_soon_as_no_good_answer_comes() {
    let node = node("5m").await;
    let online = post(node.kubelet(), TOKENS, &whose(CALLER)).await;
    assert_eq!(online.status, 201);
    node.settle().await;
    for fault in [
        Fault::Reset,
        Fault::ResetStream,
        Fault::GatewayPage(502),
        Fault::GatewayPage(200),
    ] {
        node.api.fault(fault.on(TOKENS));
        for _ in 0..3 {
            let again = post(node.kubelet(), TOKENS, &whose(CALLER)).await;
            assert_eq!(
                (again.status, again.header("cache-status"), &again.body),
                (201, STALE, &online.body),
                "{fault:?}"
            );
        }
        node.api.clear_faults();
        node.wait_link(LinkState::Online).await;
    }
    // What the apiserver itself says passes, and nothing else is answered so.
    node.api.fault(Fault::Status(503).on(TOKENS));
    assert_eq!(post(node.kubelet(), TOKENS, &whose(CALLER)).await.status, 503);
    node.api.clear_faults();
    node.api.fault(Fault::Refuse(Existing::Cut));
    for _ in 0..5 {
        let again = post(node.kubelet(), TOKENS, &whose(CALLER)).await;
        assert_eq!((again.status, &again.body), (201, &online.body));
    }
    let unknown = post(node.kubelet(), ACCESS, &may("prometheus", "/exec")).await;
    assert_eq!(unknown.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_review_is_given_again_by_default_or_after_its_time() {
    for reviews in ["0s", "1ms"] {
        let node = node(reviews).await;
        assert_eq!(post(node.kubelet(), TOKENS, &whose(CALLER)).await.status, 201);
        node.cut().await;
        let refused = post(node.kubelet(), TOKENS, &whose(CALLER)).await;
        assert_eq!(refused.status, 503, "{reviews}: {}", refused.text());
    }
}
