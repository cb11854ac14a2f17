use super::super::activity::{ConnectionActivity, Tracked};
use super::super::link_state::LinkState;
use super::super::metrics::UpstreamMetrics;
use super::super::testing;
use super::*;

const TIMEOUT: Duration = Duration::from_secs(2);

/// A link over these servers that each failed probe takes away, and the first of them, known and suspected.
fn suspected(hosts: &[&str]) -> (Link, Arc<Server>) {
    let settings = testing::settings(hosts);
    let link = Link::new(settings, UpstreamMetrics::default());
    let server = Arc::clone(link.server_set().servers.first().unwrap());
    server.signal(Event::Reached);
    server.failed(super::super::failure::Failure::Broken);
    assert_eq!(server.status().state, LinkState::Suspect);
    (link, server)
}

/// Something arrives on a connection: so many bytes, of clients' answers if `activity` is open.
async fn hear(activity: &Arc<ConnectionActivity>, bytes: usize) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (near, mut far) = tokio::io::duplex(1024);
    let mut near = Tracked::new(near, Arc::clone(activity));
    tokio::time::advance(Duration::from_millis(10)).await;
    far.write_all(&vec![0; bytes]).await.unwrap();
    near.read_exact(&mut vec![0; bytes]).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_older_failure_does_not_beat_a_newer_answer() {
    let (_link, server) = suspected(&["cloud"]);
    let started = clock::now();
    tokio::time::advance(TIMEOUT).await;
    server.signal(Event::ProbeSucceeded);
    missed_since(&server, started, Event::ProbeFailed);
    assert_eq!(server.status().state, LinkState::Online);
    // One that began later counts.
    tokio::time::advance(TIMEOUT).await;
    missed_since(&server, clock::now(), Event::ProbeFailed);
    assert_ne!(server.status().state, LinkState::Online);
}

#[tokio::test(start_paused = true)]
async fn probes_into_silence_count_and_their_late_answer_still_does() {
    let (_link, server) = suspected(&["cloud"]);
    let (answer, answered) = tokio::sync::oneshot::channel();
    let judging = late(&server, clock::now(), TIMEOUT, async { answered.await.unwrap() });
    let mut judging = std::pin::pin!(judging);
    assert!(tokio::time::timeout(TIMEOUT, judging.as_mut()).await.is_err());
    assert_eq!(server.status().state, LinkState::Suspect, "one says little");
    let another = late(&server, clock::now(), TIMEOUT, std::future::pending());
    assert!(tokio::time::timeout(TIMEOUT, another).await.is_err());
    assert_eq!(server.status().state, LinkState::Offline);
    answer.send(Said::Up).unwrap();
    assert_eq!(judging.await, Some(Event::ProbeSucceeded));
}

#[tokio::test(start_paused = true)]
async fn the_only_server_gets_time_while_something_is_heard_of_it_and_no_more() {
    let (_link, server) = suspected(&["cloud"]);
    let started = clock::now();
    hear(&ConnectionActivity::new(server.activity()), 39).await;
    let judging = late(&server, started, TIMEOUT, std::future::pending());
    let mut judging = std::pin::pin!(judging);
    assert!(tokio::time::timeout(TIMEOUT, judging.as_mut()).await.is_err());
    assert_eq!(server.status().state, LinkState::Suspect);
    let ended = tokio::time::timeout(TIMEOUT * PATIENCE, judging).await;
    assert_eq!(ended, Ok(Some(Event::ProbeUnanswered)));
}

#[tokio::test(start_paused = true)]
async fn one_of_several_gets_no_time() {
    let (_link, server) = suspected(&["cloud", "other"]);
    let started = clock::now();
    hear(&ConnectionActivity::new(server.activity()), 39).await;
    let judging = late(&server, started, TIMEOUT, std::future::pending());
    assert!(tokio::time::timeout(TIMEOUT, judging).await.is_err());
    assert_eq!(server.status().state, LinkState::Offline);
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_answers_arrive_is_there_whatever_its_probe_does() {
    let (_link, server) = suspected(&["cloud"]);
    let (started, activity) = (clock::now(), ConnectionActivity::new(server.activity()));
    activity.open();
    hear(&activity, 1000).await;
    let ended = late(&server, started, TIMEOUT, std::future::pending()).await;
    assert_eq!(ended, None);
    assert_eq!(server.status().state, LinkState::Online);
}
