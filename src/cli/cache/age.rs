//! How long ago, as `kubectl` says it (`k8s.io/apimachinery/pkg/util/duration`, `HumanDuration`). Pure.

use std::time::{Duration, SystemTime};

/// What cannot be told.
pub(super) const UNKNOWN: &str = "?";

/// The time since a moment in RFC 3339; [`UNKNOWN`] if it is none.
pub(super) fn since(moment: &str, now: SystemTime) -> String {
    let Ok(moment) = humantime::parse_rfc3339_weak(moment) else {
        return UNKNOWN.to_owned();
    };
    // The clock of the apiserver may be ahead of this one.
    human(now.duration_since(moment).unwrap_or_default())
}

/// Two units at most, the smaller one only while the larger is small.
fn human(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    let seconds = duration.as_secs();
    let two = |unit: u64, name: char, rest: u64, rest_name: char| match seconds % unit / rest {
        0 => format!("{}{name}", seconds / unit),
        more => format!("{}{name}{more}{rest_name}", seconds / unit),
    };
    match seconds {
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(MINUTE, 'm', 1, 's'),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two(HOUR, 'h', MINUTE, 'm'),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two(DAY, 'd', HOUR, 'h'),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(YEAR, 'y', DAY, 'd'),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_as_kubectl_says_them() {
        const HOUR: u64 = 3600;
        const DAY: u64 = 24 * HOUR;
        for (seconds, expected) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (121, "2m1s"),
            (600, "10m"),
            (HOUR * 3 - 1, "179m"),
            (HOUR * 3, "3h"),
            (HOUR * 3 + 60, "3h1m"),
            (HOUR * 8 + 60, "8h"),
            (HOUR * 47, "47h"),
            (DAY * 2, "2d"),
            (DAY * 2 + HOUR, "2d1h"),
            (DAY * 8 + HOUR, "8d"),
            (DAY * 729, "729d"),
            (DAY * 730, "2y"),
            (DAY * 731, "2y1d"),
            (DAY * 365 * 9, "9y"),
        ] {
            assert_eq!(human(Duration::from_secs(seconds)), expected, "{seconds}");
        }
    }

    #[test]
    fn what_is_no_moment_has_no_age() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(90);
        assert_eq!(since("1970-01-01T00:00:00Z", now), "90s");
        assert_eq!(since("1971-01-01T00:00:00Z", now), "0s");
        assert_eq!(since("", now), UNKNOWN);
    }
}
