//! The turns of pages: a client that has just read one asks for the next before the first is on disk.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::cache::query::{Query, view_key};
use crate::kube::media::{Encoding, Representation};
use crate::kube::request::ResourceRequest;

/// How long a page waits for the one before it to be on disk.
const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pages of lists that are being received, by page key, in the order in which they were asked for.
#[derive(Default)]
pub(crate) struct PageTurns {
    under_way: Mutex<HashMap<String, BTreeSet<u64>>>,
    done: Condvar,
}

/// A page that is being received, until dropped.
pub(super) struct PageTurn {
    turns: Arc<PageTurns>,
    page_key: String,
    number: u64,
}

impl PageTurns {
    pub(super) fn begin(self: &Arc<Self>, page_key: &str, number: u64) -> PageTurn {
        let mut under_way = self.under_way.lock();
        under_way.entry(page_key.to_owned()).or_default().insert(number);
        PageTurn {
            turns: Arc::clone(self),
            page_key: page_key.to_owned(),
            number,
        }
    }
}

impl PageTurn {
    /// Blocks until no page is being received that was asked for before this one, at most [`PAGE_TIMEOUT`]; gives
    /// whether there was one to wait for.
    pub(super) fn wait_for_earlier(&self) -> bool {
        let mut under_way = self.turns.under_way.lock();
        let is_next = |under_way: &HashMap<String, BTreeSet<u64>>| {
            under_way
                .get(&self.page_key)
                .and_then(BTreeSet::first)
                .is_none_or(|first| *first >= self.number)
        };
        if is_next(&under_way) {
            return false;
        }
        self.turns
            .done
            .wait_while_for(&mut under_way, |under_way| !is_next(under_way), PAGE_TIMEOUT);
        true
    }
}

impl Drop for PageTurn {
    fn drop(&mut self) {
        let mut under_way = self.turns.under_way.lock();
        if let Some(numbers) = under_way.get_mut(&self.page_key) {
            numbers.remove(&self.number);
            if numbers.is_empty() {
                under_way.remove(&self.page_key);
            }
        }
        self.turns.done.notify_all();
    }
}

/// What all pages of a list have in common: whose they are, what they select, and the forms that were asked for.
pub(super) fn page_key(query: &Query, resource: &ResourceRequest) -> String {
    let accept = query.accept.as_deref().unwrap_or_default();
    let any = Representation::full(Encoding::Json);
    format!(
        "{}\n{accept}\n{}",
        query.owner,
        view_key(resource, &any).to_text()
    )
}
