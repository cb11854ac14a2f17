//! What is kept of objects, and in which order answers count.

use super::*;
use crate::kube::media::{Encoding, MetaVersion, Rows, Shape, Table};
use crate::store::LogStore;
use crate::view::newest::{Newest, Told};

const PATH: &str = "/api/v1/namespaces/shop/configmaps/a";

/// The objects of one principal, and what it has been shown.
struct World {
    objects: Objects,
    level: Arc<Level>,
}

impl World {
    fn new() -> Self {
        Self::on(Arc::new(LogStore::memory().unwrap()))
    }

    fn on(store: Arc<dyn Store>) -> Self {
        Self {
            objects: Objects::new(store, "cn:x"),
            level: Arc::default(),
        }
    }

    /// A request that is sent now.
    fn asked(&self, origin: Origin, sent: u64) -> Asked {
        Asked {
            origin,
            sent: Moment(sent),
            shown: self.level.shown(),
            level: Arc::clone(&self.level),
        }
    }

    fn answer(&self, version: u64, sent: u64, recorded: u64) -> Answered {
        Answered {
            path: PATH.to_owned(),
            representation: json(),
            body: body("a", version),
            asked: self.asked(Origin::Read, sent),
            recorded: Moment(recorded),
        }
    }

    fn read(&mut self, version: u64, sent: u64, recorded: u64) -> bool {
        let answer = self.answer(version, sent, recorded);
        self.objects.answered(&answer).unwrap()
    }

    fn not_found(&self, sent: u64, recorded: u64) -> Removed {
        Removed {
            path: PATH.to_owned(),
            outcome: Outcome::Gone,
            uid: String::new(),
            asked: self.asked(Origin::Read, sent),
            recorded: Moment(recorded),
        }
    }

    fn remove(&mut self, removed: &Removed) {
        self.objects.removed(removed).unwrap();
    }

    fn shows(&self, version: &str) {
        self.level.raise(&ResourceVersion::new(version).unwrap());
    }

    fn newest(&mut self) -> Newest {
        self.newest_beside(Vec::new())
    }

    fn newest_beside(&mut self, views: Vec<Sighting>) -> Newest {
        match self.objects.known(PATH).unwrap() {
            Known::Withdrawn | Known::Overrun => Newest::Unknown,
            Known::Told { removals, kept, lost } => {
                let kept = kept.into_iter().map(|kept| kept.seen);
                Told {
                    sightings: kept.chain(lost).chain(views).collect(),
                    missing: None,
                    removals,
                }
                .newest(None)
            }
        }
    }
}

/// An object as `body` writes it, in a view.
fn viewed(version: &str, uid: &str) -> Vec<Sighting> {
    vec![Sighting {
        version: ResourceVersion::new(version),
        uid: uid.to_owned(),
        at: ResourceVersion::new(version),
    }]
}

fn body(name: &str, version: u64) -> Vec<u8> {
    format!(
        r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"shop","uid":"u","resourceVersion":"{version}"}}}}"#
    )
    .into_bytes()
}

fn json() -> Representation {
    Representation::full(Encoding::Json)
}

fn seen(version: &str) -> Newest {
    Newest::Seen(ResourceVersion::new(version))
}

#[test]
fn a_later_answer_replaces_an_earlier_one_even_with_a_lower_version() {
    let mut world = World::new();
    assert!(world.read(20, 1, 2));
    let metadata = Representation {
        encoding: Encoding::Json,
        shape: Shape::Table(Table {
            version: MetaVersion::V1,
            rows: Rows::default(),
        }),
        unknown: String::new(),
    };
    let table = Answered {
        representation: metadata,
        body: br#"{"kind":"Table","metadata":{"resourceVersion":"20"}}"#.to_vec(),
        ..world.answer(20, 1, 2)
    };
    assert!(world.objects.answered(&table).unwrap());
    assert!(world.read(7, 3, 4), "the cluster was restored from a backup");
    assert_eq!(world.newest(), seen("7"), "in whichever form");
}

#[test]
fn of_two_answers_under_way_together_the_later_version_wins() {
    for (first, second) in [(20, 21), (21, 20)] {
        let mut world = World::new();
        world.read(first, 1, 3);
        world.read(second, 2, 4);
        assert_eq!(world.newest(), seen("21"));
    }
}

#[test]
fn an_answer_that_may_lag_does_not_take_knowledge_back() {
    let mut world = World::new();
    world.read(20, 1, 2);
    let lagging = Answered {
        asked: world.asked(Origin::Lagging, 3),
        ..world.answer(19, 3, 4)
    };
    assert!(!world.objects.answered(&lagging).unwrap());
    let not_found = Removed {
        asked: world.asked(Origin::Lagging, 5),
        ..world.not_found(5, 6)
    };
    world.remove(&not_found);
    assert_eq!(world.newest(), seen("20"));
}

#[test]
fn a_404_that_may_lag_counts_only_where_nothing_else_is_known() {
    let mut world = World::new();
    world.shows("100");
    let not_found = Removed {
        asked: world.asked(Origin::Lagging, 1),
        ..world.not_found(1, 2)
    };
    world.remove(&not_found);
    assert_eq!(world.newest(), Newest::Absent);
    assert_eq!(world.newest_beside(viewed("50", "u")), seen("50"));
}

#[test]
fn a_body_that_is_not_the_object_of_the_path_is_not_kept() {
    let mut world = World::new();
    for bad in [
        b"<html>sign in</html>".to_vec(),
        body("b", 1),
        b"{}".to_vec(),
        Vec::new(),
    ] {
        let answered = Answered {
            body: bad,
            ..world.answer(1, 1, 2)
        };
        assert!(!world.objects.answered(&answered).unwrap());
    }
    assert_eq!(world.newest(), Newest::Unknown);
}

#[test]
fn an_absence_ends_with_the_next_sighting() {
    let mut world = World::new();
    world.read(1, 1, 2);
    let not_found = world.not_found(3, 4);
    world.remove(&not_found);
    assert_eq!(world.newest(), Newest::Absent);
    assert!(
        world.objects.knows(PATH).unwrap(),
        "a write that creates it is worth keeping"
    );
    world.read(2, 5, 6);
    assert_eq!(world.newest(), seen("2"));
}

#[test]
fn an_absence_counts_against_what_had_been_shown_before() {
    let mut world = World::new();
    world.shows("100");
    let not_found = world.not_found(1, 2);
    world.remove(&not_found);
    assert_eq!(world.newest_beside(viewed("100", "u")), Newest::Absent);
    assert_eq!(world.newest_beside(viewed("101", "u")), seen("101"));
}

#[test]
fn what_was_shown_while_a_404_was_under_way_may_be_older_or_newer() {
    let mut world = World::new();
    world.shows("100");
    let not_found = world.not_found(1, 2);
    world.shows("110");
    world.remove(&not_found);
    assert_eq!(world.newest_beside(viewed("105", "u")), Newest::Unknown);

    // The same for another GET.
    let mut world = World::new();
    let not_found = world.not_found(1, 4);
    world.read(105, 2, 3);
    world.remove(&not_found);
    assert_eq!(world.newest(), Newest::Unknown);
    let mut world = World::new();
    let late = world.answer(105, 1, 4);
    let not_found = world.not_found(2, 3);
    world.remove(&not_found);
    assert!(world.objects.answered(&late).unwrap());
    assert_eq!(world.newest(), Newest::Unknown);
}

#[test]
fn a_list_that_was_under_way_when_a_404_came_may_be_older_or_newer() {
    let mut world = World::new();
    let not_found = world.not_found(2, 3);
    world.remove(&not_found);
    let version = ResourceVersion::new("105").unwrap();
    world.objects.snapshot(Moment(4), &version, |_| true);
    assert_eq!(
        world.newest_beside(viewed("105", "u")),
        seen("105"),
        "asked for later"
    );
    world.objects.snapshot(Moment(1), &version, |path| path != PATH);
    assert_eq!(
        world.newest_beside(viewed("105", "u")),
        seen("105"),
        "of something else"
    );
    world.objects.snapshot(Moment(1), &version, |path| path == PATH);
    assert_eq!(world.newest_beside(viewed("105", "u")), Newest::Unknown);
}

#[test]
fn a_get_that_arrives_after_the_deletion_does_not_bring_the_object_back() {
    let mut world = World::new();
    let late = world.answer(20, 1, 4);
    let deleted = Removed {
        uid: "u".to_owned(),
        asked: world.asked(Origin::Write, 2),
        ..world.not_found(2, 3)
    };
    world.remove(&deleted);
    assert!(!world.objects.answered(&late).unwrap());
    assert_eq!(world.newest(), Newest::Absent);
    assert_eq!(
        world.newest_beside(viewed("30", "u")),
        Newest::Absent,
        "a view that lags"
    );
    assert_eq!(world.newest_beside(viewed("30", "v")), seen("30"), "made again");
}

#[test]
fn what_was_withdrawn_is_told_to_nobody_and_is_not_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::on(Arc::new(LogStore::open(dir.path()).unwrap()));
    world.read(1, 1, 2);
    let late = world.answer(1, 3, 5);
    world.objects.withdrawn(PATH, Moment(4)).unwrap();
    assert_eq!(world.objects.known(PATH).unwrap(), Known::Withdrawn);
    for entry in std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
    {
        for file in std::fs::read_dir(&entry).into_iter().flatten() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(9).any(|part| part == b"ConfigMap"));
        }
    }
    let written = Answered {
        asked: world.asked(Origin::Write, 6),
        ..world.answer(2, 6, 7)
    };
    assert!(!world.objects.answered(&late).unwrap(), "it was asked for before");
    assert!(
        !world.objects.answered(&written).unwrap(),
        "to write is not to read"
    );
    assert_eq!(world.objects.known(PATH).unwrap(), Known::Withdrawn);
    world.read(2, 8, 9);
    assert_eq!(world.newest(), seen("2"), "the right was given back");
}

#[test]
fn an_equal_answer_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(LogStore::open(dir.path()).unwrap());
    let mut world = World::on(Arc::clone(&store));
    world.read(1, 1, 2);
    let before = store.stats().bytes;
    world.read(1, 3, 4);
    assert_eq!(store.stats().bytes, before);
    let not_found = world.not_found(5, 6);
    world.remove(&not_found);
    let before = store.stats().bytes;
    let not_found = world.not_found(7, 8);
    world.remove(&not_found);
    assert_eq!(store.stats().bytes, before);
}

#[test]
fn entries_survive_a_restart() {
    let store: Arc<dyn Store> = Arc::new(LogStore::memory().unwrap());
    let mut world = World::on(Arc::clone(&store));
    world.read(5, 1, 2);
    let mut again = World::on(Arc::clone(&store));
    assert_eq!(again.newest(), seen("5"));
    again.shows("100");
    let not_found = again.not_found(1, 2);
    again.remove(&not_found);
    let mut third = World::on(Arc::clone(&store));
    assert_eq!(third.newest_beside(viewed("100", "u")), Newest::Absent);
    assert_eq!(third.newest_beside(viewed("101", "u")), seen("101"));
    let mut other = Objects::new(store, "cn:y");
    let nothing = Known::Told {
        removals: Vec::new(),
        kept: Vec::new(),
        lost: Vec::new(),
    };
    assert_eq!(other.known(PATH).unwrap(), nothing, "another owner has nothing");
}

/// It had no place among the versions.
#[test]
fn an_absence_of_an_older_release_contradicts_every_sighting() {
    let store: Arc<dyn Store> = Arc::new(LogStore::memory().unwrap());
    let log = store.create(&LogId::new("cn:x", LOG_NAME), HEADER).unwrap();
    let old = [&[1_u8][..], &7_u64.to_be_bytes()].concat();
    put(&log, &refusal_key(PATH), &old, clock::wall()).unwrap();
    let mut world = World::on(store);
    assert_eq!(world.newest(), Newest::Absent);
    assert_eq!(world.newest_beside(viewed("50", "u")), Newest::Unknown);
    world.read(50, 1, 2);
    assert_eq!(world.newest(), seen("50"));
}

fn shown(version: &str, uid: &str) -> Sighting {
    Sighting {
        version: ResourceVersion::new(version),
        uid: uid.to_owned(),
        at: None,
    }
}

#[test]
fn what_a_view_showed_and_lost_is_not_followed_by_something_older() {
    for (read, view, expected) in [
        (Some(184), "186", Newest::Unknown),
        // Leaving a selection is no deletion elsewhere (wire contract, row 13).
        (Some(186), "186", seen("186")),
        (Some(197), "186", seen("197")),
        (None, "186", Newest::Unknown),
    ] {
        let mut world = World::new();
        if let Some(version) = read {
            world.read(version, 1, 2);
        }
        world.objects.lost(PATH, shown(view, "u"), Moment(3), false);
        let newest = match world.newest() {
            // Nobody has it.
            Newest::Seen(Some(version))
                if Some(version.as_str()) != read.map(|read| read.to_string()).as_deref() =>
            {
                Newest::Unknown
            }
            newest => newest,
        };
        assert_eq!(newest, expected, "{read:?} {view}");
        assert!(world.read(200, 4, 5));
        assert_eq!(world.newest(), seen("200"), "{read:?} {view}");
        assert!(world.read(7, 6, 7), "the cluster was restored from a backup");
        assert_eq!(world.newest(), seen("7"));
    }
}

#[test]
fn an_own_delete_stays_one_when_a_view_hears_of_it() {
    for is_heard_first in [true, false] {
        let mut world = World::new();
        world.read(184, 1, 2);
        world.shows("190");
        let deleted = Removed {
            uid: "u".to_owned(),
            ..world.not_found(3, 6)
        };
        world.shows("195");
        if is_heard_first {
            world.objects.lost(PATH, shown("192", "u"), Moment(5), false);
        }
        world.remove(&deleted);
        if !is_heard_first {
            world.objects.lost(PATH, shown("192", "u"), Moment(7), false);
        }
        assert_eq!(world.newest(), Newest::Absent, "{is_heard_first}");
    }
}

#[test]
fn an_absence_ends_where_a_view_showed_another_object_and_lost_it() {
    let mut world = World::new();
    world.shows("100");
    world.remove(&world.not_found(1, 2));
    assert_eq!(world.newest(), Newest::Absent);
    world.shows("120");
    world.objects.lost(PATH, shown("120", "v"), Moment(3), false);
    assert_eq!(world.newest(), seen("120"), "but nobody has it");
}
