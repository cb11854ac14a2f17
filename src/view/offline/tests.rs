//! Table 5.7 and rows 16-19 of A.6 of the wire contract.

use super::*;

fn rv(text: &str) -> ResourceVersion {
    ResourceVersion::new(text).unwrap()
}

/// A plain watch at `c`, with bookmarks.
fn plain(c: &str) -> ListOptions {
    ListOptions {
        resource_version: (!c.is_empty()).then(|| c.to_owned()),
        allow_watch_bookmarks: true,
        ..ListOptions::default()
    }
}

/// A watch-list as client-go sends it.
fn watch_list(c: &str) -> ListOptions {
    ListOptions {
        send_initial_events: Some(true),
        resource_version_match: "NotOlderThan".to_owned(),
        ..plain(c)
    }
}

fn held(initial: Initial, known: &str) -> WatchAnswer {
    let known = rv(known);
    WatchAnswer::Hold(Opening { initial, known })
}

const NO_VIEW: WatchAnswer = WatchAnswer::Unavailable(Missing::NotRead);
const TOO_OLD: WatchAnswer = WatchAnswer::Unavailable(Missing::TooOld);

#[test]
fn a_plain_watch_at_or_beyond_the_view_is_held_at_its_own_position() {
    let at = rv("20");
    for c in ["20", "25", "100"] {
        assert_eq!(watch(&plain(c), Some(&at)), held(Initial::Nothing, c));
    }
}

#[test]
fn a_plain_watch_behind_the_view_is_gone() {
    let message = "too old resource version: 15 (20)".to_owned();
    assert_eq!(
        watch(&plain("15"), Some(&rv("20"))),
        WatchAnswer::Gone { message }
    );
}

#[test]
fn a_plain_watch_whose_order_is_unknown_is_held() {
    assert_eq!(watch(&plain("x"), Some(&rv("20"))), held(Initial::Nothing, "x"));
}

#[test]
fn a_plain_watch_needs_no_view() {
    assert_eq!(watch(&plain("15"), None), held(Initial::Nothing, "15"));
}

#[test]
fn a_client_that_knows_nothing_gets_the_items() {
    let at = rv("20");
    for options in [
        plain(""),
        plain("0"),
        watch_list(""),
        watch_list("0"),
        watch_list("9"),
        watch_list("20"),
    ] {
        assert_eq!(watch(&options, Some(&at)), held(Initial::ItemsAndBookmark, "20"));
        let silent = ListOptions {
            allow_watch_bookmarks: false,
            ..options
        };
        assert_eq!(watch(&silent, Some(&at)), held(Initial::Items, "20"));
    }
}

#[test]
fn a_watch_list_of_a_client_ahead_of_the_view_is_unavailable() {
    assert_eq!(watch(&watch_list("21"), Some(&rv("20"))), TOO_OLD);
    assert_eq!(watch(&watch_list("x"), Some(&rv("20"))), TOO_OLD);
}

#[test]
fn initial_events_need_a_view() {
    for options in [
        plain(""),
        plain("0"),
        watch_list(""),
        watch_list("0"),
        watch_list("9"),
    ] {
        assert_eq!(watch(&options, None), NO_VIEW);
    }
}

#[test]
fn refused_initial_events_begin_at_the_view() {
    let without = |c| ListOptions {
        send_initial_events: Some(false),
        ..watch_list(c)
    };
    assert_eq!(watch(&without(""), Some(&rv("20"))), held(Initial::Nothing, "20"));
    assert_eq!(watch(&without("0"), None), NO_VIEW);
    assert_eq!(
        watch(&without("25"), Some(&rv("20"))),
        held(Initial::Nothing, "25")
    );
}

fn list_at(c: &str, matching: &str) -> ListOptions {
    ListOptions {
        resource_version_match: matching.to_owned(),
        allow_watch_bookmarks: false,
        ..plain(c)
    }
}

#[test]
fn a_list_is_served_unless_the_client_is_ahead() {
    let at = rv("20");
    for (c, matching, answer) in [
        ("", "", ListAnswer::Serve),
        ("0", "", ListAnswer::Serve),
        ("0", "NotOlderThan", ListAnswer::Serve),
        ("9", "", ListAnswer::Serve),
        ("20", "NotOlderThan", ListAnswer::Serve),
        ("20", "Exact", ListAnswer::Serve),
        ("100", "", ListAnswer::Unavailable(Missing::TooOld)),
        ("21", "NotOlderThan", ListAnswer::Unavailable(Missing::TooOld)),
        ("21", "Exact", ListAnswer::Unavailable(Missing::TooOld)),
        ("19", "Exact", ListAnswer::Gone(EXACT_EXPIRED)),
        ("x", "", ListAnswer::Unavailable(Missing::TooOld)),
    ] {
        assert_eq!(list(&list_at(c, matching), Some(&at)), answer, "{c} {matching}");
    }
    assert_eq!(
        list(&list_at("", ""), None),
        ListAnswer::Unavailable(Missing::NotRead)
    );
}

#[test]
fn a_continue_token_is_expired_with_or_without_a_view() {
    let options = ListOptions {
        continue_token: "t".to_owned(),
        ..ListOptions::default()
    };
    for view in [None, Some(&rv("20"))] {
        assert_eq!(list(&options, view), ListAnswer::Gone(CONTINUE_EXPIRED));
    }
}

#[test]
fn a_list_that_upstream_would_refuse_is_refused() {
    let more = ListOptions {
        continue_token: "t".to_owned(),
        ..list_at("5", "Exact")
    };
    let initial = ListOptions {
        send_initial_events: Some(false),
        ..list_at("5", "")
    };
    for (options, violation) in [
        (list_at("", "Exact"), Violation::MatchWithoutVersion),
        (more, Violation::MatchWithContinue),
        (list_at("5", "exact"), Violation::UnknownListMatch),
        (list_at("0", "Exact"), Violation::ExactZero),
        (initial, Violation::InitialEventsOfList),
    ] {
        assert_eq!(list(&options, None), ListAnswer::Invalid(violation));
    }
    let message = Violation::UnknownListMatch.message(&list_at("5", "a\"b"));
    assert_eq!(
        message,
        r#"Unsupported value: "a\"b": supported values: "Exact", "NotOlderThan", """#
    );
}

#[test]
fn a_watch_that_upstream_would_refuse_is_refused() {
    let without_match = ListOptions {
        resource_version_match: String::new(),
        ..watch_list("")
    };
    let exact = ListOptions {
        resource_version_match: "Exact".to_owned(),
        ..watch_list("5")
    };
    let plain_match = ListOptions {
        resource_version_match: "NotOlderThan".to_owned(),
        ..plain("5")
    };
    let more = ListOptions {
        continue_token: "t".to_owned(),
        ..watch_list("5")
    };
    for (options, violation) in [
        (without_match, Violation::InitialEventsWithoutMatch),
        (exact, Violation::InitialEventsWithoutMatch),
        (plain_match, Violation::MatchWithoutInitialEvents),
        (more, Violation::MatchWithContinue),
    ] {
        assert_eq!(watch(&options, None), WatchAnswer::Invalid(violation));
    }
}
