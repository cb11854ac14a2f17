//! Takes `kind` and `apiVersion` out of an object and puts them back, leaving every other member's bytes alone.
//!
//! Works on objects that serde_json has already accepted; on anything else it errs or cuts somewhere, but ends.

use std::borrow::Cow;
use std::ops::Range;

use super::walk::Walk;
use super::{is_space, put_key, put_text};
use crate::wire::WireError;
use crate::wire::meta::TypeMeta;

const BROKEN: WireError = WireError::Malformed("JSON object");

/// The object without its top-level `kind` and `apiVersion`: the form of items in built-in lists.
pub(in crate::wire) fn without_types(object: &[u8]) -> Result<Vec<u8>, WireError> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    let mut members = Walk::of(object)?;
    let mut adjacent = false;
    while let Some(member) = members.next()? {
        let is_type = matches!(&*member.key, "kind" | "apiVersion");
        match runs.last_mut() {
            Some(run) if adjacent && !is_type => run.end = member.span.end,
            _ if !is_type => runs.push(member.span),
            _ => {}
        }
        adjacent = !is_type;
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
