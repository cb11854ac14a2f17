//! Tokens and the documents of an issuer: any bytes are an answer, and none of them is verified without a signature.
#![no_main]

use edgehold::identity::{BearerToken, Issuer};
use libfuzzer_sys::fuzz_target;

/// The public key of RFC 7515, appendix A.3.
const KEYS: &str = r#"{"keys":[{"kty":"EC","kid":"k","crv":"P-256",
    "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

fuzz_target!(|data: &[u8]| {
    let _any = Issuer::parse(br#"{"issuer":"i"}"#, data);
    let _any = Issuer::parse(data, br#"{"keys":[]}"#);
    let Ok(issuer) = Issuer::parse(br#"{"issuer":"i"}"#, KEYS.as_bytes()) else {
        panic!("the key is good");
    };
    if let Some(token) = BearerToken::new(data.to_vec()) {
        assert!(issuer.verify(&token, &[]).is_err());
    }
});
