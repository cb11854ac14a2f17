//! Seals what is kept with keys derived from the node's key, and names entries by a keyed hash.

use std::fmt;

use crate::identity::NodeKey;
use crate::kube::media::Encoding;
use crate::runtime::aead;

/// The first byte of a sealed value.
const VERSION: u8 = 1;

/// The name of an entry within its owner's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ReplyKey(pub(super) [u8; 32]);

/// Both keys.
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

    /// The sealed form. `None` only if there is no randomness.
    pub(super) fn seal(&self, owner: &str, key: &ReplyKey, plain: &[u8]) -> Option<Vec<u8>> {
        aead::seal(&self.sealing, &[VERSION], &bound_to(owner, key), plain)
    }

    /// The content of a value that was sealed for this place with this key.
    pub(super) fn open(&self, owner: &str, key: &ReplyKey, sealed: &[u8]) -> Option<Vec<u8>> {
        aead::open(&self.sealing, &[VERSION], &bound_to(owner, key), sealed)
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
