//! Who a request is, over which transport it goes, and whose data it gets while the cloud is away.

use apiserver_standin::{Client, Fault, Pair, Pki, Protocol, Seen, ServiceAccountToken, Standin};
use serde_json::json;

use crate::support::{KUBELET, Node, PROTOCOLS, config_map, eventually, get_on_both, names};

const LIST: &str = "/api/v1/namespaces/shop/configmaps";
const BEARER_PROTOCOL: &str = "base64url.bearer.authorization.k8s.io.";

async fn node() -> Node {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "sauerkraut"));
    node
}

fn certificate(node: &Node, name: Option<&str>, organizations: &[&str]) -> Pair {
    node.api.pki().client(name, organizations)
}

async fn seen(api: &Standin, path: &str) -> Seen {
    api.wait_for(|seen| seen.target == path).await
}

/// Every request so far that carried a token in any form came by a connection without certificate.
fn assert_tokens_and_certificates_apart(api: &Standin) {
    let all = api.requests();
    let by_certificate: Vec<u64> = all
        .iter()
        .filter(|seen| seen.peer_cn.is_some())
        .map(|seen| seen.connection_id)
        .collect();
    let with_token = |seen: &&Seen| {
        let protocol = seen.header("sec-websocket-protocol").unwrap_or_default();
        seen.headers.contains_key("authorization") || protocol.contains(BEARER_PROTOCOL)
    };
    for seen in all.iter().filter(with_token) {
        assert!(
            !by_certificate.contains(&seen.connection_id),
            "a token met a certificate: {seen:?}"
        );
    }
}

/// Offline: 503, and nothing of the data.
async fn assert_nothing(client: &Client, who: &str) {
    let target = format!("{LIST}/a");
    let watch = format!(
        "{LIST}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3"
    );
    for target in [LIST, &target, &watch] {
        let answer = get_on_both(client, target).await;
        assert_eq!(answer.status, 503, "{who}: {target}: {}", answer.text());
        assert_eq!(answer.json()["kind"], "Status", "{who}: {target}");
        assert!(!answer.text().contains("sauerkraut"), "{who}: {target}");
    }
}

async fn assert_own_list(client: &Client, who: &str) {
    let answer = get_on_both(client, LIST).await;
    assert_eq!(
        (answer.status, answer.header("cache-status")),
        (200, "edgehold; hit; detail=offline"),
        "{who}: {}",
        answer.text()
    );
    assert_eq!(names(&answer.json()), ["a"], "{who}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_name_speaks_with_its_own_certificate_and_without_its_token() {
    let node = node().await;
    let token = node.api.service_account_token("shop", "default");
    for protocol in PROTOCOLS {
        let kubelet = node.kubelet().token(&token).protocol(protocol);
        for (method, target) in [
            ("GET", "/debug/echo?read"),
            ("POST", "/debug/echo?write"),
            (
                "GET",
                "/api/v1/namespaces/shop/configmaps?watch=true&timeoutSeconds=1",
            ),
        ] {
            node.api.forget_requests();
            kubelet.send(method, target, "").await.unwrap();
            let seen = seen(&node.api, target).await;
            assert_eq!(
                (seen.peer_cn.as_deref(), seen.user.as_deref()),
                (Some(KUBELET), Some(KUBELET)),
                "{protocol:?} {method}"
            );
            assert!(
                !seen.headers.contains_key("authorization"),
                "{protocol:?} {method}"
            );
        }
    }
    let proxy = node.client(Some(&node.pair("kube-proxy")));
    proxy.get("/debug/echo?proxy").await;
    let seen = seen(&node.api, "/debug/echo?proxy").await;
    assert_eq!(seen.peer_cn.as_deref(), Some("system:kube-proxy"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unconfigured_name_without_token_is_told_its_name_and_the_setting() {
    let node = node().await;
    let stranger = node.client(Some(&certificate(&node, Some("stranger"), &["system:masters"])));
    for target in [LIST, "/version", "/api/v1/pods?watch=true"] {
        let answer = stranger.get(target).await;
        let status = answer.json();
        assert_eq!(
            (answer.status, &status["kind"], &status["reason"]),
            (403, &json!("Status"), &json!("Forbidden"))
        );
        let message = status["message"].as_str().unwrap();
        assert!(
            message.contains("\"stranger\"") && message.contains("clients[].commonName"),
            "{message}"
        );
    }
    let basic = stranger.header("authorization", "Basic YTpi");
    assert_eq!(
        basic.get(LIST).await.status,
        403,
        "what is no token does not help"
    );
    let asked = node.api.requests().into_iter().filter(|seen| seen.path() == LIST);
    assert_eq!(asked.count(), 0, "nothing of it went upstream");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_beside_a_nameless_or_unconfigured_certificate_counts_over_the_default_transport() {
    let node = node().await;
    let token = node.api.service_account_token("kubeedge", "edgemesh");
    for (name, target) in [
        (None, "/debug/echo?nameless"),
        (Some(""), "/debug/echo?empty"),
        (Some("edgemesh"), "/debug/echo?unconfigured"),
    ] {
        let pair = certificate(&node, name, &[]);
        let answer = node.client(Some(&pair)).token(&token).get(target).await;
        assert_eq!(answer.json()["user"], "system:serviceaccount:kubeedge:edgemesh");
        let seen = seen(&node.api, target).await;
        assert_eq!(
            (seen.peer_cn, seen.token.as_deref()),
            (None, Some(token.as_str()))
        );
    }
    // Its data is the account's, whatever the certificate.
    let nameless = certificate(&node, None, &[]);
    let edgemesh = node.client(Some(&nameless)).token(&token);
    assert_eq!(edgemesh.get(LIST).await.status, 200);
    node.cut().await;
    assert_own_list(&edgemesh, "edgemesh").await;
    assert_own_list(&node.token_client(&token), "its token alone").await;
    assert_nothing(&node.client(Some(&nameless)), "its certificate alone").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_name_or_token_a_caller_is_anonymous() {
    let node = node().await;
    for (pair, target) in [
        (None, "/debug/echo?none"),
        (
            Some(certificate(&node, None, &["system:masters"])),
            "/debug/echo?nameless",
        ),
    ] {
        let answer = node.client(pair.as_ref()).get(target).await;
        assert_eq!(answer.json()["user"], "system:anonymous");
        let seen = seen(&node.api, target).await;
        assert_eq!((seen.peer_cn, seen.token), (None, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn front_proxy_headers_never_pass() {
    let node = node().await;
    let token = node.api.service_account_token("shop", "default");
    let clients = [
        (node.kubelet(), "/debug/echo?certificate"),
        (node.token_client(&token), "/debug/echo?token"),
        (node.client(None), "/debug/echo?anonymous"),
    ];
    for (client, target) in clients {
        let client = client
            .header("x-remote-user", "admin")
            .header("x-remote-uid", "1")
            .header("x-remote-group", "system:masters")
            .header("x-remote-extra-scopes", "all")
            .header("x-passes", "1");
        client.get(target).await;
        let seen = seen(&node.api, target).await;
        assert_eq!(seen.header("x-passes"), Some("1"));
        let left = seen
            .headers
            .keys()
            .filter(|name| name.as_str().starts_with("x-remote-"));
        assert_eq!(left.count(), 0, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn impersonation_is_forwarded_and_neither_kept_nor_answered_from_the_cache() {
    let node = node().await;
    let other = format!("{LIST}/a");
    let impersonating = node
        .kubelet()
        .header("impersonate-user", "alice")
        .header("impersonate-group", "dev");
    assert_eq!(get_on_both(&impersonating, &other).await.status, 200);
    let forwarded = node.api.requests().into_iter();
    let forwarded: Vec<_> = forwarded.filter(|seen| seen.target == other).collect();
    assert!(forwarded.len() >= PROTOCOLS.len());
    for seen in forwarded {
        assert_eq!(
            (seen.header("impersonate-user"), seen.header("impersonate-group")),
            (Some("alice"), Some("dev"))
        );
    }
    assert_eq!(node.kubelet().get(LIST).await.status, 200);

    node.cut().await;
    let own = get_on_both(&node.kubelet(), &other).await;
    assert_eq!(own.status, 200, "derived from its own list");
    assert_nothing(&impersonating, "for somebody else").await;
    for header in ["impersonate-uid", "impersonate-extra-scopes"] {
        assert_nothing(&node.kubelet().header(header, "x"), header).await;
    }
    node.heal().await;

    // The other way round: what alice read is not the kubelet's.
    let secrets = "/api/v1/namespaces/shop/secrets";
    assert_eq!(get_on_both(&impersonating, secrets).await.status, 200);
    node.cut().await;
    assert_eq!(get_on_both(&node.kubelet(), secrets).await.status, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_websocket_protocol_goes_by_its_token_and_is_removed_beside_a_certificate() {
    let node = node().await;
    node.api
        .put(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"namespace": "shop", "name": "web"}}));
    let protocols = format!("v5.channel.k8s.io, {BEARER_PROTOCOL}dG9rZW4");
    let upgrading = |client: Client| {
        client
            .protocol(Protocol::Http1)
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-protocol", &protocols)
    };
    for (client, target, name, left) in [
        (
            node.kubelet(),
            "/api/v1/namespaces/shop/pods/web/exec?1",
            Some(KUBELET),
            "v5.channel.k8s.io",
        ),
        (
            node.client(None),
            "/api/v1/namespaces/shop/pods/web/exec?2",
            None,
            protocols.as_str(),
        ),
    ] {
        let mut connection = upgrading(client).connect().await.unwrap();
        let response = connection.open("GET", target, "").await.unwrap();
        assert_eq!(response.status(), 101);
        let seen = seen(&node.api, target).await;
        assert_eq!(seen.peer_cn.as_deref(), name, "{target}");
        assert_eq!(seen.header("sec-websocket-protocol"), Some(left), "{target}");
    }
    assert_tokens_and_certificates_apart(&node.api);
}

#[tokio::test(flavor = "multi_thread")]
async fn among_many_callers_no_token_ever_meets_a_certificate() {
    let node = node().await;
    let token = node.api.service_account_token("shop", "default");
    let kinds = [
        node.kubelet(),
        node.kubelet().token(&token),
        node.client(Some(&node.pair("kube-proxy"))).token(&token),
        node.token_client(&token),
        node.client(Some(&certificate(&node, None, &[]))).token(&token),
        node.client(Some(&certificate(&node, Some("x"), &[])))
            .token(&token),
        node.client(None),
    ];
    let mut all = tokio::task::JoinSet::new();
    for round in 0..6 {
        for (kind, client) in kinds.iter().cloned().enumerate() {
            let client = client.protocol(PROTOCOLS[round % 2]);
            all.spawn(async move {
                let target = match round % 3 {
                    0 => format!("/debug/echo?{round}.{kind}"),
                    1 => format!("{LIST}?limit={}", 100 + kind),
                    _ => format!("{LIST}?watch=true&timeoutSeconds=1&x={round}.{kind}"),
                };
                client.get(&target).await.status
            });
        }
    }
    while let Some(status) = all.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    let with_token = node
        .api
        .requests()
        .into_iter()
        .filter(|seen| seen.token.is_some())
        // edgehold's own lists are for the views of watches, with the credentials of those.
        .filter(|seen| seen.is_watch() || !seen.target.starts_with(LIST) || seen.target.contains("limit="));
    assert_eq!(
        with_token.count(),
        6 * 3,
        "all requests of callers that are known by a token"
    );
    assert_tokens_and_certificates_apart(&node.api);
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_certificate_gets_its_own_data_and_nobody_elses() {
    let mut node = node().await;
    assert_eq!(node.kubelet().get(LIST).await.status, 200);
    let token = node.api.service_account_token("shop", "default");
    assert_eq!(node.token_client(&token).get("/version").await.status, 200);
    let user_agent = "kubelet/v1.36.2 (linux/amd64) kubernetes/abc";
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
            node.wait_link(edgehold::upstream::LinkState::Offline).await;
        } else {
            node.cut().await;
        }
        assert_own_list(&node.kubelet(), "kubelet").await;
        assert_own_list(&node.kubelet().header("user-agent", "x"), "another agent").await;
        // A renewed certificate is the same user.
        let renewed = certificate(&node, Some(KUBELET), &["system:nodes"]);
        assert_own_list(&node.client(Some(&renewed)), "renewed").await;

        let proxy = node.client(Some(&node.pair("kube-proxy")));
        assert_nothing(&proxy, "another configured name").await;
        assert_nothing(
            &proxy.header("user-agent", user_agent),
            "with the kubelet's agent",
        )
        .await;
        for organizations in [&[][..], &["system:masters"], &["system:nodes", "more"]] {
            let other = certificate(&node, Some(KUBELET), organizations);
            assert_nothing(&node.client(Some(&other)), "the same name in other groups").await;
        }
        let anonymous = node.client(None);
        assert_nothing(&anonymous, "anonymous").await;
        assert_nothing(&anonymous.header("user-agent", user_agent), "a copied agent").await;
        assert_nothing(&node.token_client(&token), "a service account").await;
        let stranger = node.client(Some(&certificate(&node, Some("stranger"), &["system:nodes"])));
        assert_eq!(stranger.get(LIST).await.status, 403);
    }
    let foreign = Pki::named("kubernetes").client(Some(KUBELET), &["system:nodes"]);
    let refused = node.client(Some(&foreign)).send("GET", LIST, "").await;
    assert!(refused.is_err(), "an outage opens no door to a foreign authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn offline_a_token_counts_only_if_upstream_has_accepted_that_very_token() {
    let mut node = node().await;
    let token = node.api.service_account_token("shop", "default");
    assert_eq!(node.token_client(&token).get(LIST).await.status, 200);
    let other_account = node.api.service_account_token("shop", "other");
    assert_eq!(
        node.token_client(&other_account).get("/version").await.status,
        200
    );
    let never_shown = node.api.service_account_token("shop", "default");
    let mut reborn = ServiceAccountToken::new("shop", "default");
    reborn.uid = Some("another-life".into());
    let reborn = node.api.issue(&reborn);
    assert_eq!(node.token_client(&reborn).get("/version").await.status, 200);

    // The same claims, signed by nobody and by somebody else.
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let swapped: String = signature.chars().rev().collect();
    let (claims_of, _) = never_shown.rsplit_once('.').unwrap();
    let forged = [
        format!("{signed}.{swapped}"),
        format!("{signed}."),
        format!("{claims_of}.{signature}"),
        Standin::start(apiserver_standin::Options::default()).service_account_token("shop", "default"),
    ];
    // One of them tries it while the cloud can say no to it.
    let tried = node.token_client(&forged[0]);
    for target in [LIST, &format!("{LIST}/a"), &format!("{LIST}?watch=true")] {
        assert_eq!(tried.get(target).await.status, 401);
    }
    let put = tried.send("PUT", &format!("{LIST}/a"), "{}").await.unwrap();
    assert_eq!(put.status, 401);

    for restarted in [false, true] {
        if restarted {
            node.restart().await;
            node.wait_link(edgehold::upstream::LinkState::Offline).await;
        } else {
            node.cut().await;
        }
        assert_own_list(&node.token_client(&token), "accepted").await;
        assert_nothing(&node.token_client(&never_shown), "never shown").await;
        assert_nothing(&node.token_client(&other_account), "another account").await;
        assert_nothing(&node.token_client(&reborn), "the same name with another uid").await;
        for forged in &forged {
            assert_nothing(&node.token_client(forged), "forged").await;
        }
        assert_nothing(&node.client(None), "anonymous").await;
        assert_nothing(&node.kubelet(), "a certificate").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_token_of_the_same_account_shares_its_data() {
    let mut node = node().await;
    let old = node.api.service_account_token("shop", "default");
    assert_eq!(node.token_client(&old).get(LIST).await.status, 200);
    let new = node.api.service_account_token("shop", "default");
    assert_ne!(old, new);
    assert_eq!(node.token_client(&new).get("/version").await.status, 200);
    node.cut().await;
    assert_own_list(&node.token_client(&new), "the new token").await;
    node.restart().await;
    assert_own_list(&node.token_client(&new), "the new token after a restart").await;
    assert_own_list(&node.token_client(&old), "the old one").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_a_service_accounts_stands_for_itself() {
    let node = node().await;
    node.api.add_token("static-1", "alice", &["dev"]);
    node.api.add_token("static-2", "alice", &["dev"]);
    let reviews = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    node.api.fault(Fault::Status(403).on(reviews));
    assert_eq!(node.token_client("static-1").get(LIST).await.status, 200);
    assert_eq!(node.token_client("static-2").get("/version").await.status, 200);
    node.cut().await;
    assert_own_list(&node.token_client("static-1"), "the one that read it").await;
    assert_nothing(&node.token_client("static-2"), "nobody said that both are alice").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_is_forgotten_and_the_data_of_its_account_is_not() {
    let mut node = node().await;
    let revoked = node.api.service_account_token("shop", "default");
    let good = node.api.service_account_token("shop", "default");
    assert_eq!(node.token_client(&revoked).get(LIST).await.status, 200);
    assert_eq!(node.token_client(&good).get("/version").await.status, 200);
    node.api.revoke_token(&revoked);
    assert_eq!(node.token_client(&revoked).get(LIST).await.status, 401);

    node.cut().await;
    assert_nothing(&node.token_client(&revoked), "refused").await;
    assert_own_list(&node.token_client(&good), "another token of the account").await;
    node.restart().await;
    assert_nothing(&node.token_client(&revoked), "refused, after a restart").await;
    assert_own_list(&node.token_client(&good), "another token, after a restart").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_pod_behind_the_apiserver_says_of_its_callers_costs_them_nothing() {
    let node = node().await;
    let token = node.api.service_account_token("shop", "default");
    assert_eq!(node.token_client(&token).get(LIST).await.status, 200);
    for (target, counts) in [
        ("/api/v1/namespaces/shop/pods/web/proxy/metrics", false),
        ("/api/v1/namespaces/shop/services/web/proxy/", false),
        ("/apis/metrics.k8s.io/v1beta1/nodes", false),
        ("/apis/metrics.k8s.io/v1beta1", false),
        ("/openapi/v3/apis/metrics.k8s.io/v1beta1", false),
        ("/version?own", true),
    ] {
        node.api.fault(Fault::Status(401).on(target));
        assert_eq!(get_on_both(&node.token_client(&token), target).await.status, 401);
        node.cut().await;
        if counts {
            assert_nothing(&node.token_client(&token), "the apiserver's own word").await;
        } else {
            assert_own_list(&node.token_client(&token), target).await;
        }
        node.heal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_expired_before_the_last_contact_counts_no_more_and_one_that_expires_later_does() {
    let mut node = node().await;
    // Both sides give a minute of leeway: this one is good for a few seconds more.
    let mut short = ServiceAccountToken::new("shop", "default");
    short.expires_in = -54;
    node.api.service_account_token("shop", "default");
    let short = node.api.issue(&short);
    assert_eq!(node.token_client(&short).get(LIST).await.status, 200);
    node.cut().await;
    assert_own_list(&node.token_client(&short), "valid at the last contact").await;

    node.heal().await;
    eventually("upstream finds it expired", || async {
        node.api.clear_faults();
        // Somebody else's contact, so that nothing but the time speaks against the token.
        node.client(None).get("/version").await;
        !node.api.accepts(&short)
    })
    .await;
    node.client(None).get("/version?contact").await;
    node.cut().await;
    assert_nothing(&node.token_client(&short), "expired").await;
    node.restart().await;
    assert_nothing(&node.token_client(&short), "expired, after a restart").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_written_to_disk() {
    let mut node = node().await;
    let token = node.api.service_account_token("shop", "default");
    assert_eq!(node.token_client(&token).get(LIST).await.status, 200);
    node.stop().await;
    let signature = token.rsplit('.').next().unwrap().as_bytes();
    let files = crate::support::files_below(&node.cache_dir());
    assert!(files.len() > 2, "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        let found = bytes.windows(signature.len()).any(|part| part == signature);
        assert!(!found, "{}", file.display());
    }
}
