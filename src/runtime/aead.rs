//! AES-256-GCM for what a node keeps for itself: a value opens only with its key and in its place.
//!
//! Layout: a head that says what it is, a nonce of 12 random bytes, ciphertext and tag. With one key 2^32 values may
//! be sealed, more than a node ever does.

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// A secret key.
pub type Key = [u8; 32];

/// The sealed form of a value, bound to a place. `None` only if there is no randomness.
pub fn seal(key: &Key, head: &[u8], place: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let mut text = plain.to_vec();
    let nonce = prepared(key)?.seal_in_place_append_tag(Aad::from(place), &mut text);
    Some([head, nonce.ok()?.as_ref(), &text].concat())
}

/// `None` if it was not sealed with this head and key for this place, or is damaged.
pub fn open(key: &Key, head: &[u8], place: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, text) = sealed.strip_prefix(head)?.split_first_chunk::<NONCE_LEN>()?;
    let mut text = text.to_vec();
    let nonce = Nonce::assume_unique_for_key(*nonce);
    let opened = prepared(key)?.open_in_place(nonce, Aad::from(place), &mut text);
    let length = opened.ok()?.len();
    text.truncate(length);
    Some(text)
}

fn prepared(key: &Key) -> Option<RandomizedNonceKey> {
    RandomizedNonceKey::new(&AES_256_GCM, key).ok()
}
