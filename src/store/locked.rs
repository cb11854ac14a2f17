//! Files for which there is no key: kept aside unharmed, and brought back when there is one.
//!
//! A key may only be missing for one start, so nothing here is deleted but what a newer log has replaced by the time its
//! key is back, and what is removed or withdrawn.

use std::io;
use std::sync::atomic::Ordering::SeqCst;

use super::disk::{Kind, Seal};
use super::keys::KeyId;
use super::shared::Shared;

/// Where they are kept.
pub(super) const DIR: &str = "locked";

/// Moves a file aside. It keeps its name, and gets that of its key.
pub(super) fn move_aside(shared: &Shared, path: &str, id: KeyId) -> io::Result<()> {
    let id: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    shared.disk.create_dir(DIR)?;
    let name = path.trim_end_matches(".log").replace('/', "-");
    shared.disk.rename(path, &format!("{DIR}/{name}-{id}.log"))?;
    shared.disk.sync_dir(DIR)?;
    if let Some((dir, _)) = path.split_once('/') {
        shared.dirty_dir(dir);
    }
    shared.counters.locked.fetch_add(1, SeqCst);
    Ok(())
}

/// Moves those back that can be opened again.
pub(super) fn bring_back(shared: &Shared) {
    let Ok(kept) = shared.disk.list(DIR) else { return };
    for (name, kind) in kept {
        if kind != Kind::File {
            continue;
        }
        if let Err(error) = bring_one_back(shared, &name) {
            tracing::warn!(file = name, %error, "a log that was locked could not be brought back");
        }
    }
}

fn bring_one_back(shared: &Shared, name: &str) -> io::Result<()> {
    let from = format!("{DIR}/{name}");
    let mut parts = name.split('-');
    let (Some(dir), Some(file), Some(_key), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Ok(());
    };
    if matches!(shared.disk.open(&from)?.seal(), Seal::Locked(_)) {
        return Ok(());
    }
    shared.disk.create_dir(dir)?;
    let to = format!("{dir}/{file}.log");
    let is_replaced = shared
        .disk
        .list(dir)?
        .iter()
        .any(|(known, _)| *known == format!("{file}.log"));
    if is_replaced {
        shared.disk.remove(&from)?;
    } else {
        shared.disk.rename(&from, &to)?;
        shared.disk.sync_dir(dir)?;
    }
    shared.disk.sync_dir(DIR)
}

/// One message about all of them.
pub(super) fn report(shared: &Shared) {
    let now = shared.counters.locked.load(SeqCst);
    if now > 0 {
        tracing::error!(
            logs = now,
            folder = DIR,
            "these logs are sealed with a key that is not configured: they are kept aside and count as not there; with \
             the right key in cache.encryption they are used again at the next start"
        );
    }
}
