//! Finds the logs of a store when it opens, and the longest valid prefix of a log when it is loaded.
//!
//! A file that is damaged where the whole log hangs on it (head, identity, snapshot) is moved to the quarantine and
//! the log does not exist. Behind the commit the log is cut where it stops being valid; the original is copied to
//! the quarantine first if more than a torn last record is lost.

use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Weak};

use super::disk::{DiskFile, Kind, Seal};
use super::format::{self, HeadFault, Record};
use super::index::Contents;
use super::scan::{Scanner, Step};
use super::shared::{Handle, Pending, Shared, Slot};
use super::state::{LogState, Status, Written};
use super::{LogId, StoreError};
use super::{locked, quarantine};

/// What loading a log found.
pub(super) enum Recovery {
    /// A log.
    Found(LogState),
    /// No file, or one that was moved aside.
    Lost,
}

/// Whose file this is.
enum Identity {
    Known(LogId),
    Damaged,
    Newer,
}

/// Lists the logs of a store that was just opened, and removes what an earlier process left half done.
pub(super) fn survey(shared: &Shared) -> Result<(), StoreError> {
    let list = |dir: &str| shared.disk.list(dir).map_err(|e| StoreError::io("list", dir, e));
    locked::bring_back(shared);
    let mut found = Vec::new();
    for (dir, kind) in list("")? {
        if !is_hash(&dir) || set_aside(shared, &dir, kind) {
            continue;
        }
        // One directory that cannot be read must not take the others with it.
        if let Err(error) = survey_dir(shared, &dir, &mut found) {
            shared.counters.skipped.fetch_add(1, SeqCst);
            tracing::warn!(dir, %error, "a directory of the store was skipped");
        }
    }
    locked::report(shared);
    // Names that an earlier process made may not be durable yet; now they are.
    shared
        .disk
        .sync_dir("")
        .map_err(|e| StoreError::io("sync", ".", e))?;
    found.sort_by_key(|slot| slot.modified.load(SeqCst));
    for slot in found {
        shared.touch(&slot);
        // The process before this one may have been killed before it could sync.
        shared.unsynced.lock().push(Pending {
            slot: slot.clone(),
            file: None,
            mark: Arc::default(),
        });
        shared.slots.lock().insert(slot.id.clone(), slot);
    }
    Ok(())
}

/// Moves away what has the name of a principal's directory and is not one of ours: a link, or another user's. Left
/// there it would keep this principal from being cached.
fn set_aside(shared: &Shared, dir: &str, kind: Kind) -> bool {
    let found = match kind {
        Kind::Directory => shared.disk.create_dir(dir),
        Kind::File | Kind::Other => Err(ErrorKind::NotADirectory.into()),
    };
    let error = match found {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotADirectory | ErrorKind::PermissionDenied
            ) =>
        {
            error
        }
        // Anything else is for the survey to judge.
        _ => return false,
    };
    shared.counters.skipped.fetch_add(1, SeqCst);
    let aside = format!("foreign-{dir}");
    match shared.disk.rename(dir, &aside) {
        Ok(()) => {
            tracing::warn!(dir, %error, aside, "what is no directory of edgehold's was moved aside, unread")
        }
        Err(cause) => tracing::warn!(dir, %error, %cause, "a directory of the store is not used"),
    }
    true
}

fn survey_dir(shared: &Shared, dir: &str, found: &mut Vec<Arc<Slot>>) -> io::Result<()> {
    shared.disk.create_dir(dir)?;
    let entries = shared.disk.list(dir)?;
    if entries.is_empty() {
        // On a disk that cannot be written it stays.
        let _stays = shared.disk.remove_dir(dir);
        return Ok(());
    }
    shared.known_dirs.lock().insert(dir.to_owned());
    shared.dirty_dir(dir);
    for (name, kind) in entries {
        let path = format!("{dir}/{name}");
        if kind != Kind::File {
            continue;
        }
        if name.ends_with(".tmp") {
            if let Err(error) = shared.disk.remove(&path) {
                tracing::debug!(path, %error, "what was left half written stays");
            }
        } else if name.strip_suffix(".log").is_some_and(is_hash) {
            match survey_file(shared, &path) {
                Ok(slot) => found.extend(slot),
                Err(error) => {
                    shared.counters.skipped.fetch_add(1, SeqCst);
                    tracing::warn!(path, %error, "a log was skipped");
                }
            }
        }
    }
    Ok(())
}

fn survey_file(shared: &Shared, path: &str) -> io::Result<Option<Arc<Slot>>> {
    let file = shared.disk.open(path)?;
    let size = file.stored()?;
    let seal = file.seal();
    if let Seal::Locked(id) = seal {
        locked::move_aside(shared, path, id)?;
        return Ok(None);
    }
    match identify(&*file, size)? {
        Identity::Known(id) => {
            let slot = Slot::new(id);
            // A file under another's name was not put there by us: its owner may not be who it says.
            if slot.path == path {
                slot.bytes.store(size, SeqCst);
                slot.modified.store(format::nanos(file.modified()?), SeqCst);
                *slot.handle.lock() = Handle::There(Weak::new());
                if seal != Seal::Current {
                    shared.reseal.lock().push(slot.id.clone());
                }
                return Ok(Some(slot));
            }
        }
        Identity::Newer => {
            shared.counters.skipped.fetch_add(1, SeqCst);
            tracing::warn!(path, "a log of a newer format was skipped");
            return Ok(None);
        }
        Identity::Damaged => {}
    }
    quarantine::move_aside(shared, path)?;
    Ok(None)
}

fn identify(file: &dyn DiskFile, size: u64) -> io::Result<Identity> {
    let mut scanner = match Scanner::start_small(file, size)? {
        Ok(scanner) => scanner,
        Err(HeadFault::Damaged) => return Ok(Identity::Damaged),
        Err(HeadFault::Newer) => return Ok(Identity::Newer),
    };
    Ok(match scanner.step()? {
        Step::Record {
            record: Record::Identity { owner, name },
            ..
        } => Identity::Known(LogId::new(owner, name)),
        _ => Identity::Damaged,
    })
}

/// Reads a log, cuts off what is not valid, and gives what is left.
pub(super) fn recover(shared: &Shared, slot: &Slot) -> Result<Recovery, StoreError> {
    let fail = |action| move |e| StoreError::io(action, &slot.path, e);
    let file = match shared.disk.open(&slot.path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Recovery::Lost),
        Err(e) => return Err(fail("open")(e)),
    };
    let size = file.size().map_err(fail("look at"))?;
    let Some(prefix) = read_prefix(&*file, size, &slot.id).map_err(fail("read"))? else {
        quarantine::move_aside(shared, &slot.path).map_err(fail("move aside"))?;
        tracing::warn!(log = %slot.id, "a damaged log was moved aside");
        return Ok(Recovery::Lost);
    };
    let mut status = Status::Live;
    if prefix.end < size {
        if prefix.torn {
            shared.counters.torn.fetch_add(1, SeqCst);
        } else {
            quarantine::copy_aside(shared, &slot.path, &*file);
        }
        tracing::warn!(
            log = %slot.id,
            position = %prefix.contents.position,
            lost_bytes = size - prefix.end,
            "the end of a log was not valid and is cut off"
        );
        if file.set_len(prefix.end).is_err() {
            status = Status::Broken;
        }
    }
    let mut state = LogState::new(Written {
        file,
        contents: prefix.contents,
        end: prefix.end,
        chain: prefix.chain,
    });
    // A plain file on a disk that seals is only read: whatever comes next goes into a sealed one.
    state.status = match state.file.seal() {
        Seal::Plain => Status::Broken,
        Seal::Current | Seal::Stale | Seal::Locked(_) => status,
    };
    Ok(Recovery::Found(state))
}

/// The valid part of a file.
struct Prefix {
    contents: Contents,
    end: u64,
    chain: u32,
    /// Only a last record that was being written is lost.
    torn: bool,
}

/// `None`: there is no whole snapshot of this log in the file.
fn read_prefix(file: &dyn DiskFile, size: u64, id: &LogId) -> io::Result<Option<Prefix>> {
    let Ok(mut scanner) = Scanner::start(file, size)? else {
        return Ok(None);
    };
    match scanner.step()? {
        Step::Record {
            record: Record::Identity { owner, name },
            ..
        } if owner == id.owner && name == id.name => {}
        _ => return Ok(None),
    }
    let mut contents = Contents::default();
    let mut committed = false;
    let (end, chain, torn) = loop {
        let (at, chain) = scanner.place();
        match scanner.step()? {
            Step::Record { record, end } => {
                if !contents.apply(&record, end) {
                    break (at, chain, false);
                }
                committed |= matches!(record, Record::Commit { .. });
            }
            Step::End | Step::Torn => break (at, chain, true),
            Step::Damaged => break (at, chain, false),
        }
    };
    Ok(committed.then_some(Prefix {
        contents,
        end,
        chain,
        torn,
    }))
}

fn is_hash(name: &str) -> bool {
    name.len() == 32 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
