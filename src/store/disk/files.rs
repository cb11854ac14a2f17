//! The real disk: a root directory that is ours alone, locked against a second process.
//!
//! The only file of edgehold that writes, renames and removes files. Files are 0600, directories 0700; below the root a
//! symbolic link is never followed, and nothing that another user owns is read or written.
#![expect(
    clippy::disallowed_methods,
    reason = "this is the one place where the store writes files"
)]

use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::OFlags;

use super::{Disk, DiskFile, Kind};
use crate::store::{RootFault, StoreError};

const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;
const LOCK: &str = "lock";

/// A root directory, held by a lock for as long as this lives.
pub(in crate::store) struct Files {
    root: PathBuf,
    _lock: File,
}

impl Files {
    /// Makes the root if need be, checks that it is ours, and locks it.
    pub(in crate::store) fn open(root: &Path) -> Result<Self, StoreError> {
        // Without this a trailing slash would make lstat(2) follow a symbolic link.
        let root: PathBuf = root.components().collect();
        let fail = |action| {
            let path = root.clone();
            move |source| StoreError::io(action, path, source)
        };
        match fs::symlink_metadata(&root) {
            // One that was there keeps its mode: others may use it too, and what is ours in it is for us alone anyway.
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => DirBuilder::new()
                .recursive(true)
                .mode(DIR_MODE)
                .create(&root)
                .map_err(fail("make"))?,
            Err(e) => return Err(fail("look at")(e)),
        }
        let found = fs::symlink_metadata(&root).map_err(fail("look at"))?;
        can_be_root(&root, &found)?;
        let path = root.join(LOCK);
        let lock = match options().create(true).truncate(false).open(&path) {
            // What is there can still be read.
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => to_read(&path),
            opened => opened,
        };
        let lock = lock.map_err(|e| StoreError::io("open", &path, e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { root, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path }),
            Err(TryLockError::Error(e)) => Err(StoreError::io("lock", path, e)),
        }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A directory below the root that is ours, and where it is: what others can write to says nothing.
    fn own_dir(&self, dir: &str) -> io::Result<(PathBuf, Metadata)> {
        let path = self.at(dir);
        let found = fs::symlink_metadata(&path)?;
        if !found.is_dir() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        ours(&found)?;
        Ok((path, found))
    }
}

impl Disk for Files {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        match DirBuilder::new().mode(DIR_MODE).create(self.at(dir)) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
            _ => {}
        }
        let (path, found) = self.own_dir(dir)?;
        restrict(&path, found.mode(), DIR_MODE)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, Kind)>> {
        let mut entries = Vec::new();
        let (path, _) = self.own_dir(dir)?;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let kind = match entry.file_type()? {
                t if t.is_file() => Kind::File,
                t if t.is_dir() => Kind::Directory,
                _ => Kind::Other,
            };
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry.file_name().into_string() {
                entries.push((name, kind));
            }
        }
        Ok(entries)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(options().create_new(true).open(self.at(path))?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.at(path);
        let (file, is_read_only) = match options().open(&path) {
            Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => (to_read(&path)?, true),
            opened => (opened?, false),
        };
        let found = file.metadata()?;
        ours(&found)?;
        if !is_read_only && found.mode() & 0o7777 != FILE_MODE {
            file.set_permissions(Permissions::from_mode(FILE_MODE))?;
        }
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.at(path))
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        fs::remove_dir(self.at(dir))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.at(dir))?.sync_all()
    }
}

impl DiskFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.metadata()?.modified()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        FileExt::write_at(self, buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .mode(FILE_MODE)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
    options
}

/// A file on a file system that is mounted read-only: appending to it fails, until a rewrite on a better day.
fn to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Whether a directory may hold the store.
fn can_be_root(root: &Path, found: &Metadata) -> Result<(), StoreError> {
    let fault = if found.is_symlink() {
        RootFault::Symlink
    } else if !found.is_dir() {
        RootFault::NotDirectory
    } else if found.uid() != rustix::process::geteuid().as_raw() {
        RootFault::Owner { uid: found.uid() }
    } else {
        return Ok(());
    };
    Err(StoreError::Root {
        path: root.to_owned(),
        fault,
    })
}

/// More than a full disk has left for a new file.
const TRIAL: usize = 64 << 10;

/// Whether [`Files::open`] would succeed and the disk take what is written then. Leaves everything as it was.
pub(in crate::store) fn examine(root: &Path) -> Result<(), StoreError> {
    let root: PathBuf = root.components().collect();
    let at = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| StoreError::io(action, path, source)
    };
    match fs::symlink_metadata(&root) {
        Ok(found) => can_be_root(&root, &found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // The first directory that is there is the one that it would be made in.
            let there = root.ancestors().skip(1).find(|dir| dir.exists());
            return there.map_or(Ok(()), |dir| try_disk(dir).map_err(at("make", &root)));
        }
        Err(error) => return Err(at("look at", &root)(error)),
    }
    let path = root.join(LOCK);
    match to_read(&path) {
        Ok(lock) => match lock.try_lock_shared() {
            Ok(()) => drop(lock),
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(at("lock", &path)(error)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(at("open", &path)(error)),
    }
    try_disk(&root).map_err(at("write to", &root))
}

/// Writes a little there, and takes it away again.
fn try_disk(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!(".edgehold-check-{}", std::process::id()));
    let file = options().create_new(true).open(&path)?;
    let written = FileExt::write_all_at(&file, &[0x5a; TRIAL], 0).and_then(|()| file.sync_all());
    let _last = fs::remove_file(&path);
    written
}

/// Removes the store below `root`, and `root` itself if nothing else is in it. A directory that holds no store stays, unless
/// it is empty.
///
/// # Errors
/// [`StoreError::Locked`]: a process uses it. [`StoreError::Io`].
pub(in crate::store) fn purge(root: &Path) -> Result<(), StoreError> {
    let at = |action, path: &Path| {
        let path = path.to_owned();
        move |e| StoreError::io(action, path, e)
    };
    let lock = root.join(LOCK);
    let is_store = fs::symlink_metadata(&lock).is_ok_and(|found| found.is_file() && ours(&found).is_ok());
    if !is_store {
        return gone(root).map_err(at("remove", root));
    }
    let held = to_read(&lock).map_err(at("open", &lock))?;
    if let Err(TryLockError::WouldBlock) = held.try_lock() {
        return Err(StoreError::Locked { path: lock });
    }
    for entry in fs::read_dir(root).map_err(at("list", root))? {
        let entry = entry.map_err(at("list", root))?;
        let is_own = entry.file_name().to_str().is_some_and(is_own_dir);
        if is_own && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            purge_dir(&entry.path()).map_err(at("remove", &entry.path()))?;
        }
    }
    // Last: until here it is a store.
    fs::remove_file(&lock).map_err(at("remove", &lock))?;
    gone(root).map_err(at("remove", root))
}

/// A principal's directory, where logs are put aside, or where keys and certificates are kept beside the logs.
fn is_own_dir(name: &str) -> bool {
    let is_hash = name.len() == 32 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash || matches!(name, "quarantine" | "locked" | "serving" | "material")
}

/// The files in them.
const OWN_FILES: [&str; 6] = ["log", "tmp", "sealed", "crt", "pem", "key"];

fn purge_dir(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        let is_own = path
            .extension()
            .is_some_and(|kind| OWN_FILES.iter().any(|own| kind == *own));
        if is_own && entry.file_type()?.is_file() {
            fs::remove_file(path)?;
        }
    }
    gone(dir)
}

/// Removes a directory unless something is left in it.
fn gone(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotFound
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// Refuses what another user owns: it says what that user wants, and may change at any time.
fn ours(found: &Metadata) -> io::Result<()> {
    let uid = found.uid();
    if uid == rustix::process::geteuid().as_raw() {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("it belongs to another user (uid {uid})"),
    ))
}

fn restrict(path: &Path, mode: u32, wanted: u32) -> io::Result<()> {
    if mode & 0o7777 == wanted {
        return Ok(());
    }
    fs::set_permissions(path, Permissions::from_mode(wanted))
}
