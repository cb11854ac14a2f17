//! The moment at which certificates and tokens are judged.
//!
//! A node may wake in 1970, and an outage may outlast a certificate. Expiry during an outage does not end autonomy:
//! while the cloud is out of reach a credential counts as valid if it is valid now or was at the last contact, unless
//! [`Expiry::Strict`] is configured. Owns what is known of the time: the last contact, and that nothing in use was
//! issued in the future. Does not know how contact is noticed.
//!
//! Invariants: time never goes back behind the last contact; an apiserver is not believed a time at which its own
//! certificate would not be valid, because nobody could then connect to it any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use tokio::sync::watch;

use super::certificate::CertificateInfo;
use crate::runtime::clock;

/// The beginning of 2026: a clock that is behind it has lost its battery, whatever it shows.
const BORN: u64 = 1_767_225_600;

/// How far the clocks of an apiserver and of the authority that signed its certificate may be apart.
const SKEW: Duration = Duration::from_secs(3600);

/// What expiry means while the cloud is away: `offline.expiry`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Expiry {
    /// What was valid at the last contact stays valid until the next.
    #[default]
    LastContact,
    /// What has expired has expired.
    Strict,
}

impl Expiry {
    /// As in the configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LastContact => "lastContact",
            Self::Strict => "strict",
        }
    }
}

/// How far the clock of this node is ahead of an apiserver's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockOffset {
    /// Negative: it is behind. To a second, and as long as an answer takes.
    pub seconds: i64,
    /// Since when it is about so, by this node's clock.
    pub since: SystemTime,
}

impl ClockOffset {
    /// After an answer that said `date` at `wall`; `before`: what was known. Within a minute it is the same.
    fn after(before: Option<Self>, date: SystemTime, wall: SystemTime) -> Self {
        let whole = |apart: Duration| i64::try_from(apart.as_secs()).unwrap_or(i64::MAX);
        let seconds = match wall.duration_since(date) {
            Ok(ahead) => whole(ahead),
            Err(behind) => -whole(behind.duration()),
        };
        let same = before.filter(|before| before.seconds.abs_diff(seconds) < 60);
        Self {
            seconds,
            since: same.map_or(wall, |before| before.since),
        }
    }
}

/// Wall time with a floor, shared by all configurations of the process.
#[derive(Debug, Default)]
pub struct TrustedTime {
    expiry: Expiry,
    /// Unix seconds of the last contact with the cloud; 0 before the first.
    last_contact: AtomicU64,
    /// Unix seconds at which the newest certificate in use was issued.
    issued: AtomicU64,
    /// How far apart the clocks were at the last answer.
    offset: Mutex<Option<ClockOffset>>,
    /// The validity of the certificate that an apiserver showed last.
    upstream: Mutex<Option<(SystemTime, SystemTime)>>,
    /// No contact since the link was lost, or since the start on an earlier run's memory.
    offline: watch::Sender<bool>,
}

impl TrustedTime {
    /// Nothing remembered: the plain clock.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// As an earlier run of the process left it. Until the first contact of this run the cloud counts as away: a
    /// client that comes before the link has been tried must not be turned away.
    pub fn restored(last_contact: Option<SystemTime>, expiry: Expiry) -> Arc<Self> {
        let time = Self {
            expiry,
            ..Self::default()
        };
        time.last_contact.store(
            last_contact.map_or(0, |moment| seconds(moment).unwrap_or(0)),
            Ordering::Relaxed,
        );
        time.offline.send_replace(true);
        Arc::new(time)
    }

    /// The cloud answered, and said what time it was there (the `Date` of its answer). The local clock must not be
    /// passed for it: a clock that is years ahead for a minute would be remembered.
    pub fn contact(&self, date: Option<SystemTime>) {
        if let Some(date) = date {
            let mut offset = self.offset.lock();
            *offset = Some(ClockOffset::after(*offset, date, clock::wall()));
        }
        if let Some(since) = date.filter(|date| self.is_believed(*date)).and_then(seconds) {
            self.last_contact.store(since, Ordering::Relaxed);
        }
        self.offline
            .send_if_modified(|offline| std::mem::replace(offline, false));
    }

    /// The cloud is out of reach.
    pub fn lost(&self) {
        self.offline
            .send_if_modified(|offline| !std::mem::replace(offline, true));
    }

    /// Whether there has been no contact since the cloud was lost, or since the start.
    pub fn is_away(&self) -> bool {
        *self.offline.borrow()
    }

    /// Resolves while the cloud is in touch.
    pub async fn in_touch(&self) {
        // What it gives is a lock on the state: not to be held.
        drop(self.offline.subscribe().wait_for(|offline| !*offline).await);
    }

    /// A certificate is in use that was issued at `moment`: it cannot be earlier than that.
    pub(super) fn issued(&self, moment: SystemTime) {
        if let Some(since) = seconds(moment) {
            self.issued.fetch_max(since, Ordering::Relaxed);
        }
    }

    /// An apiserver has shown this certificate, and it is good.
    pub(super) fn shown(&self, leaf: &CertificateInfo) {
        *self.upstream.lock() = Some((leaf.not_before, leaf.not_after));
    }

    fn is_believed(&self, date: SystemTime) -> bool {
        self.upstream.lock().is_none_or(|(from, until)| {
            date <= until && date.checked_add(SKEW).is_some_and(|date| date >= from)
        })
    }

    /// How far the clock of this node is from the apiserver's, as of the last answer, whoever is right.
    pub fn offset(&self) -> Option<ClockOffset> {
        *self.offset.lock()
    }

    /// The last contact, to be kept over a restart.
    pub fn last_contact(&self) -> Option<SystemTime> {
        moment(self.last_contact.load(Ordering::Relaxed))
    }

    /// `wall`, or the last contact where the clock is behind it: time cannot have gone back. A clock that is behind
    /// this program's making is taken to be at least where the newest certificate in use was issued.
    pub fn floored(&self, wall: SystemTime) -> SystemTime {
        let mut now = self.last_contact().map_or(wall, |contact| contact.max(wall));
        if seconds(now).is_none_or(|now| now < BORN) {
            now = moment(self.issued.load(Ordering::Relaxed)).map_or(now, |issued| issued.max(now));
        }
        now
    }

    /// During an outage the other moment at which a client certificate may have been valid.
    pub fn second_look(&self) -> Option<SystemTime> {
        match self.expiry {
            Expiry::LastContact if *self.offline.borrow() => self.last_contact(),
            Expiry::LastContact | Expiry::Strict => None,
        }
    }

    /// The moment at which a credential must be valid for an answer from the cache: such an answer stands in for one
    /// of the last contact.
    pub fn judged_at(&self) -> SystemTime {
        match (self.expiry, self.last_contact()) {
            (Expiry::LastContact, Some(contact)) => contact,
            _ => self.floored(clock::wall()),
        }
    }

    /// What expiry means while the cloud is away.
    pub fn expiry(&self) -> Expiry {
        self.expiry
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

/// `None` before 1970.
fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .ok()
        .map(|since| since.as_secs())
}

/// `None` for 0.
fn moment(seconds: u64) -> Option<SystemTime> {
    (seconds > 0)
        .then(|| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{Authority, LeafSpec, at};

    const DAY: i64 = 86_400;
    /// Some day after [`BORN`].
    const NOW: i64 = 1_800_000_000;

    fn last_contact(expiry: Expiry, contact: Option<SystemTime>) -> Arc<TrustedTime> {
        TrustedTime::restored(contact, expiry)
    }

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
        time.contact(Some(at(NOW)));
        assert_eq!(time.floored(at(5)), at(NOW));
        assert_eq!(time.floored(at(NOW + 5)), at(NOW + 5));
        time.issued(at(NOW + DAY));
        assert_eq!(time.floored(at(5)), at(NOW), "the cloud's word counts for more");
    }

    #[test]
    fn at_a_first_start_in_1970_it_is_no_earlier_than_the_certificates_in_use() {
        let time = last_contact(Expiry::LastContact, None);
        time.issued(at(NOW));
        time.issued(at(NOW - DAY));
        assert_eq!(time.floored(at(5)), at(NOW));
        // A clock that may be right is not corrected: the certificate may be the one that is wrong.
        assert_eq!(time.floored(at(NOW - 10 * DAY)), at(NOW - 10 * DAY));
    }

    #[test]
    fn what_was_remembered_survives_a_restart() {
        let restored = |contact| last_contact(Expiry::LastContact, contact).last_contact();
        assert_eq!(restored(Some(at(7))), Some(at(7)));
        assert_eq!(restored(Some(at(-7))), None);
        assert_eq!(restored(None), None);
    }

    #[test]
    fn the_second_look_exists_only_during_an_outage_and_never_where_expiry_is_strict() {
        for (expiry, seen) in [(Expiry::LastContact, Some(at(NOW))), (Expiry::Strict, None)] {
            let time = last_contact(expiry, Some(at(NOW)));
            assert_eq!(time.second_look(), seen, "not in touch since the start");
            time.contact(None);
            assert_eq!(time.second_look(), None, "in touch");
            time.lost();
            assert_eq!(time.second_look(), seen, "an outage");
            assert_eq!(time.last_contact(), Some(at(NOW)));
        }
    }

    #[test]
    fn a_credential_is_judged_at_the_last_contact_or_now_as_configured() {
        let long_ago = clock::wall() - Duration::from_secs(3600);
        let lenient = last_contact(Expiry::LastContact, Some(long_ago));
        assert!(lenient.judged_at() <= long_ago);
        assert!(last_contact(Expiry::Strict, Some(long_ago)).judged_at() > long_ago);
        // A clock that is behind: both use the last contact.
        let ahead = clock::wall() + Duration::from_secs(3600);
        for expiry in [Expiry::LastContact, Expiry::Strict] {
            let judged = last_contact(expiry, Some(ahead)).judged_at();
            assert!(judged > clock::wall() + Duration::from_secs(3000), "{expiry:?}");
        }
    }

    #[test]
    fn an_apiserver_is_not_believed_a_time_at_which_its_certificate_is_not_valid() {
        let spec = LeafSpec::server(&["a"]).valid(at(NOW), at(NOW + DAY));
        let leaf = CertificateInfo::parse(&Authority::shared().issue(&spec).der).unwrap();
        let time = TrustedTime::new();
        time.lost();
        time.shown(&leaf);
        for date in [at(NOW + 2 * DAY), at(NOW - DAY), at(5)] {
            time.contact(Some(date));
            assert_eq!(time.last_contact(), None);
            assert_eq!(time.second_look(), None, "it is a contact all the same");
        }
        time.contact(Some(at(NOW + 5)));
        assert_eq!(time.last_contact(), Some(at(NOW + 5)));
    }

    #[test]
    fn how_far_the_clocks_are_apart_is_known_and_since_when() {
        let first = ClockOffset::after(None, at(NOW), at(NOW + 1000));
        assert_eq!((first.seconds, first.since), (1000, at(NOW + 1000)));
        let next = ClockOffset::after(Some(first), at(NOW + 50), at(NOW + 1051));
        assert_eq!((next.seconds, next.since), (1001, at(NOW + 1000)));
        let set_back = ClockOffset::after(Some(next), at(NOW + 60), at(NOW));
        assert_eq!((set_back.seconds, set_back.since), (-60, at(NOW)));
    }

    #[tokio::test]
    async fn being_in_touch_is_told() {
        let time = last_contact(Expiry::LastContact, None);
        let told = time.in_touch();
        tokio::pin!(told);
        assert!(futures_util::poll!(told.as_mut()).is_pending());
        time.contact(None);
        told.await;
        time.in_touch().await;
    }
}
