//! Which logs go when the store is too large. Pure.

use std::collections::HashMap;

use super::LogId;

/// How large a store may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of all logs on disk.
    pub max_bytes: u64,
    /// Logs of one owner that are [`Worth::Spare`] or [`Worth::Owned`].
    pub max_idle: usize,
}

/// What a log is worth when the store is too large.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Worth {
    /// Goes first.
    Spare,
    /// Goes only where its owner has too many of the kind, whatever their size.
    Owned,
    /// Somebody works with it: goes if all that is spare is not enough.
    InUse,
    /// Never goes.
    Always,
}

/// A log, its size, and when it was used last in the order of all uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) id: LogId,
    pub(super) bytes: u64,
    pub(super) last: u64,
}

impl Quota {
    /// The logs to remove, no more than needed: of each worth those used longest ago first.
    pub(super) fn victims(self, logs: Vec<Use>, worth: &dyn Fn(&LogId) -> Worth) -> Vec<LogId> {
        let mut total: u64 = logs.iter().map(|log| log.bytes).sum();
        let mut logs: Vec<(Worth, Use)> = logs
            .into_iter()
            .filter(|log| log.bytes > 0)
            .map(|log| (worth(&log.id), log))
            .collect();
        logs.sort_by_key(|(worth, log)| (*worth, log.last));
        let mut idle = idle_of_owners(&logs);
        let mut victims = Vec::new();
        for (worth, log) in logs {
            let of_owner = match worth {
                Worth::Spare | Worth::Owned => idle.get_mut(&log.id.owner),
                Worth::InUse | Worth::Always => None,
            };
            let too_many = of_owner.as_deref().is_some_and(|idle| *idle > self.max_idle);
            let too_large = total > self.max_bytes && matches!(worth, Worth::Spare | Worth::InUse);
            if too_many || too_large {
                total -= log.bytes;
                if let Some(idle) = of_owner {
                    *idle -= 1;
                }
                victims.push(log.id);
            }
        }
        victims
    }
}

fn idle_of_owners(logs: &[(Worth, Use)]) -> HashMap<String, usize> {
    let mut idle = HashMap::new();
    for (_, log) in logs.iter().filter(|(worth, _)| *worth <= Worth::Owned) {
        *idle.entry(log.id.owner.clone()).or_default() += 1;
    }
    idle
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logs() -> Vec<Use> {
        [("a", 10, 3), ("b", 10, 1), ("c", 10, 2), ("new", 0, 0)]
            .map(|(name, bytes, last)| Use {
                id: LogId::new("o", name),
                bytes,
                last,
            })
            .to_vec()
    }

    fn victims(quota: Quota, worth: impl Fn(&str) -> Worth) -> Vec<String> {
        let ids = quota.victims(logs(), &|id| worth(&id.name));
        ids.into_iter().map(|id| id.name).collect()
    }

    fn bytes(max_bytes: u64) -> Quota {
        Quota {
            max_bytes,
            max_idle: usize::MAX,
        }
    }

    #[test]
    fn the_longest_unused_go_first_and_no_more_than_needed() {
        assert_eq!(victims(bytes(30), |_| Worth::Spare), [""; 0]);
        assert_eq!(victims(bytes(29), |_| Worth::Spare), ["b"]);
        assert_eq!(victims(bytes(19), |_| Worth::Spare), ["b", "c"]);
        assert_eq!(victims(bytes(0), |_| Worth::Spare), ["b", "c", "a"]);
    }

    #[test]
    fn what_is_in_use_goes_after_all_that_is_spare_however_long_ago_it_was_used() {
        let in_use = |name: &str| if name == "b" { Worth::InUse } else { Worth::Spare };
        assert_eq!(victims(bytes(20), in_use), ["c"]);
        assert_eq!(victims(bytes(0), in_use), ["c", "a", "b"]);
    }

    #[test]
    fn some_logs_never_go_for_their_size() {
        for worth in [Worth::Owned, Worth::Always] {
            let kept = |name: &str| if name == "b" { worth } else { Worth::Spare };
            assert_eq!(victims(bytes(20), kept), ["c"]);
            assert_eq!(victims(bytes(0), kept), ["c", "a"]);
        }
    }

    #[test]
    fn one_owner_has_only_so_many_idle_logs() {
        let quota = Quota {
            max_bytes: u64::MAX,
            max_idle: 1,
        };
        assert_eq!(victims(quota, |_| Worth::Spare), ["b", "c"]);
        assert_eq!(victims(quota, |_| Worth::Owned), ["b", "c"]);
        assert_eq!(victims(quota, |_| Worth::InUse), [""; 0]);
        assert_eq!(victims(quota, |_| Worth::Always), [""; 0]);
    }
}
