//! A disk that stops or fails at a chosen operation, and forgets what was not synced.
//!
//! Only operations that change something count. Content and names have a state now and a durable one; what of the
//! difference survives a power cut is drawn: names as a prefix of what was done in a directory, content in blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::store::disk::{Disk, DiskFile, Kind};

/// What goes wrong, counted in operations from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Never,
    /// The power is cut within this operation.
    Cut(u64),
    /// This many operations from here on fail; the first one, if a write, is torn.
    Fail {
        from: u64,
        count: u64,
    },
}

/// What survives when the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    /// kill -9: everything the kernel was told.
    Told,
    /// Only what was synced.
    Synced,
    /// What was synced, and of the rest whatever chance has it.
    Chance(u64),
}

/// xorshift64*: the tests must be repeatable.
#[derive(Debug, Clone)]
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

/// The disk; clones are the same disk.
#[derive(Clone)]
pub(crate) struct Sim {
    tree: Arc<Mutex<Tree>>,
    power: Arc<Mutex<Power>>,
}

struct Power {
    fault: Fault,
    ops: u64,
    off: bool,
    chance: Chance,
}

#[derive(Default, Clone)]
struct Names {
    dirs: BTreeSet<String>,
    files: BTreeMap<String, Arc<Mutex<Content>>>,
}

#[derive(Default)]
struct Tree {
    now: Names,
    durable: Names,
    /// Not durable yet: the directory to be synced, and what was done there.
    pending: Vec<(String, NameOp)>,
}

#[derive(Clone)]
enum NameOp {
    Dir(String),
    NoDir(String),
    Add(String, Arc<Mutex<Content>>),
    Remove(String),
    Rename(String, String, Arc<Mutex<Content>>),
}

#[derive(Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// A sync failed: the kernel forgot what it could not write, and says nothing next time.
    deaf: bool,
}

struct SimFile {
    content: Arc<Mutex<Content>>,
    power: Arc<Mutex<Power>>,
}

enum Go {
    Ahead,
    /// Do some of it, then fail.
    Torn(io::Error),
    Fail(io::Error),
}

impl Power {
    fn next(&mut self) -> Go {
        if self.off {
            return Go::Fail(io::Error::other("the power is off"));
        }
        self.ops += 1;
        match self.fault {
            Fault::Cut(at) if self.ops == at => {
                self.off = true;
                Go::Torn(io::Error::other("the power is cut"))
            }
            Fault::Fail { from, count } if (from..from + count).contains(&self.ops) => {
                Go::Torn(rustix::io::Errno::NOSPC.into())
            }
            _ => Go::Ahead,
        }
    }
}

impl Names {
    fn apply(&mut self, op: &NameOp) {
        match op.clone() {
            NameOp::Dir(dir) => drop(self.dirs.insert(dir)),
            NameOp::NoDir(dir) => drop(self.dirs.remove(&dir)),
            NameOp::Add(path, file) => drop(self.files.insert(path, file)),
            NameOp::Remove(path) => drop(self.files.remove(&path)),
            NameOp::Rename(from, to, file) => {
                self.files.remove(&from);
                self.files.insert(to, file);
            }
        }
    }
}

impl Sim {
    pub(crate) fn new(fault: Fault) -> Self {
        Self {
            tree: Arc::default(),
            power: Arc::new(Mutex::new(Power {
                fault,
                ops: 0,
                off: false,
                chance: Chance::new(match fault {
                    Fault::Never => 0,
                    Fault::Cut(at) | Fault::Fail { from: at, .. } => at,
                }),
            })),
        }
    }

    pub(super) fn is_off(&self) -> bool {
        self.power.lock().off
    }

    /// Nothing fails from here on.
    pub(crate) fn repair(&self) {
        self.power.lock().fault = Fault::Never;
    }

    /// The next operations fail, until the disk is repaired.
    pub(crate) fn fail(&self) {
        let mut power = self.power.lock();
        power.fault = Fault::Fail {
            from: power.ops + 1,
            count: u64::MAX / 2,
        };
    }

    pub(super) fn ops(&self) -> u64 {
        self.power.lock().ops
    }

    /// The disk as the next process finds it.
    pub(crate) fn after(&self, survives: Survives) -> Self {
        let tree = self.tree.lock();
        let mut chance = match survives {
            Survives::Chance(seed) => Chance::new(seed),
            _ => Chance::new(1),
        };
        let mut names = tree.durable.clone();
        match survives {
            Survives::Told => names = tree.now.clone(),
            Survives::Synced => {}
            Survives::Chance(_) => {
                let mut kept: BTreeMap<&str, bool> = BTreeMap::new();
                for (dir, op) in &tree.pending {
                    let keep = kept.entry(dir).or_insert(true);
                    *keep = *keep && chance.below(3) > 0;
                    if *keep {
                        names.apply(op);
                    }
                }
            }
        }
        let next = Self::new(Fault::Never);
        {
            let mut tree = next.tree.lock();
            for (path, file) in &names.files {
                let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
                if !dir.is_empty() && !names.dirs.contains(dir) {
                    continue;
                }
                let bytes = file.lock().after(survives, &mut chance);
                let content = Content {
                    now: bytes.clone(),
                    synced: bytes,
                    deaf: false,
                };
                tree.now.files.insert(path.clone(), Arc::new(Mutex::new(content)));
            }
            tree.now.dirs = names.dirs;
            tree.durable = tree.now.clone();
        }
        next
    }

    /// The paths and contents of all files.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let tree = self.tree.lock();
        let files = tree.now.files.iter();
        files
            .map(|(path, file)| (path.clone(), file.lock().now.clone()))
            .collect()
    }

    /// Puts a file there, durably.
    pub(super) fn plant(&self, path: &str, bytes: &[u8]) {
        let mut tree = self.tree.lock();
        let content = Arc::new(Mutex::new(Content {
            now: bytes.to_vec(),
            synced: bytes.to_vec(),
            deaf: false,
        }));
        if let Some((dir, _)) = path.rsplit_once('/') {
            tree.now.dirs.insert(dir.to_owned());
            tree.durable.dirs.insert(dir.to_owned());
        }
        tree.now.files.insert(path.to_owned(), content.clone());
        tree.durable.files.insert(path.to_owned(), content);
    }

    /// Flips a bit of a file under whoever has it open.
    pub(super) fn rot(&self, path: &str, at: usize) {
        let tree = self.tree.lock();
        tree.now.files[path].lock().now[at] ^= 1;
    }

    fn change(&self, dir: &str, op: NameOp) -> io::Result<()> {
        let go = self.power.lock().next();
        let result = match go {
            Go::Ahead => Ok(()),
            Go::Fail(e) => return Err(e),
            // A power cut may come just before or just after the change; an error changes nothing.
            Go::Torn(e) => {
                let mut power = self.power.lock();
                if !power.off || power.chance.below(2) == 0 {
                    return Err(e);
                }
                Err(e)
            }
        };
        let mut tree = self.tree.lock();
        tree.now.apply(&op);
        tree.pending.push((dir.to_owned(), op));
        result
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Content {
    fn after(&self, survives: Survives, chance: &mut Chance) -> Vec<u8> {
        match survives {
            Survives::Told => self.now.clone(),
            Survives::Synced => self.synced.clone(),
            Survives::Chance(_) => {
                let (short, long) = (
                    self.now.len().min(self.synced.len()),
                    self.now.len().max(self.synced.len()),
                );
                let len = match chance.below(4) {
                    0 => self.synced.len(),
                    1 => short + chance.below(long - short + 1),
                    _ => self.now.len(),
                };
                let mut bytes = self.synced.clone();
                bytes.resize(len, 0);
                let block = [1, 16, 512][chance.below(3)];
                let keep = 1 + chance.below(4);
                for from in (0..len).step_by(block) {
                    let to = (from + block).min(len).min(self.now.len());
                    if from < to && chance.below(4) < keep {
                        bytes[from..to].copy_from_slice(&self.now[from..to]);
                    }
                }
                bytes
            }
        }
    }
}

impl Disk for Sim {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        if self.tree.lock().now.dirs.contains(dir) {
            return Ok(());
        }
        self.change("", NameOp::Dir(dir.to_owned()))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, Kind)>> {
        let tree = self.tree.lock();
        let name =
            |path: &String| (parent(path) == dir).then(|| path[dir.len()..].trim_matches('/').to_owned());
        let dirs = tree.now.dirs.iter().filter_map(name);
        let files = tree.now.files.keys().filter_map(name);
        Ok(dirs
            .map(|name| (name, Kind::Directory))
            .chain(files.map(|name| (name, Kind::File)))
            .collect())
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        if self.tree.lock().now.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.change(parent(path), NameOp::Add(path.to_owned(), Arc::default()))?;
        self.open(path)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let tree = self.tree.lock();
        let content = tree.now.files.get(path).ok_or(io::ErrorKind::NotFound)?.clone();
        Ok(Arc::new(SimFile {
            content,
            power: self.power.clone(),
        }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let file = self.tree.lock().now.files.get(from).cloned();
        let file = file.ok_or(io::ErrorKind::NotFound)?;
        self.change(parent(to), NameOp::Rename(from.to_owned(), to.to_owned(), file))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        if !self.tree.lock().now.files.contains_key(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.change(parent(path), NameOp::Remove(path.to_owned()))
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.change("", NameOp::NoDir(dir.to_owned()))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let go = self.power.lock().next();
        if let Go::Fail(e) | Go::Torn(e) = go {
            return Err(e);
        }
        let mut tree = self.tree.lock();
        let pending = std::mem::take(&mut tree.pending);
        for (at, op) in pending {
            if at == dir {
                tree.durable.apply(&op);
            } else {
                tree.pending.push((at, op));
            }
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.content.lock().now.len() as u64)
    }

    fn modified(&self) -> io::Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let content = self.content.lock();
        let from = content.now.get(offset as usize..).unwrap_or_default();
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        Ok(n)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let go = self.power.lock().next();
        let (len, result) = match go {
            Go::Ahead => (buf.len(), Ok(buf.len())),
            Go::Fail(e) => return Err(e),
            Go::Torn(e) => {
                let mut power = self.power.lock();
                // Only the end of the machine can hide that all was written.
                let most = buf.len() + usize::from(power.off);
                (power.chance.below(most.max(1)), Err(e))
            }
        };
        let mut content = self.content.lock();
        let (from, to) = (offset as usize, offset as usize + len);
        if content.now.len() < to {
            content.now.resize(to, 0);
        }
        content.now[from..to].copy_from_slice(&buf[..len]);
        result
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let go = self.power.lock().next();
        match go {
            Go::Ahead => self.content.lock().now.resize(len as usize, 0),
            Go::Fail(e) | Go::Torn(e) => return Err(e),
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let go = self.power.lock().next();
        let mut content = self.content.lock();
        match go {
            Go::Ahead => {
                if !content.deaf {
                    content.synced = content.now.clone();
                }
                Ok(())
            }
            Go::Fail(e) | Go::Torn(e) => {
                content.deaf = true;
                Err(e)
            }
        }
    }
}
