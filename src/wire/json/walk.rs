//! Finds where the members of an object and the elements of an array begin and end.
//!
//! Works on values that serde_json has already accepted; on anything else it errs or cuts somewhere, but ends.

use std::borrow::Cow;
use std::ops::Range;

use super::{Scan, is_space};
use crate::wire::WireError;

const BROKEN: WireError = WireError::Malformed("JSON value");

/// One member of an object.
pub(in crate::wire) struct Member<'a> {
    pub(in crate::wire) key: Cow<'a, str>,
    /// From the key's quote to the value's end.
    pub(in crate::wire) span: Range<usize>,
    pub(in crate::wire) value: Range<usize>,
}

/// Walks the members of an object.
pub(in crate::wire) struct Walk<'a>(Walker<'a>);

impl<'a> Walk<'a> {
    pub(in crate::wire) fn of(object: &'a [u8]) -> Result<Self, WireError> {
        Walker::new(object, b'{').map(Self)
    }

    /// `None` at the end of the object.
    pub(in crate::wire) fn next(&mut self) -> Result<Option<Member<'a>>, WireError> {
        let walker = &mut self.0;
        match walker.entry()? {
            b'}' => return Ok(None),
            b'"' => {}
            _ => return Err(BROKEN),
        }
        let start = walker.at;
        walker.string()?;
        let key = walker.bytes.get(start..walker.at).ok_or(BROKEN)?;
        let key = serde_json::from_slice::<BorrowedKey<'_>>(key)
            .map_err(|_| BROKEN)?
            .0;
        walker.space();
        if walker.peek() != Some(b':') {
            return Err(BROKEN);
        }
        walker.at += 1;
        walker.space();
        let value = walker.at;
        walker.value()?;
        Ok(Some(Member {
            key,
            span: start..walker.at,
            value: value..walker.at,
        }))
    }

    /// Where the walk stands: behind the last member's value, or at the closing brace once it has ended.
    pub(in crate::wire) fn position(&self) -> usize {
        self.0.at
    }
}

/// The elements of an array.
pub(in crate::wire) fn elements(array: &[u8]) -> Result<Vec<&[u8]>, WireError> {
    let mut walker = Walker::new(array, b'[')?;
    let mut found = Vec::new();
    while walker.entry()? != b']' {
        let start = walker.at;
        walker.value()?;
        found.push(array.get(start..walker.at).ok_or(BROKEN)?);
    }
    Ok(found)
}

#[derive(serde::Deserialize)]
struct BorrowedKey<'a>(#[serde(borrow)] Cow<'a, str>);

struct Walker<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Walker<'a> {
    fn new(bytes: &'a [u8], open: u8) -> Result<Self, WireError> {
        let mut walker = Self { bytes, at: 0 };
        walker.space();
        if walker.peek() != Some(open) {
            return Err(BROKEN);
        }
        walker.at += 1;
        Ok(walker)
    }

    /// Moves to the next member or element, or to what closes the value, and gives its first byte.
    fn entry(&mut self) -> Result<u8, WireError> {
        self.space();
        if self.peek() == Some(b',') {
            self.at += 1;
            self.space();
        }
        self.peek().ok_or(BROKEN)
    }

    fn value(&mut self) -> Result<(), WireError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match rest.first() {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => self.at += Scan::default().scan(rest).ok_or(BROKEN)?,
            _ => {
                let ends = |b: &u8| matches!(b, b',' | b'}' | b']') || is_space(*b);
                let len = rest.iter().position(ends).filter(|len| *len > 0);
                self.at += len.ok_or(BROKEN)?;
            }
        }
        Ok(())
    }

    /// Moves behind a string; the current byte is its quote.
    fn string(&mut self) -> Result<(), WireError> {
        self.at += 1;
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
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
        self.bytes.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_and_elements_are_found_with_their_bounds() {
        let object = br#" { "a" : [1, {"b":"]"}] ,"\u0062":"x\"," , "c":null}"#;
        let mut members = Walk::of(object).unwrap();
        let mut found = Vec::new();
        while let Some(member) = members.next().unwrap() {
            let text = String::from_utf8(object[member.value].to_vec()).unwrap();
            found.push((member.key.into_owned(), text));
        }
        assert_eq!(
            found,
            [("a", r#"[1, {"b":"]"}]"#), ("b", r#""x\",""#), ("c", "null")]
                .map(|(k, v)| (k.into(), v.into()))
        );
        assert_eq!(members.position(), object.len() - 1);
        let array = br#"[ 1 , {"b":"]"},"," ]"#;
        let wanted: [&[u8]; 3] = [b"1", br#"{"b":"]"}"#, br#"",""#];
        assert_eq!(elements(array).unwrap(), wanted);
        assert!(elements(b"[ ]").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_object_or_array_ends_with_an_error() {
        for bytes in [
            &b""[..],
            b"{",
            b"{\"a\"",
            b"{\"a\":",
            b"{\"a\":}",
            b"{1:2}",
            b"[1",
        ] {
            let members = Walk::of(bytes).and_then(|mut members| {
                while members.next()?.is_some() {}
                Ok(())
            });
            assert!(members.is_err() && elements(bytes).is_err(), "{bytes:?}");
        }
    }
}
