//! The header of a gzip member (RFC 1952 section 2.3), of which nothing is needed but where it ends.

use crc32fast::Hasher;

use crate::wire::WireError;

/// The flags that announce a field, and those that must not be set. The one that is left (text) says nothing here.
const CHECKSUM: u8 = 1 << 1;
const EXTRA: u8 = 1 << 2;
const NAME: u8 = 1 << 3;
const COMMENT: u8 = 1 << 4;
const RESERVED: u8 = 0b1110_0000;

const LAST_FIXED: u8 = 9;

/// A header that is read byte by byte, since it may be cut anywhere.
#[derive(Debug, Default)]
pub(super) struct Header {
    field: Field,
    /// Of the fields that are to come.
    flags: u8,
    /// Of what has been read, up to its own checksum.
    read: Hasher,
}

/// Where in a header the next byte falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    /// One of the ten bytes that each header has.
    Fixed(u8),
    /// The length of the extra field, of which the low byte may be there.
    Length(Option<u8>),
    /// So many bytes are left of the extra field.
    Extra(u16),
    /// Up to a zero: a name, or a comment.
    Text,
    /// The lower half of the checksum, of which the low byte may be there.
    Checksum(Option<u8>),
}

impl Default for Field {
    fn default() -> Self {
        Self::Fixed(0)
    }
}

impl Header {
    /// Whether a byte of it has been read.
    pub(super) fn has_begun(&self) -> bool {
        self.field != Field::Fixed(0)
    }

    /// Reads one byte; gives whether it was the last one.
    ///
    /// # Errors
    /// `Malformed`: it is no header.
    pub(super) fn read(&mut self, byte: u8) -> Result<bool, WireError> {
        if !matches!(self.field, Field::Checksum(_)) {
            self.read.update(&[byte]);
        }
        let next = match (self.field, byte) {
            (Field::Fixed(LAST_FIXED), _) => self.announced(),
            (Field::Fixed(at), byte) => {
                let is_good = match at {
                    0 => byte == 0x1f,
                    1 => byte == 0x8b,
                    2 => byte == 8, // deflate
                    3 => byte & RESERVED == 0,
                    _ => true,
                };
                if !is_good {
                    return Err(WireError::Malformed("gzip"));
                }
                if at == 3 {
                    self.flags = byte;
                }
                Some(Field::Fixed(at + 1))
            }
            (Field::Length(None), low) => Some(Field::Length(Some(low))),
            (Field::Length(Some(low)), high) => match u16::from_le_bytes([low, high]) {
                0 => self.announced(),
                length => Some(Field::Extra(length)),
            },
            (Field::Extra(1), _) | (Field::Text, 0) => self.announced(),
            (Field::Extra(left), _) => Some(Field::Extra(left - 1)),
            (Field::Text, _) => Some(Field::Text),
            (Field::Checksum(None), low) => Some(Field::Checksum(Some(low))),
            (Field::Checksum(Some(low)), high) => {
                let [a, b, ..] = self.read.clone().finalize().to_le_bytes();
                if [low, high] != [a, b] {
                    return Err(WireError::Malformed("gzip"));
                }
                None
            }
        };
        self.field = next.unwrap_or_default();
        Ok(next.is_none())
    }

    /// The next field that the flags announce, if any.
    fn announced(&mut self) -> Option<Field> {
        let fields = [
            (EXTRA, Field::Length(None)),
            (NAME, Field::Text),
            (COMMENT, Field::Text),
            (CHECKSUM, Field::Checksum(None)),
        ];
        let (flag, field) = fields.into_iter().find(|(flag, _)| self.flags & flag != 0)?;
        self.flags &= !flag;
        Some(field)
    }
}
