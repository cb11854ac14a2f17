//! Tokens and the documents of an issuer: any bytes are an answer, none of them is verified but what the issuer has signed,
//! and no claims make a principal that is not a service account's or the token's own.

use std::sync::LazyLock;
use std::time::SystemTime;

use edgehold::identity::{Audiences, BearerToken, Issuer, NodeKey, PrincipalKind, TokenMemory};

use crate::Outcome;

const CONFIGURATION: &[u8] = br#"{"issuer":"i"}"#;

/// A public key; the private one was thrown away.
pub(crate) const KEYS: &str = r#"{"keys":[{"use":"sig","kty":"EC","kid":"k","crv":"P-256","alg":"ES256",
    "x":"PCy2nOVVEdwLaJt_r5FBM0DhYJEUKDS3DJPvS8X4rTQ","y":"TzJb8ssGfkvLUfRTO8Ps40qfgDDGvgOa2ORcMs7wvzU"}]}"#;

/// What it has signed last.
pub(crate) const TOKEN: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.eyJpc3MiOiJpIiwic3ViIjoic3lzdGVtOnNlcnZpY2VhY2NvdW50OnNob3A6ZGVmYXVsdCIsImF1ZCI6WyJpIl0sImV4cCI6MTgwMDAwMzYwMCwiaWF0IjoxODAwMDAwMDAwLCJuYmYiOjE4MDAwMDAwMDAsImt1YmVybmV0ZXMuaW8iOnsibmFtZXNwYWNlIjoic2hvcCIsInNlcnZpY2VhY2NvdW50Ijp7Im5hbWUiOiJkZWZhdWx0IiwidWlkIjoic3UifSwicG9kIjp7Im5hbWUiOiJ3ZWItMCIsInVpZCI6InB1In19fQ.cry2H8nYiIF0L7sI2J2Pc8WjxSxrwdnNq0yhhJzzGIf5yVmMqW0Fy634HjqasqAYBcAgupE1HFiekGkHP6ryuw";

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let issuer = Issuer::parse(CONFIGURATION, KEYS.as_bytes());
    issuer.unwrap_or_else(|error| panic!("the key is good: {error}"))
});

/// The check.
pub fn check(data: &[u8]) -> Outcome {
    let mut outcome = Outcome::Refused;
    if let Ok(issuer) = Issuer::parse(CONFIGURATION, data) {
        assert!(issuer.len() + issuer.skipped() <= data.len());
        outcome = Outcome::Accepted;
    }
    let _any = Issuer::parse(data, br#"{"keys":[]}"#);
    let Some(token) = BearerToken::new(data.to_vec()) else {
        return outcome;
    };
    let mut memory = TokenMemory::new(&NodeKey::from_bytes([7; 32]));
    let accepted = memory.accepted(&token, None, SystemTime::UNIX_EPOCH).principal;
    assert_eq!(memory.candidate(&token), accepted);
    match accepted.kind() {
        PrincipalKind::ServiceAccount { namespace, name, uid } => {
            assert!(
                [namespace, name, uid]
                    .iter()
                    .all(|part| !part.is_empty() && !part.contains(':'))
            );
        }
        PrincipalKind::Token { .. } => {}
        other => panic!("{other:?}"),
    }
    if let Ok(verified) = ISSUER.verify(&token, &Audiences::default()) {
        assert_eq!(
            token.as_bytes(),
            TOKEN.as_bytes(),
            "nothing else has a good signature"
        );
        assert_eq!(verified.principal, accepted);
        outcome = Outcome::Accepted;
    }
    outcome
}
