use std::time::Duration;

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

async fn ask(admission: &ListAdmission, name: &str, priority: Priority) -> Pass {
    let deadline = clock::now() + TURN_TIMEOUT;
    admission.turn(&named(name), priority, deadline).await
}

/// Takes every place.
async fn fill(admission: &ListAdmission) -> Vec<Pass> {
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
    drop(next.await);
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
        gone.as_mut() as std::pin::Pin<&mut dyn Future<Output = Pass>>,
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
    let pass = ask(&admission, "nodes", Priority::NORMAL).await;
    let mut passing = pass.counting(streaming);
    feeder.send(vec![0; 2 << 20].into()).await.unwrap();
    passing.frame().await.unwrap().unwrap();
    assert_eq!(under_way(&admission), 1, "while it streams");
    drop(passing);
    assert_eq!(under_way(&admission), 0);

    for (bytes, large) in [(LARGE, true), (10, false)] {
        let pass = ask(&admission, "pods", Priority::NORMAL).await;
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
