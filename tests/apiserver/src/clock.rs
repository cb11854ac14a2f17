//! Wall-clock seconds and RFC 3339 text, to the second, as Kubernetes writes times.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub(crate) fn unix() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// `2026-11-20T21:26:39Z`.
pub(crate) fn rfc3339(seconds: i64) -> String {
    let t = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(time::OffsetDateTime::UNIX_EPOCH);
    let (y, m, d) = (t.year(), u8::from(t.month()), t.day());
    format!(
        "{y:04}-{m:02}-{d:02}T{:02}:{:02}:{:02}Z",
        t.hour(),
        t.minute(),
        t.second()
    )
}

/// The form of a `Date` header.
pub(crate) fn http_date(seconds: i64) -> http::HeaderValue {
    let since = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let text = httpdate::fmt_http_date(UNIX_EPOCH + since);
    text.parse().expect("a header value")
}

/// Reads `2026-11-20T21:26:39Z`; fractions are dropped and only `Z` is understood.
pub(crate) fn parse_rfc3339(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| text.get(range)?.parse::<i32>().ok();
    if !text.ends_with('Z') {
        return None;
    }
    let month = time::Month::try_from(u8::try_from(number(5..7)?).ok()?).ok()?;
    let date =
        time::Date::from_calendar_date(number(0..4)?, month, u8::try_from(number(8..10)?).ok()?).ok()?;
    let (h, m, s) = (number(11..13)?, number(14..16)?, number(17..19)?);
    Some(
        date.midnight().assume_utc().unix_timestamp()
            + i64::from(h) * 3600
            + i64::from(m) * 60
            + i64::from(s),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_survives_its_text() {
        assert_eq!(rfc3339(1_700_000_000), "2023-11-14T22:13:20Z");
        assert_eq!(parse_rfc3339("2023-11-14T22:13:20Z"), Some(1_700_000_000));
        assert_eq!(parse_rfc3339("2023-11-14T22:13:20.5Z"), Some(1_700_000_000));
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
