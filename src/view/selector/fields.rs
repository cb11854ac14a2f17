//! Field selectors: parsed as `apimachinery/pkg/fields` does, evaluated only where no schema is needed.
//!
//! Field names are per type (`spec.nodeName`, `status.phase`), so only equality of `metadata.name` and
//! `metadata.namespace` can be evaluated here.

use std::collections::BTreeSet;
use std::fmt;

use super::SelectorError;

/// A field selector: all its terms must hold. Canonical: sorted, without repetitions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldSelector {
    terms: BTreeSet<FieldTerm>,
}

/// One term of a field selector.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldTerm {
    /// The field's path, as written.
    pub field: String,
    /// How it is compared.
    pub operator: FieldOperator,
    /// The value, unescaped.
    pub value: String,
}

/// How a field is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FieldOperator {
    /// `=` and `==`.
    Equals,
    /// `!=`.
    NotEquals,
}

/// The part of a field selector that can be evaluated: what names and namespaces must equal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    names: BTreeSet<String>,
    namespaces: BTreeSet<String>,
}

impl FieldSelector {
    /// Reads the text of `fieldSelector`. The empty text selects everything.
    ///
    /// # Errors
    /// Where upstream answers 400 for any type. (It also does so for fields that the type does not support.)
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let terms = split_terms(text)
            .into_iter()
            .filter(|term| !term.is_empty())
            .map(FieldTerm::parse)
            .collect::<Result<BTreeSet<_>, _>>()?;
        // Upstream drops a term with neither field nor value, whatever its operator.
        let says = |term: &FieldTerm| !(term.field.is_empty() && term.value.is_empty());
        Ok(Self {
            terms: terms.into_iter().filter(says).collect(),
        })
    }

    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    /// The terms in canonical order.
    pub fn terms(&self) -> impl Iterator<Item = &FieldTerm> {
        self.terms.iter()
    }

    /// Takes apart what can be evaluated and the selector that remains.
    pub fn split_identity(&self) -> (Identity, Self) {
        let mut identity = Identity::default();
        let mut rest = Self::default();
        for term in &self.terms {
            match (term.field.as_str(), term.operator) {
                // What upstream makes of an empty name is the type's own business.
                _ if term.value.is_empty() => rest.terms.insert(term.clone()),
                ("metadata.name", FieldOperator::Equals) => identity.names.insert(term.value.clone()),
                ("metadata.namespace", FieldOperator::Equals) => {
                    identity.namespaces.insert(term.value.clone())
                }
                _ => rest.terms.insert(term.clone()),
            };
        }
        (identity, rest)
    }
}

impl Identity {
    /// Whether it selects everything.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty() && self.namespaces.is_empty()
    }

    /// Whether an object is selected. `namespace` is empty for a cluster-scoped one.
    pub fn matches(&self, namespace: &str, name: &str) -> bool {
        self.names.iter().all(|wanted| wanted == name) && self.namespaces.iter().all(|n| n == namespace)
    }
}

impl FieldTerm {
    fn parse(text: &str) -> Result<Self, SelectorError> {
        // The first operator splits; `!=` and `==` go before the `=` that they contain.
        let at = text
            .find(['=', '!'])
            .and_then(|first| {
                let rest = text.get(first..)?;
                // A `!` alone belongs to the field.
                let skip = rest.find("!=").into_iter().chain(rest.find('=')).min()?;
                Some(first + skip)
            })
            .ok_or(SelectorError::Syntax)?;
        let (field, rest) = text.split_at(at);
        let (operator, value) = if let Some(value) = rest.strip_prefix("!=") {
            (FieldOperator::NotEquals, value)
        } else {
            let value = rest.strip_prefix("==").or_else(|| rest.strip_prefix('='));
            (FieldOperator::Equals, value.ok_or(SelectorError::Syntax)?)
        };
        Ok(Self {
            field: field.to_owned(),
            operator,
            value: unescape(value)?,
        })
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, term) in self.terms.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            term.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for FieldTerm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let operator = match self.operator {
            FieldOperator::Equals => "=",
            FieldOperator::NotEquals => "!=",
        };
        f.write_str(&self.field)?;
        f.write_str(operator)?;
        for c in self.value.chars() {
            if matches!(c, '\\' | ',' | '=') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut escaped = false;
    text.split(|c| match c {
        _ if escaped => {
            escaped = false;
            false
        }
        '\\' => {
            escaped = true;
            false
        }
        c => c == ',',
    })
    .collect()
}

fn unescape(text: &str) -> Result<String, SelectorError> {
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => value.push(c),
                _ => return Err(SelectorError::Escape),
            },
            ',' | '=' => return Err(SelectorError::Escape),
            c => value.push(c),
        }
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> Result<String, SelectorError> {
        FieldSelector::parse(text).map(|selector| selector.to_string())
    }

    /// Accepted and written out as `apimachinery/pkg/fields` 0.34 does, but sorted by field.
    #[test]
    fn field_selectors_are_read_as_upstream_reads_them() {
        for (text, expected) in [
            ("", ""),
            ("spec.nodeName=n", "spec.nodeName=n"),
            ("spec.clusterIP!=None", "spec.clusterIP!=None"),
            ("a==b", "a=b"),
            ("b=2,,a=1,", "a=1,b=2"),
            ("a=1,a=1", "a=1"),
            (r"a=x\,y\=z\\", r"a=x\,y\=z\\"),
            (r"a=x\,b=y", ""), // the comma is data, and then the = is bare
            ("a=", "a="),
            ("=b", "=b"),
            ("a=1,=,!=", "a=1"),
            ("a!b=c", "a!b=c"),
            ("a!!=c", "a!!=c"),
            ("a = b", "a = b"),
            ("a===b", ""),
            ("a!==b", ""),
            ("a", ""),
            ("a!", ""),
            (r"a=\n", ""),
            (r"a=b\", ""),
            ("a=b=c", ""),
        ] {
            let parsed = canonical(text);
            assert_eq!(parsed.is_ok(), text.is_empty() || !expected.is_empty(), "{text}");
            assert_eq!(parsed.unwrap_or_default(), expected, "{text}");
        }
    }

    #[test]
    fn names_and_namespaces_can_be_evaluated_and_the_rest_remains() {
        let selector =
            FieldSelector::parse("metadata.namespace==ns,status.phase!=Failed,metadata.name=a").unwrap();
        let (identity, rest) = selector.split_identity();
        assert_eq!(rest.to_string(), "status.phase!=Failed");
        assert!(identity.matches("ns", "a"));
        assert!(!identity.matches("ns", "b") && !identity.matches("", "a"));
        let never = FieldSelector::parse("metadata.name=a,metadata.name=b").unwrap();
        assert!(!never.split_identity().0.matches("", "a"));
        let (identity, rest) = FieldSelector::parse("metadata.name!=a").unwrap().split_identity();
        assert!(identity.is_empty());
        assert_eq!(rest.to_string(), "metadata.name!=a");
    }

    proptest! {
        #[test]
        fn the_canonical_text_of_fields_reads_as_itself(text in r"[ab=!,\\é ]{0,12}") {
            if let Ok(selector) = FieldSelector::parse(&text) {
                let canonical = selector.to_string();
                prop_assert_eq!(FieldSelector::parse(&canonical), Ok(selector), "{}", canonical);
            }
        }
    }
}
