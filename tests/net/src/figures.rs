//! What was measured, against what is promised.

use std::time::Duration;

use crate::scenarios::Mode;

/// The figures of one scenario. Printed at once; a broken promise fails the scenario in strict mode.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    broken: Vec<String>,
}

impl Figures {
    /// A figure that nothing is promised of.
    pub(crate) fn note(&mut self, what: &str, value: impl std::fmt::Display) {
        println!("  {what}: {value}");
    }

    /// A time with an upper bound.
    pub(crate) fn promise(&mut self, what: &str, measured: Duration, bound: Duration) {
        let (m, b) = (millis(measured), millis(bound));
        self.promise_number(what, m, b, "ms");
    }

    /// A number with an upper bound.
    pub(crate) fn promise_number(&mut self, what: &str, measured: f64, bound: f64, unit: &str) {
        let met = measured < bound;
        let verdict = if met { "ok" } else { "NOT MET" };
        println!("  {what}: {measured:.2} {unit} (bound {bound} {unit}): {verdict}");
        if !met {
            self.broken.push(what.to_owned());
        }
    }

    /// Bounds count in strict mode only: a debug build on a busy machine is no measure.
    pub(crate) fn verdict(self, mode: Mode) -> anyhow::Result<()> {
        anyhow::ensure!(
            mode == Mode::Quick || self.broken.is_empty(),
            "promises not met: {}",
            self.broken.join("; ")
        );
        Ok(())
    }
}

/// The time below which so many of a hundred lie.
pub(crate) fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    let at = (times.len() * percent / 100).min(times.len().saturating_sub(1));
    times.get(at).copied().unwrap_or_default()
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
