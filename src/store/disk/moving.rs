//! A disk in memory that goes over to a real one once that works.
//!
//! From then on everything new is written there. What was written before is read from memory until its log has been
//! rewritten; nothing is renamed from one to the other.

use std::io::{self, ErrorKind};
use std::sync::{Arc, OnceLock};

use super::memory::Memory;
use super::{Disk, DiskFile, Kind};

/// The two disks.
#[derive(Default)]
pub(in crate::store) struct Moving {
    memory: Memory,
    real: OnceLock<Arc<dyn Disk>>,
}

impl Moving {
    /// Goes over. `false`: it did before.
    pub(in crate::store) fn go_over(&self, real: Arc<dyn Disk>) -> bool {
        self.real.set(real).is_ok()
    }

    fn current(&self) -> &dyn Disk {
        match self.real.get() {
            Some(real) => &**real,
            None => &self.memory,
        }
    }

    /// On the real disk, and in memory if it is not there.
    fn either<T>(&self, ask: impl Fn(&dyn Disk) -> io::Result<T>) -> io::Result<T> {
        match ask(self.current()) {
            Err(error) if error.kind() == ErrorKind::NotFound => ask(&self.memory),
            answer => answer,
        }
    }
}

impl Disk for Moving {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.current().create_dir(dir)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, Kind)>> {
        self.either(|disk| disk.list(dir))
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.current().create(path)
    }

    fn create_raw(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.current().create_raw(path)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.either(|disk| disk.open(path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.current().rename(from, to)?;
        if self.real.get().is_some() {
            // What stood there before.
            let _none = self.memory.remove(to);
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let in_memory = self.memory.remove(path);
        match self.real.get().map(|real| real.remove(path)) {
            Some(Err(error)) if error.kind() == ErrorKind::NotFound => in_memory,
            Some(removed) => removed,
            None => in_memory,
        }
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.current().remove_dir(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.either(|disk| disk.sync_dir(dir))
    }
}
