//! Admits a few large lists at a time, so that the informers of a node that all list again, as after an
//! outage, neither storm the apiserver nor take up the whole link.
//!
//! A list is known to be large from what is stored of it or from its last answer; one that turns out to be
//! large while it streams counts as well. Requests for a known one wait by priority. From [`Priority::NODE`]
//! up nobody waits, since a kubelet has to start its pods, and nobody waits longer than `responseTimeout`: a
//! client that reads its list slowly, or not at all, delays others but never stops them. Pages (`limit`) are
//! small and do not wait.
//!
//! Identical lists that wait are sent once ([`share`]).

mod share;

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

pub(super) use self::share::{Follower, Same, share};

use self::share::Shared;

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
    waiting: Queue<Waiting>,
}

struct Waiting {
    same: Same,
    turn: oneshot::Sender<Turn>,
}

/// How a list goes on.
pub(super) enum Turn {
    /// It is sent upstream. The answer is for the followers too: they ask for the same and have waited as
    /// long.
    Ask(Pass, Vec<Follower>),
    /// Somebody else is sending the same now.
    Follow(oneshot::Receiver<Shared>),
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
    pub(super) async fn turn(
        &self,
        name: &ListName,
        priority: Priority,
        deadline: Instant,
        same: impl FnOnce() -> Same,
    ) -> Turn {
        let (place, turn) = {
            let mut state = self.0.lock();
            if !state.large.contains(name) {
                return Turn::Ask(self.pass(name, Permit(None)), Vec::new());
            }
            let is_free = state.under_way < AT_ONCE && state.waiting.is_empty();
            if is_free || priority >= Priority::NODE || deadline <= clock::now() {
                state.under_way += 1;
                return Turn::Ask(self.pass(name, Permit(Some(self.clone()))), Vec::new());
            }
            let (sender, turn) = oneshot::channel();
            let waiting = Waiting {
                same: same(),
                turn: sender,
            };
            (state.waiting.push(priority, clock::now(), waiting), turn)
        };
        let _leaves = Leaves {
            admission: self,
            place,
        };
        match tokio::time::timeout_at(deadline, turn).await {
            Ok(Ok(Turn::Ask(mut pass, followers))) => {
                pass.name = name.clone();
                Turn::Ask(pass, followers)
            }
            Ok(Ok(follow @ Turn::Follow(_))) => follow,
            // It has waited long enough.
            Ok(Err(_)) | Err(_) => {
                self.0.lock().under_way += 1;
                Turn::Ask(self.pass(name, Permit(Some(self.clone()))), Vec::new())
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

    /// One large list has ended: the next in the queue goes on, together with all that ask for the same.
    fn release(&self) {
        let (first, others) = {
            let mut state = self.0.lock();
            state.under_way -= 1;
            if state.under_way >= AT_ONCE {
                return;
            }
            let Some((place, _)) = state.waiting.first(clock::now()) else {
                return;
            };
            let Some(first) = state.waiting.remove(place) else {
                return;
            };
            state.under_way += 1;
            let others = state.waiting.remove_all(|other| other.same == first.same);
            (first, others)
        };
        let mut followers = Vec::new();
        for other in others {
            let (follower, shared) = oneshot::channel();
            // One that has left is not a follower.
            if other.turn.send(Turn::Follow(shared)).is_ok() {
                followers.push(follower);
            }
        }
        let pass = Pass {
            admission: self.clone(),
            name: ListName::default(),
            permit: Permit(Some(self.clone())),
            passed: 0,
        };
        // If the first has left, its permit goes to the next, and its followers go on by themselves.
        let _gone = first.turn.send(Turn::Ask(pass, followers));
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
