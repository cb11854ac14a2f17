use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::super::activity::Tracked;
use super::super::health::Event;
use super::super::link::Link;
use super::super::link_state::LinkState;
use super::super::metrics::UpstreamMetrics;
use super::super::testing;
use super::*;

const DOUBTFUL: Duration = Duration::from_secs(5);
const KEEP_ALIVE: KeepAlive = KeepAlive {
    interval: Duration::from_secs(3),
    timeout: Duration::from_secs(2),
};
const MOMENT: Duration = Duration::from_millis(300);

struct Case {
    server: Arc<Server>,
    end: std::pin::Pin<Box<dyn Future<Output = ()>>>,
    near: Tracked<DuplexStream>,
    far: DuplexStream,
    _link: Link,
}

/// A connection on which nothing ever arrived.
fn case() -> Case {
    let link = Link::new(testing::settings(&["cloud"]), UpstreamMetrics::default());
    let server = Arc::clone(link.server_set().servers.first().unwrap());
    let activity = ConnectionActivity::new(server.activity());
    activity.carries_watches();
    let (near, far) = tokio::io::duplex(64);
    Case {
        end: Box::pin(Liveness::new(&server, Arc::clone(&activity), KEEP_ALIVE).end()),
        near: Tracked::new(near, activity),
        far,
        server,
        _link: link,
    }
}

impl Case {
    /// Whether the connection is given up within this time.
    async fn ends_within(&mut self, time: Duration) -> bool {
        tokio::time::timeout(time, self.end.as_mut()).await.is_ok()
    }

    /// An acknowledged PING arrives.
    async fn hear(&mut self) {
        self.far.write_all(&[0; 17]).await.unwrap();
        self.near.read_exact(&mut [0; 17]).await.unwrap();
    }

    fn state(&self) -> LinkState {
        self.server.status().state
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_connection_makes_its_server_suspect_and_stays() {
    let mut case = case();
    assert!(!case.ends_within(DOUBTFUL - MOMENT).await);
    assert_eq!(case.state(), LinkState::Online, "not yet");
    assert!(!case.ends_within(2 * MOMENT).await);
    assert_eq!(case.state(), LinkState::Suspect);
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_something_arrives_is_never_doubted() {
    let mut case = case();
    for _ in 0..10 {
        assert!(!case.ends_within(DOUBTFUL - MOMENT).await);
        case.hear().await;
    }
    assert_eq!(case.state(), LinkState::Online);
}

#[tokio::test(start_paused = true)]
async fn a_late_acknowledgement_saves_a_doubted_connection() {
    let mut case = case();
    assert!(!case.ends_within(DOUBTFUL + MOMENT).await);
    case.hear().await;
    case.server.signal(Event::ProbeSucceeded);
    assert!(!case.ends_within(DOUBTFUL - MOMENT).await);
}

#[tokio::test(start_paused = true)]
async fn it_is_given_up_when_a_probe_gets_through_quickly() {
    let mut case = case();
    assert!(!case.ends_within(DOUBTFUL + MOMENT).await);
    case.server.activity().prove_quick();
    assert!(case.ends_within(MOMENT).await);
}

#[tokio::test(start_paused = true)]
async fn a_quick_probe_does_not_break_answers_and_lets_nothing_new_wait_behind_them() {
    let mut case = case();
    let activity = ConnectionActivity::new(case.server.activity());
    case.end = Box::pin(Liveness::new(&case.server, Arc::clone(&activity), KEEP_ALIVE).end());
    assert!(!case.ends_within(DOUBTFUL + MOMENT).await);
    assert!(!activity.overtaken().is_cancelled(), "not known yet");
    case.server.activity().prove_quick();
    assert!(
        !case
            .ends_within(DOUBTFUL * (LONGEST_FOR_ANSWERS - 1) - 2 * MOMENT)
            .await
    );
    assert!(activity.overtaken().is_cancelled());
    assert!(case.ends_within(3 * MOMENT).await, "not for ever");
}

#[tokio::test(start_paused = true)]
async fn that_others_get_through_slowly_proves_nothing() {
    let mut case = case();
    assert!(!case.ends_within(DOUBTFUL + MOMENT).await);
    case.server.signal(Event::ProbeSucceeded);
    case.server.signal(Event::Reached);
    assert!(!case.ends_within(DOUBTFUL).await);
}

#[tokio::test(start_paused = true)]
async fn after_a_slow_probe_one_more_says_how_good_the_link_is() {
    let mut case = case();
    let due = case.server.due();
    assert!(!case.ends_within(DOUBTFUL + MOMENT).await);
    for is_asked_again in [true, false] {
        assert!(due.borrow().is_some());
        case.server.signal(Event::ProbeStarted);
        case.server.signal(Event::ProbeSucceeded);
        assert!(!case.ends_within(MOMENT).await);
        assert_eq!(due.borrow().is_some(), is_asked_again);
    }
    assert_eq!(case.state(), LinkState::Online);
}

#[tokio::test(start_paused = true)]
async fn a_quick_probe_before_the_doubt_proves_nothing() {
    let mut case = case();
    assert!(!case.ends_within(DOUBTFUL - MOMENT).await);
    case.server.activity().prove_quick();
    assert!(!case.ends_within(3 * MOMENT).await);
}

#[tokio::test(start_paused = true)]
async fn it_is_given_up_when_the_server_is_away() {
    let mut case = case();
    assert!(!case.ends_within(DOUBTFUL + MOMENT).await);
    case.server.signal(Event::ProbeFailed);
    assert_eq!(case.state(), LinkState::Offline);
    assert!(case.ends_within(MOMENT).await);
}

#[tokio::test(start_paused = true)]
async fn it_is_given_up_in_the_end() {
    let mut case = case();
    assert!(!case.ends_within(DOUBTFUL * LONGEST_FOR_WATCHES - MOMENT).await);
    assert!(case.ends_within(2 * MOMENT).await);
}

#[test]
fn what_becomes_of_a_doubted_connection() {
    use Around::{Away, Nothing, Quick};
    use Carries::{Answers, Watches};
    use Verdict::{Dead, Doubted, Overtaken};
    for (server, carries, seconds, becomes) in [
        (Nothing, Watches, 5, Doubted),
        (Nothing, Watches, 19, Doubted),
        (Nothing, Watches, 20, Dead),
        (Nothing, Answers, 20, Doubted),
        (Nothing, Answers, 49, Doubted),
        (Nothing, Answers, 50, Dead),
        (Quick, Watches, 5, Dead),
        (Quick, Answers, 5, Overtaken),
        (Quick, Answers, 49, Overtaken),
        (Quick, Answers, 50, Dead),
        (Away, Watches, 5, Dead),
        (Away, Answers, 5, Dead),
    ] {
        let evidence = Evidence {
            carries,
            silent: Duration::from_secs(seconds),
            doubtful: DOUBTFUL,
            server,
        };
        assert_eq!(verdict(evidence), becomes, "{evidence:?}");
    }
}
