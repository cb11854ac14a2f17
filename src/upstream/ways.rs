//! How one server is asked whether it is there: a pure memory of what has worked.
//!
//! `/readyz` without a certificate is the question of choice: it says what the apiserver thinks of itself. Something on the
//! way may not let it through, like a gateway that knows only the API's paths, or a balancer that wants to see a certificate.
//! Then another way is tried beside it, a different one with each probe, and the one that works is kept until it fails.

/// What is asked for, best first. Only the first says whether the apiserver is ready; all of them prove that one answers, if
/// only with 401 or 403.
const PATHS: [&str; 4] = ["/readyz", "/api", "/version", "/api/v1"];

/// One way to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Way {
    /// Without a certificate (0), or with that of this one of the configured clients, counted from 1.
    pub(super) identity: usize,
    /// The path.
    pub(super) path: &'static str,
}

impl Way {
    const FIRST: Self = Self {
        identity: 0,
        path: PATHS[0],
    };
}

/// The ways to ask one server.
#[derive(Debug, Clone)]
pub(super) struct Ways {
    current: Way,
    /// How many of the others were tried in vain since one worked.
    tried: usize,
}

impl Ways {
    pub(super) fn new() -> Self {
        Self {
            current: Way::FIRST,
            tried: 0,
        }
    }

    /// The one that worked last; at first the best.
    pub(super) fn current(&self) -> Way {
        self.current
    }

    /// The next of the others to try; `None` while there is no other. `pairs` is the number of configured clients.
    pub(super) fn another(&mut self, pairs: usize) -> Option<Way> {
        let identities = pairs.saturating_add(1);
        let all = identities.saturating_mul(PATHS.len());
        for _ in 0..all {
            let turn = self.tried % all;
            self.tried = self.tried.wrapping_add(1);
            // Path by path: a certificate that is demanded is found before the paths are gone through.
            let way = Way {
                identity: turn % identities,
                path: PATHS.get(turn / identities).copied().unwrap_or(Way::FIRST.path),
            };
            if way != self.current {
                return Some(way);
            }
        }
        None
    }

    /// An apiserver answered there.
    pub(super) fn works(&mut self, way: Way) {
        *self = Self {
            current: way,
            tried: 0,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_other_way_has_its_turn_and_the_one_that_works_is_kept() {
        for pairs in [0, 1, 5] {
            let mut ways = Ways::new();
            assert_eq!(ways.current(), Way::FIRST);
            let count = (pairs + 1) * PATHS.len() - 1;
            let tried: Vec<Way> = (0..count).map(|_| ways.another(pairs).unwrap()).collect();
            let different: HashSet<_> = tried.iter().map(|way| (way.identity, way.path)).collect();
            assert_eq!(different.len(), count);
            assert!(!tried.contains(&Way::FIRST));
            assert!(tried.iter().all(|way| way.identity <= pairs));
            if pairs > 0 {
                let with_a_pair = Way {
                    identity: 1,
                    ..Way::FIRST
                };
                assert_eq!(tried.first(), Some(&with_a_pair), "before other paths");
            }
            let last = *tried.last().unwrap();
            ways.works(last);
            assert_eq!(ways.current(), last);
            assert_eq!(
                ways.another(pairs),
                Some(Way::FIRST),
                "the best is tried first again"
            );
        }
    }

    #[test]
    fn clients_that_are_not_configured_any_more_are_not_asked_for() {
        let mut ways = Ways::new();
        for pairs in [9, 3, 0, 0, 2] {
            let way = ways.another(pairs).unwrap();
            assert!(way.identity <= pairs);
        }
    }
}
