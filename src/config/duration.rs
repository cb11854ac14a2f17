//! Go's duration text (`time.ParseDuration`), which every Kubernetes configuration uses: `5s`, `1m30s`, `500ms`.

use std::time::Duration;

use super::error::{Fault, quoted};

/// Nothing that edgehold waits for is shorter; a smaller number is a wrong unit.
const SHORTEST: Duration = Duration::from_millis(1);

/// A duration of at least a millisecond and at most Go's largest, about 292 years.
pub(super) fn parse(text: &str) -> Result<Duration, Fault> {
    let fault = |wrong: &str, fix: &str| Fault::new(format!("{} {wrong}", quoted(text)), fix);
    if text.starts_with('-') {
        return Err(fault("is negative", "write a duration above zero, like 5s"));
    }
    if !text.is_empty() && text != "0" && text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(fault("has no unit", "write it with h, m, s or ms, like 5s"));
    }
    let nanos = if text == "0" { Some(0) } else { nanos(text) };
    let Some(nanos) = nanos else {
        return Err(fault(
            "is not a duration",
            "write numbers with h, m, s or ms, like 5s, 1m30s or 500ms",
        ));
    };
    let duration = Duration::from_nanos(nanos);
    if duration.is_zero() {
        return Err(fault("is zero", "write a duration above zero, like 5s"));
    }
    if duration < SHORTEST {
        return Err(fault("is too short", "write at least 1ms"));
    }
    Ok(duration)
}

/// The sum of all `NUMBER UNIT` pairs. `None` for anything else, and beyond Go's range.
fn nanos(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() {
        return None;
    }
    let mut sum = 0u64;
    while !rest.is_empty() {
        let (whole, after) = digits(rest);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => digits(after),
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, next) = after.split_at(end);
        let pair = scale(whole, fraction, unit_nanos(unit)?)?;
        sum = sum.checked_add(pair).filter(|sum| i64::try_from(*sum).is_ok())?;
        rest = next;
    }
    Some(sum)
}

fn unit_nanos(unit: &str) -> Option<u64> {
    match unit {
        "ns" => Some(1),
        "us" | "\u{b5}s" | "\u{3bc}s" => Some(1_000),
        "ms" => Some(1_000_000),
        "s" => Some(1_000_000_000),
        "m" => Some(60_000_000_000),
        "h" => Some(3_600_000_000_000),
        _ => None,
    }
}

fn scale(whole: &str, fraction: &str, unit: u64) -> Option<u64> {
    let whole = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = unit.checked_mul(whole)?;
    let mut place = unit;
    for digit in fraction.chars().filter_map(|c| c.to_digit(10)) {
        // Truncating at each place loses under a nanosecond a digit, far below SHORTEST.
        place /= 10;
        total = total.checked_add(place * u64::from(digit))?;
    }
    Some(total)
}

fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("5s", 5_000),
            ("+5s", 5_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("30m", 1_800_000),
            ("1.5h", 5_400_000),
            (".5s", 500),
            ("5.s", 5_000),
            ("1h1h", 7_200_000),
            ("2000us", 2),
            ("2000\u{b5}s", 2),
            ("0.001s", 1),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_go_refuses_or_nobody_can_mean_is_refused() {
        for (text, wrong) in [
            ("", "`` is not a duration"),
            ("5", "`5` has no unit"),
            ("0", "`0` is zero"),
            ("0s", "`0s` is zero"),
            ("0h0ms", "`0h0ms` is zero"),
            ("-5s", "`-5s` is negative"),
            ("5ns", "`5ns` is too short"),
            ("5 s", "`5 s` is not a duration"),
            ("5d", "`5d` is not a duration"),
            ("s", "`s` is not a duration"),
            (".s", "`.s` is not a duration"),
            ("5S", "`5S` is not a duration"),
            ("1.2.3s", "`1.2.3s` is not a duration"),
            ("9223372037s", "`9223372037s` is not a duration"),
            (
                "99999999999999999999s",
                "`99999999999999999999s` is not a duration",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().wrong, wrong);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[-+0-9.hmsnuµ ]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn milliseconds_come_back(millis in 1u64..1 << 43) {
            prop_assert_eq!(parse(&format!("{millis}ms")), Ok(Duration::from_millis(millis)));
        }
    }
}
