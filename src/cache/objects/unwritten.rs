//! What the disk did not take: it counts instead of what the disk says, until it is written after all.
//!
//! Only so much is remembered. Of what is beyond that nobody knows what it was about, so nothing of this principal is told
//! object by object any more, until all that may be outdated is gone.

use super::entry::{Refusal, encode_refusal, refusal_key, shown_key};
use super::{Fresh, Moment, Objects, put};
use crate::runtime::clock;
use crate::store::StoreError;
use crate::view::newest::Sighting;

/// Paths of which the disk could not be told are remembered for so long as there are no more of them.
pub(in crate::cache) const UNWRITTEN: usize = 1024;

#[derive(Debug, Clone)]
pub(super) enum Unwritten {
    Seen(Sighting),
    Refusal(Refusal),
}

/// What became of what had not been written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum Rest {
    /// All is on disk.
    Nothing,
    /// It is not known of how much the disk was not told.
    Overrun,
}

impl Objects {
    /// Remembers what was recorded at this moment and could not be written.
    pub(super) fn remember(&mut self, path: &str, what: Unwritten, recorded: Moment) {
        if self.unwritten.len() >= UNWRITTEN && !self.unwritten.contains_key(path) {
            if self.overrun == 0 {
                let owner = self.owner();
                tracing::error!(
                    owner,
                    "so much could not be written that single objects are not told any more"
                );
            }
            self.overrun += 1;
            return;
        }
        let (key, validated) = match what {
            Unwritten::Seen(_) => (shown_key(path), clock::wall()),
            Unwritten::Refusal(_) => (refusal_key(path), clock::wall()),
        };
        self.fresh.insert(key.into(), Fresh::new(validated, recorded));
        self.unwritten.insert(path.to_owned(), what);
    }

    /// Writes what the disk did not take before.
    pub(in crate::cache) fn write_again(&mut self) -> Result<Rest, StoreError> {
        let unwritten: Vec<(String, Unwritten)> = self
            .unwritten
            .iter()
            .map(|(path, what)| (path.clone(), what.clone()))
            .collect();
        for (path, what) in unwritten {
            if let Err(error) = self.write(&path, what) {
                self.log = None;
                return Err(error);
            }
            self.unwritten.remove(&path);
        }
        Ok(if self.overrun > 0 {
            Rest::Overrun
        } else {
            Rest::Nothing
        })
    }

    fn write(&mut self, path: &str, what: Unwritten) -> Result<(), StoreError> {
        match what {
            Unwritten::Seen(seen) => {
                let recorded = self.recorded(&shown_key(path));
                self.lost_from_view(path, &seen, recorded, true)
            }
            Unwritten::Refusal(Refusal::Withdrawn) => {
                let recorded = self.recorded(&refusal_key(path));
                self.withdrawn(path, recorded)
            }
            Unwritten::Refusal(removed) => {
                let (log, at) = (self.log_or_create()?, clock::wall());
                put(&log, &refusal_key(path), &encode_refusal(at, &removed), at)
            }
        }
    }

    /// Drops every entry, so that nothing outdated is left. Gives of how much the disk had not been told.
    pub(in crate::cache) fn start_over(&mut self) -> Result<u64, StoreError> {
        self.forget_all()?;
        Ok(std::mem::take(&mut self.overrun))
    }
}
