//! Typed access to the tree: objects and their fields, texts, numbers, choices and lists.
//!
//! Owns the wording of the problems that every field can have (unknown, repeated, missing, wrong type or choice) and the
//! guess at what was meant. Knows no field of the schema: an object's fields are those that its reader asks for, so a reader asks
//! for all of them before it gives up. What is wrong is reported and reads as what is absent; nobody gets a configuration
//! with a problem.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::error::{Fault, Position, Problems, excerpt, quoted};
use super::tree::{Entry, Kind, Node, Scalar};
use super::{duration, text};

/// A mapping, and which fields of it were asked for.
pub(super) struct Object<'n> {
    path: String,
    at: Position,
    /// `None`: there is no mapping, and that is right or has been reported.
    entries: Option<&'n [Entry]>,
    /// In the order in which they were asked for.
    known: Vec<&'static str>,
    problems: &'n Problems,
}

impl<'n> Object<'n> {
    /// The field, unless it is absent or null.
    pub(super) fn get(&mut self, name: &'static str) -> Option<Field<'n>> {
        if !self.known.contains(&name) {
            self.known.push(name);
        }
        let entry = self.entry(name)?;
        let present = !matches!(entry.value.kind, Kind::Null);
        present.then(|| Field {
            path: join(&self.path, name),
            node: &entry.value,
            problems: self.problems,
        })
    }

    /// The field; reports it when it is absent or null.
    pub(super) fn required(&mut self, name: &'static str) -> Option<Field<'n>> {
        let field = self.get(name);
        if field.is_none() && self.entries.is_some() {
            let empty = self.entry(name);
            let wrong = if empty.is_some() { "is empty" } else { "is missing" };
            let at = empty.map_or(self.at, |entry| entry.at);
            let fault = Fault::new(wrong, "this field is required");
            self.problems.add(at, &join(&self.path, name), fault);
        }
        field
    }

    /// What `read` makes of the field; without it the default.
    pub(super) fn or<T>(
        &mut self,
        name: &'static str,
        default: T,
        read: impl FnOnce(&Field<'n>) -> Option<T>,
    ) -> T {
        self.get(name).and_then(|field| read(&field)).unwrap_or(default)
    }

    /// What `read` makes of the field, if it is there.
    pub(super) fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&Field<'n>) -> Option<T>,
    ) -> Option<T> {
        read(&self.get(name)?)
    }

    /// What `read` makes of an object without which all of its fields have their defaults.
    pub(super) fn section<T>(&mut self, name: &'static str, read: impl FnOnce(&mut Object<'n>) -> T) -> T {
        match self.get(name) {
            Some(field) => field.object(read),
            None => read(&mut Object {
                path: join(&self.path, name),
                at: self.at,
                entries: None,
                known: Vec::new(),
                problems: self.problems,
            }),
        }
    }

    pub(super) fn duration(&mut self, name: &'static str, default: Duration) -> Duration {
        self.or(name, default, |field| {
            field.parse_amount("a duration like 5s", duration::parse)
        })
    }

    /// The path of a file that has to be named.
    pub(super) fn file(&mut self, name: &'static str) -> Option<PathBuf> {
        self.required(name)?.path()
    }

    fn entry(&self, name: &str) -> Option<&'n Entry> {
        self.entries?.iter().find(|entry| entry.name == name)
    }

    /// Reports the fields that were not asked for, and those that are there twice.
    fn finish(self) {
        let entries = self.entries.unwrap_or_default();
        let mut first: HashMap<&str, usize> = HashMap::new();
        for entry in entries {
            let fault = if !self.known.contains(&&*entry.name) {
                Fault::new(
                    format!("unknown field {}", quoted(&entry.name)),
                    suggestion(&entry.name, &self.known),
                )
            } else if let Some(line) = first.get(&*entry.name) {
                given_twice("is", *line)
            } else {
                first.insert(&entry.name, entry.at.line);
                continue;
            };
            let field = join(&self.path, &excerpt(&entry.name));
            self.problems.add(entry.at, &field, fault);
        }
    }
}

/// A value that is there, with its path.
pub(super) struct Field<'n> {
    path: String,
    node: &'n Node,
    problems: &'n Problems,
}

impl<'n> Field<'n> {
    /// The document itself.
    pub(super) fn root(node: &'n Node, problems: &'n Problems) -> Self {
        Self {
            path: String::new(),
            node,
            problems,
        }
    }

    /// Reports `fault` at the value.
    pub(super) fn refuse(&self, fault: Fault) {
        self.problems.add(self.node.at, &self.path, fault);
    }

    /// What `read` makes of an object. Its fields are those that it asks for.
    pub(super) fn object<T>(&self, read: impl FnOnce(&mut Object<'n>) -> T) -> T {
        let mut object = Object {
            path: self.path.clone(),
            at: self.node.at,
            entries: match &self.node.kind {
                Kind::Map(entries) => Some(entries),
                _ => None,
            },
            known: Vec::new(),
            problems: self.problems,
        };
        let value = read(&mut object);
        if object.entries.is_none() {
            self.wrong_type(&format!("fields ({})", object.known.join(", ")));
        }
        object.finish();
        value
    }

    /// A field of an object, without a word about what is wrong with it.
    pub(super) fn peek(&self, name: &str) -> Option<Field<'n>> {
        let Kind::Map(entries) = &self.node.kind else {
            return None;
        };
        let entry = entries.iter().find(|entry| entry.name == name)?;
        Some(Field {
            path: join(&self.path, name),
            node: &entry.value,
            problems: self.problems,
        })
    }

    /// A scalar as it is written, without a word about what is wrong with it.
    pub(super) fn peek_text(&self) -> Option<&'n str> {
        match &self.node.kind {
            Kind::Scalar(scalar) => Some(&scalar.text),
            _ => None,
        }
    }

    /// Items of a list, without a word about what is wrong with it.
    pub(super) fn peek_items(&self) -> Vec<Field<'n>> {
        let Kind::Seq(items) = &self.node.kind else {
            return Vec::new();
        };
        let field = |(i, node): (usize, &'n Node)| Field {
            path: format!("{}[{i}]", self.path),
            node,
            problems: self.problems,
        };
        items.iter().enumerate().map(field).collect()
    }

    pub(super) fn items(&self) -> Vec<Field<'n>> {
        if !matches!(self.node.kind, Kind::Seq(_)) {
            self.wrong_type("a list");
        }
        self.peek_items()
    }

    /// The items of a list that has some; `fix` is what to write into an empty one.
    pub(super) fn non_empty(&self, fix: &str) -> Vec<Field<'n>> {
        if matches!(&self.node.kind, Kind::Seq(items) if items.is_empty()) {
            self.refuse(Fault::new("is an empty list", format!("write {fix}")));
        }
        self.items()
    }

    /// A text; an unquoted number or boolean is not one.
    pub(super) fn text(&self) -> Option<&'n str> {
        let scalar = self.scalar("text")?;
        let other = match &*scalar.text {
            _ if !scalar.plain => None,
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Some("a boolean"),
            // Rust reads `inf` and `nan` too; in YAML they are texts.
            text if text.parse::<f64>().is_ok_and(f64::is_finite) => Some("a number"),
            _ => None,
        };
        if let Some(other) = other {
            let wrong = format!("{} is {other} where text is expected", quoted(&scalar.text));
            self.refuse(Fault::new(wrong, "put it in quotes if it is meant"));
            return None;
        }
        Some(&scalar.text)
    }

    /// A text that `read` understands.
    pub(super) fn parse<T>(&self, read: impl FnOnce(&str) -> Result<T, Fault>) -> Option<T> {
        self.report(read(self.text()?))
    }

    /// Like [`Field::parse`] for values that may also be written as a bare number: quantities and durations.
    pub(super) fn parse_amount<T>(
        &self,
        what: &str,
        read: impl FnOnce(&str) -> Result<T, Fault>,
    ) -> Option<T> {
        self.report(read(&self.scalar(what)?.text))
    }

    pub(super) fn path(&self) -> Option<PathBuf> {
        self.parse(text::path)
    }

    /// A number, without quotes.
    pub(super) fn number(&self) -> Option<f64> {
        let scalar = self.scalar("a number")?;
        let number = scalar.text.parse::<f64>().ok();
        let number = number.filter(|number| scalar.plain && number.is_finite());
        if number.is_none() {
            let wrong = format!("{} is not a number", quoted(&scalar.text));
            self.refuse(Fault::new(wrong, "write a number without quotes"));
        }
        number
    }

    /// A whole number; `range` in words, like "from 1 to 100".
    pub(super) fn whole<T: TryFrom<i64>>(
        &self,
        range: RangeInclusive<i64>,
        in_words: &str,
        fix: &str,
    ) -> Option<T> {
        let number = self.number()?;
        // Beyond the range of an i64 this is its end, and out of every other range.
        let whole = number as i64;
        let found = (number.fract() == 0.0 && range.contains(&whole)).then(|| T::try_from(whole).ok());
        let found = found.flatten();
        if found.is_none() {
            let wrong = format!("{} is not a whole number {in_words}", quoted(&number.to_string()));
            self.refuse(Fault::new(wrong, fix));
        }
        found
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Option<T> {
        // Not `text`: the answer to a boolean here is the list of choices too.
        let scalar = self.scalar("one word")?;
        let chosen = choices.iter().find(|(word, _)| *word == scalar.text);
        if chosen.is_none() {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            let wrong = format!("unknown value {}", quoted(&scalar.text));
            self.refuse(Fault::new(wrong, suggestion(&scalar.text, &words)));
        }
        chosen.map(|(_, value)| *value)
    }

    fn scalar(&self, expected: &str) -> Option<&'n Scalar> {
        let Kind::Scalar(scalar) = &self.node.kind else {
            self.wrong_type(expected);
            return None;
        };
        Some(scalar)
    }

    fn report<T>(&self, read: Result<T, Fault>) -> Option<T> {
        read.map_err(|fault| self.refuse(fault)).ok()
    }

    fn wrong_type(&self, expected: &str) {
        let found = match &self.node.kind {
            Kind::Null => "nothing",
            Kind::Scalar(_) => "a single value",
            Kind::Seq(_) => "a list",
            Kind::Map(_) => "fields",
            Kind::Refused => return,
        };
        let wrong = format!("has the wrong type: {found}");
        let path = if self.path.is_empty() { "yaml" } else { &self.path };
        let fault = Fault::new(wrong, format!("{expected} expected here"));
        self.problems.add(self.node.at, path, fault);
    }
}

/// Values of which none may be given twice.
#[derive(Default)]
pub(super) struct Distinct(HashMap<String, usize>);

impl Distinct {
    /// Reports the value if an earlier field has it too.
    pub(super) fn note(&mut self, field: &Field<'_>, value: String) {
        match self.0.get(&value) {
            Some(line) => field.refuse(given_twice(&format!("{} is", quoted(&value)), *line)),
            None => {
                self.0.insert(value, field.node.at.line);
            }
        }
    }
}

/// What `read` makes of each item of a list in which none may be given twice.
pub(super) fn distinct<T: ToString>(items: &[Field<'_>], read: impl Fn(&str) -> Result<T, Fault>) -> Vec<T> {
    let mut distinct = Distinct::default();
    let read = items.iter().filter_map(|item| {
        let value = item.parse(&read)?;
        distinct.note(item, value.to_string());
        Some(value)
    });
    read.collect()
}

fn given_twice(what: &str, line: usize) -> Fault {
    Fault::new(
        format!("{what} given twice, first in line {line}"),
        "keep one of them",
    )
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
