//! Which of all that one principal was told of one object is the newest.
//!
//! It may have been told by a GET, by the answer to its own write, by several views and in several representations, and a
//! 404 or the answer to a DELETE says that there is none. Where all of these carry versions, versions decide. A removal
//! carries none: it is placed by the versions that had been shown when it was asked for and when it was told. Clocks
//! decide nothing. What cannot be ordered is unknown, never guessed.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::kube::version::ResourceVersion;

/// A point in the order of versions of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Mark {
    /// Before every version.
    #[default]
    Start,
    /// At this version.
    At(ResourceVersion),
    /// After every version: the point is not known.
    End,
}

impl Mark {
    /// Whether a version is at or before this point; `None` where that cannot be told.
    pub fn covers(&self, version: Option<&ResourceVersion>) -> Option<bool> {
        let version = version.filter(|version| version.is_comparable())?;
        match self {
            Self::Start => Some(false),
            Self::End => Some(true),
            Self::At(point) => Some(version.compare(point)? != Ordering::Greater),
        }
    }

    /// Moves the point up to a version, if that is after it.
    pub fn raise(&mut self, version: &ResourceVersion) {
        if Self::covers(self, Some(version)) == Some(false) {
            *self = Self::At(version.clone());
        }
    }

    /// The later of two points.
    #[must_use]
    pub fn max(mut self, other: &Self) -> Self {
        match other {
            Self::Start => self,
            Self::At(version) => {
                self.raise(version);
                self
            }
            Self::End => Self::End,
        }
    }
}

/// On disk: `""`, a version, or `null`.
impl Serialize for Mark {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Start => Some(""),
            Self::At(version) => Some(version.as_str()),
            Self::End => None,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Mark {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        Ok(text.map_or(Self::End, |text| {
            ResourceVersion::new(&text).map_or(Self::Start, Self::At)
        }))
    }
}

/// How much a removal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// There is no such object.
    Gone,
    /// It was changed or removed, and what became of it was not shown.
    Unclear,
}

/// Word that an object is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removal {
    /// What it says.
    pub outcome: Outcome,
    /// The object that is meant; empty if all that is known is its name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// What had been shown when it was asked for: all that is older.
    pub floor: Mark,
    /// What had been shown when it was told, or had been asked for: only what is beyond is newer.
    pub ceiling: Mark,
}

/// How a sighting stands to a removal; of several the first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// It shows what is removed.
    Older,
    /// Nobody can tell.
    Unclear,
    /// It shows what came after.
    Newer,
}

impl Removal {
    /// How a sighting stands to it.
    pub fn relation(&self, seen: &Sighting) -> Relation {
        let version = seen.version.as_ref();
        let is_after = self.ceiling.covers(version) == Some(false);
        if !self.uid.is_empty() && self.uid == seen.uid {
            // A uid that is gone never comes back.
            return match self.outcome {
                Outcome::Gone => Relation::Older,
                Outcome::Unclear if is_after => Relation::Newer,
                Outcome::Unclear => Relation::Unclear,
            };
        }
        if self.floor.covers(version) == Some(true) {
            Relation::Older
        } else if is_after {
            Relation::Newer
        } else {
            Relation::Unclear
        }
    }

    /// Whether it was asked for when all had been shown that the other may mean.
    fn is_after(&self, other: &Self) -> bool {
        match &other.ceiling {
            Mark::Start => true,
            Mark::At(version) => self.floor.covers(Some(version)) == Some(true),
            Mark::End => false,
        }
    }
}

/// One object as one source shows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sighting {
    /// The object's version; `None` if it has none.
    pub version: Option<ResourceVersion>,
    /// Its uid; may be empty.
    pub uid: String,
    /// R of the view that holds it: up to there it had not changed.
    pub at: Option<ResourceVersion>,
}

impl Sighting {
    /// The last version at which it is known to have been so.
    fn position(&self) -> Option<&ResourceVersion> {
        match (&self.at, &self.version) {
            (Some(at), Some(version)) if version.is_after(at) => Some(version),
            (Some(at), _) => Some(at),
            (None, version) => version.as_ref(),
        }
    }
}

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Newest {
    /// It exists, at this version: any sighting of that version shows it.
    Seen(Option<ResourceVersion>),
    /// It does not exist.
    Absent,
    /// Nothing is known, or what is known contradicts itself.
    Unknown,
}

/// All that was told of one object.
#[derive(Debug, Default)]
pub struct Told {
    /// Where it was seen.
    pub sightings: Vec<Sighting>,
    /// The highest R of the views that would hold it and do not.
    pub missing: Option<ResourceVersion>,
    /// The last word that it is gone, of each way in which it is asked for.
    pub removals: Vec<Removal>,
}

impl Told {
    /// Whether there is no word of it at all.
    pub fn is_nothing(&self) -> bool {
        self.sightings.is_empty() && self.missing.is_none() && self.removals.is_empty()
    }

    /// The newest of it, for a reader who knows the state at `not_before` and takes nothing older.
    pub fn newest(&self, not_before: Option<&ResourceVersion>) -> Newest {
        let newest = self.newest_of_all();
        let reaches = |at: &ResourceVersion| {
            not_before.is_none_or(|wanted| at.compare(wanted).is_some_and(|order| order != Ordering::Less))
        };
        let is_enough = match &newest {
            _ if not_before.is_none() => true,
            Newest::Unknown => true,
            Newest::Seen(version) => self
                .sightings
                .iter()
                .any(|seen| seen.version == *version && seen.position().is_some_and(reaches)),
            Newest::Absent => {
                let mut floors = self.removals.iter().map(|removal| &removal.floor);
                self.missing.as_ref().is_some_and(reaches)
                    || floors.any(|floor| matches!(floor, Mark::At(floor) if reaches(floor)))
            }
        };
        if is_enough { newest } else { Newest::Unknown }
    }

    fn newest_of_all(&self) -> Newest {
        let relation = |seen: &Sighting| self.relation(seen);
        let mut newest: Option<&Sighting> = None;
        for seen in self
            .sightings
            .iter()
            .filter(|seen| relation(seen) != Relation::Older)
        {
            newest = match newest {
                None => Some(seen),
                Some(best) => match later(best, seen) {
                    Some(later) => Some(later),
                    None => return Newest::Unknown,
                },
            };
        }
        match newest {
            Some(seen) => self.unless_missing(seen, relation(seen)),
            None => self.without_sightings(),
        }
    }

    /// How a sighting stands to all removals.
    fn relation(&self, seen: &Sighting) -> Relation {
        let relations = self.removals.iter().map(|removal| removal.relation(seen));
        relations.min().unwrap_or(Relation::Newer)
    }

    fn unless_missing(&self, seen: &Sighting, relation: Relation) -> Newest {
        let missing_since = match (&self.missing, seen.position()) {
            (None, _) => Some(Ordering::Less),
            (Some(missing), Some(position)) => missing.compare(position),
            (Some(_), None) => None,
        };
        match (missing_since, relation) {
            (Some(Ordering::Greater), _) => Newest::Absent,
            (None, _) | (_, Relation::Older | Relation::Unclear) => Newest::Unknown,
            (Some(_), Relation::Newer) => Newest::Seen(seen.version.clone()),
        }
    }

    fn without_sightings(&self) -> Newest {
        let is_told = |removal: &Removal| match removal.outcome {
            Outcome::Gone => true,
            // What became of it has been told since.
            Outcome::Unclear => {
                let mut gone = self
                    .removals
                    .iter()
                    .filter(|other| other.outcome == Outcome::Gone);
                removal.ceiling.covers(self.missing.as_ref()) == Some(false)
                    || gone.any(|gone| gone.is_after(removal))
            }
        };
        let is_known = !self.removals.is_empty() || self.missing.is_some();
        if is_known && self.removals.iter().all(is_told) {
            Newest::Absent
        } else {
            Newest::Unknown
        }
    }
}

/// The later of two sightings, the first of two equal ones; `None` where that cannot be told. One without version says
/// nothing beside one that has it.
fn later<'a>(one: &'a Sighting, other: &'a Sighting) -> Option<&'a Sighting> {
    match (&one.version, &other.version) {
        (_, None) => Some(one),
        (None, Some(_)) => Some(other),
        (Some(a), Some(b)) => match a.compare(b)? {
            Ordering::Less => Some(other),
            // The same object: the view that vouches for it longest says most.
            Ordering::Equal => match (one.position(), other.position()) {
                (Some(a), Some(b)) if b.is_after(a) => Some(other),
                _ => Some(one),
            },
            Ordering::Greater => Some(one),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rv(text: &str) -> Option<ResourceVersion> {
        ResourceVersion::new(text)
    }

    fn at(text: &str) -> Mark {
        rv(text).map_or(Mark::Start, Mark::At)
    }

    /// `version`, or `version@R`, or `version@R/uid`.
    fn seen(text: &str) -> Sighting {
        let (text, uid) = text.split_once('/').unwrap_or((text, ""));
        let (version, position) = text.split_once('@').unwrap_or((text, ""));
        Sighting {
            version: rv(version),
            uid: uid.to_owned(),
            at: rv(position),
        }
    }

    fn gone(floor: &str, ceiling: &str, uid: &str) -> Option<Removal> {
        Some(Removal {
            outcome: Outcome::Gone,
            uid: uid.to_owned(),
            floor: at(floor),
            ceiling: at(ceiling),
        })
    }

    fn told(sightings: &[&str], missing: &str, removal: Option<Removal>) -> Told {
        Told {
            sightings: sightings.iter().map(|text| seen(text)).collect(),
            missing: rv(missing),
            removals: removal.into_iter().collect(),
        }
    }

    #[test]
    fn versions_decide_between_sightings_and_absences() {
        for (sightings, missing, expected) in [
            (vec![], "", Newest::Unknown),
            (vec![], "10", Newest::Absent),
            (vec!["9", "100", "99"], "", Newest::Seen(rv("100"))),
            (vec!["99"], "100", Newest::Absent),
            (vec!["101"], "100", Newest::Seen(rv("101"))),
            // It did not change between 50 and 120, so it was there at 100 too.
            (vec!["50@120"], "100", Newest::Seen(rv("50"))),
            (vec!["50@90"], "100", Newest::Absent),
            (vec!["a", "b"], "", Newest::Unknown),
            (vec!["a", "a"], "", Newest::Seen(rv("a"))),
            (vec!["a"], "100", Newest::Unknown),
            // A Table's row count has no version.
            (vec!["", "5"], "", Newest::Seen(rv("5"))),
            (vec![""], "", Newest::Seen(None)),
        ] {
            let told = told(&sightings, missing, None);
            assert_eq!(told.newest(None), expected, "{told:?}");
        }
    }

    #[test]
    fn a_removal_is_placed_by_what_had_been_shown() {
        for (sightings, missing, removal, expected) in [
            (vec![], "", gone("", "", ""), Newest::Absent),
            (vec!["99"], "", gone("100", "100", ""), Newest::Absent),
            (vec!["50@100"], "", gone("100", "100", ""), Newest::Absent),
            (vec!["101"], "", gone("100", "100", ""), Newest::Seen(rv("101"))),
            // Shown while the 404 was under way: either may have been first.
            (vec!["105"], "", gone("100", "110", ""), Newest::Unknown),
            (vec!["105"], "108", gone("100", "110", ""), Newest::Absent),
            (
                vec!["105", "111"],
                "",
                gone("100", "110", ""),
                Newest::Seen(rv("111")),
            ),
            (vec!["x"], "", gone("100", "110", ""), Newest::Unknown),
            // A view that has gone on since still shows what was deleted, until it hears of it.
            (vec!["50@120/u"], "", gone("100", "100", "u"), Newest::Absent),
            (vec!["119@120/u"], "", gone("100", "100", "u"), Newest::Absent),
            (
                vec!["119@120/v"],
                "",
                gone("100", "100", "u"),
                Newest::Seen(rv("119")),
            ),
        ] {
            let told = told(&sightings, missing, removal);
            assert_eq!(told.newest(None), expected, "{told:?}");
        }
    }

    #[test]
    fn what_became_unclear_is_unknown_until_something_newer_is_told() {
        let unclear = |floor: &str, ceiling: &str, uid: &str| {
            gone(floor, ceiling, uid).map(|removal| Removal {
                outcome: Outcome::Unclear,
                ..removal
            })
        };
        for (sightings, missing, removal, expected) in [
            (vec![], "", unclear("", "100", ""), Newest::Unknown),
            (vec![], "100", unclear("", "100", ""), Newest::Unknown),
            (vec![], "101", unclear("", "100", ""), Newest::Absent),
            (vec!["99"], "", unclear("", "100", "u"), Newest::Unknown),
            (vec!["99/u"], "", unclear("", "99", "u"), Newest::Unknown),
            (vec!["101/u"], "", unclear("", "99", "u"), Newest::Seen(rv("101"))),
        ] {
            let told = told(&sightings, missing, removal);
            assert_eq!(told.newest(None), expected, "{told:?}");
        }
    }

    #[test]
    fn of_several_removals_none_is_contradicted() {
        let unclear = |floor: &str, ceiling: &str| Removal {
            outcome: Outcome::Unclear,
            ..gone(floor, ceiling, "").unwrap()
        };
        let gone = |floor: &str, ceiling: &str| gone(floor, ceiling, "").unwrap();
        for (sightings, missing, removals, expected) in [
            (
                vec!["105"],
                "",
                vec![gone("100", "100"), gone("110", "110")],
                Newest::Absent,
            ),
            (
                vec!["111"],
                "",
                vec![gone("100", "100"), gone("110", "110")],
                Newest::Seen(rv("111")),
            ),
            (
                vec!["105"],
                "",
                vec![gone("90", "90"), gone("100", "110")],
                Newest::Unknown,
            ),
            (
                vec![],
                "",
                vec![gone("90", "90"), unclear("100", "110")],
                Newest::Unknown,
            ),
            (
                vec![],
                "",
                vec![gone("110", "120"), unclear("100", "110")],
                Newest::Absent,
            ),
            (
                vec![],
                "111",
                vec![gone("90", "90"), unclear("100", "110")],
                Newest::Absent,
            ),
        ] {
            let told = Told {
                removals,
                ..told(&sightings, missing, None)
            };
            assert_eq!(told.newest(None), expected, "{told:?}");
        }
    }

    #[test]
    fn who_knows_a_version_is_told_nothing_older() {
        let at_least = |told: &Told, version: &str| told.newest(rv(version).as_ref());
        let object = told(&["50@100"], "", None);
        assert_eq!(at_least(&object, "100"), Newest::Seen(rv("50")));
        assert_eq!(at_least(&object, "101"), Newest::Unknown);
        assert_eq!(at_least(&told(&["50"], "", None), "51"), Newest::Unknown);
        assert_eq!(at_least(&told(&["50"], "", None), "50"), Newest::Seen(rv("50")));
        assert_eq!(at_least(&told(&[], "100", None), "100"), Newest::Absent);
        assert_eq!(at_least(&told(&[], "100", None), "101"), Newest::Unknown);
        assert_eq!(
            at_least(&told(&[], "", gone("100", "100", "")), "101"),
            Newest::Unknown
        );
    }

    #[test]
    fn a_removal_is_read_as_it_was_written() {
        for mark in [Mark::Start, at("7"), Mark::End] {
            let removal = Removal {
                outcome: Outcome::Unclear,
                uid: "u".to_owned(),
                floor: at("5"),
                ceiling: mark,
            };
            let text = serde_json::to_string(&removal).unwrap();
            assert_eq!(serde_json::from_str::<Removal>(&text).unwrap(), removal, "{text}");
        }
    }
}
