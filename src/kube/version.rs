//! Resource versions: opaque text that is comparable in the one form that Kubernetes defines.
//!
//! Source: wire contract 5.3 (`apimachinery/pkg/util/resourceversion`): decimal digits, no leading zero, not
//! `0`, any length; compared by length, then bytewise.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A resourceVersion as upstream wrote it. Never invented, never raised.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct ResourceVersion(Arc<str>);

impl ResourceVersion {
    /// Takes any non-empty text; `None` for the empty one, which means "not resumable" (metrics servers).
    pub fn new(text: &str) -> Option<Self> {
        (!text.is_empty()).then(|| Self(text.into()))
    }

    /// The text, exactly as upstream sent it.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this version has the comparable decimal form.
    pub fn is_comparable(&self) -> bool {
        !self.0.starts_with('0') && self.0.bytes().all(|b| b.is_ascii_digit())
    }

    /// The order of two versions of one resource in one cluster; `None` where either is not comparable and
    /// they differ.
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        if self.0 == other.0 {
            return Some(Ordering::Equal);
        }
        (self.is_comparable() && other.is_comparable()).then(|| {
            self.0
                .len()
                .cmp(&other.0.len())
                .then_with(|| self.0.cmp(&other.0))
        })
    }

    /// Whether this version is certainly later than `other`.
    pub fn is_after(&self, other: &Self) -> bool {
        self.compare(other) == Some(Ordering::Greater)
    }
}

impl fmt::Debug for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rv:{}", self.0)
    }
}

impl fmt::Display for ResourceVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rv(text: &str) -> ResourceVersion {
        ResourceVersion::new(text).unwrap()
    }

    #[test]
    fn versions_compare_by_length_then_bytes() {
        assert_eq!(rv("9").compare(&rv("10")), Some(Ordering::Less));
        assert_eq!(rv("10").compare(&rv("9")), Some(Ordering::Greater));
        assert_eq!(
            rv("18446744073709551616").compare(&rv("5")),
            Some(Ordering::Greater)
        );
        assert_eq!(rv("7").compare(&rv("7")), Some(Ordering::Equal));
        assert!(rv("100").is_after(&rv("99")));
    }

    #[test]
    fn other_texts_do_not_compare() {
        for bad in ["0", "01", "1a", "-1", "1.0"] {
            assert_eq!(rv(bad).compare(&rv("5")), None, "{bad}");
            assert!(!rv(bad).is_comparable(), "{bad}");
        }
        assert!(ResourceVersion::new("").is_none());
    }
}
