//! A signed token in its compact form (RFC 7515, section 3.1), taken apart: header, claims and signature.
//!
//! Knows no key and verifies nothing: what comes out of here is what anybody may have written. A member that is given
//! twice is an error to the reader of it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use std::collections::BTreeMap;

/// The three parts, each base64url without padding.
pub(super) struct Jwt<'a> {
    header: &'a [u8],
    claims: &'a [u8],
    signature: &'a [u8],
    signed: &'a [u8],
}

/// What a token says of its signature.
#[derive(Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    pub(super) kid: Option<String>,
    typ: Option<String>,
    #[serde(flatten)]
    more: BTreeMap<String, IgnoredAny>,
}

impl Header {
    /// Whether it says nothing beside algorithm, key and that this is a JWT. Anything more would have to be understood:
    /// `crit`, `zip`, a nested token (`cty`), a key of its own (`jwk`, `jku`, `x5c`).
    pub(super) fn is_plain(&self) -> bool {
        let is_jwt = |typ: &str| typ.eq_ignore_ascii_case("jwt");
        self.more.is_empty() && self.typ.as_deref().is_none_or(is_jwt)
    }
}

impl<'a> Jwt<'a> {
    /// `None` for anything that has not three parts; an encrypted token has five.
    pub(super) fn split(token: &'a [u8]) -> Option<Self> {
        let mut parts = token.split(|byte| *byte == b'.');
        let (header, claims, signature) = (parts.next()?, parts.next()?, parts.next()?);
        let signed = token.get(..header.len() + 1 + claims.len())?;
        parts.next().is_none().then_some(Self {
            header,
            claims,
            signature,
            signed,
        })
    }

    pub(super) fn header(&self) -> Option<Header> {
        read(self.header)
    }

    pub(super) fn claims<T: DeserializeOwned>(&self) -> Option<T> {
        read(self.claims)
    }

    pub(super) fn signature(&self) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(self.signature).ok()
    }

    /// The text that is signed.
    pub(super) fn signed(&self) -> &'a [u8] {
        self.signed
    }
}

/// What a token says of itself, without any proof: only for one that upstream has just issued or accepted.
pub fn unverified_claims<T: DeserializeOwned>(token: &[u8]) -> Option<T> {
    let jwt = Jwt::split(token)?;
    let _is_one = jwt.header()?;
    jwt.claims()
}

fn read<T: DeserializeOwned>(part: &[u8]) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    serde_json::from_slice(&json).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn token(header: &str, claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        format!("{}.{}.{}", part(header), part(claims), part("signature"))
    }

    #[test]
    fn a_token_has_three_parts_and_the_first_two_are_signed() {
        let text = token(r#"{"alg":"ES256","kid":"k"}"#, r#"{"sub":"x"}"#);
        let jwt = Jwt::split(text.as_bytes()).unwrap();
        let header = jwt.header().unwrap();
        assert_eq!((&*header.alg, header.kid.as_deref()), ("ES256", Some("k")));
        assert_eq!(jwt.claims::<Value>().unwrap()["sub"], "x");
        assert_eq!(jwt.signature().unwrap(), b"signature");
        let (signed, _) = text.rsplit_once('.').unwrap();
        assert_eq!(jwt.signed(), signed.as_bytes());
        for other in ["", ".", "a.b", "a.b.c.d", "a.b.c.d.e"] {
            assert!(Jwt::split(other.as_bytes()).is_none(), "{other}");
        }
    }

    #[test]
    fn a_header_that_says_more_than_how_it_is_signed_is_not_plain() {
        for (header, is_plain) in [
            (r#"{"alg":"ES256"}"#, true),
            (r#"{"alg":"ES256","kid":"k","typ":"JWT"}"#, true),
            (r#"{"alg":"ES256","typ":"JOSE"}"#, false),
            (r#"{"alg":"ES256","jwk":{}}"#, false),
            (r#"{"alg":"ES256","crit":["exp"]}"#, false),
        ] {
            let text = token(header, "{}");
            let jwt = Jwt::split(text.as_bytes()).unwrap();
            assert_eq!(jwt.header().unwrap().is_plain(), is_plain, "{header}");
        }
    }

    #[test]
    fn without_a_header_there_are_no_claims() {
        assert!(unverified_claims::<Value>(token(r#"{"alg":"none"}"#, "{}").as_bytes()).is_some());
        for header in ["", "{}", "[]", r#"{"alg":5}"#, r#"{"alg":"ES256","alg":"ES256"}"#] {
            assert!(
                unverified_claims::<Value>(token(header, "{}").as_bytes()).is_none(),
                "{header}"
            );
        }
        let padded = format!("{}=.e30.c2ln", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#));
        assert!(unverified_claims::<Value>(padded.as_bytes()).is_none());
    }
}
