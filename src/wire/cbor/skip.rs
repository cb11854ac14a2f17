//! Finds the end of a CBOR value that arrives in pieces, in one pass and without keeping bytes (RFC 8949, 3).

use super::BROKEN;
use crate::wire::WireError;

/// Nesting that no Kubernetes object reaches (Go's decoder stops at 64); bounds the memory that input can claim.
const MAX_DEPTH: usize = 512;

/// First byte and argument of a data item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::wire) struct Head {
    pub(in crate::wire) major: u8,
    /// `None` for an indefinite length, or for the break (major 7).
    pub(in crate::wire) argument: Option<u64>,
}

/// A head that arrives byte by byte.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::wire) struct HeadReader {
    first: Option<u8>,
    argument: u64,
    missing: u8,
}

impl HeadReader {
    /// `Some` when `byte` was the last one.
    pub(in crate::wire) fn push(&mut self, byte: u8) -> Result<Option<Head>, WireError> {
        let Some(first) = self.first else {
            let (major, info) = (byte >> 5, byte & 0x1f);
            let argument = match info {
                0..=23 => Some(u64::from(info)),
                24..=27 => {
                    *self = Self {
                        first: Some(byte),
                        argument: 0,
                        missing: 1 << (info - 24),
                    };
                    return Ok(None);
                }
                31 if !matches!(major, 0 | 1 | 6) => None,
                _ => return Err(BROKEN),
            };
            return Ok(Some(Head { major, argument }));
        };
        self.argument = self.argument << 8 | u64::from(byte);
        self.missing -= 1;
        if self.missing > 0 {
            return Ok(None);
        }
        let head = Head {
            major: first >> 5,
            argument: Some(self.argument),
        };
        *self = Self::default();
        Ok(Some(head))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Open {
    /// That many values are still to come.
    Values(u64),
    /// An indefinite array, or an indefinite map between two pairs or (`odd`) behind a key.
    Until { map: bool, odd: bool },
    /// The chunks of an indefinite string of this major type.
    Chunks(u8),
}

/// Where in a value the next byte falls.
#[derive(Debug, Clone, Default)]
pub(in crate::wire) struct Skipper {
    head: HeadReader,
    string_left: u64,
    tagged: bool,
    open: Vec<Open>,
}

impl Skipper {
    /// Reads on; `Some(n)` once the value ends at byte `n` of `bytes`. After `Some` it is ready for the next value.
    pub(in crate::wire) fn feed(&mut self, bytes: &[u8]) -> Result<Option<usize>, WireError> {
        let mut at = 0;
        while let Some(rest) = bytes.get(at..).filter(|rest| !rest.is_empty()) {
            let ended = if self.string_left > 0 {
                let take = self.string_left.min(rest.len() as u64);
                self.string_left -= take;
                at += take as usize;
                self.string_left == 0 && self.value_ended()
            } else {
                at += 1;
                match rest
                    .first()
                    .map(|byte| self.head.push(*byte))
                    .transpose()?
                    .flatten()
                {
                    Some(head) => self.enter(head)?,
                    None => false,
                }
            };
            if ended {
                return Ok(Some(at));
            }
        }
        Ok(None)
    }

    /// Takes a head; `true` when the whole value ends with it.
    fn enter(&mut self, head: Head) -> Result<bool, WireError> {
        let tagged = std::mem::take(&mut self.tagged);
        if let Some(Open::Chunks(major)) = self.open.last() {
            let is_chunk = head.major == *major && head.argument.is_some() && !tagged;
            if !is_chunk
                && head
                    != (Head {
                        major: 7,
                        argument: None,
                    })
            {
                return Err(BROKEN);
            }
        }
        match (head.major, head.argument) {
            (2 | 3, Some(len)) if len > 0 => self.string_left = len,
            (2 | 3, None) => self.push(Open::Chunks(head.major))?,
            (4, Some(n)) if n > 0 => self.push(Open::Values(n))?,
            (5, Some(n)) if n > 0 => self.push(Open::Values(n.checked_mul(2).ok_or(BROKEN)?))?,
            (4 | 5, None) => self.push(Open::Until {
                map: head.major == 5,
                odd: false,
            })?,
            (6, _) => self.tagged = true,
            (7, None) => match self.open.pop() {
                Some(Open::Until { odd: false, .. } | Open::Chunks(_)) if !tagged => {
                    return Ok(self.value_ended());
                }
                _ => return Err(BROKEN),
            },
            _ => return Ok(self.value_ended()),
        }
        Ok(false)
    }

    fn push(&mut self, open: Open) -> Result<(), WireError> {
        if self.open.len() >= MAX_DEPTH {
            return Err(BROKEN);
        }
        self.open.push(open);
        Ok(())
    }

    /// Counts a finished value in what encloses it; `true` when nothing does.
    fn value_ended(&mut self) -> bool {
        while let Some(open) = self.open.last_mut() {
            match open {
                Open::Values(1) => {
                    self.open.pop();
                }
                Open::Values(n) => {
                    *n -= 1;
                    return false;
                }
                Open::Until { map, odd } => {
                    *odd = *map && !*odd;
                    return false;
                }
                Open::Chunks(_) => return false,
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(bytes: &[u8]) -> Result<Option<usize>, WireError> {
        Skipper::default().feed(bytes)
    }

    #[test]
    fn ends_are_found_at_any_cut() {
        let values: [&[u8]; 9] = [
            &[0xd9, 0xd9, 0xf7, 0xa1, 0x41, b'a', 0x82, 0x01, 0xf6],
            &[0x9f, 0x9f, 0x01, 0xff, 0xbf, 0x61, b'k', 0x80, 0xff, 0xff],
            &[0x83, 0x9f, 0xff, 0x5f, 0x41, 0x00, 0x40, 0xff, 0xa0],
            &[0x7f, 0xff],
            &[0x1b, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0xfb, 0, 0, 0, 0, 0, 0, 0, 1],
            &[0x40],
            &[0x82, 0x80, 0x59, 0, 2, 0xff, 0xff],
            &[0xbf, 0x01, 0xc1, 0x02, 0xff],
        ];
        for value in values {
            for cut in 0..value.len() {
                let mut skipper = Skipper::default();
                assert_eq!(skipper.feed(&value[..cut]), Ok(None), "{value:02x?} at {cut}");
                assert_eq!(
                    skipper.feed(&value[cut..]),
                    Ok(Some(value.len() - cut)),
                    "{value:02x?} at {cut}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_well_formed_is_refused() {
        let bad: [&[u8]; 8] = [
            &[0xff],
            &[0x81, 0xff],
            &[0xbf, 0x01, 0xff],
            &[0x5f, 0x61, b'a', 0xff],
            &[0x5f, 0x5f, 0xff],
            &[0x9f, 0xc1, 0xff],
            &[0x1c],
            &[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ];
        for value in bad {
            assert!(end(value).is_err(), "{value:02x?}");
        }
        assert!(end(&vec![0x81; MAX_DEPTH + 1]).is_err());
    }
}
