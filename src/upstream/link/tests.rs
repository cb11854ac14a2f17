use super::super::failure::Failure;
use super::super::health::Event;
use super::super::interface_selection::Seen;
use super::super::testing;
use super::*;

fn settings(hosts: &[&str], strategy: Strategy) -> Settings {
    Settings {
        strategy,
        ..testing::settings(hosts)
    }
}

fn link(hosts: &[&str], strategy: Strategy) -> Link {
    Link::new(settings(hosts, strategy), UpstreamMetrics::default())
}

fn server(link: &Link, host: &str) -> Arc<Server> {
    let set = link.server_set();
    let found = set.servers.iter().find(|server| server.endpoint().host == host);
    Arc::clone(found.unwrap())
}

fn order(link: &Link, turn: usize) -> Vec<String> {
    let servers = link.server_set().order(turn);
    servers
        .iter()
        .map(|server| server.endpoint().host.clone())
        .collect()
}

const BROKEN: Event = Event::Failed(Failure::Broken);

#[test]
fn the_link_is_as_good_as_its_best_server() {
    use LinkState::{Offline, Online, Suspect};
    for (servers, whole) in [
        (vec![Online, Offline], Online),
        (vec![Suspect, Online], Online),
        (vec![Offline, Suspect], Suspect),
        (vec![Offline, Offline], Offline),
        (vec![], Offline),
    ] {
        assert_eq!(LinkState::of(servers.clone()), whole, "{servers:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn while_one_server_is_down_and_another_up_nobody_sees_it() {
    let link = link(&["a", "b"], Strategy::Priority);
    let follower = link.subscribe();
    for event in [BROKEN, Event::ProbeFailed, Event::ProbeFailed] {
        server(&link, "a").signal(event);
        assert_eq!(link.state(), LinkState::Online);
        assert_eq!(order(&link, 0), ["b", "a"]);
    }
    assert!(!follower.has_changed().unwrap());
    server(&link, "b").signal(BROKEN);
    assert_eq!(link.state(), LinkState::Suspect);
    server(&link, "b").signal(Event::ProbeFailed);
    assert_eq!(link.state(), LinkState::Offline);
    assert_eq!(
        link.servers(),
        [
            ("a:6443".to_owned(), LinkState::Offline),
            ("b:6443".to_owned(), LinkState::Offline)
        ]
    );
    server(&link, "a").reached();
    assert_eq!(
        (link.state(), order(&link, 0)),
        (LinkState::Online, vec!["a".into(), "b".into()])
    );
}

#[tokio::test(start_paused = true)]
async fn the_link_is_silent_once_no_server_answers_its_probe() {
    let mut settings = settings(&["a", "b"], Strategy::Priority);
    settings.probe.failure_threshold = 2;
    let link = Link::new(settings, UpstreamMetrics::default());
    let (a, b) = (server(&link, "a"), server(&link, "b"));
    for server in [&a, &b] {
        server.reached();
    }
    let mut silent = std::pin::pin!(link.silent());
    for (server, event) in [(&a, BROKEN), (&b, BROKEN), (&a, Event::ProbeFailed)] {
        server.signal(event);
        assert!(
            futures_util::poll!(silent.as_mut()).is_pending(),
            "{server} {event:?}"
        );
    }
    b.signal(Event::ProbeFailed);
    silent.await;
    assert_eq!(link.state(), LinkState::Suspect);
    b.reached();
    assert!(!link.is_silent());
}

#[tokio::test(start_paused = true)]
async fn a_preferred_server_is_first_again_only_after_its_trial() {
    let link = link(&["a", "b"], Strategy::Priority);
    let a = server(&link, "a");
    server(&link, "b").reached();
    for event in [
        Event::ProbeSucceeded,
        BROKEN,
        Event::ProbeFailed,
        Event::ProbeSucceeded,
    ] {
        a.signal(event);
    }
    assert_eq!(order(&link, 0), ["b", "a"]);
    a.signal(Event::ProbeSucceeded);
    assert_eq!(order(&link, 0), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn identities_take_turns_only_with_round_robin() {
    let link = link(&["a", "b", "c"], Strategy::RoundRobin);
    assert_eq!(order(&link, 1), ["b", "c", "a"]);
    assert_eq!(order(&link, 5), ["c", "a", "b"]);
    server(&link, "b").signal(BROKEN);
    assert_eq!(order(&link, 1), ["c", "a", "b"]);
    let mut priority = settings(&["a", "b", "c"], Strategy::Priority);
    priority.servers.truncate(2);
    link.apply(priority);
    assert_eq!(order(&link, 0), ["a", "b"]);
    server(&link, "b").reached();
    assert_eq!(order(&link, 1), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_configured_keeps_what_is_known_of_it() {
    let link = link(&["a", "b"], Strategy::Priority);
    let (a, b) = (server(&link, "a"), server(&link, "b"));
    for server in [&a, &b] {
        server.signal(Event::ProbeFailed);
    }
    assert_eq!(link.state(), LinkState::Offline);
    link.apply(settings(&["b", "c"], Strategy::Priority));
    assert!(Arc::ptr_eq(&b, &server(&link, "b")));
    assert!(a.left().is_cancelled() && !b.left().is_cancelled());
    assert_eq!(order(&link, 0), ["c", "b"]);
    assert_eq!(link.state(), LinkState::Online, "a new server is given a chance");
    // What a probe of the one that left still says concerns nobody.
    server(&link, "c").signal(Event::ProbeFailed);
    a.signal(Event::ProbeSucceeded);
    assert_eq!(link.state(), LinkState::Offline);
}

#[tokio::test(start_paused = true)]
async fn followers_see_changes_only() {
    let link = link(&["a"], Strategy::Priority);
    let mut follower = link.subscribe();
    server(&link, "a").reached();
    assert!(!follower.has_changed().unwrap());
    server(&link, "a").signal(Event::ProbeFailed);
    server(&link, "a").signal(Event::ProbeFailed);
    assert_eq!(*follower.borrow_and_update(), LinkState::Offline);
}

#[tokio::test]
async fn metrics_say_which_interface_a_server_is_reached_over() {
    let mut registry = prometheus_client::registry::Registry::default();
    let metrics = UpstreamMetrics::register(&mut registry);
    let over = |names: &[&str]| {
        let mut settings = settings(&["cloud"], Strategy::Priority);
        settings.dial.interfaces = names.iter().map(|&name| name.to_owned()).collect();
        settings
    };
    let shown = || {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let start = "edgehold_upstream_interface{server=\"cloud:6443\",interface=\"";
        let lines = text.lines().filter_map(|line| line.strip_prefix(start));
        let mut shown: Vec<_> = lines.map(|line| line.replace("\"}", "")).collect();
        shown.sort();
        shown
    };
    let link = Link::new(over(&["eth0", "wwan0"]), metrics);
    assert_eq!(shown(), ["eth0 1", "wwan0 0"]);
    server(&link, "cloud").interface_seen(Seen::Connected(1));
    assert_eq!(shown(), ["eth0 0", "wwan0 1"]);
    link.apply(over(&["wwan0"]));
    assert_eq!(shown(), ["wwan0 1"]);
    link.apply(settings(&["other"], Strategy::Priority));
    assert!(shown().is_empty());
}
