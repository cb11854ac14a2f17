//! A number of things that several callers share: none of them can use up another's.
//!
//! The rule is that of shared switch buffers (dynamic thresholds, Choudhury and Hahne 1998): nobody may hold more than is
//! left. One caller alone gets half of all, two get a third each, and there is always something left for the next. No
//! share needs to be configured, and none lies idle for long.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Things that are taken and given back. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shares {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: Mutex<ShareState>,
    freed: Notify,
}

#[derive(Debug)]
struct ShareState {
    free: usize,
    held: HashMap<String, usize>,
}

/// What one caller has taken; given back when dropped.
#[derive(Debug)]
pub struct Share {
    inner: Arc<Inner>,
    holder: String,
    amount: usize,
}

impl Shares {
    /// `total` things, all of them free.
    pub fn new(total: usize) -> Self {
        let state = ShareState {
            free: total,
            held: HashMap::new(),
        };
        Self {
            inner: Arc::new(Inner {
                state: Mutex::new(state),
                freed: Notify::new(),
            }),
        }
    }

    /// Takes some for `holder`; `None` if it would then hold more than is left.
    pub fn try_take(&self, holder: &str, amount: usize) -> Option<Share> {
        let mut state = self.inner.state.lock();
        let left = state.free.checked_sub(amount)?;
        let held = state.held.get(holder).copied().unwrap_or_default() + amount;
        if held > left {
            return None;
        }
        state.free = left;
        state.held.insert(holder.to_owned(), held);
        Some(Share {
            inner: Arc::clone(&self.inner),
            holder: holder.to_owned(),
            amount,
        })
    }

    /// The same, waiting until there is room. Ends never for more than half of all: the caller sets the timeout.
    pub async fn take(&self, holder: &str, amount: usize) -> Share {
        loop {
            let mut freed = std::pin::pin!(self.inner.freed.notified());
            // What is given back from here on is not missed.
            freed.as_mut().enable();
            if let Some(share) = self.try_take(holder, amount) {
                return share;
            }
            freed.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        state.free += self.amount;
        if let Some(held) = state.held.get_mut(&self.holder) {
            *held -= self.amount;
            if *held == 0 {
                state.held.remove(&self.holder);
            }
        }
        drop(state);
        self.inner.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn takes(shares: &Shares, holder: &str) -> Vec<Share> {
        std::iter::from_fn(|| shares.try_take(holder, 1)).collect()
    }

    #[test]
    fn nobody_holds_more_than_is_left_and_the_next_always_gets_some() {
        let shares = Shares::new(16);
        let first = takes(&shares, "a");
        assert_eq!(first.len(), 8);
        assert_eq!(takes(&shares, "b").len(), 4, "given back at once");
        let second = takes(&shares, "b");
        assert_eq!(second.len(), 4);
        assert!(shares.try_take("c", 1).is_some());
        drop(first);
        assert_eq!(takes(&shares, "c").len(), 6);
        drop(second);
        assert_eq!(shares.inner.state.lock().free, 16);
        assert!(shares.inner.state.lock().held.is_empty());
    }

    #[test]
    fn more_than_there_is_is_never_given() {
        assert!(Shares::new(4).try_take("a", 5).is_none());
        assert!(Shares::new(0).try_take("a", 1).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_what_is_given_back() {
        let shares = Shares::new(4);
        let held = takes(&shares, "a");
        let waiting = shares.take("a", 1);
        let mut waiting = std::pin::pin!(waiting);
        assert!(
            tokio::time::timeout(Duration::from_secs(1), waiting.as_mut())
                .await
                .is_err()
        );
        drop(held);
        assert_eq!(waiting.await.amount, 1);
    }
}
