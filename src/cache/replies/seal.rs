//! Seals what is kept with keys derived from the node's key, and names entries by a keyed hash.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

use crate::identity::NodeKey;
use crate::kube::media::Encoding;

/// The first byte of a sealed value.
const VERSION: u8 = 1;

/// The name of an entry within its owner's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ReplyKey(pub(super) [u8; 32]);

/// Both keys. A nonce is 96 random bits: 2^32 values may be sealed with one key, more than a node ever does.
pub(super) struct Seal {
    sealing: [u8; 32],
    naming: [u8; 32],
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seal(redacted)")
    }
}

impl Seal {
    pub(super) fn new(key: &NodeKey) -> Self {
        Self {
            sealing: blake3::derive_key("edgehold kept replies: sealing v1", key.as_bytes()),
            naming: blake3::derive_key("edgehold kept replies: naming v1", key.as_bytes()),
        }
    }

    /// The key of the answer to a request of `owner` in one encoding.
    pub(super) fn key_of(&self, owner: &str, identity: &[u8], encoding: Encoding) -> ReplyKey {
        let mut hasher = blake3::Hasher::new_keyed(&self.naming);
        for part in [owner.as_bytes(), encoding.as_str().as_bytes(), identity] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        ReplyKey(*hasher.finalize().as_bytes())
    }

    /// The sealed form: version, nonce, ciphertext and tag. `None` only if there is no randomness.
    pub(super) fn seal(&self, owner: &str, key: &ReplyKey, plain: &[u8]) -> Option<Vec<u8>> {
        let mut text = plain.to_vec();
        let nonce = self
            .aead()?
            .seal_in_place_append_tag(Aad::from(bound_to(owner, key)), &mut text)
            .ok()?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + text.len());
        sealed.push(VERSION);
        sealed.extend_from_slice(nonce.as_ref());
        sealed.append(&mut text);
        Some(sealed)
    }

    /// The content of a value that was sealed for this place with this key.
    pub(super) fn open(&self, owner: &str, key: &ReplyKey, sealed: &[u8]) -> Option<Vec<u8>> {
        let (version, rest) = sealed.split_first()?;
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>()?;
        if *version != VERSION {
            return None;
        }
        let mut text = text.to_vec();
        let plain = self
            .aead()?
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                Aad::from(bound_to(owner, key)),
                &mut text,
            )
            .ok()?
            .len();
        text.truncate(plain);
        Some(text)
    }

    fn aead(&self) -> Option<RandomizedNonceKey> {
        RandomizedNonceKey::new(&AES_256_GCM, &self.sealing).ok()
    }
}

/// A value moved to another owner or entry does not open there.
fn bound_to(owner: &str, key: &ReplyKey) -> Vec<u8> {
    [&key.0[..], owner.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_in_its_place_with_its_key_and_unchanged() {
        let seal = Seal::new(&NodeKey::from_bytes([7; 32]));
        let key = seal.key_of("cn:a", b"what", Encoding::Json);
        let sealed = seal.seal("cn:a", &key, b"secret").unwrap();
        assert_eq!(seal.open("cn:a", &key, &sealed).unwrap(), b"secret");
        assert_ne!(
            seal.seal("cn:a", &key, b"secret").unwrap(),
            sealed,
            "no nonce twice"
        );
        assert_eq!(seal.open("cn:b", &key, &sealed), None);
        let other = seal.key_of("cn:a", b"what", Encoding::Protobuf);
        assert_eq!(seal.open("cn:a", &other, &sealed), None);
        let strange = Seal::new(&NodeKey::from_bytes([8; 32]));
        assert_eq!(strange.open("cn:a", &key, &sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(seal.open("cn:a", &key, &changed), None, "{at}");
            assert_eq!(seal.open("cn:a", &key, &sealed[..at]), None, "{at}");
        }
    }

    #[test]
    fn parts_that_run_together_alike_name_different_entries() {
        let seal = Seal::new(&NodeKey::from_bytes([7; 32]));
        assert_ne!(
            seal.key_of("a", b"c", Encoding::Json),
            seal.key_of("b", b"c", Encoding::Json)
        );
        assert_ne!(
            seal.key_of("ab", b"c", Encoding::Json),
            seal.key_of("a", b"bc", Encoding::Json)
        );
        assert!(!format!("{seal:?}").contains('7'));
    }
}
