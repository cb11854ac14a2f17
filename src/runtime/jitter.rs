//! Random parts of waiting times, so that what waits for the same event does not act at the same moment.

use std::time::Duration;

/// A random time below `most`.
pub fn below(most: Duration) -> Duration {
    let random = u64::from(u32::try_from(uuid::Uuid::new_v4().as_u128() & 0xffff).unwrap_or_default());
    most.mul_f64(random as f64 / 65536.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_varies_within_its_bound() {
        let most = Duration::from_secs(10);
        let drawn: std::collections::BTreeSet<_> = (0..100).map(|_| below(most)).collect();
        assert!(drawn.len() > 50 && drawn.iter().all(|time| *time < most));
    }
}
