//! Which expiry has been spoken of: each horizon once for each certificate. Pure.

use std::time::{Duration, SystemTime};

const DAY: Duration = Duration::from_secs(86_400);

/// How near the end is; the nearest that applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Horizon {
    ThirtyDays,
    SevenDays,
    OneDay,
    Over,
}

impl Horizon {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ThirtyDays => "30d",
            Self::SevenDays => "7d",
            Self::OneDay => "1d",
            Self::Over => "over",
        }
    }

    fn of(not_after: SystemTime, wall: SystemTime) -> Option<Self> {
        match not_after.duration_since(wall) {
            Err(_) => Some(Self::Over),
            Ok(left) if left <= DAY => Some(Self::OneDay),
            Ok(left) if left <= 7 * DAY => Some(Self::SevenDays),
            Ok(left) if left <= 30 * DAY => Some(Self::ThirtyDays),
            Ok(_) => None,
        }
    }
}

/// What has been said about one certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Notices {
    fingerprint: String,
    said: Option<Horizon>,
}

impl Notices {
    /// The horizon to speak of now, if it has not been spoken of.
    pub(super) fn step(
        self,
        fingerprint: &str,
        not_after: SystemTime,
        wall: SystemTime,
    ) -> (Self, Option<Horizon>) {
        let said = if self.fingerprint == fingerprint {
            self.said
        } else {
            None
        };
        let reached = Horizon::of(not_after, wall);
        let say = reached.filter(|horizon| said.is_none_or(|said| said < *horizon));
        (
            Self {
                fingerprint: fingerprint.to_owned(),
                said: say.or(said),
            },
            say,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::at;

    const END: i64 = 100 * 86_400;

    fn days_before(days: i64) -> SystemTime {
        at(END - days * 86_400)
    }

    #[test]
    fn each_horizon_is_spoken_of_once() {
        let mut notices = Notices::default();
        let mut said = Vec::new();
        for days in [40, 31, 30, 29, 8, 7, 6, 2, 1, 1, 0, -1, -1] {
            let (next, say) = notices.step("a", at(END), days_before(days));
            notices = next;
            said.extend(say);
        }
        assert_eq!(
            said,
            [
                Horizon::ThirtyDays,
                Horizon::SevenDays,
                Horizon::OneDay,
                Horizon::Over
            ]
        );
    }

    #[test]
    fn a_late_start_speaks_of_the_nearest_only() {
        let (notices, say) = Notices::default().step("a", at(END), days_before(5));
        assert_eq!(say, Some(Horizon::SevenDays));
        assert_eq!(notices.step("a", at(END), days_before(5)).1, None);
    }

    #[test]
    fn a_new_certificate_is_spoken_of_again() {
        let (notices, _) = Notices::default().step("a", at(END), days_before(5));
        assert_eq!(
            notices.step("b", at(END), days_before(5)).1,
            Some(Horizon::SevenDays)
        );
    }

    #[test]
    fn a_clock_that_goes_back_repeats_nothing() {
        let (notices, _) = Notices::default().step("a", at(END), days_before(-1));
        let (notices, say) = notices.step("a", at(END), days_before(20));
        assert_eq!(say, None);
        assert_eq!(notices.step("a", at(END), days_before(-1)).1, None);
    }
}
