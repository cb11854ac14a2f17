//! Files that hold a key and a certificate in sealed form, bound to what they are for.

use std::fmt;

use crate::runtime::aead::{self, Key};

/// A sealed file begins like this.
const HEAD: &[u8] = b"edgehold sealed 1\n";

/// Seals and opens the content of one file. A file that was sealed for another purpose does not open.
pub struct FileSeal {
    key: Key,
    purpose: String,
}

impl fmt::Debug for FileSeal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSeal")
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

impl FileSeal {
    /// With a secret key of the node.
    pub fn new(key: Key, purpose: &str) -> Self {
        Self {
            key,
            purpose: purpose.to_owned(),
        }
    }

    /// `None` only if there is no randomness.
    pub fn seal(&self, plain: &[u8]) -> Option<Vec<u8>> {
        aead::seal(&self.key, HEAD, self.purpose.as_bytes(), plain)
    }

    /// `None` if it was not sealed with this key for this purpose, or is damaged.
    pub fn open(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        aead::open(&self.key, HEAD, self.purpose.as_bytes(), sealed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_for_its_purpose_with_its_key_and_unchanged() {
        let seal = FileSeal::new([7; 32], "client a");
        let sealed = seal.seal(b"secret").unwrap();
        assert_eq!(seal.open(&sealed).unwrap(), b"secret");
        assert_ne!(seal.seal(b"secret").unwrap(), sealed, "no nonce twice");
        assert!(!sealed.windows(6).any(|part| part == b"secret"));
        assert_eq!(FileSeal::new([8; 32], "client a").open(&sealed), None);
        assert_eq!(FileSeal::new([7; 32], "client b").open(&sealed), None);
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(seal.open(&changed), None, "{at}");
            assert_eq!(seal.open(&sealed[..at]), None, "{at}");
        }
        assert!(!format!("{seal:?}").contains("7, 7"));
    }
}
