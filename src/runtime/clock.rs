//! The only place that reads a clock, so that everything else can take `now` as an argument.

use std::time::SystemTime;

/// Monotonic time; follows tokio's paused clock in tests.
pub fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Wall time: for certificates, token expiry and the age of cached data, never for intervals.
#[allow(clippy::disallowed_methods)] // this is the clock
pub fn wall() -> SystemTime {
    SystemTime::now()
}

/// Reads the `Date` of an HTTP answer (RFC 9110 section 5.6.7).
pub fn parse_http_date(text: &str) -> Option<SystemTime> {
    httpdate::parse_http_date(text).ok()
}
