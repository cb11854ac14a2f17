//! Admits a few large lists at a time, so that the informers of a node that all list again, as after an
//! outage, neither storm the apiserver nor take up the whole link.
//!
//! A list is known to be large from what is stored of it or from its last answer; one that turns out to be
//! large while it streams counts as well. Requests for a known one wait by priority. From [`Priority::NODE`]
//! up nobody waits, since a kubelet has to start its pods, and nobody waits longer than `responseTimeout`: a
//! client that reads its list slowly, or not at all, delays others but never stops them. Pages (`limit`) are
//! small and do not wait.

use std::collections::HashSet;
use std::sync::Arc;

use http_body_util::BodyExt;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::cache::ListName;
use crate::runtime::body::{Body, Observed, Observer, Step};
use crate::runtime::clock;
use crate::store::LogSummary;

use super::priority::Priority;
use super::queue::{Place, Queue};

/// A list of so many bytes is large.
const LARGE: u64 = 1 << 20;

/// Large lists at a time.
const AT_ONCE: usize = 4;

/// How many large lists are remembered; any others count as small.
const REMEMBERED: usize = 4096;

/// Admits large lists. Cheap to clone.
#[derive(Clone)]
pub(super) struct ListAdmission(Arc<Mutex<State>>);

struct State {
    large: HashSet<ListName>,
    under_way: usize,
    waiting: Queue<oneshot::Sender<Permit>>,
}

impl ListAdmission {
    /// Starts with the lists that are stored as large ones.
    pub(super) fn new(stored: Vec<LogSummary>) -> Self {
        let stored = stored.into_iter().filter(|log| log.bytes >= LARGE);
        let large = stored.map(|log| ListName::of_log(log.id)).take(REMEMBERED);
        Self(Arc::new(Mutex::new(State {
            large: large.collect(),
            under_way: 0,
            waiting: Queue::default(),
        })))
    }

    /// Waits for a turn, at most until `deadline`.
    pub(super) async fn turn(&self, name: &ListName, priority: Priority, deadline: Instant) -> Pass {
        let (place, turn) = {
            let mut state = self.0.lock();
            if !state.large.contains(name) {
                return self.pass(name, Permit(None));
            }
            let is_free = state.under_way < AT_ONCE && state.waiting.is_empty();
            if is_free || priority >= Priority::NODE || deadline <= clock::now() {
                state.under_way += 1;
                return self.pass(name, Permit(Some(self.clone())));
            }
            let (sender, turn) = oneshot::channel();
            (state.waiting.push(priority, clock::now(), sender), turn)
        };
        let _leaves = Leaves {
            admission: self,
            place,
        };
        match tokio::time::timeout_at(deadline, turn).await {
            Ok(Ok(permit)) => self.pass(name, permit),
            // It has waited long enough.
            Ok(Err(_)) | Err(_) => {
                self.0.lock().under_way += 1;
                self.pass(name, Permit(Some(self.clone())))
            }
        }
    }

    fn pass(&self, name: &ListName, permit: Permit) -> Pass {
        Pass {
            admission: self.clone(),
            name: name.clone(),
            permit,
            passed: 0,
        }
    }

    /// One large list has ended: the next in the queue goes on.
    fn release(&self) {
        let next = {
            let mut state = self.0.lock();
            state.under_way -= 1;
            if state.under_way >= AT_ONCE {
                return;
            }
            let next = state.waiting.first(clock::now()).map(|(place, _)| place);
            let Some(next) = next.and_then(|place| state.waiting.remove(place)) else {
                return;
            };
            state.under_way += 1;
            next
        };
        // If it has left, its permit goes to the next.
        let _gone = next.send(Permit(Some(self.clone())));
    }
}

/// Gives up a place in the queue when dropped.
struct Leaves<'a> {
    admission: &'a ListAdmission,
    place: Place,
}

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        let left = self.admission.0.lock().waiting.remove(self.place);
        drop(left);
    }
}

/// The permit of a large list; empty for a small one.
struct Permit(Option<ListAdmission>);

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(admission) = self.0.take() {
            admission.release();
        }
    }
}

/// An admitted list, until the end of its answer.
pub(super) struct Pass {
    admission: ListAdmission,
    name: ListName,
    permit: Permit,
    passed: u64,
}

impl Pass {
    /// Counts the bytes of a good answer.
    pub(super) fn counting(self, body: Body) -> Body {
        Observed::new(body, Counting(Some(self))).boxed_unsync()
    }

    fn take(&mut self, bytes: u64) {
        let before = self.passed;
        self.passed += bytes;
        if before < LARGE && self.passed >= LARGE {
            let mut state = self.admission.0.lock();
            if state.large.len() < REMEMBERED {
                state.large.insert(self.name.clone());
            }
            if self.permit.0.is_none() {
                state.under_way += 1;
                self.permit.0 = Some(self.admission.clone());
            }
        }
    }

    fn ended(self) {
        if self.passed < LARGE {
            self.admission.0.lock().large.remove(&self.name);
        }
    }
}

struct Counting(Option<Pass>);

impl Observer for Counting {
    fn saw(&mut self, step: Step<'_>) {
        let has_ended = match step {
            Step::Waiting => false,
            Step::Frame { data, is_last } => {
                if let Some(pass) = &mut self.0 {
                    pass.take(data.len() as u64);
                }
                // Nobody has to poll again after the last frame.
                is_last
            }
            Step::Failed => {
                self.0 = None;
                false
            }
            Step::Ended => true,
        };
        if has_ended {
            self.0.take().into_iter().for_each(Pass::ended);
        }
    }
}

#[cfg(test)]
mod tests;
