use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::super::health::Event;
use super::super::link::{Link, LinkState};
use super::super::metrics::UpstreamMetrics;
use super::super::pulse::Felt;
use super::super::settings::{DialSettings, Endpoint, ProbeSettings, Settings, Strategy};
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
    near: Felt<DuplexStream>,
    far: DuplexStream,
    _link: Link,
}

/// A connection on which nothing ever arrived.
fn case() -> Case {
    let link = Link::new(
        Settings {
            servers: vec![Endpoint::new("cloud", 6443).unwrap()],
            strategy: Strategy::Priority,
            probe: ProbeSettings {
                interval: Duration::from_secs(5),
                timeout: Duration::from_secs(2),
                failure_threshold: 1,
                success_threshold: 2,
            },
            response_timeout: Duration::from_secs(5),
            dial: DialSettings {
                connect_timeout: Duration::from_secs(2),
                proxy: None,
                interfaces: Vec::new(),
                keep_alive: KEEP_ALIVE,
            },
        },
        UpstreamMetrics::default(),
    );
    let server = Arc::clone(link.fleet().servers.first().unwrap());
    let pulse = Pulse::new(server.vitals());
    pulse.carries_watches();
    let (near, far) = tokio::io::duplex(64);
    Case {
        end: Box::pin(Silence::new(&server, Arc::clone(&pulse), KEEP_ALIVE).end()),
        near: Felt::new(near, pulse),
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
        self.server.standing().state
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
    case.server.vitals().prove_quick();
    assert!(case.ends_within(MOMENT).await);
}

#[tokio::test(start_paused = true)]
async fn a_quick_probe_does_not_break_answers_that_cannot_be_resumed() {
    let mut case = case();
    case.end = Box::pin({
        let pulse = Pulse::new(case.server.vitals());
        Silence::new(&case.server, pulse, KEEP_ALIVE).end()
    });
    assert!(!case.ends_within(DOUBTFUL + MOMENT).await);
    case.server.vitals().prove_quick();
    assert!(!case.ends_within(DOUBTFUL).await);
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
async fn a_quick_probe_before_the_doubt_proves_nothing() {
    let mut case = case();
    assert!(!case.ends_within(DOUBTFUL - MOMENT).await);
    case.server.vitals().prove_quick();
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
    assert!(!case.ends_within(DOUBTFUL * LONGEST - MOMENT).await);
    assert!(case.ends_within(2 * MOMENT).await);
}
