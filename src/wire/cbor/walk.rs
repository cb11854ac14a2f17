//! Finds where the pairs of a map and the elements of an array begin and end.

use std::ops::Range;

use super::{BROKEN, HeadReader, Skipper, read_text, untagged};
use crate::wire::WireError;

/// One pair of a map.
pub(in crate::wire) struct Member {
    pub(in crate::wire) key: String,
    /// Key and value.
    pub(in crate::wire) span: Range<usize>,
    pub(in crate::wire) value: Range<usize>,
}

/// Walks the pairs of a map that has no tags in front.
pub(in crate::wire) struct Members<'a> {
    values: Values<'a>,
    head: usize,
    count: Option<u64>,
}

impl<'a> Members<'a> {
    pub(in crate::wire) fn of(map: &'a [u8]) -> Result<Self, WireError> {
        let (count, rest) = open(map, 5)?;
        let head = map.len() - rest.len();
        let doubled = match count {
            Some(count) => Some(count.checked_mul(2).ok_or(BROKEN)?),
            None => None,
        };
        let values = Values {
            bytes: map,
            at: head,
            left: doubled,
        };
        Ok(Self { values, head, count })
    }

    /// How many pairs the map says it has; `None` if it does not.
    pub(in crate::wire) fn count(&self) -> Option<u64> {
        self.count
    }

    /// Bytes of the map's head.
    pub(in crate::wire) fn head_len(&self) -> usize {
        self.head
    }

    /// Where the walk stands: behind the last pair, once it has ended.
    pub(in crate::wire) fn position(&self) -> usize {
        self.values.at
    }

    /// `None` at the end of the map.
    pub(in crate::wire) fn next(&mut self) -> Result<Option<Member>, WireError> {
        let Some(key) = self.values.next()? else {
            return Ok(None);
        };
        let value = self.values.next()?.ok_or(BROKEN)?;
        let text = self.values.bytes.get(key.clone()).ok_or(BROKEN)?;
        Ok(Some(Member {
            key: read_text(text)?,
            span: key.start..value.end,
            value,
        }))
    }
}

/// The elements of an array; `None` if the value is none.
pub(in crate::wire) fn elements(value: &[u8]) -> Result<Option<Vec<&[u8]>>, WireError> {
    let value = untagged(value);
    if value.first().map(|first| first >> 5) != Some(4) {
        return Ok(None);
    }
    let (left, rest) = open(value, 4)?;
    let mut values = Values {
        bytes: rest,
        at: 0,
        left,
    };
    let mut found = Vec::new();
    while let Some(range) = values.next()? {
        found.push(rest.get(range).ok_or(BROKEN)?);
    }
    Ok(Some(found))
}

/// Count (`None` if indefinite) and what follows the head of a map or an array.
pub(in crate::wire) fn open(value: &[u8], major: u8) -> Result<(Option<u64>, &[u8]), WireError> {
    let mut reader = HeadReader::default();
    for (at, byte) in value.iter().enumerate() {
        if let Some(head) = reader.push(*byte)? {
            return match head.major == major {
                true => Ok((head.argument, value.get(at + 1..).unwrap_or_default())),
                false => Err(BROKEN),
            };
        }
    }
    Err(BROKEN)
}

struct Values<'a> {
    bytes: &'a [u8],
    at: usize,
    left: Option<u64>,
}

impl Values<'_> {
    fn next(&mut self) -> Result<Option<Range<usize>>, WireError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match &mut self.left {
            Some(0) => return Ok(None),
            Some(left) => *left -= 1,
            None if rest.first() == Some(&0xff) => return Ok(None),
            None => {}
        }
        let start = self.at;
        self.at += Skipper::default().feed(rest)?.ok_or(BROKEN)?;
        Ok(Some(start..self.at))
    }
}
