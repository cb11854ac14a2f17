//! What the service manager is told (sd_notify(3)): that edgehold serves, how the link is (`systemctl status` shows it), that it
//! reads its configuration again, stops, and is alive.
//!
//! Without `NOTIFY_SOCKET` nothing is sent. The watchdog is fed by a task on the runtime's own workers, the ones
//! that serve requests: if they are wedged, it goes hungry, and the service manager restarts edgehold. It is fed until
//! the process ends, so that an orderly stop is not taken for a hang.

use rustix::io::Errno;
use sd_notify::NotifyState;
use tokio::sync::watch;

use super::storage::Place;
use crate::admin::InMemory;
use crate::runtime::tasks::Tasks;
use crate::upstream::Link;

/// Feeds the watchdog this many times within its timeout.
const FEEDINGS: u32 = 3;

/// It serves.
pub(super) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// A reload is done; one that changed nothing because the file is not right has failed (`EINVAL`).
pub(super) fn reloaded(is_right: bool) {
    match is_right {
        true => ready(),
        false => tell(&[
            NotifyState::Ready,
            NotifyState::Errno(Errno::INVAL.raw_os_error().unsigned_abs()),
        ]),
    }
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

/// Tells how the link is, where the cache, and what is wrong with the configuration file, now and whenever that changes.
pub(super) fn follow(
    link: Link,
    mut place: watch::Receiver<Place>,
    mut configuration: watch::Receiver<Option<String>>,
) {
    Tasks::new().spawn("notify", async move {
        let mut changes = link.status_changes();
        let mut told = String::new();
        loop {
            changes.borrow_and_update();
            let place_now = *place.borrow_and_update();
            let fault = configuration.borrow_and_update().clone();
            let fault = fault.map(|fault| format!("; the configuration file is not right: {fault}"));
            let fault = fault.unwrap_or_default();
            let status = format!("{}{}{fault}", link.report(), remark(place_now));
            if status != told {
                tell(&[NotifyState::Status(&status)]);
                told = status;
            }
            let changed = tokio::select! {
                changed = changes.changed() => changed,
                changed = place.changed() => changed,
                // It ends where no file is followed.
                Ok(()) = configuration.changed() => Ok(()),
            };
            if changed.is_err() {
                return;
            }
        }
    });
}

/// Where the cache is, if that is not where it should be.
fn remark(place: Place) -> &'static str {
    match place {
        Place::Configured => "",
        Place::Memory(InMemory::NoDisk) => "; the cache is in memory only, its disk cannot be written to",
        Place::Memory(InMemory::NoKey) => "; the cache is in memory only, its key cannot be read",
    }
}

/// Feeds the watchdog for as long as the runtime lives, if there is one (`WATCHDOG_USEC`).
pub(super) fn feed_watchdog() {
    let Some(timeout) = sd_notify::watchdog_enabled() else {
        return;
    };
    let pause = timeout / FEEDINGS;
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
