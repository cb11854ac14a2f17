//! How long to wait before upstream is asked again after a refusal.

use std::time::Duration;

use http::{HeaderMap, header};

use crate::runtime::jitter;

/// The least pause between two attempts to re-open a watch that upstream refuses although the link is up,
/// jittered up to a quarter more.
pub(super) const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The longest pause, whatever the refusal says.
const LONGEST_RETRY: Duration = Duration::from_secs(120);

/// How long to wait after a refusal: as long as it says (wire contract 6.2), within bounds. Jittered upwards,
/// so that watches that were refused together do not come back together.
pub(super) fn retry_after(headers: Option<&HeaderMap>) -> Duration {
    let asked = headers
        .and_then(|headers| headers.get(header::RETRY_AFTER)?.to_str().ok()?.parse().ok())
        .map_or(Duration::ZERO, Duration::from_secs);
    let wait = asked.clamp(RETRY_INTERVAL, LONGEST_RETRY);
    wait + jitter::below(wait / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_believed_within_bounds() {
        let said = |text: &str| HeaderMap::from_iter([(header::RETRY_AFTER, text.parse().unwrap())]);
        for (text, least) in [("9", 9), ("1", 2), ("0", 2), ("soon", 2), ("86400", 120)] {
            let wait = retry_after(Some(&said(text)));
            let least = Duration::from_secs(least);
            assert!((least..=least * 5 / 4).contains(&wait), "{text}: {wait:?}");
        }
        assert!(retry_after(None) >= RETRY_INTERVAL);
    }
}
