//! A disk in memory, for diskless nodes and tests: the same store runs on it, and nothing outlives the process.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::{Mutex, RwLock};

use super::{Disk, DiskFile, Kind};

/// A file grows by pages, so that it never has to be copied to grow.
const PAGE: usize = 64 << 10;

/// A tree of files in memory.
#[derive(Default)]
pub(in crate::store) struct Memory {
    tree: Mutex<Tree>,
}

#[derive(Default)]
struct Tree {
    dirs: BTreeSet<String>,
    files: BTreeMap<String, Arc<Pages>>,
}

/// The content of one file: every page but the last is full.
#[derive(Default)]
struct Pages {
    pages: RwLock<Vec<Vec<u8>>>,
}

impl Disk for Memory {
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.tree.lock().dirs.insert(dir.to_owned());
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<(String, Kind)>> {
        let tree = self.tree.lock();
        let name = |path: &String| match path.rsplit_once('/') {
            Some((parent, name)) => (parent == dir).then(|| name.to_owned()),
            None => dir.is_empty().then(|| path.clone()),
        };
        let dirs = tree.dirs.iter().filter_map(name).map(|n| (n, Kind::Directory));
        let files = tree.files.keys().filter_map(name).map(|n| (n, Kind::File));
        Ok(dirs.chain(files).collect())
    }

    fn create(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut tree = self.tree.lock();
        if tree.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = Arc::new(Pages::default());
        tree.files.insert(path.to_owned(), file.clone());
        Ok(file)
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn DiskFile>> {
        match self.tree.lock().files.get(path) {
            Some(file) => Ok(file.clone()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut tree = self.tree.lock();
        let file = tree.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        tree.files.insert(to.to_owned(), file);
        Ok(())
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        match self.tree.lock().files.remove(path) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        if !self.list(dir)?.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        self.tree.lock().dirs.remove(dir);
        Ok(())
    }

    fn sync_dir(&self, _dir: &str) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for Pages {
    fn size(&self) -> io::Result<u64> {
        Ok(size(&self.pages.read()) as u64)
    }

    fn modified(&self) -> io::Result<SystemTime> {
        Ok(SystemTime::UNIX_EPOCH)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let pages = self.pages.read();
        let (mut done, mut at) = (0, place(offset)?);
        while let Some(left) = buf.get_mut(done..).filter(|left| !left.is_empty()) {
            let page = pages
                .get(at / PAGE)
                .and_then(|page| page.get(at % PAGE..))
                .unwrap_or_default();
            let n = page.len().min(left.len());
            let (Some(to), Some(from)) = (left.get_mut(..n), page.get(..n).filter(|from| !from.is_empty()))
            else {
                break;
            };
            to.copy_from_slice(from);
            done += n;
            at += n;
        }
        Ok(done)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<usize> {
        let mut pages = self.pages.write();
        let at = place(offset)?;
        let end = at.checked_add(buf.len()).ok_or(io::ErrorKind::InvalidInput)?;
        if size(&pages) < end {
            resize(&mut pages, end);
        }
        let (mut at, mut rest) = (at, buf);
        while !rest.is_empty() {
            let n = rest.len().min(PAGE - at % PAGE);
            let (now, later) = rest.split_at(n);
            let to = pages
                .get_mut(at / PAGE)
                .and_then(|page| page.get_mut(at % PAGE..at % PAGE + n));
            to.ok_or(io::ErrorKind::WriteZero)?.copy_from_slice(now);
            (at, rest) = (at + n, later);
        }
        Ok(buf.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        resize(&mut self.pages.write(), place(len)?);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

fn place(offset: u64) -> io::Result<usize> {
    usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

fn size(pages: &[Vec<u8>]) -> usize {
    pages
        .last()
        .map_or(0, |last| (pages.len() - 1) * PAGE + last.len())
}

fn resize(pages: &mut Vec<Vec<u8>>, len: usize) {
    let count = len.div_ceil(PAGE);
    pages.truncate(count);
    while pages.len() < count {
        if let Some(last) = pages.last_mut() {
            last.resize(PAGE, 0);
        }
        pages.push(Vec::new());
    }
    if let Some(last) = pages.last_mut() {
        last.resize(len - (count - 1) * PAGE, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::disk::{read_exact, write_full};
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Op {
        Write(usize, Vec<u8>),
        SetLen(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            (
                0..3 * PAGE,
                proptest::collection::vec(any::<u8>(), 1..100),
                0..2usize
            )
                .prop_map(|(at, bytes, long)| Op::Write(at, bytes.repeat(1 + long * PAGE / 40))),
            (0..4 * PAGE).prop_map(Op::SetLen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_file_of_pages_behaves_as_one_vector(ops in proptest::collection::vec(op(), 1..12)) {
            let (file, mut model) = (Pages::default(), Vec::new());
            for op in ops {
                match op {
                    Op::Write(at, bytes) => {
                        let end = at + bytes.len();
                        if model.len() < end {
                            model.resize(end, 0);
                        }
                        model[at..end].copy_from_slice(&bytes);
                        write_full(&file, &bytes, at as u64).unwrap();
                    }
                    Op::SetLen(len) => {
                        model.resize(len, 0);
                        file.set_len(len as u64).unwrap();
                    }
                }
                prop_assert_eq!(file.size().unwrap(), model.len() as u64);
                prop_assert!(read_exact(&file, 0, model.len()).unwrap() == model);
            }
        }
    }
}
