//! Whether the cloud can be reached: a pure state machine, and the handle that shares its state.
//!
//! `Online`: requests go upstream. `Suspect`: something failed and a probe is under way; reads that the cache can
//! answer do not wait for it. `Offline`: the probe failed too; nothing waits.

use tokio::sync::watch;

use super::error::Failure;

/// The state of the way to the cloud.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// Requests go upstream.
    Online,
    /// Something failed; a probe decides.
    Suspect,
    /// The cloud is away.
    Offline,
}

impl LinkState {
    /// A short name for logs, metrics and status.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
        }
    }

    /// The state after a signal.
    pub fn step(self, signal: Signal) -> Self {
        match (self, signal) {
            (_, Signal::Reached | Signal::ProbeSucceeded) => Self::Online,
            (Self::Online, Signal::Failed(_)) => Self::Suspect,
            (state, Signal::Failed(_)) => state,
            (_, Signal::ProbeFailed) => Self::Offline,
        }
    }
}

/// What was learnt about the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// An apiserver answered a client's request.
    Reached,
    /// A client's request failed on the way.
    Failed(Failure),
    /// `/readyz` was answered by something that may be an apiserver.
    ProbeSucceeded,
    /// The probe failed.
    ProbeFailed,
}

/// The shared link state. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Link {
    state: watch::Sender<LinkState>,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            state: watch::Sender::new(LinkState::Online),
        }
    }
}

impl Link {
    /// The state now.
    pub fn state(&self) -> LinkState {
        *self.state.borrow()
    }

    /// Takes a signal into account; a change is logged and published.
    pub fn signal(&self, signal: Signal) {
        self.state.send_if_modified(|state| {
            let next = state.step(signal);
            if next == *state {
                return false;
            }
            match next {
                LinkState::Online => tracing::info!(from = state.as_str(), "the cloud can be reached"),
                LinkState::Suspect => tracing::info!(?signal, "the cloud may be away, probing"),
                LinkState::Offline => tracing::warn!("the cloud is away, answering from the cache"),
            }
            *state = next;
            true
        });
    }

    /// Waits until the link is, or becomes, so.
    pub async fn reaches(&self, wanted: LinkState) {
        let mut follower = self.subscribe();
        // What it gives is a lock on the state: not to be held.
        drop(follower.wait_for(|state| *state == wanted).await);
    }

    /// Follows the state.
    pub fn subscribe(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_only_raises_suspicion_and_the_probe_decides() {
        let suspect = LinkState::Online.step(Signal::Failed(Failure::Connect));
        assert_eq!(suspect, LinkState::Suspect);
        assert_eq!(suspect.step(Signal::ProbeSucceeded), LinkState::Online);
        let offline = suspect.step(Signal::ProbeFailed);
        assert_eq!(offline, LinkState::Offline);
        assert_eq!(offline.step(Signal::Failed(Failure::Timeout)), LinkState::Offline);
        assert_eq!(offline.step(Signal::ProbeSucceeded), LinkState::Online);
        assert_eq!(offline.step(Signal::Reached), LinkState::Online);
    }

    #[test]
    fn followers_see_changes_only() {
        let link = Link::default();
        let mut follower = link.subscribe();
        link.signal(Signal::Reached);
        assert!(!follower.has_changed().unwrap());
        link.signal(Signal::ProbeFailed);
        assert_eq!(*follower.borrow_and_update(), LinkState::Offline);
    }
}
