//! File events: which directory entries a path resolves through, and who wants to hear when one of them changes.
//!
//! Kubelet swaps `kubelet-client-current.pem`, Secret volumes swap `..data`, and before a node joins the directory
//! may not exist. So what is watched is each *entry* whose replacement changes what the path means: every symlink on
//! the way, the file itself, or the first part that does not exist yet.
//!
//! Only makes the timer's looks come sooner: nothing depends on an event, and without inotify all goes on.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsString;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// As the kernel's own limit (`ELOOP`).
const LINK_LIMIT: usize = 40;

/// A directory and the name in it that matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    dir: PathBuf,
    name: OsString,
    /// Device and inode of the directory: another one under the same path needs another watch.
    id: (u64, u64),
}

/// The entries that `path` resolves through. Blocking. Errors end the walk: the timer covers the rest.
pub(crate) fn entries(path: &Path) -> Vec<Entry> {
    let mut found = Vec::new();
    let mut links = 0;
    let Ok(path) = std::path::absolute(path) else {
        return found;
    };
    let mut at = PathBuf::from("/");
    let mut ahead: VecDeque<OsString> = names(&path);
    while let Some(name) = ahead.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        match std::fs::symlink_metadata(&next) {
            Ok(metadata) if metadata.is_symlink() => {
                push(&mut found, &at, name);
                links += 1;
                let Ok(target) = std::fs::read_link(&next) else {
                    break;
                };
                if links > LINK_LIMIT {
                    break;
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                for name in names(&target).into_iter().rev() {
                    ahead.push_front(name);
                }
            }
            Ok(_) if !ahead.is_empty() => at = next,
            // The file itself, or the first part that is missing.
            _ => {
                push(&mut found, &at, name);
                break;
            }
        }
    }
    found
}

fn push(found: &mut Vec<Entry>, dir: &Path, name: OsString) {
    if let Ok(metadata) = std::fs::metadata(dir) {
        found.push(Entry {
            dir: dir.to_owned(),
            name,
            id: (metadata.dev(), metadata.ino()),
        });
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            Component::Prefix(_) | Component::RootDir | Component::CurDir => None,
        })
        .collect()
}

/// What the event thread and the driver share: bounded by the number of files, however many events come.
#[derive(Default)]
struct Shared {
    /// Who wants to hear of a path: indices of the driver's items.
    interest: ArcSwap<HashMap<PathBuf, Vec<usize>>>,
    changed: Mutex<BTreeSet<usize>>,
    /// Watched directories that were removed or moved: their watch is dead.
    gone: Mutex<HashSet<PathBuf>>,
    bell: Notify,
}

impl Shared {
    fn hear(&self, event: &notify::Result<notify::Event>) {
        let interest = self.interest.load();
        let Ok(event) = event else {
            return self.ring(interest.values().flatten().copied());
        };
        // Our own reads are events as well: heeding them would make a loop.
        if matches!(
            event.kind,
            EventKind::Access(AccessKind::Read | AccessKind::Open(_) | AccessKind::Close(AccessMode::Read))
        ) {
            return;
        }
        if event.need_rescan() {
            return self.ring(interest.values().flatten().copied());
        }
        for path in &event.paths {
            if let Some(items) = interest.get(path) {
                if matches!(
                    event.kind,
                    EventKind::Remove(_) | EventKind::Modify(notify::event::ModifyKind::Name(_))
                ) {
                    self.gone.lock().insert(path.clone());
                }
                self.ring(items.iter().copied());
            }
        }
    }

    fn ring(&self, items: impl Iterator<Item = usize>) {
        self.changed.lock().extend(items);
        self.bell.notify_one();
    }
}

/// Says once for the whole process that there are no file events: they are lacking for every file alike.
fn polled(error: &notify::Error) {
    static SPOKE: AtomicBool = AtomicBool::new(false);
    if !SPOKE.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            %error,
            "no file events (fs.inotify.max_user_instances or max_user_watches is used up): changed files are only noticed \
             by the timer, every 30 minutes unless certificates.reloadInterval says otherwise"
        );
    }
}

/// Whether a look that began before [`FileEvents::follow`] can have missed a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coverage {
    /// All was watched already.
    Kept,
    /// Something is watched only from now on.
    Extended,
}

/// The watches of one driver.
pub(crate) struct FileEvents {
    shared: Arc<Shared>,
    watcher: Option<RecommendedWatcher>,
    entries: HashMap<usize, Vec<Entry>>,
    watched: HashMap<PathBuf, (u64, u64)>,
    /// Directories whose failure has been logged.
    refused: HashSet<PathBuf>,
}

impl FileEvents {
    pub(crate) fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let heard = Arc::clone(&shared);
        let watcher = notify::recommended_watcher(move |event| heard.hear(&event))
            .inspect_err(polled)
            .ok();
        Self {
            shared,
            watcher,
            entries: HashMap::new(),
            watched: HashMap::new(),
            refused: HashSet::new(),
        }
    }

    /// As on a node whose inotify limit is reached.
    #[cfg(test)]
    pub(crate) fn deaf() -> Self {
        Self {
            watcher: None,
            ..Self::start()
        }
    }

    /// The items that changed since the last call; waits for at least one.
    pub(crate) async fn changed(&self) -> BTreeSet<usize> {
        loop {
            let changed = std::mem::take(&mut *self.shared.changed.lock());
            if !changed.is_empty() {
                return changed;
            }
            self.shared.bell.notified().await;
        }
    }

    /// From now on `item` is told of changes of these entries, and of no others.
    pub(crate) fn follow(&mut self, item: usize, entries: Vec<Entry>) -> Coverage {
        for dir in self.shared.gone.lock().drain() {
            self.watched.remove(&dir);
        }
        let known = self.entries.get(&item) == Some(&entries);
        if known
            && entries
                .iter()
                .all(|entry| self.watched.get(&entry.dir) == Some(&entry.id))
        {
            return Coverage::Kept;
        }
        self.entries.insert(item, entries);
        // Interest first: an event between the two steps is then heard.
        self.shared.interest.store(Arc::new(self.interest()));
        let watched = self.rewatch();
        // A directory that another item has had watched all along told nobody of this item's entries.
        if known || self.watcher.is_none() {
            watched
        } else {
            Coverage::Extended
        }
    }

    fn interest(&self) -> HashMap<PathBuf, Vec<usize>> {
        let mut interest: HashMap<PathBuf, Vec<usize>> = HashMap::new();
        for (item, entries) in &self.entries {
            for entry in entries {
                interest
                    .entry(entry.dir.join(&entry.name))
                    .or_default()
                    .push(*item);
                interest.entry(entry.dir.clone()).or_default().push(*item);
            }
        }
        interest
    }

    fn rewatch(&mut self) -> Coverage {
        let Some(watcher) = &mut self.watcher else {
            return Coverage::Kept;
        };
        let wanted: HashMap<&Path, (u64, u64)> = self
            .entries
            .values()
            .flatten()
            .map(|entry| (entry.dir.as_path(), entry.id))
            .collect();
        self.watched.retain(|dir, id| {
            let keep = wanted.get(dir.as_path()) == Some(id);
            if !keep {
                // Fails if the directory is gone, and the watch with it.
                let _ = watcher.unwatch(dir);
            }
            keep
        });
        let mut coverage = Coverage::Kept;
        for (dir, id) in wanted {
            if self.watched.contains_key(dir) {
                continue;
            }
            match watcher.watch(dir, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(dir.to_owned(), id);
                    self.refused.remove(dir);
                    coverage = Coverage::Extended;
                }
                Err(error) if matches!(error.kind, notify::ErrorKind::MaxFilesWatch) => polled(&error),
                Err(error) => {
                    if self.refused.insert(dir.to_owned()) {
                        tracing::warn!(dir = %dir.display(), %error, "no file events for this directory: its changes are noticed by the timer alone");
                    }
                }
            }
        }
        coverage
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::event::{CreateKind, ModifyKind, RenameMode};
    use std::os::unix::fs::symlink;

    #[allow(clippy::disallowed_methods)] // tests stand for the programs that write files
    fn write(path: &Path, text: &str) {
        std::fs::write(path, text).unwrap();
    }

    #[allow(clippy::disallowed_methods)] // as above
    fn rename(from: &Path, to: &Path) {
        std::fs::rename(from, to).unwrap();
    }

    fn walked(path: &Path, base: &Path) -> Vec<String> {
        let within = |entry: &Entry| {
            entry
                .dir
                .join(&entry.name)
                .strip_prefix(base)
                .ok()?
                .to_str()
                .map(str::to_owned)
        };
        entries(path).iter().filter_map(within).collect()
    }

    #[test]
    fn every_link_on_the_way_counts_and_the_file_itself() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("..2024")).unwrap();
        write(&base.join("..2024/tls.crt"), "x");
        symlink("..2024", base.join("..data")).unwrap();
        symlink("..data/tls.crt", base.join("tls.crt")).unwrap();
        assert_eq!(
            walked(&base.join("tls.crt"), &base),
            ["tls.crt", "..data", "..2024/tls.crt"]
        );
    }

    #[test]
    fn absolute_links_and_steps_up_are_followed() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        std::fs::create_dir(base.join("a")).unwrap();
        std::fs::create_dir(base.join("b")).unwrap();
        write(&base.join("b/file"), "x");
        symlink("../b/file", base.join("a/relative")).unwrap();
        symlink(base.join("b/file"), base.join("a/absolute")).unwrap();
        assert_eq!(walked(&base.join("a/relative"), &base), ["a/relative", "b/file"]);
        assert_eq!(walked(&base.join("a/absolute"), &base), ["a/absolute", "b/file"]);
    }

    #[test]
    fn of_a_path_that_does_not_exist_the_first_missing_part_counts() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        assert_eq!(walked(&base.join("pki/deep/file"), &base), ["pki"]);
    }

    #[test]
    fn a_circle_of_links_ends() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        symlink("b", base.join("a")).unwrap();
        symlink("a", base.join("b")).unwrap();
        assert!(walked(&base.join("a"), &base).len() <= LINK_LIMIT + 1);
    }

    #[test]
    fn our_own_reads_are_not_heard_and_unrelated_files_are_not() {
        let shared = Shared::default();
        shared
            .interest
            .store(Arc::new(HashMap::from([(PathBuf::from("/d/file"), vec![3])])));
        let tell = |kind, path: &str| {
            shared.hear(&Ok(notify::Event::new(kind).add_path(path.into())));
            std::mem::take(&mut *shared.changed.lock())
        };
        assert!(tell(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/d/file").is_empty());
        assert!(tell(EventKind::Access(AccessKind::Close(AccessMode::Read)), "/d/file").is_empty());
        assert!(tell(EventKind::Create(CreateKind::File), "/d/other").is_empty());
        assert_eq!(
            tell(EventKind::Access(AccessKind::Close(AccessMode::Write)), "/d/file"),
            BTreeSet::from([3])
        );
        assert_eq!(
            tell(EventKind::Modify(ModifyKind::Name(RenameMode::To)), "/d/file"),
            BTreeSet::from([3])
        );
    }

    #[test]
    fn after_lost_events_everything_is_looked_at() {
        let shared = Shared::default();
        shared.interest.store(Arc::new(HashMap::from([
            ("/a".into(), vec![0]),
            ("/b".into(), vec![1]),
        ])));
        shared.hear(&Ok(
            notify::Event::new(EventKind::Other).set_flag(notify::event::Flag::Rescan)
        ));
        assert_eq!(*shared.changed.lock(), BTreeSet::from([0, 1]));
    }

    #[test]
    fn a_second_item_in_a_watched_directory_may_have_missed_a_change_too() {
        let temp = tempfile::tempdir().unwrap();
        let mut events = FileEvents::start();
        for item in [0, 1] {
            let entries = entries(&temp.path().join(item.to_string()));
            assert_eq!(events.follow(item, entries.clone()), Coverage::Extended);
            assert_eq!(events.follow(item, entries), Coverage::Kept);
        }
    }

    #[test]
    fn without_a_watcher_nothing_is_looked_at_twice() {
        let temp = tempfile::tempdir().unwrap();
        assert_eq!(
            FileEvents::deaf().follow(0, entries(&temp.path().join("a"))),
            Coverage::Kept
        );
    }

    #[test]
    fn a_recreated_directory_is_watched_again() {
        let temp = tempfile::tempdir().unwrap();
        let base = temp.path().canonicalize().unwrap();
        let dir = base.join("pki");
        std::fs::create_dir(&dir).unwrap();
        let mut events = FileEvents::start();
        let path = dir.join("file");
        assert_eq!(events.follow(0, entries(&path)), Coverage::Extended);
        assert_eq!(events.follow(0, entries(&path)), Coverage::Kept);
        rename(&dir, &base.join("old"));
        std::fs::create_dir(&dir).unwrap();
        assert_eq!(events.follow(0, entries(&path)), Coverage::Extended);
    }
}
