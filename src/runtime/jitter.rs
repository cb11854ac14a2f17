//! Random parts of waiting times, so that what waits for the same event does not act at the same moment.

use std::time::Duration;

/// A random time below `most`.
pub fn below(most: Duration) -> Duration {
    most.mul_f64(chance())
}

/// A random number from 0 to below 1.
pub fn chance() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() & 0xffff;
    f64::from(u16::try_from(random).unwrap_or_default()) / 65536.0
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
