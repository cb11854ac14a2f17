//! The few operations on files that the store needs, behind a trait, so that a test can stop at any of them.
//!
//! Paths are relative to the root of the store, with `/`. Nothing here knows what is in a file.

pub(super) mod counted;
pub(super) mod files;
pub(super) mod memory;
pub(super) mod moving;
pub(super) mod sealed;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use super::StoreError;
use super::keys::KeyId;

/// What a directory entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// Anything else: never touched.
    Other,
}

/// How a file is sealed, as the disk that opened it sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Seal {
    /// As this disk writes new files.
    Current,
    /// With a key that is to be replaced.
    Stale,
    /// Not at all, though new files are: it can only be read.
    Plain,
    /// With a key that is not here: it cannot be read.
    Locked(KeyId),
}

/// The directory tree of one store. Names become durable with [`Disk::sync_dir`], content with [`DiskFile::sync`].
pub(super) trait Disk: Send + Sync {
    /// Makes a directory for the owner only; one that exists gets the right mode.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// The entries of a directory, in no order.
    fn list(&self, dir: &str) -> io::Result<Vec<(String, Kind)>>;
    /// Makes a new file for the owner only; fails if there is one.
    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// The same for bytes that are copied as they are on disk.
    fn create_raw(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.create(path)
    }
    /// Opens a file to read and write; its mode is put right.
    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Moves a file, in place of another if there is one.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Unlinks a file; who has it open can go on reading.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Removes a directory if it is empty.
    fn remove_dir(&self, dir: &str) -> io::Result<()>;
    /// Makes the names in a directory durable (`""`: the root).
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
}

/// An open file; reads and writes say where, so that threads can share it.
pub(super) trait DiskFile: Send + Sync {
    /// Bytes in the file.
    fn size(&self) -> io::Result<u64>;
    /// When it was written last.
    fn modified(&self) -> io::Result<SystemTime>;
    /// As pread(2).
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// As pwrite(2).
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize>;
    /// As ftruncate(2).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// As fdatasync(2).
    fn sync(&self) -> io::Result<()>;
    /// How it is sealed.
    fn seal(&self) -> Seal {
        Seal::Current
    }
    /// Bytes on disk: not less than [`DiskFile::size`], and known without reading the file.
    fn stored(&self) -> io::Result<u64> {
        self.size()
    }
    /// As [`DiskFile::read_at`], the bytes as they are on disk.
    fn read_raw_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read_at(buf, offset)
    }
}

/// Removes the store below a root, and the root if nothing else is in it. What is no store of edgehold stays.
///
/// # Errors
/// [`StoreError::Locked`]: a process uses it. [`StoreError::Io`].
pub fn purge(root: &Path) -> Result<(), StoreError> {
    files::purge(root)
}

/// Whether a store could be opened at a root and written to, without one being opened or anything changed.
///
/// # Errors
/// As [`super::LogStore::open`]; [`StoreError::Io`] if the disk takes nothing.
pub fn examine(root: &Path) -> Result<(), StoreError> {
    files::examine(root)
}

/// Reads until `buf` is full or the file ends; gives the bytes read.
pub(super) fn read_full(file: &dyn DiskFile, mut buf: &mut [u8], mut offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while !buf.is_empty() {
        match file.read_at(buf, offset) {
            Ok(0) => break,
            Ok(n) => {
                done += n;
                offset += n as u64;
                buf = buf.get_mut(n..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

/// Reads exactly `len` bytes; a shorter file is an error.
pub(super) fn read_exact(file: &dyn DiskFile, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    if read_full(file, &mut buf, offset)? < len {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file is shorter than what was written",
        ));
    }
    Ok(buf)
}

/// Writes all of `buf`: one pwrite(2), unless the system splits it.
pub(super) fn write_full(file: &dyn DiskFile, mut buf: &[u8], mut offset: u64) -> io::Result<()> {
    while !buf.is_empty() {
        match file.write_at(buf, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(n) => {
                offset += n as u64;
                buf = buf.get(n..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}
