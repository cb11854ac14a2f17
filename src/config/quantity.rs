//! Kubernetes quantities of bytes (`apimachinery/pkg/api/resource`): `1Gi`, `500Mi`, `1.5G`, `2e9`. A trailing `B`
//! is accepted, because people write `1GiB`.

use super::error::{Fault, quoted};

/// A size in bytes, rounded up as Kubernetes does; not zero.
pub(super) fn parse(text: &str) -> Result<u64, Fault> {
    let fault = |wrong: &str, fix: &str| Fault::new(format!("{} {wrong}", quoted(text)), fix);
    let end = text
        .find(|c: char| c != '.' && !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    if suffix == "m" {
        return Err(fault("is thousandths of a byte", "write M or Mi for millions"));
    }
    if text.starts_with('-') {
        return Err(fault("is negative", "write a size like 1GiB or 500Mi"));
    }
    let unit = unit(suffix).ok_or_else(|| fault("is not a size", "write a size like 1GiB, 500Mi or 2G"))?;
    match bytes(number, unit) {
        Some(0) => Err(fault("is zero", "write a size like 1GiB or 500Mi")),
        Some(bytes) => Ok(bytes),
        None => Err(fault("is not a size", "write a size like 1GiB, 500Mi or 2G")),
    }
}

fn unit(suffix: &str) -> Option<u128> {
    // `2E` is exa, `2E9` an exponent.
    if suffix.starts_with(['e', 'E']) && suffix.ends_with(|c: char| c.is_ascii_digit()) {
        let exponent = suffix.get(1..)?;
        return 10u128.checked_pow(exponent.parse().ok()?);
    }
    let exponent = match suffix.strip_suffix('B').unwrap_or(suffix) {
        "" => 0,
        "k" | "Ki" => 1,
        "M" | "Mi" => 2,
        "G" | "Gi" => 3,
        "T" | "Ti" => 4,
        "P" | "Pi" => 5,
        "E" | "Ei" => 6,
        _ => return None,
    };
    let base: u128 = if suffix.contains('i') { 1024 } else { 1000 };
    base.checked_pow(exponent)
}

fn bytes(number: &str, unit: u128) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    // More digits than this change nothing below one byte of the largest unit.
    let fraction = fraction.trim_end_matches('0');
    if (whole.is_empty() && fraction.is_empty()) || fraction.len() > 18 || fraction.contains('.') {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut total = whole.checked_mul(unit)?;
    if !fraction.is_empty() {
        let parts: u128 = fraction.parse().ok()?;
        let scale = 10u128.pow(u32::try_from(fraction.len()).ok()?);
        total = total.checked_add(parts.checked_mul(unit)?.div_ceil(scale))?;
    }
    u64::try_from(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, bytes) in [
            ("1GiB", 1 << 30),
            ("1Gi", 1 << 30),
            ("500Mi", 500 << 20),
            ("1G", 1_000_000_000),
            ("1GB", 1_000_000_000),
            ("1.5Gi", 3 << 29),
            ("64Ki", 64 << 10),
            ("1k", 1_000),
            ("2e9", 2_000_000_000),
            ("2E9", 2_000_000_000),
            ("2e+9", 2_000_000_000),
            ("2E", 2_000_000_000_000_000_000),
            ("1073741824", 1 << 30),
            ("1.", 1),
            (".5Ki", 512),
            ("0.3", 1),
            ("15Ei", 15 << 60),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for (text, wrong) in [
            ("", "`` is not a size"),
            ("Gi", "`Gi` is not a size"),
            ("1 Gi", "`1 Gi` is not a size"),
            ("1gi", "`1gi` is not a size"),
            ("1GIB", "`1GIB` is not a size"),
            ("0", "`0` is zero"),
            ("-1Gi", "`-1Gi` is negative"),
            ("500m", "`500m` is thousandths of a byte"),
            ("16Ei", "`16Ei` is not a size"),
            ("1e-3", "`1e-3` is not a size"),
            ("1e99", "`1e99` is not a size"),
            ("1.2.3Gi", "`1.2.3Gi` is not a size"),
            ("1BB", "`1BB` is not a size"),
        ] {
            assert_eq!(parse(text).unwrap_err().wrong, wrong);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_answered(text in "[-+0-9.eEkKMGTPiBm ]{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn bytes_come_back(bytes in 1u64..) {
            prop_assert_eq!(parse(&bytes.to_string()), Ok(bytes));
        }
    }
}
