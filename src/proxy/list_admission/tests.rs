use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response};

use super::share::{LARGEST, Same, share};
use super::*;
use crate::runtime::body;
use crate::store::LogId;

const TURN_TIMEOUT: Duration = Duration::from_secs(5);

fn admission(large: &[&str]) -> ListAdmission {
    let admission = ListAdmission::new(Vec::new());
    admission
        .0
        .lock()
        .large
        .extend(large.iter().map(|name| named(name)));
    admission
}

fn named(name: &str) -> ListName {
    ListName::of_log(LogId::new("cn:x", name))
}

fn same(principal: &str, target: &str) -> Same {
    Same {
        principal: principal.to_owned(),
        transport: "default".to_owned(),
        method: Method::GET,
        target: target.parse().unwrap(),
        headers: HeaderMap::new(),
    }
}

async fn ask(admission: &ListAdmission, name: &str, priority: Priority) -> Turn {
    let deadline = clock::now() + TURN_TIMEOUT;
    admission
        .turn(&named(name), priority, deadline, || {
            same("cn:x", &format!("/{name}"))
        })
        .await
}

/// Takes every place.
async fn fill(admission: &ListAdmission) -> Vec<Turn> {
    let mut held = Vec::new();
    for _ in 0..AT_ONCE {
        held.push(ask(admission, "pods", Priority::NORMAL).await);
    }
    held
}

fn under_way(admission: &ListAdmission) -> usize {
    admission.0.lock().under_way
}

#[tokio::test(start_paused = true)]
async fn so_many_go_on_and_the_next_waits_for_one_to_end() {
    let admission = admission(&["pods"]);
    let begun = clock::now();
    let mut held = fill(&admission).await;
    let mut next = std::pin::pin!(ask(&admission, "pods", Priority::NORMAL));
    let waited = tokio::time::timeout(Duration::from_secs(1), next.as_mut()).await;
    assert!(waited.is_err());
    held.pop();
    assert!(matches!(next.await, Turn::Ask(..)));
    assert!(clock::now() - begun < Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn small_lists_and_kubelets_do_not_wait_and_nobody_waits_for_ever() {
    let admission = admission(&["pods"]);
    let begun = clock::now();
    let _held = fill(&admission).await;
    let _small = ask(&admission, "leases", Priority::LAST).await;
    let _kubelet = ask(&admission, "pods", Priority::NODE).await;
    assert_eq!(clock::now(), begun);
    let late = ask(&admission, "pods", Priority::LAST).await;
    assert_eq!(clock::now() - begun, TURN_TIMEOUT, "it is let through");
    assert_eq!(under_way(&admission), AT_ONCE + 2);
    drop(late);
    assert_eq!(under_way(&admission), AT_ONCE + 1);
}

#[tokio::test(start_paused = true)]
async fn the_higher_priority_goes_first_and_who_leaves_keeps_nobody_waiting() {
    let admission = admission(&["pods", "nodes", "secrets"]);
    let mut held = fill(&admission).await;
    let mut pod = std::pin::pin!(ask(&admission, "pods", Priority::LAST));
    let mut proxy = std::pin::pin!(ask(&admission, "nodes", Priority(1)));
    let mut gone = Box::pin(ask(&admission, "secrets", Priority(2)));
    for waiting in [
        gone.as_mut() as std::pin::Pin<&mut dyn Future<Output = Turn>>,
        pod.as_mut(),
        proxy.as_mut(),
    ] {
        let mut waiting = waiting;
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    }
    drop(gone);
    held.pop();
    assert!(futures_util::poll!(pod.as_mut()).is_pending());
    drop(proxy.await);
    drop(pod.await);
    drop(held);
    assert_eq!(under_way(&admission), 0, "every place is free again");
}

#[tokio::test(start_paused = true)]
async fn a_list_that_proves_large_counts_and_is_remembered_until_it_is_small_again() {
    let admission = admission(&[]);
    let (feeder, streaming) = body::fed(4, None);
    let Turn::Ask(pass, _) = ask(&admission, "nodes", Priority::NORMAL).await else {
        panic!()
    };
    let mut passing = pass.counting(streaming);
    feeder.send(vec![0; 2 << 20].into()).await.unwrap();
    passing.frame().await.unwrap().unwrap();
    assert_eq!(under_way(&admission), 1, "while it streams");
    drop(passing);
    assert_eq!(under_way(&admission), 0);

    for (bytes, large) in [(LARGE, true), (10, false)] {
        let Turn::Ask(pass, _) = ask(&admission, "pods", Priority::NORMAL).await else {
            panic!()
        };
        let bytes = vec![0; usize::try_from(bytes).unwrap()];
        let mut passing = pass.counting(body::full(bytes));
        passing.frame().await.unwrap().unwrap();
        assert_eq!(under_way(&admission), 0, "that was all of it");
        assert!(passing.frame().await.is_none());
        drop(passing);
        assert_eq!(under_way(&admission), 0);
        assert_eq!(admission.0.lock().large.contains(&named("pods")), large);
    }
}

#[tokio::test(start_paused = true)]
async fn only_identical_lists_of_one_principal_that_wait_are_joined() {
    let admission = admission(&["pods"]);
    let mut held = fill(&admission).await;
    let deadline = clock::now() + TURN_TIMEOUT;
    let name = named("pods");
    let wait = |principal: &'static str, target: &'static str| {
        let (admission, name) = (admission.clone(), name.clone());
        Box::pin(async move {
            let turn = admission.turn(&name, Priority::NORMAL, deadline, || same(principal, target));
            turn.await
        })
    };
    let mut first = wait("cn:x", "/pods");
    let mut twin = wait("cn:x", "/pods");
    let mut other = wait("cn:y", "/pods");
    let mut elsewhere = wait("cn:x", "/pods?labelSelector=a");
    for waiting in [&mut first, &mut twin, &mut other, &mut elsewhere] {
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
    }
    held.pop();
    let Turn::Ask(_pass, followers) = first.await else {
        panic!("the first asks")
    };
    assert_eq!(followers.len(), 1);
    let Turn::Follow(shared) = twin.await else {
        panic!("its twin follows")
    };
    for waiting in [&mut other, &mut elsewhere] {
        assert!(futures_util::poll!(waiting.as_mut()).is_pending(), "not joined");
    }
    // One that begins now is not joined either: the request is as good as sent.
    let mut late = wait("cn:x", "/pods");
    assert!(futures_util::poll!(late.as_mut()).is_pending());

    let answer = share(Response::new(body::full("[]")), followers, deadline).await;
    for response in [answer, shared.await.unwrap().into_response()] {
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "[]");
    }
}

async fn shared_of(response: Response<Body>) -> (Response<Body>, bool) {
    let (follower, shared) = oneshot::channel();
    let answer = share(response, vec![follower], clock::now() + TURN_TIMEOUT).await;
    (answer, shared.await.is_ok())
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_shared_goes_to_the_first_alone_and_unchanged() {
    let (answer, shared) = shared_of(Response::new(body::full("[]"))).await;
    assert!(shared && answer.into_body().collect().await.is_ok());

    let mut busy = Response::new(body::full("{}"));
    *busy.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
    assert!(!shared_of(busy).await.1, "a refusal is one client's own");

    let large = vec![7; LARGEST + 1];
    let (answer, shared) = shared_of(Response::new(body::full(large.clone()))).await;
    assert!(!shared);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), large);

    let (feeder, slow) = body::fed(4, None);
    feeder.send(Bytes::from_static(b"[")).await.unwrap();
    let begun = clock::now();
    let (answer, shared) = shared_of(Response::new(slow)).await;
    assert_eq!((shared, clock::now() - begun), (false, TURN_TIMEOUT));
    feeder.send(Bytes::from_static(b"]")).await.unwrap();
    feeder.finish().await;
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "[]");

    let (feeder, cut) = body::fed(4, None);
    feeder.send(Bytes::from_static(b"[")).await.unwrap();
    drop(feeder);
    let (answer, shared) = shared_of(Response::new(cut)).await;
    assert!(!shared && answer.into_body().collect().await.is_err());
}
