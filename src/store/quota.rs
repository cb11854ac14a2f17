//! Which logs go when the store is too large. Pure.

use super::LogId;

/// How large a store may get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// Bytes of all logs on disk.
    pub max_bytes: u64,
}

/// A log, its size, and when it was used last in the order of all uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) id: LogId,
    pub(super) bytes: u64,
    pub(super) last: u64,
}

impl Quota {
    /// The logs to remove: used longest ago first, none that is protected, no more than needed.
    pub(super) fn victims(self, mut logs: Vec<Use>, protected: &dyn Fn(&LogId) -> bool) -> Vec<LogId> {
        let mut total: u64 = logs.iter().map(|log| log.bytes).sum();
        logs.sort_by_key(|log| log.last);
        let mut victims = Vec::new();
        for log in logs {
            if total <= self.max_bytes {
                break;
            }
            if log.bytes > 0 && !protected(&log.id) {
                total -= log.bytes;
                victims.push(log.id);
            }
        }
        victims
    }
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

    fn victims(max_bytes: u64, protected: &str) -> Vec<String> {
        let quota = Quota { max_bytes };
        let ids = quota.victims(logs(), &|id| id.name == protected);
        ids.into_iter().map(|id| id.name).collect()
    }

    #[test]
    fn the_longest_unused_go_first_and_no_more_than_needed() {
        assert_eq!(victims(30, ""), [""; 0]);
        assert_eq!(victims(29, ""), ["b"]);
        assert_eq!(victims(19, ""), ["b", "c"]);
        assert_eq!(victims(0, ""), ["b", "c", "a"]);
    }

    #[test]
    fn a_protected_log_never_goes() {
        assert_eq!(victims(20, "b"), ["c"]);
        assert_eq!(victims(0, "b"), ["c", "a"]);
    }
}
