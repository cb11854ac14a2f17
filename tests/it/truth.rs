//! What is recorded: whole answers of the apiserver itself, each under its own key, and nothing else.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use apiserver_standin::{Client, Fault, Options, Protocol, Rbac, Rule, ServiceAccountToken, Subject};
use futures_util::stream::{self, StreamExt};
use http_body_util::BodyExt;
use serde_json::json;

use crate::support::{
    HIT, METADATA, Node, PROTOBUF, PROTOCOLS, STALE, Setup, TABLE, config_map, eventually, files_below,
    get_on_both, is_on_disk, names,
};

const SHOP: &str = "/api/v1/namespaces/shop/configmaps";
const SECRET: &str = "c2VjcmV0LXRoYXQtbXVzdC1nbw==";

/// Text that does not compress to nothing.
fn noise(seed: usize, length: usize) -> String {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap())
    };
    (0..length).map(|_| next()).collect()
}

fn secret(namespace: &str, name: &str) -> serde_json::Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"namespace": namespace, "name": name},
        "type": "Opaque", "data": {"k": SECRET}})
}

/// The `Accept` of a form as it is spelled for this target: one object has another name than many.
fn spelled(accept: &str, target: &str) -> String {
    let path = target.split('?').next().unwrap();
    let is_object = path.starts_with("/api/") && path.split('/').skip(1).count() == 6;
    if is_object {
        accept.replace("MetadataList", "Metadata")
    } else {
        accept.to_owned()
    }
}

/// One answer that breaks.
struct Broken {
    namespace: String,
    client: Client,
    /// What was read before it, if anything.
    good: Option<(bytes::Bytes, bytes::Bytes)>,
}

impl Broken {
    fn list(&self) -> String {
        format!("/api/v1/namespaces/{}/configmaps", self.namespace)
    }

    fn get(&self) -> String {
        format!("{}/a", self.list())
    }

    /// Reads the first state if there is to be a good copy, then makes the second one, much larger.
    async fn prepare(&mut self, node: &Node, has_good: bool) {
        if has_good {
            node.api.put(config_map(&self.namespace, "a", "old"));
            let plain = node.kubelet();
            let (list, get) = (plain.get(&self.list()).await, plain.get(&self.get()).await);
            assert_eq!((list.status, get.status), (200, 200), "{}", self.namespace);
            self.good = Some((list.body, get.body));
            node.settle().await;
        }
        for (seed, name) in ["a", "b", "c"].into_iter().enumerate() {
            node.api
                .put(config_map(&self.namespace, name, &noise(seed, 25_000)));
        }
    }

    async fn check_offline(&self, node: &Node) {
        let plain = node.kubelet();
        for (target, good) in [
            (self.list(), self.good.as_ref().map(|good| &good.0)),
            (self.get(), self.good.as_ref().map(|good| &good.1)),
        ] {
            let answer = plain.get(&target).await;
            match good {
                Some(good) => assert_eq!(
                    (answer.status, &answer.body, answer.header("cache-status")),
                    (200, good, HIT),
                    "{target}"
                ),
                None => assert_eq!(answer.status, 503, "{target}: {}", answer.text()),
            }
        }
    }
}

/// Every protocol to the client, with and without gzip, with and without a good copy.
fn variants(node: &Node) -> Vec<(Client, bool, String)> {
    let mut all = Vec::new();
    for protocol in PROTOCOLS {
        for gzip in [false, true] {
            for good in [false, true] {
                let mut client = node.kubelet().protocol(protocol);
                if gzip {
                    client = client.header("accept-encoding", "gzip");
                }
                all.push((
                    client,
                    good,
                    format!("{protocol:?}-{}-{good}", if gzip { "gzip" } else { "plain" }).to_lowercase(),
                ));
            }
        }
    }
    all
}

async fn broken_bodies_are_not_recorded(alpn: Vec<&'static str>) {
    let options = Options {
        alpn,
        gzip_above: 512,
        ..Options::default()
    };
    let node = Node::with(options, Setup::default()).await;
    let node = &node;
    let cases = variants(node).into_iter().flat_map(|(client, good, name)| {
        (0..6).map(move |point| {
            let client = client.clone();
            let namespace = format!("{name}-{point}");
            async move {
                let mut case = Broken {
                    namespace,
                    client,
                    good: None,
                };
                case.prepare(node, good).await;
                let mut direct = node.direct().protocol(Protocol::Http1);
                if case.namespace.contains("gzip") {
                    direct = direct.header("accept-encoding", "gzip");
                }
                // The object first: its target begins like the list's.
                for target in [case.get(), case.list()] {
                    let length = direct.get(&target).await.body.len() as u64;
                    let after = [0, 1, length / 2, length - 1, length];
                    let fault = match after.get(point) {
                        Some(after_bytes) => Fault::CutBody {
                            after_bytes: *after_bytes,
                        },
                        None => Fault::ShortBody,
                    };
                    node.api.fault(fault.on(&target));
                    // A head that did not make it before the break makes this a request without an answer.
                    if let Ok(answer) = case.client.send("GET", &target, "").await {
                        let honest = answer.status == 503 || answer.header("cache-status") == STALE;
                        assert!(honest, "the client must notice: {target} {fault:?}");
                    }
                }
                case
            }
        })
    });
    let cases: Vec<Broken> = stream::iter(cases).buffered(4).collect().await;
    node.cut().await;
    for case in cases {
        case.check_offline(node).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_broken_off_over_http2_never_replaces_a_good_copy_and_is_nothing_without_one() {
    broken_bodies_are_not_recorded(vec!["h2", "http/1.1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_broken_off_over_http1_never_replaces_a_good_copy_and_is_nothing_without_one() {
    broken_bodies_are_not_recorded(vec!["http/1.1"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_reset_before_the_answer_changes_nothing_that_is_known() {
    let node = Node::start().await;
    for (client, good, name) in variants(&node) {
        for (fault, kind) in [(Fault::Reset, "reset"), (Fault::ResetStream, "stream")] {
            let mut case = Broken {
                namespace: format!("{name}-{kind}"),
                client: client.clone(),
                good: None,
            };
            case.prepare(&node, good).await;
            node.api.fault(fault.on(&case.list()));
            let status = case.client.get(&case.list()).await.status;
            assert_eq!(status, if good { 200 } else { 503 }, "{}", case.namespace);
            node.api.clear_faults();
            node.wait_link(edgehold::upstream::LinkState::Online).await;
        }
    }
    node.cut().await;
    for (client, good, name) in variants(&node) {
        for kind in ["reset", "stream"] {
            let namespace = format!("{name}-{kind}");
            let answer = client
                .get(&format!("/api/v1/namespaces/{namespace}/configmaps"))
                .await;
            assert_eq!(answer.status, if good { 200 } else { 503 }, "{namespace}");
            if good {
                assert!(answer.text().contains("\"old\""), "{namespace}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_did_not_read_to_its_end_is_not_recorded() {
    let node = Node::start().await;
    let mut clients = Vec::new();
    for (protocol, gone) in [(Protocol::Http1, "h1"), (Protocol::Http2, "h2")] {
        for good in [false, true] {
            let namespace = format!("{gone}-{good}");
            let list = format!("/api/v1/namespaces/{namespace}/configmaps");
            if good {
                node.api.put(config_map(&namespace, "a", "old"));
                assert_eq!(node.status(&list).await, 200);
                node.settle().await;
            }
            // More than all buffers on the way together hold.
            let value = noise(1, 200_000);
            for n in 0..160 {
                node.api.put(config_map(&namespace, &format!("n{n:03}"), &value));
            }
            let mut connection = node.kubelet().protocol(protocol).connect().await.unwrap();
            let mut response = connection.open("GET", &list, "").await.unwrap();
            assert!(response.body_mut().frame().await.unwrap().is_ok());
            drop((response, connection));
            clients.push((list, good));
        }
    }
    node.api
        .wait_counters(|counters| counters.streams_open == 0)
        .await;
    node.cut().await;
    for (list, good) in clients {
        let answer = node.kubelet().get(&list).await;
        assert_eq!(answer.status, if good { 200 } else { 503 }, "{list}");
        if good {
            assert_eq!(names(&answer.json()), ["a"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_the_apiserver_does_not_find_is_not_found_offline_either() {
    let node = Node::start().await;
    for name in ["read", "listed", "page", "passed"] {
        node.api.put(config_map("shop", name, "1"));
    }
    let get = |name: &str| format!("{SHOP}/{name}");
    assert_eq!(node.status(&get("read")).await, 200);
    assert_eq!(node.status(&get("page")).await, 200);
    assert_eq!(node.status(&get("passed")).await, 200);
    assert_eq!(node.status(SHOP).await, 200);
    node.api.delete("ConfigMap", "shop", "read");
    node.api.delete("ConfigMap", "shop", "listed");
    for name in ["read", "listed", "never"] {
        assert_eq!(node.status(&get(name)).await, 404, "{name}");
    }
    // A page that is no Status proves nothing, whoever passes it on.
    node.api.fault(Fault::GatewayPage(404).on(&get("page")).times(1));
    node.api.fault(Fault::PassedPage(404).on(&get("passed")).times(1));
    for (name, code) in [("page", 200), ("passed", 404)] {
        assert_eq!(node.status(&get(name)).await, code, "{name}");
    }

    node.cut().await;
    for name in ["read", "listed", "never"] {
        let answer = node.kubelet().get(&get(name)).await;
        assert_eq!(answer.status, 404, "{name}: {}", answer.text());
        assert_eq!(
            answer.json()["details"],
            json!({"name": name, "kind": "configmaps"})
        );
    }
    for name in ["page", "passed"] {
        assert_eq!(node.status(&get(name)).await, 200, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_404_of_a_list_or_an_unseen_object_of_a_gateway_leaves_them_unknown() {
    let node = Node::start().await;
    node.api.fault(Fault::GatewayPage(404).on(SHOP));
    node.api
        .fault(Fault::GatewayPage(200).on("/api/v1/namespaces/portal"));
    for target in [
        SHOP.to_owned(),
        format!("{SHOP}/a"),
        "/api/v1/namespaces/portal/configmaps".to_owned(),
        "/api/v1/namespaces/portal/configmaps/a".to_owned(),
    ] {
        assert_ne!(node.status(&target).await, 503);
    }
    node.cut().await;
    for target in [
        SHOP,
        &format!("{SHOP}/a"),
        "/api/v1/namespaces/portal/configmaps",
        "/api/v1/namespaces/portal/configmaps/a",
    ] {
        assert_eq!(node.status(target).await, 503, "{target}");
    }
}

/// kube-apiserver 1.38 answers a path that it does not serve, or not yet, with a Status: it is the path that is not found.
#[tokio::test(flavor = "multi_thread")]
async fn a_404_that_names_no_object_takes_none_away() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "read", "1"));
    let (read, never) = (format!("{SHOP}/read"), format!("{SHOP}/never"));
    assert_eq!(node.status(&read).await, 200);
    node.api.fault(Fault::Status(404).on(SHOP));
    for accept in ["application/json", PROTOBUF] {
        for target in [&read, &never] {
            let client = node.kubelet().header("accept", accept);
            assert_eq!(client.get(target).await.status, 404, "{accept} {target}");
        }
    }
    node.settle().await;
    node.cut().await;
    assert_eq!(node.status(&read).await, 200);
    assert_eq!(node.status(&never).await, 503);
}

const SECRETS: &str = "/api/v1/namespaces/shop/secrets";

/// A kubelet that has read a secret in every way.
async fn secrets_read() -> Node {
    let node = Node::start().await;
    node.api.put(secret("shop", "s"));
    for accept in ["application/json", PROTOBUF, METADATA, TABLE] {
        for target in [
            SECRETS.to_owned(),
            format!("{SECRETS}/s"),
            "/api/v1/secrets".to_owned(),
            format!("{SECRETS}?fieldSelector=metadata.name%3Ds"),
        ] {
            let client = node.kubelet().header("accept", &spelled(accept, &target));
            assert_eq!(client.get(&target).await.status, 200, "{accept} {target}");
        }
    }
    node.settle().await;
    assert!(is_on_disk(&node.cache_dir(), SECRET));
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_withdraws_what_was_read_in_every_form_also_from_disk() {
    let mut node = secrets_read().await;
    node.api.set_rbac(Rbac::deny_all());
    for target in [
        SECRETS,
        &format!("{SECRETS}/s"),
        &format!("{SECRETS}?fieldSelector=metadata.name%3Ds"),
    ] {
        assert_eq!(node.status(target).await, 403, "{target}");
    }
    node.settle().await;
    assert!(
        !is_on_disk(&node.cache_dir(), SECRET),
        "the secret is still on disk"
    );
    for restarted in [false, true] {
        if restarted {
            node.restart().await;
        }
        node.cut().await;
        for accept in ["application/json", PROTOBUF, METADATA, TABLE] {
            for target in [
                SECRETS,
                &format!("{SECRETS}/s"),
                "/api/v1/secrets",
                &format!("{SECRETS}?fieldSelector=metadata.name%3Ds"),
                &format!("{SECRETS}?labelSelector=a"),
            ] {
                let client = node.kubelet().header("accept", &spelled(accept, target));
                let answer = client.get(target).await;
                assert_eq!(answer.status, 503, "{accept} {target}: {}", answer.text());
            }
        }
        node.heal().await;
    }
    node.api.set_rbac(Rbac::allow_all());
    for target in [SECRETS, &format!("{SECRETS}/s")] {
        assert_eq!(node.status(target).await, 200, "{target}");
    }
    node.cut().await;
    for target in [SECRETS, &format!("{SECRETS}/s")] {
        assert_eq!(node.status(target).await, 200, "granted again: {target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_for_a_watch_withdraws_the_collection() {
    let node = secrets_read().await;
    node.api.set_rbac(Rbac::deny_all());
    let watch = format!("{SECRETS}?watch=true&resourceVersion=0");
    assert_eq!(node.status(&watch).await, 403);
    node.cut().await;
    for accept in ["application/json", PROTOBUF, METADATA, TABLE] {
        let client = node.kubelet().header("accept", accept);
        assert_eq!(client.get(SECRETS).await.status, 503, "{accept}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_for_one_object_takes_only_that_object() {
    let node = Node::start().await;
    node.api.put(secret("shop", "s"));
    node.api.put(secret("shop", "t"));
    assert_eq!(node.status(SECRETS).await, 200);
    let reader = Subject::Everyone;
    let rules = Rbac::deny_all().with(Rule::allow(reader, &["list", "watch"], &["secrets"]));
    node.api.set_rbac(rules);
    assert_eq!(node.status(&format!("{SECRETS}/s")).await, 403);
    node.cut().await;
    assert_eq!(
        node.status(&format!("{SECRETS}/s")).await,
        503,
        "not from the list either"
    );
    assert_eq!(node.status(&format!("{SECRETS}/t")).await, 200);
    assert_eq!(node.status(SECRETS).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_withdraws_a_document() {
    let node = Node::start().await;
    let keys = "/openid/v1/jwks";
    assert_eq!(node.status(keys).await, 200);
    assert_eq!(node.status("/version").await, 200);
    node.settle().await;
    node.api.set_rbac(Rbac::deny_all());
    assert_eq!(node.status(keys).await, 403);
    node.cut().await;
    assert_eq!(node.status(keys).await, 503);
    assert_eq!(node.status("/version").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_of_a_gateway_changes_nothing() {
    let node = secrets_read().await;
    let targets = [SECRETS.to_owned(), format!("{SECRETS}/s")];
    for (fault, code) in [(Fault::GatewayPage(403), 200), (Fault::PassedPage(403), 403)] {
        node.api.fault(fault.on(SECRETS));
        for target in &targets {
            assert_eq!(node.status(target).await, code, "{fault:?}");
        }
        node.api.clear_faults();
    }
    node.cut().await;
    for target in &targets {
        assert_eq!(node.status(target).await, 200, "{target}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_forgets_the_token_and_not_the_data() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let first = node.api.service_account_token("shop", "agent");
    assert_eq!(node.token_client(&first).get(SHOP).await.status, 200);
    assert_eq!(node.status(SHOP).await, 200);
    node.api.revoke_token(&first);
    assert_eq!(node.token_client(&first).get(SHOP).await.status, 401);
    // Another token of the same account, accepted for something else.
    let second = node.api.issue(&ServiceAccountToken {
        expires_in: 7200,
        ..ServiceAccountToken::new("shop", "agent")
    });
    assert_ne!(first, second);
    assert_eq!(node.token_client(&second).get("/version").await.status, 200);
    // A certificate that is refused for a moment loses nothing either.
    node.api.fault(Fault::Status(401).on(SHOP).times(1));
    assert_eq!(node.status(SHOP).await, 401);

    node.cut().await;
    assert_eq!(
        node.token_client(&first).get(SHOP).await.status,
        503,
        "a refused token"
    );
    let answer = node.token_client(&second).get(SHOP).await;
    assert_eq!(
        (answer.status, names(&answer.json())),
        (200, vec!["a".to_owned()])
    );
    assert_eq!(node.status(SHOP).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_to_impersonation_and_odd_targets_are_not_cached() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "only-online"));
    let odd = [
        "/api/v1//namespaces/shop/configmaps",
        "/api/v1/namespaces/shop/configmaps//",
        "/api/v1/namespaces/shop/configmap%73",
        "/api/v1/namespaces/shop/configmaps?magic=%ff",
        "/api/v1/namespaces/shop/configmaps/a?magic=1;magic=2",
        "/api/v1/namespaces/shop/./configmaps",
    ];
    let impersonating = [
        ("impersonate-user", "system:node:edge-1"),
        ("impersonate-group", "system:masters"),
        ("impersonate-extra-scopes", "view"),
    ];
    for target in odd {
        node.kubelet().get(target).await;
    }
    for (name, value) in impersonating {
        let client = node.kubelet().header(name, value);
        client.get(SHOP).await;
        client.get(&format!("{SHOP}/a")).await;
    }
    node.kubelet().header("range", "bytes=0-1000000").get(SHOP).await;
    node.settle().await;
    assert!(!is_on_disk(&node.cache_dir(), "only-online"));
    // With an ordinary copy on disk those requests must not be answered from it either.
    node.kubelet().get("/api/v1/namespaces/shop/pods").await;
    node.cut().await;
    for target in odd.into_iter().chain([SHOP, &format!("{SHOP}/a")]) {
        assert_eq!(node.status(target).await, 503, "{target}");
    }
    for (name, value) in impersonating {
        let client = node.kubelet().header(name, value);
        let status = client.get("/api/v1/namespaces/shop/pods").await.status;
        assert_eq!(status, 503, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn selectors_forms_namespaces_groups_and_users_do_not_mix() {
    let mut node = Node::start().await;
    for (namespace, name, app) in [("shop", "a", "web"), ("shop", "b", "db"), ("bank", "a", "web")] {
        let mut object = config_map(namespace, name, &format!("{namespace}-{name}"));
        object["metadata"]["labels"]["app"] = json!(app);
        node.api.put(object);
    }
    for version in ["v1", "events.k8s.io/v1"] {
        node.api.put(json!({"apiVersion": version, "kind": "Event",
            "metadata": {"namespace": "shop", "name": version.replace(['/', '.'], "-")}}));
    }
    let targets = [
        SHOP.to_owned(),
        format!("{SHOP}?labelSelector=app%3Dweb"),
        format!("{SHOP}?labelSelector=app%3Ddb"),
        format!("{SHOP}?labelSelector=app%3Ddb&fieldSelector=metadata.name%3Db"),
        format!("{SHOP}?fieldSelector=metadata.name%3Da"),
        format!("{SHOP}/a"),
        "/api/v1/configmaps".to_owned(),
        "/api/v1/namespaces/bank/configmaps".to_owned(),
        "/api/v1/namespaces/bank/configmaps/a".to_owned(),
        "/api/v1/namespaces/shop/events".to_owned(),
        "/apis/events.k8s.io/v1/namespaces/shop/events".to_owned(),
    ];
    // Tables last: where something fresher is known, a Table is answered with it.
    let accepts = [
        "application/json",
        PROTOBUF,
        METADATA,
        "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
        TABLE,
    ];
    let mut read = Vec::new();
    // Every user reads at another time, so that everybody has another truth.
    for user in ["kubelet", "kube-proxy"] {
        for accept in accepts {
            for target in &targets {
                let client = node
                    .client(Some(&node.pair(user)))
                    .header("accept", &spelled(accept, target));
                let answer = client.get(target).await;
                assert_eq!(answer.status, 200, "{accept} {target}");
                read.push((user, accept, target.clone(), answer));
            }
            node.settle().await;
        }
        node.api.put(config_map("shop", "c", "later"));
        node.api.put(config_map("bank", "a", "later"));
    }
    let agent = node.api.service_account_token("shop", "agent");
    assert_eq!(node.token_client(&agent).get("/version").await.status, 200);

    for restarted in [false, true] {
        if restarted {
            node.restart().await;
        }
        node.cut().await;
        for (user, accept, target, online) in &read {
            let client = node
                .client(Some(&node.pair(user)))
                .header("accept", &spelled(accept, target));
            let offline = client.get(target).await;
            assert_eq!(
                (offline.status, offline.header("content-type")),
                (200, online.header("content-type").split(';').next().unwrap()),
                "{user} {accept} {target}"
            );
            assert_eq!(offline.body, online.body, "{user} {accept} {target}");
        }
        for target in &targets {
            for client in [
                node.token_client(&agent),
                node.client(None),
                node.token_client("forged"),
                node.client(None)
                    .header("user-agent", "kubelet/v1.36.2 (linux/amd64) kubernetes/8e16b12"),
            ] {
                assert_ne!(client.get(target).await.status, 200, "{target}");
            }
        }
        node.heal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_is_kept_decoded_and_given_plain_to_who_did_not_ask() {
    let node = Node::start().await;
    for n in 0..5 {
        node.api.put(config_map(
            "shop",
            &format!("n{n}"),
            &format!("{n}{}", "x".repeat(40_000)),
        ));
    }
    let plain = node.direct().get(SHOP).await;
    let unasked = node.kubelet().get(SHOP).await;
    assert_eq!(unasked.header("content-encoding"), "", "nobody asked for gzip");
    assert_eq!(unasked.body, plain.body);
    let zipping = node.kubelet().header("accept-encoding", "gzip");
    // Something that only the compressed answer can have brought.
    node.api.put(config_map("shop", "late", "late"));
    let zipped = zipping.get(SHOP).await;
    assert_eq!(zipped.header("content-encoding"), "gzip");
    assert!(zipped.body.len() < plain.body.len() / 10);
    let plain = node.direct().get(SHOP).await;

    node.cut().await;
    for client in [node.kubelet(), zipping] {
        let cached = client.get(SHOP).await;
        assert_eq!((cached.status, cached.header("content-encoding")), (200, ""));
        assert_eq!(cached.body, plain.body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_for_its_owner_only() {
    let node = secrets_read().await;
    let mut dirs = vec![node.cache_dir()];
    for path in files_below(&node.cache_dir()) {
        let mode = path.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode, 0o600, "{}", path.display());
        dirs.push(path.parent().unwrap().to_owned());
    }
    for dir in dirs {
        let mode = dir.metadata().unwrap().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", dir.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_known_already_writes_nothing() {
    let node = Node::start().await;
    for n in 0..20 {
        node.api
            .put(config_map("shop", &format!("n{n}"), &noise(n, 10_000)));
    }
    let read_all = async || {
        // No Tables: they say how old an object is.
        for accept in ["application/json", PROTOBUF, METADATA] {
            for target in [SHOP, &format!("{SHOP}/n1"), &format!("{SHOP}/none")] {
                let client = node.kubelet().header("accept", &spelled(accept, target));
                client.get(target).await;
            }
        }
        for document in ["/version", "/apis", "/openapi/v2"] {
            node.kubelet().get(document).await;
        }
        node.settle().await;
    };
    read_all().await;
    // Documents are recorded beside requests, not by the strands that settling waits for.
    let before = stable(&node).await;
    for _ in 0..3 {
        read_all().await;
    }
    assert_eq!(stable(&node).await, before);
}

/// Name, size, inode and time of change of every file of the cache, once nothing changes any more. Not of the one that holds
/// the last contact with the cloud.
async fn stable(node: &Node) -> Vec<(PathBuf, u64, u64, i64, i64)> {
    let look = || {
        let mut all: Vec<_> = files_below(&node.cache_dir())
            .into_iter()
            .filter_map(|path| {
                let data = path.metadata().ok()?;
                let content = std::fs::read(&path).ok()?;
                if memchr::memmem::find(&content, b"last-contact").is_some() {
                    return None;
                }
                Some((path, data.size(), data.ino(), data.mtime(), data.mtime_nsec()))
            })
            .collect();
        all.sort();
        all
    };
    let mut last = look();
    loop {
        node.settle().await;
        let now = look();
        let is_still = now == last
            && !now
                .iter()
                .any(|(path, ..)| path.extension().is_some_and(|e| e == "tmp"));
        if is_still {
            return now;
        }
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_objects_do_not_live_on() {
    let node = Node::start().await;
    for name in ["one", "two", "three"] {
        node.api.put(config_map("shop", name, "1"));
        assert_eq!(node.status(&format!("{SHOP}/{name}")).await, 200);
    }
    node.api.put(config_map("bank", "kept", "1"));
    let kept = "/api/v1/namespaces/bank/configmaps/kept";
    assert_eq!(node.status(kept).await, 200);
    node.settle().await;
    let kubelet = node.kubelet();
    let deleted = kubelet.send("DELETE", &format!("{SHOP}/one"), "").await.unwrap();
    assert_eq!(deleted.status, 200);
    let deleted = kubelet.send("DELETE", SHOP, "").await.unwrap();
    assert_eq!(deleted.status, 200);
    node.cut().await;
    for name in ["one", "two", "three"] {
        assert_ne!(node.status(&format!("{SHOP}/{name}")).await, 200, "{name}");
    }
    assert_eq!(node.status(kept).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paged_list_is_kept_whole_or_not_at_all() {
    let node = Node::start().await;
    for n in 0..7 {
        for namespace in ["shop", "half", "torn"] {
            node.api.put(config_map(namespace, &format!("n{n}"), "1"));
        }
    }
    let list = |namespace: &str, token: &str| {
        format!("/api/v1/namespaces/{namespace}/configmaps?limit=3&continue={token}")
    };
    let pages = async |namespace: &str, most: usize| {
        let mut token = String::new();
        for _ in 0..most {
            let page = node.kubelet().get(&list(namespace, &token)).await;
            assert_eq!((page.status, page.header("cache-status")), (200, ""));
            let next = page.json()["metadata"]["continue"].clone();
            token = next.as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
        }
        token
    };
    assert_eq!(pages("shop", 9).await, "");
    assert_ne!(pages("half", 2).await, "");
    let token = pages("torn", 2).await;
    node.api
        .fault(Fault::CutBody { after_bytes: 100 }.on("/api/v1/namespaces/torn"));
    let torn = node.kubelet().send("GET", &list("torn", &token), "").await;
    assert!(torn.is_err());
    let whole = node.direct().get(SHOP).await;
    // The last page alone is no answer to the first.
    node.cut().await;
    let cached = node.kubelet().get(SHOP).await;
    assert_eq!((cached.status, &cached.body), (200, &whole.body));
    assert_eq!(node.kubelet().get(&list("shop", "")).await.body, whole.body);
    for namespace in ["half", "torn"] {
        let target = format!("/api/v1/namespaces/{namespace}/configmaps");
        assert_eq!(node.status(&target).await, 503, "{namespace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_right_after_a_large_list_is_not_lost() {
    let node = Node::start().await;
    for n in 0..60 {
        node.api
            .put(config_map("shop", &format!("n{n:02}"), &noise(n, 50_000)));
    }
    for round in 0..5 {
        let kubelet = node.kubelet();
        let list = kubelet.get(SHOP).await.json();
        let at = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
        let name = format!("after{round}");
        node.api.put(config_map("shop", &name, "1"));
        let mut connection = kubelet.connect().await.unwrap();
        let watch = format!("{SHOP}?watch=true&resourceVersion={at}");
        let mut watch = connection.lines(&watch).await.unwrap();
        let event = watch.next().await.unwrap().unwrap();
        assert_eq!(event["object"]["metadata"]["name"], name.as_str());
        node.cut().await;
        let cached = kubelet.get(SHOP).await.json();
        assert_eq!(cached["items"].as_array().unwrap().len(), 61 + round);
        assert!(names(&cached).contains(&name), "round {round}");
        node.heal().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_of_one_name_or_selector_erases_nothing_else() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let whole = node.kubelet().get(SHOP).await;
    for query in ["fieldSelector=metadata.name%3Dnone", "labelSelector=app%3Dnone"] {
        let empty = node.kubelet().get(&format!("{SHOP}?{query}")).await;
        assert_eq!(names(&empty.json()), Vec::<String>::new());
    }
    node.cut().await;
    assert_eq!(node.kubelet().get(SHOP).await.body, whole.body);
    for query in ["fieldSelector=metadata.name%3Dnone", "labelSelector=app%3Dnone"] {
        let empty = node.kubelet().get(&format!("{SHOP}?{query}")).await;
        assert_eq!(
            (empty.status, names(&empty.json())),
            (200, vec![]),
            "it was read, and was empty"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_one_selector_do_not_touch_the_view_of_another() {
    let node = Node::start().await;
    node.api.put(config_map("shop", "a", "1"));
    let kubelet = node.kubelet();
    let selected = |app: &str| format!("{SHOP}?labelSelector=app%3D{app}");
    let web = kubelet.get(&selected("web")).await;
    let all = kubelet.get(SHOP).await;
    let at = web.json()["metadata"]["resourceVersion"]
        .as_str()
        .unwrap()
        .to_owned();
    let mut connection = kubelet.connect().await.unwrap();
    let watch = format!("{}&watch=true&resourceVersion={at}", selected("web"));
    let mut watch = connection.lines(&watch).await.unwrap();
    let mut moved = config_map("shop", "a", "2");
    moved["metadata"]["labels"]["app"] = json!("db");
    node.api.put(moved);
    assert_eq!(watch.next().await.unwrap().unwrap()["type"], "DELETED");
    node.cut().await;
    let offline = kubelet.get(&selected("web")).await;
    assert_eq!(names(&offline.json()), Vec::<String>::new());
    assert_eq!(
        kubelet.get(SHOP).await.body,
        all.body,
        "it only left the selection"
    );
    assert_eq!(node.status(&format!("{SHOP}/a")).await, 200);
}

/// Whatever a node's pods use is refused to its kubelet until the node authorizer of an apiserver that has just started knows
/// the pods.
#[tokio::test(flavor = "multi_thread")]
async fn a_403_that_does_not_last_is_found_out_without_the_client() {
    let (object, watch) = (format!("{SECRETS}/s"), format!("{SECRETS}?watch=true"));
    for (read, refused) in [(SECRETS, SECRETS), (SECRETS, &*watch), (&*object, &*object)] {
        let node = read_once(read).await;
        node.api.set_rbac(Rbac::deny_all());
        let kubelet = node.kubelet();
        assert_eq!(get_on_both(&kubelet, refused).await.status, 403, "{refused}");
        kept(&node, false).await;
        node.api.set_rbac(Rbac::allow_all());
        kept(&node, true).await;
        node.cut().await;
        assert_eq!(get_on_both(&kubelet, read).await.status, 200, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_403_that_lasts_stands_and_what_was_never_read_is_not_asked_about() {
    let node = read_once(SECRETS).await;
    let never = "/api/v1/namespaces/other/configmaps";
    node.api.set_rbac(Rbac::deny_all());
    for refused in [never, SECRETS] {
        let answer = get_on_both(&node.kubelet(), refused).await;
        assert_eq!(answer.status, 403, "{refused}");
    }
    let asked = || node.asked("GET", SECRETS);
    let before = asked();
    eventually("edgehold asks twice", || async { asked() >= before + 2 }).await;
    assert_eq!(node.asked("GET", never), PROTOCOLS.len());
    kept(&node, false).await;
    node.cut().await;
    assert_eq!(get_on_both(&node.kubelet(), SECRETS).await.status, 503);
}

/// A kubelet that has read a secret in one way.
async fn read_once(target: &str) -> Node {
    let node = Node::start().await;
    node.api.put(secret("shop", "s"));
    assert_eq!(node.status(target).await, 200);
    kept(&node, true).await;
    node
}

async fn kept(node: &Node, is_kept: bool) {
    eventually("the secret is on disk, or not", || async {
        node.settle().await;
        is_on_disk(&node.cache_dir(), SECRET) == is_kept
    })
    .await;
}
