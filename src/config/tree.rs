//! YAML text to a tree of nodes that remember their positions.
//!
//! Owns what of YAML is allowed: one document, plain names as keys; no anchors, aliases or tags, so nothing in a
//! file can expand. Knows no field of the schema, and keeps a repeated key. It works on the parser's events and not through
//! serde, because serde stops at the first problem and the reader of a broken file wants all of them.

use std::borrow::Cow;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

use super::error::{Fault, Position, Problems, excerpt, quoted};

/// Far above any configuration; bounds the recursion here and in the readers of the tree.
const DEEPEST: usize = 32;
/// Far above any configuration; bounds the memory of a tree.
const MOST_NODES: usize = 50_000;

/// The field that a problem of the text as a whole is reported under.
const YAML: &str = "yaml";

#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Position,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// Nothing, `~` or `null`.
    Null,
    Scalar(Scalar),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
    /// Something that is not allowed, already reported.
    Refused,
}

#[derive(Debug)]
pub(super) struct Scalar {
    pub(super) text: String,
    /// Written without quotes: `true` is a boolean and `1` a number.
    pub(super) plain: bool,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) at: Position,
    pub(super) value: Node,
}

/// Reads the one document of `text`. `None` after a problem that leaves no tree; other problems leave one.
pub(super) fn read(text: &str, problems: &Problems) -> Option<Node> {
    let options = granit_parser::options! {
        disallow_directives: true,
        emit_comments: false,
        emit_unresolved_aliases: true,
        flow_nesting_limit: DEEPEST,
        block_nesting_limit: DEEPEST,
    };
    let mut reader = Reader {
        // A byte order mark is no text; granit would count it as a column.
        events: Parser::new_from_str_with_options(text.strip_prefix('\u{feff}').unwrap_or(text), options),
        nodes: 0,
        problems,
    };
    reader.document().ok().flatten()
}

/// Reading cannot go on; the reason has been reported.
struct Stopped;

struct Reader<'t, 'p> {
    events: Parser<'t, StrInput<'t>>,
    nodes: usize,
    problems: &'p Problems,
}

impl<'t> Reader<'t, '_> {
    fn document(&mut self) -> Result<Option<Node>, Stopped> {
        let mut root = None;
        let mut documents = 0;
        loop {
            match self.next()? {
                (Event::StreamEnd, at) => {
                    if documents == 0 {
                        self.yaml(at, "the file is empty", "start from examples/minimal.yaml");
                    }
                    return Ok(root);
                }
                (Event::DocumentStart(..), at) => {
                    documents += 1;
                    if documents > 1 {
                        self.yaml(at, "there is a second document", "keep one document in a file");
                        return Err(Stopped);
                    }
                }
                (Event::StreamStart | Event::DocumentEnd, _) => {}
                (event, at) => root = Some(self.node(event, at)?),
            }
        }
    }

    fn node(&mut self, event: Event<'t>, at: Position) -> Result<Node, Stopped> {
        self.nodes += 1;
        if self.nodes > MOST_NODES {
            let wrong = format!("there are more than {MOST_NODES} values");
            self.yaml(at, wrong, "check that this is a configuration of edgehold");
            return Err(Stopped);
        }
        let kind = match event {
            Event::Scalar(text, style, anchor, tag) => {
                let allowed = self.allowed(at, anchor, tag.as_ref());
                allowed.unwrap_or_else(|| scalar(text, style))
            }
            Event::SequenceStart(_, anchor, tag) => {
                let allowed = self.allowed(at, anchor, tag.as_ref());
                let items = self.items()?;
                allowed.unwrap_or(Kind::Seq(items))
            }
            Event::MappingStart(_, anchor, tag) => {
                let allowed = self.allowed(at, anchor, tag.as_ref());
                let entries = self.entries()?;
                allowed.unwrap_or(Kind::Map(entries))
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.yaml(at, "aliases are not supported", "write the value out");
                Kind::Refused
            }
            _ => {
                self.yaml(at, "the document ends in the middle of a value", "complete it");
                return Err(Stopped);
            }
        };
        Ok(Node { at, kind })
    }

    /// Reports an anchor or a tag; a node with one has no value then.
    fn allowed(&mut self, at: Position, anchor: usize, tag: Option<&Cow<'_, Tag>>) -> Option<Kind> {
        if anchor != 0 {
            self.yaml(
                at,
                "anchors are not supported",
                "remove the anchor and write each value out",
            );
            return Some(Kind::Refused);
        }
        let tag = tag?;
        let wrong = format!("the tag {} is not supported", quoted(&tag.to_string()));
        self.yaml(at, wrong, "remove the tag");
        Some(Kind::Refused)
    }

    fn items(&mut self) -> Result<Vec<Node>, Stopped> {
        let mut items = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(items),
                (event, at) => items.push(self.node(event, at)?),
            }
        }
    }

    fn entries(&mut self) -> Result<Vec<Entry>, Stopped> {
        let mut entries = Vec::new();
        loop {
            let (event, at) = match self.next()? {
                (Event::MappingEnd, _) => return Ok(entries),
                key => key,
            };
            let key = self.node(event, at)?;
            let (event, value_at) = self.next()?;
            let value = self.node(event, value_at)?;
            let name = match key.kind {
                Kind::Scalar(Scalar { text, .. }) => text,
                Kind::Refused => continue,
                Kind::Null | Kind::Seq(_) | Kind::Map(_) => {
                    self.yaml(at, "a key is not a name", "write NAME: VALUE");
                    continue;
                }
            };
            entries.push(Entry { name, at, value });
        }
    }

    fn next(&mut self) -> Result<(Event<'t>, Position), Stopped> {
        match self.events.next() {
            Some(Ok((event, span))) => Ok((event, position(&span))),
            Some(Err(error)) => {
                self.syntax(&error);
                Err(Stopped)
            }
            None => {
                let end = Position { line: 1, column: 1 };
                self.yaml(end, "the document ends too early", "complete it");
                Err(Stopped)
            }
        }
    }

    fn syntax(&mut self, error: &ScanError) {
        let at = Position {
            line: error.marker().line().max(1),
            column: error.marker().col() + 1,
        };
        let wrong = format!("this is not valid YAML: {}", excerpt(&error.info()));
        self.yaml(
            at,
            wrong,
            "check the indentation, quotes and brackets here and in the line above",
        );
    }

    fn yaml(&mut self, at: Position, wrong: impl Into<String>, fix: &str) {
        self.problems.add(at, YAML, Fault::new(wrong, fix));
    }
}

fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Kind {
    let plain = style == ScalarStyle::Plain;
    if plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
        return Kind::Null;
    }
    Kind::Scalar(Scalar {
        text: text.into_owned(),
        plain,
    })
}

fn position(span: &Span) -> Position {
    Position {
        line: span.start.line().max(1),
        column: span.start.col() + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(text: &str) -> String {
        let problems = Problems::default();
        read(text, &problems);
        problems.into_errors("f").to_string()
    }

    #[test]
    fn nodes_remember_where_they_stand() {
        let problems = Problems::default();
        let root = read("# head\na:\n  - \"ü\": {b: x}\n", &problems).unwrap();
        assert!(problems.is_empty(), "{problems:?}");
        let Kind::Map(entries) = root.kind else { panic!() };
        assert_eq!(entries[0].at, Position { line: 2, column: 1 });
        let Kind::Seq(items) = &entries[0].value.kind else {
            panic!()
        };
        let Kind::Map(inner) = &items[0].kind else {
            panic!()
        };
        assert_eq!(
            (inner[0].name.as_str(), inner[0].at),
            ("ü", Position { line: 3, column: 5 })
        );
        let Kind::Map(flow) = &inner[0].value.kind else {
            panic!()
        };
        assert_eq!(flow[0].value.at, Position { line: 3, column: 14 });
    }

    #[test]
    fn a_byte_order_mark_and_carriage_returns_do_not_shift_positions() {
        assert_eq!(
            problems_of("\u{feff}&a b: 1\r\nc: *a\r\n"),
            "f:1:4: yaml: anchors are not supported; remove the anchor and write each value out\n\
             f:2:4: yaml: aliases are not supported; write the value out"
        );
    }

    #[test]
    fn what_could_expand_is_refused() {
        let bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\nd: !!str 1\n";
        let lines = problems_of(bomb);
        assert!(lines.contains("f:1:"), "{lines}");
        assert!(lines.contains("anchors are not supported"), "{lines}");
        assert!(
            lines.contains("f:3:5: yaml: aliases are not supported; write the value out"),
            "{lines}"
        );
        assert!(
            lines.contains("f:4:10: yaml: the tag `tag:yaml.org,2002:str` is not supported; remove the tag"),
            "{lines}"
        );
    }

    #[test]
    fn depth_and_count_are_bounded() {
        let deep = format!("{}{}", "[".repeat(DEEPEST + 1), "]".repeat(DEEPEST + 1));
        assert!(
            problems_of(&deep).starts_with("f:1:33: yaml: this is not valid YAML: "),
            "{}",
            problems_of(&deep)
        );
        let wide = "- x\n".repeat(MOST_NODES);
        assert!(problems_of(&wide).contains("there are more than 50000 values"));
    }

    #[test]
    fn one_document_with_named_keys_is_asked_for() {
        assert_eq!(
            problems_of("# nothing\n"),
            "f:2:1: yaml: the file is empty; start from examples/minimal.yaml"
        );
        assert_eq!(
            problems_of("a: 1\n---\nb: 2\n"),
            "f:2:1: yaml: there is a second document; keep one document in a file"
        );
        assert_eq!(
            problems_of("[x]: 1\n"),
            "f:1:1: yaml: a key is not a name; write NAME: VALUE"
        );
    }
}
