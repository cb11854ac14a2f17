//! Typed access to the tree: objects with known fields, texts, numbers, choices and lists.
//!
//! Owns the wording of the problems that every field can have (unknown, repeated, missing, wrong type or choice) and the
//! guess at what was meant. Knows no field of the schema. A reader returns `None` only after it reported a problem.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::Hash;

use super::error::{Fault, Position, Problems, excerpt, quoted};
use super::tree::{Entry, Kind, Node, Scalar};

/// A mapping whose field names have been checked.
pub(super) struct Object<'n> {
    path: String,
    at: Position,
    entries: &'n [Entry],
}

impl<'n> Object<'n> {
    /// The document itself.
    pub(super) fn root(node: &'n Node, known: &[&str], out: &mut Problems) -> Option<Self> {
        Self::open(node, String::new(), node.at, known, out)
    }

    fn open(node: &'n Node, path: String, at: Position, known: &[&str], out: &mut Problems) -> Option<Self> {
        let Kind::Map(entries) = &node.kind else {
            let named = if path.is_empty() { "yaml" } else { &path };
            wrong_type(node, named, &format!("fields ({})", known.join(", ")), out);
            return None;
        };
        for entry in entries.iter().filter(|entry| !known.contains(&&*entry.name)) {
            let wrong = format!("unknown field {}", quoted(&entry.name));
            let field = join(&path, &excerpt(&entry.name));
            out.add(
                entry.at,
                &field,
                Fault::new(wrong, suggestion(&entry.name, known)),
            );
        }
        for name in known {
            let mut same = entries.iter().filter(|entry| entry.name == *name);
            let Some(first) = same.next() else { continue };
            for again in same {
                let wrong = format!("is given twice, first in line {}", first.at.line);
                out.add(
                    again.at,
                    &join(&path, name),
                    Fault::new(wrong, "keep one of them"),
                );
            }
        }
        Some(Self { path, at, entries })
    }

    /// The field, unless it is absent or null.
    pub(super) fn get(&self, name: &str) -> Option<Field<'n>> {
        let entry = self.entries.iter().find(|entry| entry.name == name)?;
        let present = !matches!(entry.value.kind, Kind::Null);
        present.then(|| Field {
            path: join(&self.path, name),
            node: &entry.value,
        })
    }

    /// The field; reports it when it is absent or null.
    pub(super) fn required(&self, name: &str, out: &mut Problems) -> Option<Field<'n>> {
        let field = self.get(name);
        if field.is_none() {
            let empty = self.entries.iter().find(|entry| entry.name == name);
            let wrong = if empty.is_some() { "is empty" } else { "is missing" };
            let at = empty.map_or(self.at, |entry| entry.at);
            out.add(
                at,
                &join(&self.path, name),
                Fault::new(wrong, "this field is required"),
            );
        }
        field
    }
}

/// A value that is there, with its path.
pub(super) struct Field<'n> {
    path: String,
    node: &'n Node,
}

impl<'n> Field<'n> {
    /// Reports `fault` at the value.
    pub(super) fn refuse(&self, fault: Fault, out: &mut Problems) {
        out.add(self.node.at, &self.path, fault);
    }

    pub(super) fn object(&self, known: &[&str], out: &mut Problems) -> Option<Object<'n>> {
        Object::open(self.node, self.path.clone(), self.node.at, known, out)
    }

    pub(super) fn items(&self, out: &mut Problems) -> Option<Vec<Field<'n>>> {
        let Kind::Seq(items) = &self.node.kind else {
            wrong_type(self.node, &self.path, "a list", out);
            return None;
        };
        let field = |(i, node): (usize, &'n Node)| Field {
            path: format!("{}[{i}]", self.path),
            node,
        };
        Some(items.iter().enumerate().map(field).collect())
    }

    /// A text; an unquoted number or boolean is not one.
    pub(super) fn text(&self, out: &mut Problems) -> Option<&'n str> {
        let scalar = self.scalar("text", out)?;
        let other = match &*scalar.text {
            _ if !scalar.plain => None,
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Some("a boolean"),
            // Rust reads `inf` and `nan` too; in YAML they are texts.
            text if text.parse::<f64>().is_ok_and(f64::is_finite) => Some("a number"),
            _ => None,
        };
        if let Some(other) = other {
            let wrong = format!("{} is {other} where text is expected", quoted(&scalar.text));
            self.refuse(Fault::new(wrong, "put it in quotes if it is meant"), out);
            return None;
        }
        Some(&scalar.text)
    }

    /// A text that `read` understands.
    pub(super) fn parse<T>(
        &self,
        read: impl FnOnce(&str) -> Result<T, Fault>,
        out: &mut Problems,
    ) -> Option<T> {
        let text = self.text(out)?;
        self.report(read(text), out)
    }

    /// Like [`Field::parse`] for values that may also be written as a bare number: quantities and durations.
    pub(super) fn parse_amount<T>(
        &self,
        what: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
        out: &mut Problems,
    ) -> Option<T> {
        let scalar = self.scalar(what, out)?;
        self.report(read(&scalar.text), out)
    }

    /// A number, without quotes.
    pub(super) fn number(&self, out: &mut Problems) -> Option<f64> {
        let scalar = self.scalar("a number", out)?;
        let number = scalar.text.parse::<f64>().ok();
        let number = number.filter(|number| scalar.plain && number.is_finite());
        if number.is_none() {
            let wrong = format!("{} is not a number", quoted(&scalar.text));
            self.refuse(Fault::new(wrong, "write a number without quotes"), out);
        }
        number
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)], out: &mut Problems) -> Option<T> {
        // Not `text`: the answer to a boolean here is the list of choices too.
        let scalar = self.scalar("one word", out)?;
        let chosen = choices.iter().find(|(word, _)| *word == scalar.text);
        if chosen.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let wrong = format!("unknown value {}", quoted(&scalar.text));
            self.refuse(Fault::new(wrong, suggestion(&scalar.text, &words)), out);
        }
        chosen.map(|(_, value)| *value)
    }

    fn scalar(&self, expected: &str, out: &mut Problems) -> Option<&'n Scalar> {
        let Kind::Scalar(scalar) = &self.node.kind else {
            wrong_type(self.node, &self.path, expected, out);
            return None;
        };
        Some(scalar)
    }

    fn report<T>(&self, read: Result<T, Fault>, out: &mut Problems) -> Option<T> {
        match read {
            Ok(value) => Some(value),
            Err(fault) => {
                self.refuse(fault, out);
                None
            }
        }
    }
}

/// The default when the field is absent, else what `read` makes of it.
pub(super) fn or_default<'n, T>(
    field: Option<Field<'n>>,
    default: T,
    read: impl FnOnce(Field<'n>) -> Option<T>,
) -> Option<T> {
    match field {
        None => Some(default),
        Some(field) => read(field),
    }
}

/// Reports each value that an earlier field has too.
pub(super) fn refuse_repeats<T: Eq + Hash + Display>(values: &[(Field<'_>, T)], out: &mut Problems) {
    let mut first: HashMap<&T, Position> = HashMap::new();
    for (field, value) in values {
        if let Some(earlier) = first.get(value) {
            let wrong = format!(
                "{} is given twice, first in line {}",
                quoted(&value.to_string()),
                earlier.line
            );
            field.refuse(Fault::new(wrong, "keep one of them"), out);
        } else {
            first.insert(value, field.node.at);
        }
    }
}

fn wrong_type(node: &Node, path: &str, expected: &str, out: &mut Problems) {
    let found = match &node.kind {
        Kind::Null => "nothing",
        Kind::Scalar(_) => "a single value",
        Kind::Seq(_) => "a list",
        Kind::Map(_) => "fields",
        Kind::Refused => return,
    };
    let wrong = format!("has the wrong type: {found}");
    out.add(
        node.at,
        path,
        Fault::new(wrong, format!("{expected} expected here")),
    );
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// What was probably meant, else everything that is possible.
fn suggestion(given: &str, known: &[&str]) -> String {
    let plain = |text: &str| text.replace(['_', '-'], "").to_lowercase();
    let wanted = plain(given);
    // Longer texts are no typing error of ours, and the distance costs their product.
    let nearest = (given.len() <= 64)
        .then(|| {
            known
                .iter()
                .map(|name| (strsim::damerau_levenshtein(&wanted, &plain(name)), *name))
                .filter(|(distance, name)| *distance <= (name.len() / 3).max(1))
                .min_by_key(|(distance, _)| *distance)
        })
        .flatten();
    match nearest {
        Some((_, name)) => format!("did you mean `{name}`?"),
        None => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_suggested() {
        let known = ["certFile", "keyFile", "clientCAFile"];
        assert_eq!(suggestion("clientCaFile", &known), "did you mean `clientCAFile`?");
        assert_eq!(
            suggestion("client_ca_file", &known),
            "did you mean `clientCAFile`?"
        );
        assert_eq!(suggestion("keyfiel", &known), "did you mean `keyFile`?");
        assert_eq!(
            suggestion("bananas", &known),
            "known here: certFile, keyFile, clientCAFile"
        );
        assert_eq!(
            suggestion(&"k".repeat(1 << 20), &known),
            "known here: certFile, keyFile, clientCAFile"
        );
    }
}
