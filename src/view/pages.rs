//! Chains of pages: which answers together are one snapshot (wire contract 4.2).
//!
//! A chain begins at a request without `continue` and goes on with exactly the token of its last answer, under
//! the same key. Only its last page, the one without a token, completes it. Between two pages a chain waits
//! here, with the caller's handle `S` on what is staged so far; it is handed out at most once, so a token that is
//! used twice continues nothing the second time.

use std::cmp::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use crate::kube::version::ResourceVersion;

/// How many chains may wait for their next page, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimits {
    /// Chains over all keys; one more evicts the one that has waited longest.
    pub chains: usize,
    /// Since the chain's last answer.
    pub idle: Duration,
}

/// The waiting chains. `K` is the caller's view key, `S` its handle on a staging.
#[derive(Debug)]
pub struct Pages<K, S> {
    limits: PageLimits,
    /// Longest waiting first.
    waiting: Vec<Waiting<K, S>>,
}

#[derive(Debug)]
struct Waiting<K, S> {
    key: K,
    token: String,
    since: Instant,
    chain: Chain<S>,
}

/// A chain whose next answer is under way.
#[derive(Debug)]
pub struct Chain<S> {
    /// What is staged so far.
    pub staging: S,
    smallest: Option<ResourceVersion>,
}

impl<S> Chain<S> {
    /// A chain before its first answer.
    pub fn new(staging: S) -> Self {
        Self {
            staging,
            smallest: None,
        }
    }
}

/// What becomes of the chain.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome<S> {
    /// It is a snapshot.
    Complete {
        /// All pages.
        staging: S,
        /// The smallest of the pages' versions: what later pages contain beyond it is replayed by a watch from
        /// there (lemma 5.6).
        version: ResourceVersion,
    },
    /// It waits for its next page. Discard these stagings, which made room.
    Waiting(Vec<S>),
    /// It will never be a view: discard the staging.
    Discarded(S),
}

impl<K: PartialEq, S> Pages<K, S> {
    /// No chains.
    pub fn new(limits: PageLimits) -> Self {
        Self {
            limits,
            waiting: Vec::new(),
        }
    }

    /// Takes out the chain that a request of this key goes on with. `None`: its token continues nothing that is known.
    pub fn take(&mut self, key: &K, token: &str, now: Instant) -> Option<Chain<S>> {
        let mut waiting = self.waiting.iter();
        let index = waiting.position(|waiting| waiting.token == token && waiting.key == *key)?;
        (!self.is_over(now, index)).then(|| self.waiting.remove(index).chain)
    }

    /// Takes a page of `chain`, staged: `version` is its `metadata.resourceVersion`, `next` its `metadata.continue`, empty on the
    /// last page.
    pub fn answered(
        &mut self,
        key: K,
        mut chain: Chain<S>,
        (version, next): (ResourceVersion, &str),
        now: Instant,
    ) -> Outcome<S> {
        let Some(smallest) = smaller(chain.smallest.take(), version) else {
            return Outcome::Discarded(chain.staging);
        };
        if next.is_empty() {
            return Outcome::Complete {
                staging: chain.staging,
                version: smallest,
            };
        }
        chain.smallest = Some(smallest);
        Outcome::Waiting(self.wait(key, next, chain, now))
    }

    /// Takes out the chains that nobody continued in time: discard their stagings.
    pub fn expire(&mut self, now: Instant) -> Vec<S> {
        let over = (0..self.waiting.len())
            .take_while(|index| self.is_over(now, *index))
            .count();
        self.waiting
            .drain(..over)
            .map(|waiting| waiting.chain.staging)
            .collect()
    }

    fn wait(&mut self, key: K, token: &str, chain: Chain<S>, now: Instant) -> Vec<S> {
        let mut dropped = self.expire(now);
        // Two clients that page the same list hold the same token, for equal stagings: one is enough.
        let same = |waiting: &Waiting<K, S>| waiting.token == token && waiting.key == key;
        if let Some(index) = self.waiting.iter().position(same) {
            dropped.push(self.waiting.remove(index).chain.staging);
        }
        self.waiting.push(Waiting {
            key,
            token: token.to_owned(),
            since: now,
            chain,
        });
        let excess = self.waiting.len().saturating_sub(self.limits.chains);
        dropped.extend(self.waiting.drain(..excess).map(|waiting| waiting.chain.staging));
        dropped
    }

    fn is_over(&self, now: Instant, index: usize) -> bool {
        let idle = |waiting: &Waiting<K, S>| now.saturating_duration_since(waiting.since);
        self.waiting
            .get(index)
            .is_some_and(|waiting| idle(waiting) >= self.limits.idle)
    }
}

/// The smaller of two pages' versions; `None` where they differ and do not compare.
fn smaller(so_far: Option<ResourceVersion>, version: ResourceVersion) -> Option<ResourceVersion> {
    let Some(so_far) = so_far else {
        return Some(version);
    };
    Some(match so_far.compare(&version)? {
        Ordering::Greater => version,
        Ordering::Less | Ordering::Equal => so_far,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PageLimits = PageLimits {
        chains: 2,
        idle: Duration::from_secs(60),
    };

    fn page<'a>(version: &str, next: &'a str) -> (ResourceVersion, &'a str) {
        (ResourceVersion::new(version).unwrap(), next)
    }

    fn complete(staging: &'static str, version: &str) -> Outcome<&'static str> {
        let version = ResourceVersion::new(version).unwrap();
        Outcome::Complete { staging, version }
    }

    #[test]
    fn a_list_without_pages_is_a_chain_of_one() {
        let (mut pages, now) = (Pages::new(LIMITS), Instant::now());
        let outcome = pages.answered(1, Chain::new("s"), page("40", ""), now);
        assert_eq!(outcome, complete("s", "40"));
    }

    #[test]
    fn only_the_last_page_completes_a_chain() {
        let (mut pages, now) = (Pages::new(LIMITS), Instant::now());
        let outcome = pages.answered(1, Chain::new("s"), page("40", "t1"), now);
        assert_eq!(outcome, Outcome::Waiting(vec![]));
        let chain = pages.take(&1, "t1", now).unwrap();
        assert_eq!(
            pages.answered(1, chain, page("40", "t2"), now),
            Outcome::Waiting(vec![])
        );
        let chain = pages.take(&1, "t2", now).unwrap();
        assert_eq!(pages.answered(1, chain, page("40", ""), now), complete("s", "40"));
    }

    #[test]
    fn row_10_pages_of_two_versions_get_the_smaller() {
        let (mut pages, now) = (Pages::new(LIMITS), Instant::now());
        pages.answered(1, Chain::new("s"), page("40", "t1"), now);
        let chain = pages.take(&1, "t1", now).unwrap();
        assert_eq!(pages.answered(1, chain, page("45", ""), now), complete("s", "40"));
    }

    #[test]
    fn versions_that_do_not_compare_make_no_snapshot() {
        let (mut pages, now) = (Pages::new(LIMITS), Instant::now());
        pages.answered(1, Chain::new("s"), page("x1", "t1"), now);
        let chain = pages.take(&1, "t1", now).unwrap();
        assert_eq!(
            pages.answered(1, chain, page("x2", ""), now),
            Outcome::Discarded("s")
        );
    }

    #[test]
    fn a_token_continues_once_and_only_under_its_key() {
        let (mut pages, now) = (Pages::new(LIMITS), Instant::now());
        pages.answered(1, Chain::new("s"), page("40", "t1"), now);
        assert!(pages.take(&2, "t1", now).is_none());
        pages.take(&1, "t1", now).unwrap();
        assert!(pages.take(&1, "t1", now).is_none());
    }

    #[test]
    fn equal_tokens_of_two_clients_wait_once() {
        let (mut pages, now) = (Pages::new(LIMITS), Instant::now());
        pages.answered(1, Chain::new("s1"), page("40", "t1"), now);
        let outcome = pages.answered(1, Chain::new("s2"), page("40", "t1"), now);
        assert_eq!(outcome, Outcome::Waiting(vec!["s1"]));
        assert_eq!(pages.take(&1, "t1", now).unwrap().staging, "s2");
    }

    #[test]
    fn chains_are_bounded_in_number_and_time() {
        let (mut pages, now) = (Pages::new(LIMITS), Instant::now());
        pages.answered(1, Chain::new("a"), page("40", "ta"), now);
        pages.answered(1, Chain::new("b"), page("40", "tb"), now);
        let outcome = pages.answered(1, Chain::new("c"), page("40", "tc"), now);
        assert_eq!(outcome, Outcome::Waiting(vec!["a"]));
        let later = now + LIMITS.idle;
        assert!(pages.take(&1, "tb", later).is_none());
        assert_eq!(pages.expire(later), ["b", "c"]);
    }
}
