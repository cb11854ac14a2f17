use apiserver_standin::{
    Client, Options, Pki, Protocol, Rbac, Rule, ServiceAccountToken, Standin, Subject, Validity,
};
use serde_json::json;

fn client(api: &Standin, pair: Option<&apiserver_standin::Pair>) -> Client {
    Client::new(api.addr(), api.ca_pem(), pair)
}

#[tokio::test]
async fn the_certificate_names_the_user_and_wins_over_a_token() {
    let api = Standin::start(Options::default());
    let pair = api
        .pki()
        .client(Some("system:node:edge-1"), &["system:nodes", "more"]);
    api.add_token("t", "alice", &[]);
    let echo = client(&api, Some(&pair))
        .token("t")
        .get("/debug/echo")
        .await
        .json();
    assert_eq!(echo["user"], "system:node:edge-1");
    assert_eq!(
        echo["groups"],
        json!(["system:nodes", "more", "system:authenticated"])
    );
    let nameless = api.pki().client(None, &["kubeedge"]);
    assert_eq!(
        client(&api, Some(&nameless))
            .token("t")
            .get("/debug/echo")
            .await
            .json()["user"],
        "alice"
    );
    assert_eq!(
        client(&api, None).get("/debug/echo").await.json()["user"],
        "system:anonymous"
    );
    let seen = api.requests();
    assert_eq!(
        (seen[0].peer_cn.as_deref(), seen[0].token.as_deref()),
        (Some("system:node:edge-1"), Some("t"))
    );
    assert_eq!(
        (seen[1].peer_cn.as_deref(), seen[2].user.as_deref()),
        (None, Some("system:anonymous"))
    );
}

#[tokio::test]
async fn a_foreign_or_expired_certificate_is_401_and_no_tls_alert() {
    let api = Standin::start(Options::default());
    let foreign = Pki::named("other").client(Some("system:node:edge-1"), &["system:nodes"]);
    let expired = api.pki().client_valid(Some("old"), &[], Validity::EXPIRED);
    let early = api.pki().client_valid(Some("new"), &[], Validity::NOT_YET);
    for pair in [foreign, expired, early, api.pki().server(&[])] {
        let answer = client(&api, Some(&pair)).get("/api/v1/pods").await;
        assert_eq!(
            (answer.status, &answer.json()["message"]),
            (401, &json!("Unauthorized"))
        );
    }
}

#[tokio::test]
async fn a_foreign_server_is_not_trusted() {
    let api = Standin::start(Options {
        serving: Some(Pki::new().server(&[])),
        ..Options::default()
    });
    assert!(client(&api, None).send("GET", "/version", "").await.is_err());
}

#[tokio::test]
async fn a_token_is_good_until_revoked_and_carries_its_groups() {
    let api = Standin::start(Options::default());
    let token = api.service_account_token("shop", "default");
    let echo = client(&api, None).token(&token).get("/debug/echo").await.json();
    assert_eq!(echo["user"], "system:serviceaccount:shop:default");
    assert_eq!(echo["groups"][1], "system:serviceaccounts:shop");
    api.revoke_token(&token);
    assert_eq!(
        client(&api, None).token(&token).get("/debug/echo").await.status,
        401
    );
    let expired = api.issue(&ServiceAccountToken {
        expires_in: -3600,
        ..ServiceAccountToken::new("shop", "default")
    });
    assert_eq!(
        client(&api, None).token(&expired).get("/debug/echo").await.status,
        401
    );
}

#[tokio::test]
async fn rules_can_change_while_it_runs() {
    let api = Standin::start(Options {
        rbac: Rbac::deny_all(),
        ..Options::default()
    });
    api.add_token("t", "alice", &["dev"]);
    let alice = client(&api, None).token("t");
    let refused = alice.get("/api/v1/namespaces/n/pods").await;
    assert_eq!(
        (refused.status, refused.header("x-content-type-options")),
        (403, "nosniff")
    );
    assert_eq!(
        refused.json()["message"],
        "pods is forbidden: User \"alice\" cannot list resource \"pods\" in API group \"\" in the namespace \"n\""
    );
    assert_eq!(alice.get("/version").await.status, 200);
    api.set_rbac(Rbac::deny_all().with(Rule::allow(Subject::Group("dev".into()), &["list"], &["pods"])));
    assert_eq!(alice.get("/api/v1/namespaces/n/pods").await.status, 200);
}

#[tokio::test]
async fn an_unauthenticated_client_on_http2_is_asked_to_leave() {
    let api = Standin::start(Options::default());
    let mut connection = client(&api, None).connect().await.unwrap();
    assert_eq!(connection.send("GET", "/version", "").await.unwrap().status, 200);
    api.wait_counters(|c| c.connections_open == 0).await;
    let mut connection = client(&api, None)
        .protocol(Protocol::Http1)
        .connect()
        .await
        .unwrap();
    assert_eq!(connection.send("GET", "/version", "").await.unwrap().status, 200);
    assert_eq!(connection.send("GET", "/version", "").await.unwrap().status, 200);
}

#[tokio::test]
async fn kubelet_gets_a_token_for_its_pod() {
    let api = Standin::start(Options::default());
    api.service_account_token("shop", "default");
    let spec = json!({"spec": {"expirationSeconds": 3607,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p", "uid": "pu"}}});
    let path = "/api/v1/namespaces/shop/serviceaccounts/default/token";
    let admin = api.pki().client(Some("admin"), &[]);
    let answer = client(&api, Some(&admin))
        .send("POST", path, spec.to_string())
        .await
        .unwrap();
    assert_eq!(answer.status, 201);
    let token = answer.json()["status"]["token"].as_str().unwrap().to_owned();
    assert_eq!(client(&api, None).token(&token).get("/version").await.status, 200);
    let missing = path.replace("default", "other");
    assert_eq!(
        client(&api, Some(&admin))
            .send("POST", &missing, spec.to_string())
            .await
            .unwrap()
            .status,
        404
    );
}

#[tokio::test]
async fn two_servers_of_one_cluster_share_everything() {
    let one = Standin::start(Options::default());
    let two = Standin::start(Options {
        cluster: Some(one.cluster()),
        ..Options::default()
    });
    one.put(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-1"}}));
    let pair = one.pki().client(Some("admin"), &[]);
    assert_eq!(
        Client::new(two.addr(), one.ca_pem(), Some(&pair))
            .get("/api/v1/nodes/edge-1")
            .await
            .status,
        200
    );
    assert_ne!(one.addr(), two.addr());
}
