//! CBOR says itself what is in it (wire contract 3.7).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use minicbor::Decoder;
use minicbor::data::Type;
use serde_json::{Map, Number, Value};

use super::DEEPEST;
use crate::wire::WireError;
use crate::wire::cbor::{check_whole, members, text};

const BROKEN: WireError = WireError::Malformed("CBOR value");

/// Go's `[]byte`: to be written in Base64 where there are only texts (RFC 8949, 3.4.5.2).
const BASE64: u64 = 22;

pub(super) fn read(body: &[u8]) -> Result<Value, WireError> {
    check_whole(body)?;
    value(&mut Decoder::new(body), DEEPEST)
}

fn value(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, WireError> {
    let depth = depth.checked_sub(1).ok_or(BROKEN)?;
    Ok(match decoder.datatype()? {
        Type::Null => {
            decoder.null()?;
            Value::Null
        }
        Type::Bool => Value::Bool(decoder.bool()?),
        Type::U8 | Type::U16 | Type::U32 | Type::U64 => Value::from(decoder.u64()?),
        Type::I8 | Type::I16 | Type::I32 | Type::I64 => Value::from(decoder.i64()?),
        Type::F16 => float(half(decoder)?)?,
        Type::F32 => float(decoder.f32()?.into())?,
        Type::F64 => float(decoder.f64()?)?,
        Type::Bytes | Type::BytesIndef | Type::String | Type::StringIndef => {
            Value::String(text(decoder)?.into_owned())
        }
        Type::Array | Type::ArrayIndef => array(decoder, depth)?,
        Type::Map | Type::MapIndef => {
            let mut map = Map::new();
            members(decoder, |key, decoder| {
                map.insert(key.to_owned(), value(decoder, depth)?);
                Ok(())
            })?;
            Value::Object(map)
        }
        Type::Tag if decoder.tag()?.as_u64() == BASE64 => Value::String(STANDARD.encode(decoder.bytes()?)),
        Type::Tag => value(decoder, depth)?,
        Type::Undefined | Type::Int | Type::Simple | Type::Break | Type::Unknown(_) => return Err(BROKEN),
    })
}

fn array(decoder: &mut Decoder<'_>, depth: usize) -> Result<Value, WireError> {
    let mut left = decoder.array()?;
    let mut elements = Vec::new();
    loop {
        match &mut left {
            Some(0) => break,
            Some(left) => *left -= 1,
            None if decoder.datatype()? == Type::Break => {
                decoder.set_position(decoder.position() + 1);
                break;
            }
            None => {}
        }
        elements.push(value(decoder, depth)?);
    }
    Ok(Value::Array(elements))
}

fn float(number: f64) -> Result<Value, WireError> {
    Number::from_f64(number).map(Value::Number).ok_or(BROKEN)
}

/// A number of 16 bits (RFC 8949, appendix D).
fn half(decoder: &mut Decoder<'_>) -> Result<f64, WireError> {
    let start = decoder.position();
    decoder.skip()?;
    let encoded = decoder.input().get(start..decoder.position());
    let Some(&[_, high, low]) = encoded else {
        return Err(BROKEN);
    };
    let bits = u16::from_be_bytes([high, low]);
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction * 2_f64.powi(-24),
        31 => return Err(BROKEN),
        _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
    };
    Ok(if bits >> 15 == 1 { -magnitude } else { magnitude })
}
