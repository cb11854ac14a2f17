//! Changes single fields of an object; every other byte stays as it came.
//!
//! Works in JSON, protobuf and CBOR alike: a field has a name and a number, a [`Message`] is a JSON object, a CBOR map or a
//! protobuf message. Knows no Kubernetes type; the fields come from the caller. A field that occurs twice where
//! readers would not agree on its value is refused.

mod cbor;
mod json;
mod protobuf;

use crate::kube::media::Encoding;

use super::WireError;
use super::protobuf::MAGIC;

/// What a field is called: in JSON and CBOR by its name, in protobuf by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Field {
    /// The JSON name.
    pub name: &'static str,
    /// The protobuf number.
    pub number: u32,
}

impl Field {
    /// A field by its name and number.
    pub const fn new(name: &'static str, number: u32) -> Self {
        Self { name, number }
    }
}

/// What a field is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A number.
    Number(u32),
    /// The boolean true.
    True,
    /// One message, encoded.
    Message(Vec<u8>),
    /// A list of messages, each encoded.
    Messages(Vec<Vec<u8>>),
}

/// One message in its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    encoding: Encoding,
    bytes: &'a [u8],
}

impl<'a> Message<'a> {
    /// A message: in protobuf without envelope, in the others as a whole value.
    pub fn new(encoding: Encoding, bytes: &'a [u8]) -> Self {
        Self { encoding, bytes }
    }

    /// The message of an object, or of a Status, in the body of an answer.
    ///
    /// # Errors
    /// A protobuf body without its envelope.
    pub fn of_body(encoding: Encoding, body: &'a [u8]) -> Result<Self, WireError> {
        if encoding != Encoding::Protobuf {
            return Ok(Self::new(encoding, body));
        }
        let unknown = body
            .strip_prefix(&MAGIC)
            .ok_or(WireError::Malformed("protobuf envelope"))?;
        let raw = Self::new(encoding, unknown).message(RAW)?;
        Ok(raw.unwrap_or(Self::new(encoding, b"")))
    }

    /// How it is encoded.
    pub fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Its bytes.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// A text; empty if there is none.
    ///
    /// # Errors
    /// The bytes are not as they should be, or there are several.
    pub fn text(&self, field: Field) -> Result<String, WireError> {
        let mut texts = self.texts(field)?;
        match (texts.pop(), texts.is_empty()) {
            (text, true) => Ok(text.unwrap_or_default()),
            _ => Err(WireError::Malformed("text field")),
        }
    }

    /// A list of texts; empty if there is none.
    ///
    /// # Errors
    /// The bytes are not as they should be.
    pub fn texts(&self, field: Field) -> Result<Vec<String>, WireError> {
        let values = self.values(field)?;
        values
            .into_iter()
            .map(|value| match self.encoding {
                Encoding::Json => json::text(value),
                Encoding::Protobuf => protobuf::text(value),
                Encoding::Cbor => cbor::text(value),
                Encoding::Yaml => Err(WireError::Unsupported(self.encoding)),
            })
            .collect()
    }

    /// A number; `None` if there is none.
    ///
    /// # Errors
    /// The bytes are not as they should be, or there are several.
    pub fn number(&self, field: Field) -> Result<Option<i64>, WireError> {
        if self.encoding == Encoding::Protobuf {
            return protobuf::number(self.bytes, field);
        }
        let values = self.values(field)?;
        let [value] = values.as_slice() else {
            return match values.is_empty() {
                true => Ok(None),
                false => Err(WireError::Malformed("number field")),
            };
        };
        match self.encoding {
            Encoding::Cbor => cbor::number(value).map(Some),
            _ => json::number(value).map(Some),
        }
    }

    /// A message inside this one.
    ///
    /// # Errors
    /// The bytes are not as they should be, or there are several.
    pub fn message(&self, field: Field) -> Result<Option<Message<'a>>, WireError> {
        let mut messages = self.messages(field)?;
        match (messages.pop(), messages.is_empty()) {
            (message, true) => Ok(message),
            _ => Err(WireError::Malformed("message field")),
        }
    }

    /// A list of messages; empty if there is none.
    ///
    /// # Errors
    /// The bytes are not as they should be.
    pub fn messages(&self, field: Field) -> Result<Vec<Message<'a>>, WireError> {
        let values = self.values(field)?;
        Ok(values
            .into_iter()
            .map(|bytes| Message::new(self.encoding, bytes))
            .collect())
    }

    /// The message with these fields changed, or added where they are not.
    ///
    /// # Errors
    /// The bytes are not as they should be.
    pub fn with(&self, changes: &[(Field, Value)]) -> Result<Vec<u8>, WireError> {
        match self.encoding {
            Encoding::Json => json::with(self.bytes, changes),
            Encoding::Protobuf => protobuf::with(self.bytes, changes),
            Encoding::Cbor => cbor::with(self.bytes, changes),
            Encoding::Yaml => Err(WireError::Unsupported(self.encoding)),
        }
    }

    /// The encoded value of a field, taken apart where it is a list; empty if it is absent or null.
    fn values(&self, field: Field) -> Result<Vec<&'a [u8]>, WireError> {
        match self.encoding {
            Encoding::Json => json::values(self.bytes, field),
            Encoding::Protobuf => protobuf::values(self.bytes, field),
            Encoding::Cbor => cbor::values(self.bytes, field),
            Encoding::Yaml => Err(WireError::Unsupported(self.encoding)),
        }
    }
}

/// A new message of these fields.
///
/// # Errors
/// `Unsupported` for YAML.
pub fn message(encoding: Encoding, fields: &[(Field, Value)]) -> Result<Vec<u8>, WireError> {
    let empty: &[u8] = match encoding {
        Encoding::Json | Encoding::Yaml => b"{}",
        Encoding::Protobuf => b"",
        Encoding::Cbor => &[0xa0],
    };
    Message::new(encoding, empty).with(fields)
}

/// The message of an object, and how it gets back into its envelope.
const RAW: Field = Field::new("", 2);
const EVENT_OBJECT: Field = Field::new("object", 2);
const EXTENSION_RAW: Field = Field::new("", 1);

/// What an edit makes of a message: other bytes, or `None` to leave it.
pub type Edited = Result<Option<Vec<u8>>, WireError>;

/// Changes the object in the body of an answer; `None` if `edit` leaves it.
///
/// # Errors
/// The bytes are not as they should be, or the error of `edit`.
pub fn edit_object(
    encoding: Encoding,
    body: &[u8],
    edit: &mut dyn FnMut(Message<'_>) -> Edited,
) -> Result<Option<Vec<u8>>, WireError> {
    if encoding != Encoding::Protobuf {
        return edit(Message::new(encoding, body));
    }
    let broken = WireError::Malformed("protobuf envelope");
    let unknown = Message::new(encoding, body.strip_prefix(&MAGIC).ok_or_else(|| broken.clone())?);
    let raw = unknown.message(RAW)?.ok_or(broken)?;
    let Some(edited) = edit(raw)? else {
        return Ok(None);
    };
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&unknown.with(&[(RAW, Value::Message(edited))])?);
    Ok(Some(out))
}

/// Changes the object in a watch frame; `None` if `edit` leaves it.
///
/// # Errors
/// As [`edit_object`].
pub fn edit_frame(
    encoding: Encoding,
    frame: &[u8],
    edit: &mut dyn FnMut(Message<'_>) -> Edited,
) -> Result<Option<Vec<u8>>, WireError> {
    const BROKEN: WireError = WireError::Malformed("watch event");
    if encoding != Encoding::Protobuf {
        let event = Message::new(encoding, frame);
        let object = event.message(EVENT_OBJECT)?.ok_or(BROKEN)?;
        return match edit(object)? {
            Some(edited) => event.with(&[(EVENT_OBJECT, Value::Message(edited))]).map(Some),
            None => Ok(None),
        };
    }
    let event = Message::new(encoding, frame.get(4..).ok_or(BROKEN)?);
    let extension = event.message(EVENT_OBJECT)?.ok_or(BROKEN)?;
    let object = extension.message(EXTENSION_RAW)?.ok_or(BROKEN)?;
    let Some(edited) = edit_object(encoding, object.bytes, edit)? else {
        return Ok(None);
    };
    let extension = extension.with(&[(EXTENSION_RAW, Value::Message(edited))])?;
    let event = event.with(&[(EVENT_OBJECT, Value::Message(extension))])?;
    let mut out = u32::try_from(event.len())
        .map_err(|_| BROKEN)?
        .to_be_bytes()
        .to_vec();
    out.extend_from_slice(&event);
    Ok(Some(out))
}

#[cfg(test)]
mod tests;
