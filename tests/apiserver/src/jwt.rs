//! Service account tokens, signed for real with a key of the cluster's own.

use aws_lc_rs::digest;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING,
    EcdsaKeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::clock;

/// The issuer in every token and in the discovery document.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// What a service account token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountToken {
    /// Namespace of the service account.
    pub namespace: String,
    /// Name of the service account.
    pub name: String,
    /// UID of the service account; `None` takes that of the stored object.
    pub uid: Option<String>,
    /// Name and UID of the pod it is bound to.
    pub pod: Option<(String, String)>,
    /// Name and UID of the node of that pod.
    pub node: Option<(String, String)>,
    /// Audiences; empty means the API server.
    pub audiences: Vec<String>,
    /// Life in seconds from now; negative gives an expired token.
    pub expires_in: i64,
    /// Who says that it has issued it.
    pub issuer: String,
}

impl ServiceAccountToken {
    /// A token for `namespace/name`, good for a year, bound to nothing.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            uid: None,
            pod: None,
            node: None,
            audiences: Vec::new(),
            expires_in: 31_536_000,
            issuer: ISSUER.to_owned(),
        }
    }

    /// Seconds since 1970 at which it ends.
    pub(crate) fn expires(&self) -> i64 {
        clock::unix() + self.expires_in
    }

    pub(crate) fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }

    pub(crate) fn groups(&self) -> Vec<String> {
        vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{}", self.namespace),
        ]
    }

    fn claims(&self, uid: &str) -> Value {
        let now = clock::unix().min(self.expires());
        let object = |(name, uid): &(String, String)| json!({"name": name, "uid": uid});
        let mut kubernetes =
            json!({"namespace": self.namespace, "serviceaccount": {"name": self.name, "uid": uid}});
        if let Some(pod) = &self.pod {
            kubernetes["pod"] = object(pod);
            kubernetes["warnafter"] = json!(now + 3607);
        }
        if let Some(node) = &self.node {
            kubernetes["node"] = object(node);
        }
        let audiences = if self.audiences.is_empty() {
            vec![ISSUER.to_owned()]
        } else {
            self.audiences.clone()
        };
        json!({"iss": self.issuer, "sub": self.user(), "aud": audiences, "exp": self.expires(), "iat": now, "nbf": now,
            "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": kubernetes})
    }
}

/// What a key for tokens signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKey {
    /// P-256.
    Es256,
    /// P-384.
    Es384,
    /// P-521.
    Es512,
}

impl TokenKey {
    fn algorithm(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::Es512 => "ES512",
        }
    }

    fn curve(self) -> &'static str {
        match self {
            Self::Es256 => "P-256",
            Self::Es384 => "P-384",
            Self::Es512 => "P-521",
        }
    }
}

/// The cluster's keys for tokens: all are published, the last one signs.
pub(crate) struct Signers(Mutex<Vec<Signer>>);

struct Signer {
    kind: TokenKey,
    key: EcdsaKeyPair,
    kid: String,
}

impl std::fmt::Debug for Signers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Signers").field(&self.0.lock().len()).finish()
    }
}

impl Signers {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(vec![Signer::new(TokenKey::Es256)]))
    }

    /// From now on another key signs.
    pub(crate) fn rotate(&self, kind: TokenKey) {
        self.0.lock().push(Signer::new(kind));
    }

    /// `header.claims.signature`.
    pub(crate) fn sign(&self, token: &ServiceAccountToken, uid: &str) -> String {
        self.0.lock().last().expect("a key").sign(token, uid)
    }

    /// The document of `/openid/v1/jwks`.
    pub(crate) fn jwks(&self) -> Value {
        let keys: Vec<Value> = self.0.lock().iter().map(Signer::jwk).collect();
        json!({"keys": keys})
    }
}

impl Signer {
    fn new(kind: TokenKey) -> Self {
        let algorithm = match kind {
            TokenKey::Es256 => &ECDSA_P256_SHA256_FIXED_SIGNING,
            TokenKey::Es384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
            TokenKey::Es512 => &ECDSA_P521_SHA512_FIXED_SIGNING,
        };
        let key = EcdsaKeyPair::generate(algorithm).expect("key");
        let kid = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, key.public_key().as_ref()));
        Self { kind, key, kid }
    }

    fn sign(&self, token: &ServiceAccountToken, uid: &str) -> String {
        let header = json!({"alg": self.kind.algorithm(), "kid": self.kid});
        let part = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let signed = format!("{}.{}", part(&header), part(&token.claims(uid)));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .expect("signature");
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn jwk(&self) -> Value {
        // An uncompressed point: 0x04, x, y.
        let point = &self.key.public_key().as_ref()[1..];
        let (x, y) = point.split_at(point.len() / 2);
        json!({"use": "sig", "kty": "EC", "kid": self.kid, "crv": self.kind.curve(), "alg": self.kind.algorithm(),
            "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    #[test]
    fn a_token_carries_the_claims_and_its_signature_verifies_with_the_published_key() {
        let signer = Signers::new();
        let mut wanted = ServiceAccountToken::new("shop", "default");
        wanted.pod = Some(("web-0".into(), "pu".into()));
        let token = signer.sign(&wanted, "su");
        let parts: Vec<&str> = token.split('.').collect();
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
        let claims: Value = serde_json::from_slice(&decode(parts[1])).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:shop:default");
        assert_eq!(
            claims["kubernetes.io"]["pod"],
            json!({"name": "web-0", "uid": "pu"})
        );
        assert_eq!(claims["kubernetes.io"]["serviceaccount"]["uid"], "su");
        let jwks = signer.jwks();
        let coordinate = |k: &str| decode(jwks["keys"][0][k].as_str().unwrap());
        let point = [vec![4], coordinate("x"), coordinate("y")].concat();
        let signed = format!("{}.{}", parts[0], parts[1]);
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        assert!(key.verify(signed.as_bytes(), &decode(parts[2])).is_ok());
        assert!(key.verify(b"something else", &decode(parts[2])).is_err());
    }
}
