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
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => DirBuilder::new()
                .recursive(true)
                .mode(DIR_MODE)
                .create(&root)
                .map_err(fail("make"))?,
            Err(e) => return Err(fail("look at")(e)),
        }
        let found = fs::symlink_metadata(&root).map_err(fail("look at"))?;
        let refuse = |fault| StoreError::Root {
            path: root.clone(),
            fault,
        };
        if found.is_symlink() {
            return Err(refuse(RootFault::Symlink));
        }
        if !found.is_dir() {
            return Err(refuse(RootFault::NotDirectory));
        }
        if found.uid() != rustix::process::geteuid().as_raw() {
            return Err(refuse(RootFault::Owner { uid: found.uid() }));
        }
        restrict(&root, found.mode(), DIR_MODE).map_err(fail("restrict"))?;
        let path = root.join("lock");
        let lock = options()
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| StoreError::io("open", &path, e))?;
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
        let file = options().open(self.at(path))?;
        let found = file.metadata()?;
        ours(&found)?;
        if found.mode() & 0o7777 != FILE_MODE {
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
