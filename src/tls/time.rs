//! The moment at which certificates are judged.
//!
//! A node may wake in 1970, and an outage may outlast a certificate. Expiry during an outage does not end autonomy:
//! while the cloud is out of reach a client certificate counts as valid if it is valid now or was at the last contact.
//! Owns that one remembered moment; does not know how contact is noticed. Never told of a contact or of an outage,
//! it is the plain clock: that is the strict setting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use crate::runtime::clock;

/// Wall time with a floor, shared by all configurations of the process.
#[derive(Debug, Default)]
pub struct TrustedTime {
    /// Unix seconds of the last contact with the cloud; 0 before the first.
    last_contact: AtomicU64,
    offline: AtomicBool,
}

impl TrustedTime {
    /// Nothing remembered: the plain clock.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// As an earlier run of the process left it.
    pub fn restored(last_contact: Option<SystemTime>) -> Arc<Self> {
        let time = Self::default();
        time.contact(last_contact);
        Arc::new(time)
    }

    /// The cloud answered, and said what time it was there (the `Date` of its answer). The local clock must not be
    /// passed for it: a clock that is years ahead for a minute would be remembered.
    pub fn contact(&self, date: Option<SystemTime>) {
        if let Some(since) = date.and_then(|date| date.duration_since(SystemTime::UNIX_EPOCH).ok()) {
            self.last_contact.store(since.as_secs(), Ordering::Relaxed);
        }
        self.offline.store(false, Ordering::Relaxed);
    }

    /// The cloud is out of reach.
    pub fn lost(&self) {
        self.offline.store(true, Ordering::Relaxed);
    }

    /// The last contact, to be kept over a restart.
    pub fn last_contact(&self) -> Option<SystemTime> {
        match self.last_contact.load(Ordering::Relaxed) {
            0 => None,
            seconds => SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)),
        }
    }

    /// `wall`, or the last contact where the clock is behind it: time cannot have gone back.
    pub fn floored(&self, wall: SystemTime) -> SystemTime {
        self.last_contact().map_or(wall, |contact| contact.max(wall))
    }

    /// During an outage the other moment at which a client certificate may have been valid.
    pub fn second_look(&self) -> Option<SystemTime> {
        if self.offline.load(Ordering::Relaxed) {
            self.last_contact()
        } else {
            None
        }
    }
}

impl TimeProvider for TrustedTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(unix(self.floored(clock::wall())))
    }
}

/// In rustls's form; moments before 1970 are 1970.
pub(super) fn unix(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::at;

    #[test]
    fn without_contact_it_is_the_plain_clock() {
        let time = TrustedTime::new();
        time.lost();
        assert_eq!(time.floored(at(5)), at(5));
        assert_eq!(time.second_look(), None);
    }

    #[test]
    fn a_clock_that_restarted_in_1970_is_raised_to_the_last_contact() {
        let time = TrustedTime::new();
        time.contact(Some(at(1_000_000)));
        assert_eq!(time.floored(at(5)), at(1_000_000));
        assert_eq!(time.floored(at(2_000_000)), at(2_000_000));
    }

    #[test]
    fn what_was_remembered_survives_a_restart() {
        assert_eq!(TrustedTime::restored(Some(at(7))).last_contact(), Some(at(7)));
        assert_eq!(TrustedTime::restored(Some(at(-7))).last_contact(), None);
        assert_eq!(TrustedTime::restored(None).last_contact(), None);
    }

    #[test]
    fn the_second_look_exists_only_during_an_outage() {
        let time = TrustedTime::new();
        time.contact(Some(at(1_000_000)));
        assert_eq!(time.second_look(), None);
        time.lost();
        assert_eq!(time.second_look(), Some(at(1_000_000)));
        time.contact(None);
        assert_eq!(time.second_look(), None);
        assert_eq!(time.last_contact(), Some(at(1_000_000)));
    }
}
