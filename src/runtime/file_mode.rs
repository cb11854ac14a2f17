//! Whether others may know what is in a file of secrets.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;

/// What makes a file of secrets one that others may know. Such a file is used nevertheless: refused, it would cost the
/// node its cache, or its way to the cloud.
pub fn fault(found: &Metadata) -> Option<&'static str> {
    let ours = rustix::process::geteuid().as_raw();
    if found.uid() != ours && found.uid() != 0 {
        return Some("belongs to another user");
    }
    match found.mode() & 0o077 {
        0 => None,
        others if others & 0o007 != 0 => Some("is open to everybody"),
        _ => Some("is open to a group"),
    }
}

/// Whether every user of the node may read it.
pub fn is_open_to_all(found: &Metadata) -> bool {
    found.mode() & 0o004 != 0
}
