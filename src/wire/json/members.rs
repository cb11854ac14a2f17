//! Takes `kind` and `apiVersion` out of an object and puts them back, leaving every other member's bytes alone.
//!
//! Works on objects that serde_json has already accepted; on anything else it errs or cuts somewhere, but ends.

use std::borrow::Cow;
use std::ops::Range;

use super::{Scan, is_space, put_key, put_text};
use crate::wire::WireError;
use crate::wire::meta::TypeMeta;

const BROKEN: WireError = WireError::Malformed("JSON object");

/// The object without its top-level `kind` and `apiVersion`: the form of items in built-in lists.
pub(in crate::wire) fn without_types(object: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut members = Walker::new(object)?;
    let mut adjacent = false;
    while let Some(member) = members.next()? {
        match runs.last_mut() {
            Some(run) if adjacent && !member.is_type => run.end = member.span.end,
            _ if !member.is_type => runs.push(member.span),
            _ => {}
        }
        adjacent = !member.is_type;
    }
    let mut out = Vec::with_capacity(object.len());
    for run in runs {
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(object.get(run).ok_or(BROKEN)?);
    }
    if out.is_empty() {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(out)
}

/// The object with `kind` and `apiVersion` as its first two members: the form of built-in objects.
pub(in crate::wire) fn with_types(out: &mut Vec<u8>, types: &TypeMeta, item: &[u8]) {
    out.push(b'{');
    put_key(out, "kind");
    put_text(out, &types.kind);
    put_key(out, "apiVersion");
    put_text(out, &types.api_version);
    let rest = item.strip_prefix(b"{").unwrap_or(item);
    if rest.iter().find(|b| !is_space(**b)) != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(rest);
}

/// The value without line breaks: a line is one event to some clients (wire contract 3.5).
pub(in crate::wire) fn one_line(value: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', value).is_none() {
        return Cow::Borrowed(value);
    }
    let mut out = Vec::with_capacity(value.len());
    let mut in_string = false;
    let mut escaped = false;
    for byte in value {
        if in_string || !is_space(*byte) {
            out.push(*byte);
        }
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ => {}
        }
    }
    Cow::Owned(out)
}

/// One top-level member: from its key's quote to its value's end.
struct Member {
    span: Range<usize>,
    is_type: bool,
}

struct Walker<'a> {
    object: &'a [u8],
    at: usize,
}

impl<'a> Walker<'a> {
    fn new(object: &'a [u8]) -> Result<Self, WireError> {
        let mut walker = Self { object, at: 0 };
        walker.space();
        match walker.peek() {
            Some(b'{') => {
                walker.at += 1;
                Ok(walker)
            }
            _ => Err(BROKEN),
        }
    }

    fn next(&mut self) -> Result<Option<Member>, WireError> {
        self.space();
        if self.peek() == Some(b',') {
            self.at += 1;
            self.space();
        }
        match self.peek() {
            Some(b'}') => return Ok(None),
            Some(b'"') => {}
            _ => return Err(BROKEN),
        }
        let start = self.at;
        self.string()?;
        let key = self.object.get(start..self.at).ok_or(BROKEN)?;
        let is_type = match serde_json::from_slice::<Cow<'_, str>>(key) {
            Ok(key) => key == "kind" || key == "apiVersion",
            Err(_) => return Err(BROKEN),
        };
        self.space();
        if self.peek() != Some(b':') {
            return Err(BROKEN);
        }
        self.at += 1;
        self.space();
        self.value()?;
        Ok(Some(Member {
            span: start..self.at,
            is_type,
        }))
    }

    fn value(&mut self) -> Result<(), WireError> {
        let rest = self.object.get(self.at..).unwrap_or_default();
        match rest.first() {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => self.at += Scan::default().scan(rest).ok_or(BROKEN)?,
            _ => {
                let ends = |b: &u8| matches!(b, b',' | b'}' | b']') || is_space(*b);
                self.at += rest.iter().position(ends).ok_or(BROKEN)?;
            }
        }
        Ok(())
    }

    /// Moves behind a string; the current byte is its quote.
    fn string(&mut self) -> Result<(), WireError> {
        self.at += 1;
        loop {
            let rest = self.object.get(self.at..).unwrap_or_default();
            let end = memchr::memchr2(b'"', b'\\', rest).ok_or(BROKEN)?;
            if rest.get(end) == Some(&b'"') {
                self.at += end + 1;
                return Ok(());
            }
            self.at += end + 2;
        }
    }

    fn space(&mut self) {
        while self.peek().is_some_and(is_space) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.object.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bare(object: &str) -> String {
        String::from_utf8(without_types(object.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn only_the_top_level_types_go() {
        assert_eq!(
            bare(r#"{"kind":"A","apiVersion":"v1","spec":{"kind":"B"},"n":1}"#),
            r#"{"spec":{"kind":"B"},"n":1}"#
        );
        assert_eq!(
            bare(r#"{"apiVersion":"v1","a":[ 1, 2 ] , "kind":"A","z":null}"#),
            r#"{"a":[ 1, 2 ],"z":null}"#
        );
        assert_eq!(bare(r#"{"a":1,"k\u0069nd":"A"}"#), r#"{"a":1}"#);
        assert_eq!(bare(r#"{"kind":"A\"","apiVersion":"v1"}"#), "{}");
        assert_eq!(
            bare("{\n  \"kind\": \"A\",\n  \"a\": 1,\n  \"b\": 2\n}\n"),
            "{\"a\": 1,\n  \"b\": 2}"
        );
    }

    #[test]
    fn types_come_first_when_put_back() {
        let types = TypeMeta::new("v1", "A");
        let put = |item: &[u8]| {
            let mut out = Vec::new();
            with_types(&mut out, &types, item);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(put(b"{\"a\":1}"), r#"{"kind":"A","apiVersion":"v1","a":1}"#);
        assert_eq!(put(b"{ }"), r#"{"kind":"A","apiVersion":"v1" }"#);
    }

    #[test]
    fn line_breaks_go_but_strings_stay() {
        assert_eq!(&*one_line(b"{\n \"a b\\\" \": 1 }"), b"{\"a b\\\" \":1}");
        assert!(matches!(one_line(b"{ }"), Cow::Borrowed(b"{ }")));
    }
}
