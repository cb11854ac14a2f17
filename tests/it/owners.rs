//! Tokens that name no service account: whose they are is what an apiserver says of them, and all tokens of a user read what the
//! user has read.

use std::time::Duration;

use apiserver_standin::{Fault, Rbac, Rule, Subject};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use crate::support::{
    HIT, Node, PROTOCOLS, change, config_map, event, eventually, get_on_both, names, version, watch_from,
};

const REVIEWS: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const USER: &str = "system:node:edge-9";
const GROUPS: [&str; 1] = ["system:nodes"];
const UID: &str = "aws-iam-authenticator:111122223333:AROA1";

/// Each token of the user, as a plugin makes them one after the other.
const FIRST: &str = "k8s-aws-v1.aHR0cHM6Ly9maXJzdA";
const SECOND: &str = "k8s-aws-v1.aHR0cHM6Ly9zZWNvbmQ";
const UNSEEN: &str = "k8s-aws-v1.aHR0cHM6Ly91bnNlZW4";

async fn node() -> Node {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    for (number, token) in [FIRST, SECOND, UNSEEN].into_iter().enumerate() {
        node.api.add_token(token, USER, &GROUPS);
        node.api.describe_owner(token, UID, extra(number));
    }
    node
}

/// As EKS has it: the key changes with the role's credentials, the rest does not.
fn extra(number: usize) -> Value {
    json!({"accessKeyId": [format!("ASIA{number}")], "canonicalArn": ["arn:aws:iam::111122223333:role/nodes"],
        "authentication.kubernetes.io/credential-id": [format!("JTI={number}")]})
}

/// What comes of a token while the cloud is there.
async fn shown(node: &Node, token: &str, target: &str) -> u16 {
    get_on_both(&node.token_client(token), target).await.status
}

/// Shows a token online without reading what is asked for later.
async fn show(node: &Node, token: &str) {
    assert_eq!(shown(node, token, "/version").await, 200);
}

async fn offline(node: &Node, token: &str, target: &str) -> (u16, String) {
    let answer = get_on_both(&node.token_client(token), target).await;
    (answer.status, answer.header("cache-status").to_owned())
}

fn served() -> (u16, String) {
    (200, HIT.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_tokens_of_a_user_that_were_accepted_read_what_the_user_has_read() {
    let mut node = node().await;
    let answer = node.token_client(FIRST).get(LIST).await;
    assert_eq!(answer.status, 200);
    show(&node, SECOND).await;
    assert_eq!(
        node.token_client(SECOND).get(&format!("{LIST}/a")).await.status,
        200
    );
    let asked: Vec<_> = node
        .api
        .requests()
        .into_iter()
        .filter(|seen| seen.target == REVIEWS)
        .collect();
    assert_eq!(asked.len(), 2, "once for each token");
    for seen in asked {
        assert_eq!(
            (seen.user.as_deref(), seen.peer_cn.as_deref()),
            (Some(USER), None)
        );
    }
    node.cut().await;
    for round in ["offline", "rebooted"] {
        for token in [FIRST, SECOND] {
            for target in [LIST.to_owned(), format!("{LIST}/a"), "/version".to_owned()] {
                assert_eq!(
                    offline(&node, token, &target).await,
                    served(),
                    "{round}: {token} {target}"
                );
            }
        }
        assert_eq!(
            offline(&node, UNSEEN, LIST).await.0,
            503,
            "{round}: never accepted"
        );
        node.settle().await;
        node.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_user_uid_group_or_scope_is_another_principal() {
    let node = node().await;
    let of = |number: usize, user: &str, groups: &[&str], uid: &str, extra: Value| {
        let token = format!("another-token-{number}");
        node.api.add_token(&token, user, groups);
        node.api.describe_owner(&token, uid, extra);
        token
    };
    let mut scoped = extra(0);
    scoped["scopes.authorization.openshift.io"] = json!(["user:info"]);
    let others = [
        of(1, "system:node:edge-8", &GROUPS, UID, extra(0)),
        of(2, USER, &[], UID, extra(0)),
        of(3, USER, &["system:nodes", "system:masters"], UID, extra(0)),
        of(
            4,
            USER,
            &GROUPS,
            "aws-iam-authenticator:111122223333:AROA2",
            extra(0),
        ),
        of(5, USER, &GROUPS, "", extra(0)),
        of(6, USER, &GROUPS, UID, Value::Null),
        of(7, USER, &GROUPS, UID, scoped),
    ];
    assert_eq!(shown(&node, FIRST, LIST).await, 200);
    for other in &others {
        show(&node, other).await;
        let own = format!("{LIST}/a");
        assert_eq!(shown(&node, other, &own).await, 200);
    }
    show(&node, SECOND).await;
    node.cut().await;
    for other in &others {
        assert_eq!(offline(&node, other, LIST).await.0, 503, "{other}");
        assert_eq!(
            offline(&node, other, &format!("{LIST}/a")).await,
            served(),
            "{other}: its own"
        );
    }
    assert_eq!(
        offline(&node, SECOND, &format!("{LIST}/a")).await,
        served(),
        "from the list"
    );
    // The certificate of a user by that name is yet another credential.
    assert_eq!(node.kubelet().get(LIST).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_its_owners_whatever_it_claims() {
    let node = node().await;
    assert_eq!(shown(&node, FIRST, LIST).await, 200);
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claiming = |issuer: &str| {
        let claims = json!({"iss": issuer, "sub": USER, "groups": GROUPS, "uid": UID});
        format!(
            "{}.{}.{}",
            part(json!({"alg": "none"})),
            part(claims),
            part(json!({}))
        )
    };
    let (forged, bobs) = (claiming("https://forged"), claiming("https://bob"));
    node.api.add_token(&bobs, "bob", &[]);
    for (token, status) in [(&forged, 401), (&bobs, 200)] {
        assert_eq!(shown(&node, token, "/version").await, status);
    }
    let asked = node.api.requests();
    let asked = asked.iter().filter(|seen| seen.target == REVIEWS);
    let users: Vec<_> = asked.map(|seen| seen.user.as_deref()).collect();
    assert_eq!(
        users,
        [Some(USER), Some("bob")],
        "nothing is asked for what is not accepted"
    );
    node.cut().await;
    for token in [&forged, &bobs] {
        assert_eq!(offline(&node, token, LIST).await.0, 503, "{token}");
    }
    assert_eq!(offline(&node, &bobs, "/version").await, served());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_answer_a_token_stands_for_itself() {
    for fault in [
        Fault::Status(403),
        Fault::Status(404),
        Fault::Status(503),
        Fault::GatewayPage(200),
        Fault::Unaudited,
        Fault::Stall,
    ] {
        let node = node().await;
        node.api.fault(fault.on(REVIEWS));
        // The first answer is what a review is asked for.
        for (token, protocol) in [FIRST, SECOND].into_iter().zip(PROTOCOLS) {
            let client = node.token_client(token).protocol(protocol);
            assert_eq!(client.get("/version").await.status, 200);
        }
        assert_eq!(shown(&node, FIRST, LIST).await, 200);
        node.api.clear_faults();
        assert_eq!(shown(&node, FIRST, LIST).await, 200);
        assert_eq!(node.asked("POST", REVIEWS), 2, "{fault:?}: once for each token");
        node.cut().await;
        assert_eq!(offline(&node, FIRST, LIST).await, served(), "{fault:?}");
        assert_eq!(offline(&node, SECOND, LIST).await.0, 503, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_forgets_the_token_and_neither_the_others_nor_what_was_read() {
    let node = node().await;
    for token in [FIRST, SECOND] {
        assert_eq!(shown(&node, token, LIST).await, 200);
    }
    node.api.revoke_token(FIRST);
    assert_eq!(shown(&node, FIRST, LIST).await, 401);
    node.cut().await;
    assert_eq!(offline(&node, FIRST, LIST).await.0, 503);
    assert_eq!(offline(&node, SECOND, LIST).await, served());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_refused_in_the_review_itself_is_not_accepted() {
    let node = node().await;
    node.api.fault(Fault::Status(401).on(REVIEWS));
    assert_eq!(shown(&node, FIRST, LIST).await, 200);
    node.cut().await;
    assert_eq!(offline(&node, FIRST, LIST).await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_to_one_token_withdraws_for_all_of_the_user() {
    let node = node().await;
    for token in [FIRST, SECOND] {
        assert_eq!(shown(&node, token, LIST).await, 200);
    }
    let rest = Rule::allow(Subject::User(USER.into()), &["*"], &["secrets"]);
    node.api.set_rbac(Rbac::deny_all().with(rest));
    assert_eq!(shown(&node, SECOND, LIST).await, 403);
    node.cut().await;
    for token in [FIRST, SECOND] {
        assert_eq!(offline(&node, token, LIST).await.0, 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_come_at_once_wait_for_the_one_review_and_none_is_lost() {
    let node = node().await;
    node.api.put(config_map("shop", "b", "1"));
    node.api
        .fault(Fault::Delay(Duration::from_millis(500)).on(REVIEWS));
    let targets = [format!("{LIST}/a"), LIST.to_owned(), "/version".to_owned()];
    let clients = [(); 3].map(|()| node.token_client(FIRST));
    let answers = [0, 1, 2].map(|n| clients[n].get(&targets[n]));
    for answer in futures_util::future::join_all(answers).await {
        assert_eq!(answer.status, 200);
    }
    assert_eq!(node.asked("POST", REVIEWS), 1);
    node.api.clear_faults();
    show(&node, SECOND).await;
    node.cut().await;
    for target in &targets {
        assert_eq!(offline(&node, SECOND, target).await, served(), "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_with_the_next_token_carries_the_users_view_on() {
    let mut node = node().await;
    let first = node.token_client(FIRST);
    let list = first.get(LIST).await.json();
    let second = node.token_client(SECOND);
    let mut connection = second.connect().await.unwrap();
    let mut watch = connection
        .lines(&watch_from(LIST, &version(&list)))
        .await
        .unwrap();
    node.api.put(config_map("shop", "b", "1"));
    assert_eq!(change(&mut watch).await.1, "b");
    node.cut().await;
    node.settle().await;
    for token in [FIRST, SECOND] {
        let answer = node.token_client(token).get(LIST).await;
        assert_eq!(answer.status, 200);
        assert_eq!(names(&answer.json()), ["a", "b"], "{token}");
    }
    drop(watch);
    node.restart().await;
    // A watch that begins offline with the other token begins where the view stands.
    let list = node.token_client(FIRST).get(LIST).await.json();
    let first = node.token_client(FIRST);
    let mut connection = first.connect().await.unwrap();
    let mut watch = connection
        .lines(&watch_from(LIST, &version(&list)))
        .await
        .unwrap();
    node.api.put(config_map("shop", "c", "1"));
    node.heal().await;
    let mut seen = String::new();
    while seen != "c" {
        seen = event(&mut watch).await["object"]["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
    }
    eventually("the event is kept", || async {
        let answer = node.token_client(SECOND).get(LIST).await;
        names(&answer.json()).contains(&"c".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_of_the_cluster_is_not_asked_about() {
    let node = Node::start().await;
    let token = node.api.service_account_token("shop", "default");
    assert_eq!(shown(&node, &token, LIST).await, 200);
    assert_eq!(node.asked("POST", REVIEWS), 0);
}
