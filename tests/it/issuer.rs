//! Tokens that the apiserver has not been asked about, verified with the keys that it publishes.

use apiserver_standin::{Client, ISSUER, Rbac, ServiceAccountToken, Standin, TokenKey};
use edgehold::identity::BearerToken;
use edgehold::upstream::LinkState;
use serde_json::json;

use crate::support::{HIT, Node, config_map, eventually, get_on_both, is_on_disk, names};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const PODS: &str = "/api/v1/pods?fieldSelector=spec.nodeName%3Dedge-1";
const DOCUMENTS: [&str; 2] = ["/.well-known/openid-configuration", "/openid/v1/jwks"];

/// A node with a pod whose service account has read a list with another token than it will show.
async fn node() -> Node {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    put_pod(&node.api, "web-0", "pu");
    let reader = node.token_client(&token(&node, "web-0", "pu"));
    // On a machine under load the first probe may come too late.
    eventually("the list is read", || async {
        reader.get(LIST).await.status == 200
    })
    .await;
    node
}

fn put_pod(api: &Standin, name: &str, uid: &str) {
    api.put(json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"namespace": "shop", "name": name, "uid": uid}, "spec": {"nodeName": "edge-1"}}));
}

fn spec(name: &str, uid: &str) -> ServiceAccountToken {
    ServiceAccountToken {
        uid: Some("su".into()),
        pod: Some((name.into(), uid.into())),
        ..ServiceAccountToken::new("shop", "default")
    }
}

/// Another one each time.
fn token(node: &Node, name: &str, uid: &str) -> String {
    node.api.issue(&spec(name, uid))
}

async fn read_documents(client: &Client) {
    for document in DOCUMENTS {
        assert_eq!(client.get(document).await.status, 200, "{document}");
    }
}

/// Waits until the key of this token is known: the documents are taken in when they have been read to their end.
async fn wait_key(node: &Node, token: &str) {
    let token = BearerToken::new(token.to_owned()).unwrap();
    eventually("the key is known", || async {
        node.running().proxy().issuer().has_signed(&token) == Some(true)
    })
    .await;
}

async fn read_pods(node: &Node) {
    assert_eq!(node.kubelet().get(PODS).await.status, 200);
}

async fn assert_served(node: &Node, token: &str, who: &str) {
    let answer = get_on_both(&node.token_client(token), LIST).await;
    assert_eq!(
        (answer.status, answer.header("cache-status")),
        (200, HIT),
        "{who}: {}",
        answer.text()
    );
    assert_eq!(names(&answer.json()), ["a"], "{who}");
}

async fn assert_nothing(node: &Node, token: &str, who: &str) {
    let answer = get_on_both(&node.token_client(token), LIST).await;
    assert_eq!(answer.status, 503, "{who}: {}", answer.text());
    assert_eq!(answer.json()["kind"], "Status", "{who}");
}

/// What comes of a token while the cloud is there.
async fn shown(node: &Node, token: &str, target: &str) -> u16 {
    get_on_both(&node.token_client(token), target).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_any_caller_has_read_vouch_for_a_new_token_of_a_pod_of_this_node() {
    let mut node = node().await;
    read_documents(&node.client(None)).await;
    read_pods(&node).await;
    let new = token(&node, "web-0", "pu");
    let unbound = node.api.issue(&ServiceAccountToken {
        pod: None,
        ..spec("", "")
    });
    let bad = [
        ("a pod that is not here", token(&node, "web-1", "pu")),
        ("another pod of that name", token(&node, "web-0", "other")),
        (
            "another audience",
            node.api.issue(&ServiceAccountToken {
                audiences: vec!["vault".into()],
                ..spec("web-0", "pu")
            }),
        ),
        (
            "expired before the last contact",
            node.api.issue(&ServiceAccountToken {
                expires_in: -120,
                ..spec("web-0", "pu")
            }),
        ),
        (
            "another life of the account",
            node.api.issue(&ServiceAccountToken {
                uid: Some("later".into()),
                ..spec("web-0", "pu")
            }),
        ),
        (
            "an account that read nothing",
            node.api.issue(&ServiceAccountToken {
                name: "other".into(),
                ..spec("web-0", "pu")
            }),
        ),
        (
            "another cluster",
            Standin::start(apiserver_standin::Options::default()).issue(&spec("web-0", "pu")),
        ),
    ];
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
            node.wait_link(LinkState::Offline).await;
        } else {
            node.cut().await;
        }
        assert_served(&node, &new, "a new token").await;
        assert_served(&node, &unbound, "a token bound to nothing").await;
        for (who, token) in &bad {
            assert_nothing(&node, token, who).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_keys_or_without_a_view_of_the_nodes_pods_a_new_token_is_not_known() {
    let node = node().await;
    let new = token(&node, "web-0", "pu");
    read_pods(&node).await;
    node.cut().await;
    assert_nothing(&node, &new, "no keys").await;
    node.heal().await;

    let other = self::node().await;
    let new = token(&other, "web-0", "pu");
    read_documents(&other.kubelet()).await;
    // All pods of the namespace are not the node's; nor are those that somebody else saw.
    other.kubelet().get("/api/v1/namespaces/shop/pods").await;
    other.client(None).get(PODS).await;
    other.cut().await;
    assert_nothing(&other, &new, "no pods").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_counts_no_more_once_its_pod_has_left_the_node() {
    let node = node().await;
    let (old, new) = (token(&node, "web-0", "pu"), token(&node, "web-0", "pu"));
    assert_eq!(shown(&node, &old, LIST).await, 200);
    read_documents(&node.kubelet()).await;
    read_pods(&node).await;
    node.cut().await;
    assert_served(&node, &old, "accepted before").await;
    node.heal().await;

    node.api.delete("Pod", "shop", "web-0");
    read_pods(&node).await;
    node.cut().await;
    assert_nothing(&node, &old, "accepted before").await;
    assert_nothing(&node, &new, "never shown").await;
    node.heal().await;

    // The same name lives again; the tokens of before do not.
    put_pod(&node.api, "web-0", "pu-2");
    read_pods(&node).await;
    node.cut().await;
    assert_nothing(&node, &old, "of the pod before").await;
    assert_served(&node, &token(&node, "web-0", "pu-2"), "of the new pod").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_do_not_vouch_for_a_token_that_the_apiserver_has_refused() {
    for keys_first in [true, false] {
        let mut node = node().await;
        read_pods(&node).await;
        let (revoked, never_known) = (token(&node, "web-0", "pu"), token(&node, "web-0", "pu"));
        assert_eq!(shown(&node, &revoked, LIST).await, 200);
        if keys_first {
            read_documents(&node.kubelet()).await;
        }
        for token in [&revoked, &never_known] {
            node.api.revoke_token(token);
            assert_eq!(shown(&node, token, LIST).await, 401);
        }
        if !keys_first {
            read_documents(&node.kubelet()).await;
        }
        for restarted in [false, true] {
            if restarted {
                node.restart().await;
                node.wait_link(LinkState::Offline).await;
            } else {
                node.cut().await;
            }
            assert_nothing(&node, &revoked, "revoked").await;
            assert_nothing(&node, &never_known, "refused at once").await;
            assert_served(&node, &token(&node, "web-0", "pu"), "another token").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_with_a_configured_credential_and_again_when_a_token_names_another() {
    for credential in ["commonName: system:kube-proxy", "tokenFile: {token}"] {
        let mut node = node().await;
        read_pods(&node).await;
        let reader = node.api.service_account_token("kube-system", "edgehold");
        let file = node.dir.path().join("token");
        std::io::Write::write_all(
            &mut std::fs::File::create(&file).unwrap(),
            format!("{reader}\n").as_bytes(),
        )
        .unwrap();
        let credential = credential.replace("{token}", &file.display().to_string());
        node.stop().await;
        node.api.forget_requests();
        let text = format!(
            "{}offline: {{issuer: {{{credential}, refreshInterval: 50ms}}}}\n",
            node.config_text()
        );
        node.launch_text(&text).await;
        for document in DOCUMENTS {
            let seen = node.api.wait_for(|seen| seen.target == document).await;
            let by_certificate = seen.peer_cn.as_deref() == Some("system:kube-proxy");
            let by_token = seen.peer_cn.is_none() && seen.token.as_deref() == Some(&*reader);
            assert!(
                by_certificate || by_token,
                "{credential}: {:?} {:?}",
                seen.peer_cn,
                seen.user
            );
        }
        eventually("it is read again", || async {
            node.asked("GET", DOCUMENTS[1]) > 2
        })
        .await;
        let new = token(&node, "web-0", "pu");
        node.cut().await;
        assert_served(&node, &new, &credential).await;
        assert!(!is_on_disk(&node.cache_dir(), reader.rsplit('.').next().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_without_the_right_is_no_harm() {
    let mut node = node().await;
    node.stop().await;
    node.api.set_rbac(Rbac::deny_all());
    let text = format!(
        "{}offline: {{issuer: {{commonName: \"system:kube-proxy\"}}}}\n",
        node.config_text()
    );
    node.launch_text(&text).await;
    node.api.wait_for(|seen| seen.target == DOCUMENTS[0]).await;
    assert_eq!(node.kubelet().get("/version").await.status, 200);
    assert!(!node.running().proxy().issuer().is_known());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_apiserver_itself_publishes_keys() {
    let node = node().await;
    read_pods(&node).await;
    // A gateway's page, a page of something behind the apiserver, and an impostor's keys under another path.
    node.api
        .fault(apiserver_standin::Fault::GatewayPage(200).on(DOCUMENTS[1]));
    let behind = "/api/v1/namespaces/shop/services/web/proxy/openid/v1/jwks";
    for target in [DOCUMENTS[0], DOCUMENTS[1], behind, "//openid/v1/jwks"] {
        get_on_both(&node.client(None), target).await;
    }
    assert!(!node.running().proxy().issuer().is_known());
    node.api.clear_faults();
    read_documents(&node.client(None)).await;
    eventually("both are known", || async {
        node.running().proxy().issuer().is_known()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_names_an_unknown_key_asks_for_the_keys_and_one_of_a_known_key_does_not() {
    let node = node().await;
    read_documents(&node.client(None)).await;
    read_pods(&node).await;
    eventually("the keys are known", || async {
        node.running().proxy().issuer().is_known()
    })
    .await;
    let known = token(&node, "web-0", "pu");
    // As after the cluster has changed its keys.
    let other = Standin::start(apiserver_standin::Options::default()).issue(&spec("web-0", "pu"));
    node.cut().await;
    let issuer = node.running().proxy().issuer();
    let mut wanted = std::pin::pin!(issuer.wanted());
    assert_served(&node, &known, "a known key").await;
    assert!(futures_util::poll!(wanted.as_mut()).is_pending());
    assert_nothing(&node, &other, "an unknown key").await;
    let told = tokio::time::timeout(crate::support::DEADLINE, wanted).await;
    assert!(told.is_ok(), "nobody asks for the keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_each_kind_of_elliptic_key_count() {
    let mut node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    put_pod(&node.api, "web-0", "pu");
    let mut new = Vec::new();
    for key in [TokenKey::Es512, TokenKey::Es384, TokenKey::Es256] {
        node.api.rotate_token_key(key);
        // By memory, and under the account that it is of: the first has read what all see.
        let known = token(&node, "web-0", "pu");
        let target = if new.is_empty() { LIST } else { "/version" };
        assert_eq!(shown(&node, &known, target).await, 200);
        new.push((key, known, token(&node, "web-0", "pu")));
    }
    read_documents(&node.kubelet()).await;
    for (_, known, _) in &new {
        wait_key(&node, known).await;
    }
    read_pods(&node).await;
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
            node.wait_link(LinkState::Offline).await;
        } else {
            node.cut().await;
        }
        for (key, known, unseen) in &new {
            assert_served(&node, known, &format!("{key:?}, accepted before")).await;
            assert_served(&node, unseen, &format!("{key:?}, never shown")).await;
            let forged = format!("{}A", &unseen[..unseen.len() - 1]);
            if forged != *unseen {
                assert_nothing(&node, &forged, "a changed signature").await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_a_new_key_is_refused_offline_until_the_keys_have_been_read_again() {
    let mut node = node().await;
    read_pods(&node).await;
    node.stop().await;
    let text = format!(
        "{}offline: {{issuer: {{commonName: \"system:kube-proxy\", refreshInterval: 50ms}}}}\n",
        node.config_text()
    );
    node.launch_text(&text).await;
    wait_key(&node, &token(&node, "web-0", "pu")).await;
    // No read gets through from here on, so that the node has the old key alone.
    node.cut().await;
    node.api.rotate_token_key(TokenKey::Es256);
    let new = token(&node, "web-0", "pu");
    assert_nothing(&node, &new, "a key that is not known").await;
    node.heal().await;
    wait_key(&node, &new).await;
    node.cut().await;
    assert_served(&node, &new, "the new key is known").await;
    assert_served(&node, &token(&node, "web-0", "pu"), "and another token of it").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_token_of_an_unknown_key_asks_for_the_keys() {
    let node = node().await;
    read_documents(&node.client(None)).await;
    eventually("the keys are known", || async {
        node.running().proxy().issuer().is_known()
    })
    .await;
    let issuer = node.running().proxy().issuer();
    let mut wanted = std::pin::pin!(issuer.wanted());
    assert!(futures_util::poll!(wanted.as_mut()).is_pending());
    let known = token(&node, "web-0", "pu");
    assert_eq!(shown(&node, &known, "/version").await, 200);
    assert!(futures_util::poll!(wanted.as_mut()).is_pending(), "a known key");
    node.api.rotate_token_key(TokenKey::Es256);
    let refused = token(&node, "web-0", "pu");
    node.api.revoke_token(&refused);
    assert_eq!(shown(&node, &refused, "/version").await, 401);
    assert!(
        futures_util::poll!(wanted.as_mut()).is_pending(),
        "anybody can make one up"
    );
    let accepted = token(&node, "web-0", "pu");
    assert_eq!(shown(&node, &accepted, "/version").await, 200);
    let told = tokio::time::timeout(crate::support::DEADLINE, wanted).await;
    assert!(told.is_ok(), "nobody asks for the keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audiences_of_the_api_server_are_learned_from_the_tokens_that_it_accepts() {
    let mut node = node().await;
    read_documents(&node.client(None)).await;
    eventually("the keys are known", || async {
        node.running().proxy().issuer().is_known()
    })
    .await;
    read_pods(&node).await;
    let for_audiences = |node: &Node, audiences: &[&str]| {
        node.api.issue(&ServiceAccountToken {
            audiences: audiences.iter().map(|audience| (*audience).to_owned()).collect(),
            ..spec("web-0", "pu")
        })
    };
    let fresh = for_audiences(&node, &["api", "extra"]);
    node.cut().await;
    assert_nothing(&node, &fresh, "before anything is known of it").await;
    node.heal().await;

    // An API server with `--api-audiences=api,extra`.
    let accepted = for_audiences(&node, &["api", "extra"]);
    assert_eq!(shown(&node, &accepted, "/version").await, 200);
    let refused = for_audiences(&node, &["vault"]);
    node.api.revoke_token(&refused);
    assert_eq!(shown(&node, &refused, "/version").await, 401);
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
            node.wait_link(LinkState::Offline).await;
        } else {
            node.cut().await;
        }
        assert_served(&node, &fresh, "the same audiences").await;
        assert_served(
            &node,
            &for_audiences(&node, &["extra", "api", "vault"]),
            "and another",
        )
        .await;
        for audiences in [&["extra"][..], &["vault"], &["vault", "api"], &[ISSUER]] {
            let token = for_audiences(&node, audiences);
            assert_nothing(&node, &token, &format!("{audiences:?}")).await;
        }
        assert_nothing(&node, &refused, "refused").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_audiences_count_alone() {
    let mut node = node().await;
    node.stop().await;
    let text = format!(
        "{}offline: {{issuer: {{audiences: [api]}}}}\n",
        node.config_text()
    );
    node.launch_text(&text).await;
    read_documents(&node.kubelet()).await;
    wait_key(&node, &token(&node, "web-0", "pu")).await;
    read_pods(&node).await;
    let for_audience = |audience: &str| {
        node.api.issue(&ServiceAccountToken {
            audiences: vec![audience.to_owned()],
            ..spec("web-0", "pu")
        })
    };
    assert_eq!(shown(&node, &for_audience("other"), "/version").await, 200);
    node.cut().await;
    assert_served(&node, &for_audience("api"), "configured").await;
    for audience in [ISSUER, "other"] {
        assert_nothing(&node, &for_audience(audience), audience).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_refused_before_its_key_was_known_is_not_vouched_for_by_it() {
    let node = node().await;
    read_documents(&node.kubelet()).await;
    read_pods(&node).await;
    wait_key(&node, &token(&node, "web-0", "pu")).await;
    node.api.rotate_token_key(TokenKey::Es384);
    let revoked = token(&node, "web-0", "pu");
    node.api.revoke_token(&revoked);
    assert_eq!(shown(&node, &revoked, LIST).await, 401);
    read_documents(&node.kubelet()).await;
    let good = token(&node, "web-0", "pu");
    wait_key(&node, &good).await;
    node.cut().await;
    assert_served(&node, &good, "the new key is known").await;
    assert_nothing(&node, &revoked, "refused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_another_clusters_account_that_the_apiserver_takes_stands_for_itself() {
    let node = node().await;
    let named = |issuer: &str| ServiceAccountToken {
        issuer: issuer.into(),
        ..spec("web-0", "pu")
    };
    // All of them claim the account that has read the list, its UID included.
    let other = Standin::start(apiserver_standin::Options::default());
    let foreign = [(); 2].map(|()| other.issue(&named("https://other.example")));
    for token in &foreign {
        node.api.add_token(token, "other:shop:default", &[]);
    }
    let [before, after] = &foreign;
    let renamed = node.api.issue(&named("https://an.earlier.name"));
    assert_eq!(shown(&node, before, "/version").await, 200);
    read_documents(&node.kubelet()).await;
    wait_key(&node, &token(&node, "web-0", "pu")).await;
    read_pods(&node).await;
    for token in [after, &renamed] {
        assert_eq!(shown(&node, token, "/version").await, 200);
    }
    node.cut().await;
    assert_nothing(&node, before, "accepted before the issuer was known").await;
    assert_nothing(&node, after, "of another issuer").await;
    let own = get_on_both(&node.token_client(after), "/version").await;
    assert_eq!(
        (own.status, own.header("cache-status")),
        (200, HIT),
        "what it has read itself"
    );
    assert_served(&node, &renamed, "the cluster's keys under another name").await;
}
