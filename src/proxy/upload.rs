//! Request bodies that stall, because the client sends no more of what it announced, or because the cloud
//! takes no more of what there is. Either way a stream to the cloud is held, and HTTP/1.1 does not tell when
//! a client has vanished.
//!
//! The windows of both connections bound what is buffered meanwhile. A body that moves, however slowly, is
//! left alone, and so is the time that the answer takes after the whole body was sent.

use std::sync::Arc;
use std::time::Duration;

use http_body::Body as _;
use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::kube::status::Status;
use crate::runtime::body::{Body, Observed, Observer, Step};
use crate::runtime::clock;
use crate::upstream::RetryPolicy;

/// The longest stall: an apiserver gives a whole request no more (`--request-timeout`).
const LONGEST: Duration = Duration::from_secs(60);

/// Who stalls a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Culprit {
    /// It sends no more.
    Client,
    /// It takes no more.
    Cloud,
}

/// The state of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Waiting for this side, since then.
    Waiting(Culprit, Instant),
    /// All of it was sent, or nobody wants more.
    Over,
}

/// Tells when a body has stalled.
#[derive(Debug)]
pub(super) struct Standstill {
    phase: Arc<Mutex<Phase>>,
    timeout: Duration,
}

/// Watches the body of a request on its way upstream.
pub(super) fn watched(body: Body, write_timeout: Duration) -> (Body, Standstill) {
    let phase = if body.is_end_stream() {
        Phase::Over
    } else {
        Phase::Waiting(Culprit::Cloud, clock::now())
    };
    let phase = Arc::new(Mutex::new(phase));
    let standstill = Standstill {
        phase: Arc::clone(&phase),
        timeout: body_timeout(write_timeout),
    };
    (Observed::new(body, Progress(phase)).boxed_unsync(), standstill)
}

/// How long a request body may stall.
pub(super) fn body_timeout(write_timeout: Duration) -> Duration {
    write_timeout.min(LONGEST)
}

impl Standstill {
    /// Resolves when the body has stalled for too long.
    pub(super) async fn lasts(&self) -> Culprit {
        loop {
            let seen = *self.phase.lock();
            let Phase::Waiting(culprit, since) = seen else {
                return std::future::pending().await;
            };
            tokio::time::sleep_until(since + self.timeout).await;
            if *self.phase.lock() == seen {
                return culprit;
            }
        }
    }
}

/// Refuses a request whose body has stalled for too long.
pub(super) fn stood_still(culprit: Culprit, policy: &RetryPolicy) -> Status {
    tracing::debug!(?culprit, "the body of a request stands still, it is given up");
    match culprit {
        Culprit::Client => Status::bad_request("edgehold: the rest of the request did not come"),
        Culprit::Cloud => {
            policy.timed_out();
            Status::timeout("edgehold: the cloud took no more of the request; it may have been carried out")
        }
    }
}

struct Progress(Arc<Mutex<Phase>>);

impl Observer for Progress {
    fn saw(&mut self, step: Step<'_>) {
        let mut phase = self.0.lock();
        *phase = match (step, *phase) {
            // Polled again for the same frame.
            (Step::Waiting, waiting @ Phase::Waiting(Culprit::Client, _)) => waiting,
            (Step::Waiting, _) => Phase::Waiting(Culprit::Client, clock::now()),
            (Step::Frame { is_last: false, .. }, _) => Phase::Waiting(Culprit::Cloud, clock::now()),
            _ => Phase::Over,
        };
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        *self.0.lock() = Phase::Over;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::runtime::body::{self, Feeder};

    const LIMIT: Duration = Duration::from_secs(10);

    fn upload() -> (Feeder, Body, Standstill) {
        let (feeder, source) = body::fed(4, None);
        let (body, standstill) = watched(source, LIMIT);
        (feeder, body, standstill)
    }

    async fn give(feeder: &Feeder) {
        feeder.send(Bytes::from_static(b"x")).await.unwrap();
    }

    /// Who is to blame, and after how long.
    async fn culprit(standstill: &Standstill) -> Option<(Culprit, Duration)> {
        let began = clock::now();
        let found = tokio::time::timeout(LIMIT * 10, standstill.lasts()).await.ok()?;
        Some((found, clock::now() - began))
    }

    #[tokio::test(start_paused = true)]
    async fn a_cloud_that_takes_nothing_is_noticed() {
        let (feeder, mut body, standstill) = upload();
        give(&feeder).await;
        assert_eq!(
            culprit(&standstill).await,
            Some((Culprit::Cloud, LIMIT)),
            "not even the first"
        );
        body.frame().await.unwrap().unwrap();
        assert_eq!(culprit(&standstill).await, Some((Culprit::Cloud, LIMIT)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_noticed_however_often_it_is_asked() {
        let (_feeder, mut body, standstill) = upload();
        let asking = async {
            loop {
                let _late = tokio::time::timeout(LIMIT / 4, body.frame()).await;
            }
        };
        let found = tokio::select! {
            found = culprit(&standstill) => found,
            () = asking => None,
        };
        assert_eq!(found, Some((Culprit::Client, LIMIT)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_moves_slowly_is_let_be() {
        let (feeder, mut body, standstill) = upload();
        let moving = async {
            for _ in 0..10 {
                tokio::time::sleep(LIMIT * 9 / 10).await;
                give(&feeder).await;
                body.frame().await.unwrap().unwrap();
            }
        };
        tokio::select! {
            found = standstill.lasts() => panic!("{found:?}"),
            () = moving => {}
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_the_whole_body_may_take_his_time() {
        let (_body, nothing) = watched(body::empty(), LIMIT);
        assert_eq!(culprit(&nothing).await, None);

        let (mut whole, standstill) = watched(body::full("x"), LIMIT);
        whole.frame().await.unwrap().unwrap();
        assert_eq!(culprit(&standstill).await, None);

        let (_feeder, unwanted, standstill) = upload();
        drop(unwanted);
        assert_eq!(culprit(&standstill).await, None);
    }

    #[test]
    fn a_body_never_stands_still_for_longer_than_an_apiserver_gives_a_request() {
        assert_eq!(body_timeout(LIMIT), LIMIT);
        assert_eq!(body_timeout(Duration::from_secs(900)), LONGEST);
    }
}
