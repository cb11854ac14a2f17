//! Who goes first where clients have to wait for each other.

use std::collections::HashMap;

use super::Proxy;
use super::caller::Caller;

/// A rank; the higher goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Priority(pub i32);

impl Priority {
    /// Callers without a configured certificate: after all others.
    pub const LAST: Self = Self(i32::MIN);
    /// Configured clients that say nothing else.
    pub const NORMAL: Self = Self(0);
    /// A kubelet that says nothing else. From here up nobody waits to list: a node must start.
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

/// The priority of every configured client.
#[derive(Debug, Default)]
pub struct Priorities(HashMap<String, Priority>);

impl Priorities {
    /// By common name.
    pub fn new(by_name: impl IntoIterator<Item = (String, Priority)>) -> Self {
        Self(by_name.into_iter().collect())
    }

    /// Of a caller, by the transport that carries it.
    pub(super) fn of(&self, proxy: &Proxy, caller: &Caller) -> Priority {
        if caller.is_default(proxy) {
            return Priority::LAST;
        }
        let configured = self.0.get(caller.transport.name()).copied();
        configured.unwrap_or(Priority::NORMAL)
    }
}
