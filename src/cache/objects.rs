//! Object entries of one principal: single GET answers, remembered absences and refusals, in one log.
//!
//! An entry says what the apiserver last answered for exactly this path: the object (per representation), 404 or 403.
//! A newer answer replaces an older one; of two answers that were under way together, the later resourceVersion wins.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::Deserialize;

use crate::kube::media::{Encoding, Representation, Shape};
use crate::kube::version::ResourceVersion;
use crate::runtime::clock;
use crate::store::{Change, Log, LogId, Store, StoreError};
use crate::wire::object::read_object;

/// The name of the log that holds a principal's entries.
pub(super) const LOG_NAME: &str = "objects";

const HEADER: &[u8] = br#"{"kind":"objects","version":1}"#;

/// The order in which requests were sent and their answers recorded, in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Moment(pub(super) u64);

/// What is known of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Known {
    /// The answer, in this representation.
    Object {
        body: Bytes,
        representation: Representation,
        validated: SystemTime,
    },
    /// The apiserver said 404, and nothing was seen since.
    Absent { since: SystemTime },
    /// The apiserver said 403: nothing else may be told either.
    Withdrawn,
    /// Nothing.
    Unknown,
}

/// An object answer to be recorded.
pub(super) struct Answered {
    pub(super) path: String,
    pub(super) representation: Representation,
    pub(super) body: Vec<u8>,
    /// The request had a resourceVersion: the answer may be older than what is known.
    pub(super) may_lag: bool,
    /// When the request was sent, and when its answer is recorded.
    pub(super) sent: Moment,
    pub(super) recorded: Moment,
}

/// The entries of one principal. Lives on a strand: it blocks.
pub(super) struct Objects {
    store: Arc<dyn Store>,
    id: LogId,
    log: Option<Arc<dyn Log>>,
    fresh: HashMap<Box<[u8]>, Fresh>,
}

/// What this process saw of an entry.
#[derive(Clone, Copy)]
struct Fresh {
    validated: SystemTime,
    recorded: Moment,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    Object,
    Absent,
    Withdrawn,
}

impl Mark {
    fn byte(self) -> u8 {
        match self {
            Self::Object => 0,
            Self::Absent => 1,
            Self::Withdrawn => 2,
        }
    }
}

impl Objects {
    pub(super) fn new(store: Arc<dyn Store>, owner: &str) -> Self {
        Self {
            store,
            id: LogId::new(owner, LOG_NAME),
            log: None,
            fresh: HashMap::new(),
        }
    }

    /// Records a 2xx answer to a GET, if that is possible.
    pub(super) fn keep(&mut self, answered: &Answered) {
        if let Err(error) = self.answered(answered) {
            tracing::warn!(path = %answered.path, %error, "an object could not be kept");
            self.reopen();
        }
    }

    /// Records a 2xx answer to a GET. `Ok(false)`: what is known is newer, or the body is not the object that the
    /// path names.
    pub(super) fn answered(&mut self, answered: &Answered) -> Result<bool, StoreError> {
        let key = object_key(&answered.path, &answered.representation);
        let stored = match self.log()? {
            Some(log) => log.get(&key)?.and_then(|value| decode(&value)),
            None => None,
        };
        let stored = stored.map(|(mark, _, body)| (mark, body));
        // Most answers say what is known: those need not be read.
        let unchanged = matches!(&stored, Some((Mark::Object, body)) if **body == answered.body);
        let is_older = |body: &[u8]| self.is_newer(&key, body, answered);
        if !unchanged && (!is_object_of(answered) || stored.is_some_and(|(_, body)| is_older(&body))) {
            return Ok(false);
        }
        let log = self.log_or_create()?;
        let validated = clock::wall();
        if !unchanged {
            let value = encode(Mark::Object, validated, &answered.body);
            log.append(
                Change::Put {
                    key: &key,
                    value: &value,
                },
                "",
                validated,
            )?;
        }
        self.unmark(&log, &answered.path)?;
        self.fresh.insert(
            key.into(),
            Fresh {
                validated,
                recorded: answered.recorded,
            },
        );
        Ok(true)
    }

    /// Whether the stored answer must not be replaced by this one.
    fn is_newer(&self, key: &[u8], stored: &[u8], answered: &Answered) -> bool {
        let together = self
            .fresh
            .get(key)
            .is_some_and(|fresh| fresh.recorded > answered.sent);
        if !together && !answered.may_lag {
            return false;
        }
        let version = |body: &[u8]| {
            let object = read_object(answered.representation.encoding, body).ok()?;
            ResourceVersion::new(&object.meta.resource_version)
        };
        match (version(stored), version(&answered.body)) {
            (Some(stored), Some(answered)) => stored.is_after(&answered),
            _ => together,
        }
    }

    /// Records a 404 that was `seen` then: the object's entries go, and its absence is remembered.
    pub(super) fn absent(&mut self, path: &str, seen: SystemTime) -> Result<(), StoreError> {
        if !self.is_only(path, Mark::Absent)? {
            self.forget(path)?;
            self.mark(path, Mark::Absent, seen)?;
        }
        self.fresh.insert(
            mark_key(path).into(),
            Fresh {
                validated: seen,
                recorded: Moment::default(),
            },
        );
        Ok(())
    }

    /// Records a 403: what was kept of this path goes, also from disk.
    pub(super) fn withdrawn(&mut self, path: &str) -> Result<(), StoreError> {
        if self.is_only(path, Mark::Withdrawn)? {
            return Ok(());
        }
        let had = self.forget(path)?;
        self.mark(path, Mark::Withdrawn, clock::wall())?;
        match self.log()? {
            Some(log) if had => log.scrub(),
            _ => Ok(()),
        }
    }

    /// Drops what is known of a path, after a DELETE. Gives whether there was anything.
    pub(super) fn forget(&mut self, path: &str) -> Result<bool, StoreError> {
        let Some(log) = self.log()? else { return Ok(false) };
        let mut had = false;
        for key in keys_of(path) {
            if log.contains(&key) {
                log.append(Change::Delete { key: &key }, "", clock::wall())?;
                self.fresh.remove(key.as_slice());
                had = true;
            }
        }
        Ok(had)
    }

    /// Drops what is known of every object of a collection. Its selector is not looked at: what was not deleted is
    /// read again sooner or later, what was must not be told any more.
    pub(super) fn forget_below(&mut self, collection: &str) -> Result<(), StoreError> {
        let Some(log) = self.log()? else { return Ok(()) };
        for entry in log.snapshot_of(format!("{collection}/").as_bytes()).entries() {
            let (key, _) = entry?;
            log.append(Change::Delete { key: &key }, "", clock::wall())?;
            self.fresh.remove(&*key);
        }
        Ok(())
    }

    /// Whether anything is known of a path, be it its absence: only then does the answer to a write refresh it.
    pub(super) fn knows(&mut self, path: &str) -> Result<bool, StoreError> {
        let Some(log) = self.log()? else { return Ok(false) };
        Ok(keys_of(path).any(|key| log.contains(&key)))
    }

    /// What is known of a path, in the first of these representations that there is.
    pub(super) fn known(&mut self, path: &str, wanted: &[Representation]) -> Result<Known, StoreError> {
        let Some(log) = self.log()? else {
            return Ok(Known::Unknown);
        };
        if let Some((mark, since, _)) = log.get(&mark_key(path))?.and_then(|value| decode(&value)) {
            return Ok(match mark {
                Mark::Absent => Known::Absent {
                    since: self
                        .fresh
                        .get(mark_key(path).as_slice())
                        .map_or(since, |fresh| fresh.validated),
                },
                Mark::Withdrawn | Mark::Object => Known::Withdrawn,
            });
        }
        for representation in wanted {
            let key = object_key(path, representation);
            let Some((Mark::Object, written, body)) = log.get(&key)?.and_then(|value| decode(&value)) else {
                continue;
            };
            let validated = self
                .fresh
                .get(key.as_slice())
                .map_or(written, |fresh| fresh.validated);
            return Ok(Known::Object {
                body,
                representation: representation.clone(),
                validated,
            });
        }
        Ok(Known::Unknown)
    }

    /// Whether this refusal is all that is known of a path: then there is nothing to write.
    fn is_only(&mut self, path: &str, refusal: Mark) -> Result<bool, StoreError> {
        let Some(log) = self.log()? else { return Ok(false) };
        let held = log.get(&mark_key(path))?.and_then(|value| decode(&value));
        let same = held.is_some_and(|(mark, ..)| mark == refusal);
        let mut objects = Representation::all().map(|representation| object_key(path, &representation));
        Ok(same && !objects.any(|key| log.contains(&key)))
    }

    fn mark(&mut self, path: &str, mark: Mark, at: SystemTime) -> Result<(), StoreError> {
        let value = encode(mark, at, &[]);
        let log = self.log_or_create()?;
        log.append(
            Change::Put {
                key: &mark_key(path),
                value: &value,
            },
            "",
            at,
        )?;
        Ok(())
    }

    fn unmark(&mut self, log: &Arc<dyn Log>, path: &str) -> Result<(), StoreError> {
        let key = mark_key(path);
        self.fresh.remove(key.as_slice());
        if log.contains(&key) {
            log.append(Change::Delete { key: &key }, "", clock::wall())?;
        }
        Ok(())
    }

    fn log(&mut self) -> Result<Option<Arc<dyn Log>>, StoreError> {
        if self.log.is_none() {
            self.log = self.store.load(&self.id)?;
        }
        Ok(self.log.clone())
    }

    fn log_or_create(&mut self) -> Result<Arc<dyn Log>, StoreError> {
        if let Some(log) = self.log()? {
            return Ok(log);
        }
        let log = self.store.create(&self.id, HEADER)?;
        self.log = Some(Arc::clone(&log));
        Ok(log)
    }

    /// Whether nothing at all is known.
    pub(super) fn is_void(&mut self) -> bool {
        matches!(self.log(), Ok(None))
    }

    /// Drops every entry: the cluster's history was restarted, what they say belongs to the one that was lost.
    pub(super) fn forget_all(&mut self) -> Result<(), StoreError> {
        self.reopen();
        self.store.remove(&self.id)
    }

    /// Lets go of the handle, so that the next use opens the log anew: after it was removed or broken.
    pub(super) fn reopen(&mut self) {
        self.log = None;
        self.fresh.clear();
    }
}

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

/// A body is kept only if it is what the path names: a gateway's greeting is not.
fn is_object_of(answered: &Answered) -> bool {
    let encoding = answered.representation.encoding;
    if matches!(answered.representation.shape, Shape::Table(_)) {
        return encoding == Encoding::Json
            && serde_json::from_slice::<Kind>(&answered.body).is_ok_and(|body| body.kind == "Table");
    }
    let Ok(object) = read_object(encoding, &answered.body) else {
        return false;
    };
    let metadata_only = object.type_meta.kind == "PartialObjectMetadata";
    let name = answered.path.rsplit('/').next().unwrap_or_default();
    // A subresource (`/scale`, `/status`) is named by the segment before the last.
    let owner = answered.path.rsplit('/').nth(1).unwrap_or_default();
    metadata_only == matches!(answered.representation.shape, Shape::Metadata(_))
        && (object.meta.name == name || object.meta.name == owner)
}

/// `path`, a line feed, the representation: a plain path has no line feed, so keys of two paths never meet.
fn object_key(path: &str, representation: &Representation) -> Vec<u8> {
    format!("{path}\n{representation}").into_bytes()
}

fn mark_key(path: &str) -> Vec<u8> {
    format!("{path}\n!").into_bytes()
}

fn keys_of(path: &str) -> impl Iterator<Item = Vec<u8>> + '_ {
    Representation::all()
        .map(move |representation| object_key(path, &representation))
        .chain([mark_key(path)])
}

/// `mark u8 | nanoseconds since 1970 u64 BE | body`. Nanoseconds, because a refusal is compared with what a view saw
/// in the same second.
fn encode(mark: Mark, at: SystemTime, body: &[u8]) -> Vec<u8> {
    let nanos = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
    let mut value = Vec::with_capacity(9 + body.len());
    value.push(mark.byte());
    value.extend_from_slice(&nanos.to_be_bytes());
    value.extend_from_slice(body);
    value
}

fn decode(value: &Bytes) -> Option<(Mark, SystemTime, Bytes)> {
    let (mark, rest) = value.split_first()?;
    let (nanos, body) = rest.split_first_chunk::<8>()?;
    let mark = [Mark::Object, Mark::Absent, Mark::Withdrawn]
        .into_iter()
        .find(|m| m.byte() == *mark)?;
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(u64::from_be_bytes(*nanos)))?;
    Some((mark, at, value.slice_ref(body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LogStore;

    const PATH: &str = "/api/v1/namespaces/shop/configmaps/a";

    fn objects() -> Objects {
        Objects::new(Arc::new(LogStore::memory().unwrap()), "cn:x")
    }

    fn body(name: &str, version: u64) -> Vec<u8> {
        format!(
            r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"shop","resourceVersion":"{version}"}}}}"#
        )
        .into_bytes()
    }

    fn json() -> Representation {
        Representation::full(Encoding::Json)
    }

    fn answer(version: u64, sent: u64, recorded: u64) -> Answered {
        Answered {
            path: PATH.to_owned(),
            representation: json(),
            body: body("a", version),
            may_lag: false,
            sent: Moment(sent),
            recorded: Moment(recorded),
        }
    }

    fn version_of(objects: &mut Objects) -> Option<String> {
        match objects.known(PATH, &[json()]).unwrap() {
            Known::Object { body, .. } => {
                Some(read_object(Encoding::Json, &body).unwrap().meta.resource_version)
            }
            _ => None,
        }
    }

    #[test]
    fn a_later_answer_replaces_an_earlier_one_even_with_a_lower_version() {
        let mut objects = objects();
        assert!(objects.answered(&answer(20, 1, 2)).unwrap());
        assert!(
            objects.answered(&answer(7, 3, 4)).unwrap(),
            "the cluster was restored from a backup"
        );
        assert_eq!(version_of(&mut objects).unwrap(), "7");
    }

    #[test]
    fn of_two_answers_under_way_together_the_later_version_wins() {
        for (first, second) in [(20, 21), (21, 20)] {
            let mut objects = objects();
            objects.answered(&answer(first, 1, 3)).unwrap();
            objects.answered(&answer(second, 2, 4)).unwrap();
            assert_eq!(version_of(&mut objects).unwrap(), "21");
        }
    }

    #[test]
    fn an_answer_that_may_lag_does_not_take_knowledge_back() {
        let mut objects = objects();
        objects.answered(&answer(20, 1, 2)).unwrap();
        let lagging = Answered {
            may_lag: true,
            ..answer(19, 3, 4)
        };
        assert!(!objects.answered(&lagging).unwrap());
        assert_eq!(version_of(&mut objects).unwrap(), "20");
    }

    #[test]
    fn a_body_that_is_not_the_object_of_the_path_is_not_kept() {
        let mut objects = objects();
        for bad in [
            b"<html>sign in</html>".to_vec(),
            body("b", 1),
            b"{}".to_vec(),
            Vec::new(),
        ] {
            assert!(
                !objects
                    .answered(&Answered {
                        body: bad,
                        ..answer(1, 1, 2)
                    })
                    .unwrap()
            );
        }
        assert_eq!(objects.known(PATH, &[json()]).unwrap(), Known::Unknown);
    }

    #[test]
    fn an_absence_replaces_every_representation_and_ends_with_the_next_sighting() {
        let mut objects = objects();
        objects.answered(&answer(1, 1, 2)).unwrap();
        objects.absent(PATH, clock::wall()).unwrap();
        assert!(matches!(
            objects.known(PATH, &[json()]).unwrap(),
            Known::Absent { .. }
        ));
        assert!(
            objects.knows(PATH).unwrap(),
            "a write that creates it is worth keeping"
        );
        objects.answered(&answer(2, 3, 4)).unwrap();
        assert_eq!(version_of(&mut objects).unwrap(), "2");
    }

    #[test]
    fn what_was_withdrawn_is_told_to_nobody_and_is_not_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(LogStore::open(dir.path()).unwrap());
        let mut objects = Objects::new(Arc::clone(&store), "cn:x");
        objects.answered(&answer(1, 1, 2)).unwrap();
        objects.withdrawn(PATH).unwrap();
        assert_eq!(objects.known(PATH, &[json()]).unwrap(), Known::Withdrawn);
        for entry in std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
        {
            for file in std::fs::read_dir(&entry).into_iter().flatten() {
                let bytes = std::fs::read(file.unwrap().path()).unwrap();
                assert!(!bytes.windows(9).any(|part| part == b"ConfigMap"));
            }
        }
        objects.answered(&answer(2, 3, 4)).unwrap();
        assert_eq!(version_of(&mut objects).unwrap(), "2", "the right was given back");
    }

    #[test]
    fn the_wanted_representation_is_found_and_no_other() {
        let mut objects = objects();
        objects.answered(&answer(1, 1, 2)).unwrap();
        let protobuf = Representation::full(Encoding::Protobuf);
        assert_eq!(
            objects.known(PATH, std::slice::from_ref(&protobuf)).unwrap(),
            Known::Unknown
        );
        assert!(matches!(
            objects.known(PATH, &[protobuf, json()]).unwrap(),
            Known::Object { .. }
        ));
    }

    #[test]
    fn an_equal_answer_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> = Arc::new(LogStore::open(dir.path()).unwrap());
        let mut objects = Objects::new(Arc::clone(&store), "cn:x");
        objects.answered(&answer(1, 1, 2)).unwrap();
        let before = store.stats().bytes;
        objects.answered(&answer(1, 3, 4)).unwrap();
        assert_eq!(store.stats().bytes, before);
    }

    #[test]
    fn entries_survive_a_restart() {
        let store: Arc<dyn Store> = Arc::new(LogStore::memory().unwrap());
        Objects::new(Arc::clone(&store), "cn:x")
            .answered(&answer(5, 1, 2))
            .unwrap();
        let mut again = Objects::new(Arc::clone(&store), "cn:x");
        assert_eq!(version_of(&mut again).unwrap(), "5");
        assert_eq!(
            version_of(&mut Objects::new(store, "cn:y")),
            None,
            "another owner has nothing"
        );
    }
}
