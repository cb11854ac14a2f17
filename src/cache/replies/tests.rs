//! What is given again, to whom, until when, and what is left of it on disk.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use http_body_util::BodyExt;

use super::*;
use crate::cache::CacheConfig;
use crate::kube::request::{RequestInfo, ResourceRequest};
use crate::runtime::clock;
use crate::store::{LogId, LogStore};
use crate::wire::collection::Collection;
use crate::wire::object::read_object;

const KUBELET: &str = "cn:system:node:edge-1,o=system:nodes";
const PATH: &str = "/api/v1/namespaces/shop/serviceaccounts/web/token";
const REVIEW: &str = "/apis/authentication.k8s.io/v1/tokenreviews";
const PODS: &str = "+v1+pods+++spec.nodeName%3Dedge-1++json";
const EXP: u64 = 2_000_000_000;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn cache_on(store: &Arc<dyn Store>, tasks: &Tasks, reviews: Duration) -> Cache {
    let config = CacheConfig {
        spool: None,
        node_key: NodeKey::from_bytes([9; 32]),
        reviews,
    };
    Cache::new(Arc::clone(store), config, tasks.clone())
}

/// A cache whose kubelet sees these pods (name and UID) on its node.
fn node(pods: &[(&str, &str)]) -> (Arc<dyn Store>, Tasks, Cache) {
    let store: Arc<dyn Store> = Arc::new(LogStore::memory().unwrap());
    see(&store, pods, "10");
    let tasks = Tasks::new();
    let cache = cache_on(&store, &tasks, Duration::ZERO);
    (store, tasks, cache)
}

fn see(store: &Arc<dyn Store>, pods: &[(&str, &str)], version: &str) {
    let body = |name: &str, uid: &str| {
        format!(
            r#"{{"kind":"Pod","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"shop","uid":"{uid}","resourceVersion":"9"}}}}"#
        )
    };
    let example = body("x", "x");
    let form = Collection::from_object(&read_object(Encoding::Json, example.as_bytes()).unwrap());
    let mut staging = store.stage(&LogId::new(KUBELET, PODS)).unwrap();
    for (name, uid) in pods {
        let body = body(name, uid);
        let object = read_object(Encoding::Json, body.as_bytes()).unwrap();
        staging.put(object.meta.key().as_bytes(), &object.item).unwrap();
    }
    let header = serde_json::to_vec(&serde_json::json!({"kind": "view", "form": form})).unwrap();
    staging.commit(&header, version, clock::wall()).unwrap();
}

fn resource(path: &str) -> ResourceRequest {
    match RequestInfo::parse(&Method::POST, path, None) {
        RequestInfo::Resource(resource) => Arc::unwrap_or_clone(resource),
        _ => panic!("{path}"),
    }
}

fn headers(accept: &str) -> HeaderMap {
    HeaderMap::from_iter([
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::ACCEPT, accept.parse().unwrap()),
    ])
}

fn request(pod: &str, uid: &str) -> String {
    serde_json::json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {
        "expirationSeconds": 3607,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": uid}}})
    .to_string()
}

fn ask_for(path: &str, accept: &str, body: &str) -> Option<Ask> {
    Ask::read(&resource(path), path, None, &headers(accept), body.as_bytes())
}

fn ask(pod: &str, uid: &str) -> Ask {
    ask_for(PATH, "application/json", &request(pod, uid)).unwrap()
}

/// A token as the apiserver makes it, unsigned.
fn jwt(account: &str, uid: &str) -> String {
    let claims = serde_json::json!({"exp": EXP, "kubernetes.io": {
        "namespace": "shop", "serviceaccount": {"name": account, "uid": "su"}, "pod": {"name": "p", "uid": uid}}});
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    format!(
        "{}.{}.{}",
        part(r#"{"alg":"ES256"}"#),
        part(&claims.to_string()),
        part("signature")
    )
}

fn answer(token: &str) -> String {
    serde_json::json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": {},
        "status": {"token": token, "expirationTimestamp": "2033-05-18T03:33:20Z"}})
    .to_string()
}

fn head(status: u16, from_apiserver: bool) -> response::Parts {
    let mut response = http::Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, "application/json");
    if from_apiserver {
        response = response.header("audit-id", "1");
    }
    response.body(()).unwrap().into_parts().0
}

async fn answered(cache: &Cache, owner: &str, ask: Ask, head: response::Parts, body: &str) {
    if let Some(recording) = cache.record_reply(owner, ask) {
        let passed = recording.answered(&head, body::full(body.to_owned()));
        assert_eq!(passed.collect().await.unwrap().to_bytes(), body);
    }
    cache.settle().await;
}

async fn told(cache: &Cache, owner: &str, ask: &Ask, now: u64) -> Option<String> {
    let found = cache.reply(owner, ask, at(now)).await?;
    assert_eq!(found.status, 201);
    assert_eq!(found.headers[header::CONTENT_TYPE], "application/json");
    let body = found.body.collect().await.unwrap().to_bytes();
    Some(String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test]
async fn a_token_is_given_again_word_for_word_until_its_own_expiry() {
    let (_store, _tasks, cache) = node(&[("p", "pu")]);
    let body = answer(&jwt("web", "pu"));
    answered(&cache, KUBELET, ask("p", "pu"), head(201, true), &body).await;
    assert_eq!(told(&cache, KUBELET, &ask("p", "pu"), EXP - 1).await, Some(body));
    assert_eq!(told(&cache, KUBELET, &ask("p", "pu"), EXP).await, None);
}

#[tokio::test]
async fn nobody_else_and_nothing_else_gets_it() {
    let (_store, _tasks, cache) = node(&[("p", "pu"), ("q", "qu")]);
    let body = answer(&jwt("web", "pu"));
    answered(&cache, KUBELET, ask("p", "pu"), head(201, true), &body).await;
    let other_account = "/api/v1/namespaces/shop/serviceaccounts/other/token";
    let vault = request("p", "pu").replace("\"spec\":{", "\"spec\":{\"audiences\":[\"vault\"],");
    for (what, owner, ask) in [
        ("owner", "cn:system:node:edge-2,o=system:nodes", ask("p", "pu")),
        ("pod", KUBELET, ask("q", "qu")),
        ("uid", KUBELET, ask("p", "qu")),
        (
            "account",
            KUBELET,
            ask_for(other_account, "application/json", &request("p", "pu")).unwrap(),
        ),
        (
            "audience",
            KUBELET,
            ask_for(PATH, "application/json", &vault).unwrap(),
        ),
        (
            "encoding",
            KUBELET,
            ask_for(PATH, "application/vnd.kubernetes.protobuf", &request("p", "pu")).unwrap(),
        ),
        (
            "form",
            KUBELET,
            ask_for(
                PATH,
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1",
                &request("p", "pu"),
            )
            .unwrap(),
        ),
    ] {
        assert_eq!(told(&cache, owner, &ask, 0).await, None, "{what}");
    }
    assert!(told(&cache, KUBELET, &ask("p", "pu"), 0).await.is_some());
}

#[test]
fn only_tokens_bound_to_a_pod_are_looked_at() {
    let bound = |reference: &str| {
        format!(
            r#"{{"kind":"TokenRequest","apiVersion":"authentication.k8s.io/v1","spec":{{"boundObjectRef":{reference}}}}}"#
        )
    };
    for body in [
        bound("null"),
        bound(r#"{"kind":"Node","apiVersion":"v1","name":"n","uid":"u"}"#),
        bound(r#"{"kind":"Pod","apiVersion":"v1","name":"p"}"#),
        bound(r#"{"kind":"Pod","apiVersion":"v2","name":"p","uid":"u"}"#),
        "{}".to_owned(),
    ] {
        assert!(ask_for(PATH, "application/json", &body).is_none(), "{body}");
    }
    let good = request("p", "pu");
    let with = |query, headers: &HeaderMap| Ask::read(&resource(PATH), PATH, query, headers, good.as_bytes());
    let plain = headers("application/json");
    assert!(with(Some("timeout=10s"), &plain).is_some());
    assert!(with(Some("dryRun=All"), &plain).is_none());
    let mut packed = plain.clone();
    packed.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    assert!(with(None, &packed).is_none());
    for odd in [
        "/api/v1/namespaces/shop/serviceaccounts/web/token/",
        "/api/v1/namespaces/shop/serviceaccounts/web%2Ftoken",
        "/api/v1//namespaces/shop/serviceaccounts/web/token",
        "/apis/x/v1/namespaces/shop/serviceaccounts/web/token",
        "/api/v1/namespaces/shop/serviceaccounts/web/token/more",
        "/api/v1/namespaces/shop/pods/web/token",
    ] {
        assert!(!may_be_asked_again(&resource(odd), odd), "{odd}");
    }
}

#[tokio::test]
async fn only_what_an_apiserver_issued_for_this_very_pod_is_kept() {
    let good = answer(&jwt("web", "pu"));
    for (what, head, body) in [
        ("a gateway's answer", head(201, false), good.clone()),
        ("no 201", head(200, true), good.clone()),
        ("another account's", head(201, true), answer(&jwt("other", "pu"))),
        ("another pod's", head(201, true), answer(&jwt("web", "other"))),
        ("no token", head(201, true), answer("")),
        ("no JSON", head(201, true), "oops".to_owned()),
    ] {
        let (_store, _tasks, cache) = node(&[("p", "pu")]);
        answered(&cache, KUBELET, ask("p", "pu"), head, &body).await;
        assert_eq!(told(&cache, KUBELET, &ask("p", "pu"), 0).await, None, "{what}");
    }
}

#[tokio::test]
async fn a_refusal_takes_it_back_but_a_lost_credential_does_not() {
    for (status, gone) in [
        (403, true),
        (404, true),
        (409, true),
        (422, true),
        (401, false),
        (429, false),
        (500, false),
    ] {
        let (_store, _tasks, cache) = node(&[("p", "pu")]);
        let body = answer(&jwt("web", "pu"));
        answered(&cache, KUBELET, ask("p", "pu"), head(201, true), &body).await;
        answered(&cache, KUBELET, ask("p", "pu"), head(status, false), "{}").await;
        assert!(
            told(&cache, KUBELET, &ask("p", "pu"), 0).await.is_some(),
            "a gateway's {status}"
        );
        answered(&cache, KUBELET, ask("p", "pu"), head(status, true), "{}").await;
        assert_eq!(
            told(&cache, KUBELET, &ask("p", "pu"), 0).await.is_none(),
            gone,
            "{status}"
        );
    }
}

#[tokio::test]
async fn the_pod_must_be_on_the_node() {
    for pods in [&[][..], &[("p", "another-uid")], &[("q", "pu")]] {
        let (_store, _tasks, cache) = node(pods);
        let body = answer(&jwt("web", "pu"));
        answered(&cache, KUBELET, ask("p", "pu"), head(201, true), &body).await;
        assert_eq!(told(&cache, KUBELET, &ask("p", "pu"), 0).await, None, "{pods:?}");
    }
}

fn is_stored(store: &Arc<dyn Store>, owner: &str) -> bool {
    let log = store.load(&LogId::new(owner, "replies")).unwrap();
    log.is_some_and(|log| !log.is_empty())
}

#[tokio::test]
async fn what_has_expired_by_the_clouds_time_is_removed_and_by_ours_alone_is_not() {
    let (store, _tasks, cache) = node(&[("p", "pu")]);
    let body = answer(&jwt("web", "pu"));
    answered(&cache, KUBELET, ask("p", "pu"), head(201, true), &body).await;
    for contact in [None, Some(at(EXP - 1))] {
        cache.prune_replies(contact).await;
        assert!(is_stored(&store, KUBELET), "{contact:?}");
    }
    cache.prune_replies(Some(at(EXP))).await;
    assert!(!is_stored(&store, KUBELET));
}

#[tokio::test]
async fn what_belongs_to_a_pod_that_left_is_removed_but_not_before_the_view_is_newer() {
    let (store, tasks, cache) = node(&[]);
    let body = answer(&jwt("web", "pu"));
    answered(&cache, KUBELET, ask("p", "pu"), head(201, true), &body).await;
    cache.prune_replies(None).await;
    assert!(is_stored(&store, KUBELET), "the view may be older than the pod");
    drop(cache);
    // The same view, known to be current two minutes later.
    let log = store.load(&LogId::new(KUBELET, PODS)).unwrap().unwrap();
    let later = clock::wall() + Duration::from_secs(120);
    log.append(crate::store::Change::Progress, "20", later).unwrap();
    let cache = cache_on(&store, &tasks, Duration::ZERO);
    cache.settle().await;
    cache.prune_replies(None).await;
    assert!(!is_stored(&store, KUBELET));
}

#[tokio::test]
async fn no_token_is_plain_in_the_store_and_all_survive_a_restart() {
    let (store, tasks, cache) = node(&[("p", "pu")]);
    let token = jwt("web", "pu");
    let body = answer(&token);
    answered(&cache, KUBELET, ask("p", "pu"), head(201, true), &body).await;
    drop(cache);
    let log = store.load(&LogId::new(KUBELET, "replies")).unwrap().unwrap();
    for entry in log.snapshot().entries() {
        let (key, value) = entry.unwrap();
        let all = [&key[..], &value[..]].concat();
        for part in [
            &b"ES256"[..],
            b"shop",
            token.split('.').nth(1).unwrap().as_bytes(),
        ] {
            let found = all.windows(part.len()).any(|window| window == part);
            assert!(!found, "{part:?} is readable");
        }
    }
    let cache = cache_on(&store, &tasks, Duration::ZERO);
    assert_eq!(told(&cache, KUBELET, &ask("p", "pu"), 0).await, Some(body));
}

#[tokio::test]
async fn another_node_key_finds_nothing_and_destroys_nothing() {
    let (store, tasks, cache) = node(&[("p", "pu")]);
    let body = answer(&jwt("web", "pu"));
    answered(&cache, KUBELET, ask("p", "pu"), head(201, true), &body).await;
    drop(cache);
    let config = CacheConfig {
        spool: None,
        node_key: NodeKey::from_bytes([1; 32]),
        reviews: Duration::ZERO,
    };
    let stranger = Cache::new(Arc::clone(&store), config, tasks.clone());
    assert_eq!(told(&stranger, KUBELET, &ask("p", "pu"), 0).await, None);
    stranger.prune_replies(Some(at(EXP))).await;
    let cache = cache_on(&store, &tasks, Duration::ZERO);
    assert_eq!(told(&cache, KUBELET, &ask("p", "pu"), 0).await, Some(body));
}

#[tokio::test(start_paused = true)]
async fn a_review_is_given_again_for_the_configured_time_and_as_it_was_said() {
    let store: Arc<dyn Store> = Arc::new(LogStore::memory().unwrap());
    let tasks = Tasks::new();
    let asked = |token: &str| {
        ask_for(
            REVIEW,
            "application/json",
            &format!(r#"{{"spec":{{"token":"{token}"}}}}"#),
        )
    };
    let (yes, no) = (
        r#"{"status":{"authenticated":true}}"#,
        r#"{"status":{"user":{}}}"#,
    );
    let off = cache_on(&store, &tasks, Duration::ZERO);
    answered(&off, KUBELET, asked("a").unwrap(), head(201, true), yes).await;
    assert!(!is_stored(&store, KUBELET), "off by default");
    drop(off);
    let cache = cache_on(&store, &tasks, Duration::from_secs(60));
    answered(&cache, KUBELET, asked("a").unwrap(), head(201, true), yes).await;
    answered(&cache, KUBELET, asked("b").unwrap(), head(201, true), no).await;
    assert_eq!(
        told(&cache, KUBELET, &asked("a").unwrap(), 0).await.as_deref(),
        Some(yes)
    );
    assert_eq!(
        told(&cache, KUBELET, &asked("b").unwrap(), 0).await.as_deref(),
        Some(no)
    );
    assert_eq!(told(&cache, KUBELET, &asked("c").unwrap(), 0).await, None);
    assert_eq!(told(&cache, "cn:other", &asked("a").unwrap(), 0).await, None);
    // The wall clock stands still or goes back; the age counts nevertheless.
    tokio::time::advance(Duration::from_secs(60)).await;
    assert_eq!(told(&cache, KUBELET, &asked("a").unwrap(), 0).await, None);
}
