//! A disk whose failed writes and syncs are counted, whoever asked for them.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Disk, DiskFile, Kind, Seal};
use crate::store::failures::Failures;

/// A disk, and what it refused.
pub(in crate::store) struct Counted {
    disk: Arc<dyn Disk>,
    failures: Arc<Failures>,
}

struct CountedFile {
    file: Arc<dyn DiskFile>,
    failures: Arc<Failures>,
}

impl Counted {
    pub(in crate::store) fn new(disk: Arc<dyn Disk>, failures: Arc<Failures>) -> Self {
        Self { disk, failures }
    }

    fn file(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(CountedFile {
            file,
            failures: Arc::clone(&self.failures),
        })
    }
}

impl Disk for Counted {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.failures.write(self.disk.create_dir(dir))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, Kind)>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.failures.write(self.disk.create(path))?))
    }

    fn create_raw(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.failures.write(self.disk.create_raw(path))?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.file(self.disk.open(path)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.failures.write(self.disk.rename(from, to))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        match self.disk.remove(path) {
            // It is often removed to be sure.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(error),
            removed => self.failures.write(removed),
        }
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.failures.sync(self.disk.sync_dir(dir))
    }
}

impl DiskFile for CountedFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.file.modified()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        self.failures.write(self.file.write_at(buf, offset))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.failures.write(self.file.set_len(len))
    }

    fn sync(&self) -> io::Result<()> {
        self.failures.sync(self.file.sync())
    }

    fn seal(&self) -> Seal {
        self.file.seal()
    }

    fn stored(&self) -> io::Result<u64> {
        self.file.stored()
    }

    fn read_raw_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_raw_at(buf, offset)
    }
}
