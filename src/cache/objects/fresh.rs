//! When this process saw an entry, and what it showed then.

use std::time::SystemTime;

use crate::kube::version::ResourceVersion;

/// The order in which requests were sent and their answers recorded, in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(in crate::cache) struct Moment(pub(in crate::cache) u64);

/// What this process saw of an entry.
pub(super) struct Fresh {
    pub(super) validated: SystemTime,
    pub(super) recorded: Moment,
    /// When it was last of use.
    pub(super) used: SystemTime,
    /// It was so more than once.
    pub(super) again: bool,
    /// The version that its object shows, as far as this process has read it.
    pub(super) version: Option<ResourceVersion>,
}

impl Fresh {
    pub(super) fn new(validated: SystemTime, recorded: Moment) -> Self {
        Self {
            validated,
            recorded,
            used: validated,
            again: false,
            version: None,
        }
    }
}
