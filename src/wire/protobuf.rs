//! Kubernetes protobuf: the `k8s\0` envelope, tag-length walking, and the few fields that matter.
//!
//! Field numbers are those of wire contract 3.1-3.3 and hold for every type that has a protobuf form. Unknown
//! fields are stepped over, groups do not occur. Lengths are checked against what encloses them.

use super::WireError;
use super::meta::{INITIAL_EVENTS_END, ItemMeta, ListMeta, ObjectHead, TypeMeta};

/// First bytes of every protobuf body.
pub(super) const MAGIC: [u8; 4] = *b"k8s\0";

const BROKEN: WireError = WireError::Malformed("protobuf message");

/// The value of one field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed,
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    pub(super) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            _ => Err(BROKEN),
        }
    }

    pub(super) fn text(self) -> Result<String, WireError> {
        let text = std::str::from_utf8(self.bytes()?).map_err(|_| BROKEN)?;
        Ok(text.to_owned())
    }

    pub(super) fn varint(self) -> Result<u64, WireError> {
        match self {
            Value::Varint(n) => Ok(n),
            _ => Err(BROKEN),
        }
    }
}

/// Walks the fields of one whole message.
#[derive(Debug, Clone)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    /// The next field's number and value; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, WireError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let (field, wire) = split_tag(self.varint()?)?;
        let value = match wire {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(BROKEN),
        };
        Ok(Some((field, value)))
    }

    /// Bytes of the message that are still to be walked.
    pub(super) fn left(&self) -> usize {
        self.rest.len()
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut varint = Varint::default();
        while let Some((byte, rest)) = self.rest.split_first() {
            self.rest = rest;
            if let Some(n) = varint.push(*byte)? {
                return Ok(n);
            }
        }
        Err(WireError::Truncated("a protobuf field"))
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], WireError> {
        let short = WireError::Truncated("a protobuf field");
        let len = usize::try_from(len).map_err(|_| short.clone())?;
        let (taken, rest) = self.rest.split_at_checked(len).ok_or(short)?;
        self.rest = rest;
        Ok(taken)
    }
}

/// A varint that arrives byte by byte.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Varint {
    value: u64,
    shift: u32,
}

impl Varint {
    /// `Some` when `byte` was the last one; 64 bits at most.
    pub(super) fn push(&mut self, byte: u8) -> Result<Option<u64>, WireError> {
        let bits = u64::from(byte & 0x7f);
        if self.shift > 63 || (self.shift == 63 && bits > 1) {
            return Err(BROKEN);
        }
        self.value |= bits << self.shift;
        self.shift += 7;
        if byte & 0x80 != 0 {
            return Ok(None);
        }
        Ok(Some(std::mem::take(self).value))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.shift == 0
    }

    /// How many bytes have arrived of one that is not whole.
    pub(super) fn len(&self) -> usize {
        self.shift as usize / 7
    }
}

/// Field number and wire type of a tag.
pub(super) fn split_tag(tag: u64) -> Result<(u32, u8), WireError> {
    let tag = u32::try_from(tag).map_err(|_| BROKEN)?;
    let (field, wire) = (tag >> 3, (tag & 7) as u8);
    if field == 0 {
        return Err(BROKEN);
    }
    Ok((field, wire))
}

/// `runtime.Unknown`: the envelope of every object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Unknown<'a> {
    pub(super) types: TypeMeta,
    pub(super) raw: &'a [u8],
}

/// Reads magic and envelope of a whole body.
pub(super) fn read_unknown(body: &[u8]) -> Result<Unknown<'_>, WireError> {
    let Some(message) = body.strip_prefix(&MAGIC) else {
        return Err(match MAGIC.starts_with(body) {
            true => WireError::Truncated("the protobuf envelope"),
            false => WireError::Malformed("protobuf envelope"),
        });
    };
    let mut unknown = Unknown::default();
    let mut raw = None;
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => read_types(value.bytes()?, &mut unknown.types)?,
            2 => raw = Some(value.bytes()?),
            3 | 4 => check_plain(value.bytes()?)?,
            _ => {}
        }
    }
    unknown.raw = raw.ok_or(WireError::Truncated("the protobuf envelope"))?;
    Ok(unknown)
}

/// contentEncoding and contentType: anything but empty means that raw is not a plain message.
pub(super) fn check_plain(value: &[u8]) -> Result<(), WireError> {
    match value.is_empty() {
        true => Ok(()),
        false => Err(WireError::Malformed("protobuf content encoding")),
    }
}

/// Reads `runtime.TypeMeta` into `types`; repeated messages merge.
pub(super) fn read_types(message: &[u8], types: &mut TypeMeta) -> Result<(), WireError> {
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => types.api_version = value.text()?,
            2 => types.kind = value.text()?,
            _ => {}
        }
    }
    Ok(())
}

/// Reads `metav1.ListMeta` into `meta`; repeated messages merge.
pub(super) fn read_list_meta(message: &[u8], meta: &mut ListMeta) -> Result<(), WireError> {
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            2 => meta.resource_version = value.text()?,
            3 => meta.continue_token = value.text()?,
            _ => {}
        }
    }
    Ok(())
}

/// Reads the metadata of an object's message: field 1, the last one if there are several.
pub(super) fn read_head(object: &[u8], types: TypeMeta) -> Result<ObjectHead, WireError> {
    let mut metadata = None;
    let mut fields = Fields::of(object);
    while let Some((field, value)) = fields.next()? {
        if field == 1 {
            metadata = Some(value.bytes()?);
        }
    }
    let mut head = ObjectHead {
        types,
        ..ObjectHead::default()
    };
    let mut fields = Fields::of(metadata.unwrap_or_default());
    while let Some((field, value)) = fields.next()? {
        let meta: &mut ItemMeta = &mut head.meta;
        match field {
            1 => meta.name = value.text()?,
            3 => meta.namespace = value.text()?,
            5 => meta.uid = value.text()?,
            6 => meta.resource_version = value.text()?,
            9 => {
                value.bytes()?;
                meta.deleting = true;
            }
            11 => {
                let (key, value) = read_entry(value.bytes()?)?;
                meta.labels.insert(utf8(key)?, utf8(value)?);
            }
            12 => {
                let (key, value) = read_entry(value.bytes()?)?;
                if key == INITIAL_EVENTS_END.as_bytes() {
                    head.initial_events_end = value == b"true";
                }
            }
            _ => {}
        }
    }
    Ok(head)
}

pub(super) fn read_entry(message: &[u8]) -> Result<(&[u8], &[u8]), WireError> {
    let (mut key, mut entry): (&[u8], &[u8]) = (&[], &[]);
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => key = value.bytes()?,
            2 => entry = value.bytes()?,
            _ => {}
        }
    }
    Ok((key, entry))
}

fn utf8(bytes: &[u8]) -> Result<String, WireError> {
    Value::Bytes(bytes).text()
}

/// Bytes that `n` takes as a varint.
pub(super) fn varint_len(n: u64) -> usize {
    // 7 bits a byte; the or makes zero take one.
    (63 - (n | 1).leading_zeros() as usize) / 7 + 1
}

/// Appends a varint in its shortest form.
pub(super) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n > 0x7f {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends tag and length of a length-delimited field below 16.
pub(super) fn put_len(out: &mut Vec<u8>, field: u8, len: usize) {
    out.push(field << 3 | 2);
    put_varint(out, len as u64);
}

/// Appends a length-delimited field below 16.
pub(super) fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    put_len(out, field, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends a varint field below 16.
pub(super) fn put_number(out: &mut Vec<u8>, field: u8, n: u64) {
    out.push(field << 3);
    put_varint(out, n);
}

/// Bytes of a length-delimited field below 16.
pub(super) fn field_len(len: u64) -> u64 {
    1 + varint_len(len) as u64 + len
}

/// Appends the envelope up to and including the length of raw, which must follow.
pub(super) fn put_envelope(out: &mut Vec<u8>, types: &TypeMeta, raw_len: u64) {
    out.extend_from_slice(&MAGIC);
    let mut message = Vec::with_capacity(types.api_version.len() + types.kind.len() + 8);
    put_bytes(&mut message, 1, types.api_version.as_bytes());
    put_bytes(&mut message, 2, types.kind.as_bytes());
    put_bytes(out, 1, &message);
    out.push(2 << 3 | 2);
    put_varint(out, raw_len);
}

/// What follows raw: the empty contentEncoding and contentType.
pub(super) const ENVELOPE_END: [u8; 4] = [0x1a, 0, 0x22, 0];

/// A whole body around one message.
pub(super) fn put_unknown(out: &mut Vec<u8>, types: &TypeMeta, raw: &[u8]) {
    put_envelope(out, types, raw.len() as u64);
    out.extend_from_slice(raw);
    out.extend_from_slice(&ENVELOPE_END);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn varints_survive(n in any::<u64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, n);
            prop_assert_eq!(out.len(), varint_len(n));
            let mut fields = Fields { rest: &out };
            prop_assert_eq!(fields.varint(), Ok(n));
            prop_assert!(fields.rest.is_empty());
        }
    }

    #[test]
    fn varints_end_at_64_bits() {
        let eleven = [0x80_u8; 10];
        assert!(Fields { rest: &eleven }.varint().is_err());
        let too_big = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2];
        assert!(Fields { rest: &too_big }.varint().is_err());
    }

    #[test]
    fn lengths_beyond_the_message_are_refused() {
        let mut huge = vec![0x0a];
        put_varint(&mut huge, u64::MAX);
        assert!(Fields::of(&huge).next().is_err());
        assert!(Fields::of(&[0x0b]).next().is_err(), "groups");
        assert!(Fields::of(&[0x00, 0]).next().is_err(), "field zero");
    }
}
