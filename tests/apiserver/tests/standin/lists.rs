use apiserver_standin::{Options, Standin};

use crate::{config_map, names, start};

fn fill(api: &Standin) {
    for (namespace, name, app) in [
        ("a", "x", "web"),
        ("a", "x-1", "db"),
        ("a-b", "x", "web"),
        ("ab", "x", "web"),
        ("a0", "x", "db"),
    ] {
        api.put(config_map(namespace, name, app));
    }
}

#[tokio::test]
async fn lists_are_in_the_order_of_their_keys_and_say_the_revision() {
    let (api, client) = start(Options::default());
    fill(&api);
    let list = client.get("/api/v1/configmaps").await;
    assert_eq!(names(&list.json()), ["a-b/x", "a/x", "a/x-1", "a0/x", "ab/x"]);
    assert!(list.text().starts_with(
        "{\"kind\":\"ConfigMapList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"105\"},\"items\":[{\"metadata\":{\"name\":\"x\",\"namespace\":\"a-b\",\"uid\":"
    ));
    let empty = client.get("/api/v1/namespaces/none/secrets").await;
    assert_eq!(
        empty.text(),
        "{\"kind\":\"SecretList\",\"apiVersion\":\"v1\",\"metadata\":{\"resourceVersion\":\"105\"},\"items\":[]}\n"
    );
}

#[tokio::test]
async fn selectors_filter_and_an_unknown_field_is_400() {
    let (api, client) = start(Options::default());
    fill(&api);
    let list = |query: &'static str| {
        let client = client.clone();
        async move { client.get(&format!("/api/v1/configmaps?{query}")).await }
    };
    assert_eq!(
        names(&list("labelSelector=app%3Ddb").await.json()),
        ["a/x-1", "a0/x"]
    );
    assert_eq!(
        names(&list("labelSelector=app+in+(db,none)").await.json()),
        ["a/x-1", "a0/x"]
    );
    assert_eq!(
        names(&list("fieldSelector=metadata.name%3Dx-1").await.json()),
        ["a/x-1"]
    );
    assert_eq!(list("fieldSelector=spec.nodeName%3Dn").await.status, 400);
}

#[tokio::test]
async fn pages_are_of_one_revision_and_end_without_a_token() {
    let (api, client) = start(Options::default());
    fill(&api);
    let first = client.get("/api/v1/configmaps?limit=2").await.json();
    assert_eq!(
        (names(&first), &first["metadata"]["remainingItemCount"]),
        (vec!["a-b/x".into(), "a/x".into()], &3.into())
    );
    api.put(config_map("a", "y", "new"));
    let mut token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let mut rest = Vec::new();
    while !token.is_empty() {
        let page = client
            .get(&format!("/api/v1/configmaps?limit=2&continue={token}"))
            .await
            .json();
        assert_eq!(page["metadata"]["resourceVersion"], "105");
        rest.extend(names(&page));
        token = page["metadata"]["continue"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
    }
    assert_eq!(rest, ["a/x-1", "a0/x", "ab/x"]);
}

#[tokio::test]
async fn an_expired_token_is_410_and_its_replacement_goes_on_at_the_latest_state() {
    let (api, client) = start(Options::default());
    fill(&api);
    let first = client.get("/api/v1/configmaps?limit=2").await.json();
    api.put(config_map("ab", "z", "new"));
    api.compact();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let expired = client
        .get(&format!("/api/v1/configmaps?limit=2&continue={token}"))
        .await;
    assert_eq!(
        (expired.status, &expired.json()["reason"]),
        (410, &"Expired".into())
    );
    let body = expired.json();
    let fresh = body["metadata"]["continue"].as_str().unwrap();
    let rest = client
        .get(&format!("/api/v1/configmaps?continue={fresh}"))
        .await
        .json();
    assert_eq!(names(&rest), ["a/x-1", "a0/x", "ab/x", "ab/z"]);
    assert_eq!(rest["metadata"]["resourceVersion"], "106");
}

#[tokio::test]
async fn resource_version_chooses_the_state() {
    let (api, client) = start(Options::default());
    fill(&api);
    let list = |query: &'static str| {
        let client = client.clone();
        async move { client.get(&format!("/api/v1/configmaps?{query}")).await }
    };
    let size = |answer: &apiserver_standin::Answer| names(&answer.json()).len();
    assert_eq!(size(&list("resourceVersion=0&limit=2").await), 5);
    assert_eq!(size(&list("resourceVersion=102").await), 5);
    let exact = list("resourceVersion=102&resourceVersionMatch=Exact").await;
    assert_eq!(
        (size(&exact), exact.json()["metadata"]["resourceVersion"].as_str()),
        (2, Some("102"))
    );
    assert_eq!(size(&list("resourceVersion=103&limit=9").await), 3);
    assert_eq!(
        list("resourceVersion=99&resourceVersionMatch=Exact").await.status,
        410
    );
    assert_eq!(list("resourceVersionMatch=Exact").await.status, 422);
    assert_eq!(
        list("resourceVersion=0&resourceVersionMatch=Exact").await.status,
        422
    );
    assert_eq!(list("sendInitialEvents=true").await.status, 422);
    api.lag(Some(101));
    assert_eq!(
        list("resourceVersion=0").await.json()["metadata"]["resourceVersion"],
        "101"
    );
}

#[tokio::test]
async fn a_future_revision_is_504_unless_it_comes_in_time() {
    let (api, client) = start(Options {
        too_large_wait: std::time::Duration::from_millis(50),
        ..Options::default()
    });
    let late = client.get("/api/v1/configmaps?resourceVersion=120").await;
    assert_eq!(
        late.text(),
        "{\"kind\":\"Status\",\"apiVersion\":\"v1\",\"metadata\":{},\"status\":\"Failure\",\"message\":\"Timeout: Too large \
         resource version: 120, current: 100\",\"reason\":\"Timeout\",\"details\":{\"causes\":[{\"reason\":\
         \"ResourceVersionTooLarge\",\"message\":\"Too large resource version\"}],\"retryAfterSeconds\":1},\"code\":504}\n"
    );
    assert_eq!((late.status, late.header("retry-after")), (504, "1"));
    api.advance(20);
    assert_eq!(
        client.get("/api/v1/configmaps?resourceVersion=120").await.status,
        200
    );
}
