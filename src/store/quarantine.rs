//! Damaged files, kept aside for whoever wants to know what happened.
//!
//! Bounded, and never a reason to fail: what cannot be kept is dropped. The name carries the log's own name, so
//! that removing a log removes this too.

use std::io;
use std::sync::atomic::Ordering::SeqCst;

use super::disk::{DiskFile, Kind, write_full};
use super::shared::{Shared, short_hash};
use super::{LogId, StoreError, locked};

/// Where damaged files are kept.
const DIR: &str = "quarantine";
/// How many are kept; the oldest goes first.
const KEPT: usize = 16;
/// How many bytes are kept, of more than one file.
const KEPT_BYTES: u64 = 64 << 20;
const CHUNK: usize = 1 << 20;

/// Moves a file aside: it is no log any more.
pub(super) fn move_aside(shared: &Shared, path: &str) -> io::Result<()> {
    let _one = shared.quarantine.lock();
    let moved = prepare(shared, path).and_then(|to| shared.disk.rename(path, &to));
    shared.counters.quarantined.fetch_add(1, SeqCst);
    if moved.is_err() {
        // It must not be found again and again.
        shared.disk.remove(path)?;
    }
    if let Some((dir, _)) = path.split_once('/') {
        shared.dirty_dir(dir);
    }
    trim(shared);
    Ok(())
}

/// Copies a file aside before its damaged end is cut off.
pub(super) fn copy_aside(shared: &Shared, path: &str, file: &dyn DiskFile) {
    let _one = shared.quarantine.lock();
    shared.counters.quarantined.fetch_add(1, SeqCst);
    let copied = prepare(shared, path).and_then(|to| {
        let copied = copy(shared, file, &to);
        if copied.is_err() {
            // Half a copy on a full disk helps nobody.
            let _ = shared.disk.remove(&to);
        }
        copied
    });
    if let Err(error) = copied {
        tracing::warn!(path, %error, "the damaged original of a log could not be kept");
    }
    trim(shared);
}

/// Whether something is kept of a log.
pub(super) fn keeps(shared: &Shared, id: &LogId) -> bool {
    let (prefix, kept) = (prefix_of(id), shared.disk.list(DIR));
    kept.is_ok_and(|kept| kept.iter().any(|(name, _)| name.starts_with(&prefix)))
}

/// What the names of a log's files begin with.
fn prefix_of(id: &LogId) -> String {
    format!("{}-{}-", short_hash(&id.owner), short_hash(&id.name))
}

/// Removes what is kept of a log, durably; also what is locked, or withdrawn data would come back with its key.
pub(super) fn purge(shared: &Shared, id: &LogId) -> Result<(), StoreError> {
    let _one = shared.quarantine.lock();
    purge_dir(shared, id, DIR)?;
    purge_dir(shared, id, locked::DIR)
}

fn purge_dir(shared: &Shared, id: &LogId, dir: &'static str) -> Result<(), StoreError> {
    let fail = |action| move |e| StoreError::io(action, dir, e);
    let prefix = prefix_of(id);
    let Ok(kept) = shared.disk.list(dir) else {
        return Ok(());
    };
    let mut any = false;
    for (name, kind) in kept {
        if kind == Kind::File && name.starts_with(&prefix) {
            shared
                .disk
                .remove(&format!("{dir}/{name}"))
                .map_err(fail("clean"))?;
            any = true;
        }
    }
    if any {
        shared.disk.sync_dir(dir).map_err(fail("sync"))?;
    }
    Ok(())
}

/// Copies the bytes as they are on disk: a sealed file stays sealed.
fn copy(shared: &Shared, file: &dyn DiskFile, to: &str) -> io::Result<()> {
    let to = shared.disk.create_raw(to)?;
    let (mut buf, mut at) = (vec![0; CHUNK], 0);
    loop {
        let read = match file.read_raw_at(&mut buf, at) {
            Ok(0) => return Ok(()),
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        write_full(&*to, buf.get(..read).unwrap_or_default(), at)?;
        at += read as u64;
    }
}

/// Makes the directory; gives a name in it for the file at `path`.
fn prepare(shared: &Shared, path: &str) -> io::Result<String> {
    shared.disk.create_dir(DIR)?;
    let next = kept(shared)?.last().map_or(1, |(number, _)| number + 1);
    let name = path.trim_end_matches(".log").replace('/', "-");
    Ok(format!("{DIR}/{name}-{next}.log"))
}

/// The files kept, oldest first.
fn kept(shared: &Shared) -> io::Result<Vec<(u64, String)>> {
    let mut kept: Vec<(u64, String)> = shared
        .disk
        .list(DIR)?
        .into_iter()
        .filter(|(_, kind)| *kind == Kind::File)
        .filter_map(|(name, _)| {
            let number = name.strip_suffix(".log")?.rsplit_once('-')?.1.parse().ok()?;
            Some((number, name))
        })
        .collect();
    kept.sort();
    Ok(kept)
}

fn trim(shared: &Shared) {
    let mut bytes = 0;
    for (newer, (_, name)) in kept(shared).unwrap_or_default().iter().rev().enumerate() {
        let path = format!("{DIR}/{name}");
        let size = shared.disk.open(&path).and_then(|file| file.stored());
        bytes += size.unwrap_or(0);
        if newer >= KEPT || (newer > 0 && bytes > KEPT_BYTES) {
            let _ = shared.disk.remove(&path);
        }
    }
}
