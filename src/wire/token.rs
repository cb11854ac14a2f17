//! TokenRequest, as kubelet asks for a pod's token and as the apiserver answers (wire contract 3.3, 7.3, A.5).
//!
//! Only for telling whether two requests ask for the same: a field of the spec that is not known here makes the
//! request unreadable, because it might change what is asked for.

use std::fmt;

use serde::Serialize;
use serde::de::{Error as _, MapAccess};

use crate::kube::media::Encoding;

use super::json::{Members, Read, Text};
use super::meta::TypeMeta;
use super::protobuf::Fields;
use super::{WireError, cbor, json, protobuf};

const UNKNOWN: WireError = WireError::Malformed("TokenRequest: unknown field");

/// What a token is asked for. Texts are empty where unset.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct TokenSpec {
    /// Who shall accept the token; none means the API server.
    pub audiences: Vec<String>,
    /// Its life, if the request says.
    pub expiration_seconds: Option<i64>,
    /// The object with whose life it ends.
    pub bound: Option<BoundObject>,
}

/// `boundObjectRef`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize)]
pub struct BoundObject {
    /// `Pod`, `Node` or `Secret`.
    pub kind: String,
    /// `v1`.
    pub api_version: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// A TokenRequest, sent or answered.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct TokenRequest {
    /// What is asked for, as this body says it: the apiserver answers with its defaults filled in.
    pub spec: TokenSpec,
    /// `status.token`; empty in a request. A secret.
    pub token: String,
}

impl fmt::Debug for TokenRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenRequest")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

/// Reads a whole body.
///
/// # Errors
/// What is wrong with the bytes; `Malformed` for another kind and for a spec with fields that are not known here;
/// `Unsupported` for YAML.
pub fn read_token_request(encoding: Encoding, body: &[u8]) -> Result<TokenRequest, WireError> {
    let (types, request) = match encoding {
        Encoding::Yaml => return Err(WireError::Unsupported(encoding)),
        Encoding::Json => {
            let read = json::read_exact::<Whole>(body, "TokenRequest")?;
            (read.types, read.request)
        }
        Encoding::Protobuf => {
            let unknown = protobuf::read_unknown(body)?;
            (unknown.types, of_protobuf(unknown.raw)?)
        }
        Encoding::Cbor => of_cbor(body)?,
    };
    let group = types.api_version.split_once('/').map(|(group, _)| group);
    if types.kind != "TokenRequest" || group != Some("authentication.k8s.io") {
        return Err(WireError::Malformed("TokenRequest: another kind"));
    }
    Ok(request)
}

/// Repeated messages merge, as in Go.
fn of_protobuf(message: &[u8]) -> Result<TokenRequest, WireError> {
    let mut request = TokenRequest::default();
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            2 => protobuf_spec(value.bytes()?, &mut request.spec)?,
            3 => {
                let mut status = Fields::of(value.bytes()?);
                while let Some((field, value)) = status.next()? {
                    if field == 1 {
                        request.token = value.text()?;
                    }
                }
            }
            _ => {}
        }
    }
    Ok(request)
}

fn protobuf_spec(message: &[u8], spec: &mut TokenSpec) -> Result<(), WireError> {
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => spec.audiences.push(value.text()?),
            3 => {
                let bound = spec.bound.get_or_insert_default();
                let mut fields = Fields::of(value.bytes()?);
                while let Some((field, value)) = fields.next()? {
                    match field {
                        1 => bound.kind = value.text()?,
                        2 => bound.api_version = value.text()?,
                        3 => bound.name = value.text()?,
                        4 => bound.uid = value.text()?,
                        _ => return Err(UNKNOWN),
                    }
                }
            }
            4 => spec.expiration_seconds = Some(value.varint()?.cast_signed()),
            _ => return Err(UNKNOWN),
        }
    }
    Ok(())
}

fn of_cbor(body: &[u8]) -> Result<(TypeMeta, TokenRequest), WireError> {
    cbor::check_whole(body)?;
    let (mut types, mut request) = (TypeMeta::default(), TokenRequest::default());
    cbor::members(&mut minicbor::Decoder::new(body), |key, value| {
        match key {
            "kind" => types.kind = cbor::text(value)?.into_owned(),
            "apiVersion" => types.api_version = cbor::text(value)?.into_owned(),
            "spec" => cbor_spec(value, &mut request.spec)?,
            "status" => cbor::members(value, |key, value| {
                match key {
                    "token" => request.token = cbor::text(value)?.into_owned(),
                    _ => value.skip()?,
                }
                Ok(())
            })?,
            _ => value.skip()?,
        }
        Ok(())
    })?;
    Ok((types, request))
}

fn cbor_spec(value: &mut minicbor::Decoder<'_>, spec: &mut TokenSpec) -> Result<(), WireError> {
    use minicbor::data::Type;
    cbor::members(value, |key, value| {
        match (key, value.datatype()?) {
            ("audiences" | "expirationSeconds" | "boundObjectRef", Type::Null) => value.null()?,
            ("audiences", _) => {
                // An array of unknown length is not how Kubernetes writes one.
                let count = value.array()?.ok_or(UNKNOWN)?;
                for _ in 0..count {
                    spec.audiences.push(cbor::text(value)?.into_owned());
                }
            }
            ("expirationSeconds", _) => spec.expiration_seconds = Some(value.i64()?),
            ("boundObjectRef", _) => {
                let bound = spec.bound.get_or_insert_default();
                cbor::members(value, |key, value| {
                    let field = match key {
                        "kind" => &mut bound.kind,
                        "apiVersion" => &mut bound.api_version,
                        "name" => &mut bound.name,
                        "uid" => &mut bound.uid,
                        _ => return Err(UNKNOWN),
                    };
                    *field = cbor::text(value)?.into_owned();
                    Ok(())
                })?;
            }
            _ => return Err(UNKNOWN),
        }
        Ok(())
    })
}

/// A body in JSON. What is repeated is refused: readers differ in what it means.
#[derive(Default)]
struct Whole {
    types: TypeMeta,
    request: TokenRequest,
    seen: Vec<String>,
}

impl<'de> Members<'de> for Whole {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        once(&mut self.seen, key)?;
        match key {
            "apiVersion" => self.types.api_version = text(map)?,
            "kind" => self.types.kind = text(map)?,
            "spec" => self.request.spec = map.next_value::<Read<Spec>>()?.0.spec,
            "status" => self.request.token = map.next_value::<Read<Status>>()?.0.token,
            _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
        }
        Ok(())
    }
}

#[derive(Default)]
struct Spec {
    spec: TokenSpec,
    seen: Vec<String>,
}

impl<'de> Members<'de> for Spec {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        once(&mut self.seen, key)?;
        match key {
            "audiences" => self.spec.audiences = map.next_value::<Option<Vec<String>>>()?.unwrap_or_default(),
            "expirationSeconds" => self.spec.expiration_seconds = map.next_value()?,
            "boundObjectRef" => {
                let bound = map.next_value::<Option<Read<Bound>>>()?;
                self.spec.bound = bound.map(|read| read.0.bound);
            }
            _ => return Err(A::Error::custom("unknown field")),
        }
        Ok(())
    }
}

#[derive(Default)]
struct Bound {
    bound: BoundObject,
    seen: Vec<String>,
}

impl<'de> Members<'de> for Bound {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        once(&mut self.seen, key)?;
        let field = match key {
            "kind" => &mut self.bound.kind,
            "apiVersion" => &mut self.bound.api_version,
            "name" => &mut self.bound.name,
            "uid" => &mut self.bound.uid,
            _ => return Err(A::Error::custom("unknown field")),
        };
        *field = text(map)?;
        Ok(())
    }
}

#[derive(Default)]
struct Status {
    token: String,
    seen: Vec<String>,
}

impl<'de> Members<'de> for Status {
    fn member<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        once(&mut self.seen, key)?;
        match key {
            "token" => self.token = text(map)?,
            _ => drop(map.next_value::<serde::de::IgnoredAny>()?),
        }
        Ok(())
    }
}

fn text<'de, A: MapAccess<'de>>(map: &mut A) -> Result<String, A::Error> {
    Ok(map.next_value::<Text<'de>>()?.0.into_owned())
}

fn once<E: serde::de::Error>(seen: &mut Vec<String>, key: &str) -> Result<(), E> {
    if seen.iter().any(|known| known == key) {
        return Err(E::custom("repeated member"));
    }
    seen.push(key.to_owned());
    Ok(())
}

#[cfg(test)]
mod tests;
