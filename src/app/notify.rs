//! What the service manager is told (sd_notify(3)): that edgehold serves, how the link is (`systemctl status` shows it), that it
//! reads its configuration again, stops, and is alive.
//!
//! Without `NOTIFY_SOCKET` nothing is told to nobody. The watchdog is fed by a task on the runtime's own workers, the ones
//! that serve requests: if they are wedged, it goes hungry, and the service manager starts edgehold anew. It is fed until
//! the process ends, so that an orderly stop is not taken for a hang.

use sd_notify::NotifyState;
use tokio::sync::watch;

use crate::runtime::tasks::Tasks;
use crate::upstream::LinkState;

/// Feeds the watchdog this many times within its patience.
const FEEDINGS: u32 = 3;

/// It serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It reads its configuration again, until it is [`ready`]. `systemctl reload` waits for both; by the moment
/// systemd knows that this is the answer to its own signal.
pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "the service manager could not be told"),
    }
}

/// It is stopping.
pub(super) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Tells how the link is, now and whenever that changes.
pub(super) fn follow(mut link: watch::Receiver<LinkState>) {
    Tasks::new().spawn("notify", async move {
        loop {
            let state = *link.borrow_and_update();
            tell(&[NotifyState::Status(status(state))]);
            if link.changed().await.is_err() {
                return;
            }
        }
    });
}

/// One line for people.
fn status(link: LinkState) -> &'static str {
    match link {
        LinkState::Online => "online: the cloud can be reached",
        LinkState::Suspect => "suspect: the cloud may be away, probing",
        LinkState::Offline => "offline: the cloud is away, answering from the cache",
    }
}

/// Feeds the watchdog for as long as the runtime lives, if there is one (`WATCHDOG_USEC`).
pub(super) fn feed_watchdog() {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    let pause = patience / FEEDINGS;
    // Tasks of its own: no stop waits for it.
    Tasks::new().spawn("watchdog", async move {
        loop {
            tell(&[NotifyState::Watchdog]);
            tokio::time::sleep(pause).await;
        }
    });
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}
