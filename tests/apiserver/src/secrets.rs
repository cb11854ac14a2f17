//! Every secret that a test has made, known to the whole process, so that any output can be searched for them.
//!
//! Owns the registry: bearer tokens, values of Secrets, private keys. They enter it where they are made: when a token is
//! added or shown, a pair issued, a Secret stored. A secret is known by its pieces of ten bytes, so that a truncated
//! one is found too, and a text is searched in one pass however many secrets there are. What is too short or too plain
//! to tell apart from ordinary text is not known: a test that wants to be sure makes its secrets long and random.

use std::collections::HashMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use parking_lot::RwLock;
use serde_json::Value;

/// Bytes of a piece.
const PIECE: usize = 10;

/// No more of one secret is known.
const LARGEST: usize = 4096;

/// Different bytes without which a piece may be anything (`0000000000`).
const VARIETY: usize = 5;

type Piece = [u8; PIECE];

static KNOWN: LazyLock<RwLock<HashMap<Piece, &'static str>>> = LazyLock::new(RwLock::default);

/// From now on this text must be in no output; `what` says what it is.
pub fn register(what: &'static str, secret: &str) {
    let mut known = KNOWN.write();
    for line in secret.lines().filter(|line| !line.starts_with("-----")) {
        let bytes = line.as_bytes();
        let pieces = bytes.get(..LARGEST).unwrap_or(bytes).chunks_exact(PIECE);
        for piece in pieces.filter_map(|piece| Piece::try_from(piece).ok()) {
            if is_distinctive(&piece) {
                known.insert(piece, what);
            }
        }
    }
}

/// A bearer token, also as it is hidden in a WebSocket's header.
pub fn register_token(token: &str) {
    register("a token", token);
    register("a token", &URL_SAFE_NO_PAD.encode(token));
}

/// A private key in PEM: the part of PKCS#8 that is like all others of its kind, and the public half, are no secret.
pub(crate) fn register_key(pem: &str) {
    let lines = pem.lines().filter(|line| !line.starts_with("-----"));
    let body: String = lines.collect();
    if let Some(own) = body.get(50..90) {
        register("a private key", own);
    }
}

/// The values of a Secret, as they are sent and as they are meant. Its certificates are for everybody.
pub(crate) fn register_values(object: &Value) {
    for (name, value) in object["data"].as_object().into_iter().flatten() {
        let Some(value) = value.as_str().filter(|_| !name.ends_with(".crt")) else {
            continue;
        };
        let meant = STANDARD.decode(value).ok();
        match meant.and_then(|bytes| String::from_utf8(bytes).ok()) {
            Some(key) if key.contains("PRIVATE KEY") => register_key(&key),
            Some(text) => {
                register("a Secret's value", value);
                register("a Secret's value", &text);
            }
            None => register("a Secret's value", value),
        }
    }
    for value in object["stringData"].as_object().into_iter().flatten() {
        register("a Secret's value", value.1.as_str().unwrap_or_default());
    }
}

/// What kind of secret is in a text, if there is any.
#[must_use]
pub fn found_in(text: &[u8]) -> Option<&'static str> {
    let known = KNOWN.read();
    let pieces = text
        .windows(PIECE)
        .filter_map(|piece| Piece::try_from(piece).ok());
    pieces.into_iter().find_map(|piece| known.get(&piece).copied())
}

/// Ends the process if there is a secret in what `source` has said; the text itself is not repeated.
pub fn search(source: &str, text: &[u8]) {
    let Some(what) = found_in(text) else {
        return;
    };
    let test = std::thread::current();
    let test = test.name().unwrap_or("a test").to_owned();
    // Enough to find the place, nothing of the values.
    let shown: String = String::from_utf8_lossy(text).chars().take(100).collect();
    eprintln!("LEAKED: {what} is in {source} (thread {test}): it begins with {shown:?}");
    std::process::abort();
}

fn is_distinctive(piece: &Piece) -> bool {
    let mut bytes = piece.to_vec();
    bytes.sort_unstable();
    bytes.dedup();
    bytes.len() >= VARIETY
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pki::Pki;

    fn finds(text: &str) -> bool {
        found_in(text.as_bytes()).is_some()
    }

    #[test]
    fn a_secret_is_found_whole_and_in_parts_and_an_ordinary_text_is_none() {
        register("a token", "qPz7Lw3KxVb9TmRd2HsYcJ4uNfGa");
        assert!(finds("Authorization: Bearer qPz7Lw3KxVb9TmRd2HsYcJ4uNfGa"));
        assert!(finds("token=\"qPz7Lw3KxVb9TmRd...\""), "the beginning");
        assert!(finds("...Vb9TmRd2HsYcJ4uNf..."), "the middle");
        assert!(!finds("qPz7Lw3Kx"));
        assert!(!finds("GET /api/v1/namespaces/shop/secrets/db 200"));
    }

    #[test]
    fn keys_and_values_are_known_and_their_public_parts_are_not() {
        let pair = Pki::new().client(Some("x"), &[]);
        // Whatever is issued is known.
        assert!(finds(&pair.key_pem) && !finds(&pair.cert_pem));
        let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
        assert!(!finds(&other), "another key was never made known");
        let secret = json!({"data": {"password": STANDARD.encode("Zr8-cabbage-Kd4-pickle")}});
        register_values(&secret);
        assert!(finds("Zr8-cabbage-Kd4-pickle") && finds(&STANDARD.encode("Zr8-cabbage-Kd4-pickle")));
        assert!(!finds("a pickle and a cabbage"));
    }

    #[test]
    fn what_is_too_plain_is_not_known() {
        register("a token", "0000000000000000");
        register("a token", "short");
        assert!(!finds("0000000000000000 short"));
    }
}
