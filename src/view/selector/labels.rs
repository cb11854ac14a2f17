//! Label selectors: parsed, validated and evaluated as `apimachinery/pkg/labels` does.

use std::collections::BTreeSet;
use std::fmt;

use super::SelectorError;

mod parser;
#[cfg(test)]
mod tests;

/// A label selector: all its requirements must hold. Canonical: sorted, without repetitions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: BTreeSet<Requirement>,
}

/// One requirement on the label `key`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    /// `key=value` and `key==value`.
    Equals(String),
    /// `key!=value`: also true without the label.
    NotEquals(String),
    /// `key in (a,b)`.
    In(BTreeSet<String>),
    /// `key notin (a,b)`: also true without the label.
    NotIn(BTreeSet<String>),
    /// `key`.
    Exists,
    /// `!key`.
    DoesNotExist,
    /// `key>1`: the label is an integer, and greater. The text is kept as it was written.
    GreaterThan(String),
    /// `key<1`.
    LessThan(String),
}

impl LabelSelector {
    /// Reads the text of `labelSelector`. The empty text selects everything.
    ///
    /// # Errors
    /// Where upstream answers 400.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let requirements = parser::parse(text)?.into_iter().collect();
        Ok(Self { requirements })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object is selected, given its labels by key.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements
            .iter()
            .all(|requirement| requirement.test.holds(label(&requirement.key)))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        match (self, value) {
            (Self::Exists, value) => value.is_some(),
            (Self::DoesNotExist, value) => value.is_none(),
            (Self::NotEquals(_) | Self::NotIn(_), None) => true,
            (Self::Equals(_) | Self::In(_) | Self::GreaterThan(_) | Self::LessThan(_), None) => false,
            (Self::Equals(wanted), Some(value)) => wanted == value,
            (Self::NotEquals(wanted), Some(value)) => wanted != value,
            (Self::In(wanted), Some(value)) => wanted.contains(value),
            (Self::NotIn(wanted), Some(value)) => !wanted.contains(value),
            (Self::GreaterThan(bound), Some(value)) => both(value, bound).is_some_and(|(v, b)| v > b),
            (Self::LessThan(bound), Some(value)) => both(value, bound).is_some_and(|(v, b)| v < b),
        }
    }
}

fn both(value: &str, bound: &str) -> Option<(i64, i64)> {
    Some((value.parse().ok()?, bound.parse().ok()?))
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.test {
            Test::Equals(value) => write!(f, "{key}={value}"),
            Test::NotEquals(value) => write!(f, "{key}!={value}"),
            Test::In(values) => write!(f, "{key} in ({})", join(values)),
            Test::NotIn(values) => write!(f, "{key} notin ({})", join(values)),
            Test::Exists => f.write_str(key),
            Test::DoesNotExist => write!(f, "!{key}"),
            Test::GreaterThan(bound) => write!(f, "{key}>{bound}"),
            Test::LessThan(bound) => write!(f, "{key}<{bound}"),
        }
    }
}

fn join(values: &BTreeSet<String>) -> String {
    values.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}
