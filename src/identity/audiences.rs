//! For whom a service account's token must be, so that the API server would take it.
//!
//! kube-apiserver takes a token if one of its audiences is among `--api-audiences`, and publishes that list nowhere. Until
//! more is known it is the issuer, its default. What a token says that it has accepted is more: one of those audiences is
//! the API server's, though not which one. So a token that has all of them is for the API server too, and one that has a
//! part of them may not be. (A token that kubelet asks for without audiences has the whole list.)
//!
//! Invariant: no audience counts that neither the configuration nor an accepted token vouches for.

use std::collections::{BTreeSet, VecDeque};

/// More than an API server is likely to have had lists of audiences in the life of a cache.
const MOST_LEARNED: usize = 8;

/// More is no token for an API server.
const MOST_AUDIENCES: usize = 16;

/// Those of the API server, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Audiences {
    /// `--api-audiences`, as the configuration repeats them: a token must be for one of them.
    Configured(Vec<String>),
    /// What accepted tokens have said, the newest last: a token must have all of one of them. None has all of another.
    Learned(VecDeque<BTreeSet<String>>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Learned(VecDeque::new())
    }
}

impl Audiences {
    /// Those of the configuration; to be learned if there are none.
    pub fn new(configured: Vec<String>) -> Self {
        if configured.is_empty() {
            Self::default()
        } else {
            Self::Configured(configured)
        }
    }

    /// Whether a token for these is for the API server of `issuer`.
    pub(super) fn include(&self, token: &[String], issuer: &str) -> bool {
        match self {
            Self::Configured(known) => token.iter().any(|audience| known.contains(audience)),
            Self::Learned(known) if known.is_empty() => token.iter().any(|audience| audience == issuer),
            Self::Learned(known) => known
                .iter()
                .any(|all| all.iter().all(|audience| token.contains(audience))),
        }
    }

    /// The API server has accepted a token for these. Whether that is news, to be written down.
    pub fn learn(&mut self, token: Vec<String>) -> Option<&VecDeque<BTreeSet<String>>> {
        let Self::Learned(known) = self else { return None };
        let all: BTreeSet<String> = token.into_iter().collect();
        if all.is_empty() || all.len() > MOST_AUDIENCES || known.iter().any(|less| less.is_subset(&all)) {
            return None;
        }
        known.retain(|more| !all.is_subset(more));
        known.push_back(all);
        if known.len() > MOST_LEARNED {
            known.pop_front();
        }
        Some(known)
    }

    /// What was learned in an earlier run, in its order.
    pub fn restore(&mut self, learned: Vec<Vec<String>>) {
        for token in learned {
            self.learn(token);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ISSUER: &str = "https://issuer";

    fn list(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    fn learned(tokens: &[&str]) -> Audiences {
        let mut audiences = Audiences::default();
        for token in tokens {
            audiences.learn(list(token));
        }
        audiences
    }

    #[test]
    fn until_something_is_learned_it_is_the_issuer() {
        let audiences = Audiences::default();
        assert!(audiences.include(&list("other https://issuer"), ISSUER));
        assert!(!audiences.include(&list("other"), ISSUER));
        assert!(!audiences.include(&[], ISSUER));
        // A list without the issuer says that it is none of them.
        assert!(!learned(&["api"]).include(&list(ISSUER), ISSUER));
        assert!(learned(&["api", ISSUER]).include(&list(ISSUER), ISSUER));
    }

    #[test]
    fn a_token_must_have_all_that_an_accepted_one_had() {
        let audiences = learned(&["api vault", "k8s"]);
        for (token, expected) in [
            ("api vault", true),
            ("vault more api", true),
            ("k8s", true),
            ("k8s vault", true),
            ("api", false),
            ("vault", false),
            ("vault more", false),
            ("", false),
        ] {
            assert_eq!(audiences.include(&list(token), ISSUER), expected, "{token}");
        }
    }

    #[test]
    fn fewer_audiences_of_an_accepted_token_say_more() {
        let mut audiences = learned(&["api vault"]);
        assert_eq!(audiences.learn(list("vault api more")), None, "says nothing new");
        assert!(audiences.learn(list("api")).is_some());
        assert_eq!(audiences, learned(&["api"]));
        assert_eq!(audiences.learn(list("api vault")), None);
        assert_eq!(audiences.learn(Vec::new()), None);
        assert!(!audiences.include(&[], ISSUER));
    }

    #[test]
    fn what_is_configured_counts_alone() {
        let mut audiences = Audiences::new(list("api other"));
        assert_eq!(audiences.learn(list("vault")), None);
        for (token, expected) in [
            ("api", true),
            ("x other", true),
            ("vault", false),
            (ISSUER, false),
        ] {
            assert_eq!(audiences.include(&list(token), ISSUER), expected, "{token}");
        }
    }

    #[test]
    fn what_is_learned_is_bounded_and_the_oldest_goes() {
        let mut audiences = Audiences::default();
        for n in 0..=MOST_LEARNED {
            assert!(audiences.learn(list(&format!("a{n}"))).is_some());
        }
        assert!(!audiences.include(&list("a0"), ISSUER));
        assert!(audiences.include(&list("a1"), ISSUER) && audiences.include(&list("a8"), ISSUER));
        let many = (0..=MOST_AUDIENCES).map(|n| format!("m{n}")).collect();
        assert_eq!(audiences.learn(many), None);
    }

    proptest! {
        /// The API server takes a token if one of its audiences is its own. Whatever it has accepted, nothing is taken here
        /// that it would not take.
        #[test]
        fn nothing_is_taken_that_the_api_server_would_not_take(
            own in proptest::collection::btree_set("[a-e]", 1..4),
            shown in proptest::collection::vec(proptest::collection::vec("[a-e]", 1..4), 1..12),
            token in proptest::collection::vec("[a-e]", 0..5),
        ) {
            let accepts = |token: &[String]| token.iter().any(|audience| own.contains(audience));
            let mut audiences = Audiences::default();
            for accepted in shown.iter().filter(|token| accepts(token)) {
                audiences.learn(accepted.clone());
            }
            prop_assert!(accepts(&token) || !audiences.include(&token, ISSUER));
        }
    }
}
