//! What can be wrong with a configuration file, said in one line for each problem.
//!
//! Owns the form of the messages: `PATH:LINE:COL: FIELD: what is wrong; what to do`. Text from the file is
//! always shown escaped and shortened, so that a problem stays on its line and a terminal stays sane.

use std::cell::{Cell, RefCell};
use std::fmt;

/// Problems beyond this many are only counted: a file that is not a configuration has one on each line.
const SHOWN: usize = 100;

/// A place in the file, counted from 1; columns count characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
}

/// What is wrong with a value and what to do about it, before it is known where the value stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) wrong: String,
    pub(crate) fix: String,
}

impl Fault {
    pub(crate) fn new(wrong: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            wrong: wrong.into(),
            fix: fix.into(),
        }
    }
}

/// One problem of a configuration file. Displayed as `LINE:COL: FIELD: what is wrong; what to do`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where; `None` when the file could not be read at all.
    pub at: Option<Position>,
    /// The path of the field, for instance `clients[1].certFile`; `file` or `yaml` when it is about the whole.
    pub field: String,
    /// What is wrong.
    pub wrong: String,
    /// What the reader can do about it.
    pub fix: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{}:{}: ", at.line, at.column)?;
        }
        write!(f, "{}: {}; {}", self.field, self.wrong, self.fix)
    }
}

/// Every problem of one configuration file, in the order of the file. Never empty.
/// Displayed as one line for each problem, without a newline after the last.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    name: String,
    problems: Vec<Problem>,
    omitted: usize,
}

impl ConfigErrors {
    /// The problems in the order of the file, the first 100 of them.
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// A file that could not even be read as text.
    pub(super) fn whole_file(name: &str, fault: Fault) -> Self {
        let problems = Problems::default();
        problems.push(None, "file", fault);
        problems.into_errors(name)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            let separator = if problem.at.is_some() { ":" } else { ": " };
            write!(f, "{}{separator}{problem}", self.name)?;
        }
        if self.omitted > 0 {
            let (name, omitted) = (&self.name, self.omitted);
            write!(
                f,
                "\n{name}: file: {omitted} more problems; fix the ones above first"
            )?;
        }
        Ok(())
    }
}

/// Collects problems while a file is read, so that all of them are reported at once. Shared by all its readers.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: RefCell<Vec<Problem>>,
    omitted: Cell<usize>,
}

impl Problems {
    pub(super) fn add(&self, at: Position, field: &str, fault: Fault) {
        self.push(Some(at), field, fault);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.found.borrow().is_empty()
    }

    pub(super) fn into_errors(self, name: &str) -> ConfigErrors {
        let mut problems = self.found.into_inner();
        problems.sort_by_key(|problem| problem.at);
        ConfigErrors {
            name: one_line(name),
            problems,
            omitted: self.omitted.get(),
        }
    }

    fn push(&self, at: Option<Position>, field: &str, fault: Fault) {
        let mut found = self.found.borrow_mut();
        if found.len() >= SHOWN {
            self.omitted.set(self.omitted.get() + 1);
            return;
        }
        found.push(Problem {
            at,
            field: field.to_owned(),
            wrong: fault.wrong,
            fix: fault.fix,
        });
    }
}

/// Text of the file for a message: in backquotes, escaped, at most 60 characters.
pub(crate) fn quoted(text: &str) -> String {
    format!("`{}`", excerpt(text))
}

/// Text of the file for a message: escaped, at most 60 characters.
pub(super) fn excerpt(text: &str) -> String {
    const MOST: usize = 60;
    let mut short = one_line(&text.chars().take(MOST).collect::<String>());
    if text.chars().nth(MOST).is_some() {
        short.push_str("...");
    }
    short
}

/// The same text with everything escaped that could end a line or steer a terminal.
fn one_line(text: &str) -> String {
    // Bidirectional controls would show a reader another text than the one that is there.
    let steers = |c: char| {
        c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if steers(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_file_cannot_break_the_line() {
        assert_eq!(quoted("a\nb\u{1b}[31m\u{202e}"), "`a\\nb\\u{1b}[31m\\u{202e}`");
        assert_eq!(quoted(&"x".repeat(61)), format!("`{}...`", "x".repeat(60)));
        assert_eq!(quoted("übung"), "`übung`");
    }

    #[test]
    fn problems_beyond_the_limit_are_counted() {
        let problems = Problems::default();
        for line in (1..=SHOWN + 3).rev() {
            problems.add(
                Position { line, column: 1 },
                "a",
                Fault::new("is wrong", "fix it"),
            );
        }
        let text = problems.into_errors("f.yaml").to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), SHOWN + 1);
        assert_eq!(lines[0], "f.yaml:4:1: a: is wrong; fix it");
        assert_eq!(
            lines[SHOWN],
            "f.yaml: file: 3 more problems; fix the ones above first"
        );
    }
}
