//! The public keys of an issuer (RFC 7517), and what is signed with them.
//!
//! Invariant: a key has one algorithm, that of its kind; nothing that a token says changes it.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// What Kubernetes signs with, by the kind of the key: `algorithmForPublicKey` and `signerFrom...` of
/// `pkg/serviceaccount/jwt.go`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Rs256,
    Es256,
    Es384,
    Es512,
}

impl Algorithm {
    /// As `alg` has it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }
}

/// A public key for signatures.
pub(super) struct Key {
    algorithm: Algorithm,
    key: ParsedPublicKey,
}

impl Key {
    /// Reads a JSON Web Key: its id, and the key. `None` for a key of another kind or use, one without an id, and for
    /// what is none.
    pub(super) fn read(json: &str) -> Option<(String, Self)> {
        let jwk: Jwk = serde_json::from_str(json).ok()?;
        let id = jwk.kid.clone().filter(|id| !id.is_empty())?;
        let key = jwk.key()?;
        let is = |own: &Option<String>, expected: &str| own.as_deref().is_none_or(|own| own == expected);
        (is(&jwk.usage, "sig") && is(&jwk.alg, key.algorithm.as_str())).then_some((id, key))
    }

    pub(super) fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Whether the signature of this text is by this key.
    pub(super) fn has_signed(&self, text: &[u8], signature: &[u8]) -> bool {
        self.key.verify_sig(text, signature).is_ok()
    }
}

/// The members that matter of a key that is published.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

impl Jwk {
    fn key(&self) -> Option<Key> {
        let (algorithm, key) = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => {
                let components = RsaPublicKeyComponents {
                    n: bytes(self.n.as_ref())?,
                    e: bytes(self.e.as_ref())?,
                };
                let key = components.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256);
                (Algorithm::Rs256, key)
            }
            ("EC", Some("P-256")) => (
                Algorithm::Es256,
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.point()?),
            ),
            ("EC", Some("P-384")) => (
                Algorithm::Es384,
                ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, self.point()?),
            ),
            ("EC", Some("P-521")) => (
                Algorithm::Es512,
                ParsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, self.point()?),
            ),
            _ => return None,
        };
        Some(Key {
            algorithm,
            key: key.ok()?,
        })
    }

    /// Uncompressed (SEC 1, section 2.3.3): both coordinates have the length of the field.
    fn point(&self) -> Option<Vec<u8>> {
        let (x, y) = (bytes(self.x.as_ref())?, bytes(self.y.as_ref())?);
        (x.len() == y.len()).then(|| [&[4], x.as_slice(), &y].concat())
    }
}

fn bytes(text: Option<&String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}
