//! The real disk: modes, the lock, the root, what is left in the directory, and stores of older versions.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;

fn all_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(all_files(&path));
        } else {
            files.push(path);
        }
    }
    files
}

fn logs(dir: &Path) -> Vec<PathBuf> {
    let mut files = all_files(dir);
    files.retain(|path| path.file_name().unwrap() != "lock");
    files
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn open_error(root: &Path) -> StoreError {
    match LogStore::open(root) {
        Ok(_) => panic!("{} was opened", root.display()),
        Err(e) => e,
    }
}

#[test]
fn files_are_0600_and_directories_0700_and_an_existing_store_is_put_right() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/b/store");
    let store = LogStore::open(&root).unwrap();
    replace(&store, &pods(), &[("a", "1")], "1").unwrap();
    drop(store);
    let file = logs(&root).remove(0);
    let owner = file.parent().unwrap();
    let check = |root_mode| {
        assert_eq!([mode(&root), mode(owner)], [root_mode, 0o700]);
        assert_eq!([mode(&file), mode(&root.join("lock"))], [0o600, 0o600]);
    };
    check(0o700);
    for (path, wrong) in [(&*root, 0o755), (owner, 0o777), (&*file, 0o644)] {
        fs::set_permissions(path, Permissions::from_mode(wrong)).unwrap();
    }
    drop(LogStore::open(&root).unwrap());
    check(0o755);
}

#[test]
fn the_root_keeps_its_mode_if_it_was_there_before() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o1777)).unwrap();
    let store = LogStore::open(dir.path()).unwrap();
    replace(&store, &pods(), &[("a", "1")], "1").unwrap();
    assert_eq!(mode(dir.path()), 0o1777);
    assert_eq!(mode(logs(dir.path()).remove(0).parent().unwrap()), 0o700);
}

#[test]
fn a_purge_removes_the_store_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let filled = || {
        let store = LogStore::open(&root).unwrap();
        replace(&store, &pods(), &[("a", "1")], "1").unwrap();
        store
    };
    let store = filled();
    let refused = disk::purge(&root).unwrap_err();
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
    drop(store);
    fs::create_dir(root.join("serving")).unwrap();
    fs::File::create(root.join("serving/serving-current.pem")).unwrap();
    disk::purge(&root).unwrap();
    assert!(!root.exists());
    disk::purge(&root).unwrap();

    drop(filled());
    let foreign = [
        root.join("notes"),
        root.join("photos/cat.log"),
        root.join("0".repeat(32)),
    ];
    fs::create_dir(root.join("photos")).unwrap();
    for path in &foreign {
        fs::File::create(path).unwrap();
    }
    disk::purge(&root).unwrap();
    let mut left = all_files(&root);
    left.sort();
    let mut expected = foreign.to_vec();
    expected.sort();
    assert_eq!(left, expected);
    // Now it is no store: a name is not enough.
    fs::create_dir(root.join("1".repeat(32))).unwrap();
    fs::File::create(root.join("1".repeat(32)).join("a.log")).unwrap();
    disk::purge(&root).unwrap();
    assert_eq!(all_files(&root).len(), 4);
}

#[test]
fn a_store_belongs_to_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path()).unwrap();
    let refused = open_error(dir.path());
    assert!(matches!(refused, StoreError::Locked { .. }), "{refused}");
    assert!(refused.to_string().contains("another process"), "{refused}");
    let log = store.create(&pods(), b"").unwrap();
    drop(store);
    // An open log can still be written, so the store is still in use.
    assert!(matches!(open_error(dir.path()), StoreError::Locked { .. }));
    drop(log);
    LogStore::open(dir.path()).unwrap();
}

#[test]
fn a_root_that_is_not_ours_alone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let real = dir.path().join("real");
    fs::create_dir(&real).unwrap();
    let link = dir.path().join("link");
    symlink(&real, &link).unwrap();
    for path in [link.clone(), link.join("")] {
        let refused = open_error(&path);
        assert!(refused.to_string().contains("symbolic link"), "{refused}");
    }
    let file = dir.path().join("file");
    fs::File::create(&file).unwrap();
    assert!(open_error(&file).to_string().contains("not a directory"));
    // As root we can give a directory away; as anyone else the file system's root is not ours.
    let foreign = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&real, Some(12345), None).unwrap();
        real
    } else {
        PathBuf::from("/")
    };
    let refused = open_error(&foreign);
    assert!(refused.to_string().contains("another user"), "{refused}");
}

#[test]
fn what_an_earlier_process_left_half_written_is_removed_at_open() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path()).unwrap();
    replace(&store, &pods(), &[("a", "1")], "1").unwrap();
    let log = logs(dir.path()).remove(0);
    drop(store);
    fs::copy(&log, log.with_extension("tmp")).unwrap();
    fs::copy(&log, log.with_file_name("left-7.tmp")).unwrap();
    fs::create_dir(dir.path().join("0".repeat(32))).unwrap();
    let store = LogStore::open(dir.path()).unwrap();
    assert_eq!(logs(dir.path()), std::slice::from_ref(&log));
    assert!(!dir.path().join("0".repeat(32)).exists());
    assert_eq!(seen(&store, &pods()).unwrap().0, "1");
}

#[test]
fn a_link_among_the_logs_is_not_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("store"), dir.path().join("outside.log"));
    let store = LogStore::open(&root).unwrap();
    replace(&store, &pods(), &[("a", "1")], "1").unwrap();
    drop(store);
    let log = logs(&root).remove(0);
    fs::copy(&log, &outside).unwrap();
    let other = log.with_file_name(format!("{}.log", "0".repeat(32)));
    symlink(&outside, &other).unwrap();
    let store = LogStore::open(&root).unwrap();
    assert_eq!((store.logs().len(), store.stats().quarantined), (1, 0));
    assert!(other.is_symlink());
}

/// Gives a path to another user; `false`, visibly, if only root could.
fn give_away(path: &Path) -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can give a file to another user");
        return false;
    }
    std::os::unix::fs::lchown(path, Some(12345), None).unwrap();
    true
}

/// A store with one log, closed; its file.
fn closed_store(root: &Path) -> PathBuf {
    let store = LogStore::open(root).unwrap();
    replace(&store, &pods(), &[("a", "1")], "1").unwrap();
    drop(store);
    logs(root).remove(0)
}

#[test]
fn another_users_log_is_not_read_and_a_new_one_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let log = closed_store(dir.path());
    if !give_away(&log) {
        return;
    }
    let store = LogStore::open(dir.path()).unwrap();
    assert_eq!((store.logs().len(), store.stats().skipped), (0, 1));
    assert!(seen(&store, &pods()).is_none());
    replace(&store, &pods(), &[("a", "2")], "2").unwrap();
    drop(store);
    assert_eq!(fs::metadata(&log).unwrap().uid(), 0);
    let store = LogStore::open(dir.path()).unwrap();
    assert_eq!(
        (seen(&store, &pods()).unwrap().0, store.stats().skipped),
        ("2".into(), 0)
    );
}

#[test]
fn another_users_directory_is_moved_aside_unread_and_the_principal_is_cached_again() {
    let dir = tempfile::tempdir().unwrap();
    let log = closed_store(dir.path());
    let owner = log.parent().unwrap();
    if !give_away(owner) {
        return;
    }
    assert_moved_aside(dir.path(), owner);
}

#[test]
fn a_link_or_a_file_in_place_of_a_directory_is_moved_aside() {
    for is_link in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("store"), dir.path().join("outside"));
        let log = closed_store(&root);
        let owner = log.parent().unwrap();
        #[allow(clippy::disallowed_methods)] // stands for whoever did it
        fs::rename(owner, &outside).unwrap();
        if is_link {
            symlink(&outside, owner).unwrap();
        } else {
            fs::File::create(owner).unwrap();
        }
        assert_moved_aside(&root, owner);
        assert_eq!(logs(&outside).len(), 1, "nothing behind the link was touched");
    }
}

fn assert_moved_aside(root: &Path, owner: &Path) {
    let store = LogStore::open(root).unwrap();
    assert_eq!((store.logs().len(), store.stats().skipped), (0, 1));
    assert!(seen(&store, &pods()).is_none());
    let name = owner.file_name().unwrap().to_str().unwrap();
    assert!(fs::symlink_metadata(root.join(format!("foreign-{name}"))).is_ok());
    replace(&store, &pods(), &[("a", "2")], "2").unwrap();
    drop(store);
    let store = LogStore::open(root).unwrap();
    assert_eq!(
        (seen(&store, &pods()).unwrap().0, store.stats().skipped),
        ("2".into(), 0)
    );
}

#[test]
fn a_quarantine_that_is_a_link_is_never_cleaned() {
    let dir = tempfile::tempdir().unwrap();
    let (root, outside) = (dir.path().join("store"), dir.path().join("outside"));
    let log = closed_store(&root);
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    let kept = outside.join(format!("{}-{}-1.log", name(log.parent().unwrap()), name(&log)));
    fs::create_dir(&outside).unwrap();
    fs::copy(&log, &kept).unwrap();
    symlink(&outside, root.join("quarantine")).unwrap();
    let store = LogStore::open(&root).unwrap();
    store.remove(&pods()).unwrap();
    assert!(kept.exists());
    assert!(store.logs().is_empty());
}

#[test]
fn an_equal_snapshot_makes_no_file_and_grows_the_log_by_one_small_record() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path()).unwrap();
    let value = "x".repeat(1 << 20);
    let log = replace(&store, &pods(), &[("a", &value), ("b", "2")], "1").unwrap();
    let path = logs(dir.path()).remove(0);
    let before = fs::metadata(&path).unwrap();
    let mut staging = store.stage(&pods()).unwrap();
    staging.put(b"a", value.as_bytes()).unwrap();
    staging.put(b"b", b"2").unwrap();
    assert_eq!(logs(dir.path()), std::slice::from_ref(&path));
    let same = staging.commit(b"header", "2", at(2)).unwrap();
    assert!(Arc::ptr_eq(&log, &same));
    let after = fs::metadata(&path).unwrap();
    assert_eq!(after.ino(), before.ino());
    assert_eq!(after.len() - before.len(), 22);
    // The first difference makes a file, and dropping it removes it.
    let mut staging = store.stage(&pods()).unwrap();
    staging.put(b"a", value.as_bytes()).unwrap();
    staging.put(b"b", b"3").unwrap();
    assert_eq!(logs(dir.path()).len(), 2);
    drop(staging);
    assert_eq!(logs(dir.path()), [path]);
}

#[test]
fn deleted_bytes_are_gone_from_disk_after_a_scrub() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path()).unwrap();
    let log = store.create(&pods(), b"").unwrap();
    log.append(put("secret", "the-password"), "", at(1)).unwrap();
    log.append(put("public", "known"), "", at(1)).unwrap();
    let on_disk = |what: &str| {
        all_files(dir.path()).iter().any(|path| {
            let bytes = fs::read(path).unwrap();
            bytes.windows(what.len()).any(|window| window == what.as_bytes())
        })
    };
    log.append(delete("secret"), "", at(2)).unwrap();
    assert!(on_disk("the-password"));
    log.scrub().unwrap();
    assert!(!on_disk("the-password") && !on_disk("secret"));
    assert!(on_disk("known"));
    assert_eq!(items(&*log), pairs(&[("public", "known")]));
    store.remove(&pods()).unwrap();
    assert!(!on_disk("known"));
}

#[test]
fn the_order_of_use_outlives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path()).unwrap();
    let id = |name: &str| LogId::new("o", name);
    for (name, seconds) in [("new", 3000), ("old", 1000), ("middle", 2000)] {
        replace(&store, &id(name), &[("k", name)], "1").unwrap();
        let made = logs(dir.path()).into_iter().find(|path| {
            let bytes = fs::read(path).unwrap();
            bytes.windows(name.len()).any(|window| window == name.as_bytes())
        });
        let file = fs::File::options().write(true).open(made.unwrap()).unwrap();
        file.set_modified(at(seconds)).unwrap();
    }
    drop(store);
    let store = LogStore::open(dir.path()).unwrap();
    assert_eq!(store.logs()[2].modified, at(1000));
    let quota = Quota {
        max_bytes: store.stats().bytes - 1,
        max_idle: usize::MAX,
    };
    assert_eq!(store.enforce(quota, &|_| Worth::Spare), [id("old")]);
}

#[test]
fn a_log_whose_file_was_taken_away_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = LogStore::open(dir.path()).unwrap();
    replace(&store, &pods(), &[("a", "1")], "1").unwrap();
    let path = logs(dir.path()).remove(0);
    fs::copy(&path, dir.path().join("kept")).unwrap();
    fs::remove_dir_all(path.parent().unwrap()).unwrap();
    assert!(store.load(&pods()).unwrap().is_none());
    assert_eq!(store.logs(), []);
}

/// A store that an earlier version wrote: `tests/fixtures/store/NAME`.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/store")
        .join(name)
}

/// Of the sealed fixture; for nothing else.
fn fixture_keys() -> Keys {
    Keys::parse(&"2".repeat(64)).unwrap()
}

/// Writes the fixture. Run once for each version of the format, never again for a released one.
#[test]
#[ignore = "writes tests/fixtures/store/v2"]
fn write_the_fixtures() {
    write_fixture(&LogStore::open(&fixture("v2/plain")).unwrap());
    write_fixture(&LogStore::open_sealed(&fixture("v2/sealed"), fixture_keys()).unwrap());
}

fn write_fixture(store: &LogStore) {
    let mut staging = store.stage(&pods()).unwrap();
    staging.put(b"default/a", b"{\"a\":1}").unwrap();
    staging.put(b"default/b", b"{\"b\":1}").unwrap();
    staging.put(b"kube-system/c", &[0, 255, 1]).unwrap();
    let log = staging
        .commit(&[1, 2, 0, 255], "1000", at(1_700_000_000))
        .unwrap();
    log.append(put("default/a", "{\"a\":2}"), "1001", at(1_700_000_001))
        .unwrap();
    log.append(delete("default/b"), "1002", at(1_700_000_002))
        .unwrap();
    log.append(Change::Progress, "1003", at(1_700_000_003)).unwrap();
    let objects = store
        .create(&LogId::new("sa:ns/name@uid", "objects"), b"")
        .unwrap();
    objects.append(put("node/é", "x"), "", at(1_700_000_004)).unwrap();
}

#[test]
fn a_store_written_by_version_1_opens() {
    assert_readable("v1", Keys::default());
}

#[test]
fn a_store_written_by_version_1_opens_with_a_key_and_is_sealed() {
    let dir = assert_readable("v1", fixture_keys());
    let sealed = LogStore::open_sealed(dir.path(), fixture_keys()).unwrap();
    assert_eq!(sealed.logs().len(), 2);
    drop(sealed);
    let locked = LogStore::open(dir.path()).unwrap();
    assert_eq!((locked.logs().len(), locked.stats().locked), (0, 2));
}

#[test]
fn stores_written_by_version_2_open() {
    assert_readable("v2/plain", Keys::default());
    assert_readable("v2/plain", fixture_keys());
    assert_readable("v2/sealed", fixture_keys());
}

/// Opens a copy of a fixture: all is there, and it can be written on.
fn assert_readable(name: &str, keys: Keys) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let fixture = fixture(name);
    for file in logs(&fixture) {
        let to = dir.path().join(file.strip_prefix(&fixture).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
    let store = LogStore::open_sealed(dir.path(), keys).unwrap();
    assert_eq!(store.logs().len(), 2);
    let log = store.load(&pods()).unwrap().unwrap();
    assert_eq!((&*log.position(), log.updated()), ("1003", at(1_700_000_003)));
    assert_eq!(&log.header()[..], [1, 2, 0, 255]);
    let entries: Vec<_> = log.snapshot().entries().map(Result::unwrap).collect();
    assert_eq!(
        entries,
        [
            (Bytes::from("default/a"), Bytes::from("{\"a\":2}")),
            (Bytes::from("kube-system/c"), Bytes::from_static(&[0, 255, 1])),
        ]
    );
    let objects = store
        .load(&LogId::new("sa:ns/name@uid", "objects"))
        .unwrap()
        .unwrap();
    assert_eq!(items(&*objects), pairs(&[("node/é", "x")]));
    assert_eq!(
        store.stats().torn + store.stats().quarantined + store.stats().skipped,
        0
    );
    // And it can be written on.
    log.append(put("default/b", "back"), "1004", at(1_700_000_005))
        .unwrap();
    log.scrub().unwrap();
    drop(log);
    assert_eq!(seen(&store, &pods()).unwrap().0, "1004");
    drop((objects, store));
    dir
}
