//! The rows of the wire contract's table A.6 that concern the view, and the rules that it does not show.

use super::model::Bench;
use super::*;
use crate::kube::event::EventType;
use crate::view::event::{Event, Freshness};

const A: StreamId = StreamId(1);
const B: StreamId = StreamId(2);

fn rv(text: &str) -> ResourceVersion {
    ResourceVersion::new(text).unwrap()
}

impl Bench {
    fn begin(&mut self, ticket: u64, freshness: Freshness) -> &mut Self {
        let ticket = Ticket(ticket);
        self.step(Input::SnapshotBegun { ticket, freshness })
    }

    fn complete(&mut self, ticket: u64, version: &str, names: &[&str]) -> &mut Self {
        let ticket = Ticket(ticket);
        let items = names.iter().map(|name| ((*name).to_owned(), 0)).collect();
        self.store.staged.insert(ticket, items);
        let version = rv(version);
        self.step(Input::SnapshotComplete { ticket, version })
    }

    fn list(&mut self, freshness: Freshness, version: &str, names: &[&str]) -> &mut Self {
        self.begin(99, freshness).complete(99, version, names)
    }

    fn watch(&mut self, stream: StreamId, version: &str) -> &mut Self {
        let start = Start::At(rv(version));
        self.step(Input::StreamOpened { stream, start })
    }

    fn initial(&mut self, stream: StreamId, freshness: Freshness, end: InitialEnd) -> &mut Self {
        let start = Start::Initial { freshness, end };
        self.step(Input::StreamOpened { stream, start })
    }

    fn event(&mut self, stream: StreamId, change: EventType, name: &str, version: &str) -> &mut Self {
        let event = Event {
            change,
            version: rv(version),
            payload: (name.to_owned(), 0),
            size: 100,
        };
        self.step(Input::Event { stream, event })
    }

    fn added(&mut self, stream: StreamId, name: &str, version: &str) -> &mut Self {
        self.event(stream, EventType::Added, name, version)
    }

    fn deleted(&mut self, stream: StreamId, name: &str, version: &str) -> &mut Self {
        self.event(stream, EventType::Deleted, name, version)
    }

    fn bookmark(&mut self, stream: StreamId, version: &str) -> &mut Self {
        self.step(Input::Bookmark {
            stream,
            version: rv(version),
            initial_events_end: false,
        })
    }

    fn end_bookmark(&mut self, stream: StreamId, version: &str) -> &mut Self {
        self.step(Input::Bookmark {
            stream,
            version: rv(version),
            initial_events_end: true,
        })
    }

    fn close(&mut self, stream: StreamId) -> &mut Self {
        self.step(Input::StreamClosed { stream })
    }

    #[track_caller]
    fn is(&mut self, names: &str, version: &str) -> &mut Self {
        assert_eq!(self.state(), (names.to_owned(), version));
        self
    }

    #[track_caller]
    fn did(&mut self, actions: &[&str]) -> &mut Self {
        assert_eq!(self.last, actions);
        self
    }

    #[track_caller]
    fn because(&mut self, why: Discard) -> &mut Self {
        assert_eq!(self.why, Some(why));
        self
    }
}

use Freshness::{Cached, Latest};

#[test]
fn row_1_a_complete_list_is_a_view() {
    Bench::at("", &[]).list(Latest, "11", &["a"]).is("a", "11");
}

#[test]
fn row_2_a_stream_from_r_drives_the_view() {
    let mut bench = Bench::at("11", &["a"]);
    bench.watch(A, "11").added(A, "b", "12").is("a b", "12");
    bench.bookmark(A, "20").did(&["progress"]).is("a b", "20");
}

#[test]
fn row_3_a_stream_from_beyond_r_is_detached() {
    let mut bench = Bench::at("11", &["a"]);
    bench
        .watch(A, "15")
        .event(A, EventType::Modified, "a", "16")
        .did(&[])
        .is("a", "11");
    assert_eq!(bench.view.attached(), 0);
}

#[test]
fn row_4_an_older_client_s_stream_changes_nothing_until_it_is_the_furthest() {
    let mut bench = Bench::at("20", &["a", "b"]);
    bench
        .watch(A, "11")
        .added(A, "b", "12")
        .deleted(A, "a", "13")
        .did(&[]);
    bench.is("a b", "20").deleted(A, "a", "21").is("b", "21");
}

#[test]
fn row_5_a_watch_list_that_ends_early_changes_nothing() {
    let mut bench = Bench::at("20", &["a"]);
    bench
        .initial(A, Latest, InitialEnd::Bookmark)
        .added(A, "b", "12")
        .added(A, "c", "9");
    bench.close(A).did(&["drop-staging"]).is("a", "20");
    assert!(bench.store.stagings.is_empty());
}

#[test]
fn row_6_the_end_bookmark_commits_a_watch_list_whose_stream_goes_on() {
    let mut bench = Bench::at("20", &["a"]);
    bench
        .initial(A, Latest, InitialEnd::Bookmark)
        .added(A, "b", "12")
        .bookmark(A, "29");
    bench
        .is("a", "20")
        .end_bookmark(A, "30")
        .did(&["commit-staging"])
        .is("b", "30");
    bench.added(A, "c", "31").is("b c", "31");
}

#[test]
fn row_7_a_legacy_watch_commits_with_its_first_change() {
    let mut bench = Bench::at("20", &["a"]);
    bench
        .initial(A, Cached, InitialEnd::FirstChange)
        .added(A, "b", "12")
        .added(A, "c", "18");
    bench
        .is("a", "20")
        .deleted(A, "c", "31")
        .did(&["stage", "commit-staging"])
        .is("b", "31");
}

#[test]
fn row_8_a_410_marks_the_view_and_keeps_it() {
    let mut bench = Bench::at("20", &["a"]);
    bench.watch(A, "20").step(Input::Gone { stream: A }).is("a", "20");
    assert!(bench.view.is_expired_upstream());
    bench.list(Cached, "19", &["z"]).is("z", "19");
    assert!(!bench.view.is_expired_upstream());
}

#[test]
fn a_slow_client_s_410_says_nothing_about_r() {
    let mut bench = Bench::at("20", &["a"]);
    bench.watch(A, "5").step(Input::Gone { stream: A });
    assert!(!bench.view.is_expired_upstream());
    bench
        .list(Cached, "19", &["z"])
        .is("a", "20")
        .because(Discard::Lagging);
}

#[test]
fn row_9_a_list_that_breaks_off_changes_nothing() {
    let mut bench = Bench::at("20", &["a", "b"]);
    bench
        .begin(1, Latest)
        .step(Input::SnapshotFailed { ticket: Ticket(1) });
    bench
        .did(&["discard"])
        .because(Discard::Incomplete)
        .is("a b", "20");
}

#[test]
fn row_11_a_lagging_list_does_not_replace_a_newer_view() {
    let mut bench = Bench::at("40", &["a"]);
    bench
        .list(Cached, "35", &["b"])
        .because(Discard::Lagging)
        .is("a", "40");
}

#[test]
fn row_12_a_consistent_list_below_r_tells_that_history_restarted() {
    let mut bench = Bench::at("40", &["a"]);
    bench
        .list(Latest, "7", &["b"])
        .did(&["history-restarted", "commit"])
        .is("b", "7");
}

#[test]
fn row_13_leaving_a_label_view_removes_from_that_view() {
    let mut bench = Bench::at("10", &["a"]);
    bench.watch(A, "10").deleted(A, "a", "12").is("", "12");
}

#[test]
fn row_14_a_list_without_a_usable_version_is_no_view() {
    let mut bench = Bench::at("", &[]);
    assert!(ResourceVersion::new("").is_none());
    bench
        .list(Latest, "0", &["a"])
        .because(Discard::NotResumable)
        .is("", "");
}

#[test]
fn row_15_versions_order_by_length_first() {
    let mut bench = Bench::at("99", &["a"]);
    bench.watch(A, "99").added(A, "b", "100").is("a b", "100");
}

#[test]
fn an_event_before_the_commit_of_the_list_that_it_follows_is_not_lost() {
    let mut bench = Bench::at("", &[]);
    bench.begin(1, Latest).watch(A, "11").added(A, "b", "12");
    bench.bookmark(A, "13").bookmark(A, "15").did(&[]).is("", "");
    bench
        .complete(1, "11", &["a"])
        .did(&["commit", "append", "progress"])
        .is("a b", "15");
    bench.added(A, "c", "16").is("a b c", "16");
}

#[test]
fn a_parked_stream_that_ended_still_counts_and_carries_its_successor() {
    let mut bench = Bench::at("", &[]);
    bench.begin(1, Latest).watch(B, "11").added(B, "b", "12").close(B);
    bench
        .watch(A, "12")
        .added(A, "c", "13")
        .complete(1, "11", &["a"])
        .is("a b c", "13");
    assert_eq!(bench.view.attached(), 1);
}

#[test]
fn parked_streams_that_no_ticket_helps_are_detached() {
    let mut bench = Bench::at("5", &["z"]);
    bench
        .begin(1, Latest)
        .begin(2, Latest)
        .watch(A, "11")
        .added(A, "b", "12");
    bench.complete(1, "10", &["a"]).is("a", "10");
    bench.step(Input::SnapshotFailed { ticket: Ticket(2) });
    bench.added(A, "c", "13").did(&[]).is("a", "10");
    assert_eq!(bench.view.condition(), Condition::Lost);
    bench
        .list(Latest, "14", &["d"])
        .added(A, "e", "15")
        .is("d e", "15");
}

#[test]
fn parking_is_bounded_and_overflow_detaches() {
    let mut bench = Bench::at("", &[]);
    bench.begin(1, Latest).watch(A, "11");
    for at in 12..=20 {
        bench.added(A, "b", &at.to_string());
    }
    bench
        .complete(1, "11", &["a"])
        .is("a", "11")
        .added(A, "c", "21")
        .is("a", "11");
    assert_eq!((bench.view.load.frames, bench.view.load.bytes), (0, 0));
}

#[test]
fn parking_is_bounded_in_bytes_too() {
    let mut bench = Bench::at("", &[]);
    bench.begin(1, Latest).watch(A, "11").added(A, "b", "12");
    let event = Event {
        change: EventType::Added,
        version: rv("13"),
        payload: ("c".to_owned(), 0),
        size: 901,
    };
    bench.step(Input::Event { stream: A, event });
    bench.complete(1, "11", &["a"]).is("a", "11");
}

#[test]
fn a_list_that_a_live_stream_overtook_is_dropped_and_the_stream_goes_on() {
    let mut bench = Bench::at("20", &["a"]);
    bench.watch(A, "20").begin(1, Latest).added(A, "b", "30");
    bench
        .complete(1, "25", &["a"])
        .because(Discard::Overtaken)
        .is("a b", "30");
    bench.added(A, "c", "31").is("a b c", "31");
}

#[test]
fn a_list_ahead_of_the_live_stream_commits_and_the_stream_catches_up() {
    let mut bench = Bench::at("20", &["a"]);
    bench
        .watch(A, "20")
        .list(Cached, "25", &["a", "b"])
        .is("a b", "25");
    bench
        .added(A, "b", "24")
        .did(&[])
        .added(A, "c", "26")
        .is("a b c", "26");
}

#[test]
fn the_furthest_of_several_streams_drives() {
    let mut bench = Bench::at("20", &["a"]);
    bench
        .watch(A, "20")
        .watch(B, "18")
        .added(A, "b", "21")
        .added(B, "b", "21")
        .did(&[]);
    bench
        .deleted(B, "a", "22")
        .did(&["append"])
        .deleted(A, "a", "22")
        .did(&[])
        .is("b", "22");
}

#[test]
fn deletions_of_one_etcd_lease_share_a_version() {
    let mut bench = Bench::at("20", &["a", "b", "c"]);
    bench.watch(A, "20").watch(B, "20").deleted(A, "a", "21");
    bench
        .deleted(B, "a", "21")
        .did(&[])
        .deleted(A, "b", "21")
        .is("c", "21");
}

#[test]
fn a_dropped_staging_does_not_make_its_stream_the_driver() {
    let mut bench = Bench::at("39", &["a", "b"]);
    bench.watch(A, "39").deleted(A, "a", "40");
    bench
        .initial(B, Cached, InitialEnd::FirstChange)
        .deleted(B, "z", "35");
    bench
        .did(&["stage", "drop-staging"])
        .deleted(A, "b", "40")
        .is("", "40");
}

#[test]
fn a_commit_below_a_stream_s_position_detaches_it() {
    let mut bench = Bench::at("20", &["a"]);
    bench.watch(A, "20").watch(B, "20").bookmark(B, "18");
    bench.step(Input::Gone { stream: A }).list(Cached, "19", &["z"]);
    bench.added(B, "b", "21").did(&[]).is("z", "19");
}

#[test]
fn a_lagging_watch_list_is_dropped_and_its_stream_attached() {
    let mut bench = Bench::at("40", &["a"]);
    bench
        .initial(A, Cached, InitialEnd::Bookmark)
        .added(A, "z", "30")
        .end_bookmark(A, "35");
    bench
        .because(Discard::Lagging)
        .is("a", "40")
        .added(A, "y", "39")
        .did(&[]);
    bench.added(A, "b", "41").is("a b", "41");
}

#[test]
fn a_consistent_watch_list_below_r_tells_that_history_restarted() {
    let mut bench = Bench::at("40", &["a"]);
    bench
        .initial(A, Latest, InitialEnd::Bookmark)
        .added(A, "z", "5")
        .end_bookmark(A, "7");
    bench
        .did(&["history-restarted", "commit-staging"])
        .is("z", "7")
        .added(A, "b", "8")
        .is("b z", "8");
}

#[test]
fn nothing_from_before_a_restart_touches_the_view() {
    let mut bench = Bench::at("40", &["a"]);
    bench.watch(A, "6").initial(B, Latest, InitialEnd::Bookmark);
    bench
        .begin(1, Latest)
        .list(Latest, "7", &["b"])
        .complete(1, "41", &["a"]);
    bench
        .because(Discard::Unknown)
        .added(A, "x", "41")
        .did(&[])
        .end_bookmark(B, "41")
        .did(&[])
        .is("b", "7");
    assert_eq!(bench.view.attached(), 0);
}

#[test]
fn a_consistent_list_asked_for_before_a_restart_was_noticed_counts_if_it_is_below_the_lost_history() {
    let mut bench = Bench::at("40", &["a"]);
    bench
        .begin(1, Latest)
        .begin(2, Latest)
        .begin(3, Freshness::Cached);
    bench.list(Latest, "7", &["b"]).complete(1, "8", &["b", "c"]);
    bench.did(&["commit"]).is("b c", "8");
    // An older one of the same history is not another restart, and what may lag proves nothing.
    bench
        .complete(2, "7", &["b"])
        .because(Discard::Overtaken)
        .complete(3, "9", &["d"])
        .because(Discard::Unknown)
        .is("b c", "8");
}

#[test]
fn a_list_asked_for_before_two_restarts_cannot_prove_which_history_it_tells_of() {
    let mut bench = Bench::at("40", &["a"]);
    bench.begin(1, Latest).list(Latest, "7", &["b"]);
    bench.list(Latest, "6", &["c"]).complete(1, "8", &["b"]);
    bench.because(Discard::Unknown).is("c", "6");
}

#[test]
fn a_restart_seen_elsewhere_drops_this_view() {
    let mut bench = Bench::at("40", &["a"]);
    bench
        .watch(A, "40")
        .step(Input::HistoryRestarted)
        .did(&["forget"])
        .is("", "");
    bench
        .added(A, "x", "41")
        .did(&[])
        .list(Latest, "7", &["b"])
        .is("b", "7");
}

#[test]
fn a_broken_view_waits_for_the_next_snapshot() {
    let mut bench = Bench::at("20", &["a"]);
    bench.watch(A, "20");
    bench.view.step(Input::Event {
        stream: A,
        event: Event {
            change: EventType::Added,
            version: rv("21"),
            payload: ("lost".to_owned(), 0),
            size: 1,
        },
    });
    bench.step(Input::Broken {
        stored: Some(rv("20")),
    });
    assert!(bench.view.is_broken());
    bench
        .added(A, "b", "22")
        .watch(B, "20")
        .added(B, "lost", "21")
        .is("a", "20");
    bench
        .list(Cached, "23", &["a", "b"])
        .watch(A, "23")
        .is("a b", "23");
    assert!(!bench.view.is_broken());
    bench.added(A, "c", "24").is("a b c", "24");
}

#[test]
fn where_versions_do_not_compare_one_stream_owns_the_view() {
    let mut bench = Bench::at("", &[]);
    bench.list(Latest, "x-1", &["a"]).watch(A, "x-1").watch(B, "x-1");
    assert_eq!(bench.view.attached(), 1);
    bench
        .added(B, "b", "x-2")
        .did(&[])
        .added(A, "b", "x-2")
        .is("a b", "x-2");
    bench.list(Cached, "x-0", &["z"]).because(Discard::Unordered);
    bench
        .begin(1, Latest)
        .added(A, "c", "x-3")
        .complete(1, "x-2", &["a", "b"]);
    bench.because(Discard::Unordered).is("a b c", "x-3");
    bench.list(Latest, "x-4", &["d"]).is("d", "x-4");
    bench.added(A, "e", "x-5").did(&[]).watch(B, "x-4");
    bench
        .added(B, "e", "x-5")
        .is("d e", "x-5")
        .close(B)
        .watch(A, "x-4");
    bench.added(A, "e", "x-5").did(&[]).close(A);
    bench.list(Cached, "x-9", &[]).is("", "x-9");
}

#[test]
fn a_list_that_is_asked_for_while_a_stream_is_ahead_closes_the_hole() {
    let mut bench = Bench::at("10", &["a"]);
    bench.watch(A, "15").added(A, "b", "16").is("a", "10");
    assert_eq!(bench.view.condition(), Condition::Lost);
    bench.begin(1, Latest).added(A, "c", "19");
    assert_eq!(bench.view.condition(), Condition::Awaiting);
    bench
        .complete(1, "17", &["a", "b", "x"])
        .did(&["commit", "append"])
        .is("a b c x", "19");
    assert_eq!(bench.view.condition(), Condition::Followed);
}

#[test]
fn a_list_from_before_a_stream_s_last_event_does_not_close_the_hole() {
    let mut bench = Bench::at("10", &["a"]);
    bench
        .begin(1, Cached)
        .watch(A, "15")
        .added(A, "b", "16")
        .complete(1, "14", &["a"]);
    bench.added(A, "c", "17").did(&[]).is("a", "14");
    assert_eq!(bench.view.condition(), Condition::Lost);
}

#[test]
fn a_stream_that_was_not_heard_whole_goes_on_from_a_later_consistent_list() {
    let mut bench = Bench::at("10", &["a"]);
    bench
        .watch(A, "10")
        .begin(1, Latest)
        .step(Input::Missed { stream: A });
    bench.added(A, "c", "12").did(&[]).complete(1, "11", &["a", "b"]);
    bench.added(A, "d", "13").did(&[]).is("a b", "11");
    assert_eq!(bench.view.condition(), Condition::Lost);
    bench
        .begin(2, Cached)
        .complete(2, "14", &["e"])
        .added(A, "f", "15");
    bench.did(&[]).is("e", "14");
    bench
        .begin(3, Latest)
        .added(A, "g", "16")
        .complete(3, "15", &["e", "f"]);
    bench.is("e f g", "16");
    assert_eq!(bench.view.condition(), Condition::Followed);
}

#[test]
fn a_stream_that_missed_something_of_a_history_that_is_gone_is_not_attached_to_the_new_one() {
    let mut bench = Bench::at("", &[]);
    bench.watch(A, "40").step(Input::Missed { stream: A });
    bench.list(Latest, "7", &["a"]).added(A, "b", "41");
    bench.did(&[]).is("a", "7");
}

#[test]
fn a_watch_that_tells_no_end_of_its_state_is_placed_by_a_list_once_it_is_answered() {
    for answered_first in [false, true] {
        let mut bench = Bench::at("", &[]);
        bench.initial(A, Latest, InitialEnd::FirstChange);
        let answered = Input::StreamAnswered { stream: A };
        if answered_first {
            bench.step(answered).begin(1, Latest);
        } else {
            bench.begin(1, Latest).step(answered);
        }
        assert_eq!(bench.view.condition(), Condition::Awaiting);
        bench
            .added(A, "a", "9")
            .added(A, "c", "12")
            .complete(1, "11", &["a", "b"]);
        if answered_first {
            bench.is("a b c", "12");
            assert_eq!(bench.view.condition(), Condition::Followed);
        } else {
            bench.is("a b", "11");
            assert_eq!(bench.view.condition(), Condition::Lost);
        }
    }
}

#[test]
fn a_watch_list_in_its_initial_events_needs_no_list() {
    let mut bench = Bench::at("10", &["a"]);
    bench
        .watch(A, "15")
        .initial(B, Latest, InitialEnd::Bookmark)
        .added(B, "a", "9");
    assert_eq!(bench.view.condition(), Condition::Followed);
    bench.close(B);
    assert_eq!(bench.view.condition(), Condition::Lost);
    bench.close(A);
    assert_eq!(bench.view.condition(), Condition::Followed, "nobody watches");
}

#[test]
fn a_stream_that_was_ahead_drives_the_view_when_another_has_caught_up_with_it() {
    let mut bench = Bench::at("10", &["a"]);
    bench
        .watch(A, "10")
        .watch(B, "12")
        .added(B, "d", "13")
        .is("a", "10");
    assert_eq!(
        bench.view.condition(),
        Condition::Lost,
        "A's client may never read"
    );
    bench.added(A, "b", "12").added(A, "d", "13").close(A);
    assert_eq!(bench.view.condition(), Condition::Followed);
    bench.added(B, "e", "14").is("a b d e", "14");
}

#[test]
fn a_410_for_a_stream_that_a_list_has_placed_says_nothing_about_r() {
    let mut bench = Bench::at("", &[]);
    bench
        .initial(A, Cached, InitialEnd::FirstChange)
        .step(Input::StreamAnswered { stream: A });
    bench.list(Latest, "11", &["a"]).step(Input::Gone { stream: A });
    assert!(!bench.view.is_expired_upstream());
    assert_eq!(bench.view.condition(), Condition::Followed, "it is over");
}

#[test]
fn what_is_withdrawn_goes_and_only_a_later_list_brings_it_back() {
    let mut bench = Bench::at("10", &["a"]);
    bench.watch(A, "10").begin(1, Latest).step(Input::Withdrawn);
    bench.is("", "").added(A, "b", "11").did(&[]);
    bench
        .complete(1, "11", &["a", "b"])
        .because(Discard::Unknown)
        .is("", "");
    assert_eq!(bench.view.condition(), Condition::Lost);
    bench
        .list(Latest, "12", &["c"])
        .added(A, "d", "13")
        .is("c d", "13");
}

#[test]
fn an_event_whose_order_is_unknown_counts_only_from_a_stream_that_stands_at_r() {
    let mut bench = Bench::at("20", &["a"]);
    bench.watch(A, "20").watch(B, "19").added(B, "b", "x-1").did(&[]);
    bench.added(B, "b", "21").did(&[]).watch(B, "20");
    bench.added(A, "b", "x-1").is("a b", "x-1");
    bench
        .added(B, "c", "22")
        .did(&[])
        .added(A, "c", "x-2")
        .is("a b c", "x-2");
}

#[test]
fn an_idle_stream_costs_tens_of_bytes_and_an_event_no_allocation_for_its_action() {
    assert!(size_of::<Stream<[u64; 8]>>() <= 32);
    let mut bench = Bench::at("20", &["a"]);
    bench.watch(A, "20");
    let actions = bench.view.step(Input::Bookmark {
        stream: A,
        version: rv("21"),
        initial_events_end: false,
    });
    assert_eq!(actions.rest_capacity(), 0);
}
