//! Who goes first where clients have to wait for each other.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

/// A priority; the higher goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub i32);

impl Priority {
    /// Callers without a configured certificate: after all others.
    pub const LAST: Self = Self(i32::MIN);
    /// Configured clients without a priority of their own.
    pub const NORMAL: Self = Self(0);
    /// A kubelet without a priority of its own. From here up nobody waits to list: a node must start.
    pub const NODE: Self = Self(100);

    /// The priority of a client that was given none.
    pub fn default_of(common_name: &str) -> Self {
        if common_name.starts_with("system:node:") {
            Self::NODE
        } else {
            Self::NORMAL
        }
    }
}

/// The priority of every configured client. Cheap to clone; all clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Priorities(Arc<ArcSwap<HashMap<String, Priority>>>);

impl Priorities {
    /// By common name.
    pub fn new(by_name: impl IntoIterator<Item = (String, Priority)>) -> Self {
        let priorities = Self::default();
        priorities.replace(by_name);
        priorities
    }

    /// Replaces them, for whoever begins to wait from now on.
    pub fn replace(&self, by_name: impl IntoIterator<Item = (String, Priority)>) {
        self.0.store(Arc::new(by_name.into_iter().collect()));
    }

    /// The priority of a configured client, or of any other caller.
    pub(super) fn of(&self, client: Option<&str>) -> Priority {
        let Some(client) = client else {
            return Priority::LAST;
        };
        let configured = self.0.load().get(client).copied();
        configured.unwrap_or(Priority::NORMAL)
    }
}
